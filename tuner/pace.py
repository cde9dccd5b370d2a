"""What an epoch costs, in units of work; and, from how long epochs have taken, what the minutes of a run have room for.

On a CPU the arrays of a lane train one after the other, so it can be predicted how long a trial will take, and whether its neighbours
leave it enough time. On a GPU an epoch takes as long for one trial as for many, so nothing is predicted.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from model.config import ModelShape
from tuner.definition import Budget

START_SHARE = 1 / 4
"""The largest share of the minutes that goes to the first, cheap trials."""

RUNG_SHARE = 1 / 12
"""The same if only the best of them goes on, up to the epoch where that is decided: a few are enough to find a good learning rate."""

FEW = 6
"""If a lane has time for fewer trials than this, one by one, it matters how soon each ends, because the next is drawn with its result."""

VERY_FEW = 4
"""If it has time for fewer than this when it begins, the first of them is to end as soon as can be (`vanguard`)."""

HURRY = 10
"""If a lane has time for fewer trials than this, one by one, it has too little to climb one size after the other (see `climb`)."""

WITH_ALL = 4 / 3
"""About how many times as fast a trial trains that has the cores of all lanes (a large one 1.5 times: docs/DECISIONS.md)."""

LATEST = 3
"""It is too late for a trial only if it is by the fastest of so many epochs: one that was slow may have been the machine's."""

ENOUGH = 2
"""If so many epochs in a row with another lane's core took as long as without, no more is lent in this run."""


def work(shape: ModelShape, slots: int) -> int:
    """About how long an epoch of an array takes on one core, in a unit of its own; counted, so that the same search is laid out the same.

    Fitted to 24 arrays (hidden 32, 64 and 128, batches of 16 and 32, one to five slots): milliseconds for 100 real stories, off by 3 % in
    the mean and 8 % at most (`python -m benchmarks.counted_work --json`). A step costs something, and so does a sentence of each trial."""
    step, hidden = 1000 / shape.batch_size, shape.hidden_dim
    return round(10 * step + slots * (1.4 * step + 214 + 10.5 * hidden + 0.0742 * hidden**2))


def lane_work(shapes: Iterable[ModelShape]) -> int:
    """The same for a lane with trials of these shapes: those of one shape are one array."""
    return sum(work(shape, slots) for shape, slots in Counter(shapes).items())


def sooner_together(shape: ModelShape, others: int) -> bool:
    """Whether all trials end sooner on average if one more trains beside others of its shape than if it began after they had ended."""
    return work(shape, others + 1) - work(shape, others) < work(shape, 1) / (others + 1)


class Pace:
    """How fast a run trains, and what ends before its minutes do.

    Args:
        lanes: how many train at the same time, each on a core of its own.
        shared: whether an epoch takes longer the more trials there are, as on a CPU.
    """

    def __init__(self, budget: Budget, lanes: int, *, shared: bool) -> None:
        self.limits = shared and budget.minutes > 0
        """Whether anything is said at all."""
        self._budget, self._lanes = budget, lanes
        self._latest = deque[float](maxlen=LATEST)  # seconds for a unit of work
        self.lends = self.limits and lanes > 1
        """Whether a lane without trials lends its core; no more from when that has not helped, as where another program needs it.
        Without a limit of minutes never: sums over several cores differ in their last digits, so results would depend on when lanes end."""
        self._no_help = 0

    @property
    def known(self) -> bool:
        """Whether anything has been measured."""
        return self._seconds > 0

    @property
    def _seconds(self) -> float:
        """For a unit of work, by the last epoch; 0 before the first."""
        return self._latest[-1] if self._latest else 0.0

    @property
    def bounds(self) -> bool:
        """Whether what is left can be too little: where the budget lets trials finish, all do."""
        return self.limits and self.known and self._budget.at_budget != "finish"

    def measured(self, shapes: Sequence[ModelShape], seconds: float, *, lent: bool = False) -> None:
        """An epoch of a lane with trials of these shapes took so many seconds, with its own cores or with others' too."""
        if lent and shapes:
            self._no_help = 0 if seconds < self._seconds * lane_work(shapes) else self._no_help + 1
            self.lends = self.lends and self._no_help < ENOUGH
        elif shapes:
            self._latest.append(seconds / lane_work(shapes))

    def starters(self, shape: ModelShape, most: int, rung: int | None = None) -> int:
        """How many first trials have room in their share of the minutes: as many in each lane, at least one, and no more than asked for.

        Args:
            rung: the epoch after which only the best of them goes on; None: all end.
        """
        share, epochs = (START_SHARE, self._budget.epochs) if rung is None else (RUNG_SHARE, rung)
        room, each = share * 60 * self._budget.minutes, 1
        while each * self._lanes < most and epochs * work(shape, each + 1) * self._seconds <= room:
            each += 1
        return min(most, each * self._lanes)

    def together(self, shape: ModelShape, others: int, left: float) -> bool:
        """Whether one more trial should train beside others of its shape rather than after them: if the seconds left have room for many,
        since more get trained that way; else only if they all end sooner on average."""
        return not self.fewer(FEW, shape, left) or sooner_together(shape, others)

    def fewer(self, count: int, shape: ModelShape, left: float) -> bool:
        """Whether a lane has room for fewer than so many more trials of this shape, one after the other, in the seconds that are left."""
        return self.bounds and left < count * self._budget.epochs * work(shape, 1) * self._seconds

    def ends(self, shape: ModelShape, beside: Sequence[tuple[ModelShape, int]], left: float) -> bool:
        """Whether one more trial of a lane ends in the seconds that are left, and all beside it.

        Args:
            beside: the shape of each of the lane's trials, and how many epochs it has to go.
        """
        return self.in_time([(shape, self._budget.epochs), *beside], left)

    def cut_off(self, shape: ModelShape, left: float, most: float, *, alone: bool) -> bool:
        """Whether a trial of this shape that begins now in an empty lane would not end, though it takes no more than `most` seconds.

        Args:
            alone: whether nothing else trains, so that it has all cores if lanes lend theirs.
        """
        if not self.bounds:
            return False
        seconds = min(self._latest) * self._budget.epochs * work(shape, 1)
        return left * (WITH_ALL if alone and self.lends else 1) < seconds <= most

    def in_time(self, there: Sequence[tuple[ModelShape, int]], left: float) -> bool:
        """Whether all of a lane's trials end in the seconds that are left, with its own core.

        Args:
            there: the shape of each, and how many epochs it has to go.
        """
        if not self.bounds:
            return True
        units, past = 0, 0
        for epochs in sorted({epochs for _, epochs in there}):
            units += (epochs - past) * lane_work(each for each, to_go in there if to_go > past)
            past = epochs
        return self._seconds * units <= left
