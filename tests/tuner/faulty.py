"""A scripted trainer for processes: in the second epoch of trials that are known by their rate it does what no trainer should."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from model.config import ModelShape
from tests.tuner.script import ScriptedTrainer, Step

ENTRY = "[tuner.trainers]\nfaulty = tests.tuner.faulty:Faulty\nstill = tests.tuner.still:Still\n"
STILL = "TUNER_TEST_STILL"


def raises() -> None:
    """An error."""
    raise ZeroDivisionError("the marked one")


def hangs() -> None:
    """It never comes back; who waits at the other end of a pipe is told that it has begun."""
    if "TUNER_TEST_PIPE" in os.environ:
        os.close(os.open(os.environ["TUNER_TEST_PIPE"], os.O_WRONLY))
    threading.Event().wait()


FAULTS: dict[str, tuple[float, Callable[[], object]]] = {
    "raises": (1.1e-3, raises),
    "hangs": (1.2e-3, hangs),
    "crashes": (1.3e-3, lambda: os.kill(os.getpid(), signal.SIGSEGV)),
    "is killed": (1.4e-3, lambda: os.kill(os.getpid(), signal.SIGKILL)),
    "leaves": (1.6e-3, lambda: os._exit(3)),
    "talks": (1.7e-3, lambda: None),
}

if STILL in os.environ and "remote_end" in sys.argv[0]:
    os._exit(5)


class Faulty(ScriptedTrainer):
    """As an entry point makes it."""

    def __init__(self, shape: ModelShape, corpus: Any, slots: int, device: str, data: Any) -> None:
        super().__init__(shape, slots)

    def train_epoch(self) -> list[Step | None]:
        """As the rates of its slots say."""
        for rate, fault in FAULTS.values():
            if any(slot is not None and slot.hyperparameters.lr == rate and slot.epoch == 1 for slot in self.slots):
                fault()
        steps = super().train_epoch()
        for slot, step in zip(self.slots, steps, strict=True):
            if slot is not None and step is not None and slot.hyperparameters.lr == FAULTS["talks"][0]:
                step.objective = {"excellent"}  # type: ignore[assignment]
        return steps
