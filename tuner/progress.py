"""What a person sees in the terminal while a search runs: a live table of the slots, or plain lines where there is no terminal."""

from __future__ import annotations

import math
import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tuner.observer import Observer, Watched
from tuner.slots import Running
from tuner.verdict import Verdict

BARS = "▁▂▃▄▅▆▇█"


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


class BarProgress:
    """A bar over something long that is no search; shown from the first step on, so that nothing shows where there is nothing to do.

    Use it in a `with`: however that ends, the terminal is as it was.
    """

    def __init__(self, console: Console, what: str) -> None:
        self._what = what
        self._bar = Progress(TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, transient=True)
        self._task: TaskID | None = None

    def __enter__(self) -> BarProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """So many of so many steps are done."""
        if self._task is None:
            self._task = self._bar.add_task(self._what, total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done)
        if done >= total:
            self._bar.stop()


class PlainProgress(Observer):
    """One line an event, on stderr."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

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
        self._say(f"trial {running.number} {verdict.cause}: {verdict.reason}")

    def noticed(self, what: str) -> None:
        """As it is."""
        self._say(what)


class LiveProgress(Observer):
    """A table that is drawn anew after every epoch, the last verdicts below it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = Live(console=console, refresh_per_second=4, transient=True)
        self.verdicts: list[str] = []
        self.best: tuple[float, str] | None = None
        self.best_baseline: tuple[float, str] | None = None
        self.counts: dict[str, int] = {}
        self.epochs, self.began = 0, time.monotonic()

    def __enter__(self) -> LiveProgress:
        self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.live.stop()

    def epoch(self, search: Watched) -> None:
        """Draws the slots."""
        running = search.running
        self.epochs += len(running)
        lines = [Text(line, no_wrap=True, overflow="ellipsis") for line in (*self._totals(search), *self.verdicts)]
        self.live.update(Group(self._table(search, running), *lines), refresh=True)

    def ended(self, running: Running, verdict: Verdict, value: float | None) -> None:
        """Keeps the last five verdicts and the best values."""
        self.counts[verdict.cause] = self.counts.get(verdict.cause, 0) + 1
        self.verdicts = [*self.verdicts[-4:], f"trial {running.number} {verdict.cause}: {verdict.reason}"]
        if value is not None and running.baseline and (self.best_baseline is None or value > self.best_baseline[0]):
            self.best_baseline = value, running.baseline
        if value is not None and not running.baseline and (self.best is None or value > self.best[0]):
            self.best = value, f"trial {running.number}"

    def noticed(self, what: str) -> None:
        """Among the verdicts."""
        self.verdicts = [*self.verdicts[-4:], what]

    @staticmethod
    def _table(search: Watched, running: list[Running]) -> Table:
        table = Table(title=search.study.study_name, expand=False, pad_edge=False)
        for name in ("trial", "lr", "shape", "epoch", "loss", "accuracy", "curve"):
            table.add_column(name, justify="left" if name in ("shape", "curve") else "right", no_wrap=True)
        for one in running:
            params, last = one.trial.params, one.curve[-1] if one.curve else {}
            shape = f"{params.get('hidden_dim', '-')}/{params.get('num_rules', '-')}/{params.get('batch_size', '-')}"
            mark = "*" if one.baseline else ""
            epoch = f"{len(one.curve)}/{one.hyperparameters.epochs}"
            cells = (
                f"{one.hyperparameters.lr:.2e}",
                shape,
                epoch,
                f"{last.get('loss', float('nan')):.4g}",
                f"{last.get('objective', 0.0):.3f}",
            )
            table.add_row(f"{one.trial.number}{mark}", *cells, sparkline(one.objective))
        return table

    def _totals(self, search: Watched) -> list[str]:
        rate = self.epochs / max(1e-9, time.monotonic() - self.began)
        best = f"best {self.best[0]:.3f} ({self.best[1]})" if self.best else "best -"
        baseline = f"best baseline {self.best_baseline[0]:.3f}" if self.best_baseline else "no baseline has ended (*)"
        causes = ", ".join(f"{count} {cause}" for cause, count in sorted(self.counts.items())) or "none ended"
        return [f"{best}, {baseline}; {rate:.1f} trial-epochs a second", f"{causes} of {search.definition.budget.trials} trials"]
