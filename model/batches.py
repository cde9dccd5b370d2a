"""The batches of one epoch for all slots: who sees which sentence when, words swapped and hidden.

Everything random about them is drawn once an epoch for each length class, from (trial seed, trial epoch) alone; a step only cuts its
batch out.
"""

from __future__ import annotations

import itertools
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


@dataclass(frozen=True)
class _Drawn:
    tokens_KNT: Tensor
    seen_KNT: Tensor
    propositions_KNP3: Tensor
    aligned_KNP3: Tensor
    layout: Layout


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

    def epoch(self, draw: Draw) -> Epoch:
        """Draws an epoch for slots of these seeds."""
        device = self.train.tokens_NT.device
        seed_K = torch.tensor(draw.seeds, device=device)
        epoch_K = torch.tensor(draw.epochs, device=device)
        generators = [generator_for("order", seed, epoch) for seed, epoch in zip(draw.seeds, draw.epochs, strict=True)]
        drawn = []
        for number, length_class in enumerate(self.classes):
            rows_KN = torch.stack([length_class.draw(generator) for generator in generators]).to(device)
            drawn.append(self._vary(length_class, rows_KN, seed_K, epoch_K, draw, 16 + 2 * number))
        return Epoch(self.schedule, self.classes, drawn)

    def _vary(self, length_class: LengthClass, rows_KN: Tensor, seed_K: Tensor, epoch_K: Tensor, draw: Draw, stream: int) -> _Drawn:
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
        return _Drawn(tokens, seen, propositions, aligned, layout)


@dataclass(frozen=True)
class Epoch:
    """One epoch's batches."""

    schedule: list[tuple[int, int, int]]
    classes: list[LengthClass]
    drawn: list[_Drawn]

    def batch(self, step: int) -> Batch:
        """The batch of step 0, 1, ...: views of what was drawn."""
        number, start, size = self.schedule[step]
        drawn, here = self.drawn[number], slice(start, start + size)
        return Batch(
            drawn.tokens_KNT[:, here],
            drawn.propositions_KNP3[:, here],
            drawn.seen_KNT[:, here],
            drawn.aligned_KNP3[:, here],
            drawn.layout.of(here),
            self.classes[number].facts,
        )


def _fixed_schedule(classes: list[LengthClass]) -> list[tuple[int, int, int]]:
    """All batches of an epoch as (class, start, size), in one order for all slots and epochs, the classes well mixed."""
    batches: list[tuple[int, int, int]] = []
    for number, length_class in enumerate(classes):
        starts = itertools.accumulate(length_class.batches, initial=0)
        batches += [(number, start, size) for start, size in zip(starts, length_class.batches, strict=False)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator_for("schedule")).tolist()]
