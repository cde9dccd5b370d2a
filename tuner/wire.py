"""What two processes of one search say to each other: JSON, and tensors as safetensors. Nothing in it can be executed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import numbers
from collections.abc import Mapping, Sequence
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

    def send(self, packed: Sequence[bytes]) -> None:
        """Says something; OSError where nobody is there to hear it."""
        for part in packed:
            self._connection.send_bytes(part)

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


def pack(body: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> list[bytes]:
    """A message as it is sent.

    Raises:
        ValueError, RuntimeError: safetensors cannot hold these tensors.
    """
    said = json.dumps({"body": _jsonable(body), "tensors": bool(tensors)}).encode()
    return [said, save({name: tensor.contiguous() for name, tensor in tensors.items()})] if tensors else [said]


def _jsonable(value: Any) -> Any:
    """As JSON has it: names are text, numbers Python's own; of what it cannot have, the look."""
    if isinstance(value, Mapping):
        return {str(name): _jsonable(part) for name, part in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [_jsonable(part) for part in value]
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else {"__odd__": repr(value)[:200]}


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
