"""What a person sees in the terminal while a search runs: a live table of the slots, or plain lines where there is no terminal."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from model.config import ROLES
from tuner.observer import Observer, Watched
from tuner.options import printable
from tuner.study import BASELINE, attributes_of, cause_of, epochs_of, feasible, reason_of
from tuner.verdict import STOPPED_CAUSES, Verdict, counted, ending

if TYPE_CHECKING:
    from tuner.slots import Running

BARS = "▁▂▃▄▅▆▇█"
WIDE = 110
SAY_SECONDS = 30.0
"""What takes long says so often how far it is, where there is no terminal."""


def sparkline(curve: tuple[float, ...], width: int = 12) -> str:
    """A curve in `width` characters at most, from its lowest to its highest value; `!` where it is not finite."""
    if not curve:
        return ""
    points = [curve[index * len(curve) // width] for index in range(width)] if len(curve) > width else list(curve)
    finite = [value for value in points if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    return "".join(_bar(value, low, high) for value in points)


def _bar(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return "!"
    height = (value / 2 - low / 2) / (high / 2 - low / 2) if high / 2 > low / 2 else 0.0  # halves: the range of two floats may be none
    return BARS[round((len(BARS) - 1) * height)]


def plainly(console: Console, head: bool = False) -> Callable[[str], None]:
    """Says something as it is; where it cannot be said, for a log on a disk that is full, nothing else is lost by that.

    Args:
        head: whether it stands over a table: broken where a terminal ends, numbers in colour; else it is one line.
    """

    def say(text: str) -> None:
        with contextlib.suppress(OSError):
            console.print(printable(text), soft_wrap=not (head and console.is_terminal), highlight=head, markup=False)

    return say


class BarProgress:
    """A bar over something long that is no search; shown from the first step on, so that nothing shows where there is nothing to do.

    Use it in a `with`: however that ends, the terminal is as it was. Where there is no terminal it is a line now and then.
    """

    def __init__(self, console: Console, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._bar = Progress(TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, transient=True)
        self._task: TaskID | None = None
        self._console, self._clock, self._said = console, clock, clock()

    def __enter__(self) -> BarProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._task is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """So many of so many steps are done."""
        if not self._console.is_terminal:
            self._say(done, total)
            return
        if self._task is None:
            self._task = self._bar.add_task(self._what, total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done)
        if done >= total:
            self._bar.stop()

    def _say(self, done: int, total: int) -> None:
        if self._clock() - self._said >= SAY_SECONDS:
            self._said = self._clock()
            plainly(self._console)(f"{self._what} {done:,} of {total:,}")


class PlainProgress(Observer):
    """One line an event, on stderr."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def _say(self, text: str) -> None:
        plainly(self.console)(text)

    def started(self, running: Running) -> None:
        """The trial and what it is."""
        name = f" [{running.baseline}]" if running.baseline else ""
        settings = " ".join(
            f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in running.trial.params.items()
        )
        begins = f"goes on after epoch {len(running.curve)}" if running.curve else "starts"
        self._say(f"trial {running.number} {begins}{name}: {settings}")

    def ended(self, running: Running, verdict: Verdict, value: float | None) -> None:  # noqa: ARG002  the reason has the value
        """The verdict."""
        self._say(ending(running.number, verdict.cause, verdict.reason))

    def noticed(self, what: str) -> None:
        """As it is."""
        self._say(what)


class WordyProgress(PlainProgress):
    """One line for each epoch of each trial too."""

    def epoch(self, search: Watched) -> None:
        """Loss and component accuracy of each trial that has made one."""
        for one in search.advanced:
            last = one.curve[-1]
            figures = f"loss {last['loss']:.4f}, component accuracy {last['objective']:.3f}"
            self._say(f"trial {one.number} epoch {len(one.curve)} of {one.hyperparameters.epochs}: {figures}")


class QuietProgress(PlainProgress):
    """Only what the user should know of."""

    def started(self, running: Running) -> None:
        """Nothing."""

    def ended(self, running: Running, verdict: Verdict, value: float | None) -> None:
        """Nothing."""


