"""Whether a trial may begin now: by the budget, and in a budget of minutes by what ends in it.

A trial that the minutes cut off has taught little, and slowed those beside it. So the first, cheap ones are as many as have room in their
share of the minutes; towards the end no more run at once than end in time; and baselines that would not end do not begin, for confirming
trains them in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import optuna
from optuna.trial import TrialState

from tuner.arrays import Arrays, work
from tuner.budget import Allowance
from tuner.climb import STARTERS
from tuner.definition import StudyDefinition
from tuner.intake import BASELINE
from tuner.pace import Pace
from tuner.slots import Running

BASELINES_AT = 2 / 3
"""When so much of the budget is spent the baselines begin, all together: they are never stopped, and mostly large."""


class Admission:
    """Says how many trials may train at once and what may begin.

    Args:
        arrays: in which they train.
        pace: how fast they do.
        lanes: how many of them train at the same time; each has one trial in any case.
        notice: is told what the user should know.
    """

    def __init__(
        self,
        study: optuna.Study,
        definition: StudyDefinition,
        allowance: Allowance,
        arrays: Arrays,
        pace: Pace,
        lanes: int,
        notice: Callable[[str], None],
    ) -> None:
        self._study, self._definition, self._allowance, self._arrays = study, definition, allowance, arrays
        self._pace, self._lanes, self._notice, self._said = pace, lanes, notice, False

    def measured(self, running: Sequence[Running], seconds: float) -> None:
        """A round of these has taken so long."""
        if self._pace.limits:
            self._pace.measured([self._cost(each) for each in running], seconds)

    def width(self, begun: int) -> int:
        """How many may train at once, when so many have begun: of the first, which are of one shape, all."""
        if not self._pace.limits:
            return self._arrays.width if begun else max(self._arrays.width, self._definition.starting)
        if not self._pace.known or begun >= len(self._definition.enqueue) + self._starters(begun):
            return self._arrays.width
        return max(self._arrays.width, self._starters(begun))

    def _starters(self, begun: int) -> int:
        """How many begin with what is cheap: said once, when it is known what they take."""
        starting = int(self._study.user_attrs.get(STARTERS, self._definition.starting))
        costs = [self._cost(running) for running in self._arrays.running]
        if self._pace.known and starting and costs and STARTERS not in self._study.user_attrs:
            starting = min(starting, max(begun, self._pace.starters(min(costs))))
            self._study.set_user_attr(STARTERS, starting)
        return starting

    def trial(self, going: Sequence[Running], begun: int) -> bool:
        """Whether a new trial may begin beside those that are going: within the budget, and so that it ends in its minutes.

        Each lane has one in any case; what does not end is gone on with by the next run.
        """
        if self._allowance.spent():
            return False
        if not self._pace.limits or len(going) < self._lanes or begun < len(self._definition.enqueue) + self._starters(begun):
            return True
        return self._ends(sum(map(self._cost, going)) // len(going), going)

    def baseline(self, going: Sequence[Running], begun: int) -> bool:
        """Whether a new trial may be a baseline."""
        if self._allowance.share(begun) < BASELINES_AT:
            return False
        if not self._pace.limits or not self._definition.baselines:
            return True
        shapes = [self._definition.settings(self._definition.point(baseline), 0)[0] for baseline in self._definition.baselines]
        if self._ends(max(work(shape, 1) for shape in shapes), going):
            return True
        self._tell()
        return False

    def _ends(self, cost: int, going: Sequence[Running]) -> bool:
        epochs = self._definition.budget.epochs
        return self._pace.ends(cost, [(self._cost(each), epochs - len(each.curve)) for each in going], self._allowance.left)

    def _cost(self, running: Running) -> int:
        return work(self._arrays.shape(running), 1)

    def _tell(self) -> None:
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)) if not self._said else ()
        names = [f"{trial.user_attrs[BASELINE]!r}" for trial in waiting if BASELINE in trial.user_attrs]
        if names:
            self._notice(f"the minutes have no room for {', '.join(names)} any more; tuner confirm trains all baselines")
        self._said = True
