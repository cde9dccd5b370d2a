"""The seam between the search and whatever it trains: a trainer of K slots that knows no trials.

`tuner.saving.SavingTrainer` is one; another can stand in its place. All that the search needs is here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from model.config import Hyperparameters, ModelShape


class Record(Protocol):
    """What an epoch of training says of a slot."""

    @property
    def epoch(self) -> int:
        """Epochs trained so far."""

    @property
    def loss(self) -> float:
        """The weighted training loss."""

    @property
    def losses(self) -> Mapping[str, float]:
        """Its components."""

    @property
    def gradient_norm(self) -> float:
        """The mean norm of the gradient before clipping."""


class Scored(Protocol):
    """What an evaluation says of a slot."""

    @property
    def objective(self) -> float:
        """What the search maximises."""

    @property
    def round_trip(self) -> float:
        """The share of sentences whose propositions survive generate-then-parse."""

    @property
    def figures(self) -> Mapping[str, object]:
        """Everything else, by name."""


class Tally(Protocol):
    """What a slot gets right on the test split, story by story."""

    @property
    def stated(self) -> Sequence[int]:
        """How many propositions each story states."""

    @property
    def right(self) -> Mapping[str, Sequence[int]]:
        """How many of them are right: entity, relation, value, exact."""


@dataclass(frozen=True)
class Held:
    """A slot's whole state, from which training goes on as if never interrupted: numbers, on whatever device, and what else, as JSON."""

    tensors: Mapping[str, Tensor]
    notes: Mapping[str, Any]


class Trainer(Protocol):
    """K slots of one shape, trained side by side."""

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds spent so far, by `training` and `evaluating`."""

    @property
    def steps_an_epoch(self) -> int:
        """Steps of one epoch, as `rehearse` counts them."""

    def load(self, slot: int, hyperparameters: Hyperparameters) -> None:
        """Puts a new model into a slot and leaves the others unchanged.

        Raises:
            MemoryError: the device has no room for it.
        """

    def held(self, slot: int) -> Held:
        """The slot's whole state, a copy."""

    def resume(self, slot: int, hyperparameters: Hyperparameters, held: Held) -> None:
        """Puts such a state into a slot, here or in another trainer of the shape; the other slots stay unchanged.

        Raises:
            ValueError: the state is of another form.
            MemoryError: the device has no room for it.
        """

    def resize(self, keep: Sequence[int], slots: int) -> None:
        """Makes `slots` slots, the first of which hold the old slots `keep` in that order, unchanged.

        Raises:
            MemoryError: the device has no room for so many; then all slots are as they were.
        """

    def train_epoch(self) -> Sequence[Record | None]:
        """One epoch for all slots; None for a free one.

        Raises:
            MemoryError: the device has no room for so many slots.
        """

    def rehearse(self, steps: int) -> float:
        """Seconds a step of all slots, from so many steps; the slots are worth nothing afterwards.

        Raises:
            MemoryError: the device has no room for so many slots.
        """

    def evaluate(self) -> Sequence[Scored | None]:
        """The validation figures of all slots; None for a free one.

        Raises:
            MemoryError: the device has no room for it.
        """

    def tally(self) -> Sequence[Tally | None]:
        """What all slots get right on the test split; None for a free one. Asked for once, of models that are confirmed.

        Raises:
            MemoryError: the device has no room for it.
        """

    def save(self, slot: int, path: Path, evaluation: Scored) -> None:
        """Writes the slot's model to a file that appears whole or not at all."""


class TrainerFactory(Protocol):
    """Makes trainers for the search."""

    def __call__(self, shape: ModelShape, slots: int) -> Trainer:
        """A trainer of this shape with so many free slots."""
