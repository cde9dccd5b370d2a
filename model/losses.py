"""The four components of the loss, per slot, each differentiable end to end.

    parse            the sentence's propositions, how many each token carries and which tokens they come from, given the sentence
    generate         the sentence's words and the gaps between its places, given its propositions
    cycle_forward    the sentence again, from the propositions just parsed
    cycle_backward   the propositions again, from the words just generated

Cross-entropies are in nats: per gold component for propositions, per proposition for counts, per token for text and gaps, per aligned
part for the tokens that propositions come from. All passes over a sentence share its one gold layout (see `layout`), so none has to guess
where things stand. The cycles pass on the most likely symbols, as at inference, with the gradient of the expected vector
(straight-through). `proposition_loss = "mse"` regresses the propositions' symbol ids instead, as the original script meant to, so that its
plateau can be reproduced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from model.layers import Parameters
from model.layout import IGNORED, Layout
from model.network import Conditions, Parsed, SymmetricNetwork
from model.shortlist import SHORTLIST, Candidates, shortlist, whole_table
from model.softmax import Scratch, loss_over_table
from model.vocabulary import PAD


@dataclass(frozen=True)
class Batch:
    """One batch for every slot: gold symbols, 0 where there is none."""

    tokens_KBT: Tensor
    propositions_KBP3: Tensor
    seen_tokens_KBT: Tensor
    """The input ids from which the parser encodes the sentence: some words are hidden, that is read as unknown words with their ending."""
    aligned_KBP3: Tensor
    """The tokens that entity, relation and value come from; IGNORED where there is no such token."""
    layout: Layout
    facts: int
    """No slot has more propositions than this in the batch."""
    chances_KS: Tensor | None = None
    """What decides which symbols a shortlist samples; None: the whole table."""

    def tensors(self) -> list[Tensor]:
        """What it holds, save the chances."""
        return [self.tokens_KBT, self.propositions_KBP3, self.seen_tokens_KBT, self.aligned_KBP3, *self.layout]

    @classmethod
    def of(cls, tensors: Sequence[Tensor], facts: int, chances_KS: Tensor | None = None) -> Batch:
        """The inverse of `tensors`."""
        tokens, propositions, seen, aligned, *layout = tensors
        return cls(tokens, propositions, seen, aligned, Layout(*layout), facts, chances_KS)


class ComponentLosses:
    """Computes the components for a network; `kind` is the proposition loss, `shortlist` the size of a shortlist."""

    def __init__(self, network: SymmetricNetwork, kind: str, shortlist: int = SHORTLIST) -> None:
        self.network, self.kind, self.shortlist = network, kind, shortlist
        self.scratch = Scratch()

    def __call__(self, p: Parameters, batch: Batch, conditions: Conditions, cycles: bool = True, again: Parameters | None = None) -> Tensor:
        """The components, `losses_4K` in the order of COMPONENTS, from the parameters with their tables.

        Args:
            cycles: whether to compute the two cycle components; if not, they are 0.
            again: the same parameters as separate leaves, used in the second generating pass so that its gradients stay apart.
        """
        network, gold = self.network, _Gold.of(batch, p["table"].dtype)
        among = self._candidates(p, batch, gold)
        words, seen = network.embed(p, torch.cat((batch.tokens_KBT, batch.seen_tokens_KBT), dim=1)).chunk(2, dim=1)
        items = network.embed(p, batch.propositions_KBP3)
        generate_K, written = self._generate(p, among, batch, gold, items, conditions, cycles)
        if written is None:
            parsed = self._parsed(p, words, seen, gold.mask_KBT, batch.layout, conditions)
            (parse_K,), _ = self._parse_losses(among, parsed, batch, gold, 1)
            return torch.stack((parse_K, generate_K, torch.zeros_like(generate_K), torch.zeros_like(generate_K)))
        words, seen = torch.cat((words, written), 1), torch.cat((seen, written), 1)
        parsed = self._parsed(p, words, seen, gold.mask_KBT.repeat(1, 2, 1), batch.layout.twice(), conditions.twice())
        (parse_K, backward_K), said = self._parse_losses(among, parsed, batch, gold, 2)
        forward_K, _ = self._generate({**p, **(again or {})}, among, batch, gold, self._restated(said, parsed, gold), conditions, False)
        return torch.stack((parse_K, generate_K, forward_K, backward_K))

    def _parsed(self, p: Parameters, words: Tensor, seen: Tensor, mask_KBT: Tensor, layout: Layout, conditions: Conditions) -> Parsed:
        """Encodes the sentences from `seen`, where words may be hidden, and parses them, copying from `words`."""
        understood = self.network.understand(p, seen, mask_KBT, conditions)
        return self.network.read(p, understood, words, mask_KBT, layout)

    def _candidates(self, p: Parameters, batch: Batch, gold: _Gold) -> Candidates:
        if batch.chances_KS is None:
            return whole_table(p)
        return shortlist(p, torch.cat((batch.tokens_KBT.flatten(1), gold.symbols_KF3.flatten(1)), dim=1), batch.chances_KS, self.shortlist)

    def _parse_losses(
        self, among: Candidates, parsed: Parsed, batch: Batch, gold: _Gold, times: int
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """The parse losses, one `loss_K` for each version of the sentences, and, with two, the first one's symbol vectors, `said_KMD`.

        With `times` = 2 the sentences as given are followed by the same sentences as just generated. The loss on which tokens the
        propositions are read from counts for the first version only, and not where ids are regressed.
        """
        slots, sentences, places, _, dim = parsed.roles_KBP3D.shape
        rows_KF = gold.packed_KF + self.network.starts(gold.packed_KF, sentences * places)
        rows_KF = rows_KF if times == 1 else torch.cat((rows_KF, rows_KF + sentences // 2 * places), dim=1)
        states_KNMD = functional.embedding(rows_KF, parsed.roles_KBP3D.reshape(-1, 3 * dim)).view(slots, times, -1, dim)
        gold_KM = gold.symbols_KF3.flatten(1)
        weights_KM = (gold_KM != PAD) / (3 * gold.facts_K1)
        gold_KNM, weights_KNM = (part[:, None].expand(-1, times, -1) for part in (among.places(gold_KM), weights_KM))
        table, bias, lowered = among.table_KCD, among.role_bias_KC, among.raised_KC
        read, regress = "said" if times > 1 else "", self.kind == "mse"
        named_KN, said_KMD = loss_over_table(states_KNMD, table, bias, gold_KNM, weights_KNM, self.scratch, lowered, regress, read)
        first_K, *others = (named_KN + _counted(parsed, batch, gold, times)).unbind(1)
        return (first_K if regress else first_K + _looked(parsed, batch), *others), said_KMD

    def _restated(self, said_KMD: Tensor | None, parsed: Parsed, gold: _Gold) -> Tensor:
        """The parsed symbols' vectors at their places, scaled as input embeddings: `items_KBP3D`."""
        if said_KMD is None:
            raise RuntimeError("what was parsed is to be read on and was not given")
        slots, sentences, places, _, dim = parsed.roles_KBP3D.shape
        rows_M = (gold.packed_KF + self.network.starts(gold.packed_KF, sentences // 2 * places)).flatten()
        said_MD = said_KMD.view(len(rows_M), 3 * dim) * self.network.scale
        items = said_MD.new_zeros(slots * sentences // 2 * places, 3 * dim).index_copy(0, rows_M, said_MD)
        return items.view(slots, sentences // 2, places, 3, dim)

    def _generate(
        self, p: Parameters, among: Candidates, batch: Batch, gold: _Gold, items_KBP3D: Tensor, conditions: Conditions, read: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Each slot's loss for the text generated from `items_KBP3D` and, if it is to be parsed again (`read`), its words, `words_KBTD`."""
        network, layout = self.network, batch.layout
        spread_KBQ2D, gaps_KBQG = network.gather(p, items_KBP3D, layout.rows_KBQ2, conditions)
        words_KBTD = network.write(p, spread_KBQ2D, items_KBP3D, gold.mask_KBT, layout, conditions)
        slots, _, _, dim = words_KBTD.shape
        gold_K1M = among.places(batch.tokens_KBT.reshape(slots, -1))[:, None]
        table, bias, lowered = among.table_KCD, among.word_bias_KC, among.raised_KC
        name, states_K1MD = "written" if read else "", words_KBTD.view(slots, 1, -1, dim)
        written_K1, words_KMD = loss_over_table(states_K1MD, table, bias, gold_K1M, gold.words_K1M, self.scratch, lowered, read=name)
        laid_K1 = _cross_entropy(gaps_KBQG, layout.gap_KBQ).view(slots, -1).sum(1, keepdim=True) / gold.tokens_K1
        words = None if words_KMD is None else (words_KMD * network.scale).view(words_KBTD.shape)
        return (written_K1 + laid_K1).view(slots), words


@dataclass(frozen=True)
class _Gold:
    """A batch packed to F = `Batch.facts` propositions for every slot, and its tokens."""

    packed_KF: Tensor
    """Flat indices of places, `sentence * places + place`; filled places first."""
    symbols_KF3: Tensor
    facts_K1: Tensor
    """The divisor of proposition losses: the number of propositions, or of sentences if that is larger."""
    mask_KBT: Tensor
    """1 where there is a token."""
    tokens_K1: Tensor
    words_K1M: Tensor
    """What each token weighs in a mean over all."""

    @classmethod
    def of(cls, batch: Batch, dtype: torch.dtype) -> _Gold:
        slots = batch.tokens_KBT.shape[0]
        filled_KM = batch.layout.filled_KBP.flatten(1)
        packed_KF = _filled_first(filled_KM)[:, : batch.facts]
        symbols = batch.propositions_KBP3.reshape(slots, -1, 3).gather(1, packed_KF[..., None].expand(-1, -1, 3))
        mask_KBT = (batch.tokens_KBT != PAD).to(dtype)
        # at least one per sentence: if none states anything (grouping by length allows it), the count loss would be a sum over tokens
        facts_K1 = filled_KM.sum(1, keepdim=True, dtype=dtype).maximum(mask_KBT.amax(2).sum(1, keepdim=True))
        mask_KM = mask_KBT.view(slots, -1)
        tokens_K1 = mask_KM.sum(1, keepdim=True)
        return cls(packed_KF, symbols, facts_K1, mask_KBT, tokens_K1, (mask_KM / tokens_K1)[:, None])


def _filled_first(filled_KM: Tensor) -> Tensor:
    """The places in their order, the filled before the empty (a sort would be one of its own for each slot)."""
    before_KM = filled_KM.cumsum(1)
    place_M = torch.arange(filled_KM.shape[1], device=filled_KM.device)
    to_KM = torch.where(filled_KM, before_KM - 1, before_KM[:, -1:] + place_M - before_KM)
    return torch.empty_like(to_KM).scatter_(1, to_KM, place_M.expand_as(to_KM))


def _counted(parsed: Parsed, batch: Batch, gold: _Gold, times: int) -> Tensor:
    """The cross-entropy of each token's number of propositions, per proposition, for each version of the sentences: `loss_KN`."""
    surprise = _cross_entropy(parsed.counts_KBTC, batch.layout.count_KBT.repeat(1, times, 1))
    return surprise.view(len(gold.facts_K1), times, -1).sum(2) / gold.facts_K1


def _looked(parsed: Parsed, batch: Batch) -> Tensor:
    """The mean cross-entropy of the tokens that propositions come from, in the first version only: `loss_K`."""
    at_KBP3, slots = batch.aligned_KBP3, parsed.looks_KBP3T.shape[0]
    second = parsed.looks_KBP3T.shape[1] - at_KBP3.shape[1]
    surprise = _cross_entropy(parsed.looks_KBP3T, functional.pad(at_KBP3, (0, 0, 0, 0, 0, second), value=IGNORED))
    return surprise.view(slots, -1).sum(1) / (at_KBP3 != IGNORED).sum((1, 2, 3)).clamp(min=1)


def _cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy at each target, unreduced and flattened; 0 where the target is IGNORED."""
    flat = targets.flatten()
    return functional.cross_entropy(scores.contiguous().view(len(flat), -1), flat, ignore_index=IGNORED, reduction="none")
