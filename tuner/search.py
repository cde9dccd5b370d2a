"""The search loop: ask, load a slot, train an epoch, report, judge, tell, refill.

Trials of one shape train in one array as one batched model; a slot that ends is given to the next trial of its shape while its neighbours
train on. All arrays advance by one epoch before any trial is judged, so the order of slots does not matter.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from model.config import Hyperparameters, ModelShape
from model.noise import derived_seed
from tuner.buffer import BufferedStorage
from tuner.definition import StudyDefinition
from tuner.judges import History, Peer
from tuner.seam import Record, Scored, Trainer, TrainerFactory
from tuner.storage import CurveTable
from tuner.verdict import Verdict

BEAT_SECONDS, SILENT_SECONDS = 30.0, 900.0
KEPT_FIGURES = (
    *("entity", "relation", "value", "at_least_one", "two_of_three", "exact", "triple_precision", "triple_recall", "triple_f1"),
    *("round_trip", "token_accuracy", "spurious", "first", "f1"),
)


@dataclass
class Running:
    """A trial in a slot."""

    trial: Trial
    hyperparameters: Hyperparameters
    curve: list[dict[str, Any]] = field(default_factory=list)
    scored: Scored | None = None
    seconds: float = 0.0
    reached: int = 0
    """The last epoch it had reported before an interruption; it is judged anew only beyond it."""

    @property
    def baseline(self) -> str | None:
        """The baseline's name, if it is one."""
        name = self.trial.user_attrs.get("baseline")
        return None if name is None else str(name)

    @property
    def objective(self) -> tuple[float, ...]:
        """The curve of the objective."""
        return tuple(point["objective"] for point in self.curve)


@dataclass
class Array:
    """The trials of one shape, slot by slot."""

    trainer: Trainer
    slots: list[Running] = field(default_factory=list)

    def add(self, running: Running) -> None:
        """One more slot for a new trial; the others keep theirs."""
        self.trainer.resize(range(len(self.slots)), len(self.slots) + 1)
        self.trainer.load(len(self.slots), running.hyperparameters)
        self.slots.append(running)

    def replace(self, ended: list[int], fresh: list[Running]) -> None:
        """Loads new trials into the slots of ended ones; what is left over of either shrinks or widens the array."""
        for slot, running in zip(ended, fresh, strict=False):
            self.trainer.load(slot, running.hyperparameters)
            self.slots[slot] = running
        if spare := set(ended[len(fresh) :]):
            keep = [slot for slot in range(len(self.slots)) if slot not in spare]
            self.trainer.resize(keep, len(keep))
            self.slots = [self.slots[slot] for slot in keep]
        for running in fresh[len(ended) :]:
            self.add(running)


class Observer:
    """What is told of a search as it goes; the base class listens to nothing."""

    def started(self, running: Running) -> None:
        """A trial entered a slot."""

    def epoch(self, search: Search) -> None:
        """All running trials advanced by one epoch."""

    def ended(self, running: Running, verdict: Verdict, value: float | None) -> None:
        """A trial ended."""


