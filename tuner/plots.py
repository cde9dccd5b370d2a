"""Charts as optuna-dashboard draws them: Plotly's JSON, which needs no Plotly here."""

from __future__ import annotations

import json
from typing import Any

from tuner.charts import Chart, Series


class Figure:
    """What optuna-dashboard stores: an object with Plotly's `to_json`."""

    def __init__(self, chart: Chart) -> None:
        self.chart = chart

    def to_json(self) -> str:
        """Data and layout, as compact as can be."""
        chart = self.chart
        named = any(series.kind == "bars" for series in chart.series)  # a baseline may be called 1e-4
        kind = "category" if named else "log" if chart.log_x else "-"
        axis = {"title": {"text": chart.x}, "automargin": True, "type": kind}
        layout: dict[str, Any] = {
            "title": {"text": chart.title, "y": 0.97, "yanchor": "top"},
            "xaxis": axis,
            "yaxis": {"title": {"text": chart.y}, "automargin": True, "rangemode": "tozero"},
            "barmode": "group",
            "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
            "margin": {"t": 110},
            "shapes": [
                {
                    "type": "rect",
                    "yref": "paper",
                    "y0": 0,
                    "y1": 1,
                    "x0": band.low,
                    "x1": band.high,
                    "fillcolor": band.colour,
                    "opacity": 0.15,
                }
                | {"line": {"width": 0}, "label": {"text": band.name, "textposition": "top center"}}
                for band in chart.bands
            ],
        }
        return json.dumps({"data": [self._trace(series) for series in chart.series], "layout": layout}, separators=(",", ":"))

    def _trace(self, series: Series) -> dict[str, Any]:
        rounded = [float(f"{value:.4g}") for value in series.y]
        trace: dict[str, Any] = {"x": list(series.x), "y": rounded, "name": series.name, "showlegend": bool(series.name)}
        if series.kind == "bars":
            return {**trace, "type": "bar", "marker": {"color": series.colour}}
        if series.kind == "points":
            return {**trace, "type": "scatter", "mode": "markers", "marker": {"color": series.colour, "size": 8}}
        line = {"color": series.colour, "width": 1.5, **({"dash": "dash"} if series.dashed else {})}
        trace |= {"type": "scatter", "mode": "lines" if len(rounded) > 1 else "markers", "line": line, "marker": {"color": series.colour}}
        return trace | ({"stackgroup": "one"} if self.chart.stacked else {})
