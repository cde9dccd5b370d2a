"""A search as lines of JSON on stderr, for machines that collect logs: one object a line, with study, trial, slot and epoch."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import sys
from typing import Any, TextIO, cast

from rich.console import Console

from tuner.observer import Observer, Watched
from tuner.options import with_nulls
from tuner.slots import Running
from tuner.verdict import Verdict

WIDE = 100_000
"""So many columns that nothing is wrapped."""


def line(event: str, level: str = "info", **what: Any) -> str:
    """One event, with the time it is told at."""
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    return json.dumps(with_nulls({"at": at, "level": level, "event": event, **what}), allow_nan=False)


def json_console(stream: TextIO) -> Console:
    """A console each of whose lines becomes an event `said`."""
    lines = cast(TextIO, _Lines(stream))  # rich only writes to it
    return Console(file=lines, force_terminal=False, width=WIDE, color_system=None)


def telling(log_format: str) -> tuple[Console, TextIO | None]:
    """Where a command says what it does, on stderr, and where events go as lines of JSON; None: they are said in words."""
    return (Console(stderr=True), None) if log_format == "text" else (json_console(sys.stderr), sys.stderr)


class _Lines(io.TextIOBase):
    """Takes text, gives lines of JSON."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._begun = stream, ""

    def write(self, text: str) -> int:
        """Whole lines at once; what is begun waits for its end."""
        *ended, self._begun = (self._begun + text).split("\n")
        for said in filter(str.strip, ended):
            self._stream.write(line("said", message=said.strip()) + "\n")
        return len(text)

    def flush(self) -> None:
        """As the stream does."""
        self._stream.flush()


def _last(running: Running) -> dict[str, Any]:
    """A trial's newest figures."""
    last = running.curve[-1] if running.curve else {}
    return {"loss": last.get("loss"), "component_accuracy": last.get("objective")}


class JsonEvents(Observer):
    """One line an event.

    Args:
        study: its full name.
        words: -1 leaves out what goes well, 1 tells of each epoch too, as in text.
    """

    def __init__(self, study: str, stream: TextIO, words: int = 0) -> None:
        self._study, self._stream, self._words = study, stream, words
        self._slots: dict[int, int] = {}

    def _say(self, event: str, level: str = "info", **what: Any) -> None:
        if level != "info" or self._words >= 0:
            with contextlib.suppress(OSError):  # a log on a disk that is full costs its lines, not the search
                self._stream.write(line(event, level, study=self._study, **what) + "\n")
                self._stream.flush()

    def _where(self, running: Running) -> dict[str, Any]:
        """Its slot as one counts from outside: the lowest number that no other running trial has."""
        if running.number not in self._slots:
            taken = set(self._slots.values())
            self._slots[running.number] = next(slot for slot in range(len(taken) + 1) if slot not in taken)
        return {"trial": running.number, "slot": self._slots[running.number], "epoch": len(running.curve)}

    def started(self, running: Running) -> None:
        """The trial and its settings."""
        self._say("started", **self._where(running), params=running.trial.params, baseline=running.baseline)

    def epoch(self, search: Watched) -> None:
        """Loss and component accuracy of each trial that has made one."""
        for one in search.advanced if self._words > 0 else ():
            if one.number in self._slots:  # else it has ended in this epoch, and that has been said
                self._say("epoch", **self._where(one), **_last(one))

    def ended(self, running: Running, verdict: Verdict, value: float | None) -> None:  # noqa: ARG002  it is its last figure
        """The verdict."""
        self._say("ended", **self._where(running), cause=verdict.cause, reason=verdict.reason, **_last(running))
        self.left(running)

    def left(self, running: Running) -> None:
        """Its slot is free."""
        self._slots.pop(running.number, None)

    def noticed(self, what: str) -> None:
        """As it is."""
        self._say("noticed", "warning", message=what)
