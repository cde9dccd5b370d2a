"""Which first trials are tried in a larger model when time is short: the better half, the best first, at a rate that suits the size.

This is successive halving with sizes as rungs (in Jamieson and Talwalkar, arXiv:1502.07943, the rungs are epochs). A good learning rate
differs by size: with Adam it falls as the model grows (Yang and others, arXiv:2203.03466). So a promoted trial keeps all of its settings
but the rate and the batch. The rate is the best starter's, whose result says more about the rate than about anything else, times the cube
root of the old size over the new. If several are soon compared it is the trial's own, moved toward that one if it is far from it. If the
space gives first trials a small batch and enough steps are left, the batch is the next larger one (it wastes fewer examples the longer is
trained: McCandlish and others, arXiv:1812.06162), and the rate rises with its square root (for Adam: Malladi and others, arXiv:2205.10287).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from tuner.definition import StudyDefinition
from tuner.space import Choices, Numbers
from tuner.study import VERDICT, cause_of, feasible

STEP = "step_from"
"""A trial's attribute: which trial's settings it tries one step further."""
SIZE, RATE, BATCH = "hidden_dim", "lr", "batch_size"
LEAST = 3
"""So many go on at least."""
FALLS = 1 / 3
"""The power of the size with which a good rate falls: from 32 to 128 dimensions, measured on five starts (docs/DECISIONS.md)."""

LEAST_STEPS = 1000
"""With the larger batch a trial still makes so many. With 1,450 in place of 2,900 it ends sooner and better (docs/DECISIONS.md)."""


def better_half(count: int) -> int:
    """How many of so many first trials are tried in a larger size."""
    return max(LEAST, math.ceil(count / 2))


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
        sentences: how many an epoch trains on; 0: that is not known.
        compares: whether the first larger trials are compared early, so that they had better differ, in their rates too (`vanguard`).
    """

    definition: StudyDefinition
    trials: Sequence[FrozenTrial]
    numbers: range
    rung: int | None
    sentences: int = 0
    compares: bool = False

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
        return self.ranked[: better_half(count)]

    def promoted(self, shape: Mapping[str, Any]) -> Proposal | None:
        """The settings in this larger shape of the best promoted starter not yet tried in it. None when as many others
        have ended above the floors as there are starters, since the sampler then knows more than they show."""
        if SIZE not in shape or sum(trial.number not in self.numbers for trial in feasible(self.trials)) >= len(self.numbers):
            return None
        been = {trial.user_attrs.get(STEP) for trial in self.trials if trial.params.get(SIZE) == shape[SIZE]}
        for starter in self.going_on:
            if shape[SIZE] > starter.params.get(SIZE, math.inf) and starter.number not in been:
                ways = (self.enlarged(starter, shape, near=near) for near in (True, False))
                # their rates may be all that two differed in
                untried = (params for params in ways if all(trial.params != params for trial in self.trials))
                if (larger := next(untried, None)) is not None:
                    return Proposal(larger, starter.number)
        return None

    def enlarged(self, starter: FrozenTrial, shape: Mapping[str, Any], *, near: bool = True) -> dict[str, Any]:
        """A starter's settings in a larger model, with another rate and perhaps a larger batch.

        Args:
            shape: of the larger model, its size at least.
            near: whether its rate is to be near the best starter's, where larger ones are compared early.
        """
        params, space = {**starter.params, **self._larger_batch(starter), **shape}, self.definition.search.get(RATE)
        if not isinstance(space, Numbers) or RATE not in starter.params:
            return params
        return {**params, RATE: space.within(self._rate(starter, params, space if near else None))}

    def resized(self, trial: FrozenTrial, size: float) -> dict[str, Any]:
        """A trial's settings in a model of another size, at the rate that suits it."""
        params, space = {**trial.params, SIZE: size}, self.definition.search.get(RATE)
        return {**params, RATE: space.within(_carried(trial.params, params))} if isinstance(space, Numbers) and RATE in params else params

    def _rate(self, starter: FrozenTrial, params: Mapping[str, Any], space: Numbers | None) -> float:
        """The rate of the best starter of its size, as it suits these settings. Where larger ones are compared early, that of the best step
        to this size that has ended; until there is one, this starter's own, no further from the best one's than a part into which the
        starters cut the range (`space`), if that is given."""
        best = next((trial for trial in self.ranked if trial.params.get(SIZE) == starter.params[SIZE]), starter).params
        if not self.compares:
            return _carried(best, params)
        ended = [trial for trial in feasible(self.trials) if STEP in trial.user_attrs and trial.params.get(SIZE) == params[SIZE]]
        if ended:
            return _carried(ended[0].params, params)
        own = starter.params[RATE]
        own = own if space is None else space.near(own, _carried(best, starter.params), len(self.numbers))
        return _carried({**starter.params, RATE: own}, params)

    def _larger_batch(self, starter: FrozenTrial) -> dict[str, Any]:
        """The next larger batch than a starter's, if enough steps are left with it."""
        space, own = self.definition.search.get(BATCH), starter.params.get(BATCH)
        if not isinstance(space, Choices) or space.start is None or own is None:
            return {}
        batch = min((size for size in map(int, space.choices) if size > own), default=own)
        return {BATCH: batch} if self.definition.budget.epochs * self.sentences >= LEAST_STEPS * batch else {}


def _carried(params: Mapping[str, Any], there: Mapping[str, Any]) -> float:
    """The rate of these settings as it suits others: it falls as the model grows, and rises with the root of the batch."""
    batch = there[BATCH] / params[BATCH] if BATCH in params and BATCH in there else 1.0
    return float(params[RATE] * (params[SIZE] / there[SIZE]) ** FALLS * math.sqrt(batch))
