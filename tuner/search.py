"""The search loop: ask, load a slot, train an epoch, report, judge, tell, refill.

Trials of one shape train in one array as one batched model; a slot that ends is given to the next trial of its shape while its neighbours
train on. All arrays advance by one epoch before any trial is judged, so the order of slots does not matter.

Between two epochs the whole search is held as a state, and from time to time written (see `snapshots`). A search that goes on begins from
the newest state: what had happened since happens again in the same way, and what the storage knows of it already is not stored twice.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.artifacts._protocol import ArtifactStore
from optuna.trial import Trial

from model.config import ModelShape
from model.errors import DeviceError
from tuner.artifacts import Artifacts
from tuner.bench import Bench
from tuner.budget import Allowance, Ledger
from tuner.buffer import BufferedStorage
from tuner.definition import StudyDefinition
from tuner.endings import Endings
from tuner.errors import SearchError
from tuner.failures import Outcome
from tuner.intake import Intake, Past
from tuner.judges import Peer
from tuner.lanes import Attempt, Job, advance_all, attempt
from tuner.observer import Observer
from tuner.ownership import OWNER, Heart, gone, owner
from tuner.seam import Held, Scored, TrainerFactory
from tuner.slots import Array, Place, Running
from tuner.snapshots import Keeper, SearchState, Seat
from tuner.tables import CurveTable
from tuner.verdict import Verdict

LEAVE_SECONDS = 4.0
"""For so long a storage that is away is waited for at the end."""
BASELINES_AT = 2 / 3
"""When so much of the budget is spent the baselines begin, all together: they are never stopped, and mostly large."""
WATCH_SECONDS, WATCH_TIMES = 1800.0, 20
POLL_SECONDS = 2.0


class Search:
    """One search on one device.

    Args:
        study: opened by `open_study` on a `BufferedStorage`.
        make_trainer: makes a trainer of a shape.
        width: how many trials train at once, over all shapes.
        checkpoints: the folder for finished trials' models.
        artifacts: where other machines and the dashboard find models and states.
        snapshots: the folder for states to go on from.
        keep: how many finished trials' models stay on disk, the best; None for all. As many as are confirmed stay in any case.
        lanes: how many arrays train at the same time.
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
        artifacts: ArtifactStore,
        observer: Observer | None = None,
        watch: float = WATCH_SECONDS,
        keep: int | None = None,
        lanes: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.study, self.definition, self.make_trainer, self.curves = study, definition, make_trainer, curves
        self.width, self.asked, self.device, self.snapshots = width, width, device, snapshots
        if not isinstance(study._storage, BufferedStorage):
            raise TypeError(f"the study must be opened on a BufferedStorage, not on a {type(study._storage).__name__}")
        self.storage, self.observer, self._watch = study._storage, observer or Observer(), watch
        self.storage.fence, self._lanes = OWNER, lanes
        self.arrays: dict[Place, Array] = {}
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._clock, self._idle = clock, threading.Event()
        self._allowance = Allowance(study, definition.budget, clock, device.startswith("cuda"))
        self._bench = Bench(definition, study.user_attrs["most_frequent"]["component_accuracy"])
        self._artifacts = Artifacts(artifacts, study.user_attrs["mark"])
        self._endings = Endings(study, self.storage, definition, checkpoints, self._artifacts, keep, self.observer)
        self._past = Past()
        self._slowest: dict[Place, float] = {}
        self._epoch = 0

    @property
    def running(self) -> list[Running]:
        """The trials in slots, by number."""
        return sorted((r for array in self.arrays.values() for r in array.slots), key=lambda r: r.number)

    @property
    def waiting_writes(self) -> int:
        """How many rows the storage has not written yet."""
        return self.storage.waiting

    @property
    def begun(self) -> int:
        """How many trials of the study run or have ended, as far as this process knows."""
        return len(self._past.over | {running.number for running in self.running})

    def run(self) -> None:
        """Searches until the budget is used up; a killed search is continued by running it again.

        Raises:
            DeviceError: the device has failed.
            SnapshotError: the folder of snapshots cannot be written.
        """
        self._seat = Seat(self.snapshots, self._artifacts)
        self._intake = Intake(self.study, self.storage, self.definition, self._seat, self.device, max(1, self.asked // 2))
        self._keeper = Keeper(self._seat, self._clock, self.observer.noticed)
        patience = self.storage.patience.seconds
        heart = Heart(lambda: self.storage.mark_own(OWNER, owner(self._seat.number)))
        try:
            self._take_up()
            self._place([])
            self._keep()
            while (self.running or self._intake.others()) and not self._allowance.over():
                if self.running:
                    self._advance()
                    ended = self._judge()
                    self.observer.epoch(self)
                    self._place(ended)
                else:
                    self._idle.wait(POLL_SECONDS)  # somebody else's trials run: should they be left behind, they are taken up here
                    self._place([])
                self._keep()
            if not self.running and not self._intake.waiting:
                self._keeper.forget()
        finally:
            self.storage.patience.seconds = LEAVE_SECONDS
            heart.stop()
            self._leave()
            self.storage.patience.seconds = patience

    # ---- trials into slots

    def _take_up(self) -> None:
        """Goes on from the newest state, if there is one."""
        state = self._seat.newest(self._intake.mark, tell=self.observer.noticed)
        self._past, arrays = self._intake.take_up(state)
        self._epoch = 0 if state is None else state.epoch
        if state is not None and state.width[1] == self.asked:
            self.width = state.width[0]  # there was no room for more
        self._ledger = Ledger(self.study, self._seat.number, {} if state is None else state.seconds)
        self._allowance.earlier = self._ledger.gpu_seconds
        for slots, lane in zip(arrays, state.lanes if state else (), strict=True):
            for running in slots:
                self.observer.started(running)
            if slots:
                self._fill(Place(self._shape(slots[0]), lane % self._lanes), [], slots)

    def _shape(self, running: Running) -> ModelShape:
        return self.definition.settings(running.trial.params, running.hyperparameters.seed)[0]

    def _place(self, ended: list[tuple[Place, int]]) -> None:
        """Fills the free slots; arrays without trials are given up."""
        started = self._clock()
        fresh: dict[Place, list[Running]] = {}
        width = self.width if self.begun else max(self.width, self.definition.starting)  # the first are of one shape, and cheap
        free = width - len(self.running) + len(ended)
        fresh_too = free > 0 and not self._allowance.spent()
        begun = self.begun
        while free > 0 and not self._allowance.stopped():
            if (running := self._intake.next(fresh_too, self._allowance.share(begun) >= BASELINES_AT)) is None:
                break
            fresh.setdefault(self._where(running, ended, fresh), []).append(running)
            self.observer.started(running)
            free, begun = free - 1, begun + 1
        self.storage.flush()  # what is trained is stored: it can be taken up by another
        self.seconds["asking"] += self._clock() - started
        outside: list[Running] = []
        for place in dict.fromkeys((*self.arrays, *fresh)):
            outside += self._fill(place, [slot for at, slot in ended if at == place], fresh.get(place, []))
        if outside:
            self._wait_for_room(outside)
        self._refuse()

    def _where(self, running: Running, ended: list[tuple[Place, int]], fresh: dict[Place, list[Running]]) -> Place:
        """The array for a new trial: in the lane that has the fewest, of these in one that has an array of its shape."""
        held = Counter({place: len(array.slots) for place, array in self.arrays.items()})
        held.subtract(place for place, _ in ended)
        held.update({place: len(more) for place, more in fresh.items()})
        shape, lanes = self._shape(running), Counter(dict.fromkeys(range(self._lanes), 0))
        for place, count in held.items():
            lanes[place.lane] += count
        return Place(shape, min(lanes, key=lambda lane: (lanes[lane], held[Place(shape, lane)] == 0, lane)))

    def _fill(self, place: Place, ended: list[int], fresh: list[Running]) -> list[Running]:
        """New trials of a shape into its array; those for which there is no room."""
        try:
            if place not in self.arrays:
                self.arrays[place] = Array(self.make_trainer(place.shape, 0))
            outside = self.arrays[place].replace(ended, fresh)
        except MemoryError as error:
            if place in self.arrays:
                raise SearchError(f"the device has no room for what it had room for ({error}); run it again to go on") from error
            outside = fresh
        if place in self.arrays and not self.arrays[place].slots:
            del self.arrays[place]
        return outside

    def _wait_for_room(self, outside: list[Running]) -> None:
        """Trials that do not fit wait for a free slot; one that does not fit alone never will."""
        if not self.running and len(outside) == 1:
            (running,) = outside
            self._end(running, Verdict("out_of_memory", len(running.curve), "the device has no room for this trial alone"), _no_model)
        else:
            self.width = len(self.running) or len(outside) // 2
            self.observer.noticed(f"no room for {len(outside)} more trials; from now on {self.width} at once, the others wait")
            self._intake.park(outside)
        if not self.running:
            self._place([])

    def _refuse(self) -> None:
        """Ends trials that their trainer would not load, and fills their slots with others."""
        refused = [
            (place, slot, running, running.error)
            for place, array in self.arrays.items()
            for slot, running in enumerate(array.slots)
            if running.error is not None
        ]
        for place, slot, running, error in refused:
            self._end(running, Verdict("failed", len(running.curve), error), self._saver(place, slot))
        if refused:
            self._place([(place, slot) for place, slot, _, _ in refused])

    # ---- being killed

    def _keep(self) -> None:
        """Holds the search as it is now, to go on from."""
        started = self._clock()
        arrays = tuple(array.states() for array in self.arrays.values())
        past, spent = tuple(sorted(self._past.over)), self._ledger.total(self.spent)
        width = self.width, self.asked
        lanes = tuple(place.lane for place in self.arrays)
        self._state = SearchState(self._intake.mark, self._epoch, past, arrays, self._intake.waiting, spent, width, lanes)
        self._keeper.hold(self._state)
        self.seconds["keeping"] += self._clock() - started

    def _leave(self) -> None:
        """Writes what must not be lost, however the search ends."""
        try:
            self._keeper.close()
        finally:
            self.storage.mark_own(OWNER, gone(self._seat.number))
            self._ledger.note(self.spent)

    # ---- an epoch

    def _advance(self) -> None:
        """One epoch for every array, as many at once as there are lanes, and its figures into the storage."""
        points: list[tuple[Running, dict[str, Any]]] = []
        for (place, array), tried in zip(list(self.arrays.items()), self._attempts(), strict=True):
            outcomes = self._outcomes(place, array, tried)
            self._slowest[place] = max(tried.seconds, self._slowest.get(place, 0.0))
            for running, outcome in zip(array.slots, outcomes, strict=True):
                running.error = outcome.error
                if outcome.error is None and outcome.record is not None and outcome.scored is not None:
                    point = running.advanced(outcome.record, outcome.scored, tried.seconds / len(array.slots))
                    if self._ours(running):
                        points.append((running, point))
        self._epoch += 1
        started = self._clock()
        for running in self.running:
            if self._ours(running) and running.curve:
                self.storage.set_trial_intermediate_value(running.trial._trial_id, len(running.curve), running.objective[-1])
        lost = set(self.storage.flush())
        self.curves.add([(running.number, point) for running, point in points if running.trial._trial_id not in lost])
        self.seconds["storing"] += self._clock() - started

    def _ours(self, running: Running) -> bool:
        """Whether it is for us to say what becomes of a trial: it had not ended before, and nobody has taken it from us since."""
        return isinstance(running.trial, Trial) and self.storage.owns(running.trial._trial_id)

    def _attempts(self) -> list[Attempt]:
        """An epoch of every array; the seconds of arrays that train at once count once."""
        arrays = list(self.arrays.items())
        before = self._trained()
        tried = advance_all([self._job(place, array) for place, array in arrays])
        lanes = len({place.lane for place, _ in arrays})
        for name, seconds in self._trained().items():
            self.seconds[name] += (seconds - before[name]) / lanes
        return tried

    def _trained(self) -> Counter[str]:
        """The seconds that the arrays' trainers have spent, by what on."""
        found: Counter[str] = Counter()
        for array in self.arrays.values():
            found.update(dict(array.trainer.seconds))
        return found

    def _job(self, place: Place, array: Array) -> Job:
        slowest = self._slowest.get(place, 0.0)
        return Job(place.lane, array.trainer, len(array.slots), max(self._watch, WATCH_TIMES * slowest), slowest)

    def _outcomes(self, place: Place, array: Array, tried: Attempt) -> list[Outcome]:
        """What came of an array's epoch; where it had no room, of as many of its trials as have."""
        while array.slots:
            try:
                return tried.result()
            except MemoryError as error:
                if not self._make_room(array, error):
                    break
                tried = attempt(self._job(place, array))
            except DeviceError:
                raise  # no trial is to blame: they go on elsewhere, or when the device is back
            except Exception as error:  # noqa: BLE001  whatever a trainer raises is stored with the trial whose fault it is
                if len(array.slots) > 1:
                    told = Outcome.failed(error).error
                    self.observer.noticed(f"the trainer raised {told}; its trials are trained one by one to find whose fault it is")
                seconds = self._job(place, array).seconds
                return array.one_by_one(lambda: self.make_trainer(place.shape, 0), self._held(array), seconds)
        return [Outcome(None, None)] * len(array.slots)

    def _held(self, array: Array) -> list[Held]:
        """Where the trials of an array were before this epoch."""
        slots = self._state.slots
        return [slots[running.number].held for running in array.slots]

    def _make_room(self, array: Array, error: MemoryError) -> bool:
        """Halves an array, the other half waits for a free slot; whether it is to be tried again."""
        held, keep = self._held(array), len(array.slots) // 2
        if len(self.running) == 1:
            array.slots[0].no_room = str(error) or "out of memory"
            return False
        self.observer.noticed(f"no room for {len(array.slots)} trials at once ({error}); from now on {keep}, the others wait")
        for running, state in zip(array.slots[keep:], held[keep:], strict=True):
            running.held = state
        self._intake.park(array.slots[keep:])
        self.width = max(1, len(self.running) - len(array.slots) + keep)
        array.slots = array.slots[:keep]
        try:
            array.restart(held[:keep])
        except MemoryError as more:
            return self._make_room(array, more)
        return True

    def _judge(self) -> list[tuple[Place, int]]:
        """Ends what has run its epochs or has a verdict; all verdicts are found before any is carried out."""
        lost = [
            (place, slot, running)
            for place, array in self.arrays.items()
            for slot, running in enumerate(array.slots)
            if running.ended is None and not self._ours(running)
        ]
        for _, _, running in lost:
            self.observer.noticed(f"trial {running.number} was ended or taken over by somebody else")
        everyone = {**self._past.peers, **{r.number: Peer(r.objective) for r in self.running}}
        verdicts = [
            (place, slot, running, verdict)
            for place, array in self.arrays.items()
            for slot, running in enumerate(array.slots)
            if (place, slot, running) not in lost and (verdict := self._bench.verdict(running, everyone)) is not None
        ]
        for place, slot, running, verdict in sorted(verdicts, key=lambda found: found[2].number):
            self._end(running, verdict, self._saver(place, slot))
        return [*((place, slot) for place, slot, _ in lost), *((place, slot) for place, slot, _, _ in verdicts)]

    def _saver(self, place: Place, slot: int) -> Callable[[Path, Scored], None]:
        return functools.partial(self.arrays[place].trainer.save, slot)

    def _end(self, running: Running, verdict: Verdict, save: Callable[[Path, Scored], None]) -> None:
        """Stores an ending; the storage has it before the slot is used again."""
        started = self._clock()
        self._past.add(running.number, running.objective, verdict.cause == "failed")
        if self._ours(running):
            self._endings.store(running, verdict, save)
        self.seconds["storing"] += self._clock() - started

    @property
    def spent(self) -> dict[str, float]:
        """The seconds of this run, by what they were spent on."""
        return {**self.seconds, "total": self._allowance.seconds, "gpu": self._allowance.gpu_seconds}


def _no_model(path: Path, _: Scored) -> None:
    raise ValueError(f"there is no model to write to {path}: it never was in a slot")
