"""The first larger trials of a search that has time for very few: one begins in each lane, and soon the better half has all cores.

An epoch or two tell which large model is good (look once, and keep the best: Egele and others, arXiv:2307.15422). A trial that has another
lane's core too ends after some two thirds of the time, and what is tried next depends on what the first have come to.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from tuner.promotion import STEP, better_half
from tuner.slots import Running


@dataclass(frozen=True)
class Vanguard:
    """These trials, until one of them has run its epochs.

    Args:
        lanes: how many train at the same time.
        starters: how many first, cheap trials there are.
        rung: the epoch at which they are compared, which is that of the starters.
    """

    lanes: int
    starters: int
    rung: int

    @property
    def ahead(self) -> int:
        """How many have the cores of all."""
        return max(1, self.lanes // 2)

    def leads(self, trials: Sequence[FrozenTrial], coming: Collection[int], over: Collection[int]) -> bool:
        """Whether all that are to be compared have begun (one a lane, or as many as are promoted if these are fewer) and none has run its
        epochs.

        Args:
            trials: all of the study.
            coming: the numbers of trials that come again, because the search resumes from a state before they began.
            over: the numbers of all that have ended.
        """
        steps = {trial.number: trial.state for trial in trials if STEP in trial.user_attrs and trial.number not in coming}
        wanted = min(self.lanes, better_half(self.starters))
        return len(steps) >= wanted and not any(state == TrialState.COMPLETE and number in over for number, state in steps.items())

    def has_enough(self, running: Sequence[Running]) -> bool:
        """Whether as many of them train as are to have all cores."""
        return len(_of(running)) >= self.ahead

    def behind(self, going: Sequence[Running], running: Sequence[Running]) -> list[int]:
        """The numbers of those that are to wait, the best first. None until all have come to the rung; then the worse half, but not what
        has trained more than `rung` epochs longer than the least trained of the better half.

        Args:
            going: the trials whose epoch is over and that have not ended.
            running: all that have not ended.
        """
        curves = {each.number: each.objective for each in _of(running)}
        if len(curves) <= self.ahead or any(len(curve) < self.rung for curve in curves.values()):
            return []
        levels = {number: curve[self.rung - 1] for number, curve in curves.items()}
        ranked = sorted(levels, key=lambda number: -levels[number] if math.isfinite(levels[number]) else math.inf)
        most = self.rung + min(len(curves[number]) for number in ranked[: self.ahead])
        waiting = {each.number for each in going if len(each.curve) <= most}
        return [number for number in ranked[self.ahead :] if number in waiting]


def _of(running: Sequence[Running]) -> list[Running]:
    """Of these trials those that are steps to something larger."""
    return [each for each in running if STEP in each.trial.user_attrs]
