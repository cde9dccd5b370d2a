"""A confirmation's runs that are under way, held in one file, so that one that is broken off or killed goes on with them.

Training is deterministic: what goes on comes to the same figures as what was never broken off. The file is written between epochs, and
no oftener than a search writes its state.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from tuner.errors import SnapshotError
from tuner.seam import Held
from tuner.snapshots import KEEP_SECONDS, KEEP_SHARE
from tuner.states import SearchState, SlotState, read_state, write_state

Key = tuple[int, int]
"""A run's trial and seed."""
HeldRuns = dict[Key, tuple[int, Held]]
"""How many epochs runs have made, and their states."""


class Halfway:
    """The file.

    Args:
        path: of the file; None: nothing is held.
        study: the mark of the study.
        tell: is told of a file that cannot be written or read; the runs that it would have held begin anew.
        clock: seconds.
    """

    def __init__(self, path: Path | None, study: str, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._study, self._tell, self._clock = path, study, tell, clock
        self._written, self._took = clock(), 0.0

    def found(self) -> HeldRuns:
        """The runs that are held."""
        if self._path is None or not self._path.is_file():
            return {}
        try:
            state = read_state(self._path)
            if state.study != self._study:
                return {}
            (runs,) = state.arrays
            return {(slot.trial, slot.curve[0]["seed"]): (int(slot.curve[0]["epochs"]), slot.held) for slot in runs}
        except (SnapshotError, KeyError, TypeError, IndexError, ValueError) as error:
            self._tell(f"{self._path} cannot be gone on from ({error}); the runs that it holds begin anew")
            return {}

    @property
    def due(self) -> bool:
        """Whether it is time to write."""
        return self._path is not None and self._clock() - self._written >= max(KEEP_SECONDS, self._took / KEEP_SHARE)

    def hold(self, runs: HeldRuns) -> None:
        """Writes runs."""
        if self._path is None:
            return
        began = self._clock()
        slots = (SlotState(trial, ({"seed": seed, "epochs": made},), 0.0, held) for (trial, seed), (made, held) in runs.items())
        try:
            write_state(self._path, SearchState(self._study, 0, (), (tuple(slots),)))
        except OSError as error:
            self._tell(f"the runs under way could not be written ({error}); those of before serve")
        self._written = self._clock()
        self._took = self._written - began

    def forget(self) -> None:
        """Removes the file: nothing is to be gone on from."""
        if self._path is not None:
            with contextlib.suppress(OSError):  # it is of this study's runs, and stays unused
                self._path.unlink(missing_ok=True)
