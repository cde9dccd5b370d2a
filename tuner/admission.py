"""Whether a trial may begin now: whether the budget allows it and, in a budget of minutes, whether it would end in time.

A trial that the minutes cut off has taught little and slowed its neighbours. So only as many of the first, cheap trials begin as fit into
their share of the minutes. When a lane has time for only a few more, they train one after the other, each drawn with what the last one has
shown. Towards the end, no more trials run side by side than will end in time, and what would be cut off gives way to something that ends
(`climb`) or does not begin (`intake`), so that the search ends sooner. Baselines that would not end in time do not begin: confirming trains
them in any case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from model.config import ModelShape
from tuner.arrays import Arrays
from tuner.budget import Allowance
from tuner.buffer import BufferedStorage
from tuner.climb import sizes_above
from tuner.definition import StudyDefinition
from tuner.failures import in_words
from tuner.pace import HURRY, VERY_FEW, Pace, work
from tuner.promotion import SIZE
from tuner.seam import TrainerFactory
from tuner.slots import Running
from tuner.starters import GOING_ON, RUNG, STARTERS, cheap, cheapest, decided, least_work, numbers_of, planned
from tuner.study import BASELINE, FIXED
from tuner.vanguard import Vanguard
from tuner.width import rehearsed

BASELINES_AT = 2 / 3
"""Baselines begin after this share of the budget, if they would end within it: they are never stopped, and most are large."""

LONGEST_SHARE = 1 / 3
"""A trial that takes no more than this share of a run's time does not begin where it would not end. A longer one is meant to go on from run
to run, and what would be left unused is too much."""

START_RUNG = 1 / 4
"""In a search that is in a hurry from the first: after this share of their epochs only the best of the first trials goes on."""

START_STEPS = 600
"""Or after so many steps, if that is sooner: where an epoch is long more of them have room then (docs/DECISIONS.md, 2026-11-30)."""


class Admission:
    """Says how many trials may train at once and what may begin.

    Args:
        arrays: in which they train.
        shared: whether an epoch takes longer the more trials there are.
        lanes: how many of them train at the same time.
        notice: is told what the user should know.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: BufferedStorage,
        definition: StudyDefinition,
        allowance: Allowance,
        arrays: Arrays,
        lanes: int,
        *,
        shared: bool,
        notice: Callable[[str], None],
    ) -> None:
        self._study, self._storage, self._definition, self._allowance = study, storage, definition, allowance
        self._arrays, self._lanes, self._notice = arrays, lanes, notice
        self._pace = Pace(definition.budget, self._lanes, shared=shared)
        self._starters = 0
        self.rung: int | None = None
        """The epoch at which only the best of the first trials goes on; None: they end like others."""
        self.sentences = 0
        """About how many an epoch trains on; 0: that is not known."""
        self._run = allowance.left
        """How many seconds there were when the run began to train."""
        self._alone = False
        """Whether the lane that was asked about last is empty, and all others too."""
        self._vanguard: Vanguard | None = None
        """The first larger trials, where there is time for very few."""

    # ---- how fast it goes

    def begin(self, make_trainer: TrainerFactory) -> None:
        """Sets how many trials begin with cheap settings. With a budget of minutes a few timed steps show how fast it goes, and in a new
        study how many of these fit."""
        limits = self._pace.limits and planned(self._definition) > 0
        shape = self._timed(make_trainer) if limits and not self._allowance.spent() else None
        if not self._allowance.spent():  # else none will begin in this run, and the next one may have more time
            if not self._pace.limits:
                self._fix_starters()
            elif shape is not None and not self._begun():
                self._fit(shape)
        attributes = self._study.user_attrs
        self._starters = decided(self._definition, attributes)
        self.rung = attributes.get(RUNG) if self._pace.limits else None
        if self.rung is not None and attributes.get(GOING_ON) == 0:
            self._vanguard = Vanguard(self._lanes, self._starters, self.rung)
        self._run = self._allowance.left

    def _fix_starters(self) -> None:
        """Without minutes: stores how many first trials there are. A larger budget has more of them only while no other trial has begun."""
        begun = [trial.number for trial in self._study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
        known = self._study.user_attrs.get(STARTERS)
        if not begun or (known is not None and max(begun) < numbers_of(self._definition, known).stop):
            self._study.set_user_attr(STARTERS, max(known or 0, planned(self._definition)))

    def _timed(self, make_trainer: TrainerFactory) -> ModelShape | None:
        """The cheapest shape, after a few steps of it with the cores that it will have; None where they could not be made."""
        shape, hyperparameters = self._definition.settings(cheapest(self._definition), 0)
        slots = math.ceil(planned(self._definition) / self._lanes)
        try:
            trainer = make_trainer(shape, slots)
            seconds = rehearsed(trainer, hyperparameters, slots) * trainer.steps_an_epoch
            self.sentences = trainer.steps_an_epoch * shape.batch_size
        except Exception as error:  # noqa: BLE001  whatever it is, it is told, and will be some trial's
            self._notice(f"how long a step takes could not be measured: {in_words(error)}")
            return None
        self._pace.measured([shape] * slots, seconds)
        return shape

    def _fit(self, shape: ModelShape) -> None:
        """Stores how many of the first trials fit into their share of the minutes, and when only the best of them goes on."""
        rung = self._start_rung(shape) if self._climbs_in_a_hurry() else None
        most = planned(self._definition)
        room = self._pace.starters(shape, most, rung)
        if self._pace.together(shape, 1, self._allowance.left):
            room = max(room, self._arrays.width)  # as many begin in any case: better spread over the ranges than drawn
        fitting = min(room, most) if self._pace.known else most
        if rung is not None:
            self._study.set_user_attr(RUNG, rung)
            if self._has_room_for_very_few():
                self._study.set_user_attr(GOING_ON, 0)
        if rung is not None or fitting < most:  # with more trials later there would be more of them
            self._study.set_user_attr(STARTERS, fitting)

    def _start_rung(self, shape: ModelShape) -> int:
        """The epoch at which first trials of this shape are compared: not before their rates have risen to where they are meant to be."""
        epochs, warmup = self._definition.budget.epochs, self._definition.settings(cheapest(self._definition), 0)[1].warmup
        quarter, risen = math.ceil(START_RUNG * epochs), math.floor(warmup * epochs) + 1
        enough = math.ceil(START_STEPS * shape.batch_size / self.sentences) if self.sentences else quarter
        return min(quarter, max(enough, risen))

    def _climbs_in_a_hurry(self) -> bool:
        """Whether a lane has time for only a few trials of the next larger size, if there is one, and both TPE and halving are in use: then
        most of the first trials need not run to their end."""
        definition = self._definition
        larger = sizes_above(definition, cheap(definition)) if definition.sampler == "tpe" and definition.pruning.halving else []
        return bool(larger) and self.few({**cheapest(definition), SIZE: larger[0]})

    def _has_room_for_very_few(self) -> bool:
        """Whether a lane has time for a trial of the size that the best of the first is tried in next, but for very few."""
        sizes = sizes_above(self._definition, cheap(self._definition))[:2]
        larger = [params for size in sizes if self.ends(params := {**cheapest(self._definition), SIZE: size})]
        return self.lends and bool(larger) and self._fewer(VERY_FEW, larger[-1])

    @property
    def compares(self) -> bool:
        """Whether the first larger trials are compared early, and the better half then has all cores."""
        return self._vanguard is not None

    @property
    def going_on(self) -> int:
        """How many of the first trials go on at the rung: none where larger ones are compared early."""
        return 0 if self.compares else 1

    @property
    def starters(self) -> range:
        """The first, cheap trials, by number."""
        return numbers_of(self._definition, self._starters)

    def measured(self, running: Sequence[Running], seconds: float, *, lent: bool = False) -> None:
        """An epoch of a lane with these has taken so long, with its own cores or with others' too."""
        if self._pace.limits and not (lent and self._starting(running)):  # that small models do not gain by it says nothing of large ones
            self._pace.measured([self._arrays.shape(each) for each in running], seconds, lent=lent)

    @property
    def lends(self) -> bool:
        """Whether a lane without trials lends its core to the others."""
        return self._pace.lends and self._pace.known

    # ---- what may begin

    def width(self, begun: int, coming: Collection[int]) -> int:
        """How many trials may train at once; before any has begun, and unless room has run out, at least as many as there are starters
        left: they share one shape."""
        first = 0 if begun or self._arrays.narrowed else min(self._starters, self._first_left(coming))
        return max(self._arrays.width, first)

    def waits(self, lane: int, going: Mapping[int, Sequence[Running]], coming: Collection[int], over: Collection[int]) -> bool:
        """Whether nothing should begin in a lane yet: some of the first trials have ended and several still train, so a new one would be a
        step from the best of only a few. The lane is not idle: it has trials, or is given some of another's (`Arrays.even_out`). Or it
        lends its core to the first larger trials.

        Args:
            going: the trials that train on, by lane.
            coming: the numbers of trials that come again, because the search resumes from a state before they began. What the storage
                has of these, and of those that train, has not happened yet.
            over: the numbers of all that have ended.
        """
        everyone = [running for trials in going.values() for running in trials]
        if (first := self._leading(coming, over)) is not None and first.has_enough(everyone):
            return True
        starters, training = self.starters, {running.number for running in everyone}
        counts = [sum(running.number in starters for running in trials) for trials in going.values()]
        if sum(counts) < 2 or self._first_left(coming) > 0 or not (going.get(lane) or max(counts) > 1):
            return False
        complete = {trial.number for trial in self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))}
        return not complete.isdisjoint(set(starters).difference(training, coming))

    def _leading(self, coming: Collection[int], over: Collection[int]) -> Vanguard | None:
        """The first larger trials, while those of them that were not `behind` are to have the cores of all lanes."""
        first = self._vanguard
        if first is None or not self.lends:
            return None
        return first if first.leads(self._study.get_trials(deepcopy=False), coming, over) else None

    def behind(self, going: Sequence[Running], running: Sequence[Running], coming: Collection[int], over: Collection[int]) -> list[int]:
        """The numbers of first larger trials that are to wait, and lend their cores to the better ones, the best first.

        Args:
            going: the trials whose epoch is over and that have not ended.
            running: all that have not ended.
            over: the numbers of all that have ended.
        """
        first = self._leading(coming, over)
        return [] if first is None else first.behind(going, running)

    def lets_begin(self, lane: int, going: Mapping[int, Sequence[Running]], coming: Collection[int]) -> bool:
        """Whether a new trial may begin in a lane: within the budget, and in a budget of minutes beside others only if it would end in time
        and training side by side pays (`Pace.together`).

        The first trials may begin, and so may one in an empty lane, unless whoever knows what it is finds it `too_late`. But it does not
        where another lane needs its core (`_late`), nor before the starters of a hurried start have come to their rung. What a new trial
        costs is not known here; the guess is as much as the dearest beside it. None begins beside starters of a hurried start: they end
        soon.
        """
        self._alone = not any(going.values())
        if self._allowance.spent():
            return False
        if not self._pace.limits or self._first_left(coming) > 0:
            return True
        if not (beside := going.get(lane)):
            return not (self._late(going) or self._are_compared_soon(going))
        if self._starting(beside):
            return False
        dearest = self._dearest(beside)
        return self._pace.together(dearest, len(beside), self._allowance.left) and self._ends(dearest, beside)

    def _are_compared_soon(self, going: Mapping[int, Sequence[Running]]) -> bool:
        """Whether starters of a hurried start have not come to their rung: what is begun is a step from the best of them."""
        starters = self._starting([running for trials in going.values() for running in trials])
        return any(len(running.curve) < (self.rung or 0) for running in starters)

    def _starting(self, running: Sequence[Running]) -> list[Running]:
        """Those of these that are starters of a hurried start."""
        return [] if self.rung is None else [each for each in running if each.number in self.starters]

    def _late(self, going: Mapping[int, Sequence[Running]]) -> bool:
        """Whether an empty lane had better lend its core: what trains elsewhere would be late without it and in time with it, or late in
        any case, and so would be whatever began now."""
        busy, left = [lane for lane, trials in going.items() if trials], self._allowance.left
        if not self.lends or not busy or (times := self._lanes // len(busy)) < 2:
            return False
        to_go = [self._to_go(going[lane], lane in self._arrays.closed) for lane in busy]
        late = [trials for trials in to_go if not self._pace.in_time(trials, left)]
        if not late:
            return False
        if all(self._pace.in_time(trials, times * left) for trials in late):
            return True
        return not self._pace.ends(self._dearest([running for lane in busy for running in going[lane]]), [], left)

    def _to_go(self, trials: Sequence[Running], under_way: bool = False) -> list[tuple[ModelShape, int]]:
        """The shape of each, and how many epochs it has to go; after the one that it is in, if one is under way."""
        epochs = self._definition.budget.epochs - under_way
        return [(self._arrays.shape(each), epochs - len(each.curve)) for each in trials]

    def _dearest(self, trials: Sequence[Running]) -> ModelShape:
        return max((self._arrays.shape(each) for each in trials), key=lambda shape: work(shape, 1))

    def few(self, params: dict[str, Any]) -> bool:
        """Whether a lane has room for few more trials with these settings, one after the other."""
        return self._fewer(HURRY, params)

    def _fewer(self, count: int, params: dict[str, Any]) -> bool:
        return self._pace.fewer(count, self._shape(params), self._allowance.left)

    def ends(self, params: dict[str, Any]) -> bool:
        """Whether a trial with these settings ends that begins now in a lane of its own."""
        return self._ends(self._shape(params), [])

    @property
    def bounded(self) -> bool:
        """Whether so little time is left that it can be too late for something."""
        return self._pace.bounds and self._allowance.left < LONGEST_SHARE * self._run

    def cut_off(self, params: dict[str, Any]) -> bool:
        """Whether a trial with these settings would not end any more in an empty lane, though a run has room for it."""
        return self._cut_off(params, self._run)

    def too_late(self, params: dict[str, Any]) -> bool:
        """Whether it is so short besides that it had better not begin; what is not named takes as little as can be."""
        return self._cut_off({**least_work(self._definition), **params}, LONGEST_SHARE * self._run)

    def _cut_off(self, params: dict[str, Any], most: float) -> bool:
        return self._pace.cut_off(self._shape(params), self._allowance.left, most, alone=self._alone)

    def lets_baseline_begin(self, frozen: FrozenTrial, last: bool, *, beside: Sequence[Running], begun: int) -> bool:
        """Whether a baseline that waits may begin beside these.

        Args:
            last: whether the waiting trials take up what is left of the budget of trials: then an empty lane gets one in any case, unless
                it lends its core.
            begun: how many trials have begun.
        """
        if not last and self._allowance.share(begun) < BASELINES_AT:
            return False
        if not self._pace.limits or (last and not beside):
            return True
        params = frozen.system_attrs[FIXED]
        return self._ends(self._shape(params), beside) if beside else not self._cut_off(params, math.inf)

    def _shape(self, params: dict[str, Any]) -> ModelShape:
        return self._definition.settings(params, 0)[0]

    def _ends(self, shape: ModelShape, beside: Sequence[Running]) -> bool:
        return self._pace.ends(shape, self._to_go(beside), self._allowance.left)

    def _first_left(self, coming: Collection[int]) -> int:
        """How many of the first, and of those put in with them, have not begun."""
        return max(0, len(self._definition.enqueue) + self._starters - (self._begun() - len(coming)))

    def _begun(self) -> int:
        """How many trials of the study have begun, whoever trains them."""
        return self._storage.begun(self._study._study_id)

    def end(self, late: bool) -> None:
        """Says that the minutes are used up, and which baselines they had no room for; or another bound, and that it is to be raised.

        Args:
            late: whether nothing began any more because it would not have ended.
        """
        budget, trials = self._definition.budget, self._study.get_trials(deepcopy=False)
        ended = sum(trial.state.is_finished() for trial in trials)
        there = f"{ended} of {budget.trials} trials have ended"
        used_up = self._allowance.used_up()
        if ended < budget.trials and used_up:
            self._notice(f"{used_up}, {there}; raise that limit to go on")
        left = self._allowance.left
        if not budget.minutes or (left > 0 and (used_up or not late)):
            return
        if ended < budget.trials and not used_up:
            minutes = f"{budget.minutes:g} minutes"
            too_few = f"the {math.ceil(left)} s left of {minutes} are too few for another trial"
            self._notice(f"{minutes + ' are used up' if left <= 0 else too_few}, {there}; run it again to go on")
            if not self._begun():
                self._notice("no trial had time to begin: give it more minutes (--timeout)")
        waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
        if names := [f"{trial.user_attrs[BASELINE]!r}" for trial in waiting if BASELINE in trial.user_attrs]:
            self._notice(f"the minutes had no room for {', '.join(names)}; tuner confirm trains all baselines")
