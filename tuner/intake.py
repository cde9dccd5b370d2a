"""Where a search's trials come from: parked for lack of room, interrupted, left by a dead process, or new while the budget lasts."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from model.config import Hyperparameters
from model.noise import derived_seed
from tuner.buffer import BufferedStorage
from tuner.climb import Room, guide
from tuner.definition import StudyDefinition
from tuner.judges import Peer
from tuner.ownership import OWNER, alive, in_seat, itself, owner, seat_of
from tuner.promotion import STEP, Proposal
from tuner.slots import Running
from tuner.snapshots import Seat
from tuner.starters import decided
from tuner.states import SearchState, SlotState
from tuner.study import BASELINE, FIXED, VERDICT
from tuner.tables import Unfinished
from tuner.warm import remembered, sampler_for

MayBegin = Callable[[FrozenTrial, bool], bool]
"""Whether a waiting baseline may begin; its second argument: whether the waiting trials take up what is left of the budget of trials."""


def _begun(frozen: FrozenTrial) -> tuple[float, int]:
    """When a trial began, which is not the order of the numbers where one had been put in."""
    return 0.0 if frozen.datetime_start is None else frozen.datetime_start.timestamp(), frozen.number


def curve_of(frozen: FrozenTrial) -> tuple[float, ...]:
    """Its objective by epoch, as far as it is stored."""
    return tuple(value for _, value in sorted(frozen.intermediate_values.items()))


@dataclass
class Past:
    """What had ended: the curves of those that peers are measured against, and the numbers of all."""

    peers: dict[int, Peer] = field(default_factory=dict)
    over: set[int] = field(default_factory=set)

    def add(self, number: int, curve: tuple[float, ...], failed: bool) -> None:
        """One more; a failed trial is nobody's peer."""
        self.over.add(number)
        if not failed:
            self.peers[number] = Peer(curve, over=True)


