"""The four components of the loss, per slot, each differentiable end to end.

    parse            the sentence's propositions, how many each token carries and which tokens they come from, given the sentence
    generate         the sentence's words and the gaps between its places, given its propositions
    cycle_forward    the sentence again, from the propositions just parsed (as distributions, not as choices)
    cycle_backward   the propositions again, from the words just generated (the likeliest ones, straight-through)

Cross-entropies are in nats: per gold component for propositions, per proposition for counts, per token for text. All passes over a
sentence go through its one layout (see `layout`), so that each is told where things stand and none has to guess it.
`proposition_loss = "mse"` regresses symbol ids instead, as the original script meant to: its plateau can be reproduced.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from model.layers import Parameters
from model.layout import IGNORED, Layout
from model.network import Conditions, Parsed, SymmetricNetwork
from model.shortlist import SHORTLIST, Candidates, shortlist, whole_table
from model.softmax import Scratch, softmax_over_table
from model.vocabulary import PAD


@dataclass(frozen=True)
class Batch:
    """One batch for every slot: gold symbols, 0 where there is none."""

    tokens_KBT: Tensor
    propositions_KBP3: Tensor
    seen_tokens_KBT: Tensor
    """The tokens from which the parser understands the sentence (some replaced by the unknown word)."""
    aligned_KBP3: Tensor
    """The tokens that entity, relation and value come from, IGNORED where they stand nowhere."""
    layout: Layout
    facts: int
    """No slot has more propositions than this in the batch."""
    chances_KS: Tensor | None = None
    """What decides which symbols a shortlist samples; None: the whole table."""

    def word_mask(self, dtype: torch.dtype) -> Tensor:
        """1 where there is a token."""
        return (self.tokens_KBT != PAD).to(dtype)


class ComponentLosses:
    """Computes the components for a network; `kind` is the proposition loss, `shortlist` the size of a shortlist."""

    def __init__(self, network: SymmetricNetwork, kind: str, shortlist: int = SHORTLIST) -> None:
        self.network, self.kind, self.shortlist = network, kind, shortlist
        self.scratch = Scratch()

    def __call__(self, p: Parameters, batch: Batch, conditions: Conditions, cycles: bool = True) -> Tensor:
        """The components, `losses_4K` in the order of COMPONENTS, from the parameters with their tables.

        Without `cycles` the two cycle components are not computed and stand as 0.
        """
        network, mask_KBT, gold = self.network, batch.word_mask(p["table"].dtype), _Gold.of(batch)
        among = self._candidates(p, batch, gold)
        ids = torch.cat([part.flatten(1) for part in (batch.tokens_KBT, batch.seen_tokens_KBT, batch.propositions_KBP3)], dim=1)
        sizes = [part[0].numel() for part in (mask_KBT, mask_KBT, batch.propositions_KBP3)]
        vectors = torch.split(network.embed(p, ids), sizes, dim=1)
        words, seen = (part.view(*mask_KBT.shape, -1) for part in vectors[:2])
        items = vectors[2].view(*batch.propositions_KBP3.shape, -1)
        generate_K, soft_words = self._generate(p, among, batch, items, mask_KBT, conditions, cycles)
        if soft_words is None:
            parsed = network.read(p, network.understand(p, seen, mask_KBT, conditions), words, mask_KBT, batch.layout, conditions)
            (parse_K,), _ = self._parse_losses(among, parsed, batch, gold, 1)
            return torch.stack((parse_K, generate_K, torch.zeros_like(generate_K), torch.zeros_like(generate_K)))
        words, seen = torch.cat((words, soft_words), 1), torch.cat((seen, soft_words), 1)
        both_KBT, layout, conditions2 = mask_KBT.repeat(1, 2, 1), batch.layout.twice(), conditions.twice()
        parsed = network.read(p, network.understand(p, seen, both_KBT, conditions2), words, both_KBT, layout, conditions2)
        (parse_K, backward_K), soft_items = self._parse_losses(among, parsed, batch, gold, 2)
        forward_K, _ = self._generate(p, among, batch, soft_items, mask_KBT, conditions, False)
        return torch.stack((parse_K, generate_K, forward_K, backward_K))

    def _candidates(self, p: Parameters, batch: Batch, gold: _Gold) -> Candidates:
        if batch.chances_KS is None:
            return whole_table(p)
        return shortlist(p, torch.cat((batch.tokens_KBT.flatten(1), gold.symbols_KF3.flatten(1)), dim=1), batch.chances_KS, self.shortlist)

    def _parse_losses(self, among: Candidates, parsed: Parsed, batch: Batch, gold: _Gold, times: int) -> tuple[list[Tensor], Tensor]:
        """The losses of what was parsed, one `loss_K` for each time, and the propositions as expected vectors, `items_KBP3D`.

        With `times` = 2 the sentences were parsed as they are and, after all of these, as they were just written. Which tokens the
        propositions are read from counts for the first alone, and not where ids are regressed.
        """
        named_KN, means_KNFV = self._named(among, parsed, gold, times)
        losses = list((named_KN + _counted(parsed, batch, gold, times)).unbind(1))
        if self.kind != "mse":
            losses[0] = losses[0] + _looked(parsed, batch)
        slots, sentences, places = batch.layout.position_KBP.shape
        rows_M, dim = gold.rows(slots, sentences, places, 0).view(-1), parsed.roles_KBP3D.shape[4]
        said_MD = means_KNFV[:, 0, :, :dim].reshape(len(rows_M), 3 * dim) * self.network.scale
        items = said_MD.new_zeros(slots * sentences * places, 3 * dim).index_copy(0, rows_M, said_MD)
        return losses, items.view(slots, sentences, places, 3, dim)

    def _named(self, among: Candidates, parsed: Parsed, gold: _Gold, times: int) -> tuple[Tensor, Tensor]:
        """The loss of the components for each time, `loss_KN`, and what each is on average, `means_KNFV` (V is D or one more)."""
        slots, sentences, places, _, dim = parsed.roles_KBP3D.shape
        rows_KF = torch.cat([gold.rows(slots, sentences, places, time * sentences // times) for time in range(times)], dim=1)
        states_KMD = functional.embedding(rows_KF, parsed.roles_KBP3D.reshape(-1, 3 * dim)).view(slots, -1, dim)
        gold_KM, values = gold.symbols_KF3.flatten(1).repeat(1, times), self._values(among)
        loss_KM, means = softmax_over_table(states_KMD, among.table_KCD, among.role_bias_KC, among.places(gold_KM), values, self.scratch)
        if means is None:
            raise RuntimeError("means were asked for and not given")
        if self.kind == "mse":
            loss_KM = (means[..., dim] - gold_KM).square()
        sums_KN = (loss_KM * (gold_KM != PAD)).view(slots, times, -1).sum(2)
        return sums_KN / (3 * gold.number_K1), means.view(slots, times, -1, means.shape[2])

    def _values(self, among: Candidates) -> Tensor:
        """What the softmax averages: the symbols' vectors, and under `mse` their ids in one more column."""
        table_KCD = among.table_KCD
        if self.kind != "mse":
            return table_KCD
        ids_C = torch.arange(table_KCD.shape[1], device=table_KCD.device, dtype=table_KCD.dtype)
        return torch.cat((table_KCD, ids_C[:, None].expand(table_KCD.shape[0], -1, 1)), dim=2)

    def _generate(
        self, p: Parameters, among: Candidates, batch: Batch, items_KBP3D: Tensor, mask_KBT: Tensor, conditions: Conditions, soft: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The loss per slot of the text written from some items and, where asked for, its words as the parser will read them, `words_KBTD`.

        Forward they are the likeliest words, as when a sentence is really written; backward the gradient is that of the expected vectors.
        """
        network, layout = self.network, batch.layout
        spread_KBQ2D, gaps_KBQG = network.gather(p, items_KBP3D, layout.rows_KBQ2, conditions)
        words_KBTD = network.write(p, spread_KBQ2D, items_KBP3D, mask_KBT, layout, conditions)
        slots, _, _, dim = words_KBTD.shape
        gold_KM, values = among.places(batch.tokens_KBT.reshape(slots, -1)), among.table_KCD if soft else None
        states_KMD = words_KBTD.view(slots, -1, dim)
        loss_KM, said = softmax_over_table(
            states_KMD, among.table_KCD, among.word_bias_KC, gold_KM, values, self.scratch, among.raised_KC, hard=soft
        )
        written_K = (loss_KM * mask_KBT.flatten(1)).sum(1)
        laid_K = _cross_entropy(gaps_KBQG, layout.gap_KBQ).view(slots, -1).sum(1)
        loss_K = (written_K + laid_K) / mask_KBT.sum((1, 2))
        return loss_K, None if said is None else (said * network.scale).view(words_KBTD.shape)


@dataclass(frozen=True)
class _Gold:
    """A batch's propositions without its empty places, F of them for every slot."""

    packed_KF: Tensor
    """Which place of which sentence, `sentence * places + place`; the filled first."""
    symbols_KF3: Tensor
    number_K1: Tensor
    """How many there are, 1 at least, as a number to divide by."""

    @classmethod
    def of(cls, batch: Batch) -> _Gold:
        slots = batch.tokens_KBT.shape[0]
        filled_KM = batch.layout.filled_KBP.flatten(1)
        packed_KF = filled_KM.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : batch.facts]
        symbols = batch.propositions_KBP3.reshape(slots, -1, 3).gather(1, packed_KF[..., None].expand(-1, -1, 3))
        return cls(packed_KF, symbols, filled_KM.sum(1, keepdim=True).clamp(min=1))

    def rows(self, slots: int, sentences: int, places: int, first: int) -> Tensor:
        """The places as rows of all slots' places, where a slot has so many sentences and the batch's begin with the sentence `first`."""
        start_K1 = torch.arange(slots, device=self.packed_KF.device)[:, None] * (sentences * places) + first * places
        return self.packed_KF + start_K1


def _counted(parsed: Parsed, batch: Batch, gold: _Gold, times: int) -> Tensor:
    """The surprise at how many propositions each token carries, for each proposition and time: `loss_KN`."""
    surprise = _cross_entropy(parsed.counts_KBTC, batch.layout.count_KBT.repeat(1, times, 1))
    return surprise.view(len(gold.number_K1), times, -1).sum(2) / gold.number_K1


def _looked(parsed: Parsed, batch: Batch) -> Tensor:
    """The mean surprise at the tokens that propositions come from, the first time: `loss_K`."""
    at_KBP3 = batch.aligned_KBP3
    surprise = _cross_entropy(parsed.looks_KBP3T[:, : at_KBP3.shape[1]], at_KBP3)
    return surprise.view(at_KBP3.shape[0], -1).sum(1) / (at_KBP3 != IGNORED).sum((1, 2, 3)).clamp(min=1)


def _cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    """The surprise at each target, flat; 0 where it is IGNORED."""
    flat = targets.flatten()
    return functional.cross_entropy(scores.reshape(len(flat), -1), flat, ignore_index=IGNORED, reduction="none")
