"""Further workers of a search on this machine: processes of their own, ended when it ends, is interrupted or dies."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from types import TracebackType

from tuner.remote import module

POLL_SECONDS = 2.0


class Crew:
    """Starts one `tuner worker` for each device, and waits for them at the end; where the search fails or is interrupted they are ended.

    The user is told of a worker that fails: its trials go to the others. Each worker holds the reading end of a pipe. When the writing end,
    which is here, is closed, the worker leaves as if it had been asked to once, whether this process closed it or is gone.

    Args:
        width: how many trials each trains at once.
        storage: goes to them through the environment, for it may hold a password, and command lines are for all to see.
        threads: how many cores each may use on a CPU.
        began: when the search began, by `time.monotonic`, from which the minutes of all are counted.
        tell: is told.
        alone: whether a device is that of one process only.
        meanwhile: called every `POLL_SECONDS` while they are waited for.
        telling: their options for what is said on stderr.
    """

    def __init__(
        self,
        study: str,
        storage: str,
        artifacts: str,
        devices: tuple[str, ...],
        width: int,
        threads: int,
        began: float,
        tell: Callable[[str], None],
        alone: Callable[[str], bool],
        meanwhile: Callable[[], None],
        telling: Sequence[str] = (),
    ) -> None:
        self._study, self._devices, self._width, self._began, self._telling = study, devices, width, began, telling
        self._shared = {"OMP_NUM_THREADS": str(threads), "TUNER_STORAGE": storage, "TUNER_ARTIFACTS": artifacts}
        self._workers: list[subprocess.Popen[bytes]] = []
        self._tell, self._alone, self._meanwhile = tell, alone, meanwhile

    def __enter__(self) -> Crew:
        try:
            for device in self._devices:
                command, environment = module("tuner", "worker", self._study, "--device", device)
                command += ["--width", str(self._width), "--of-search", repr(self._began), *self._telling]
                command += ["--alone"] if self._alone(device) else []
                started = subprocess.Popen(
                    command,
                    env={**environment, **self._shared},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C reaches them through us alone: a second signal would end them without a snapshot
                )
                self._workers.append(started)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._end()
        try:
            for worker, device in zip(self._workers, self._devices, strict=False):
                while kind is None and not _ended(worker, POLL_SECONDS):
                    self._meanwhile()
                if worker.wait() and kind is None:
                    self._tell(f"the worker on {device} ended with status {worker.returncode}; its trials went to the others")
        except BaseException:
            self._end()  # they leave too, and need not be waited for
            raise

    @property
    def failed(self) -> bool:
        """Whether none of them came to its end."""
        return all(worker.returncode for worker in self._workers)

    def _end(self) -> None:
        for worker in self._workers:
            if worker.stdin is not None:
                worker.stdin.close()


def _ended(worker: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether it ends within so many seconds."""
    try:
        worker.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True
