"""A running search as its own terminal shows it, from another terminal or machine: read from the storage."""

from __future__ import annotations

import threading

from rich.console import Console
from rich.live import Live

from tuner.buffer import BufferedStorage
from tuner.progress import Line, screen
from tuner.storage import open_storage, shown
from tuner.study import complete, find_study
from tuner.tables import CurveTable
from tuner.views import RUNNING, StudyView, view

EVERY_SECONDS = 2.0
IDLE_LOOKS = 5
"""So often in a row no trial runs where a search has ended before its trials: by its minutes, or because it was stopped."""


def watch(storage_url: str, name: str, console: Console) -> None:
    """Shows a study until nobody trains it any more, or until interrupted; once where there is no terminal.

    Raises:
        StudyError: there is no such study.
    """
    storage = open_storage(storage_url, create=False)
    study = find_study(BufferedStorage(storage), name)
    curves, pause, idle = CurveTable(storage, study._study_id), threading.Event(), 0
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            seen = view(study, curves, shown(storage_url))
            live.update(screen(seen.name, lines(seen), totals(seen), last(seen), console.width), refresh=True)
            idle = idle + 1 if seen.trials and not seen.summary["running"] else 0
            if not console.is_terminal or idle == IDLE_LOOKS or (idle and complete(study, seen.definition)):
                return
            pause.wait(EVERY_SECONDS)


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
    found = f"best {best['value']:.3f} (trial {best['trial']})" if best else "best -"
    beside = f"best baseline {max(baselines):.3f}" if baselines else "no baseline (*) has ended"
    counts = ", ".join(f"{number} {cause}" for cause, number in seen.summary["trials"].items()) or "none ended"
    budget = seen.definition.budget.trials
    return [f"{found}, {beside}", f"{counts} of {budget} trials; {seen.summary['epochs_run']} epochs run, {seen.saved} saved"]


def last(seen: StudyView) -> list[str]:
    """The last five verdicts."""
    return [f"trial {t.number} {t.cause}: {t.reason}" for t in seen.trials if t.reason][-5:]
