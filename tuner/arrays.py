"""The arrays of one device: which trial trains in which slot, training them for an epoch, and what is done when there is no room.

Each lane trains independently; when its epoch is over it is judged, refilled and started again. What one lane learns from another depends
on which ends first, and a machine is not equally fast every time. So each lane has a clock that counts work instead of seconds (`work`),
and lanes are taken in the order of their clocks. One that is ready too early waits; it seldom has to, since work is estimated well.
"""

from __future__ import annotations

import functools
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from model.config import ModelShape
from model.errors import DeviceError
from tuner.definition import StudyDefinition
from tuner.errors import SearchError
from tuner.failures import Outcome, TrainerHangs, in_words
from tuner.lanes import WATCH_TIMES, Attempt, Job, UnderWay, attempt
from tuner.pace import work
from tuner.seam import Held, Scored, TrainerFactory
from tuner.slots import Array, Place, Running, lost_room
from tuner.states import SlotState


class Slot(NamedTuple):
    """A slot of one of the arrays, and the trial in it."""

    place: Place
    number: int
    running: Running


class Epoch(NamedTuple):
    """The results of an epoch of one lane, or of several that end at once.

    Args:
        points: a new point of the curve of each trial that did not fail.
        outside: the trials for which there is no room any more.
        seconds: how long the epoch took, by lane.
        lent: the lanes that had more than their own cores.
        broken: the lanes in which something was broken off, so that how long the epoch took says nothing.
    """

    points: list[tuple[Running, dict[str, Any]]]
    outside: list[Running]
    seconds: dict[int, float]
    lent: set[int]
    broken: set[int]

    @property
    def lanes(self) -> tuple[int, ...]:
        """Those that have ended it."""
        return tuple(self.seconds)


