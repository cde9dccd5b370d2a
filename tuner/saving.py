"""The trainer of the symmetric model as a search uses it. Imports no more than training needs: each process that trains begins with it."""

from __future__ import annotations

import contextlib
import functools
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

from model.checkpoint import save_checkpoint
from model.config import Hyperparameters, ModelShape
from model.corpus import Corpus
from model.devices import out_of_room
from model.evaluation import Evaluation
from model.sources import DataSource
from model.trainer import FusedTrainer, Snapshot
from tuner.errors import TunerError
from tuner.failures import device_failures
from tuner.seam import Held, Scored

ROWS = ("values", "moment1", "moment2", "averages")
P = ParamSpec("P")
R = TypeVar("R")


@contextlib.contextmanager
def no_room() -> Iterator[None]:
    """Raises MemoryError where torch says in its own ways that there is no room left; what was worked on then is no longer held."""
    try:
        yield
        return
    except RuntimeError as error:
        if not out_of_room(error):
            raise
        said = _let_go(error)
        torch.cuda.empty_cache()
    raise MemoryError(said)


@contextlib.contextmanager
def at_work(device: str, what: str = "this", advice: str = "free some of its memory, or take --device cpu") -> Iterator[None]:
    """What a command does with a model on a device.

    Args:
        what: what there may be no room for.
        advice: what to do then.

    Raises:
        TunerError: the device has no room for it.
        DeviceError: it has failed.
    """
    try:
        with device_failures(), no_room():
            yield
    except MemoryError as error:
        raise TunerError(f"{device} has no room for {what} ({error}); {advice}") from error


def _let_go(error: RuntimeError) -> str:
    """What the error says, its frames without the tensors they worked with."""
    traceback.clear_frames(error.__traceback__)
    return str(error).partition("\n")[0]


def roomy(method: Callable[P, R]) -> Callable[P, R]:
    """The same method, which raises MemoryError where the device has no room for what it does."""

    @functools.wraps(method)
    def within(*args: P.args, **named: P.kwargs) -> R:
        with no_room():
            return method(*args, **named)

    return within


class SavingTrainer(FusedTrainer):
    """The fused trainer as the search wants it: it writes a slot's model with the name of its data, and raises MemoryError without room."""

    def __init__(self, shape: ModelShape, corpus: Corpus, slots: int, device: str, data: DataSource) -> None:
        """As the fused trainer's.

        Raises:
            MemoryError: the device has no room for it.
        """
        with no_room():
            super().__init__(shape, corpus, slots, device)
        self.data = data

    load = roomy(FusedTrainer.load)
    restore = roomy(FusedTrainer.restore)
    resize = roomy(FusedTrainer.resize)
    train_epoch = roomy(FusedTrainer.train_epoch)
    rehearse = roomy(FusedTrainer.rehearse)
    evaluate = roomy(FusedTrainer.evaluate)
    tally = roomy(FusedTrainer.tally)

    def save(self, slot: int, path: Path, evaluation: Scored) -> None:
        """Writes the slot's model with its validation figures."""
        save_checkpoint(path, self, slot, self.data, Evaluation(dict(evaluation.figures), self.references()))

    def held(self, slot: int) -> Held:
        """The slot's whole state, on the device as long as there is room: it is asked for after every epoch and seldom written."""
        rows, state = self.store.read(slot), self.state(slot)
        return Held(dict(zip(ROWS, rows, strict=True)), {"layout": self.store.layout, "epoch": state.epoch, "step": state.step})

    def resume(self, slot: int, hyperparameters: Hyperparameters, held: Held) -> None:
        """Puts such a state into a slot.

        Raises:
            ValueError: it is of another layout.
            MemoryError: the device has no room for it.
        """
        rows, notes = tuple(held.tensors[name] for name in ROWS), held.notes
        self.restore(slot, Snapshot(notes["layout"], hyperparameters, notes["epoch"], notes["step"], rows))

    def references(self) -> dict[str, Any]:
        """What always answering the most frequent value scores on the validation split, and the ceiling there."""
        places = self.shape.max_propositions
        return {"most_frequent": self.corpus.most_frequent("valid"), "ceiling": self.corpus.ceiling("valid", places)}
