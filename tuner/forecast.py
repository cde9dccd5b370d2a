"""What a search would cost, from a few measured steps of each of its shapes; nothing is begun."""

from __future__ import annotations

import resource
import sys
from typing import Any

import torch

from model.config import SHAPE_NAMES, Hyperparameters, ModelShape
from tuner.definition import StudyDefinition
from tuner.errors import TunerError
from tuner.seam import TrainerFactory
from tuner.width import rehearsed, shapes

CPU = torch.device("cpu")


def forecast(
    make_trainer: TrainerFactory,
    definition: StudyDefinition,
    width: int,
    confirm: bool = True,
    processes: int = 1,
    device: torch.device = CPU,
) -> dict[str, Any]:
    """Trials, epochs and seconds if nothing is stopped, what confirming the best takes, and the memory that the largest shape takes.

    Which shapes will be tried is not known: `seconds_of_all` assumes that each comes up equally often, `seconds_at_most` that all trials
    have the dearest. Those that have no room even for one trial are left out, for such trials end at once. Processes share the trials, but
    not the runs that confirm. The longest batches of an epoch are timed, so it is likely to take less; and a search with a budget of
    minutes takes no more than those.

    Raises:
        MemoryError: there is no room for so many at once.
        TunerError: there is room for one trial in no shape.
    """
    budget, measured, no_room = definition.budget, list[dict[str, Any]](), list[dict[str, Any]]()
    for shape, hyperparameters in reversed(shapes(definition)):
        found = _measured_if_one_fits(make_trainer, shape, hyperparameters, width, device)
        (no_room if found is None else measured).append(found or _named(shape))
    if not measured:
        raise TunerError(f"{device} has no room for one trial of any size of this study; search smaller ones, or take another device")
    mean = sum(shape["seconds_a_trial_epoch"] for shape in measured) / len(measured)
    every = budget.trials * budget.epochs
    epochs = min(every, budget.total_epochs) if budget.total_epochs else every
    dearest = round(epochs * max(shape["seconds_a_trial_epoch"] for shape in measured) / processes)
    return {
        "trials": budget.trials,
        "width": width,
        "processes": processes,
        "epochs_at_most": epochs,
        "seconds_of_all": round(epochs * mean / processes),
        "seconds_at_most": min(dearest, round(60 * budget.minutes)) if budget.minutes and budget.at_budget == "store" else dearest,
        "baselines": len(definition.baselines),
        "confirmation": _confirmation(definition, measured) if confirm else None,
        "shapes": measured,
        "no_room": no_room,
        "memory_bytes": max(shape["memory_bytes"] for shape in measured),
    }


def _confirmation(definition: StudyDefinition, shapes: list[dict[str, Any]]) -> dict[str, int]:
    """The runs that confirm the best, in the dearest shape at most, and the baselines in theirs; none where nothing else is trained."""
    seconds = {_said(shape): shape["seconds_a_trial_epoch"] for shape in shapes}
    own = [_said(_named(definition.settings(definition.point(baseline), 0)[0])) for baseline in definition.baselines]
    top = min(definition.confirm.top, max(0, definition.budget.trials - len(own)))
    taken = [max(seconds.values())] * top + [seconds[shape] for shape in own if shape in seconds] if top else []
    runs, epochs = len(taken) * definition.confirm.seeds, definition.budget.epochs
    return {"runs": runs, "epochs": runs * epochs, "seconds_at_most": round(definition.confirm.seeds * epochs * sum(taken))}


def _measured_if_one_fits(
    make_trainer: TrainerFactory, shape: ModelShape, hyperparameters: Hyperparameters, width: int, device: torch.device
) -> dict[str, Any] | None:
    """None where there is no room even for one trial of this shape.

    Raises:
        MemoryError: there is, but not for as many as the width.
    """
    try:
        return _measured(make_trainer, shape, hyperparameters, width, device)
    except MemoryError as error:
        short = str(error)
    try:
        rehearsed(make_trainer(shape, 1), hyperparameters, 1)
    except MemoryError:
        return None
    raise MemoryError(short)


def _measured(
    make_trainer: TrainerFactory, shape: ModelShape, hyperparameters: Hyperparameters, width: int, device: torch.device
) -> dict[str, Any]:
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]  # a device that is named by its number does not begin it
        torch.cuda.reset_peak_memory_stats(device)
    trainer = make_trainer(shape, width)
    seconds = rehearsed(trainer, hyperparameters, width) * trainer.steps_an_epoch / width
    return {**_named(shape), "seconds_a_trial_epoch": round(seconds, 4), "memory_bytes": _memory(device)}


def _named(shape: ModelShape) -> dict[str, Any]:
    return {name: value for name, value in vars(shape).items() if name in SHAPE_NAMES}


def _memory(device: torch.device) -> int:
    """The most memory that was held so far, in bytes: the device's, or on a CPU the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def told(found: dict[str, Any]) -> list[str]:
    """The forecast in words."""
    after, whole, most = found["confirmation"], found["seconds_of_all"], found["seconds_at_most"]
    even = f"{_time(whole)} if each shape is drawn equally often"
    beside = f", the study's time limit; all trials would take {even}" if most < whole else f"; {even}" if most > whole else ""
    each = f" in each of {found['processes']} processes" if found["processes"] > 1 else ""
    lines = [
        f"{found['trials']} trials, {found['epochs_at_most']} epochs if none is stopped, {found['width']} at once{each}",
        f"at most {_time(most)}{beside}; memory {found['memory_bytes'] / 2**30:.1f} GiB",
    ]
    if after is not None and after["runs"]:
        beside = " beside the baselines" if found["baselines"] else ""
        runs = f"then {after['runs']} runs, {after['epochs']} epochs, to confirm the best{beside}"
        lines.append(f"{runs}: at most {_time(after['seconds_at_most'])}")
    lines += [f"  {_said(shape)}: {shape['seconds_a_trial_epoch']:.2f} s an epoch of one trial" for shape in found["shapes"]]
    return [*lines, *(f"  {_said(shape)}: no room even for one trial" for shape in found["no_room"])]


def _said(shape: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in shape.items() if name in SHAPE_NAMES)


def _time(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    return f"{hours} h {rest // 60} min"
