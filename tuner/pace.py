"""What the minutes of a run have room for, from how long its epochs take.

On a CPU an epoch of a lane takes as long as all its trials one after the other, each as long as its shape costs: so it can be told what a
trial will take, and whether those beside it leave it the time. On a GPU it takes as long for one as for many: nothing is said.
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
        lanes: how many train at the same time, each on a core of its own.
        shared: whether an epoch takes longer the more trials there are, as on a CPU.
    """

    def __init__(self, budget: Budget, lanes: int, *, shared: bool) -> None:
        self.limits = shared and budget.minutes > 0
        """Whether anything is said at all."""
        self._budget, self._lanes = budget, lanes
        self._seconds = 0.0  # for a cost of one

    @property
    def known(self) -> bool:
        """Whether anything has been measured."""
        return self._seconds > 0

    def measured(self, costs: Sequence[int], seconds: float) -> None:
        """An epoch of a lane with trials that cost so much each took so many seconds."""
        if costs:
            self._seconds = seconds / sum(costs)

    def starters(self, cost: int) -> int:
        """How many cheap trials have room in their share of the minutes: as many in each lane, and at least one."""
        room = START_SHARE * 60 * self._budget.minutes / (self._budget.epochs * cost * self._seconds)
        return self._lanes * max(1, math.floor(room))

    def ends(self, cost: int, beside: Sequence[tuple[int, int]], left: float) -> bool:
        """Whether one more trial of a lane ends in the seconds that are left, and all beside it.

        Where the budget lets trials finish, all do.

        Args:
            beside: what an epoch of each of the lane's trials costs, and how many epochs it has to go.
        """
        if not self.limits or not self.known or self._budget.at_budget == "finish":
            return True
        costs = [(cost, self._budget.epochs), *beside]
        return self._seconds * sum(each * epochs for each, epochs in costs) <= left
