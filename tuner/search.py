"""The search loop: ask, load a slot, train an epoch, report, judge, tell, refill.

Trials of one shape train in one array as one batched model; a slot that ends is given to the next trial of its shape while its neighbours
train on. All arrays advance by one epoch before any trial is judged, so the order of slots does not matter.

Between two epochs the whole search is held as a state, and from time to time written (see `snapshots`). A search that goes on begins from
the newest state: what had happened since happens again in the same way, and what the storage knows of it already is not stored twice.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from model.config import ModelShape
from model.noise import derived_seed
from tuner.budget import Allowance
from tuner.buffer import BufferedStorage
from tuner.confirm import feasible
from tuner.definition import StudyDefinition
from tuner.errors import SearchError
from tuner.failures import Outcome, advance
from tuner.intake import Intake, Past
from tuner.judges import History, Peer
from tuner.ownership import Heart, owner
from tuner.seam import Held, Trainer, TrainerFactory
from tuner.slots import Array, Running
from tuner.snapshots import Keeper, SearchState, Seat
from tuner.storage import CurveTable
from tuner.verdict import Verdict

LEAVE_SECONDS = 4.0
"""For so long a storage that is away is waited for at the end."""
WATCH_SECONDS, WATCH_TIMES = 1800.0, 20
POLL_SECONDS = 2.0
FAILURES_IN_A_ROW = 5
"""So many failed trials with no other ending between them stop the search."""


class Observer:
    """What is told of a search as it goes; the base class listens to nothing."""

    def started(self, running: Running) -> None:
        """A trial entered a slot."""

    def epoch(self, search: Search) -> None:
        """All running trials advanced by one epoch."""

    def ended(self, running: Running, verdict: Verdict, value: float | None) -> None:
        """A trial ended."""

    def noticed(self, what: str) -> None:
        """Something happened that the user should know of."""


class Search:
    """One search on one device.

    Args:
        study: opened by `open_study` on a `BufferedStorage`.
        make_trainer: makes a trainer of a shape.
        width: how many trials train at once, over all shapes.
        checkpoints: the folder for finished trials' models.
        snapshots: the folder for states to go on from.
        keep: how many finished trials' models stay on disk, the best; None for all. As many as are confirmed stay in any case.
        watch: an epoch may take so many seconds at least, and `WATCH_TIMES` the slowest before it.
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
        snapshots: Path,
        observer: Observer | None = None,
        watch: float = WATCH_SECONDS,
        keep: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.study, self.definition, self.make_trainer, self.curves = study, definition, make_trainer, curves
        self.width, self.device, self.checkpoints, self.snapshots = width, device, checkpoints, snapshots
        if not isinstance(study._storage, BufferedStorage):
            raise TypeError(f"the study must be opened on a BufferedStorage, not on a {type(study._storage).__name__}")
        self.storage, self.observer, self._watch = study._storage, observer or Observer(), watch
        self.arrays: dict[ModelShape, Array] = {}
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._clock, self._idle = clock, threading.Event()
        self._allowance = Allowance(study, definition.budget, clock, device.startswith("cuda"))
        self._rule = definition.pruning.rule()
        self._past = Past()
        self._slowest: dict[ModelShape, float] = {}
        self._failures, self._keep_models = 0, keep
        self._epoch = 0

    @property
    def running(self) -> list[Running]:
        """The trials in slots, by number."""
        return sorted((r for array in self.arrays.values() for r in array.slots), key=lambda r: r.number)

    @property
    def complete(self) -> bool:
        """Whether the budget of trials is used up and all of them have ended."""
        ended = [t for t in self.study.get_trials(deepcopy=False) if t.state.is_finished()]
        return len(ended) >= self.definition.budget.trials

    def run(self) -> None:
        """Searches until the budget is used up; a killed search is continued by running it again.

        Raises:
            SnapshotError: the folder of snapshots cannot be written.
        """
        self._seat = Seat(self.snapshots)
        self._intake = Intake(self.study, self.storage, self.definition, self._seat, self.device)
        self._keeper = Keeper(self._seat, self._clock, self.observer.noticed)
        heart = Heart(lambda: self.storage.mark_own("owner", owner(self._seat.number)))
        try:
            self._take_up()
            self._place([])
            self._keep()
            while (self.running or self._intake.others()) and not self._allowance.over(self._epochs):
                if self.running:
                    self._advance()
                    ended = self._judge()
                    self.observer.epoch(self)
                    self._place(ended)
                else:
                    self._idle.wait(POLL_SECONDS)  # somebody else's trials run: should they be left behind, they are taken up here
                    self._place([])
                self._keep()
            if not self.running:
                self._keeper.forget()
        finally:
            self.storage.patience.seconds = LEAVE_SECONDS
            heart.stop()
            self._leave()

    # ---- trials into slots

    def _take_up(self) -> None:
        """Goes on from the newest state, if there is one."""
        state = self._seat.newest(self._intake.mark, tell=self.observer.noticed)
        self._past, arrays = self._intake.take_up(state)
        self._epoch = 0 if state is None else state.epoch
        for slots in arrays:
            for running in slots:
                self.observer.started(running)
            if slots:
                shape = self._shape(slots[0])
                self.arrays[shape] = Array(self.make_trainer(shape, 0))
                self.arrays[shape].replace([], slots)

    @property
    def _epochs(self) -> int:
        """The epochs of the trials in slots."""
        return sum(len(running.curve) for running in self.running)

    def _shape(self, running: Running) -> ModelShape:
        return self.definition.settings(running.trial.params, running.hyperparameters.seed)[0]

    def _place(self, ended: list[tuple[ModelShape, int]]) -> None:
        """Fills the free slots; arrays without trials are given up."""
        started = self._clock()
        fresh: dict[ModelShape, list[Running]] = {}
        free = self.width - len(self.running) + len(ended)
        open_ = free > 0 and not self._allowance.stopped() and not self._allowance.spent(self._epochs)
        while open_ and free > 0 and (running := self._intake.next()) is not None:
            fresh.setdefault(self._shape(running), []).append(running)
            self.observer.started(running)
            free -= 1
        self.storage.flush()  # what is trained is stored: it can be taken up by another
        self.seconds["asking"] += self._clock() - started
        for shape in dict.fromkeys((*self.arrays, *fresh)):
            if shape not in self.arrays:
                self.arrays[shape] = Array(self.make_trainer(shape, 0))
            slots = [slot for ended_shape, slot in ended if ended_shape == shape]
            self.arrays[shape].replace(slots, fresh.get(shape, []))
            if not self.arrays[shape].slots:
                self._count(self.arrays.pop(shape).trainer)

    # ---- being killed

    def _keep(self) -> None:
        """Holds the search as it is now, to go on from."""
        started = self._clock()
        arrays = tuple(array.states() for array in self.arrays.values())
        self._state = SearchState(self._intake.mark, self._epoch, tuple(sorted(self._past.over)), arrays)
        self._keeper.hold(self._state)
        self.seconds["keeping"] += self._clock() - started

    def _leave(self) -> None:
        """Writes what must not be lost, however the search ends."""
        try:
            self._keeper.close()
        finally:
            self.storage.flush()
            self._note_seconds()

    # ---- an epoch

    def _count(self, trainer: Trainer) -> None:
        for name, seconds in trainer.seconds.items():
            self.seconds[name] += seconds

    def _advance(self) -> None:
        """One epoch for every array, and its figures into the storage."""
        points: list[tuple[int, dict[str, Any]]] = []
        for shape, array in list(self.arrays.items()):
            before = self._clock()
            outcomes = self._outcomes(shape, array)
            took = self._clock() - before
            self._slowest[shape] = max(took, self._slowest.get(shape, 0.0))
            for running, outcome in zip(array.slots, outcomes, strict=True):
                running.error = outcome.error
                if outcome.error is None and outcome.record is not None and outcome.scored is not None:
                    point = running.advanced(outcome.record, outcome.scored, took / len(array.slots))
                    if running.ended is None:
                        points.append((running.number, point))
        self._epoch += 1
        started = self._clock()
        for running in self.running:
            if running.ended is None and running.curve:
                self.storage.set_trial_intermediate_value(running.trial._trial_id, len(running.curve), running.objective[-1])
        self.curves.add(points)
        self.storage.flush()
        self.seconds["storing"] += self._clock() - started

    def _outcomes(self, shape: ModelShape, array: Array) -> list[Outcome]:
        """One epoch of an array; where it has no room, of as many of its trials as have."""
        seconds = max(self._watch, WATCH_TIMES * self._slowest.get(shape, 0.0))
        while array.slots:
            try:
                return advance(array.trainer, len(array.slots), seconds)
            except MemoryError as error:
                if not self._make_room(shape, array, error):
                    break
            except Exception as error:  # noqa: BLE001  whatever a trainer raises is stored with the trial whose fault it is
                if len(array.slots) > 1:
                    told = Outcome.failed(error).error
                    self.observer.noticed(f"the trainer raised {told}; its trials are trained one by one to find whose fault it is")
                self._count(array.trainer)
                return array.one_by_one(lambda: self.make_trainer(shape, 0), self._held(array), seconds)
        return [Outcome(None, None)] * len(array.slots)

    def _held(self, array: Array) -> list[Held]:
        """Where the trials of an array were before this epoch."""
        slots = self._state.slots
        return [slots[running.number].held for running in array.slots]

    def _make_room(self, shape: ModelShape, array: Array, error: MemoryError) -> bool:
        """Halves an array, the other half waits for a free slot; whether it is to be tried again."""
        held, keep = self._held(array), len(array.slots) // 2
        self._count(array.trainer)
        if len(self.running) == 1:
            array.slots[0].no_room = str(error) or "out of memory"
            return False
        self.observer.noticed(f"no room for {len(array.slots)} trials at once ({error}); from now on {keep}, the others wait")
        for running, state in zip(array.slots[keep:], held[keep:], strict=True):
            running.held = state
        self._intake.park(array.slots[keep:])
        self.width = max(1, len(self.running) - len(array.slots) + keep)
        array.slots = array.slots[:keep]
        array.restore(self.make_trainer(shape, 0), held[:keep])
        return True

    def _judge(self) -> list[tuple[ModelShape, int]]:
        """Ends what has run its epochs or has a verdict; all verdicts are found before any is carried out."""
        everyone = {**self._past.peers, **{r.number: Peer(r.objective) for r in self.running}}
        verdicts = [
            (shape, slot, running, verdict)
            for shape, array in self.arrays.items()
            for slot, running in enumerate(array.slots)
            if (verdict := self._verdict(running, everyone)) is not None
        ]
        for shape, slot, running, verdict in sorted(verdicts, key=lambda found: found[2].number):
            self._end(self.arrays[shape], slot, running, verdict)
        return [(shape, slot) for shape, slot, _, _ in verdicts]

    def _verdict(self, running: Running, everyone: dict[int, Peer]) -> Verdict | None:
        epoch, epochs = len(running.curve), self.definition.budget.epochs
        if running.error is not None:
            return Verdict("failed", epoch, running.error)
        if running.no_room is not None:
            return Verdict("out_of_memory", epoch, f"the device has no room for this trial alone: {running.no_room}")
        if epoch == 0:
            return None  # it had to wait for room
        if (known := running.ended) is not None:
            return known if epoch >= known.epoch else None
        peers = tuple(peer for number, peer in everyone.items() if number != running.number)
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
        if verdict is not None and verdict.cause != "exploded" and self._audited(running.number):
            if "audited" not in running.trial.user_attrs and isinstance(running.trial, Trial):
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
        self._past.add(running.number, running.objective, verdict.cause == "failed")
        if isinstance(trial, FrozenTrial):
            return  # it is stored
        value = running.objective[-1] if verdict.cause == "finished" else None
        attributes: dict[str, Any] = {"epochs_run": len(running.curve), "train_seconds": round(running.seconds, 3)}
        if value is not None and running.scored is not None:
            path = self.checkpoints / f"trial-{trial.number}.safetensors"
            array.trainer.save(slot, path, running.scored)
            attributes["checkpoint"] = str(path)
            self._constrain(trial, "round_trip", self.definition.objective.round_trip_floor - running.scored.round_trip)
        if verdict.cause == "out_of_memory":
            self._constrain(trial, "memory", 1.0)  # the sampler keeps away from what cannot be trained
        for key, content in {**attributes, "verdict": verdict.as_dict()}.items():
            trial.set_user_attr(key, content)
        if verdict.cause == "failed":
            self.study.tell(trial.number, state=TrialState.FAIL)
        elif value is None:
            self.study.tell(trial.number, state=TrialState.PRUNED)
        else:
            self.study.tell(trial.number, value)
        self.seconds["storing"] += self._clock() - started
        self.observer.ended(running, verdict, value)
        if self._keep_models is not None and value is not None:
            self._trim(max(self._keep_models, self.definition.confirm.top))
        self._failures = self._failures + 1 if verdict.cause == "failed" else 0
        if self._failures >= FAILURES_IN_A_ROW:
            raise SearchError(f"{self._failures} trials failed one after the other, the last: {verdict.reason}; mend that and run it again")

    def _constrain(self, trial: Trial, name: str, value: float) -> None:
        """Sets a constraint, unless it was set before a kill."""
        if name not in self.storage.get_trial(trial._trial_id).constraints:
            trial.set_constraint(name, value)

    def _trim(self, keep: int) -> None:
        """Removes the models of all but the best finished trials."""
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        best = {trial.number for trial in feasible(trials)[:keep]}
        for trial in trials:
            if trial.number not in best:
                Path(trial.user_attrs["checkpoint"]).unlink(missing_ok=True)

    def _note_seconds(self) -> None:
        """Adds this run's seconds to the study's."""
        for array in self.arrays.values():
            self._count(array.trainer)
        earlier = self.study.user_attrs.get("seconds", {})
        now = {**self.seconds, "total": self._allowance.seconds, "gpu": self._allowance.gpu_seconds}
        self.study.set_user_attr("seconds", {name: round(earlier.get(name, 0.0) + value, 3) for name, value in now.items()})
