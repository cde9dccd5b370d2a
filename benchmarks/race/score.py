"""What the rows of a race say."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from statistics import fmean, median, stdev
from typing import Any

from scipy.special import stdtrit

Row = dict[str, Any]
SHARE = 0.98
LEVELS = (0.92, 0.94, 0.96, 0.98)
"""Shares of the best value that any row knows: how soon each is reached."""
QUARTERS, POINTS = 4, 24


def of_race(row: Row, stories: int, epochs: int, minutes: float, device: str = "cpu", corpus: str | None = None) -> bool:
    """Whether a row is of the race with so many stories, epochs a trial and minutes on this device, with these data (None: any)."""
    task = row["task"]
    same = (task["stories"], task["epochs"], task["minutes"], task.get("device", "cpu")) == (stories, epochs, minutes, device)
    return same and corpus in (None, task["corpus"])


def corpora(rows: Sequence[Row]) -> list[str]:
    """The names of the data that rows are of."""
    return list(dict.fromkeys(row["task"]["corpus"] for row in rows))


def between(values: Sequence[float]) -> dict[str, float | None]:
    """The mean and its 95 % interval (Student's t over seeds); without bounds where there is one value."""
    if len(values) < 2:
        return {"mean": values[0] if values else None, "low": None, "high": None}
    half = float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / math.sqrt(len(values))
    return {"mean": round(fmean(values), 5), "low": round(fmean(values) - half, 5), "high": round(fmean(values) + half, 5)}


def reached(row: Row, target: float) -> float | None:
    """Seconds until a trial ended with at least this value."""
    return next((at for at, value in sorted(row["ends"]) if value >= target), None)


def epochs_by(row: Row, seconds: float) -> int:
    """The epochs that had been trained by then."""
    return max((int(count) for at, count in row["epochs"] if at <= seconds), default=0)


def best_by(row: Row, seconds: float) -> float:
    """The best value of a trial that had ended by then; 0 where none had."""
    return max((float(value) for at, value in row["ends"] if at <= seconds), default=0.0)


def _soon(row: Row, level: float, whole: float) -> float:
    at = reached(row, level)
    return whole if at is None else at


def _points(minutes: float, count: int) -> list[int]:
    """Seconds, evenly over so many minutes."""
    return [round(60 * minutes * point / count) for point in range(1, count + 1)]


def score(rows: Sequence[Row], minutes: float) -> dict[str, Any]:
    """Each searcher's figures over its seeds. One that never reached the target counts with the whole time."""
    best = max((best_by(row, math.inf) for row in rows), default=0.0)
    found: dict[str, Any] = {}
    for searcher in dict.fromkeys(row["searcher"] for row in rows):
        own = [row for row in rows if row["searcher"] == searcher]
        whole = [_soon(row, SHARE * best, 60 * minutes) for row in own]
        found[searcher] = {
            "seeds": len(own),
            "reached": sum(reached(row, SHARE * best) is not None for row in own),
            "seconds_to_target": {**between(whole), "median": median(whole)},
            "epochs_to_target": between([float(epochs_by(row, seconds)) for row, seconds in zip(own, whole, strict=True)]),
            "seconds_to_share": {str(share): round(fmean(_soon(row, share * best, 60 * minutes) for row in own), 1) for share in LEVELS},
            "best_by_second": {str(second): round(fmean(best_by(row, second) for row in own), 4) for second in _points(minutes, QUARTERS)},
            "anytime": {str(second): between([best_by(row, second) for row in own]) for second in _points(minutes, POINTS)},
            "best_value": between([best_by(row, math.inf) for row in own]),
            "test": between([row["pick"]["test"]["component_accuracy"] for row in own if row["pick"]]),
            "epochs": between([float(row["epochs"][-1][1]) for row in own if row["epochs"]]),
            "overhead": between([1 - row["busy_share"] for row in own]),
            "peak_mb": between([float(row["peak_mb"]) for row in own]),
            "ms_a_step": between([row["machine"]["ms_a_step"] for row in own if "machine" in row]),
            "errors": [row["error"] for row in own if row["error"]],
        }
    return {"best_known": best, "target": SHARE * best, "searchers": found, "cores": os.cpu_count(), "python": platform.python_version()}
