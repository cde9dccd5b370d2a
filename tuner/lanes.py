"""Arrays that train at the same time: on a CPU small models do not keep two cores busy with one product, so each core has a lane of arrays.

A lane trains its arrays one after the other, beside the other lanes. A lane alone has all cores. What an array comes to depends on which
trials it holds and not on when it trains, so whichever lane is faster decides nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tuner.failures import Outcome, TrainerHangs, advance
from tuner.seam import Trainer

LEAVE_SECONDS = 5.0
"""So long a lane has to end when it is told to; then it is left behind."""
MOST = 4
"""More lanes than that wait for each other: between two products each needs the interpreter."""


@dataclass(frozen=True)
class Job:
    """An epoch of an array: in which lane, its slots, and how many seconds it may take."""

    lane: int
    trainer: Trainer
    slots: int
    seconds: float


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
    except Exception as error:  # noqa: BLE001  whoever asks for the result has it
        return Attempt(None, error, time.monotonic() - began)


def advance_all(jobs: Sequence[Job]) -> list[Attempt]:
    """One epoch of each array, lane beside lane; in the order of the jobs. What interrupts it ends the lanes."""
    by_lane: dict[int, list[Job]] = defaultdict(list)
    for job in jobs:
        by_lane[job.lane].append(job)
    if len(by_lane) < 2:
        return [attempt(job) for job in jobs]
    cores = torch.get_num_threads()
    lanes = [_Lane(own, max(1, cores // len(by_lane))) for own in by_lane.values()]
    try:
        for lane in lanes:
            lane.start()
        found = {id(job): tried for lane in lanes for job, tried in zip(lane.jobs, lane.wait(), strict=True)}
    except BaseException:
        for lane in lanes:
            lane.tell(_Over)
        for lane in lanes:
            lane.leave(_Over)
        raise
    finally:
        torch.set_num_threads(cores)  # a lane's number is also that of threads to come
    return [found[id(job)] for job in jobs]


class _Over(BaseException):
    """The search is interrupted."""


class _Lane(threading.Thread):
    """One epoch of some arrays, one after the other."""

    def __init__(self, jobs: Sequence[Job], threads: int) -> None:
        super().__init__(daemon=True)
        self.jobs, self._threads = jobs, threads
        self._tried: list[Attempt] = []
        self._began = time.monotonic()

    def run(self) -> None:
        with contextlib.suppress(_Over):
            torch.set_num_threads(self._threads)
            for job in self.jobs:
                self._began = time.monotonic()
                self._tried.append(attempt(job))

    def wait(self) -> list[Attempt]:
        """What came of them. One that takes too long is told to end; where it does not, its lane is left behind and the rest is lost."""
        while self.is_alive() and len(self._tried) < len(self.jobs):
            job, count = self.jobs[len(self._tried)], len(self._tried)
            left = self._began + job.seconds - time.monotonic()
            if left > 0:
                self.join(min(left, 1.0))
            elif len(self._tried) == count and not self.leave(TrainerHangs, count):
                break
        lost = TrainerHangs("it did not come back from its epoch, and its lane was left behind")
        return [*self._tried, *(Attempt(None, lost, job.seconds) for job in self.jobs[len(self._tried) :])]

    def tell(self, error: type[BaseException]) -> None:
        """Raises an error in the lane as soon as it is back from what it has called."""
        if self.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident), ctypes.py_object(error))

    def leave(self, error: type[BaseException], tried: int | None = None) -> bool:
        """Tells it and waits a little; whether the lane has ended, or has tried more than so many."""
        deadline = time.monotonic() + LEAVE_SECONDS
        while self.is_alive() and self.ident is not None and time.monotonic() < deadline:
            self.tell(error)  # once may not be enough: what is raised in a callback of C++ or in a finaliser goes no further
            self.join(LEAVE_SECONDS / 20)
            if tried is not None and len(self._tried) > tried:
                return True
        return not self.is_alive()
