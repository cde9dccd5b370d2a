"""Whether a search makes progress, for whoever watches its container: a small file that is written after every epoch.

The file that `TUNER_PULSE` names says when the last epoch ended and within how many seconds the next one is to be expected. A search that
hangs does not write it, one that waits for its storage neither. `tuner health` reads it; it needs no storage, and nothing here takes long
to import.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tuner.errors import TunerError

PULSE = "TUNER_PULSE"
LEAST_SECONDS, TIMES = 1200.0, 20.0
"""The next epoch is due within so many seconds, which is longer than a storage that is away is waited for, or within so many times the
longest epoch so far if that is more."""


@dataclass(frozen=True)
class Health:
    """Whether all is well, and why."""

    well: bool
    reason: str


class Pulse:
    """Writes the file.

    Args:
        clock: seconds since the epoch of time, as whoever reads the file has them.

    Raises:
        TunerError: the file cannot be written.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock, self._last, self._longest = path, clock, clock(), 0.0
        try:
            self._write()
        except OSError as error:
            raise TunerError(f"{PULSE} names {path}, which cannot be written ({error.strerror})") from error

    @classmethod
    def asked_for(cls) -> list[Pulse]:
        """One, if the environment names a file for it."""
        path = os.environ.get(PULSE)
        return [cls(Path(path))] if path else []

    def beat(self) -> None:
        """Something went forward. Where that cannot be written the search goes on, and whoever asks hears that it is silent."""
        with contextlib.suppress(OSError):
            self._write()

    def _write(self) -> None:
        now = self._clock()
        self._longest, self._last = max(self._longest, now - self._last), now
        partial = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        partial.write_text(json.dumps({"at": now, "within": max(LEAST_SECONDS, TIMES * self._longest)}))
        partial.replace(self._path)


def health(path: Path, now: float) -> Health:
    """What the file says; without one no search has begun, which is no fault."""
    try:
        said = json.loads(path.read_text())
        silent, within = now - float(said["at"]), float(said["within"])
    except FileNotFoundError:
        return Health(True, "no search has begun")
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Health(False, f"{path} cannot be read ({type(error).__name__}); a search writes it anew after its next epoch")
    well = silent <= within
    judged = "that is normal" if well else f"the limit is {within:.0f}: it seems to hang"
    return Health(well, f"the last epoch ended {silent:.0f} seconds ago; {judged}")
