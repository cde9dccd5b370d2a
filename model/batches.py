"""The batches of one epoch for all slots: who sees which sentence when, words swapped and hidden.

Everything random about them is drawn once an epoch for each length class, from (trial seed, trial epoch) alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from model.augmentation import WordSwap
from model.corpus import Corpus, LengthClass, Split, length_classes
from model.devices import sent
from model.layout import lay_out
from model.losses import Batch
from model.network import SymmetricNetwork
from model.noise import generator_for, uniform
from model.replay import Inputs, Recorder, Replayed, recorder_for
from model.shortlist import shortlist_size
from model.vocabulary import PAD


@dataclass(frozen=True)
class Draw:
    """What the slots ask of an epoch's batches: their seeds and how many epochs they have made, how much is swapped and hidden."""

    seed_K: Tensor
    epoch_K: Tensor
    orders: tuple[tuple[int, int], ...]
    """Seeds and epochs, by which the order of sentences is drawn on the CPU."""
    word_swap: tuple[float, ...]
    word_dropout: tuple[float, ...]


class _Varied(NamedTuple):
    """Whether words are swapped and hidden."""

    swaps: bool
    hides: bool


class Turn(NamedTuple):
    """One batch of an epoch: its length class, which of that class's batches it is, and how many sentences it has."""

    length_class: int
    batch: int
    size: int


class Batches:
    """Cuts a corpus's train split into batches; all slots and epochs share one sequence of length classes."""

    def __init__(
        self,
        corpus: Corpus,
        train: Split,
        network: SymmetricNetwork,
        dtype: torch.dtype,
        recorder: Callable[[torch.device], Recorder | None] = recorder_for,
    ) -> None:
        """The corpus cut into classes; `recorder` as in the trainer."""
        self.train, self.network, self.dtype = train, network, dtype
        device, batch_size, places = train.tokens_NT.device, network.shape.batch_size, network.shape.max_propositions
        self._aligned_NQ3 = corpus.aligned_NQ3.to(device)
        self._replayed: Replayed[_Varied, list[Batch]] = Replayed(functools.partial(recorder, device))
        self.classes = [each.to(device) for each in length_classes(corpus.splits["train"], batch_size, places)]
        self.schedule = _fixed_schedule(self.classes)
        self._swap = WordSwap(corpus, device)
        counts = torch.tensor(corpus.symbol_counts(), dtype=dtype)
        counts[PAD] = math.inf
        self._word_counts_S = counts.to(device)

    def symbols_a_step(self, shortlist: int) -> int:
        """The mean size of a shortlist over an epoch's steps."""
        symbols, needed = len(self._word_counts_S), list[int]()
        for turn in self.schedule:
            kind = self.classes[turn.length_class]
            needed.append(turn.size * kind.tokens + 3 * kind.facts)
        return round(sum(shortlist_size(shortlist, need, symbols) for need in needed) / len(needed))

    def epoch(self, draw: Draw) -> list[Batch]:
        """Draws an epoch for slots of these seeds: its batches in the order of its steps; valid until the next is drawn."""
        device, sentences = self.train.tokens_NT.device, sum(len(length_class.sentences) for length_class in self.classes)
        generators = (generator_for("order", seed, epoch) for seed, epoch in draw.orders)
        chances_KN = torch.stack([torch.rand(sentences, generator=generator, dtype=torch.float64) for generator in generators])
        rates = [torch.tensor(rates, dtype=torch.float64) for rates in (draw.word_swap, draw.word_dropout) if any(rates)]
        inputs = [draw.seed_K, draw.epoch_K, *(sent(numbers, device) for numbers in (chances_KN, *rates))]
        return self._replayed(self._drawn, inputs, _Varied(any(draw.word_swap), any(draw.word_dropout)))

    def forget(self) -> None:
        """Drops all recordings, because the number of slots changes."""
        self._replayed.forget()

    def _drawn(self, inputs: Inputs, kind: _Varied) -> list[Batch]:
        _, _, chances_KN, *_ = inputs
        by_class = torch.split(chances_KN, [len(length_class.sentences) for length_class in self.classes], dim=1)
        drawn = [self._vary(number, chances, inputs, kind) for number, chances in enumerate(by_class)]
        return [drawn[turn.length_class][turn.batch] for turn in self.schedule]

    def _vary(self, number: int, chances_KN: Tensor, inputs: Inputs, kind: _Varied) -> list[Batch]:
        """All batches of a class, each in memory of its own, so that a step copies nothing, whatever the number of slots."""
        seed_K, epoch_K, _, *rates = inputs
        length_class, stream = self.classes[number], 16 + 2 * number
        rows_KN = length_class.draw(chances_KN)
        tokens = self.train.tokens_NT[:, : length_class.tokens][rows_KN]
        propositions = self.train.propositions_NQ3[:, : length_class.propositions][rows_KN]
        if kind.swaps:
            tokens, propositions = self._swap.swap(tokens, propositions, seed_K, epoch_K, rates[0].to(torch.float32), stream)
        seen = tokens
        if kind.hides:
            chances = uniform(seed_K, epoch_K, tokens[0].numel(), stream + 1).view(tokens.shape)
            strength = rates[-1].to(self._word_counts_S.dtype)[:, None, None]
            hidden = chances * (self._word_counts_S[tokens] + strength) < strength
            seen = torch.where(hidden, self.network.hide(tokens), tokens)
        aligned = self._aligned_NQ3[:, : length_class.propositions][rows_KN]
        lengths, filled = self.train.token_counts_N[rows_KN], propositions[..., 0] != PAD
        most = self.network.shape.max_propositions
        layout = lay_out(aligned[..., 0], filled, lengths, length_class.tokens, most, self.dtype)
        fields = (tokens, propositions, seen, aligned, *layout)
        cut = [torch.split(field, list(length_class.batches), dim=1) for field in fields]
        whole = ([part.contiguous() for part in parts] for parts in zip(*cut, strict=True))
        return [Batch.of(list(parts), length_class.facts) for parts in whole]


def _fixed_schedule(classes: list[LengthClass]) -> list[Turn]:
    """All batches of an epoch, in one order for all slots and epochs, the classes well mixed."""
    turns = [Turn(number, *one) for number, length_class in enumerate(classes) for one in enumerate(length_class.batches)]
    return [turns[i] for i in torch.randperm(len(turns), generator=generator_for("schedule")).tolist()]
