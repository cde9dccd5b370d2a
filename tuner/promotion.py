"""Which first trials are tried in a larger model when time is short: the better half, the best first, at a rate that suits the size.

This is successive halving with sizes as rungs (in Jamieson and Talwalkar, arXiv:1502.07943, the rungs are epochs). A good learning rate
differs by size: with Adam it falls as the model grows (Yang and others, arXiv:2203.03466). So a promoted trial keeps all of its settings
but the rate. That is the rate of the best starter, whose result says more about the rate than about anything else, times the cube root of
the old size over the new.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from tuner.definition import StudyDefinition
from tuner.space import Numbers
from tuner.study import VERDICT, cause_of, feasible

STEP = "step_from"
"""A trial's attribute: which trial's settings it tries one step further."""
SIZE, RATE = "hidden_dim", "lr"
LEAST = 3
"""So many go on at least."""
FALLS = 1 / 3
"""The power of the size with which a good rate falls: from 32 to 128 dimensions, measured on five starts (docs/DECISIONS.md)."""


class Proposal(NamedTuple):
    """What is said of a new trial: the settings that are not drawn, and the trial from which it is a step (None: it is none)."""

    params: dict[str, Any]
    step_from: int | None = None


@dataclass(frozen=True)
class Start:
    """The first, cheap trials of a study, as far as they can be compared.

    Args:
        trials: all that there are.
        numbers: of the first.
        rung: the epoch at which they are compared; None: at their ends.
    """

    definition: StudyDefinition
    trials: Sequence[FrozenTrial]
    numbers: range
    rung: int | None

    @property
    def training(self) -> list[FrozenTrial]:
        """Those under way."""
        return [trial for trial in self.trials if trial.number in self.numbers and trial.state == TrialState.RUNNING]

    @cached_property
    def ranked(self) -> list[FrozenTrial]:
        """The starters, the best first: those that have ended above the floors; or, if there is a rung, those that have reached it, ended
        or not, unless they failed, exploded, plateaued or lacked room."""
        rung = self.rung
        if rung is None:
            return [trial for trial in feasible(self.trials) if trial.number in self.numbers]
        known = [trial for trial in self.trials if trial.number in self.numbers and trial.state != TrialState.FAIL]
        sound = [trial for trial in known if VERDICT not in trial.user_attrs or cause_of(trial) in ("finished", "outpaced")]
        there = [trial for trial in sound if math.isfinite(trial.intermediate_values.get(rung, math.nan))]
        return sorted(there, key=lambda trial: trial.intermediate_values[rung], reverse=True)

    @property
    def going_on(self) -> list[FrozenTrial]:
        """The better half, at least three: of all where they are compared at a rung, and of those that have ended where they are not."""
        count = len(self.ranked) if self.rung is None else len(self.numbers)
        return self.ranked[: max(LEAST, math.ceil(count / 2))]

    def promoted(self, shape: Mapping[str, Any]) -> Proposal | None:
        """The settings in this larger shape of the best promoted starter not yet tried in it. None when as many others
        have ended above the floors as there are starters, since the sampler then knows more than they show."""
        if SIZE not in shape or sum(trial.number not in self.numbers for trial in feasible(self.trials)) >= len(self.numbers):
            return None
        been = {trial.user_attrs.get(STEP) for trial in self.trials if trial.params.get(SIZE) == shape[SIZE]}
        for starter in self.going_on:
            if shape[SIZE] > starter.params.get(SIZE, math.inf) and starter.number not in been:
                larger = {**self.enlarged(starter, shape[SIZE]), **shape}
                if all(trial.params != larger for trial in self.trials):  # their rates may be all that two differed in
                    return Proposal(larger, starter.number)
        return None

    def enlarged(self, starter: FrozenTrial, size: float) -> dict[str, Any]:
        """A starter's settings in a larger model, of this size; its rate is that of the best of the start, which falls with the size."""
        params, space = {**starter.params, SIZE: size}, self.definition.search.get(RATE)
        if not isinstance(space, Numbers) or RATE not in starter.params:
            return params
        best = next((trial for trial in self.ranked if trial.params.get(SIZE) == starter.params[SIZE]), starter)
        return {**params, RATE: max(float(space.low), best.params[RATE] * (starter.params[SIZE] / size) ** FALLS)}
