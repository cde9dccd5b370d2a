"""A running search as its own terminal shows it, whoever trains its trials: read from the storage. From another terminal or machine, or
from the search itself where it has several processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live

from tuner.buffer import BufferedStorage
from tuner.progress import Line, QuietProgress, lasting, leading, minutes_left, plainly, screen
from tuner.storage import Patience, open_storage, shown
from tuner.study import complete, find_study
from tuner.tables import CurveTable
from tuner.verdict import counted, ending
from tuner.views import INTERRUPTED, RUNNING, StudyView, view

EVERY_SECONDS, SHARE = 2.0, 0.02
"""A search that shows itself looks so often, and takes no more than this share of its time for it."""
IDLE_LOOKS, EMPTY_LOOKS = 5, 300
"""So often in a row no trial runs where a search has ended before its trials: by its minutes, or because it was stopped.
Where none has begun it may still be finding out its width."""


def watch(storage_url: str, name: str, console: Console) -> None:
    """Shows a study until nobody trains it any more, or until interrupted; once where there is no terminal.

    Raises:
        StudyError: there is no such study.
    """
    storage = open_storage(storage_url, create=False)
    patience = Patience(plainly(console))
    study = find_study(BufferedStorage(storage, patience), name)
    curves, pause, rates = CurveTable(storage, study._study_id, patience), threading.Event(), Rates()
    idle = empty = 0
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            seen = view(study, curves, shown(storage_url))
            live.update(shown_at(seen, console.width, rates.said(seen)), refresh=True)
            idle = idle + 1 if seen.trials and not seen.summary["running"] else 0
            empty = 0 if seen.trials else empty + 1
            over = idle == IDLE_LOOKS or empty == EMPTY_LOOKS or (idle and complete(study, seen.definition))
            if not console.is_terminal or over:
                return
            pause.wait(EVERY_SECONDS)


class StudyProgress(QuietProgress):
    """The table of all trials of a study while one of its processes trains; the others say nothing beside it.

    Drawn by a thread, so that long epochs do not keep it and it keeps nobody; what goes wrong with it is told of, and the search goes on.

    Args:
        name: the study's full name.
        clock: seconds.
    """

    def __init__(self, storage_url: str, name: str, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console)
        backend, self._patience = open_storage(storage_url, create=False), Patience()  # the search itself says when the storage is away
        self._study = find_study(BufferedStorage(backend, self._patience), name)
        self._curves, self._shown = CurveTable(backend, self._study._study_id, self._patience), shown(storage_url)
        self._clock, self._over, self._told = clock, threading.Event(), set[type[Exception]]()
        self._live, self._rates = Live(console=console, auto_refresh=False, transient=True), Rates(clock)
        self._thread = threading.Thread(target=self._draw, daemon=True)

    def __enter__(self) -> StudyProgress:
        self._live.start()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._patience.seconds = 0.0
        self._thread.join()
        self._live.stop()

    def _draw(self) -> None:
        pause = 0.0
        while not self._over.wait(pause):
            began = self._clock()
            try:
                seen = view(self._study, self._curves, self._shown)
                self._live.update(shown_at(seen, self.console.width, self._rates.said(seen)), refresh=True)
            except Exception as error:  # noqa: BLE001  whatever it is, it must not end the search
                if type(error) not in self._told and not self._over.is_set():  # once is enough: it comes again every time
                    self._told.add(type(error))
                    self.noticed(f"the table could not be drawn ({type(error).__name__}: {error})")
            pause = max(EVERY_SECONDS, (self._clock() - began) / SHARE)


class Rates:
    """How fast a study goes, and how long it will take at that, by what has changed since it was first looked at.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._first = clock, dict[str, float]()

    def said(self, seen: StudyView) -> str:
        """As a line; "" as long as nothing has been trained since the first look.

        The trials to come are counted as long as those that have ended; that a search has minutes of its own is not known here.
        """
        ended = [t for t in seen.trials if t.cause not in (RUNNING, INTERRUPTED)]
        now = {"seconds": self._clock(), "ended": len(ended), "epochs": int(seen.summary["epochs_run"])}
        self._first = self._first or now
        seconds, trials, epochs = (now[name] - self._first[name] for name in ("seconds", "ended", "epochs"))
        if seconds <= 0 or epochs <= 0:
            return ""
        usual, rate = sum(len(t.curve) for t in ended) / len(ended) if ended else seen.definition.budget.epochs, epochs / seconds
        under_way = [len(t.curve) for t in seen.trials if t.cause in (RUNNING, INTERRUPTED)]
        left = lasting(minutes_left(usual, max(0, seen.definition.budget.trials - len(seen.trials)), under_way, rate))
        return f"{60 * trials / seconds:.1f} trials a minute, {rate:.1f} epochs a second; about {left} left"


def shown_at(seen: StudyView, width: int, rates: str) -> Group:
    """A study in so many columns."""
    return screen(seen.name, lines(seen), [*totals(seen), *filter(None, [rates])], last(seen), width)


def lines(seen: StudyView) -> list[Line]:
    """The trials that run."""
    epochs = seen.definition.budget.epochs
    return [
        Line(
            t.number,
            t.baseline is not None,
            t.settings,
            len(t.curve),
            epochs,
            t.curve[-1] if t.curve else {},
            tuple(point["objective"] for point in t.curve),
        )
        for t in seen.trials
        if t.cause == RUNNING
    ]


def totals(seen: StudyView) -> list[str]:
    """Best, baselines, counts, epochs saved."""
    best, baselines = seen.summary["best"], [b["value"] for b in seen.summary["baselines"] if b["value"] is not None]
    found = leading((best["value"], f"trial {best['trial']}") if best else None, max(baselines, default=None))
    counts, budget = counted(seen.summary["trials"]), seen.definition.budget.trials
    return [found, f"{counts} of {budget} trials; {seen.summary['epochs_run']} epochs run, {seen.saved} saved"]


def last(seen: StudyView) -> list[str]:
    """The last five verdicts."""
    return [ending(t.number, t.cause, t.reason) for t in seen.trials if t.reason][-5:]
