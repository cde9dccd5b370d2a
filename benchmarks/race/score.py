"""What the rows of a race say."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from scipy.special import stdtrit

Row = dict[str, Any]
SHARE = 0.98


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


def score(rows: Sequence[Row], minutes: float) -> dict[str, Any]:
    """Each searcher's figures over its seeds. One that never reached the target counts with the whole time."""
    best = max((value for row in rows for _, value in row["ends"]), default=0.0)
    found: dict[str, Any] = {}
    for searcher in dict.fromkeys(row["searcher"] for row in rows):
        own = [row for row in rows if row["searcher"] == searcher]
        times = [reached(row, SHARE * best) for row in own]
        whole = [60 * minutes if time is None else time for time in times]
        found[searcher] = {
            "seeds": len(own),
            "reached": sum(time is not None for time in times),
            "seconds_to_target": {**between(whole), "median": median(whole)},
            "epochs_to_target": median(epochs_by(row, seconds) for row, seconds in zip(own, whole, strict=True)),
            "best_value": between([max((value for _, value in row["ends"]), default=0.0) for row in own]),
            "test": between([row["pick"]["test"]["component_accuracy"] for row in own if row["pick"]]),
            "epochs": between([float(row["epochs"][-1][1]) for row in own if row["epochs"]]),
            "overhead": between([1 - row["busy_share"] for row in own]),
            "peak_mb": between([float(row["peak_mb"]) for row in own]),
            "errors": [row["error"] for row in own if row["error"]],
        }
    return {"best_known": best, "target": SHARE * best, "searchers": found, "cores": os.cpu_count(), "python": platform.python_version()}


def draw(rows: Sequence[Row], minutes: float, path: Path) -> None:
    """The anytime curve: the best value of an ended trial by second, the mean over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    seconds = range(0, int(60 * minutes) + 1)
    for searcher in dict.fromkeys(row["searcher"] for row in rows):
        own = [row for row in rows if row["searcher"] == searcher]
        curve = [fmean(max((value for at, value in row["ends"] if at <= second), default=0.0) for row in own) for second in seconds]
        axes.plot(seconds, curve, label=searcher, linewidth=2.5 if searcher == "tuner" else 1.2)
    axes.set(xlabel="wall time, seconds", ylabel="best component accuracy of an ended trial (validation)")
    axes.legend()
    figure.savefig(path, dpi=120)
