"""What two processes of one search say to each other: JSON, and tensors as safetensors. Nothing in it can be executed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import numbers
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from safetensors.torch import load, save
from torch import Tensor

from model.config import Hyperparameters, LossWeights, ModelShape
from tuner.seam import Held, Record, Scored, Tally

LOOK_SECONDS = 0.2
"""So often a process that waits looks whether it is to stop."""


class Message(NamedTuple):
    """What is said, and the tensors with it."""

    body: dict[str, Any]
    tensors: Mapping[str, Tensor]


class Odd:
    """Something that a trainer returned where a figure belongs; all that is known of it is how it looks."""

    def __init__(self, look: str) -> None:
        self.look = look

    def __repr__(self) -> str:
        return self.look


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A `Record` of another process."""

    epoch: int
    loss: float
    losses: Mapping[str, float]
    gradient_norm: float


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A `Scored` of another process."""

    objective: float
    round_trip: float
    figures: Mapping[str, object]


@dataclasses.dataclass(frozen=True)
class Tallied:
    """A `Tally` of another process."""

    stated: list[int]
    right: Mapping[str, list[int]]


class Wire:
    """One end of a connection between two processes."""

    def __init__(self, handle: int) -> None:
        self._connection: Connection[Any, Any] = Connection(handle)

    def send(self, body: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        """Says something; OSError where nobody is there to hear it."""
        self._connection.send_bytes(json.dumps({"body": body, "tensors": bool(tensors)}, default=_plainly).encode())
        if tensors:
            self._connection.send_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}))

    def receive(self) -> Message:
        """What was said. It waits for it in short steps, so that what interrupts this thread does not wait for the other process.

        Raises:
            EOFError, OSError: there is nobody any more.
        """
        while not self._connection.poll(LOOK_SECONDS):
            pass
        said = json.loads(self._connection.recv_bytes(), object_hook=_hooked)
        return Message(said["body"], load(self._connection.recv_bytes()) if said["tensors"] else {})

    def close(self) -> None:
        """Hangs up."""
        with contextlib.suppress(OSError):
            self._connection.close()


def _plainly(value: object) -> Any:
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    return dict(value) if isinstance(value, Mapping) else {"__odd__": repr(value)[:200]}


def _hooked(found: dict[str, Any]) -> Any:
    return Odd(found["__odd__"]) if found.keys() == {"__odd__"} else found


# ---- what is sent, as JSON


def shape_from(sent: Mapping[str, Any]) -> ModelShape:
    """A shape."""
    return ModelShape(**sent)


def hyperparameters_from(sent: Mapping[str, Any]) -> Hyperparameters:
    """What `dataclasses.asdict` made of them."""
    return Hyperparameters(**{**sent, "loss_weights": LossWeights(**sent["loss_weights"])})


def record(found: Record | None) -> dict[str, Any] | None:
    """A record, or that there is none."""
    return None if found is None else {name.name: getattr(found, name.name) for name in dataclasses.fields(Recorded)}


def scored(found: Scored | None) -> dict[str, Any] | None:
    """An evaluation, or that there is none."""
    return None if found is None else {name.name: getattr(found, name.name) for name in dataclasses.fields(Evaluated)}


def tally(found: Tally | None) -> dict[str, Any] | None:
    """A tally, or that there is none."""
    if found is None:
        return None
    return {"stated": list(found.stated), "right": {name: list(right) for name, right in found.right.items()}}


def held(states: Mapping[int, Held]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """States by slot: their notes, and their tensors by name."""
    tensors = {f"{slot}.{name}": tensor for slot, state in states.items() for name, tensor in state.tensors.items()}
    return {str(slot): dict(state.notes) for slot, state in states.items()}, tensors


def held_from(notes: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[int, Held]:
    """The same again."""
    apart: dict[int, dict[str, Tensor]] = {int(slot): {} for slot in notes}
    for name, tensor in tensors.items():
        slot, own = name.split(".", 1)
        apart[int(slot)][own] = tensor
    return {int(slot): Held(apart[int(slot)], own) for slot, own in notes.items()}
