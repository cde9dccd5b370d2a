"""The process at the other end of a `RemoteTrainer`: it has the data, and trains what it is sent, until nobody asks any more.

python -m tuner.remote_end HANDLE
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from model.config import ModelShape
from model.corpus import Corpus
from model.sources import DataSource
from tuner.failures import in_words
from tuner.seam import Trainer
from tuner.trainers import find_trainer
from tuner.wire import Evaluated, Message, Wire, held, held_from, hyperparameters_from, pack, record, scored, shape_from, tally

KEPT = 4
"""So many shapes have a trainer of their own at once; it is made again when it is needed again."""


class Trainers:
    """The trainers of this process, by shape, and what it is asked to do with them."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self._make, self._device = find_trainer(setup["trainer"]), setup["device"]
        self._corpus, self._data = Corpus.of(setup["corpus"]), DataSource(**setup["data"])
        self._made: OrderedDict[ModelShape, Trainer] = OrderedDict()

    def answer(self, message: Message) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Does what is asked, with the trials in the slots that are sent: each in the state sent with it, or at its beginning."""
        asked, shape = message.body, shape_from(message.body["shape"])
        torch.set_num_threads(asked["threads"])
        trainer = self._made.pop(shape, None)
        if trainer is None:
            trainer = self._make(shape, self._corpus, 0, self._device, self._data)
        self._put(trainer, asked["slots"], held_from(asked["notes"], message.tensors))
        before = Counter(dict(trainer.seconds))
        found = CALLS[asked["call"]](trainer, asked)
        notes, tensors = held({slot: trainer.held(slot) for slot in found.pop("changed", ())})
        self._made[shape] = trainer  # only now: one that has failed is not used again
        if len(self._made) > KEPT:
            self._made.popitem(last=False)
        return {**found, "notes": notes, "seconds": {name: spent - before[name] for name, spent in trainer.seconds.items()}}, tensors

    def forget(self) -> None:
        """Gives the memory of all trainers back."""
        self._made.clear()

    def _put(self, trainer: Trainer, slots: list[dict[str, Any] | None], states: dict[int, Any]) -> None:
        """States into slots, and a new model where there is none."""
        trainer.resize((), len(slots))
        for slot, hyperparameters in enumerate(slots):
            if hyperparameters is not None and slot in states:
                trainer.resume(slot, hyperparameters_from(hyperparameters), states[slot])
            elif hyperparameters is not None:
                trainer.load(slot, hyperparameters_from(hyperparameters))


def _occupied(asked: dict[str, Any]) -> list[int]:
    return [slot for slot, hyperparameters in enumerate(asked["slots"]) if hyperparameters is not None]


def _epoch(trainer: Trainer, asked: dict[str, Any]) -> dict[str, Any]:
    records, scores = [record(one) for one in trainer.train_epoch()], [scored(one) for one in trainer.evaluate()]
    return {"records": records, "scores": scores, "changed": _occupied(asked)}


def _save(trainer: Trainer, asked: dict[str, Any]) -> dict[str, Any]:
    trainer.save(0, Path(asked["path"]), Evaluated(**asked["evaluation"]))
    return {}


def _hold(_: Trainer, asked: dict[str, Any]) -> dict[str, Any]:
    return {"changed": [slot for slot in _occupied(asked) if str(slot) not in asked["notes"]]}  # what was sent is known there


def _tally(trainer: Trainer, _: dict[str, Any]) -> dict[str, Any]:
    return {"tallies": [tally(one) for one in trainer.tally()]}


def _rehearse(trainer: Trainer, asked: dict[str, Any]) -> dict[str, Any]:
    return {"seconds_a_step": trainer.rehearse(asked["steps"])}


def _count(trainer: Trainer, _: dict[str, Any]) -> dict[str, Any]:
    return {"steps": trainer.steps_an_epoch}


CALLS: dict[str, Callable[[Trainer, dict[str, Any]], dict[str, Any]]] = {
    "epoch": _epoch,
    "save": _save,
    "hold": _hold,
    "tally": _tally,
    "rehearse": _rehearse,
    "count": _count,
}


def _kind(error: Exception) -> str:
    """What the seam says of an error of this kind."""
    if isinstance(error, MemoryError):
        return "no_room"
    return "refused" if isinstance(error, (ValueError, KeyError)) else "os" if isinstance(error, OSError) else ""


def _serve(wire: Wire, heard: SimpleQueue[Message]) -> None:
    trainers = Trainers(heard.get().body)
    wire.send(pack({"ready": True}))
    while True:
        message = heard.get()
        try:
            packed = pack(*trainers.answer(message))
        except Exception as error:  # noqa: BLE001  whoever asked has it
            kind = _kind(error)
            packed = pack({"error": str(error) if kind == "no_room" else in_words(error), "kind": kind})
            if kind == "no_room":
                trainers.forget()
        wire.send(packed)


def main() -> None:
    """Answers what is asked through the handle; ends when the process that asks does, however that does."""
    handle = int(sys.argv[1])
    os.set_inheritable(handle, False)
    wire, heard = Wire(handle), SimpleQueue[Message]()

    def hear() -> None:
        try:
            while True:
                heard.put(wire.receive())
        except (EOFError, OSError):
            os._exit(0)  # also in the middle of an epoch
        finally:
            os._exit(1)  # what cannot be heard cannot be answered

    threading.Thread(target=hear, daemon=True).start()
    _serve(wire, heard)


if __name__ == "__main__":
    main()
