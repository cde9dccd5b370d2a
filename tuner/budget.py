"""When a search has had enough: minutes of this run, epochs and GPU-minutes of the whole study, or somebody asking it to stop."""

from __future__ import annotations

from collections.abc import Callable

import optuna

from tuner.definition import Budget

STOP = "stop"


class Allowance:
    """What a run may still spend.

    Args:
        gpu: whether the time of this run is a GPU's.
    """

    def __init__(self, study: optuna.Study, budget: Budget, clock: Callable[[], float], gpu: bool) -> None:
        self._study, self._budget, self._clock, self._began, self._gpu = study, budget, clock, clock(), gpu
        self._earlier = float(study.user_attrs.get("seconds", {}).get("gpu", 0.0))
        self._asked = study.user_attrs.get(STOP)

    @property
    def seconds(self) -> float:
        """How long this run has lasted."""
        return self._clock() - self._began

    @property
    def gpu_seconds(self) -> float:
        """How much of that was a GPU's."""
        return self.seconds if self._gpu else 0.0

    def spent(self) -> bool:
        """Whether no more trials are to begin."""
        budget = self._budget
        if budget.minutes and self.seconds >= 60 * budget.minutes:
            return True
        if budget.gpu_minutes and self._earlier + self.gpu_seconds >= 60 * budget.gpu_minutes:
            return True
        return bool(budget.total_epochs) and self._epochs() >= budget.total_epochs

    def _epochs(self) -> int:
        """The epochs of all trials of the study, whoever trains them."""
        trials = self._study.get_trials(deepcopy=False)
        return sum(max(int(t.user_attrs.get("epochs_run", 0)), max(t.intermediate_values, default=0)) for t in trials)

    def over(self) -> bool:
        """Whether running trials are to be left where they are, to be gone on with by the next start."""
        return self.stopped() or (self._budget.at_budget == "store" and self.spent())

    def stopped(self) -> bool:
        """Whether somebody has asked for it since this run began (`tuner stop`)."""
        return bool(self._study.user_attrs.get(STOP) != self._asked)
