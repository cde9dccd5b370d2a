"""What the minutes of a run have room for, from how long its rounds take.

A round is an epoch of all trials that train. On a CPU its seconds are shared out among them by what their shapes cost, so it can be told
what a trial will take, and whether those that run leave it the time. On a GPU a round takes as long for one as for many: nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tuner.definition import Budget

START_SHARE = 1 / 4
"""So much of the minutes goes to the first, cheap trials at most."""


class Pace:
    """How fast a run trains, and what ends before its minutes do.

    A cost is that of an epoch of one trial, in whatever unit all are given in.

    Args:
        lanes: how many trials train at the same time, each on a core of its own.
        shared: whether a round takes longer the more trials there are, as on a CPU.
    """

    def __init__(self, budget: Budget, lanes: int, *, shared: bool) -> None:
        self.limits = shared and budget.minutes > 0
        """Whether anything is said at all."""
        self._budget, self._lanes = budget, lanes
        self._seconds = 0.0  # of a core, for a cost of one

    @property
    def known(self) -> bool:
        """Whether a round has been measured."""
        return self._seconds > 0

    def measured(self, costs: Sequence[int], seconds: float) -> None:
        """A round of trials that cost so much each took so long."""
        if costs:
            self._seconds = seconds * min(self._lanes, len(costs)) / sum(costs)

    def starters(self, cost: int) -> int:
        """How many cheap trials have room in their share of the minutes; enough for each lane to have one."""
        each = self._budget.epochs * cost * self._seconds
        return max(self._lanes, math.floor(START_SHARE * 60 * self._budget.minutes * self._lanes / each)) if each else self._lanes

    def ends(self, cost: int, running: Sequence[tuple[int, int]], left: float) -> bool:
        """Whether one more trial ends in the seconds that are left, and all that run beside it.

        Args:
            running: what an epoch of each costs, and how many epochs it has to go.
        """
        if not self.limits or not self.known:
            return True
        alone = cost * self._budget.epochs
        together = alone + sum(each * epochs for each, epochs in running)
        return self._seconds * max(alone, together / self._lanes) <= left
