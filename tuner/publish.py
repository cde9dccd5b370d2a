"""What optuna-dashboard shows of a study beyond its own: a note with the finding, and charts. Kept current while a search runs.

Written beside the training, by a thread, and so seldom that it takes no more than a small share of the time. What has not changed is not
written again.

The pictures of the trials' curves are drawn here too.
"""

from __future__ import annotations

import math
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import optuna
from optuna_dashboard import save_note, save_plotly_graph_object

from tuner.artifacts import Artifacts, curve_name
from tuner.charts import Figure, charts, one_curve
from tuner.observer import Observer, Watched
from tuner.pictures import png
from tuner.report import markdown
from tuner.storage import Patience
from tuner.tables import CurveTable
from tuner.views import RUNNING, StudyView, view

LEAST_SECONDS, SHARE = 15.0, 0.02


class Publisher(Observer):
    """Publishes one study; whatever goes wrong with that is told of, and the search goes on.

    Args:
        study: on a storage of its own, so that reading it does not keep the search waiting.
        patience: of that storage.
        tell: is told what went wrong.
        clock: seconds.
    """

    def __init__(
        self,
        study: optuna.Study,
        curves: CurveTable,
        artifacts: Artifacts,
        patience: Patience,
        storage_shown: str,
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._study, self._curves, self._artifacts = study, curves, artifacts
        self._shown, self._tell, self._clock = storage_shown, tell, clock
        self._patience, self._leaving = patience, threading.Event()
        self._drawn: set[int] = set()
        self._told: set[type[BaseException]] = set()
        self._written: dict[str, str] = {}
        self._writer = ThreadPoolExecutor(1, "publisher")
        self._writing: Future[None] | None = None
        self._began, self._took = -math.inf, 0.0

    def epoch(self, search: Watched) -> None:  # noqa: ARG002  the storage has all of it
        """Publishes if it is time."""
        self.offer()

    def offer(self) -> None:
        """Publishes if it is time."""
        if self._writing is not None and not self._writing.done():
            return
        if self._clock() - self._began >= max(LEAST_SECONDS, self._took / SHARE):
            self._settle()
            self._began = self._clock()
            self._writing = self._writer.submit(self.publish)

    def _settle(self) -> None:
        writing, self._writing = self._writing, None
        error = None if writing is None else writing.exception()
        if error is not None and type(error) not in self._told:  # once is enough: it comes again every time
            self._told.add(type(error))
            self._tell(f"the dashboard's note and charts could not be written ({type(error).__name__}: {error})")

    def publish(self) -> None:
        """Writes what has changed."""
        began = self._clock()
        seen = view(self._study, self._curves, self._shown)
        if self._changed("note", note := markdown(seen)):
            save_note(self._study, note)
        for chart in charts(seen):
            figure = Figure(chart)
            if self._changed(chart.key, figure.to_json()):
                save_plotly_graph_object(self._study, figure, graph_object_id=chart.key)
        self._draw(seen)
        self._took = self._clock() - began

    def _changed(self, key: str, content: str) -> bool:
        if self._written.get(key) == content:
            return False
        self._written[key] = content
        return True

    def _draw(self, seen: StudyView) -> None:
        """The learning curves of trials that have ended, as pictures for their pages; their names were stored with their ends."""
        for trial in seen.trials:
            if self._leaving.is_set():
                return
            if trial.cause != RUNNING and trial.curve and trial.number not in self._drawn:
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / curve_name(trial.number)
                    path.write_bytes(png(one_curve(trial)))
                    self._artifacts.put(path.name, path)
                self._drawn.add(trial.number)

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Publishes how it ended; who is interrupted must be gone in seconds, and leaves it as it is."""
        if kind is None:
            self._settle()
            self._writing = self._writer.submit(self.publish)
        else:
            self._leaving.set()
            self._patience.seconds = 0.0
        self._settle()
        self._writer.shutdown()
