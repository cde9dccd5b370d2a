"""What a search needs to go on after a kill: its whole state in one file, in the seat of the process that wrote it.

    STUDY/seat-0/lock                   held by a living process; free as soon as that is dead, however it died
    STUDY/seat-0/000042.safetensors     the search after 42 epochs of its lanes; the newest two are kept

A file gets its name only when it is complete. It holds numbers and JSON; nothing in it can be executed. What happened after the newest
state is not lost: training is deterministic (in a budget of minutes, but for the last digits, as trials may have other cores then), so a
search that resumes from there comes to the same endings again, and those that the storage already has are left as they are.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import re
import socket
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from model.files import opened_to_lock
from tuner.artifacts import Artifacts
from tuner.errors import SnapshotError
from tuner.states import SearchState, SlotState, read_state, write_state

KEPT = 2
KEEP_SECONDS, KEEP_SHARE = 10.0, 0.02
"""States are written so many seconds apart at least, and so far that writing takes no more than this share of the time."""
FILE = re.compile(r"\d{6,}\.safetensors")


def _names(host: str, number: int) -> list[str]:
    """The artifacts of a seat: its states take turns in them, so that one that is cut short leaves the other."""
    return [f"{host}/seat-{number}/{turn}" for turn in range(KEPT)]


class Seat:
    """The place of one living process in a study's folder of snapshots: the first that no other living process of this machine has.

    States are written beside the training, by a thread.

    Args:
        artifacts: where other machines find the states too.
    """

    def __init__(self, folder: Path, artifacts: Artifacts | None = None) -> None:
        """Takes a seat.

        Raises:
            SnapshotError: the folder cannot be written.
        """
        self.folder, self.number, self.artifacts = folder, 0, artifacts
        self._fetched: set[tuple[str, int]] = set()
        try:
            while (lock := self._take(self.number)) is None:
                self.number += 1
        except OSError as error:
            raise SnapshotError(f"snapshots cannot be written to {folder}: {error}") from error
        self._lock = lock
        self._writer = ThreadPoolExecutor(1, "snapshots")
        self._writing: Future[None] | None = None
        self._writes = 0
        self.seconds = 0.0
        """What it took to write the last state."""

    def _place(self, number: int) -> Path:
        return self.folder / f"seat-{number}"

    def _take(self, number: int) -> int | None:
        """A seat's lock, None if somebody has it."""
        self._place(number).mkdir(parents=True, exist_ok=True)
        lock = opened_to_lock(self._place(number) / "lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return lock

    def _empty(self, number: int) -> bool:
        lock = self._take(number)
        if lock is not None:
            os.close(lock)
        return lock is not None

    def newest(self, study: str, number: int | None = None, tell: Callable[[str], None] = lambda _: None) -> SearchState | None:
        """The newest state of a seat (of this one) that can be read and is of this study; `tell` is told of one that cannot."""
        for path in self._files(self.number if number is None else number):
            try:
                state = read_state(path)
            except SnapshotError as error:
                tell(f"{error}; an older one is looked for")
                continue
            if state.study == study:
                return state
        return None

    def left_behind(self, study: str, places: Collection[tuple[str, int]] = ()) -> dict[int, SlotState]:
        """The slots in the newest states of all seats that nobody has, by trial: what dead processes were training.

        Args:
            places: hosts and seats of the dead; what lies on another host is looked for among the artifacts, and so is what lay in a seat
                of this one that somebody has by now, which is overwritten where hosts share the folder.
        """
        states: list[SearchState | None] = []
        for place in sorted(self.folder.glob("seat-*")):
            number = int(place.name.removeprefix("seat-"))
            if number != self.number and self._empty(number):
                states.append(self.newest(study, number))
        here = socket.gethostname()
        states += [self._fetch(host, number) for host, number in places if host != here or not self._empty(number)]
        found: dict[int, SlotState] = {}
        for state in states:  # a trial that was taken over before lies in the seat of its first owner too, as it was then
            for number, slot in ({} if state is None or state.study != study else state.slots).items():
                if number not in found or len(found[number].curve) < len(slot.curve):
                    found[number] = slot
        return found

    def elsewhere(self, study: str) -> SearchState | None:
        """The newest state of a seat of this number on a host of this name, from a store that is not on a disk of this machine: where a
        container is replaced by one that has none of its files."""
        state = self._fetch(socket.gethostname(), self.number) if self.artifacts is not None and self.artifacts.remote else None
        return state if state is not None and state.study == study else None

    def _fetch(self, host: str, number: int) -> SearchState | None:
        """The newest state of a seat elsewhere, from the artifacts."""
        states: list[SearchState] = []
        for name in _names(host, number):
            path = self._place(self.number) / "fetched"
            with contextlib.suppress(OSError, SnapshotError):  # it cannot be had, or was cut short: an older one, or the beginning, serves
                if self.artifacts is not None and self.artifacts.get(name, path):
                    self._fetched.add((host, number))
                    states.append(read_state(path))
            path.unlink(missing_ok=True)
        return max(states, key=lambda state: state.epoch, default=None)

    def _files(self, number: int) -> list[Path]:
        """The states of a seat, the newest first."""
        files = (path for path in self._place(number).glob("*.safetensors") if FILE.fullmatch(path.name))
        return sorted(files, key=lambda path: int(path.stem), reverse=True)

    def write(self, state: SearchState) -> None:
        """Begins to write a state; the one before it must have been waited for."""
        self._writing = self._writer.submit(self._write, state)

    @property
    def writing(self) -> bool:
        """Whether a state is being written."""
        return self._writing is not None and not self._writing.done()

    def wait(self) -> None:
        """Until what was begun is written; OSError where it could not be."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, state: SearchState) -> None:
        began = time.monotonic()
        path = self._place(self.number) / f"{state.epoch:06d}.safetensors"
        write_state(path, state)
        files = self._files(self.number)
        later = [path for path in files if int(path.stem) > state.epoch]  # of another study of the name, or unreadable
        for old in (*later, *files[len(later) + KEPT :]):
            old.unlink(missing_ok=True)
        if self.artifacts is not None:
            self.artifacts.put(_names(socket.gethostname(), self.number)[self._writes % KEPT], path)
            self._writes += 1
        self.seconds = time.monotonic() - began

    def clear(self) -> None:
        """Removes this seat's states, and those of seats that nobody has: the search is over."""
        for place in self.folder.glob("seat-*"):
            number = int(place.name.removeprefix("seat-"))
            if number == self.number or self._empty(number):
                for path in self._files(number):
                    path.unlink(missing_ok=True)
                self._fetched.add((socket.gethostname(), number))
        for name in (name for place in self._fetched for name in _names(*place)):
            with contextlib.suppress(OSError):  # what cannot be removed is only in the way
                if self.artifacts is not None:
                    self.artifacts.remove(name)

    def close(self) -> None:
        """Gives the seat up."""
        self._writer.shutdown()
        os.close(self._lock)


class Keeper:
    """Holds the newest state and has it written, not too often; one that cannot be written is told of, and the search goes on.

    Args:
        clock: seconds.
    """

    def __init__(self, seat: Seat, clock: Callable[[], float], tell: Callable[[str], None]) -> None:
        self._seat, self._clock, self._tell = seat, clock, tell
        self._state: SearchState | None = None
        self._written = -math.inf

    def hold(self, state: SearchState) -> None:
        """The state to go on from; its writing begins at once if it is time."""
        self._state = state
        if self._clock() - self._written >= max(KEEP_SECONDS, self._seat.seconds / KEEP_SHARE) and not self._seat.writing:
            self._write()

    def _write(self) -> None:
        self._settle()
        if self._state is not None:
            self._written = self._clock()
            self._seat.write(self._state)
            self._state = None

    def _settle(self) -> None:
        try:
            self._seat.wait()
        except OSError as error:
            self._tell(f"a snapshot could not be written, or not be put among the artifacts ({error}); the one before it serves")

    def forget(self) -> None:
        """Nothing is to be gone on from any more."""
        self._settle()
        self._state = None
        self._seat.clear()

    def finish(self) -> None:
        """Writes the newest state, if it is not, and waits for it."""
        self._write()
        self._settle()
