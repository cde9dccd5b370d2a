"""When a search has had enough: minutes of this run, epochs and GPU-minutes of the whole study, or somebody asking it to stop.

The seconds of a study are noted by seat, so that nobody writes over another's; what a run that was killed had spent is known from its
newest snapshot.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Mapping

import optuna

from tuner.definition import Budget
from tuner.study import attributes_of, epochs_of

STOP = "stop"
SECONDS = "seconds "


def seconds_of(study: optuna.Study) -> dict[str, float]:
    """What a study has taken so far, by what it was spent on."""
    found: Counter[str] = Counter()
    for key, seconds in study.user_attrs.items():
        if key.startswith(SECONDS):
            found.update(seconds)
    return dict(found)


class Ledger:
    """The seconds that one seat has spent on a study, over all its runs.

    Args:
        known: what the seat's newest snapshot says; more than is noted where the run before was killed.
        key: under which it noted them, which may have been on another host; "": under the name of this one.
    """

    def __init__(self, study: optuna.Study, seat: int, known: Mapping[str, float], key: str = "") -> None:
        self._study, self.key = study, key or f"{SECONDS}{socket.gethostname()}/seat-{seat}"
        noted: Mapping[str, float] = study.user_attrs.get(self.key, {})
        self._earlier = max(noted, known, key=lambda seconds: seconds.get("total", 0.0))

    @property
    def gpu_seconds(self) -> float:
        """A GPU's: of this seat before this run, and of all others as far as they have noted them."""
        own: Mapping[str, float] = self._study.user_attrs.get(self.key, {})
        return seconds_of(self._study).get("gpu", 0.0) - own.get("gpu", 0.0) + self._earlier.get("gpu", 0.0)

    def total(self, now: Mapping[str, float]) -> dict[str, float]:
        """With what this run has spent by now."""
        names = dict.fromkeys((*self._earlier, *now))
        return {name: round(self._earlier.get(name, 0.0) + now.get(name, 0.0), 3) for name in names}

    def note(self, now: Mapping[str, float]) -> None:
        """Stores it with the study."""
        self._study.set_user_attr(self.key, self.total(now))


class Allowance:
    """What a run may still spend.

    Args:
        gpu: whether the time of this run is a GPU's.
        began: when it began, by the clock; None: now.
    """

    def __init__(self, study: optuna.Study, budget: Budget, clock: Callable[[], float], gpu: bool, began: float | None = None) -> None:
        self._study, self._budget, self._clock, self._gpu = study, budget, clock, gpu
        self._began = clock() if began is None else began
        self.earlier = 0.0
        """GPU-seconds of the study before this run."""
        attributes = study.user_attrs
        self._asked, self._mark = attributes.get(STOP), attributes.get("mark")

    @property
    def seconds(self) -> float:
        """How long this run has lasted."""
        return self._clock() - self._began

    @property
    def gpu_seconds(self) -> float:
        """How much of that was a GPU's."""
        return self.seconds if self._gpu else 0.0

    @property
    def left(self) -> float:
        """How many seconds of its minutes are left; without end where there is no limit."""
        return 60 * self._budget.minutes - self.seconds if self._budget.minutes else float("inf")

    def spent(self) -> bool:
        """Whether no more trials are to begin."""
        return self.share(begun=0) >= 1

    def used_up(self) -> str | None:
        """Which bound no run of the study goes beyond, and how it is raised; None where its minutes or nothing is used up."""
        budget = self._budget
        if budget.total_epochs and self._epochs() >= budget.total_epochs:
            return f"the study's {budget.total_epochs} epochs are used up (--total-epochs)"
        if budget.gpu_minutes and self.earlier + self.gpu_seconds >= 60 * budget.gpu_minutes:
            return f"the study's {budget.gpu_minutes:g} GPU-minutes are used up (--gpu-minutes)"
        return None

    def share(self, begun: int) -> float:
        """How much of the budget is used up, of whatever is scarcest, when so many trials have begun."""
        budget = self._budget
        spent = [(begun, budget.trials), (self.seconds, 60 * budget.minutes), (self.earlier + self.gpu_seconds, 60 * budget.gpu_minutes)]
        spent += [(self._epochs(), budget.total_epochs)] if budget.total_epochs else []
        return max(used / there for used, there in spent if there)

    def _epochs(self) -> int:
        """The epochs of all trials of the study, whoever trains them."""
        return sum(map(epochs_of, self._study.get_trials(deepcopy=False)))

    def over(self) -> bool:
        """Whether running trials are to be left where they are, to be gone on with by the next start."""
        return self.stopped() or (self._budget.at_budget == "store" and self.spent())

    def stopped(self) -> bool:
        """Whether somebody has asked for it since this run began (`tuner stop`).

        Raises:
            StudyError: the study has been deleted meanwhile.
        """
        return bool(attributes_of(self._study, self._mark).get(STOP) != self._asked)
