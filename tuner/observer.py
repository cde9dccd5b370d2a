"""What is told of a search as it goes."""

from __future__ import annotations

from typing import Protocol

import optuna

from tuner.definition import StudyDefinition
from tuner.slots import Running
from tuner.verdict import Verdict


class Watched(Protocol):
    """A search as its observers see it."""

    study: optuna.Study
    definition: StudyDefinition

    @property
    def running(self) -> list[Running]:
        """The trials in slots, by number."""

    @property
    def begun(self) -> int:
        """How many trials of the study run or have ended."""


class Observer:
    """What is told of a search as it goes; the base class listens to nothing."""

    def started(self, running: Running) -> None:
        """A trial entered a slot."""

    def epoch(self, search: Watched) -> None:
        """All running trials advanced by one epoch."""

    def ended(self, running: Running, verdict: Verdict, value: float | None) -> None:
        """A trial ended."""

    def noticed(self, what: str) -> None:
        """Something happened that the user should know of."""


class Several(Observer):
    """Tells several observers, in their order."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def started(self, running: Running) -> None:
        """A trial entered a slot."""
        for one in self._observers:
            one.started(running)

    def epoch(self, search: Watched) -> None:
        """All running trials advanced by one epoch."""
        for one in self._observers:
            one.epoch(search)

    def ended(self, running: Running, verdict: Verdict, value: float | None) -> None:
        """A trial ended."""
        for one in self._observers:
            one.ended(running, verdict, value)

    def noticed(self, what: str) -> None:
        """Something happened that the user should know of."""
        for one in self._observers:
            one.noticed(what)
