"""The symmetric network: one set of parameters that parses a sentence into propositions and generates it back.

    parse      words -> convolutions, attention -> rules ->  meaning -> places read it in order -> entity, relation, value
    generate   propositions -> laid out along the sentence -> rules inverted -> convolutions, attention -> words

Both directions share the symbol table (tied in and out), the positions and the reversible rules. Every parameter has a leading slot
axis K; K = 1 is the ordinary model. Nothing here is recurrent, and nothing depends on what the neighbouring slots do.

Letters of the axes: K slots, B sentences, T tokens, P places for propositions, 3 roles, S symbols, D hidden_dim, R rules, L lengths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from model.config import ModelShape
from model.layers import (
    ABSENT,
    Parameters,
    apply_rules,
    attend,
    attention_specs,
    convolution_specs,
    convolve,
    invert_rules,
    linear,
    match,
    normalise,
    offset,
    read_from,
    rule_specs,
    weight,
)
from model.parameters import ParameterSpec
from model.vocabulary import PAD, UNKNOWN, Vocabulary

MASKED_SITES = 8
REACH = 6
WINDOW = 2 * REACH + 1
"""How far from a place's own token its reads are told apart by distance, in tokens."""


class Parsed(NamedTuple):
    """What parsing gives: the state of each role at each place, before the symbol table, and whether the place is filled."""

    roles_KBP3D: Tensor
    presence_KBP: Tensor
    looks_KBP4T: Tensor
    """The scores by which a place chose its tokens: by the count, for its entity, its relation and its value."""
    count_KBT: Tensor
    """How many propositions each token carries."""

    def halves(self) -> tuple[Parsed, Parsed]:
        """The first and the second half of the sentences."""
        first, second = zip(*(part.chunk(2, dim=1) for part in self), strict=True)
        return Parsed(*first), Parsed(*second)


class Generated(NamedTuple):
    """What generating gives: the state at each token, before the symbol table, and scores for the sentence's length."""

    words_KBTD: Tensor
    length_KBL: Tensor


@dataclass(frozen=True)
class Conditions:
    """What a pass needs to know of its trials: the rules they use and this step's dropout masks (None: no dropout)."""

    rules_KR: Tensor
    keep_KSBD: Tensor | None = None

    def keep(self, site: int) -> Tensor | None:
        """The mask of one place in the network, `keep_KB1D`: a feature is dropped for the whole sentence."""
        return None if self.keep_KSBD is None else self.keep_KSBD[:, site, :, None]


def dropout_masks(chances_KN: Tensor, rate_K: Tensor, sentences: int, dim: int) -> Tensor:
    """This step's masks for all places of the network, `keep_KSBD`: 0 with probability `rate` (below 1), else 1 / (1 - rate)."""
    kept_KN = chances_KN >= rate_K.to(chances_KN.dtype)[:, None]
    return (kept_KN / (1 - rate_K)[:, None]).view(-1, MASKED_SITES, sentences, dim)


