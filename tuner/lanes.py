"""Arrays that train at the same time: on a CPU one matrix product of small models cannot keep two cores busy, so each core has a lane.

An array's results depend on its trials and on how many cores it has, not on when it trains. So a search lets each lane train independently
(`UnderWay`) and takes the results in an order that is known beforehand. Confirming trains in rounds, one after the other, in which a free
core takes the longest of the arrays that wait (`advance_all`).
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from tuner.failures import Outcome, TrainerHangs, advance
from tuner.seam import Trainer

LEAVE_SECONDS = 5.0
"""How long a thread has to end when it is told to; then it is abandoned."""
WATCH_SECONDS, WATCH_TIMES = 1800.0, 20
"""An epoch hangs if it takes longer than so many seconds, and longer than so many times the slowest epoch before it."""
MOST = 4
"""More lanes have not been measured. As threads they wait for each other, because each needs the interpreter between two products."""


@dataclass(frozen=True)
class Job:
    """An epoch of an array: its trainer and number of slots, the seconds it may take, how long it takes compared with others, a clock."""

    trainer: Trainer
    slots: int
    seconds: float
    expected: float = 0.0
    clock: Callable[[], float] = time.monotonic


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
    began = job.clock()
    try:
        return Attempt(advance(job.trainer, job.slots, job.seconds), None, job.clock() - began)
    except TrainerHangs:
        return Attempt(None, TrainerHangs(f"no epoch within {job.seconds:.0f} seconds"), job.clock() - began)
    except MemoryError as error:
        return Attempt(None, MemoryError(*error.args), job.clock() - began)  # a new one: the old holds what there is no room for
    except Exception as error:  # noqa: BLE001  whoever asks for the result has it
        return Attempt(None, error, job.clock() - began)


def advance_all(jobs: Sequence[Job], lanes: int) -> list[Attempt]:
    """One epoch of each array, as many at once as there are lanes; results in the order of the jobs. An interruption ends all of them.

    Args:
        lanes: how many share the cores.
    """
    if lanes < 2:
        return [attempt(job) for job in jobs]
    tried = dict[int, Attempt]()
    waiting = deque(sorted(range(len(jobs)), key=lambda number: -jobs[number].expected))
    with shared_out(lanes):
        threads = [_Thread(jobs, waiting, tried, torch.get_num_threads()) for _ in range(min(lanes, len(jobs)))]
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
    return [tried.get(number, _lost(job)) for number, job in enumerate(jobs)]


@contextlib.contextmanager
def shared_out(lanes: int) -> Iterator[None]:
    """The cores shared out among so many lanes, for this thread and those that begin here."""
    cores = torch.get_num_threads()
    torch.set_num_threads(max(1, cores // lanes))
    try:
        yield
    finally:
        torch.set_num_threads(cores)  # a thread's number is also that of threads to come


class UnderWay:
    """An epoch of each array of a lane, one after the other, while the caller does other things.

    Args:
        apart: whether it runs in a thread of its own; if not, it runs when its results are asked for, on the cores that the caller has.
        lanes: how many lanes' cores it has, the caller having one's.
    """

    def __init__(self, jobs: Sequence[Job], *, apart: bool, lanes: int = 1) -> None:
        self._jobs, self._apart, self._tried = jobs, apart, dict[int, Attempt]()
        self._cores = lanes * torch.get_num_threads()
        self._waiting = deque(range(len(jobs)))
        self._thread = self._next()

    def _next(self) -> _Thread:
        return _Thread(self._jobs, self._waiting, self._tried, self._cores)

    def begin(self) -> None:
        """Sets off."""
        if self._apart:
            self._thread.start()

    def attempts(self) -> list[Attempt]:
        """What came of them, when all are over; in the order of the jobs."""
        if not self._apart:
            return [attempt(job) for job in self._jobs]
        self._thread.wait()
        while self._waiting:  # it has been left behind with what hangs
            self._thread = self._next()
            self._thread.start()
            self._thread.wait()
        return [self._tried.get(number, _lost(job)) for number, job in enumerate(self._jobs)]

    def tell(self) -> None:
        """Tells it to end, whatever it is at."""
        self._waiting.clear()
        self._thread.tell(_Over)

    def leave(self) -> None:
        """Waits a little until it has."""
        self._thread.leave(_Over)


def _lost(job: Job) -> Attempt:
    return Attempt(None, TrainerHangs("it did not come back from its epoch"), job.seconds)


class _Over(BaseException):
    """The search is interrupted."""


class _Thread(threading.Thread):
    """Takes one waiting job after the other, with so many cores."""

    def __init__(self, jobs: Sequence[Job], waiting: deque[int], tried: dict[int, Attempt], cores: int) -> None:
        super().__init__(daemon=True)
        self._jobs, self._waiting, self._tried, self._cores = jobs, waiting, tried, cores
        self._now: tuple[int, float] | None = None  # which job, and since when
        self._lock, self._hears = threading.RLock(), False
        """Whether it can be told to end: not before it has begun, nor when it has ended and its number may be another thread's."""

    def run(self) -> None:
        with contextlib.suppress(_Over, TrainerHangs):
            with contextlib.suppress(_Over, TrainerHangs, IndexError):
                self._hears = True
                self._work()
            self._hear_no_more()  # an error sent from outside may arrive just while it stops hearing: so it stops twice
        self._hear_no_more()

    def _work(self) -> None:
        torch.set_num_threads(self._cores)
        while True:
            number = self._waiting.popleft()
            self._now = number, time.monotonic()
            self._tried[number] = attempt(self._jobs[number])

    def _hear_no_more(self) -> None:
        with self._lock:
            self._hears = False
            _raise_in(self.ident or 0, None)

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
        if self._lock.acquire(blocking=False):  # else it is about to hear no more
            try:
                if self._hears:
                    _raise_in(self.ident or 0, error)
            finally:
                self._lock.release()

    def leave(self, error: type[BaseException], job: int | None = None) -> bool:
        """Tells it and waits a little; whether the thread, or the job if one is named, has ended."""
        deadline = time.monotonic() + LEAVE_SECONDS
        while self.is_alive() and self.ident is not None and time.monotonic() < deadline:
            self.tell(error)  # once may not be enough: what is raised in a callback of C++ or in a finaliser goes no further
            self.join(LEAVE_SECONDS / 20)
            if job in self._tried:
                return True
        return not self.is_alive()


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Raises an error in a thread at its next step in Python; None takes back what has not been raised yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), None if error is None else ctypes.py_object(error))
