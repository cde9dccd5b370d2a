"""What is told of a search as it goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import optuna

from tuner.definition import StudyDefinition
from tuner.health import Pulse
from tuner.verdict import Verdict

if TYPE_CHECKING:
    from tuner.slots import Running  # who looks on loads nothing that trains


class Watched(Protocol):
    """A search as its observers see it: how many epochs all trials have made in this run, and which have just made one."""

    study: optuna.Study
    definition: StudyDefinition
    epochs: int
    advanced: list[Running]

    @property
    def running(self) -> list[Running]:
        """The trials in slots, by number."""

    @property
    def begun(self) -> int:
        """How many trials of the study run or have ended."""

    @property
    def width(self) -> int:
        """How many trials may train at once."""

    @property
    def spent(self) -> Mapping[str, float]:
        """The seconds of this run, by what they were spent on."""

    @property
    def waiting_writes(self) -> int:
        """How many rows the storage has not written yet."""


class Observer:
    """What is told of a search as it goes; the base class listens to nothing."""

    def started(self, running: Running) -> None:
        """A trial entered a slot."""

    def epoch(self, search: Watched) -> None:
        """A lane's trials advanced by one epoch."""

    def ended(self, running: Running, verdict: Verdict, value: float | None) -> None:
        """A trial ended; `value` is what it came to if it counts: neither stopped nor below the floor on the round trip."""

    def left(self, running: Running) -> None:
        """A trial left its slot that has not ended here: somebody else has ended it or taken it over, or it had ended before a kill."""

    def noticed(self, what: str) -> None:
        """Something happened that the user should know of."""

    def waited(self) -> None:
        """Others train trials of the study, there is nothing to do here, and that is as it should be."""


class Several(Observer):
    """Tells several observers, in their order."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def started(self, running: Running) -> None:
        """A trial entered a slot."""
        for one in self._observers:
            one.started(running)

    def epoch(self, search: Watched) -> None:
        """A lane's trials advanced by one epoch."""
        for one in self._observers:
            one.epoch(search)

    def ended(self, running: Running, verdict: Verdict, value: float | None) -> None:
        """A trial ended."""
        for one in self._observers:
            one.ended(running, verdict, value)

    def left(self, running: Running) -> None:
        """Somebody else has ended a trial or taken it over."""
        for one in self._observers:
            one.left(running)

    def noticed(self, what: str) -> None:
        """Something happened that the user should know of."""
        for one in self._observers:
            one.noticed(what)

    def waited(self) -> None:
        """Others train; there is nothing to do here."""
        for one in self._observers:
            one.waited()


class Beating(Observer):
    """Tells whoever watches the process that the search goes forward (see `health`)."""

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse

    def epoch(self, search: Watched) -> None:  # noqa: ARG002  that it came so far is all
        """An epoch has ended."""
        self._pulse.beat()

    def waited(self) -> None:
        """Nothing hangs here."""
        self._pulse.beat()
