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

from model.layers import Parameters, mean_over
from model.layout import Layout
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
    """The tokens that entity, relation and value come from, below 0 where they stand nowhere."""
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
        network, layout = self.network, batch.layout
        mask_KBT = batch.word_mask(p["table"].dtype)
        among = self._candidates(p, batch)
        generate_K, soft_words = self._generate(p, among, batch, network.embed(p, batch.propositions_KBP3), mask_KBT, conditions, cycles)
        words, seen = network.embed(p, batch.tokens_KBT), network.embed(p, batch.seen_tokens_KBT)
        if soft_words is None:
            parsed = network.read(p, network.understand(p, seen, mask_KBT, conditions), words, mask_KBT, layout, conditions)
            parse_K, _ = self._parse_loss(among, parsed, batch, False)
            return torch.stack((parse_K, generate_K, torch.zeros_like(parse_K), torch.zeros_like(parse_K)))
        parsed, reread = self._parse_twice(
            p, torch.cat((words, soft_words), 1), torch.cat((seen, soft_words), 1), mask_KBT, layout, conditions
        )
        parse_K, soft_items = self._parse_loss(among, parsed, batch, True)
        backward_K = self._proposition_loss(among, reread, batch, False)[0] + self._count_loss(reread, batch, mask_KBT)
        if soft_items is None:
            raise RuntimeError("the propositions parsed were asked for and not given")
        forward_K, _ = self._generate(p, among, batch, soft_items, mask_KBT, conditions, False)
        return torch.stack((parse_K, generate_K, forward_K, backward_K))

    def _candidates(self, p: Parameters, batch: Batch) -> Candidates:
        if batch.chances_KS is None:
            return whole_table(p)
        needed_KN = torch.cat((batch.tokens_KBT.flatten(1), batch.propositions_KBP3.flatten(1)), dim=1)
        return shortlist(p, needed_KN, batch.chances_KS, self.shortlist)

    def _parse_twice(
        self, p: Parameters, words: Tensor, seen: Tensor, mask_KBT: Tensor, layout: Layout, conditions: Conditions
    ) -> tuple[Parsed, Parsed]:
        """The sentences as they are and as they were just written, parsed in one pass under the same dropout masks."""
        keep = conditions.keep_KSBD
        both = Conditions(conditions.rules_KR, None if keep is None else keep.repeat(1, 1, 2, 1))
        masks = mask_KBT.repeat(1, 2, 1)
        understood = self.network.understand(p, seen, masks, both)
        return self.network.read(p, understood, words, masks, layout.twice(), both).halves()

    def _parse_loss(self, among: Candidates, parsed: Parsed, batch: Batch, soft: bool) -> tuple[Tensor, Tensor | None]:
        """The loss of the propositions, of the counts and, unless ids are regressed, of the tokens they were read from."""
        loss_K, items = self._proposition_loss(among, parsed, batch, soft)
        loss_K = loss_K + self._count_loss(parsed, batch, batch.word_mask(loss_K.dtype))
        if self.kind == "mse":
            return loss_K, items
        at_KBP3 = batch.aligned_KBP3
        surprise_KBP3 = -torch.log_softmax(parsed.looks_KBP3T, -1).gather(-1, at_KBP3.clamp(min=0)[..., None]).squeeze(-1)
        return loss_K + mean_over(surprise_KBP3, (at_KBP3 >= 0).to(loss_K.dtype)), items

    def _count_loss(self, parsed: Parsed, batch: Batch, mask_KBT: Tensor) -> Tensor:
        """The surprise at how many propositions each token carries, for each proposition."""
        surprise_KBT = -torch.log_softmax(parsed.counts_KBTC, -1).gather(-1, batch.layout.count_KBT[..., None]).squeeze(-1)
        return (surprise_KBT * mask_KBT).sum((1, 2)) / batch.layout.filled_KBP.sum((1, 2)).clamp(min=1)

    def _proposition_loss(self, among: Candidates, parsed: Parsed, batch: Batch, soft: bool) -> tuple[Tensor, Tensor | None]:
        """The loss per slot and, where asked for, the propositions as expected vectors, `items_KBP3D`."""
        slots, sentences, places, _, dim = parsed.roles_KBP3D.shape
        packed_KF = batch.layout.filled_KBP.flatten(1).argsort(dim=1, descending=True, stable=True)[:, : batch.facts]
        row_KF = packed_KF + torch.arange(slots, device=packed_KF.device)[:, None] * (sentences * places)
        states = parsed.roles_KBP3D.reshape(-1, 3 * dim)[row_KF].view(slots, -1, dim)
        gold_KM = batch.propositions_KBP3.reshape(-1, 3)[row_KF].view(slots, -1)
        values = self._values(among) if soft or self.kind == "mse" else None
        places_KM = among.places(gold_KM)
        loss_KM, means, _ = softmax_over_table(states, among.table_KCD, among.role_bias_KC, places_KM, values, self.scratch)
        if self.kind == "mse" and means is not None:
            loss_KM = (means[..., dim] - gold_KM).square()
        loss_K = mean_over(loss_KM, (gold_KM != PAD).to(loss_KM.dtype))
        if not soft or means is None:
            return loss_K, None
        nothing = parsed.roles_KBP3D.new_zeros(slots * sentences * places, 3 * dim)
        items = nothing.index_copy(0, row_KF.view(-1), means[..., :dim].reshape(-1, 3 * dim) * self.network.scale)
        return loss_K, items.view(parsed.roles_KBP3D.shape)

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

        Forward they are the likeliest words, as when a sentence is really written; backward the gradient is that of the expected
        vectors (the straight-through estimator, Bengio et al. 2013).
        """
        network, layout = self.network, batch.layout
        state_KBQD, gaps_KBQG = network.gather(p, items_KBP3D, layout.filled_KBP, conditions)
        words_KBTD = network.write(p, state_KBQD, items_KBP3D, mask_KBT, layout, conditions)
        slots = words_KBTD.shape[0]
        states_KMD = words_KBTD.view(slots, -1, words_KBTD.shape[3])
        gold_KM, values = among.places(batch.tokens_KBT.reshape(slots, -1)), among.table_KCD if soft else None
        loss_KM, means, choices = softmax_over_table(
            states_KMD,
            among.table_KCD,
            among.word_bias_KC,
            gold_KM,
            values,
            self.scratch,
            among.raised_KC,
        )
        chosen_KBQ = torch.log_softmax(gaps_KBQG, -1).gather(-1, layout.gap_KBQ[..., None]).squeeze(-1)
        per_slot = (loss_KM.view(mask_KBT.shape) * mask_KBT).sum((1, 2)) - (chosen_KBQ * layout.here_KBQ).sum((1, 2))
        loss_K = per_slot / mask_KBT.sum((1, 2))
        if means is None or choices is None:
            return loss_K, None
        expected, likeliest = means * network.scale, network.embed(p, among.symbols(choices))
        return loss_K, (expected + (likeliest - expected).detach()).view(words_KBTD.shape)
