"""A trainer that follows a formula, epochs of microseconds; it loads no more than a process that trains has loaded anyway."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from model.config import Hyperparameters, ModelShape
from model.tally import StoryTally
from tuner.seam import Held


@dataclasses.dataclass
class Step:
    """A scripted epoch: record and evaluation in one."""

    epoch: int
    loss: float
    objective: float
    gradient_norm: float = 1.0
    round_trip: float = 1.0
    losses: dict[str, float] = dataclasses.field(default_factory=dict)
    figures: dict[str, object] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Occupied:
    """A slot: whose it is and how many epochs it has made."""

    hyperparameters: Hyperparameters
    epoch: int = 0


class ScriptedTrainer:
    """Follows one formula per learning rate and notes what it was asked to do."""

    def __init__(self, shape: ModelShape, slots: int) -> None:
        self.shape, self.seconds = shape, {"training": 0.0}
        self.slots: list[Occupied | None] = [None] * slots
        self.widths: list[int] = []
        self.loads: list[tuple[int, float]] = []
        self.resumed: list[int] = []

    @property
    def steps_an_epoch(self) -> int:
        """Ten."""
        return 10

    def load(self, slot: int, hyperparameters: Hyperparameters) -> None:
        """Notes the load."""
        self.slots[slot] = Occupied(hyperparameters)
        self.loads.append((slot, hyperparameters.lr))

    def held(self, slot: int) -> Held:
        """How many epochs it has made."""
        return Held({}, {"epoch": self.slots[slot].epoch})

    def resume(self, slot: int, hyperparameters: Hyperparameters, held: Held) -> None:
        """Goes on from there."""
        self.slots[slot] = Occupied(hyperparameters, held.notes["epoch"])
        self.resumed.append(held.notes["epoch"])

    def resize(self, keep: Any, slots: int) -> None:
        """Keeps what is kept."""
        kept = [self.slots[slot] for slot in keep]
        self.slots = kept + [None] * (slots - len(kept))

    def train_epoch(self) -> list[Step | None]:
        """One epoch of the formula: above a rate of 5e-3 the loss is NaN from the second epoch on."""
        self.widths.append(len(self.slots))
        self.steps: list[Step | None] = []
        for slot in self.slots:
            slot.epoch += 1
            lr, epoch = slot.hyperparameters.lr, slot.epoch
            self.steps.append(Step(epoch, float("nan") if lr > 5e-3 and epoch > 1 else 10.0 - epoch, lr * 100 * epoch / 3))
        return self.steps

    def evaluate(self) -> list[Step | None]:
        """The same objects."""
        return self.steps

    def tally(self) -> list[StoryTally]:
        """Three stories; a model is right by its rate, and a little more by its seed."""
        stated = (10, 20, 30)
        rates = [min(1.0, slot.hyperparameters.lr * 100 + slot.hyperparameters.seed % 7 / 50) for slot in self.slots]
        counts = [tuple(round(rate * number) for number in stated) for rate in rates]
        return [StoryTally(stated, dict.fromkeys(("entity", "relation", "value", "exact"), right)) for right in counts]

    def rehearse(self, steps: int) -> float:
        """A step takes as long for eight slots as for one, and then twice as long for twice as many."""
        return max(1.0, len(self.slots) / 8)

    def save(self, slot: int, path: Path, evaluation: Any) -> None:
        """An empty file."""
        path.touch()
