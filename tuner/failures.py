"""An epoch of a trainer that is not trusted: it may raise, hang or return nonsense, and one trial's fault must not cost the others."""

from __future__ import annotations

import contextlib
import math
import numbers
import signal
import threading
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from model.config import ROLES
from model.errors import DeviceFailed
from tuner.seam import Record, Scored, Trainer


class TrainerHangs(Exception):
    """An epoch took far longer than it should."""


class Elsewhere(Exception):
    """What went wrong in another process, in words: what it was and where.

    Args:
        kind: `refused` (a ValueError or KeyError there), `os` (an OSError), `died` (the process itself), else empty.
    """

    def __init__(self, told: str, kind: str = "") -> None:
        super().__init__(told)
        self.kind = kind


class TrainerNonsense(Exception):
    """A trainer returned something else than it must."""


@dataclass(frozen=True)
class Outcome:
    """What an epoch came to for one slot: its figures, or what went wrong."""

    record: Record | None
    scored: Scored | None
    error: str | None = None


def in_words(error: BaseException) -> str:
    """An error as it is stored and said: what it was and where."""
    if isinstance(error, Elsewhere):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename.rpartition('/')[2]}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {str(error)[:500]}{where}"


@contextlib.contextmanager
def device_failures() -> Iterator[None]:
    """What torch says of a device that has failed as an error of ours.

    Raises:
        DeviceFailed: the device has failed; no trial is to blame.
    """
    try:
        yield
    except torch.AcceleratorError as error:
        raise DeviceFailed(f"the device has failed: {error}") from error


def advance(trainer: Trainer, slots: int, seconds: float) -> list[Outcome]:
    """One epoch of training and its evaluation.

    Args:
        seconds: how long it may take.

    Raises:
        MemoryError: the device has no room for it.
        DeviceError: the device has failed; no trial is to blame.
        TrainerHangs: it took longer.
        TrainerNonsense: there is not one result for each slot.
        Exception: whatever else the trainer raises.
    """
    with device_failures(), watched(seconds):
        records, scores = trainer.train_epoch(), trainer.evaluate()
    if len(records) != slots or len(scores) != slots:
        raise TrainerNonsense(f"the trainer returned {len(records)} records and {len(scores)} evaluations for {slots} slots")
    return [Outcome(record, scored, fault(record, scored)) for record, scored in zip(records, scores, strict=True)]


def fault(record: Record | None, scored: Scored | None) -> str | None:
    """What is wrong with a slot's results; a loss that is not finite is an explosion and none of the trainer's faults."""
    if record is None or scored is None:
        return "the trainer calls its slot free and returned nothing"
    named = {"loss": record.loss, "gradient norm": record.gradient_norm, "epoch": record.epoch, **record.losses}
    for name, value in {**named, "objective": scored.objective, "round trip": scored.round_trip}.items():
        if not isinstance(value, numbers.Real):
            return f"the trainer returned {value!r:.80} as {name}, which is no number"
    if not isinstance(scored.figures, Mapping):
        return f"the trainer returned {scored.figures!r:.80} as figures, which are none by name"
    for name in (*ROLES, "exact"):
        if not isinstance(figure := scored.figures.get(name, 0.0), numbers.Real):
            return f"the trainer returned {figure!r:.80} as {name}, which is no number"
    for name, value in {"objective": scored.objective, "round trip": scored.round_trip}.items():
        if not math.isfinite(value):
            return f"the trainer returned {value} as {name}"
    return None


def as_json(value: Any) -> Any:
    """Figures as JSON can hold them: numbers of any kind as Python's own, mappings as dictionaries, anything else as text."""
    if isinstance(value, Mapping):
        return {str(name): as_json(part) for name, part in value.items()}
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else str(value)


@contextlib.contextmanager
def watched(seconds: float) -> Iterator[None]:
    """Interrupts what takes longer; in the main thread only, as signals are.

    Raises:
        TrainerHangs: it took longer.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> NoReturn:
        raise TrainerHangs(f"no epoch within {seconds:.0f} seconds")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
