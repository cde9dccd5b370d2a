"""The symmetric network: one set of parameters that parses a sentence into propositions and generates it back.

    parse      words -> convolutions -> rules -> meaning -> how many propositions each token carries -> entity, relation, value
    generate   propositions -> how far they lie apart -> along the sentence -> rules inverted -> convolutions -> words

Both directions share the symbol table (tied in and out), the layout between them and the reversible rules. Every parameter has a leading
slot axis K; K = 1 is the ordinary model. Nothing here is recurrent, and nothing depends on what the neighbouring slots do.

Letters of the axes: K slots, B sentences, T tokens, P places for propositions, Q places and the end, 3 roles, S symbols, D hidden_dim,
R rules, C counts, G gaps.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from model.config import ModelShape
from model.layers import (
    Parameters,
    absent,
    apply_rules,
    convolution_specs,
    convolve,
    invert_rules,
    linear,
    lookup,
    match,
    normalise,
    offset,
    read_from,
    rule_specs,
    turn,
    weight,
)
from model.layout import REACH, Layout, inside_rows, lay_out, places_of_counts, places_of_gaps
from model.parameters import ParameterSpec
from model.vocabulary import PAD, UNKNOWN, Vocabulary

MASKED_SITES = 6
TWICE = ("generate.", "rules.")
"""Parameters of these parts are used in both generating passes of a step; see `ParameterSpec`."""
CONVOLUTIONS = ("first", "second")
NEVER_NAMED = -3.0
"""Initial role bias, in nats, of symbols that occur in no proposition of train, most of them inflected words."""
LOOK = 6
"""A place's attention tells the distances from its own token apart up to this many tokens either way; the last stands for all beyond."""
WINDOW = 2 * LOOK + 1


class Understood(NamedTuple):
    """An encoded sentence: the layer-normalised state of each token, and scores (logits) for how many propositions it carries."""

    meaning_KBTD: Tensor
    counts_KBTC: Tensor


class Parsed(NamedTuple):
    """The parser's output: the state of each role at each place, not yet scored against the symbol table, and the scores behind it."""

    roles_KBP3D: Tensor
    looks_KBP3T: Tensor
    """The attention scores of each place over the tokens, one set for each role."""
    counts_KBTC: Tensor
    """Scores for how many propositions each token carries."""


@dataclass(frozen=True)
class Conditions:
    """What a forward pass takes from its training step: the trials' dropout masks (None: no dropout), S here the dropout sites."""

    keep_KSBD: Tensor | None = None

    def keep(self, site: int) -> Tensor | None:
        """The mask of one dropout site, `keep_KB1D`: a feature is dropped all along the sentence."""
        return None if self.keep_KSBD is None else self.keep_KSBD[:, site, :, None]

    def twice(self) -> Conditions:
        """For the same sentences twice over."""
        return Conditions(None if self.keep_KSBD is None else self.keep_KSBD.repeat(1, 1, 2, 1))


NO_DROPOUT = Conditions()


def dropout_masks(chances_xKN: Tensor, rate_K: Tensor) -> Tensor:
    """Inverted dropout: 0 with probability `rate` (below 1), else 1 / (1 - rate), from uniform numbers in [0, 1)."""
    rate_K1 = rate_K[:, None]
    return (chances_xKN >= rate_K1.to(chances_xKN.dtype)) / (1 - rate_K1)