class Intake:
    """Gives a search its trials, in an order that depends on nothing but what the study holds.

    Args:
        study: on `storage`.
        seat: where this process sits; whose trials it takes up first.
        device: noted with new trials.
        steps: how many trials may at once be steps from the best (see `climb`).
        room: what the time that is left has room for (see `climb`).
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: BufferedStorage,
        definition: StudyDefinition,
        seat: Seat,
        device: str,
        steps: int,
        room: Room,
    ) -> None:
        self.study, self.storage, self.definition, self.seat = study, storage, definition, seat
        self.device, self.steps, self.room = device, steps, room
        self.mark = str(study.user_attrs["mark"])
        self._earlier = remembered(study)
        self.parked: list[Running] = []
        """Those that had to make room, and go on first."""
        self._left: list[FrozenTrial] = []
        self._behind: dict[int, SlotState] = {}
        self.late = False
        """Whether the new trial that was asked for last would not have ended, and did not begin."""

    def take_up(self, state: SearchState | None) -> tuple[Past, list[list[Running]]]:
        """The trials that had ended by this state, and those that were in slots, array by array.

        What happened after it is to happen again: the trials of this seat that began or ended since come back, in the order they began in.
        """
        past = Past()
        for frozen in self.study.get_trials(deepcopy=False):
            mine = in_seat(frozen.user_attrs.get(OWNER), self.seat.number)
            known = VERDICT in frozen.user_attrs or not frozen.state.is_finished()  # else somebody else has ended it
            again = mine and known and state is not None and frozen.number not in state.past
            if frozen.state.is_finished() and not again:
                past.add(frozen.number, curve_of(frozen), frozen.state == TrialState.FAIL)
            elif again or (mine and frozen.state == TrialState.RUNNING):
                self._left.append(frozen)
        self._left.sort(key=_begun)
        if state is None:
            return past, []
        arrays = [self._restored(slots) for slots in state.arrays]
        self.park(self._restored(state.waiting))
        return past, arrays

    def _restored(self, slots: tuple[SlotState, ...]) -> list[Running]:
        left = {frozen.number: frozen for frozen in self._left}
        there = [(left[slot.trial], slot) for slot in slots if slot.trial in left]
        self._left = [frozen for frozen in self._left if frozen.number not in {slot.trial for slot in slots}]
        return [running for frozen, slot in there if (running := self._again(frozen, slot)) is not None]

    def park(self, waiting: list[Running]) -> None:
        """These had to make room; they go on first."""
        self.parked += waiting

    @property
    def waiting(self) -> tuple[SlotState, ...]:
        """Those, where they were held."""
        return tuple(SlotState(r.number, tuple(r.curve), r.seconds, r.held) for r in self.parked if r.held is not None)

    def next(self, fresh: bool, may_begin: MayBegin) -> Running | None:
        """The next trial: one that had to make room or was interrupted, else one whose process died, else a new one within the budget.

        It has an error where its settings are none of the study's.

        Args:
            fresh: whether a new one may begin.
            may_begin: whether that may be a certain baseline.
        """
        if self.parked:
            return self.parked.pop(0)
        while self._left:
            frozen = self._left.pop(0)
            if (running := self._again(frozen, self._behind.get(frozen.number))) is not None:
                return running
        trials = self.storage.unfinished(self.study._study_id, OWNER)
        if strays := [t for t in trials if self._stray(t)]:
            places = {place for stray in strays if (place := seat_of(stray.value)) is not None}
            found = [(self.storage.get_trial(t.trial_id), t.value) for t in strays]  # before what takes long: others look for them too
            self._left = [frozen for frozen, judged in found if frozen.user_attrs.get(OWNER) == judged]
            self._behind = self.seat.left_behind(self.mark, places)
            return self.next(fresh, may_begin)
        return self._new([t.trial_id for t in trials if t.state == TrialState.WAITING], may_begin) if fresh else None

    @property
    def coming(self) -> frozenset[int]:
        """The numbers of trials that once began and come again: in the state from which the search resumed they had not begun yet."""
        return frozenset(frozen.number for frozen in self._left)

    def under_way(self) -> bool:
        """Whether any trial of the study has begun and not ended, whoever trains it or has left it."""
        return any(trial.state == TrialState.RUNNING for trial in self.storage.unfinished(self.study._study_id, OWNER))

    def others(self) -> bool:
        """Whether trials of the study run that are not ours: who trains them is waited for, and what is left behind is `next`'s."""
        trials = self.storage.unfinished(self.study._study_id, OWNER)
        return any(t.state == TrialState.RUNNING and not self.storage.owns(t.trial_id) for t in trials)

    def elsewhere(self, known: Container[int], *states: TrialState) -> list[FrozenTrial]:
        """The trials of other processes in these states whose numbers are not known."""
        trials = self.study.get_trials(deepcopy=False, states=states)
        return [t for t in trials if t.number not in known and not in_seat(t.user_attrs.get(OWNER), self.seat.number)]

    def _alive(self, value: Any) -> bool:
        return alive(value, self.storage.patience.back)

    def _stray(self, trial: Unfinished) -> bool:
        """Whether nobody trains this running trial: its process is dead, or was killed before it could say whose it is."""
        if trial.state != TrialState.RUNNING or self.storage.owns(trial.trial_id):
            return False
        return itself(trial.value) or not self._alive(trial.value)  # without an owner it is abandoned: who begins one makes sure to own it

    def _again(self, frozen: FrozenTrial, state: SlotState | None) -> Running | None:
        """An earlier trial, where it was held. If it has not ended it becomes ours again; None if another process took it over first."""
        over = frozen.state.is_finished()
        if not over and not self.storage.take_over(frozen, OWNER, owner(self.seat.number)):
            return None
        if (fault := self._foreign(frozen)) is not None:
            return self._refused(frozen if over else Trial(self.study, frozen._trial_id), fault)
        running = self._running(frozen if over else self._suggested(frozen._trial_id, frozen.number))
        running.reached = max(frozen.intermediate_values, default=0)
        if state is not None:
            running.go_on(state)
        return running

    def _new(self, waiting: Sequence[int], may_begin: MayBegin) -> Running | None:
        """A trial that has not begun, while the budget lasts. Its parameters are drawn after the lock is released, so that others can ask.

        Args:
            waiting: the ids of the trials that wait to begin, put in by the definition or by a user.
        """
        late = self._is_too_late()
        with self.storage.asking(self.study._study_id):  # else workers would begin too many together
            begun = self.storage.begun(self.study._study_id)
            left = self.definition.budget.trials - begun
            trial_id = self._claimed(waiting, may_begin, len(waiting) >= left, late) if left > 0 else None
        self.late = late and left > 0 and trial_id is None
        if trial_id is None:
            return None
        frozen = self.storage.get_trial(trial_id)
        if (fault := self._foreign(frozen)) is not None:
            return self._refused(Trial(self.study, trial_id), fault)
        trial = self._suggested(trial_id, frozen.number)
        trial.set_user_attr("device", self.device)
        return self._running(trial)

    def _claimed(self, waiting: Sequence[int], may_begin: MayBegin, last: bool, late: bool) -> int | None:
        """A waiting trial that may begin; else a new one, but not if it is too late or waiting ones take up what the budget has left."""
        mine = owner(self.seat.number)
        for frozen in self.storage.as_now(self.study._study_id, waiting) if waiting else ():
            if frozen.state != TrialState.WAITING:
                continue
            if BASELINE in frozen.user_attrs and not may_begin(frozen, last):
                continue
            # only if no other process was faster; and until it has an owner, anybody can take it
            if self.storage.set_trial_state_values(frozen._trial_id, TrialState.RUNNING) and self.storage.take_over(
                self.storage.get_trial(frozen._trial_id), OWNER, mine
            ):
                return frozen._trial_id
        if (last and waiting) or late:
            return None
        return self.storage.create_new_trial(self.study._study_id, create_trial(state=TrialState.RUNNING, user_attrs={OWNER: mine}))

    def _is_too_late(self) -> bool:
        """Whether a new trial would not end any more, as far as is known before it is drawn."""
        return self.room.bounded and self.room.too_late(self._said(len(self.study.get_trials(deepcopy=False))).params)

    def _foreign(self, frozen: FrozenTrial) -> str | None:
        """What is wrong with the settings of a trial that somebody has put in without `tuner enqueue`."""
        return self.definition.fault({**frozen.system_attrs.get(FIXED, {}), **frozen.params})

    @staticmethod
    def _refused(trial: Trial | FrozenTrial, fault: str) -> Running:
        """A trial that cannot be trained, with the reason: it is to end at once."""
        error = f"its settings are not of this study: {fault}; `tuner enqueue` says so before they are put in"
        return Running(trial, Hyperparameters(), error=error)

    def _suggested(self, trial_id: int, number: int) -> Trial:
        """A trial with its parameters: as they were, or drawn by a sampler of its own, since a shared one would differ after a resume."""
        seed = derived_seed(self.definition.seed, "sampler", number) % 2**32
        self.study.sampler = sampler_for(self.definition.sampler, seed, self._earlier, self.definition.distributions())
        with self.storage.together(trial_id):
            self._guide(trial_id, number)
            trial = Trial(self.study, trial_id)
            for name, distribution in self.definition.distributions().items():
                trial._suggest(name, distribution)
        return trial

    def _guide(self, trial_id: int, number: int) -> None:
        """Says some parameters of a new trial, where nobody has: those of a cheap start, evenly spread, or of a step from the best."""
        known = self.storage.get_trial(trial_id)
        if FIXED in known.system_attrs or known.params:
            return
        said = self._said(number)
        if said.step_from is not None:
            self.storage.set_trial_user_attr(trial_id, STEP, said.step_from)
        if said.params:
            self.storage.set_trial_system_attr(trial_id, FIXED, said.params)

    def _said(self, number: int) -> Proposal:
        """What is said of a new trial."""
        trials, warm = self.study.get_trials(deepcopy=False), bool(self._earlier)
        starting, sizes_cost = decided(self.definition, self.study.user_attrs), self.device == "cpu"
        return guide(self.definition, trials, number, self.steps, warm=warm, sizes_cost=sizes_cost, starting=starting, room=self.room)

    def _running(self, trial: Trial | FrozenTrial) -> Running:
        seed = derived_seed(self.definition.seed, "trial", trial.number) % 2**31
        if isinstance(trial, Trial):
            trial.set_user_attr("seed", seed)
        return Running(trial, self.definition.settings(trial.params, seed)[1])
