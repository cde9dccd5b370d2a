"""The state of a search between two epochs, and its file: numbers and JSON, nothing that can be executed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from model.config import ModelShape
from model.errors import ConfigError
from model.files import read_numbers, save_numbers
from tuner.errors import SnapshotError
from tuner.seam import Held

FORMAT, VERSION = "tuner snapshot", 6
SLOTS = "slots"
"""The tensor with what is no tensor of the slots, as JSON: a header of safetensors has no room for the curves of many long trials."""


@dataclass(frozen=True)
class SlotState:
    """A trial in a slot: its number, its curve so far, the seconds it took, and its trainer's state."""

    trial: int
    curve: tuple[dict[str, Any], ...]
    seconds: float
    held: Held


@dataclass(frozen=True)
class SearchState:
    """A search between two epochs.

    Args:
        study: the mark of the study, which no other has.
        epoch: how many epochs its lanes have made.
        past: the numbers of the trials that had ended.
        arrays: the slots of each array, in their order.
        waiting: the trials that had to make room, in their held states.
        seconds: what the seat has spent on the study.
        width: how many trials there was room for at once, and how many were asked for.
        wider: for how many there was room before there was none for trials of a shape.
        lanes: the lane of each array.
        clocks: how much work each lane had done.
        under_way: the lanes that were in an epoch; their arrays are held as they were before it.
        ledger: the study's attribute under which its seconds are noted.
    """

    study: str
    epoch: int
    past: tuple[int, ...]
    arrays: tuple[tuple[SlotState, ...], ...]
    waiting: tuple[SlotState, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    width: tuple[int, int] = (0, 0)
    lanes: tuple[int, ...] = ()
    clocks: tuple[int, ...] = ()
    under_way: tuple[int, ...] = ()
    ledger: str = ""
    wider: dict[ModelShape, int] = field(default_factory=dict)

    @property
    def slots(self) -> dict[int, SlotState]:
        """All that is held, by trial."""
        return {slot.trial: slot for array in (*self.arrays, self.waiting) for slot in array}


def write_state(path: Path, state: SearchState) -> None:
    """Writes a state; OSError where it cannot be written, also for what a trainer holds, and then nothing stands under the name."""
    try:
        _write(path, state)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise OSError(f"what the trainer holds cannot be written: {error}") from error


def _write(path: Path, state: SearchState) -> None:
    tensors, arrays = {}, []
    for place, array in enumerate((*state.arrays, state.waiting)):
        arrays.append([{"trial": s.trial, "curve": s.curve, "seconds": s.seconds, "notes": s.held.notes} for s in array])
        for number, slot in enumerate(array):
            tensors.update({f"{place}.{number}.{name}": tensor for name, tensor in _on_cpu(slot.held).items()})
    own = {"study": state.study, "epoch": state.epoch, "past": state.past, "seconds": dict(state.seconds), "width": state.width}
    own |= {"lanes": state.lanes or (0,) * len(state.arrays), "clocks": state.clocks, "under_way": state.under_way}
    own |= {"ledger": state.ledger, "wider": [[vars(shape), width] for shape, width in state.wider.items()]}
    tensors[SLOTS] = torch.frombuffer(bytearray(json.dumps(arrays).encode()), dtype=torch.uint8)
    save_numbers(path, tensors, {"format": FORMAT, "version": VERSION, **own})


def _on_cpu(held: Held) -> dict[str, Tensor]:
    """The numbers on the CPU; OSError where the device that has them has failed."""
    try:
        return {name: tensor.cpu().contiguous() for name, tensor in held.tensors.items()}
    except torch.AcceleratorError as error:
        raise OSError(f"the device has failed: {error}") from error


def read_state(path: Path) -> SearchState:
    """Reads a state.

    Raises:
        SnapshotError: it is cut short, damaged or of another version.
    """
    try:
        header, tensors = read_numbers(path)
        if header["format"] != FORMAT or header["version"] != VERSION:
            raise SnapshotError(f"the snapshot {path} is of version {header['version']}, this program reads {VERSION}")
        return _state(header, tensors)
    except (SafetensorError, ConfigError, KeyError, TypeError, ValueError, OverflowError, AttributeError, OSError, RecursionError) as error:
        raise SnapshotError(f"the snapshot {path} cannot be read ({type(error).__name__}: {error})") from error


def _state(header: Mapping[str, Any], tensors: Mapping[str, Any]) -> SearchState:
    apart: dict[tuple[int, int], dict[str, Any]] = {}
    said = json.loads(tensors[SLOTS].numpy().tobytes())
    for name, tensor in tensors.items():
        if name == SLOTS:
            continue
        place, number, own = name.split(".", 2)
        apart.setdefault((int(place), int(number)), {})[own] = tensor
    *arrays, waiting = (
        tuple(
            SlotState(int(slot["trial"]), tuple(slot["curve"]), float(slot["seconds"]), Held(apart.get((p, n), {}), dict(slot["notes"])))
            for n, slot in enumerate(array)
        )
        for p, array in enumerate(said)
    )
    width, asked = header["width"]
    return SearchState(
        study=str(header["study"]),
        epoch=int(header["epoch"]),
        past=tuple(map(int, header["past"])),
        arrays=tuple(arrays),
        waiting=waiting,
        seconds={str(name): float(value) for name, value in header["seconds"].items()},
        width=(int(width), int(asked)),
        lanes=tuple(map(int, header["lanes"])),
        clocks=tuple(map(int, header["clocks"])),
        under_way=tuple(map(int, header["under_way"])),
        ledger=str(header.get("ledger", "")),
        wider={ModelShape(**shape): int(width) for shape, width in header.get("wider", ())},
    )
