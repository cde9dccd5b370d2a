"""Charts drawn by matplotlib: SVG to stand in a page, PNG to stand by itself."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tuner.charts import Chart, Series

matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text: it can be read, searched and is small
matplotlib.rcParams["svg.hashsalt"] = "tuner"  # the same chart is the same file
SIZE = 7.2, 3.8


def svg(chart: Chart) -> str:
    """An `<svg>` element."""
    text = io.StringIO()
    _drawn(chart).savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def png(chart: Chart, dots: int = 110) -> bytes:
    """A PNG file, so many dots an inch."""
    found = io.BytesIO()
    _drawn(chart).savefig(found, format="png", dpi=dots, metadata={"Software": None})
    return found.getvalue()


def _drawn(chart: Chart) -> Figure:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(chart.title, fontsize=11, loc="left", parse_math=False)
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="y", alpha=0.25)
    if chart.log_x:
        axes.set_xscale("log")
    elif chart.x == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for band in chart.bands:
        axes.axvspan(band.low, band.high, color=band.colour, alpha=0.15, lw=0, label=band.name)
    bars = [series for series in chart.series if series.kind == "bars"]
    _bars(axes, bars)
    lines = [series for series in chart.series if series.kind != "bars"]
    if chart.stacked and lines:
        names, colours = [series.name for series in lines], [series.colour for series in lines]
        axes.stackplot(lines[0].x, *(series.y for series in lines), labels=names, colors=colours, alpha=0.8)
        axes.margins(0)
    else:
        for series in lines:
            _line(axes, series)
    if any(series.name for series in chart.series) or chart.bands:
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _line(axes: Any, series: Series) -> None:
    label = series.name or "_"
    if series.kind == "points":
        axes.scatter(series.x, series.y, s=18, color=series.colour, label=label, alpha=0.85)
    else:
        style = {"ls": "--"} if series.dashed else {"marker": "o", "ms": 2} if len(series.x) == 1 else {}
        axes.plot(series.x, series.y, color=series.colour, lw=1.2, alpha=0.9, label=label, **style)


def _bars(axes: Any, bars: list[Series]) -> None:
    """Groups of bars, one group for each name on the x axis."""
    names = list(dict.fromkeys(name for series in bars for name in series.x))
    if not names:
        return
    at_once = max(sum(name in series.x for series in bars) for name in names)
    width = 0.8 / at_once
    for number, series in enumerate(bars):
        shift = (number - (at_once - 1) / 2) * width if at_once > 1 else 0.0
        axes.bar([names.index(name) + shift for name in series.x], series.y, width, color=series.colour, label=series.name or "_")
    turned = {"rotation": 20, "ha": "right"} if len(names) > 4 else {"rotation": 0, "ha": "center"}
    axes.set_xticks(range(len(names)), names, fontsize=8, parse_math=False, **turned)
