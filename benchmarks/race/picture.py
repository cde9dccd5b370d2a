"""The anytime curve of a race as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.race.score import Row, best_by, between
from benchmarks.race.table import LEAST_SEEDS, TITLES, title
from benchmarks.race.task import OURS

DRAWN_FROM, SHADED, BANDS = 0.7, 2, 0.15
"""The share of the best value from which on is drawn, of how many searchers an interval is, and how dark it is."""


@dataclass(frozen=True)
class Curve:
    """A searcher's mean by second, and its 95 % interval from when on all seeds have ended a trial (empty: fewer than three)."""

    name: str
    mean: Sequence[float]
    band: dict[int, tuple[float, float]]

    @property
    def style(self) -> dict[str, Any]:
        """How its line is drawn: each searcher in the same way in all pictures."""
        if self.name == OURS:
            return {"linewidth": 2.5, "color": "black"}
        known = list(TITLES)
        return {"linewidth": 1.2, "color": f"C{known.index(self.name) if self.name in known else len(known)}"}


def curves(rows: Sequence[Row], minutes: float) -> list[Curve]:
    """Those of all searchers, what ends best first."""
    seconds, found = range(0, int(60 * minutes) + 1), list[Curve]()
    for name in dict.fromkeys(row["searcher"] for row in rows):
        values = [[best_by(row, second) for row in rows if row["searcher"] == name] for second in seconds]
        known = {second: between(each) for second, each in zip(seconds, values, strict=True) if len(each) >= LEAST_SEEDS and all(each)}
        band = {second: (figures["low"] or 0.0, figures["high"] or 0.0) for second, figures in known.items()}
        found.append(Curve(name, [fmean(each) for each in values], band))
    return sorted(found, key=lambda curve: -curve.mean[-1])


def draw(rows: Sequence[Row], minutes: float, path: Path) -> None:
    """The best value of an ended trial by second, the mean over seeds; of the two that end best with its interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.add_subplot()
    for place, curve in enumerate(curves(rows, minutes)):
        axes.plot(range(len(curve.mean)), curve.mean, label=title(curve.name).strip("*`"), **curve.style)
        if place < SHADED:
            low, high = ([bounds[side] for bounds in curve.band.values()] for side in (0, 1))
            axes.fill_between(list(curve.band), low, high, color=curve.style["color"], alpha=BANDS, linewidth=0)
    best = max((best_by(row, math.inf) for row in rows), default=0.0) or 1.0
    axes.set(xlabel="wall time, seconds", ylabel="best component accuracy of an ended trial (validation)")
    axes.set_ylim(DRAWN_FROM * best, 1.02 * best)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=120)