class Others:
    """What becomes of trials that others train, said when it has changed: how many run, and the verdict of each that has ended.

    Args:
        observer: hears that others train whenever they have come further.
    """

    def __init__(self, study: optuna.Study, say: Callable[[str], None], observer: Observer) -> None:
        self._study, self._say, self._observer, self._counted, self._reached = study, say, observer, "", 0
        self._mark = study.user_attrs.get("mark")
        self._known = {trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()}

    def __call__(self) -> None:
        """Looks; StudyError where the study has been deleted."""
        attributes_of(self._study, self._mark)
        trials = self._study.get_trials(deepcopy=False)
        ended = [trial for trial in trials if trial.state.is_finished()]
        for trial in ended:
            if trial.number not in self._known:
                self._known.add(trial.number)
                self._say(ending(trial.number, cause_of(trial), reason_of(trial)))
        running = sum(trial.state == TrialState.RUNNING for trial in trials)
        if (told := f"{running} {'trial' if running == 1 else 'trials'} running, {len(ended)} ended") != self._counted:
            self._counted = told
            self._say(told)
        if (reached := len(ended) + sum(map(epochs_of, trials))) != self._reached:
            self._reached = reached
            self._observer.waited()


@dataclass(frozen=True)
class Line:
    """A trial in a slot, as the table shows it.

    Args:
        starred: whether it is a baseline.
        last: the newest point of its curve; empty before the first.
        curve: the objective by epoch.
    """

    number: int
    starred: bool
    settings: Mapping[str, Any]
    epoch: int
    epochs: int
    last: Mapping[str, Any]
    curve: tuple[float, ...]


def leading(best: tuple[float, str] | None, baseline: float | None) -> str:
    """The best so far, what it is called, and the best baseline."""
    found = "best -" if best is None else f"best {best[0]:.3f} ({best[1]})"
    return f"{found}, " + ("no baseline (*) has ended" if baseline is None else f"best baseline {baseline:.3f}")


def screen(title: str, lines: Sequence[Line], totals: Sequence[str], verdicts: Sequence[str], width: int) -> Group:
    """The table of slots, the totals and the last verdicts; what is too long for the width is cut, nothing is wrapped."""
    below = [Text(printable(line), no_wrap=True, overflow="ellipsis") for line in (*totals, *verdicts)]
    return Group(_table(title, lines, wide=width >= WIDE), *below)


def _table(title: str, lines: Sequence[Line], wide: bool) -> Table:
    table = Table(title=Text(printable(title)), expand=False, pad_edge=False, box=SIMPLE_HEAD)
    columns = ("trial", "lr", "shape", "epoch", "loss", "accuracy", *(ROLES if wide else ()), "curve")
    for name in columns:
        table.add_column(name, justify="left" if name in ("shape", "curve") else "right", no_wrap=True)
    for one in lines:
        lr, objective = one.settings.get("lr"), one.last.get("objective")
        cells = [
            f"{one.number}{'*' if one.starred else ''}",
            "-" if lr is None else f"{lr:.2e}",
            "/".join(str(one.settings.get(name, "-")) for name in ("hidden_dim", "num_rules", "batch_size")),
            f"{one.epoch}/{one.epochs}",
            f"{one.last['loss']:.4g}" if "loss" in one.last else "-",
            "-" if objective is None else f"{objective:.3f}",
        ]
        roles = [f"{one.last[role]:.3f}" if role in one.last else "-" for role in ROLES] if wide else []
        row = (*cells, *roles, sparkline(one.curve, 28 if wide else 12))
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def minutes_left(usual: float, to_come: int, under_way: Iterable[int], rate: float) -> float:
    """How many minutes a search will take on.

    Args:
        usual: how many epochs a trial runs.
        to_come: how many trials have not begun.
        under_way: how many epochs each of the others has run that has not ended.
        rate: epochs a second.
    """
    return (to_come * usual + sum(max(0.0, usual - epochs) for epochs in under_way)) / max(rate, 1e-9) / 60


def lasting(minutes: float) -> str:
    """How long that is, in words."""
    return f"{minutes:.0f} min" if minutes >= 1 else f"{60 * minutes:.0f} s"


