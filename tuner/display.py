"""What optuna-dashboard shows of a study beyond its own: a note with the finding, charts, and the trials' curves as pictures.

It loads what draws, and optuna-dashboard: seconds, which no search waits for (see `publish`). What has not changed is not written again.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna_dashboard import save_note, save_plotly_graph_object
from optuna_dashboard._note import get_note

from tuner.artifacts import Artifacts, curve_name
from tuner.charts import charts, one_curve
from tuner.pictures import png
from tuner.plots import Figure
from tuner.report import markdown
from tuner.tables import CurveTable
from tuner.views import INTERRUPTED, RUNNING, StudyView, view

NOTE = "note_written"
"""The study's attribute that tells our own note from somebody's."""


def _mark(note: str) -> str:
    return hashlib.sha256(note.encode()).hexdigest()[:16]


class Display:
    """What is shown of one study."""

    def __init__(self, study: optuna.Study, curves: CurveTable, artifacts: Artifacts, storage_shown: str) -> None:
        self._study, self._curves, self._artifacts, self._shown = study, curves, artifacts, storage_shown
        self._drawn: set[int] = set()
        self._written: dict[str, str] = {}

    def write(self, leaving: Callable[[], bool]) -> None:
        """Writes what has changed; between two pictures it is asked whether to stop."""
        seen = view(self._study, self._curves, self._shown)
        self._note(markdown(seen))
        for chart in charts(seen):
            figure = Figure(chart)
            if self._written.get(chart.key) != (content := figure.to_json()):
                save_plotly_graph_object(self._study, figure, graph_object_id=chart.key)
                self._written[chart.key] = content
        self._draw(seen, leaving)

    def _note(self, note: str) -> None:
        """The study's note, unless somebody has written into it: then it is his."""
        if self._written.get(NOTE) == note:
            return
        there, ours = get_note(self._study), self._study.user_attrs.get(NOTE, "").split()
        if there and _mark(there) not in ours:
            return
        self._study.set_user_attr(NOTE, f"{_mark(there)} {_mark(note)}")  # killed between this and the next it is known by either
        save_note(self._study, note)
        self._study.set_user_attr(NOTE, _mark(note))
        self._written[NOTE] = note

    def _draw(self, seen: StudyView, leaving: Callable[[], bool]) -> None:
        """The learning curves of trials that have ended, as pictures for their pages; their names were stored with their ends."""
        for trial in seen.trials:
            if leaving():
                return
            if trial.cause not in (RUNNING, INTERRUPTED) and trial.curve and trial.number not in self._drawn:
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / curve_name(trial.number)
                    path.write_bytes(png(one_curve(trial)))
                    self._artifacts.put(path.name, path)
                self._drawn.add(trial.number)
