"""Keeps current what optuna-dashboard shows of a study (`display`) while a search runs.

Written beside the training, by a thread, and so seldom that it takes no more than a small share of the time.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING

import optuna

from tuner.artifacts import Artifacts
from tuner.observer import Observer, Watched
from tuner.storage import Patience
from tuner.tables import CurveTable

if TYPE_CHECKING:
    from tuner.display import Display

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
        self._study, self._curves, self._artifacts, self._shown = study, curves, artifacts, storage_shown
        self._tell, self._clock, self._patience, self._leaving = tell, clock, patience, threading.Event()
        self._display: Display | None = None
        self._told: set[type[BaseException]] = set()
        self._writer = ThreadPoolExecutor(1, "publisher")
        self._writing: Future[None] | None = None
        self._began, self._took = -math.inf, 0.0

    def epoch(self, search: Watched) -> None:  # noqa: ARG002  the storage has all of it
        """Publishes if it is time."""
        self.offer()

    def waited(self) -> None:
        """Others train: what they do is to be seen."""
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
        if self._display is None:
            from tuner.display import Display  # here, in the thread, for it takes seconds, and trials are to begin before that

            self._display = Display(self._study, self._curves, self._artifacts, self._shown)
        self._display.write(self._leaving.is_set)
        self._took = self._clock() - began

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
