"""The four components of the loss, per slot, each differentiable end to end.

    parse            the sentence's propositions, given the sentence, and which tokens they come from (see `alignment`)
    generate         the sentence's words and its length, given its propositions
    cycle_forward    the sentence again, from the propositions just parsed (as distributions, not as choices)
    cycle_backward   the propositions again, from the words just generated (the likeliest ones, straight-through)

Cross-entropies are in nats: per gold component for propositions (plus the places' presence), per token for text.
`proposition_loss = "mse"` regresses symbol ids instead, as the original script meant to: its plateau can be reproduced.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from model.alignment import alignment_loss
from model.layers import Parameters, mean_over
from model.network import Conditions, Generated, Parsed, SymmetricNetwork
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
    facts: int
    """No slot has more propositions than this in the batch."""
    chances_KS: Tensor | None = None
    """What decides which symbols a shortlist samples; None: the whole table."""

    def word_mask(self, dtype: torch.dtype) -> Tensor:
        """1 where there is a token."""
        return (self.tokens_KBT != PAD).to(dtype)

    def filled(self, dtype: torch.dtype) -> Tensor:
        """1 where there is a proposition, `filled_KBP`."""
        return (self.propositions_KBP3[..., 0] != PAD).to(dtype)


class ComponentLosses:
    """Computes the components for a network; `kind` is the proposition loss, `shortlist` the size of a shortlist."""

    def __init__(self, network: SymmetricNetwork, kind: str, shortlist: int = SHORTLIST) -> None:
        self.network, self.kind, self.shortlist = network, kind, shortlist
        self.scratch = Scratch()

    def __call__(self, p: Parameters, batch: Batch, conditions: Conditions, cycles: bool = True) -> Tensor:
        """The components, `losses_4K` in the order of COMPONENTS, from the parameters with their tables.

        Without `cycles` the two cycle components are not computed and stand as 0.
        """
        network, dtype = self.network, p["table"].dtype
        words_KBT, filled_KBP = batch.word_mask(dtype), batch.filled(dtype)
        among = self._candidates(p, batch)
        tokens, places = batch.tokens_KBT.shape[2], filled_KBP.shape[2]
        length_KB = words_KBT.sum(2).to(torch.int64)
        items = network.embed(p, batch.propositions_KBP3)
        generated = network.generate(p, items, filled_KBP, length_KB, tokens, conditions)
        generate_K, soft_words = self._text_loss(p, among, generated, batch, words_KBT, length_KB, cycles)
        words, seen = network.embed(p, batch.tokens_KBT), network.embed(p, batch.seen_tokens_KBT)
        if soft_words is None:
            parsed = network.parse(p, words, words_KBT, conditions, places, seen)
            parse_K, _ = self._parse_loss(among, parsed, batch, filled_KBP, False)
            return torch.stack((parse_K, generate_K, torch.zeros_like(parse_K), torch.zeros_like(parse_K)))
        parsed, reread = self._parse_twice(p, (words, soft_words), (seen, soft_words), words_KBT, conditions, places)
        parse_K, soft_items = self._parse_loss(among, parsed, batch, filled_KBP, True)
        backward_K, _ = self._proposition_loss(among, reread, batch, filled_KBP, False)
        if soft_items is None:
            raise RuntimeError("the propositions parsed were asked for and not given")
        presence = torch.sigmoid(parsed.presence_KBP[:, :, :places])
        rewritten = network.generate(p, soft_items, presence, length_KB, tokens, conditions)
        forward_K, _ = self._text_loss(p, among, rewritten, batch, words_KBT, length_KB, False)
        return torch.stack((parse_K, generate_K, forward_K, backward_K))

    def _candidates(self, p: Parameters, batch: Batch) -> Candidates:
        if batch.chances_KS is None:
            return whole_table(p)
        needed_KN = torch.cat((batch.tokens_KBT.flatten(1), batch.propositions_KBP3.flatten(1)), dim=1)
        return shortlist(p, needed_KN, batch.chances_KS, self.shortlist)

    def _parse_twice(
        self,
        p: Parameters,
        words: tuple[Tensor, Tensor],
        seen: tuple[Tensor, Tensor],
        words_KBT: Tensor,
        conditions: Conditions,
        places: int,
    ) -> tuple[Parsed, Parsed]:
        """The sentences as they are and as they were just written, parsed in one pass under the same dropout masks."""
        keep = conditions.keep_KSBD
        both = Conditions(conditions.rules_KR, None if keep is None else keep.repeat(1, 1, 2, 1))
        parsed = self.network.parse(p, torch.cat(words, 1), words_KBT.repeat(1, 2, 1), both, places, torch.cat(seen, 1))
        return parsed.halves()

    def _parse_loss(self, among: Candidates, parsed: Parsed, batch: Batch, filled_KBP: Tensor, soft: bool) -> tuple[Tensor, Tensor | None]:
        """The loss of the propositions and, unless ids are regressed, of the tokens they were read from."""
        loss_K, items = self._proposition_loss(among, parsed, batch, filled_KBP, soft)
        if self.kind == "mse":
            return loss_K, items
        bases_KBT = self.network.bases(batch.tokens_KBT)
        return loss_K + alignment_loss(parsed, batch.tokens_KBT, bases_KBT, batch.propositions_KBP3), items

    def _proposition_loss(
        self, among: Candidates, parsed: Parsed, batch: Batch, filled_KBP: Tensor, soft: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The loss per slot and, where asked for, the propositions as expected vectors, `items_KBP3D`."""
        slots, sentences, places, _, dim = parsed.roles_KBP3D.shape
        packed_KF = filled_KBP.flatten(1).argsort(dim=1, descending=True, stable=True)[:, : batch.facts]
        row_KF = packed_KF + torch.arange(slots, device=packed_KF.device)[:, None] * (sentences * places)
        states = parsed.roles_KBP3D.reshape(-1, 3 * dim)[row_KF].view(slots, -1, dim)
        gold_KM = batch.propositions_KBP3.reshape(-1, 3)[row_KF].view(slots, -1)
        values = self._values(among) if soft or self.kind == "mse" else None
        places_KM = among.places(gold_KM)
        loss_KM, means, _ = softmax_over_table(states, among.table_KCD, among.role_bias_KC, places_KM, values, self.scratch)
        if self.kind == "mse" and means is not None:
            loss_KM = (means[..., dim] - gold_KM).square()
        filled_everywhere = functional.pad(filled_KBP, (0, parsed.presence_KBP.shape[2] - places))
        presence = functional.binary_cross_entropy_with_logits(parsed.presence_KBP, filled_everywhere, reduction="none")
        loss_K = mean_over(loss_KM, (gold_KM != PAD).to(loss_KM.dtype)) + presence.mean((1, 2))
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

    def _text_loss(
        self,
        p: Parameters,
        among: Candidates,
        generated: Generated,
        batch: Batch,
        words_KBT: Tensor,
        length_KB: Tensor,
        soft: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """The loss per slot and, where asked for, the words as the parser will read them, `words_KBTD`.

        Forward they are the likeliest words, as when a sentence is really written; backward the gradient is that of the expected
        vectors (the straight-through estimator, Bengio et al. 2013).
        """
        slots, sentences, tokens, dim = generated.words_KBTD.shape
        states_KMD = generated.words_KBTD.view(slots, sentences * tokens, dim)
        gold_KM, values = among.places(batch.tokens_KBT.reshape(slots, -1)), among.table_KCD if soft else None
        loss_KM, means, choices = softmax_over_table(
            states_KMD, among.table_KCD, among.word_bias_KC, gold_KM, values, self.scratch, among.raised_KC
        )
        chosen = torch.log_softmax(generated.length_KBL, -1).gather(2, length_KB[..., None])
        per_slot = (loss_KM.view(words_KBT.shape) * words_KBT).sum((1, 2)) - chosen.sum((1, 2))
        loss_K = per_slot / words_KBT.sum((1, 2))
        if means is None or choices is None:
            return loss_K, None
        expected, likeliest = means * self.network.scale, self.network.embed(p, among.symbols(choices))
        return loss_K, (expected + (likeliest - expected).detach()).view(generated.words_KBTD.shape)