class Arrays:
    """All trials that train on one device, by shape and lane.

    Args:
        make_trainer: makes a trainer of a shape.
        width: how many trials train at once, over all shapes; less from when the device has no room for so many.
        lanes: how many arrays train at the same time.
        watch: an epoch may take so many seconds at least, and `WATCH_TIMES` the slowest before it.
        notice: is told what the user should know.
        clock: seconds.
    """

    def __init__(
        self,
        definition: StudyDefinition,
        make_trainer: TrainerFactory,
        *,
        width: int,
        lanes: int,
        watch: float,
        notice: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.width, self.seconds = width, defaultdict[str, float](float)
        self.narrowed = False
        """Whether the device has had no room for what was meant to train at once."""
        self.wider: dict[ModelShape, int] = {}
        """The width before there was no room for trials of a shape."""
        self.clocks = [0] * lanes
        """How much work each lane has done when its epoch begins."""
        self._definition, self._make_trainer, self._watch, self._notice, self._clock = definition, make_trainer, watch, notice, clock
        self._arrays: dict[Place, Array] = {}
        self.closed: set[int] = set()
        """The lanes that are in an epoch, or were when the search was interrupted: their slots are neither looked at nor filled."""
        self._under_way: dict[int, UnderWay] = {}
        self._cores: dict[int, int] = {}
        """How many lanes' cores each lane has for its epoch."""
        self._before: dict[int, Counter[str]] = {}
        self._states: dict[Place, tuple[SlotState, ...]] = {}
        self._slowest: dict[Place, float] = {}

    def narrow(self, width: int, outside: Sequence[Running]) -> None:
        """From now on no more than so many train at once, for there was no room for these beside them."""
        for shape in {self.shape(running) for running in outside}:
            self.wider.setdefault(shape, self.width)
        self.width, self.narrowed = max(1, width), True

    def widen(self, alone: Running, waiting: Sequence[Running]) -> None:
        """There is no room for a trial even alone: that says nothing of other shapes, which have back what they lost to its shape. Not
        while more of that shape wait, for these will end alone too."""
        shape = self.shape(alone)
        if not any(self.shape(running) == shape for running in waiting):
            self.width = max(self.width, self.wider.pop(shape, 0))

    @property
    def running(self) -> list[Running]:
        """The trials in slots, by number."""
        return sorted((running for array in self._arrays.values() for running in array.slots), key=lambda running: running.number)

    def slots(self) -> Iterator[Slot]:
        """Those that can be looked at and filled, array by array: of the lanes that are not under way."""
        for place, array in self._arrays.items():
            for number, running in enumerate(array.slots if place.lane not in self.closed else ()):
                yield Slot(place, number, running)

    def states(self) -> tuple[tuple[SlotState, ...], ...]:
        """All arrays slot by slot, to go on from later; of a lane that is under way, from where it began."""
        under_way = self._under_way
        self._states = {p: self._states[p] if p.lane in under_way else array.states() for p, array in self._arrays.items()}
        return tuple(self._states.values())

    @property
    def lanes(self) -> tuple[int, ...]:
        """The lane of each of these arrays."""
        return tuple(place.lane for place in self._arrays)

    def saver(self, slot: Slot) -> Callable[[Path, Scored], None]:
        """Writes the model in a slot."""
        return functools.partial(self._arrays[slot.place].trainer.save, slot.number)

    # ---- trials into slots

    def shape(self, running: Running) -> ModelShape:
        """What a trial shares with the others of its array."""
        return self._definition.settings(running.trial.params, running.hyperparameters.seed)[0]

    def lanes_for_more(self, width: int, ended: Sequence[Slot], fresh: Mapping[Place, Sequence[Running]]) -> list[int]:
        """The lanes that have room for one more trial, with the `fresh` ones counted and the `ended` ones not; the least loaded first.

        Each lane has its share of the width, and one that is in an epoch takes none, nor does one whose core another has.
        """
        held = Counter({place: len(array.slots) for place, array in self._arrays.items()})
        held.subtract(slot.place for slot in ended)
        held.update({place: len(more) for place, more in fresh.items()})
        count, load = Counter[int](), Counter[int]()
        for place, slots in held.items():
            count[place.lane] += slots
            load[place.lane] += work(place.shape, slots) if slots else 0
        open_ = [lane for lane in range(len(self.clocks)) if lane not in self.closed]
        more = self._free_cores > sum(count[lane] > 0 for lane in open_)
        room = [lane for lane in open_ if count[lane] < self._share(lane, width) and (count[lane] or more)]
        return sorted(room, key=lambda lane: (load[lane], lane)) if sum(count.values()) < width else []

    def going(self, ended: Sequence[Slot], fresh: Mapping[Place, Sequence[Running]]) -> defaultdict[int, list[Running]]:
        """The trials that train on or are about to, by lane."""
        over, going = {slot.running.number for slot in ended}, defaultdict[int, list[Running]](list)
        for lane in set(self.lanes):
            going[lane] += [running for running in self.of_lane(lane) if running.number not in over]
        for place, more in fresh.items():
            going[place.lane] += more
        return going

    def _share(self, lane: int, width: int) -> int:
        """How many of the width are this lane's: where it does not divide, the first lanes have one more."""
        lanes = len(self.clocks)
        return (width - lane + lanes - 1) // lanes

    def of_lane(self, lane: int) -> list[Running]:
        """The trials of a lane."""
        return [running for _, array in self._of(lane) for running in array.slots]

    def restore(self, lane: int, slots: list[Running]) -> list[Running]:
        """An array as it was held, or half of it and so on.

        Returns:
            The trials for which there is no room any more.
        """
        if not slots or not self._fill(Place(self.shape(slots[0]), lane % len(self.clocks)), [], slots):
            return []
        half = len(slots) // 2
        return [*self.restore(lane, slots[:half]), *slots[half:]]

    def refill(self, ended: Sequence[Slot], fresh: Mapping[Place, list[Running]]) -> list[Running]:
        """New trials into the slots of ended ones and more; arrays without trials are given up.

        Returns:
            The new trials for which there is no room.
        """
        outside: list[Running] = []
        now = max(self.clocks)
        for place in dict.fromkeys((*self._arrays, *fresh)):
            if place.lane in self.closed:
                continue
            if not self.of_lane(place.lane):
                self.clocks[place.lane] = now
            outside += self._fill(place, [slot.number for slot in ended if slot.place == place], fresh.get(place, []))
        return outside

    def even_out(self) -> list[Running]:
        """Moves every other trial of the fullest lane into an empty one, if neither is in an epoch; each continues from its held state.

        Returns:
            The trials for which there is no room.
        """
        lanes = [lane for lane in range(len(self.clocks)) if lane not in self.closed]
        empty = [lane for lane in lanes if not self._of(lane)]
        full = max(lanes, key=lambda lane: (len(self.of_lane(lane)), -lane), default=0)
        moved, fresh = [slot for slot in self.slots() if slot.place.lane == full][1::2], defaultdict[Place, list[Running]](list)
        if not empty or not moved or self._free_cores <= len(lanes) - len(empty):
            return []
        for slot in moved:
            self.hold(slot)
            fresh[Place(slot.place.shape, empty[0])].append(slot.running)
        return self.refill(moved, fresh)

    def hold(self, slot: Slot) -> Running:
        """The trial in a slot, to go on from where it is, in whatever slot."""
        slot.running.held = self._arrays[slot.place].trainer.held(slot.number)
        return slot.running

    def _fill(self, place: Place, ended: list[int], fresh: list[Running]) -> list[Running]:
        try:
            if place not in self._arrays:
                self._arrays[place] = Array(self._make_trainer(place.shape, 0))
            outside = self._arrays[place].replace(ended, fresh)
        except MemoryError as error:
            if place in self._arrays:
                raise lost_room(error) from error
            outside = fresh
        if place in self._arrays and not self._arrays[place].slots:
            del self._arrays[place]
        return outside

    # ---- an epoch

    def begin(self, *, lend: bool = False) -> None:
        """Begins an epoch of each lane that is not under way.

        Args:
            lend: whether lanes without trials lend the others their cores, in equal parts.
        """
        busy, lanes = set(self.lanes), sorted(set(self.lanes).difference(self._under_way))
        idle = len(self.clocks) - sum(self._cores[lane] for lane in self._under_way)
        cores = max(1, min(len(self.clocks) // len(busy), idle // len(lanes))) if lend and lanes else 1
        for lane in lanes:
            self._before[lane] = self._trained(lane)
            jobs = [self._job(place, array) for place, array in self._of(lane)]
            self._under_way[lane] = UnderWay(jobs, apart=len(self.clocks) > 1, lanes=cores)
            self._cores[lane] = cores
            self._under_way[lane].begin()  # not before it can be told to end
        self.closed = set(self._under_way)

    @property
    def _free_cores(self) -> int:
        """How many lanes' cores no epoch that is under way has."""
        return len(self.clocks) - sum(self._cores.get(lane, 1) for lane in self.closed)

    def advance(self, states: Mapping[int, SlotState]) -> Epoch:
        """Waits for the lane whose epoch ends next by counted work (or several that end at once); returns the results.

        Args:
            states: each trial's state before the epoch, by number.

        Raises:
            DeviceError: the device has failed.
        """
        ends = {lane: self.clocks[lane] + self._work(lane) for lane in self._under_way}
        due = sorted(lane for lane, end in ends.items() if end == min(ends.values()))
        epoch = Epoch([], [], {}, {lane for lane in due if self._cores[lane] > 1}, set())
        for lane in due:
            self._take(lane, states, epoch)
            self.clocks[lane] = ends[lane]
        return epoch

    @property
    def under_way(self) -> bool:
        """Whether any lane is in an epoch."""
        return bool(self._under_way)

    def leave(self) -> None:
        """Ends what is under way; nothing comes of it."""
        for under_way in self._under_way.values():
            under_way.tell()
        for under_way in self._under_way.values():
            under_way.leave()

    def _of(self, lane: int) -> list[tuple[Place, Array]]:
        return [(place, array) for place, array in self._arrays.items() if place.lane == lane]

    def _work(self, lane: int) -> int:
        return sum(work(place.shape, len(array.slots)) for place, array in self._of(lane))

    def _trained(self, lane: int) -> Counter[str]:
        """The seconds that the trainers of a lane have spent, by what on."""
        found: Counter[str] = Counter()
        for _, array in self._of(lane):
            found.update(dict(array.trainer.seconds))
        return found

    def _take(self, lane: int, states: Mapping[int, SlotState], epoch: Epoch) -> None:
        """Waits for a lane's epoch and enters its results."""
        attempts = self._under_way[lane].attempts()
        del self._under_way[lane]
        self.closed.discard(lane)
        for name, seconds in self._trained(lane).items():
            self.seconds[name] += (seconds - self._before[lane][name]) * self._cores[lane] / len(self.clocks)
        for (place, array), tried in zip(self._of(lane), attempts, strict=True):
            outcomes = self._outcomes(place, array, tried, states, epoch.outside)
            self._slowest[place] = max(tried.seconds, self._slowest.get(place, 0.0))
            for running, outcome in zip(array.slots, outcomes, strict=True):
                running.error = outcome.error
                if outcome.error is None and outcome.record is not None and outcome.scored is not None:
                    epoch.points.append((running, running.advanced(outcome.record, outcome.scored, tried.seconds / len(array.slots))))
        epoch.seconds[lane] = sum(tried.seconds for tried in attempts)
        if any(tried.error is not None for tried in attempts):
            epoch.broken.add(lane)

    def _job(self, place: Place, array: Array) -> Job:
        watch = max(self._watch, WATCH_TIMES * self._slowest.get(place, 0.0))
        return Job(array.trainer, len(array.slots), watch, clock=self._clock)

    def _outcomes(
        self, place: Place, array: Array, tried: Attempt, states: Mapping[int, SlotState], outside: list[Running]
    ) -> list[Outcome]:
        """What came of an array's epoch; where it had no room, of as many of its trials as have: the others are added to `outside`."""
        while array.slots:
            held = [states[running.number].held for running in array.slots]
            try:
                return tried.result()
            except MemoryError as error:
                if not self._make_room(array, error, held, outside):
                    break
                tried = attempt(self._job(place, array))
            except (DeviceError, SearchError):
                raise  # no trial is to blame: they go on elsewhere, or when the device is back
            except Exception as error:  # noqa: BLE001  whatever a trainer raises is stored with the trial whose fault it is
                if not isinstance(error, TrainerHangs):  # which is still at it
                    array.give_back()
                if len(array.slots) > 1:
                    told = in_words(error)
                    self._notice(f"the trainer raised {told}; its trials are trained one by one to find whose fault it is")
                return array.one_by_one(lambda: self._make_trainer(place.shape, 0), held, self._job(place, array).seconds)
        return [Outcome(None, None)] * len(array.slots)

    def _make_room(self, array: Array, error: MemoryError, held: Sequence[Held], outside: list[Running]) -> bool:
        """Halves an array, the other half waits for a free slot; whether it is to be tried again."""
        keep = len(array.slots) // 2
        if len(self.running) == 1:
            array.slots[0].no_room = str(error) or "out of memory"
            return False
        left = len(self.running) - len(array.slots) + keep
        self._notice(f"no room for {len(self.running)} trials at once ({error}); from now on {left}, the others wait")
        for running, state in zip(array.slots[keep:], held[keep:], strict=True):
            running.held = state
        outside += array.slots[keep:]
        self.narrow(left, array.slots[keep:])
        array.slots = array.slots[:keep]
        try:
            array.restart(held[:keep])
        except MemoryError as more:
            array.bare = True
            return self._make_room(array, more, held[:keep], outside)
        array.bare = False
        return keep > 0
