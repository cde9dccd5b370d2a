"""What of the start goes on in a larger model, where few trials have room: its better half, the best first, at a rate that suits the size.

This is successive halving with sizes as its rungs (Jamieson and Talwalkar, arXiv:1502.07943, have epochs for them). A good learning rate
is not the same in each: with Adam it falls as the model grows (Yang and others, arXiv:2203.03466). So what is promoted keeps all of its
settings but that one: it is the best one's, which says more of the rate than of anything else, times the cube root of the sizes' ratio.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from tuner.definition import Numbers, StudyDefinition
from tuner.study import feasible

STEP = "step_from"
"""A trial's attribute: which trial's settings it tries one step further."""
SIZE, RATE = "hidden_dim", "lr"
LEAST = 3
"""So many go on at least."""
FALLS = 1 / 3
"""The power of the size with which a good rate falls: from 32 to 128 dimensions, measured on five starts (docs/DECISIONS.md)."""


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
        """Those that have ended above the floors; or, of those that came to the rung, all that neither came to grief nor stayed flat,
        whether they have ended or not. The best first."""
        if self.rung is None:
            return [trial for trial in feasible(self.trials) if trial.number in self.numbers]
        known = [trial for trial in self.trials if trial.number in self.numbers and trial.state != TrialState.FAIL]
        sound = [trial for trial in known if trial.user_attrs.get("verdict", {}).get("cause", "finished") in ("finished", "outpaced")]
        return sorted((trial for trial in sound if math.isfinite(self._reached(trial))), key=self._reached, reverse=True)

    @property
    def going_on(self) -> list[FrozenTrial]:
        """The better half, at least three: of all where they are compared at a rung, and of those that have ended where they are not."""
        count = len(self.ranked) if self.rung is None else len(self.numbers)
        return self.ranked[: max(LEAST, math.ceil(count / 2))]

    def promoted(self, shape: Mapping[str, Any]) -> tuple[dict[str, Any], int] | None:
        """The best of those that go on that has not been tried in this larger shape, and its number; none when as many others have ended as
        there are first ones, for the sampler knows more than these then."""
        if SIZE not in shape or sum(trial.number not in self.numbers for trial in feasible(self.trials)) >= len(self.numbers):
            return None
        been = {trial.user_attrs.get(STEP) for trial in self.trials if trial.params.get(SIZE) == shape[SIZE]}
        for starter in self.going_on:
            if shape[SIZE] > starter.params.get(SIZE, math.inf) and starter.number not in been:
                larger = {**self.enlarged(starter, shape[SIZE]), **shape}
                if all(trial.params != larger for trial in self.trials):  # their rates may be all that two differed in
                    return larger, starter.number
        return None

    def enlarged(self, starter: FrozenTrial, size: float) -> dict[str, Any]:
        """A starter's settings in a larger model, of this size; its rate is that of the best of the start, which falls with the size."""
        params, space = {**starter.params, SIZE: size}, self.definition.search.get(RATE)
        if not isinstance(space, Numbers) or RATE not in starter.params:
            return params
        best = next((trial for trial in self.ranked if trial.params.get(SIZE) == starter.params[SIZE]), starter)
        return {**params, RATE: max(float(space.low), best.params[RATE] * (starter.params[SIZE] / size) ** FALLS)}

    def _reached(self, trial: FrozenTrial) -> float:
        level = trial.value if self.rung is None else trial.intermediate_values.get(self.rung)
        return math.nan if level is None else level
