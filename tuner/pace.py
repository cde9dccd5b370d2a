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
        """Whether anything has been measured."""
        return self._seconds > 0

    def measured(self, costs: Sequence[int], seconds: float) -> None:
        """An epoch of trials that cost so much each took so many seconds of all cores together."""
        if costs:
            self._seconds = seconds / sum(costs)

    def starters(self, cost: int) -> int:
        """How many cheap trials have room in their share of the minutes; at least one for each lane."""
        room = START_SHARE * 60 * self._budget.minutes * self._lanes / (self._budget.epochs * cost * self._seconds)
        return max(self._lanes, math.floor(room))

    def ends(self, cost: int, running: Sequence[tuple[int, int]], left: float) -> bool:
        """Whether one more trial ends in the seconds that are left, and all that run beside it.

        A round takes as long as all its trials on all lanes, and as its dearest on one. Where the budget lets trials finish, all end.

        Args:
            running: what an epoch of each costs, and how many epochs it has to go.
        """
        if not self.limits or not self.known or self._budget.at_budget == "finish":
            return True
        going, units, past = [*running, (cost, self._budget.epochs)], 0.0, 0
        for epochs in sorted({epochs for _, epochs in going}):
            costs = [each for each, to_go in going if to_go > past]
            units += (epochs - past) * max(*costs, sum(costs) / self._lanes)
            past = epochs
        return self._seconds * units <= left
