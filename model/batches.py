"""The batches of one epoch for all slots: who sees which sentence when, words swapped and hidden.

Everything random about them is drawn once an epoch for each length class, from (trial seed, trial epoch) alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from model.augmentation import WordSwap
from model.corpus import Corpus, LengthClass, Split, length_classes
from model.layout import Layout, lay_out
from model.losses import Batch
from model.network import SymmetricNetwork
from model.noise import generator_for, uniform
from model.shortlist import shortlist_size
from model.vocabulary import PAD


@dataclass(frozen=True)
class Draw:
    """What the slots ask of an epoch's batches: their seeds, how many epochs they have made, how much is swapped and hidden."""

    seeds: tuple[int, ...]
    epochs: tuple[int, ...]
    word_swap: tuple[float, ...]
    word_dropout: tuple[float, ...]


class Batches:
    """Cuts a corpus's train split into batches; all slots and epochs share one sequence of length classes."""

    def __init__(self, corpus: Corpus, train: Split, batch_size: int, places: int, network: SymmetricNetwork, dtype: torch.dtype) -> None:
        self.train, self.network, self.dtype = train, network, dtype
        self._aligned_NQ3 = corpus.aligned_NQ3.to(train.tokens_NT.device)
        self.classes = length_classes(corpus.splits["train"], batch_size, places)
        self.schedule = _fixed_schedule(self.classes)
        self._swap = WordSwap(corpus, train.tokens_NT.device)
        counts = torch.tensor(corpus.symbol_counts()["text"], dtype=dtype)
        counts[PAD] = math.inf
        self._word_counts_S = counts.to(train.tokens_NT.device)

    def symbols_a_step(self, shortlist: int) -> int:
        """The mean size of a shortlist over an epoch's steps."""
        symbols, kinds = len(self._word_counts_S), [self.classes[number] for number, _, _ in self.schedule]
        needed = [size * kind.tokens + 3 * kind.facts for kind, (_, _, size) in zip(kinds, self.schedule, strict=True)]
        return round(sum(shortlist_size(shortlist, need, symbols) for need in needed) / len(needed))

    def epoch(self, draw: Draw) -> list[Batch]:
        """Draws an epoch for slots of these seeds: its batches in the order of its steps."""
        device = self.train.tokens_NT.device
        seed_K = torch.tensor(draw.seeds, device=device)
        epoch_K = torch.tensor(draw.epochs, device=device)
        generators = [generator_for("order", seed, epoch) for seed, epoch in zip(draw.seeds, draw.epochs, strict=True)]
        drawn: list[list[Batch]] = []
        for number, length_class in enumerate(self.classes):
            rows_KN = torch.stack([length_class.draw(generator) for generator in generators]).to(device)
            drawn.append(self._vary(length_class, rows_KN, seed_K, epoch_K, draw, 16 + 2 * number))
        return [drawn[number][place] for number, place, _ in self.schedule]

    def _vary(self, length_class: LengthClass, rows_KN: Tensor, seed_K: Tensor, epoch_K: Tensor, draw: Draw, stream: int) -> list[Batch]:
        """All batches of a class, each in memory of its own, so that a step copies nothing, whatever the number of slots."""
        tokens = self.train.tokens_NT[:, : length_class.tokens][rows_KN]
        propositions = self.train.propositions_NQ3[:, : length_class.propositions][rows_KN]
        if any(draw.word_swap):
            rate_K = torch.tensor(draw.word_swap, device=tokens.device)
            tokens, propositions = self._swap.swap(tokens, propositions, seed_K, epoch_K, rate_K, stream)
        seen = tokens
        if any(draw.word_dropout):
            chances = uniform(seed_K, epoch_K, tokens[0].numel(), stream + 1).view(tokens.shape)
            strength = torch.tensor(draw.word_dropout, dtype=self._word_counts_S.dtype, device=tokens.device)[:, None, None]
            hidden = chances * (self._word_counts_S[tokens] + strength) < strength
            seen = torch.where(hidden, self.network.hide(tokens), tokens)
        aligned = self._aligned_NQ3[:, : length_class.propositions][rows_KN]
        lengths, filled = self.train.token_counts_N[rows_KN], propositions[..., 0] != PAD
        most = self.network.shape.max_propositions
        layout = lay_out(aligned[..., 0], filled, lengths, length_class.tokens, most, self.dtype)
        fields = (tokens, propositions, seen, aligned, *layout)
        cut = [torch.split(field, list(length_class.batches), dim=1) for field in fields]
        whole = ([part.contiguous() for part in parts] for parts in zip(*cut, strict=True))
        return [Batch(*(*parts[:4], Layout(*parts[4:]), length_class.facts)) for parts in whole]


def _fixed_schedule(classes: list[LengthClass]) -> list[tuple[int, int, int]]:
    """All batches of an epoch as (class, which of its batches, size), in one order for all slots and epochs, the classes well mixed."""
    batches = [(number, *one) for number, length_class in enumerate(classes) for one in enumerate(length_class.batches)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator_for("schedule")).tolist()]