class SymmetricNetwork:
    """The computation; it owns no numbers. Every method takes the parameters of all slots."""

    def __init__(self, shape: ModelShape, vocabulary: Vocabulary, max_tokens: int, device: torch.device) -> None:
        self.shape, self.symbols, self.max_tokens = shape, len(vocabulary), max_tokens
        self.endings = len(vocabulary.endings)
        bases = torch.tensor(vocabulary.symbol_bases(), device=device)
        self._base_S, self._has_base_S1 = bases, (bases != PAD)[:, None]
        self._ending_S = torch.tensor(vocabulary.symbol_endings(), device=device)
        self.scale = math.sqrt(shape.hidden_dim)

    def specs(self) -> list[ParameterSpec]:
        """Every parameter of one slot."""
        dim, places, tokens = self.shape.hidden_dim, self.shape.max_propositions, self.max_tokens
        shared = [
            ParameterSpec("symbols", (self.symbols, dim), std=1 / self.scale),
            ParameterSpec("endings", (self.endings, dim), std=0.5 / self.scale),
            ParameterSpec("positions", (tokens, dim), std=0.1),
            offset("word_bias", self.symbols),
            offset("role_bias", self.symbols),
            *rule_specs("rules", dim, self.shape.max_rules),
        ]
        parse = [
            *convolution_specs("parse.near", dim),
            *attention_specs("parse.far", dim),
            *convolution_specs("parse.again", dim),
            *(weight("parse.count", dim, 1, 0.3), offset("parse.count_bias", 1, mean=-1.5)),
            *(weight("parse.place_value", dim, dim), weight("parse.block", 8, dim)),
            *convolution_specs("parse.neighbours", dim),
            *(weight("parse.presence", dim, 1, 0.1), offset("parse.slope", 1, mean=2.0)),
            *(weight("parse.query", dim, 2 * dim), weight("parse.key", dim, dim), weight("parse.value", dim, dim)),
            *(weight("parse.value_query", 3 * dim, dim), weight("parse.same", 3 * dim, 1, 0.3), offset("parse.same_bias", 1)),
            *(weight("parse.role", dim, 3 * dim), offset("parse.role_bias", 3 * dim), weight("parse.read", dim, dim)),
            *(weight("parse.steps", dim, 2 * WINDOW, 0.3), weight("parse.value_steps", 3 * dim, WINDOW, 0.3)),
            *(weight("parse.copy", dim, 3, 0.3), offset("parse.copy_bias", 3)),
            *(offset("parse.sharpness", 1, mean=1.5), offset("parse.nearness", 3, mean=0.5)),
        ]
        generate = [
            *(
                weight("generate.in", 3 * dim, 2 * dim),
                offset("generate.in_bias", 2 * dim),
                weight("generate.state", 2 * dim, dim),
            ),
            ParameterSpec("generate.places", (places, dim), std=0.3),
            *convolution_specs("generate.neighbours", dim),
            *(weight("generate.length", dim, tokens + 1, 0.3), offset("generate.length_bias", tokens + 1)),
            *(weight("generate.span", dim, 1, 0.3), offset("generate.span_bias", 1, mean=0.5)),
            ParameterSpec("generate.lengths", (tokens + 1, dim), std=0.3),
            *(weight("generate.query", dim, dim), weight("generate.key", dim, dim), weight("generate.value", dim, dim)),
            *convolution_specs("generate.near", dim),
            *attention_specs("generate.far", dim),
            *convolution_specs("generate.again", dim),
            *(weight("generate.item_query", dim, dim), weight("generate.item_key", dim, dim)),
            ParameterSpec("generate.roles", (3, dim), std=0.3),
            *(weight("generate.word", dim, dim), weight("generate.copy", dim, 1, 0.3), offset("generate.copy_bias", 1)),
            *(offset("generate.sharpness", 2, mean=-2.0),),
        ]
        return shared + parse + generate

    def with_tables(self, p: Parameters) -> dict[str, Tensor]:
        """The parameters with `table_KSD`, the vectors of all symbols, and `inputs`, which goes on with unknown words by ending.

        A symbol's vector is its own plus those of its ending and of its base form, so rare words start from what similar ones mean.
        """
        base = p["symbols"].index_select(1, self._base_S) * self._has_base_S1
        table = p["symbols"] + p["endings"].index_select(1, self._ending_S) + base
        unknown = p["symbols"][:, UNKNOWN : UNKNOWN + 1] + p["endings"]
        return {**p, "table": table, "inputs": torch.cat((table, unknown), dim=1)}

    def embed(self, p: Parameters, ids_KBx: Tensor) -> Tensor:
        """Input ids as vectors of about unit variance: `ids_K...` to `vectors_K...D`."""
        inputs = p["inputs"]
        slots, symbols, dim = inputs.shape
        start_K = torch.arange(slots, device=ids_KBx.device) * symbols
        rows = ids_KBx + start_K.view(-1, *(1,) * (ids_KBx.dim() - 1))
        return functional.embedding(rows, inputs.view(slots * symbols, dim)) * self.scale

    def hide(self, tokens: Tensor) -> Tensor:
        """The tokens as unknown words without a known base form are read: only their endings remain."""
        return self.symbols + self._ending_S[tokens]

    def bases(self, tokens: Tensor) -> Tensor:
        """The symbol of each token's base form, PAD where it has none or the token is unknown."""
        return self._base_S[torch.where(tokens < self.symbols, tokens, PAD)]

    def scores(self, p: Parameters, states_KMD: Tensor, bias: str) -> Tensor:
        """Scores over the symbol table, `scores_KMS`; `bias` is `word_bias` or `role_bias`."""
        return torch.baddbmm(p[bias][:, None], states_KMD, p["table"].transpose(1, 2))

    def parse(
        self,
        p: Parameters,
        words_KBTD: Tensor,
        mask_KBT: Tensor,
        conditions: Conditions,
        places: int,
        seen_KBTD: Tensor | None = None,
    ) -> Parsed:
        """Reads a sentence (embedded words, hard or soft) into the first `places` places; presence is scored for all places.

        With `seen_KBTD` given, the sentence is understood from these words (some of them hidden) while `words_KBTD` are copied from.
        """
        meaning = self._understand(p, words_KBTD if seen_KBTD is None else seen_KBTD, mask_KBT, conditions)
        u = normalise(meaning)
        near_KBPT, block_KBP8, count_KBT = self._count_out(p, u, mask_KBT)
        state = read_from(near_KBPT, linear(u, p["parse.place_value"])) + linear(block_KBP8, p["parse.block"])
        state = convolve(p, "parse.neighbours", state, None, conditions.keep(3))
        s = normalise(state)
        slope_K = functional.softplus(p["parse.slope"])[:, :, None]
        presence_KBP = linear(s, p["parse.presence"]).squeeze(-1) + slope_K * (count_KBT.sum(-1, keepdim=True) - self._places(u))
        roles, looks = self._read_roles(p, s[:, :, :places], u, words_KBTD, near_KBPT[:, :, :places])
        return Parsed(roles, presence_KBP, looks, count_KBT)

    def _places(self, like: Tensor) -> Tensor:
        return torch.arange(self.shape.max_propositions, device=like.device, dtype=like.dtype) + 0.5

    def _count_out(self, p: Parameters, u_KBTD: Tensor, mask_KBT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How many propositions each token carries, and from that which tokens each place reads.

        Place p reads the token whose block of the running count covers p + 1/2: a soft monotonic alignment in the spirit of
        continuous integrate-and-fire (Dong and Xu 2020). Returns scores `near_KBPT`, where in its token's block each place
        lies (`block_KBP8`: four bumps from the block's start, four from its end), and the counts `count_KBT`.
        """
        count_KBT = functional.softplus(linear(u_KBTD, p["parse.count"], p["parse.count_bias"])).squeeze(-1) * mask_KBT
        end_KBT = count_KBT.cumsum(-1)
        place_P1 = self._places(u_KBTD)[:, None]
        sharp_K = functional.softplus(p["parse.sharpness"])[:, :, None, None]
        near_KBPT = (count_KBT + 1e-6).log()[:, :, None] - sharp_K * ((end_KBT - count_KBT / 2)[:, :, None] - place_P1).square()
        near_KBPT = near_KBPT + ((1 - mask_KBT) * ABSENT)[:, :, None]
        edges_KBP2 = read_from(near_KBPT, torch.stack((end_KBT - count_KBT, end_KBT), dim=-1))
        inside_KBP2 = torch.cat((place_P1 - edges_KBP2[..., :1], edges_KBP2[..., 1:] - place_P1), dim=-1)
        bumps_4 = torch.arange(4, device=u_KBTD.device, dtype=u_KBTD.dtype) + 0.5
        block_KBP8 = torch.exp(-2 * (inside_KBP2[..., None] - bumps_4).square()).flatten(3)
        return near_KBPT, block_KBP8, count_KBT

    def _understand(self, p: Parameters, words_KBTD: Tensor, mask_KBT: Tensor, conditions: Conditions) -> Tensor:
        tokens = words_KBTD.shape[2]
        mask_KBT1 = mask_KBT[..., None]
        x = words_KBTD + p["positions"][:, None, :tokens]
        keep = conditions.keep(0)
        x = (x if keep is None else x * keep) * mask_KBT1
        x = convolve(p, "parse.near", x, mask_KBT1, conditions.keep(1))
        x = attend(p, "parse.far", x, (1 - mask_KBT) * ABSENT, conditions.keep(2))
        x = convolve(p, "parse.again", x, mask_KBT1, None)
        return apply_rules(p, "rules", x, conditions.rules_KR)

    def _read_roles(self, p: Parameters, s_KBPD: Tensor, u_KBTD: Tensor, words_KBTD: Tensor, near_KBPT: Tensor) -> tuple[Tensor, Tensor]:
        """Each place looks for its entity and relation, then, knowing these, for its value, and copies from the words it finds.

        A token is found by what it is and by how far it lies from the place's own token. Copying reads the words' own vectors, so that a
        word is named that was hardly ever seen (See et al. 2017, softly). The value may also take over the entity, as it does in every
        `type`. Returns `roles_KBP3D` and `looks_KBP4T`.
        """
        slots, sentences, places, dim = s_KBPD.shape
        keys = linear(u_KBTD, p["parse.key"])
        values = torch.cat((linear(u_KBTD, p["parse.value"]), words_KBTD), -1)
        near_KBP3T = p["parse.nearness"][:, None, None, :, None] * near_KBPT[:, :, :, None].clamp(min=-30.0)
        absent_KB11T = near_KBPT[:, :, :1, None].clamp(max=ABSENT / 2) - ABSENT / 2
        around_KBPTW = functional.pad(torch.softmax(near_KBPT, -1), (REACH, REACH)).unfold(-1, WINDOW, 1)

        def look(queries: Tensor, steps: Tensor, roles: slice) -> tuple[Tensor, Tensor, Tensor]:
            count = queries.shape[3]
            scores = match(queries.view(slots, sentences, places * count, dim), keys).view(slots, sentences, places, count, -1)
            far = torch.matmul(steps.view(slots, sentences, places, count, WINDOW), around_KBPTW.transpose(-1, -2))
            scores = scores + far + near_KBP3T[:, :, :, roles] + absent_KB11T
            read = read_from(scores.view(slots, sentences, places * count, -1), values)
            found, copied = read.view(slots, sentences, places, count, 2 * dim).chunk(2, dim=-1)
            return linear(found, p["parse.read"]), copied, scores

        gate_KBP41 = 2 * torch.sigmoid(linear(s_KBPD, p["parse.copy"], p["parse.copy_bias"]))[..., None]
        start = linear(s_KBPD, p["parse.role"], p["parse.role_bias"]).view(slots, sentences, places, 3, dim)
        queries = linear(s_KBPD, p["parse.query"]).view(slots, sentences, places, 2, dim)
        found, copied, first_looks = look(queries, linear(s_KBPD, p["parse.steps"]), slice(0, 2))
        first_two = normalise(start[..., :2, :] + found) + gate_KBP41[..., :2, :] * copied
        known = torch.cat((s_KBPD, first_two.flatten(3)), dim=-1)
        queries = linear(known, p["parse.value_query"])[..., None, :]
        found, copied, value_look = look(queries, linear(known, p["parse.value_steps"]), slice(2, 3))
        same = 2 * torch.sigmoid(linear(known, p["parse.same"], p["parse.same_bias"]))[..., None]
        value = normalise(start[..., 2:, :] + found) + gate_KBP41[..., 2:, :] * copied + same * first_two[..., :1, :]
        looks_KBP4T = torch.cat((near_KBPT[:, :, :, None], first_looks, value_look), dim=3)
        return torch.cat((first_two, value), dim=3), looks_KBP4T

    def generate(
        self, p: Parameters, items_KBP3D: Tensor, presence_KBP: Tensor, length_KB: Tensor, tokens: int, conditions: Conditions
    ) -> Generated:
        """Writes `tokens` words from propositions (embedded, hard or soft) whose presence lies between 0 and 1.

        `length_KB` is the sentence's length in tokens; None of its places beyond that length is meant to be read.
        """
        state = self._gather(p, items_KBP3D, presence_KBP, conditions)
        m = normalise(state) * presence_KBP[..., None]
        length_scores = linear(m.sum(2) * 0.5, p["generate.length"], p["generate.length_bias"])
        text, distance_KBTP, absent_KB1P = self._lay_out(p, m, presence_KBP, length_KB, tokens)
        text = invert_rules(p, "rules", text, conditions.rules_KR)
        position_T = torch.arange(tokens, device=length_KB.device)
        mask_KBT = (position_T < length_KB[..., None]).to(text.dtype)
        text = convolve(p, "generate.near", text, mask_KBT[..., None], conditions.keep(5))
        text = attend(p, "generate.far", text, (1 - mask_KBT) * ABSENT, conditions.keep(6))
        text = convolve(p, "generate.again", text, mask_KBT[..., None], None)
        return Generated(self._write(p, normalise(text), items_KBP3D, distance_KBTP, absent_KB1P), length_scores)

    def _gather(self, p: Parameters, items_KBP3D: Tensor, presence_KBP: Tensor, conditions: Conditions) -> Tensor:
        """One state a proposition, knowing its neighbours."""
        slots, sentences, places, _, dim = items_KBP3D.shape
        joined = items_KBP3D.reshape(slots, sentences, places, 3 * dim)
        hidden = functional.gelu(linear(joined, p["generate.in"], p["generate.in_bias"]))
        state = linear(hidden, p["generate.state"]) + p["generate.places"][:, None, :places]
        return convolve(p, "generate.neighbours", state, presence_KBP[..., None], conditions.keep(4))

    def _lay_out(
        self, p: Parameters, m_KBPD: Tensor, presence_KBP: Tensor, length_KB: Tensor, tokens: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gives every proposition a span of the sentence, in order, and every token the propositions near it."""
        span_KBP = functional.softplus(linear(m_KBPD, p["generate.span"], p["generate.span_bias"])).squeeze(-1) * presence_KBP
        total_KB1 = span_KBP.sum(-1, keepdim=True).clamp(min=1e-6)
        centre_KBP = (span_KBP.cumsum(-1) - span_KBP / 2) / total_KB1 * length_KB[..., None]
        position_T = torch.arange(tokens, device=m_KBPD.device, dtype=m_KBPD.dtype) + 0.5
        distance_KBTP = (position_T[:, None] - centre_KBP[:, :, None]).square()
        absent_KB1P = presence_KBP.clamp(min=1e-9).log()[:, :, None]
        slots = m_KBPD.shape[0]
        length_rows = length_KB + torch.arange(slots, device=length_KB.device)[:, None] * (self.max_tokens + 1)
        lengths = functional.embedding(length_rows, p["generate.lengths"].reshape(slots * (self.max_tokens + 1), -1))
        text = p["positions"][:, None, :tokens] + lengths[:, :, None]
        sharp_K = functional.softplus(p["generate.sharpness"])[:, 0, None, None, None]
        scores = match(linear(text, p["generate.query"]), linear(m_KBPD, p["generate.key"]))
        read = read_from(scores - sharp_K * distance_KBTP + absent_KB1P, linear(m_KBPD, p["generate.value"]))
        return text + read, distance_KBTP, absent_KB1P

    def _write(self, p: Parameters, u_KBTD: Tensor, items_KBP3D: Tensor, distance_KBTP: Tensor, absent_KB1P: Tensor) -> Tensor:
        """Each token looks for an item of a proposition and copies from it what it needs."""
        slots, sentences, places, _, dim = items_KBP3D.shape
        items = items_KBP3D.reshape(slots, sentences, places * 3, dim)
        keys = linear((items_KBP3D + p["generate.roles"][:, None, None]).view(items.shape), p["generate.item_key"])
        sharp_K = functional.softplus(p["generate.sharpness"])[:, 1, None, None, None]
        near_KBTP = absent_KB1P - sharp_K * distance_KBTP
        tokens = u_KBTD.shape[2]
        near = near_KBTP[..., None].expand(-1, -1, -1, -1, 3).reshape(slots, sentences, tokens, places * 3)
        copied = read_from(match(linear(u_KBTD, p["generate.item_query"]), keys) + near, items)
        gate = torch.sigmoid(linear(u_KBTD, p["generate.copy"], p["generate.copy_bias"]))
        return normalise(linear(u_KBTD, p["generate.word"])) + 2 * gate * copied
