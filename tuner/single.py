"""A trainer of K slots made of K models that train one after the other: for models that know nothing of slots."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from model.config import Hyperparameters
from tuner.seam import Held, Record, Scored, Tally

T = TypeVar("T")


class OneModel(Protocol):
    """One model in training."""

    def train_epoch(self) -> Record:
        """One epoch."""

    def evaluate(self) -> Scored:
        """The validation figures."""

    def tally(self) -> Tally:
        """What it gets right on the test split."""

    def held(self) -> Held:
        """The whole state, a copy."""

    def resume(self, held: Held) -> None:
        """Goes on from such a state."""

    def save(self, path: Path, evaluation: Scored) -> None:
        """Writes the model to a file that appears whole or not at all."""


class SideBySide:
    """K slots, each with a model of its own; see `tuner.seam.Trainer`.

    Args:
        make: a new model with these hyperparameters.
        slots: how many, all free.
    """

    def __init__(self, make: Callable[[Hyperparameters], OneModel], slots: int) -> None:
        self._make = make
        self._models: list[OneModel | None] = [None] * slots
        self.seconds = {"training": 0.0, "evaluating": 0.0}

    @property
    def steps_an_epoch(self) -> int:
        """An epoch stands for one step."""
        return 1

    def load(self, slot: int, hyperparameters: Hyperparameters) -> None:
        """A new model into a slot."""
        self._models[slot] = self._make(hyperparameters)

    def held(self, slot: int) -> Held:
        """The slot's whole state."""
        return self._model(slot).held()

    def resume(self, slot: int, hyperparameters: Hyperparameters, held: Held) -> None:
        """A model that goes on from such a state, into a slot."""
        self.load(slot, hyperparameters)
        self._model(slot).resume(held)

    def resize(self, keep: Sequence[int], slots: int) -> None:
        """As many slots, of which the first hold the old slots `keep`."""
        kept = [self._models[slot] for slot in keep]
        self._models = [*kept, *[None] * (slots - len(kept))]

    def train_epoch(self) -> list[Record | None]:
        """One epoch for all, one after the other."""
        return self._all("training", lambda model: model.train_epoch())

    def evaluate(self) -> list[Scored | None]:
        """The validation figures of all."""
        return self._all("evaluating", lambda model: model.evaluate())

    def tally(self) -> list[Tally | None]:
        """What all get right on the test split."""
        return self._all("evaluating", lambda model: model.tally())

    def rehearse(self, steps: int) -> float:  # noqa: ARG002  a model alone has no steps, an epoch stands for one
        """The seconds of an epoch of all slots."""
        started = time.perf_counter()
        self.train_epoch()
        return time.perf_counter() - started

    def save(self, slot: int, path: Path, evaluation: Scored) -> None:
        """Writes the slot's model."""
        self._model(slot).save(path, evaluation)

    def _model(self, slot: int) -> OneModel:
        model = self._models[slot]
        if model is None:
            raise ValueError(f"slot {slot} is free: load or resume a trial first")
        return model

    def _all(self, what: str, work: Callable[[OneModel], T]) -> list[T | None]:
        started = time.perf_counter()
        done = [None if model is None else work(model) for model in self._models]
        self.seconds[what] += time.perf_counter() - started
        return done
