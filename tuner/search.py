"""The search loop: ask, load a slot, train an epoch, report, judge, tell, refill.

Trials of one shape train in one array, as one batched model. When a trial ends, its slot goes to the next trial while its neighbours train
on. All arrays of a lane advance by one epoch before any of their trials is judged, so the order of slots does not matter.

Between epochs the state of the whole search is held in memory, and from time to time written (see `snapshots`). A search that is continued
begins from the newest written state: what happened after it happens again in the same way, and what the storage already has of it is not
stored twice.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.artifacts._protocol import ArtifactStore
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial

from model.devices import check_others
from tuner.admission import Admission
from tuner.arrays import Arrays, Slot
from tuner.artifacts import Artifacts
from tuner.bench import Bench
from tuner.budget import Allowance, Ledger
from tuner.buffer import BufferedStorage
from tuner.definition import StudyDefinition
from tuner.endings import Endings
from tuner.errors import StudyError
from tuner.failures import device_failures
from tuner.intake import Intake, Past
from tuner.lanes import WATCH_SECONDS, shared_out
from tuner.observer import Observer
from tuner.ownership import OWNER, Heart, gone, owner
from tuner.peers import Peers
from tuner.seam import Scored, TrainerFactory
from tuner.slots import Place, Running
from tuner.snapshots import Keeper, Seat
from tuner.states import SearchState
from tuner.study import attributes_of, chance_of
from tuner.tables import CurveTable
from tuner.verdict import Verdict

LEAVE_SECONDS = 4.0
"""How long to wait, at the end, for a storage that is away."""
POLL_SECONDS = 2.0
"""So often it is looked whether trials of others have been left behind, while none trains here."""
NOTE_SECONDS = 30.0
"""How often processes that share GPU-minutes tell each other what they have spent."""


class Search:
    """One search on one device.

    Args:
        study: opened by `open_study` on a `BufferedStorage`.
        make_trainer: makes a trainer of a shape.
        width: how many trials train at once, over all shapes.
        checkpoints: the folder for finished trials' models.
        artifacts: where other machines and the dashboard find models and states.
        snapshots: the folder for states to resume from.
        keep: how many finished trials' models stay on disk, those of the best; None: all. Those of trials to be confirmed always stay.
        lanes: how many arrays train at the same time; no more than the width.
        watch: how many seconds an epoch may always take; it may take more if earlier ones took long.
        began: when the run began, by `clock`; its minutes are counted from then. None: now.
        alone: whether no other process of ours is known to train on the device, so that other programs hold the rest of its memory.
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
        began: float | None = None,
        alone: bool = False,
    ) -> None:
        self.study, self.definition, self.curves = study, definition, curves
        self.asked, self.device, self.snapshots, self._make_trainer = width, device, snapshots, make_trainer
        if not isinstance(study._storage, BufferedStorage):
            raise TypeError(f"the study must be opened on a BufferedStorage, not on a {type(study._storage).__name__}")
        self.storage, self.observer = study._storage, observer or Observer()
        self.storage.fence = OWNER
        lanes = max(1, min(lanes, width))
        notice = self.observer.noticed
        self._arrays = Arrays(definition, make_trainer, width=width, lanes=lanes, watch=watch, notice=notice, clock=clock)
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._clock, self._pause, self._lanes, self._alone = clock, threading.Event(), lanes, alone
        self._allowance = Allowance(study, definition.budget, clock, device.startswith("cuda"), began)
        shared = device == "cpu"
        self._admission = Admission(study, self.storage, definition, self._allowance, self._arrays, lanes, shared=shared, notice=notice)
        self._bench = Bench(definition, chance_of(study))
        self._artifacts = Artifacts(artifacts, study.user_attrs["mark"])
        self._endings = Endings(study, self.storage, definition, checkpoints, self._artifacts, keep, self.observer)
        self._past = Past()
        self._noted = -math.inf
        self._epoch = 0
        """How many epochs the lanes have made, in earlier runs too."""
        self.epochs = 0
        """How many epochs all trials have made together in this run."""
        self.advanced: list[Running] = []
        """The trials whose epoch ended last, by number."""

    @property
    def running(self) -> list[Running]:
        """The trials in slots, by number."""
        return self._arrays.running

    @property
    def width(self) -> int:
        """How many trials may train at once; less than asked for from when the device has no room."""
        return self._arrays.width

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
            DeviceError: the device has failed, or other programs hold its memory.
            SearchError: trials fail one after the other.
            SnapshotError: the folder of snapshots cannot be written.
            StorageAway: the storage stayed away.
            StudyError: the study has been deleted.
        """
        try:
            with shared_out(self._lanes), device_failures():
                self._run()
        except KeyError:  # as where the study has been deleted: then that is said
            self._allowance.stopped()
            raise

    def _run(self) -> None:
        self._seat = Seat(self.snapshots, self._artifacts)
        steps = max(1, self._lanes // 2)
        self._intake = Intake(self.study, self.storage, self.definition, self._seat, self.device, steps, self._admission)
        self._keeper = Keeper(self._seat, self._clock, self.observer.noticed)
        self._ledger = Ledger(self.study, self._seat.number, {})
        patience = self.storage.patience.seconds
        heart = Heart(lambda: self.storage.mark_own(OWNER, owner(self._seat.number), wait=False))
        try:
            self._take_up()
            self._admission.begin(self._make_trainer)
            if (rung := self._admission.rung) is not None:
                self._bench.compare(self._admission.starters, rung, self._admission.going_on)
            self._place([])
            self._keep()
            while (self.running or self._intake.others()) and not self._allowance.over():
                if self.running:
                    self._arrays.begin(lend=self._admission.lends)
                    self._place(self._set_aside(self._advance()))
                    if self._wait_for_room(self._arrays.even_out()):
                        self._place([])
                else:
                    self._pause.wait(POLL_SECONDS)  # somebody else's trials run: should they be left behind, they are taken up here
                    self.observer.waited()
                    self._place([])
                self._keep()
            while self._arrays.under_way and not self._allowance.stopped():
                self._arrays.refill(self._advance(), {})
                self._keep()
            self._admission.end(self._intake.late and not self._allowance.stopped())
            if not self._intake.under_way():
                self._keeper.forget()
        finally:
            self._arrays.leave()
            self.storage.patience.seconds = LEAVE_SECONDS
            heart.stop()
            self._leave()
            self.storage.patience.seconds = patience

    # ---- trials into slots

    def _take_up(self) -> None:
        """Goes on from the newest state, if there is one."""
        state = self._seat.newest(self._intake.mark, tell=self.observer.noticed) or self._seat.elsewhere(self._intake.mark)
        self._past, arrays = self._intake.take_up(state)
        self._peers = Peers(self._intake, self._past, self._clock)
        if state is not None:
            self._ledger = Ledger(self.study, self._seat.number, state.seconds, state.ledger)
        self._allowance.earlier = self._ledger.gpu_seconds
        if state is not None:
            self._go_on(state, arrays)

    def _go_on(self, state: SearchState, arrays: list[list[Running]]) -> None:
        """Trials back into slots as the state has them; those for which there is no room now wait."""
        self._epoch = state.epoch
        width, asked = state.width
        if asked == self.asked:
            self._arrays.width, self._arrays.wider = width, dict(state.wider)  # there was no room for more
        elif asked > self.asked:
            arrays = self._fewer(arrays)
        outside = list[Running]()
        for slots, lane in zip(arrays, state.lanes, strict=True):
            for running in slots:
                self.observer.started(running)
            outside += self._arrays.restore(lane, slots)
        if len(state.clocks) == self._lanes:
            self._arrays.clocks, self._arrays.closed = list(state.clocks), set(state.under_way).intersection(self._arrays.lanes)
        if outside:
            self._arrays.narrow(len(self.running), outside)
            self.observer.noticed(f"no room for {len(outside)} of the trials that go on; from now on {self.width} at once, the others wait")
            self._intake.park(outside)

    def _fewer(self, arrays: Sequence[Sequence[Running]]) -> list[list[Running]]:
        """Only so many of the trials that were in slots as are asked for now, array by array; the others wait."""
        kept, over = list[list[Running]](), list[Running]()
        for slots in arrays:
            room = self.asked - sum(map(len, kept))
            kept.append(list(slots[:room]))
            over += slots[room:]
        self._intake.park(over)
        return kept

    def _place(self, ended: Sequence[Slot]) -> None:
        """Fills the free slots, and again as long as some trials did not fit and none trains."""
        while self._wait_for_room(self._fill(ended)):
            ended = ()
        self._refuse()

    def _fill(self, ended: Sequence[Slot]) -> list[Running]:
        """Fills the free slots; returns the trials that do not fit."""
        started = self._clock()
        fresh: dict[Place, list[Running]] = {}
        begun, past = self.begun, self._past.over
        width = self._admission.width(begun, self._intake.coming)
        unserved = set[int]()  # lanes for which there is no trial now
        while not self._allowance.stopped():
            going, coming = self._arrays.going(ended, fresh), self._intake.coming
            lanes = [lane for lane in self._arrays.lanes_for_more(width, ended, fresh) if lane not in unserved]
            lane = next((lane for lane in lanes if not self._admission.waits(lane, going, coming, past)), None)
            if lane is None:
                break
            may_begin = functools.partial(self._admission.lets_baseline_begin, beside=going[lane], begun=begun)
            running = self._intake.next(self._admission.lets_begin(lane, going, coming), may_begin)
            if running is None:
                unserved.add(lane)
                continue
            begun += 1
            if running.error is not None:
                self._end(running, Verdict("failed", 0, running.error), _no_model)
                continue
            fresh.setdefault(Place(self._arrays.shape(running), lane), []).append(running)
            self.observer.started(running)
        if fresh:
            self._peers.learn(self.running)
        self.storage.flush()  # a trial is stored before it trains, so that another process can take it over
        self.seconds["asking"] += self._clock() - started
        return self._arrays.refill(ended, fresh)

    def _wait_for_room(self, outside: list[Running]) -> bool:
        """Makes trials that do not fit wait for a free slot; ends one that does not fit even alone.

        Returns:
            Whether no trial trains now, so that the slots must be filled again.

        Raises:
            DeviceFailed: one does not fit even alone because other programs hold the device's memory.
        """
        if not outside:
            return False
        if not self.running and len(outside) == 1:
            (running,) = outside
            self._check_others()
            self._end(running, Verdict("out_of_memory", len(running.curve), "the device has no room for this trial alone"), _no_model)
        else:
            self._arrays.narrow(len(self.running) or len(outside) // 2, outside)
            self.observer.noticed(f"no room for {len(outside)} more trials; from now on {self.width} at once, the others wait")
            self._intake.park(outside)
        return not self.running

    def _check_others(self) -> None:
        """Checks that a trial for which there is no room is itself to blame.

        Raises:
            DeviceFailed: other programs hold the device's memory; the trial continues elsewhere, or when there is room.
        """
        if self._alone:
            check_others(torch.device(self.device))

    def _refuse(self) -> None:
        """Ends trials that their trainer would not load, and fills their slots with others."""
        refused = [(slot, slot.running.error) for slot in self._arrays.slots() if slot.running.error is not None]
        for slot, error in refused:
            self._end(slot.running, Verdict("failed", len(slot.running.curve), error), self._arrays.saver(slot))
        if refused:
            self._place([slot for slot, _ in refused])

    def _set_aside(self, free: list[Slot]) -> list[Slot]:
        """Makes trials wait whose core another is to have; returns all slots that are free then."""
        over = {slot.running.number for slot in free}
        going = {slot.running.number: slot for slot in self._arrays.slots() if slot.running.number not in over}
        running = [each for each in self.running if each.number not in over]
        behind = self._admission.behind([slot.running for slot in going.values()], running, self._intake.coming, self._past.over)
        aside = [going[number] for number in behind]
        for slot in aside:
            self.observer.noticed(f"trial {slot.running.number} waits until a better one has ended, which has its core")
        self._intake.park([self._arrays.hold(slot) for slot in aside])
        return [*free, *aside]

    # ---- being killed

    def _keep(self) -> None:
        """Holds the search as it is now, to go on from."""
        started = self._clock()
        self._state = SearchState(
            study=self._intake.mark,
            epoch=self._epoch,
            past=tuple(sorted(self._past.over)),
            arrays=self._arrays.states(),
            waiting=self._intake.waiting,
            seconds=self._ledger.total(self.spent),
            width=(self.width, self.asked),
            wider=dict(self._arrays.wider),
            lanes=self._arrays.lanes,
            clocks=tuple(self._arrays.clocks),
            under_way=tuple(sorted(self._arrays.closed)),
            ledger=self._ledger.key,
        )
        self._keeper.hold(self._state)
        if self.definition.budget.gpu_minutes and started - self._noted >= NOTE_SECONDS:
            self._noted = started
            self._ledger.note(self.spent)
            self._allowance.earlier = self._ledger.gpu_seconds
        self.seconds["keeping"] += self._clock() - started

    def _leave(self) -> None:
        """Writes what must not be lost, however the search ends."""
        with contextlib.closing(self._seat):  # last: whoever took it before would find its trials to be somebody's yet
            try:
                self._keeper.finish()
            finally:
                self.storage.mark_own(OWNER, gone(self._seat.number))
                with contextlib.suppress(StudyError):  # there is nothing to note it with
                    attributes_of(self.study, self._intake.mark)
                    self._ledger.note(self.spent)

    # ---- an epoch

    def _advance(self) -> list[Slot]:
        """Waits for the lane whose epoch ends next, stores the epoch's figures and judges the lane's trials.

        Returns:
            The slots that are free now.
        """
        epoch = self._arrays.advance(self._state.slots)
        for lane, seconds in epoch.seconds.items():
            if lane not in epoch.broken:
                self._admission.measured(self._arrays.of_lane(lane), seconds, lent=lane in epoch.lent)
        self._intake.park(epoch.outside)
        self.advanced = sorted((running for running, _ in epoch.points), key=lambda running: running.number)
        self._epoch, self.epochs = self._epoch + 1, self.epochs + len(epoch.points)
        self._store(epoch.points)
        ended = self._judge(epoch.lanes)
        self.observer.epoch(self)
        return ended

    def _store(self, points: Sequence[tuple[Running, dict[str, Any]]]) -> None:
        """These points into the storage."""
        started = self._clock()
        ours = [(running, point) for running, point in points if self._ours(running)]
        for running, _ in sorted(ours, key=lambda one: one[0].number):
            with contextlib.suppress(UpdateFinishedTrialError):  # taken from us just now, which is told of when it is judged
                self.storage.set_trial_intermediate_value(running.trial._trial_id, len(running.curve), running.objective[-1])
        lost = set(self.storage.flush())
        self.curves.add([(r.number, point) for r, point in ours if r.trial._trial_id not in lost and self._ours(r)])
        self.seconds["storing"] += self._clock() - started

    def _ours(self, running: Running) -> bool:
        """Whether a trial is ours to store and to end: it had not ended before, and no other process has taken it from us since."""
        return isinstance(running.trial, Trial) and self.storage.owns(running.trial._trial_id)

    def _judge(self, lanes: Sequence[int]) -> list[Slot]:
        """Ends what has run its epochs or has a verdict, in these lanes; all verdicts are found before any is carried out.

        Returns:
            The slots that are free now.
        """
        there = [slot for slot in self._arrays.slots() if slot.place.lane in lanes]
        lost = [slot for slot in there if slot.running.ended is None and not self._ours(slot.running)]
        for slot in lost:
            self.observer.noticed(f"trial {slot.running.number} was ended or taken over by somebody else")
            self.observer.left(slot.running)
        if self._peers.due:
            self._peers.learn(self.running)
        everyone = self._peers.everyone(self.running, self._bench.starters)
        verdicts = [
            (slot, verdict)
            for slot in there
            if slot not in lost and (verdict := self._bench.verdict(slot.running, everyone, self._past.over)) is not None
        ]
        if any(verdict.cause == "out_of_memory" for _, verdict in verdicts):
            self._check_others()
        for slot, verdict in sorted(verdicts, key=lambda found: found[0].running.number):
            self._end(slot.running, verdict, self._arrays.saver(slot))
        return [*lost, *(slot for slot, _ in verdicts)]

    def _end(self, running: Running, verdict: Verdict, save: Callable[[Path, Scored], None]) -> None:
        """Stores an ending; the storage has it before the slot is used again."""
        started = self._clock()
        if self._ours(running):
            verdict = self._endings.store(running, verdict, save)
        else:
            self.observer.left(running)
        if verdict.cause == "out_of_memory":
            self._arrays.widen(running, self._intake.parked)
        self._past.add(running.number, running.objective, verdict.cause == "failed")
        self.seconds["storing"] += self._clock() - started

    @property
    def spent(self) -> dict[str, float]:
        """The seconds of this run, by what they were spent on."""
        return {**self.seconds, **self._arrays.seconds, "total": self._allowance.seconds, "gpu": self._allowance.gpu_seconds}


def _no_model(path: Path, _: Scored) -> None:
    raise ValueError(f"there is no model to write to {path}: it never was in a slot")