class LiveProgress(Observer):
    """A table that is drawn anew after every epoch, the last verdicts below it.

    Args:
        clock: seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self._clock = console, clock
        self.live = Live(console=console, refresh_per_second=4, transient=True)
        self.verdicts: list[str] = []
        self.best: tuple[float, str] | None = None
        self.best_baseline: tuple[float, str] | None = None
        self.counts: Counter[str] = Counter()
        self.ran, self.saved, self.began = 0, 0, clock()
        self._ended: set[int] = set()
        self._earlier: int | None = None  # how many had ended before this run

    def __enter__(self) -> LiveProgress:
        self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.live.stop()

    def epoch(self, search: Watched) -> None:
        """Draws the slots."""
        if self._earlier is None:
            self._earlier = self._recalled(search)
        running = search.running
        lines = [self._line(search, one) for one in running]
        shown = screen(search.study.study_name, lines, self._totals(search), self.verdicts, self.console.width)
        self.live.update(shown, refresh=True)

    @staticmethod
    def _line(search: Watched, one: Running) -> Line:
        settings = {**search.definition.filled(one.trial.params), "lr": one.hyperparameters.lr}
        last = one.curve[-1] if one.curve else {}
        return Line(one.number, bool(one.baseline), settings, len(one.curve), one.hyperparameters.epochs, last, one.objective)

    def ended(self, running: Running, verdict: Verdict, value: float | None) -> None:
        """Keeps the last five verdicts and the best values."""
        self.verdicts = [*self.verdicts[-4:], ending(running.number, verdict.cause, verdict.reason)]
        self._ended.add(running.number)
        if running.baseline and verdict.cause == "finished":
            value = running.objective[-1]  # what is compared with needs to be above no floor
        self._count(running.number, running.baseline, verdict.cause, value, len(running.curve), running.hyperparameters.epochs)

    def _count(self, number: int, baseline: str | None, cause: str, value: float | None, ran: int, epochs: int) -> None:
        self.counts[cause] += 1
        self.ran += ran
        self.saved += epochs - ran if cause in STOPPED_CAUSES else 0
        if value is not None and baseline and (self.best_baseline is None or value > self.best_baseline[0]):
            self.best_baseline = value, baseline
        if value is not None and not baseline and (self.best is None or value > self.best[0]):
            self.best = value, f"trial {number}"

    def _recalled(self, search: Watched) -> int:
        """Counts what had ended before this run, and says how many those are."""
        epochs = search.definition.budget.epochs
        trials = [
            trial for trial in search.study.get_trials(deepcopy=False) if trial.state.is_finished() and trial.number not in self._ended
        ]
        for trial in trials:
            counts = trial.state == TrialState.COMPLETE and (BASELINE in trial.user_attrs or bool(feasible([trial])))
            value = trial.value if counts else None
            self._count(trial.number, trial.user_attrs.get(BASELINE), cause_of(trial), value, epochs_of(trial), epochs)
        return len(trials)

    def noticed(self, what: str) -> None:
        """Above the table, where it stays."""
        plainly(self.console)(what)

    def _totals(self, search: Watched) -> list[str]:
        seconds = max(1e-9, self._clock() - self.began)
        found = leading(self.best, self.best_baseline[0] if self.best_baseline else None)
        causes = counted(dict(sorted(self.counts.items())))
        ended = self.counts.total() - (self._earlier or 0)
        rates = f"{60 * ended / seconds:.1f} trials a minute, {search.epochs / seconds:.1f} epochs a second, {self.saved} saved"
        return [
            f"{found}; about {self._left(search, search.epochs / seconds)} left",
            f"{causes} of {search.definition.budget.trials} trials; {rates}",
        ]

    def _left(self, search: Watched, rate: float) -> str:
        """The time left if the trials to come run as many epochs as those that have ended; where it has minutes, no more than those."""
        ended, budget = self.counts.total(), search.definition.budget
        usual = self.ran / ended if ended else budget.epochs
        minutes = minutes_left(usual, max(0, budget.trials - search.begun), (len(one.curve) for one in search.running), rate)
        if most := budget.minutes:
            minutes = min(minutes, max(0.0, most - search.spent["total"] / 60))
        return lasting(minutes)