class Search:
    """One search on one device.

    Args:
        study: opened by `open_study` on a `BufferedStorage`.
        make_trainer: makes a trainer of a shape.
        width: how many trials train at once, over all shapes.
        checkpoints: the folder for finished trials' models.
        minutes: wall time after which running trials are left for the next start; 0 for no limit.
    """

    def __init__(
        self,
        study: optuna.Study,
        definition: StudyDefinition,
        make_trainer: TrainerFactory,
        curves: CurveTable,
        *,
        width: int,
        device: str,
        checkpoints: Path,
        minutes: float = 0.0,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.study, self.definition, self.make_trainer, self.curves = study, definition, make_trainer, curves
        self.width, self.device, self.checkpoints = width, device, checkpoints
        if not isinstance(study._storage, BufferedStorage):
            raise TypeError(f"the study must be opened on a BufferedStorage, not on a {type(study._storage).__name__}")
        self.storage, self.observer = study._storage, observer or Observer()
        self.arrays: dict[ModelShape, Array] = {}
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._clock, self._began, self._beat = clock, clock(), clock()
        self._deadline = self._began + minutes * 60 if minutes else float("inf")
        self._rule = definition.pruning.rule()
        self._past: dict[int, Peer] = {}
        self._left: list[FrozenTrial] = []

    @property
    def running(self) -> list[Running]:
        """The trials in slots, by number."""
        return sorted((r for array in self.arrays.values() for r in array.slots), key=lambda r: r.trial.number)

    @property
    def complete(self) -> bool:
        """Whether the budget of trials is used up and all of them have ended."""
        ended = [t for t in self.study.get_trials(deepcopy=False) if t.state.is_finished()]
        return len(ended) >= self.definition.budget.trials

    def run(self) -> None:
        """Searches until the budget is used up; a killed search is continued by running it again."""
        try:
            self._take_up()
            self._place([])
            while self.running and self._clock() < self._deadline:
                self._advance()
                ended = self._judge()
                self.observer.epoch(self)
                self._place(ended)
        finally:
            self.storage.flush()
            self._note_seconds()

    def _take_up(self) -> None:
        """Reads what earlier runs left: ended curves as peers, running trials of dead processes to be trained again."""
        for frozen in self.study.get_trials(deepcopy=False):
            if frozen.state in (TrialState.COMPLETE, TrialState.PRUNED):
                self._past[frozen.number] = Peer(tuple(value for _, value in sorted(frozen.intermediate_values.items())), over=True)
            elif frozen.state == TrialState.RUNNING and not _alive(frozen.user_attrs.get("owner")):
                self._left.append(frozen)

    def _next(self) -> Running | None:
        """The next trial: one that was interrupted, else a new one while the budget lasts."""
        started, reached = self._clock(), 0
        if self._left:
            left = self.storage.adopt(self._left.pop(0)._trial_id)
            self._seed_sampler(left.number)
            trial, reached = Trial(self.study, left._trial_id), max(left.intermediate_values, default=0)
            for name, distribution in self.definition.distributions().items():
                trial._suggest(name, distribution)  # as it was; drawn again where it was killed before that was stored
        else:
            begun = [t for t in self.study.get_trials(deepcopy=False) if t.state != TrialState.WAITING]
            if len(begun) >= self.definition.budget.trials:
                return None
            self._seed_sampler(len(begun))
            trial = self.study.ask(self.definition.distributions())
        seed = derived_seed(self.definition.seed, "trial", trial.number) % 2**31
        _, hyperparameters = self.definition.settings(trial.params, seed)
        for key, value in (("seed", seed), ("device", self.device), ("owner", _owner())):
            trial.set_user_attr(key, value)
        self.seconds["asking"] += self._clock() - started
        return Running(trial, hyperparameters, reached=reached)

    def _seed_sampler(self, number: int) -> None:
        """A fresh sampler for each trial: a restarted one would go on differently."""
        self.study.sampler = optuna.samplers.TPESampler(seed=derived_seed(self.definition.seed, "sampler", number) % 2**32)

    def _place(self, ended: list[tuple[ModelShape, int]]) -> None:
        """Fills the free slots; arrays without trials are given up."""
        fresh: dict[ModelShape, list[Running]] = {}
        free = self.width - len(self.running) + len(ended)
        while free > 0 and self._clock() < self._deadline and (running := self._next()) is not None:
            shape, _ = self.definition.settings(running.trial.params, running.hyperparameters.seed)
            fresh.setdefault(shape, []).append(running)
            self.observer.started(running)
            free -= 1
        self.storage.flush()  # what is trained is stored: it can be taken up by another
        for shape in dict.fromkeys((*self.arrays, *fresh)):
            if shape not in self.arrays:
                self.arrays[shape] = Array(self.make_trainer(shape, 0))
            slots = [slot for ended_shape, slot in ended if ended_shape == shape]
            self.arrays[shape].replace(slots, fresh.get(shape, []))
            if not self.arrays[shape].slots:
                self._count(self.arrays.pop(shape).trainer)

    def _count(self, trainer: Trainer) -> None:
        for name, seconds in trainer.seconds.items():
            self.seconds[name] += seconds

    def _advance(self) -> None:
        """One epoch for every array, and its figures into the storage."""
        points: list[tuple[int, dict[str, Any]]] = []
        for array in self.arrays.values():
            before = self._clock()
            records, scores = array.trainer.train_epoch(), array.trainer.evaluate()
            share = (self._clock() - before) / len(array.slots)
            for running, record, scored in zip(array.slots, records, scores, strict=True):
                if record is None or scored is None:
                    raise RuntimeError(f"trial {running.trial.number} is in a slot that its trainer calls free")
                running.scored, running.seconds = scored, running.seconds + share
                running.curve.append(_point(record, scored))
                points.append((running.trial.number, running.curve[-1]))
        started = self._clock()
        for running in self.running:
            self.storage.set_trial_intermediate_value(running.trial._trial_id, len(running.curve), running.objective[-1])
        self.curves.add(points)
        if started - self._beat > BEAT_SECONDS:
            self._beat = started
            for running in self.running:
                running.trial.set_user_attr("owner", _owner())
        self.storage.flush()
        self.seconds["storing"] += self._clock() - started

    def _judge(self) -> list[tuple[ModelShape, int]]:
        """Ends what has run its epochs or has a verdict; all verdicts are found before any is carried out."""
        everyone = {**self._past, **{r.trial.number: Peer(r.objective) for r in self.running}}
        verdicts = [
            (shape, slot, running, verdict)
            for shape, array in self.arrays.items()
            for slot, running in enumerate(array.slots)
            if (verdict := self._verdict(running, everyone)) is not None
        ]
        for shape, slot, running, verdict in sorted(verdicts, key=lambda found: found[2].trial.number):
            self._end(self.arrays[shape], slot, running, verdict)
        return [(shape, slot) for shape, slot, _, _ in verdicts]

    def _verdict(self, running: Running, everyone: dict[int, Peer]) -> Verdict | None:
        epoch, epochs = len(running.curve), self.definition.budget.epochs
        peers = tuple(peer for number, peer in everyone.items() if number != running.trial.number)
        losses = {name: tuple(point["losses"][name] for point in running.curve) for name in running.curve[-1]["losses"]}
        history = History(
            objective=running.objective,
            loss=tuple(point["loss"] for point in running.curve),
            epochs=epochs,
            chance=self.study.user_attrs["most_frequent"]["component_accuracy"],
            peers=peers,
            losses=losses,
            gradient_norm=tuple(point["gradient_norm"] for point in running.curve),
        )
        verdict = None if running.baseline or epoch < running.reached else self._rule(history)
        if verdict is not None and verdict.cause != "exploded" and self._audited(running.trial.number):
            if "audited" not in running.trial.user_attrs:
                running.trial.set_user_attr("audited", verdict.as_dict())
            verdict = None
        if verdict is None and epoch >= epochs:
            reason = f"ran its {epochs} epochs: component accuracy {running.objective[-1]:.3f}"
            verdict = Verdict("finished", epoch, reason, {"objective": running.objective[-1], "loss": history.loss[-1]})
        return verdict

    def _audited(self, number: int) -> bool:
        """Whether this trial's stops are not carried out, so that they can be measured; repeats with the study's seed."""
        return derived_seed(self.definition.seed, "audit", number) / 2**63 < self.definition.pruning.audit

    def _end(self, array: Array, slot: int, running: Running, verdict: Verdict) -> None:
        """Stores the ending and tells the study; the storage has it before the slot is used again."""
        started, trial = self._clock(), running.trial
        value = running.objective[-1] if verdict.cause == "finished" else None
        attributes: dict[str, Any] = {"epochs_run": len(running.curve), "train_seconds": round(running.seconds, 3)}
        if value is not None and running.scored is not None:
            path = self.checkpoints / re.sub(r"[^A-Za-z0-9@._-]", "_", self.study.study_name) / f"trial-{trial.number}.safetensors"
            array.trainer.save(slot, path, running.scored)
            attributes["checkpoint"] = str(path)
            trial.set_constraint("round_trip", self.definition.objective.round_trip_floor - running.scored.round_trip)
        for key, content in {**attributes, "verdict": verdict.as_dict()}.items():
            trial.set_user_attr(key, content)
        if value is None:
            self.study.tell(trial.number, state=TrialState.PRUNED)
        else:
            self.study.tell(trial.number, value)
        self._past[trial.number] = Peer(running.objective, over=True)
        self.seconds["storing"] += self._clock() - started
        self.observer.ended(running, verdict, value)

    def _note_seconds(self) -> None:
        """Adds this run's seconds to the study's."""
        for array in self.arrays.values():
            self._count(array.trainer)
        earlier = self.study.user_attrs.get("seconds", {})
        now = {**self.seconds, "total": self._clock() - self._began}
        self.study.set_user_attr("seconds", {name: round(earlier.get(name, 0.0) + value, 3) for name, value in now.items()})


def _point(record: Record, scored: Scored) -> dict[str, Any]:
    figures = {name: scored.figures[name] for name in KEPT_FIGURES if name in scored.figures}
    losses = {"loss": record.loss, "losses": dict(record.losses), "gradient_norm": record.gradient_norm}
    return {"epoch": record.epoch, "objective": scored.objective, **losses, **figures}


def _started_at(pid: int) -> str:
    """When a process of this machine began (clock ticks since boot), so that a number used again is told apart; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _owner() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _started_at(os.getpid()), "seen": time.time()}


def _alive(owner: dict[str, Any] | None) -> bool:
    """Whether the process that owns a trial still runs; one on another host (or container) must have been seen of late."""
    if owner is None:
        return False
    if owner["host"] != socket.gethostname():
        return time.time() - float(owner["seen"]) < SILENT_SECONDS
    return bool(owner["started"]) and bool(_started_at(owner["pid"]) == owner["started"]) and owner["pid"] != os.getpid()
