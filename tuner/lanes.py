"""Arrays that train at the same time: on a CPU small models do not keep two cores busy with one product, so each core has a lane.

Lanes say which trials are together in an array: that, and how many cores an array has, is all that its numbers depend on. So when a core
is free it takes the longest of the arrays that wait, of whichever lane, and decides nothing by it. A lane alone has all cores.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tuner.failures import Outcome, TrainerHangs, advance
from tuner.seam import Trainer

LEAVE_SECONDS = 5.0
"""So long a thread has to end when it is told to; then it is left behind."""
WATCH_SECONDS, WATCH_TIMES = 1800.0, 20
"""An epoch that takes longer than that, and so many times as long as the slowest before it, hangs."""
MOST = 4
"""More lanes than that have not been measured; in threads they wait for each other, for between two products each needs the interpreter."""


@dataclass(frozen=True)
class Job:
    """An epoch of an array: in which lane, its slots, how many seconds it may take, and how many it took before."""

    lane: int
    trainer: Trainer
    slots: int
    seconds: float
    expected: float = 0.0


@dataclass(frozen=True)
class Attempt:
    """What came of it: an outcome for each slot or the trainer's error; and the seconds it took."""

    outcomes: list[Outcome] | None
    error: Exception | None
    seconds: float

    def result(self) -> list[Outcome]:
        """The outcomes, or the error raised."""
        if self.error is not None:
            raise self.error
        return self.outcomes or []


def lanes_of(device: str) -> int:
    """How many lanes a device has: a CPU as many as the cores that torch may use; a GPU one."""
    return min(MOST, torch.get_num_threads()) if device == "cpu" else 1


def attempt(job: Job) -> Attempt:
    """One epoch of one array, here and now."""
    began = time.monotonic()
    try:
        return Attempt(advance(job.trainer, job.slots, job.seconds), None, time.monotonic() - began)
    except TrainerHangs:
        return Attempt(None, TrainerHangs(f"no epoch within {job.seconds:.0f} seconds"), time.monotonic() - began)
    except MemoryError as error:
        return Attempt(None, MemoryError(*error.args), time.monotonic() - began)  # a new one: the old holds what there is no room for
    except Exception as error:  # noqa: BLE001  whoever asks for the result has it
        return Attempt(None, error, time.monotonic() - began)


def advance_all(jobs: Sequence[Job], lanes: int = 0) -> list[Attempt]:
    """One epoch of each array, as many at once as there are lanes; in the order of the jobs. What interrupts it ends all.

    Args:
        lanes: among how many the cores are shared out; as many as the jobs are in where it is not said.
    """
    lanes = lanes or len({job.lane for job in jobs})
    if lanes < 2:
        return [attempt(job) for job in jobs]
    cores, tried = torch.get_num_threads(), dict[int, Attempt]()
    waiting = deque(sorted(range(len(jobs)), key=lambda number: -jobs[number].expected))
    threads = [_Thread(jobs, waiting, tried, max(1, cores // lanes)) for _ in range(min(lanes, len(jobs)))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.wait()
    except BaseException:
        for thread in threads:
            thread.tell(_Over)
        for thread in threads:
            thread.leave(_Over)
        raise
    finally:
        torch.set_num_threads(cores)  # a thread's number is also that of threads to come
    lost = TrainerHangs("it did not come back from its epoch")
    return [tried.get(number, Attempt(None, lost, job.seconds)) for number, job in enumerate(jobs)]


class _Over(BaseException):
    """The search is interrupted."""


class _Thread(threading.Thread):
    """Takes one waiting job after the other."""

    def __init__(self, jobs: Sequence[Job], waiting: deque[int], tried: dict[int, Attempt], cores: int) -> None:
        super().__init__(daemon=True)
        self._jobs, self._waiting, self._tried, self._cores = jobs, waiting, tried, cores
        self._now: tuple[int, float] | None = None  # which job, and since when

    def run(self) -> None:
        with contextlib.suppress(_Over, TrainerHangs, IndexError):
            torch.set_num_threads(self._cores)
            while True:
                number = self._waiting.popleft()
                self._now = number, time.monotonic()
                self._tried[number] = attempt(self._jobs[number])

    def wait(self) -> None:
        """Until no job waits. One that takes too long is told to end; where it does not, it is left behind with its thread."""
        while self.is_alive():
            now = self._now
            left = 1.0 if now is None else now[1] + self._jobs[now[0]].seconds - time.monotonic()
            if left > 0:
                self.join(min(left, 1.0))
            elif now is not None and not self.leave(TrainerHangs, now[0]):
                return

    def tell(self, error: type[BaseException]) -> None:
        """Raises an error in the thread as soon as it is back from what it has called."""
        if self.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident), ctypes.py_object(error))

    def leave(self, error: type[BaseException], job: int | None = None) -> bool:
        """Tells it and waits a little; whether the thread, or the job if one is named, has ended."""
        deadline = time.monotonic() + LEAVE_SECONDS
        while self.is_alive() and self.ident is not None and time.monotonic() < deadline:
            self.tell(error)  # once may not be enough: what is raised in a callback of C++ or in a finaliser goes no further
            self.join(LEAVE_SECONDS / 20)
            if job in self._tried:
                return True
        return not self.is_alive()
