"""Charts of a study as plain data, drawn in two ways: for optuna-dashboard as Plotly's JSON, for reports and pictures by matplotlib.

A chart knows what its axes are and in which unit; how it looks is up to those who draw it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.config import Hyperparameters, ModelShape, flat_settings
from tuner.views import CAUSES, StudyView, TrialView

COLOURS = {
    "finished": "#2a7f3f",
    "outpaced": "#8a8f98",
    "plateaued": "#d08a00",
    "exploded": "#c0392b",
    "failed": "#7d3c98",
    "out_of_memory": "#5b4636",
    "interrupted": "#aab4bf",
    "running": "#2e6fb7",
}
PARTS = {"parse": "#2e6fb7", "generate": "#2a7f3f", "cycle_forward": "#d08a00", "cycle_backward": "#c0392b"}
ROLES = {"entity": "#2e6fb7", "relation": "#2a7f3f", "value": "#d08a00"}
MOST_CURVES = 120
"""More than so many curves are a smear; the best are drawn, and the latest."""
DEFAULTS = flat_settings(ModelShape(), Hyperparameters())
"""What a trial is trained with where its study names nothing."""


@dataclass(frozen=True)
class Series:
    """One line, one set of points or one set of bars.

    Args:
        kind: line, points or bars.
        name: for the legend; "" for what needs no entry of its own.
    """

    kind: str
    name: str
    x: Sequence[Any]
    y: Sequence[float]
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class Band:
    """A region of the x axis with a name."""

    name: str
    low: float
    high: float
    colour: str


@dataclass(frozen=True)
class Chart:
    """A chart: `key` is its name in addresses, `x` and `y` say what the axes are and in which unit."""

    key: str
    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    bands: tuple[Band, ...] = ()
    log_x: bool = False
    stacked: bool = False


def charts(seen: StudyView) -> list[Chart]:
    """All charts that there is something to draw for."""
    made = [curves(seen), components(seen), rates(seen), spent(seen), *losses(seen)]
    return [chart for chart in made if chart.series]


def _series(kind: str, name: str, points: Sequence[tuple[Any, float]], colour: str) -> Series:
    return Series(kind, name, [x for x, _ in points], [y for _, y in points], colour)


def _shown(seen: StudyView) -> list[TrialView]:
    """The best and the baselines, as far as they have a curve."""
    return [t for t in seen.trials if t.curve and (t.number == seen.best or t.baseline)]


def curves(seen: StudyView) -> Chart:
    """Component accuracy by epoch, coloured by how the trial ended."""
    drawn = sorted(seen.trials, key=lambda t: (t.number != seen.best, t.baseline is None, -(t.value or 0.0), -t.number))[:MOST_CURVES]
    named: set[str] = set()
    series = []
    for trial in sorted(drawn, key=lambda t: (CAUSES.index(t.cause), t.number)):
        points = [(p["epoch"], p["objective"]) for p in trial.curve if math.isfinite(p["objective"])]
        if points:
            name = trial.cause if trial.cause not in named else ""
            named.add(trial.cause)
            series.append(_series("line", name, points, COLOURS[trial.cause]))
    ends = max((e for s in series for e in s.x), default=0)
    bounds = [
        Series("line", name, [1, max(ends, 2)], [value, value], "#444444", dashed=True)
        for name, value in (
            ("ceiling", seen.summary["ceiling"]["component_accuracy"]),
            ("most frequent", seen.summary["most_frequent"]["component_accuracy"]),
        )
    ]
    left = len(seen.trials) - len(drawn)
    title = "Learning curves by how the trial ended" + (f" ({left} of {len(seen.trials)} not drawn)" if left else "")
    return Chart("curves", title, "epoch", "component accuracy (share)", (*series, *bounds) if series else ())


def components(seen: StudyView) -> Chart:
    """Accuracy of each component: the best and the baselines beside what is trivial and what can be had."""
    shown = _shown(seen)
    columns: list[tuple[str, Mapping[str, Any]]] = [("most frequent", seen.summary["most_frequent"])]
    columns += [(t.label, t.curve[-1]) for t in sorted(shown, key=lambda t: t.number == seen.best)]
    columns.append(("ceiling", seen.summary["ceiling"]))
    series = [
        _series("bars", role, [(name, float(found.get(role, 0.0))) for name, found in columns], colour)
        for role, colour in ROLES.items()
        if any(role in found for _, found in columns[1:-1])
    ]
    return Chart("components", "Accuracy by component", "", "accuracy (share)", tuple(series) if shown else ())


def rates(seen: StudyView) -> Chart:
    """What each learning rate came to, and where the plateau is."""
    series = []
    for cause in CAUSES:
        points = [(t.settings["lr"], t.reached) for t in seen.trials if t.cause == cause and "lr" in t.settings and t.reached is not None]
        if points:
            series.append(_series("points", cause, points, COLOURS[cause]))
    bands = () if seen.plateau is None else (Band("plateau", *seen.plateau, "#d08a00"),)
    return Chart(
        "learning_rate", "Learning rate and result", "learning rate", "last component accuracy (share)", tuple(series), bands, True
    )


def spent(seen: StudyView) -> Chart:
    """Epochs trained, by how the trials ended."""
    epochs = seen.epochs
    there = {cause: epochs[cause] for cause in CAUSES if cause in epochs}
    series = [Series("bars", "", [cause], [count], COLOURS[cause]) for cause, count in there.items()]
    if seen.saved:
        series.append(Series("bars", "", ["saved by stopping"], [seen.saved], "#b9d8c2"))
    return Chart("epochs", "Where the epochs went", "", "epochs of one trial", tuple(series))


def losses(seen: StudyView) -> list[Chart]:
    """The four losses of the best trial and of each baseline, weighted, as shares of their sum."""
    made = []
    for trial in _shown(seen):
        points = [(p["epoch"], p["losses"]) for p in trial.curve if all(math.isfinite(v) for v in p["losses"].values())]
        parts = [name for name in PARTS if points and all(name in found for _, found in points)]
        settings = {**DEFAULTS, **trial.settings}
        weighted = [{name: settings[f"loss_weights.{name}"] * found[name] for name in parts} for _, found in points]
        sums = [sum(found.values()) or 1.0 for found in weighted]
        epochs = [epoch for epoch, _ in points]
        shares = [{name: found[name] / total for name in parts} for found, total in zip(weighted, sums, strict=True)]
        series = [Series("line", name, epochs, [found[name] for found in shares], PARTS[name]) for name in parts]
        title = f"What the loss is made of: {trial.label}"
        made.append(Chart(f"losses-{trial.number}", title, "epoch", "share of the weighted loss", tuple(series), stacked=True))
        own = [Series("line", name, epochs, [found[name] for _, found in points], PARTS[name]) for name in parts]
        made.append(Chart(f"nats-{trial.number}", f"The four losses: {trial.label}", "epoch", "loss (nats)", tuple(own)))
    return made


def one_curve(trial: TrialView) -> Chart:
    """A trial's own learning curve, for its page."""
    points = [p for p in trial.curve if math.isfinite(p["objective"])]
    epochs = [p["epoch"] for p in points]
    lines = [("component accuracy", "objective", "#111111"), *((role, role, colour) for role, colour in ROLES.items())]
    given = [(name, key, colour) for name, key, colour in lines if all(key in p for p in points)]
    series = [Series("line", name, epochs, [p[key] for p in points], colour) for name, key, colour in given]
    return Chart(f"trial-{trial.number}", f"{trial.label}: {trial.cause}", "epoch", "accuracy (share)", tuple(series))
