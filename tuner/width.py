"""How many trials to train at once: measured on a GPU; on a CPU the cores are counted."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from model.config import SHAPE_NAMES, Hyperparameters, ModelShape
from tuner.definition import StudyDefinition
from tuner.seam import Trainer, TrainerFactory
from tuner.space import Value

STEPS, WORTH = 3, 1.2
"""How many steps are timed; and by what factor doubling the width must raise trial-steps a second, since fewer trials then learn from
others."""
WIDEST = 256
FIRST = 16
"""So many are tried first: a GPU waits most of the time with fewer small models."""
A_CORE, FEWEST = 2, 4
"""Trials at once for each core of a CPU; so many at once learn from each other even where they are more than half of all."""


@dataclass(frozen=True)
class Measured:
    """Trial-steps a second by width, and the width that was chosen."""

    width: int
    rates: dict[int, float]
    bound: bool = False
    """Whether it might be wider in a larger budget of trials."""
    short: bool = False
    """Whether nothing that was tried had room."""

    def said(self, most: int) -> str:
        """As the search says it, which trains no more than `most` at once."""
        width = f"width {min(self.width, most)}"
        if self.short:
            return f"{width}: there is no room for more now"
        half = "; a larger budget of trials allows more, for the later ones learn from those before" if self.bound else ""
        if not self.rates:
            return f"{width}, up to {A_CORE} for each core{half}"
        rates = ", ".join(f"{tried}: {rate:.1f}" for tried, rate in self.rates.items())
        return f"{width}, of trial-steps a second by width ({rates}){half}"


def shapes(definition: StudyDefinition) -> list[tuple[ModelShape, Hyperparameters]]:
    """The shapes of the definition's space, each with settings that go with it; what takes the most room comes first."""
    most = {name: max(space.corners(), key=_size) for name, space in definition.search.items()}
    names = [name for name in SHAPE_NAMES if name in definition.search]
    corners = (sorted(definition.search[name].corners(), key=_size, reverse=True) for name in names)
    return [definition.settings({**most, **dict(zip(names, chosen, strict=True))}, 0) for chosen in itertools.product(*corners)]


def _size(value: Value) -> tuple[bool, Value]:
    return isinstance(value, str), value


def half_of(trials: int, processes: int) -> int:
    """How many each of so many processes may train at once so that half of the trials can learn from the others."""
    return max(1, trials // 2 // processes)


def measure(
    make_trainer: TrainerFactory, definition: StudyDefinition, tell: Callable[[int], None] = lambda _: None, processes: int = 1
) -> Measured:
    """The width up to which each doubling is worth it, in the largest shape that has room; `tell` is told how many have been tried.

    No more than half of the trials train at once in all `processes`, so that the others can learn from them. It begins with `FIRST`, or
    fewer where a second generation would have none, and goes up; where that is not worth it, down.
    """
    widest = min(WIDEST, half_of(definition.budget.trials, processes))
    for shape, hyperparameters in shapes(definition):
        found = _measured(make_trainer, shape, hyperparameters, widest, tell)
        if found is not None:
            return found
    return Measured(1, {}, short=True)


def _measured(
    make_trainer: TrainerFactory, shape: ModelShape, hyperparameters: Hyperparameters, widest: int, tell: Callable[[int], None]
) -> Measured | None:
    """The same in one shape; None where there is no room for one trial of it."""
    rates: dict[int, float] = {}

    def rate(width: int) -> float:
        if width not in rates:
            tell(len(rates))
            try:
                rates[width] = width / rehearsed(make_trainer(shape, width), hyperparameters, width)
            except MemoryError:
                rates[width] = 0.0
        return rates[width]

    def worth(width: int) -> bool:
        return rate(width) > 0 and rate(width) >= WORTH * rate(width // 2)

    first = chosen = 1 << (min(FIRST, widest).bit_length() - 1)
    while rate(chosen) > 0 and 2 * chosen <= widest and worth(2 * chosen):
        chosen *= 2
    while chosen == first > 1 and not worth(first):
        first = chosen = chosen // 2
    bound = widest < WIDEST and 2 * chosen > widest and rate(chosen) > 0
    had_room = {width: measured for width, measured in sorted(rates.items()) if measured}
    return Measured(chosen, had_room, bound, short=not had_room) if had_room or rate(1) > 0 else None


def rehearsed(trainer: Trainer, hyperparameters: Hyperparameters, slots: int) -> float:
    """Seconds a step of a trainer with so many slots, all with these settings; it is worth nothing afterwards."""
    for slot in range(slots):
        trainer.load(slot, hyperparameters)
    return trainer.rehearse(STEPS)


def fitting(
    device: str,
    make_trainer: TrainerFactory,
    definition: StudyDefinition,
    tell: Callable[[int], None] = lambda _: None,
    processes: int = 1,
) -> Measured:
    """How many trials to train at once on a device. A CPU has two for each core, which side by side take up to a fifth less time than one
    after the other. More than two gain nothing and end later, and measuring that takes longer than a trial. With many cores they are no
    more than half of the trials, from which the others can learn."""
    if device == "cpu":
        wished, most = A_CORE * torch.get_num_threads(), max(FEWEST, half_of(definition.budget.trials, processes))
        return Measured(min(wished, most), {}, bound=wished > most)
    return measure(make_trainer, definition, tell, processes)