class SymmetricNetwork:
    """The forward computation. It holds no trainable parameters: its methods are given those of all slots."""

    def __init__(self, shape: ModelShape, vocabulary: Vocabulary, max_tokens: int, device: torch.device) -> None:
        self.shape, self.symbols, self.max_tokens = shape, len(vocabulary), max_tokens
        self.endings = len(vocabulary.endings)
        self.counts = shape.max_propositions + 1
        bases = torch.tensor(vocabulary.symbol_bases(), device=device)
        self._base_S, self._has_base_S1 = bases, (bases != PAD)[:, None]
        self._ending_S = torch.tensor(vocabulary.symbol_endings(), device=device)
        self._verb_S = torch.tensor(vocabulary.symbol_verbs(), device=device)
        self._is_verb_S = torch.zeros(self.symbols, dtype=torch.bool, device=device)
        self._is_verb_S[self._verb_S] = True
        self._is_verb_S[PAD] = False
        self.scale = math.sqrt(shape.hidden_dim)
        self._role_start = tuple(0.0 if named else NEVER_NAMED for named in vocabulary.named)
        self.convolutions = [*(f"{way}.{name}" for way in ("parse", "generate") for name in CONVOLUTIONS), "generate.neighbours"]
        self._held_starts: dict[tuple[int, int, int], Tensor] = {}

    def specs(self) -> list[ParameterSpec]:
        """Every parameter of one slot."""
        dim, tokens = self.shape.hidden_dim, self.max_tokens
        shared = [
            ParameterSpec("symbols", (self.symbols, dim), std=1 / self.scale),
            ParameterSpec("endings", (self.endings, dim), std=0.5 / self.scale),
            *(offset("word_bias", self.symbols), offset("role_bias", self.symbols, mean=self._role_start)),
            *rule_specs("rules", dim, self.shape.max_rules),
        ]
        parse = [
            ParameterSpec("parse.positions", (tokens, dim), std=0.1),
            *(spec for name in CONVOLUTIONS for spec in convolution_specs(f"parse.{name}", dim, reach=2)),
            *(weight("parse.count", dim, self.counts, 0.3), offset("parse.count_bias", self.counts)),
            weight("parse.place", dim, dim),
            ParameterSpec("parse.inside", (inside_rows(self.shape.max_propositions), dim), std=0.3),
            ParameterSpec.joined(
                "parse.of_state",
                *(weight("parse.query", dim, 3 * dim), weight("parse.role", dim, 3 * dim)),
                *(weight("parse.steps", dim, 3 * WINDOW, 0.3), weight("parse.copy", dim, 3, 0.3)),
            ),
            *(offset("parse.state_bias", 6 * dim + 3 * WINDOW + 3), weight("parse.read", dim, dim)),
        ]
        generate = [
            *(weight("generate.in", 3 * dim, 2 * dim), offset("generate.in_bias", 2 * dim), weight("generate.state", 2 * dim, dim)),
            ParameterSpec("generate.end", (dim,), std=0.3),
            *convolution_specs("generate.neighbours", dim),
            ParameterSpec.joined(
                "generate.of_state", weight("generate.spread", dim, 2 * dim), weight("generate.gap", dim, tokens + 2, 0.3)
            ),
            offset("generate.state_bias", 2 * dim + tokens + 2),
            *(ParameterSpec(f"generate.{side}", (2 * REACH, dim), std=0.3) for side in ("before", "after")),
            *(spec for name in CONVOLUTIONS for spec in convolution_specs(f"generate.{name}", dim, reach=1)),
            ParameterSpec.joined(
                "generate.of_text",
                *(weight("generate.query", dim, dim), weight("generate.word", dim, dim), weight("generate.copy", dim, 1, 0.3)),
            ),
            *(offset("generate.text_bias", 2 * dim + 1), ParameterSpec("generate.roles", (3, dim), std=0.3)),
        ]
        return [dataclasses.replace(spec, twice=spec.name.startswith(TWICE)) for spec in (*shared, *parse, *generate)]

    def with_tables(self, p: Parameters, train: bool = False) -> dict[str, Tensor]:
        """The parameters and what is derived from them once per step; with `train` also what the backward pass needs (turned weights).

        `table` holds the vectors of all symbols (K, S, D); `inputs` holds them scaled to about unit variance for reading, followed by those
        of unknown words by ending. A symbol's vector is its own plus those of its ending and its base form: rare words start from what
        similar ones mean.
        """
        base = p["symbols"].index_select(1, self._base_S) * self._has_base_S1
        table = p["symbols"] + p["endings"].index_select(1, self._ending_S) + base
        unknown = p["symbols"][:, UNKNOWN : UNKNOWN + 1] + p["endings"]
        turned = {f"{name}.turned": turn(p[f"{name}.in"].detach()) for name in self.convolutions} if train else {}
        return {**p, **turned, "table": table, "inputs": torch.cat((table, unknown), dim=1) * self.scale}

    def embed(self, p: Parameters, ids_KBx: Tensor) -> Tensor:
        """Input ids as vectors of about unit variance: `ids_K...` to `vectors_K...D`."""
        return lookup(p["inputs"], ids_KBx + self.starts(ids_KBx, p["inputs"].shape[1]))

    def starts(self, like_Kx: Tensor, rows: int) -> Tensor:
        """Where each slot's rows begin in tables of so many rows, to be added to `like`."""
        key = (like_Kx.shape[0], rows, like_Kx.dim())
        if key not in self._held_starts:
            starts_K = torch.arange(key[0], device=like_Kx.device) * rows
            self._held_starts[key] = starts_K.view(-1, *(1,) * (key[2] - 1))
        return self._held_starts[key]

    def hide(self, tokens: Tensor) -> Tensor:
        """The input ids these tokens would have as unknown words without a known base form: only their endings remain."""
        return self.symbols + self._ending_S[tokens]

    def called(self, relations: Tensor, tokens: Tensor) -> Tensor:
        """The relations; a verb becomes the one its token stands for (`Vocabulary.verbs`), if any: no score need guess a base form."""
        verbs = self._verb_S[tokens.where(tokens < self.symbols, PAD)]
        return torch.where(self._is_verb_S[relations] & (verbs != PAD), verbs, relations)

    def scores(self, p: Parameters, states_KMD: Tensor, bias: str) -> Tensor:
        """Scores over the symbol table, `scores_KMS`; `bias` is `word_bias` or `role_bias`."""
        return torch.baddbmm(p[bias][:, None], states_KMD, p["table"].transpose(1, 2))

    def understand(self, p: Parameters, words_KBTD: Tensor, mask_KBT: Tensor, conditions: Conditions) -> Understood:
        """Encodes embedded words, given or just generated."""
        mask_KBT1 = mask_KBT[..., None]
        x = words_KBTD + p["parse.positions"][:, None, : words_KBTD.shape[2]]
        keep = conditions.keep(0)
        x = (x if keep is None else x * keep) * mask_KBT1
        for site, name in enumerate(CONVOLUTIONS):
            x = convolve(p, f"parse.{name}", x, mask_KBT1, conditions.keep(site + 1))
        meaning = normalise(apply_rules(p, "rules", x))
        return Understood(meaning, linear(meaning, p["parse.count"], p["parse.count_bias"]))

    def layout_of_counts(self, understood: Understood, mask_KBT: Tensor, places: int) -> Layout:
        """The layout that the likeliest counts make."""
        count_KBT = understood.counts_KBTC.argmax(-1) * (mask_KBT > 0)
        position_KBP, filled_KBP = places_of_counts(count_KBT, places)
        length_KB = mask_KBT.sum(-1).to(torch.int64)
        return lay_out(position_KBP, filled_KBP, length_KB, mask_KBT.shape[2], self.shape.max_propositions, mask_KBT.dtype)

    def read(self, p: Parameters, understood: Understood, words_KBTD: Tensor, mask_KBT: Tensor, layout: Layout) -> Parsed:
        """Each place attends to the tokens of its entity, relation and value, and copies from the words there.

        Attention depends on what a token means and how far it is from the place's own token. Copying adds the attended words' own vectors,
        through a gate, so that even a word hardly ever seen can be named (a soft form of See et al. 2017).
        """
        slots, sentences, places = layout.position_KBP.shape
        u, dim, tokens = understood.meaning_KBTD, words_KBTD.shape[3], words_KBTD.shape[2]
        here = u.gather(2, layout.position_KBP[..., None].expand(-1, -1, -1, dim))
        s = normalise(linear(here, p["parse.place"]) + lookup(p["parse.inside"], layout.inside_KBP))
        said = torch.split(linear(s, p["parse.of_state"], p["parse.state_bias"]), [3 * dim, 3 * dim, 3 * WINDOW, 3], dim=-1)
        queries, start, steps, copies = (part.contiguous().view(slots, sentences, places * 3, -1) for part in said)

        token_T = torch.arange(tokens, device=u.device)
        step_KBPT = (token_T - layout.position_KBP[..., None]).clamp(-LOOK, LOOK) + LOOK
        far = steps.gather(-1, step_KBPT.repeat_interleave(3, dim=2))
        looks = match(queries, u, far + absent(mask_KBT)[:, :, None])
        found, copied = read_from(looks, torch.cat((u, words_KBTD), -1)).chunk(2, dim=-1)
        roles = torch.addcmul(normalise(start + linear(found, p["parse.read"])), torch.sigmoid(copies), copied, value=2)
        return Parsed(roles.view(slots, sentences, places, 3, dim), looks.view(slots, sentences, places, 3, tokens), understood.counts_KBTC)

    def gather(self, p: Parameters, items_KBP3D: Tensor, rows_KBQ2: Tensor, conditions: Conditions) -> tuple[Tensor, Tensor]:
        """One state for each embedded proposition and for the sentence's end, computed with its neighbours.

        Returns what each contributes to the tokens after it and to those up to its own, `spread_KBQ2D`, and gap scores, `gaps_KBQG`.
        """
        slots, sentences, places, _, dim = items_KBP3D.shape
        here_KBQ1, end_KBQ1 = rows_KBQ2.split(1, dim=-1)  # type: ignore[no-untyped-call]
        joined = items_KBP3D.reshape(slots, sentences, places, 3 * dim)
        hidden = functional.gelu(linear(joined, p["generate.in"], p["generate.in_bias"]))
        stated = functional.pad(linear(hidden, p["generate.state"]), (0, 0, 0, 1))
        state = torch.lerp(stated, p["generate.end"][:, None, None], end_KBQ1)
        m = normalise(convolve(p, "generate.neighbours", state, here_KBQ1, conditions.keep(3)))
        said = linear(m, p["generate.of_state"], p["generate.state_bias"])
        spread, gaps = torch.split(said, [2 * dim, self.max_tokens + 2], dim=-1)
        return spread, gaps

    def layout_of_gaps(self, gaps_KBQG: Tensor, filled_KBP: Tensor) -> tuple[Layout, Tensor]:
        """The layout that the likeliest gaps make, and the sentences' lengths in tokens."""
        position_KBP, length_KB = places_of_gaps(gaps_KBQG.argmax(-1), filled_KBP, self.max_tokens)
        layout = lay_out(position_KBP, filled_KBP, length_KB, self.max_tokens, self.shape.max_propositions, gaps_KBQG.dtype)
        return layout, length_KB

    def write(
        self, p: Parameters, spread_KBQ2D: Tensor, items_KBP3D: Tensor, mask_KBT: Tensor, layout: Layout, conditions: Conditions
    ) -> Tensor:
        """The state of each word of the sentence, `words_KBTD`, from the propositions next before and next after it and their distances."""
        slots, sentences, rows, dim = *spread_KBQ2D.shape[:3], items_KBP3D.shape[4]
        mask_KBT1 = mask_KBT[..., None]
        spread = spread_KBQ2D.view(slots, sentences, rows, 2, dim).transpose(2, 3).contiguous().view(slots * sentences, 2 * rows, dim)
        near = layout.near_KBT2Q.contiguous().view(slots * sentences, -1, 2 * rows)
        text = torch.bmm(near, spread).view(slots, sentences, -1, dim)
        text = text + lookup(p["generate.before"], layout.before_KBT) + lookup(p["generate.after"], layout.after_KBT)
        text = invert_rules(p, "rules", text)
        for site, name in enumerate(CONVOLUTIONS):
            text = convolve(p, f"generate.{name}", text, mask_KBT1, conditions.keep(site + 4))
        return self._copy_items(p, normalise(text), items_KBP3D, layout.rows_KBQ2[:, :, :-1, 0])

    def _copy_items(self, p: Parameters, u_KBTD: Tensor, items_KBP3D: Tensor, seen_KBP: Tensor) -> Tensor:
        """Each token attends to the propositions' items (entity, relation, value) and copies from them through a gate.

        Args:
            seen_KBP: 1 for the places attended to: the filled ones and the first empty one, whose items stand for nothing.
        """
        slots, sentences, places, _, dim = items_KBP3D.shape
        keys = (items_KBP3D + p["generate.roles"][:, None, None]).view(slots, sentences, places * 3, dim)
        said = linear(u_KBTD, p["generate.of_text"], p["generate.text_bias"])
        queries, own, copies = torch.split(said, [dim, dim, 1], dim=-1)
        absent_KBM = absent(seen_KBP).repeat_interleave(3, dim=2)
        scores = match(queries, keys, absent_KBM)
        copied = read_from(scores, items_KBP3D.reshape(keys.shape))
        return torch.addcmul(normalise(own), torch.sigmoid(copies), copied, value=2)
