"""The anytime curve of a race as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.race.score import Row, best_by, between
from benchmarks.race.table import LEAST_SEEDS, title

DRAWN_FROM, SHADED, BANDS = 0.7, 2, 0.15
"""The share of the best value from which on is drawn, of how many searchers an interval is, and how dark it is."""


def draw(rows: Sequence[Row], minutes: float, path: Path) -> None:
    """The best value of an ended trial by second, the mean over seeds; of the two that end best with its 95 % interval, from where on all
    seeds have ended a trial."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.add_subplot()
    seconds = range(0, int(60 * minutes) + 1)
    by_name = {name: [row for row in rows if row["searcher"] == name] for name in dict.fromkeys(row["searcher"] for row in rows)}
    ranked = sorted(by_name, key=lambda name: -fmean(best_by(row, math.inf) for row in by_name[name]))
    for place, name in enumerate(ranked):
        values = [[best_by(row, second) for row in by_name[name]] for second in seconds]
        ours: dict[str, Any] = {"linewidth": 2.5, "color": "black"} if name == "tuner" else {"linewidth": 1.2}
        (line,) = axes.plot(seconds, [fmean(each) for each in values], label=title(name).strip("*`"), **ours)
        if place >= SHADED:
            continue
        known = [(second, between(each)) for second, each in zip(seconds, values, strict=True) if len(each) >= LEAST_SEEDS and all(each)]
        bounds = [[figures[side] for _, figures in known] for side in ("low", "high")]
        axes.fill_between([second for second, _ in known], *bounds, color=line.get_color(), alpha=BANDS, linewidth=0)
    best = max((best_by(row, math.inf) for row in rows), default=1.0)
    axes.set(xlabel="wall time, seconds", ylabel="best component accuracy of an ended trial (validation)")
    axes.set_ylim(DRAWN_FROM * best, 1.02 * best)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=120)
