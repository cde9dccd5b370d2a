"""Whose a running trial is: a process on a host, in a seat of the study, last seen at some time. Stored with the trial."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tuner.errors import StorageError

OWNER = "owner"
"""The attribute of a running trial that says whose it is."""
SAID: dict[str, type | tuple[type, ...]] = {"host": str, "pid": int, "started": str, "seat": int, "seen": (int, float)}
BEAT_SECONDS, SILENT_SECONDS = 30.0, 300.0
PROCESSES, GONE = Path("/proc"), ("Z", "X")
"""Where Linux tells of processes, and the states of those that only their parents still know."""


def owner(seat: int) -> dict[str, Any]:
    """This process in this seat, seen now."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "started": _started_at(pid), "seat": seat, "seen": time.time()}


def _readable(owner: Any) -> Mapping[str, Any] | None:
    """An owner as `owner` says it; None of anything else, for whoever can write to the database can write what he likes."""
    if isinstance(owner, Mapping) and all(isinstance(owner.get(name), kind) for name, kind in SAID.items()):
        return owner
    return None


def seat_of(owner: Any) -> tuple[str, int] | None:
    """The host and the seat of an owner."""
    known = _readable(owner)
    return None if known is None else (known["host"], known["seat"])


def in_seat(owner: Any, seat: int) -> bool:
    """Whether the owner was in this seat of this host: a process before this one that is dead, or this one itself."""
    return seat_of(owner) == (socket.gethostname(), seat) and (itself(owner) or not alive(owner))


def itself(owner: Any) -> bool:
    """Whether the owner is this very process."""
    known, pid = _readable(owner), os.getpid()
    return known is not None and (known["host"], known["pid"], known["started"]) == (socket.gethostname(), pid, _started_at(pid))


def gone(seat: int) -> dict[str, Any]:
    """This process in this seat as one that has left: whoever comes next may take its trials up."""
    return {**owner(seat), "started": "", "seen": 0.0}


def alive(owner: Any, back: float = 0.0) -> bool:
    """Whether the process that owns a trial still runs; one on another host (or in another container) must have been seen of late.

    Args:
        back: when the storage came back after it had been away: nobody could be seen before.
    """
    known = _readable(owner)
    if known is None:
        return False
    if known["host"] != socket.gethostname():
        seen = float(known["seen"])
        return seen > 0 and time.time() - max(seen, back) < SILENT_SECONDS
    return bool(known["started"]) and _started_at(known["pid"]) == known["started"]


def _started_at(pid: int) -> str:
    """When a process of this machine began, so that a number used again is told apart; empty if it is gone. In clock ticks since boot, or
    where there is no /proc as `ps` says it."""
    if not PROCESSES.is_dir():
        return _by_ps(pid)
    try:
        fields = (PROCESSES / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in GONE else fields[19]


def _by_ps(pid: int) -> str:
    listed = subprocess.run(["ps", "-o", "state=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    state, _, began = listed.strip().partition(" ")
    return "" if state[:1] in GONE else " ".join(began.split())


class Heart:
    """Beats in a thread of its own, so that a long epoch is not taken for a death.

    Args:
        beat: what is done every `BEAT_SECONDS`; a beat that fails because the storage is away is left out.
    """

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat, self._over = beat, threading.Event()
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with contextlib.suppress(StorageError):
                self._beat()

    def stop(self) -> None:
        """Ends the thread."""
        self._over.set()
        self._thread.join()
