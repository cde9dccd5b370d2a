"""The arrays of one device: which trial trains in which slot, an epoch of all of them, and what is done where there is no room."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from model.config import ModelShape
from model.errors import DeviceError
from tuner.definition import StudyDefinition
from tuner.errors import SearchError
from tuner.failures import Outcome
from tuner.lanes import WATCH_TIMES, Attempt, Job, advance_all, attempt
from tuner.seam import Held, Scored, TrainerFactory
from tuner.slots import Array, Place, Running
from tuner.snapshots import SlotState


class Slot(NamedTuple):
    """A slot of one of the arrays, and the trial in it."""

    place: Place
    number: int
    running: Running


def work(shape: ModelShape, slots: int) -> int:
    """About how long an epoch of an array takes on one core, in a unit of its own; counted, so that the same search is laid out the same.

    As measured on 100 real stories: hidden 128 takes twice as long as 64, 32 four fifths of it; two slots 1.68 times as long as one."""
    return (96**2 + shape.hidden_dim**2) * (2 * slots + 1)


class Arrays:
    """All trials that train on one device, by shape and lane.

    Args:
        make_trainer: makes a trainer of a shape.
        width: how many trials train at once, over all shapes; less from when the device has no room for so many.
        lanes: how many arrays train at the same time.
        watch: an epoch may take so many seconds at least, and `WATCH_TIMES` the slowest before it.
        notice: is told what the user should know.
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
    ) -> None:
        self.width, self.seconds = width, defaultdict[str, float](float)
        self.narrowed = False
        """Whether the device has had no room for what was meant to train at once."""
        self._definition, self._make_trainer, self._lanes, self._watch, self._notice = definition, make_trainer, lanes, watch, notice
        self._arrays: dict[Place, Array] = {}
        self._slowest: dict[Place, float] = {}
        self._outside: list[Running] = []

    def narrow(self, width: int) -> None:
        """From now on no more than so many train at once."""
        self.width, self.narrowed = max(1, width), True

    @property
    def running(self) -> list[Running]:
        """The trials in slots, by number."""
        return sorted((slot.running for slot in self.slots()), key=lambda running: running.number)

    def slots(self) -> Iterator[Slot]:
        """All of them, array by array."""
        for place, array in self._arrays.items():
            for number, running in enumerate(array.slots):
                yield Slot(place, number, running)

    def states(self) -> tuple[tuple[SlotState, ...], ...]:
        """All arrays slot by slot, to go on from later."""
        return tuple(array.states() for array in self._arrays.values())

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

    def place_for(self, running: Running, ended: Sequence[Slot], fresh: Mapping[Place, Sequence[Running]]) -> Place:
        """The array for a new trial beside other `fresh` ones, once the `ended` are gone: in the lane that then has the least to do."""
        held = Counter({place: len(array.slots) for place, array in self._arrays.items()})
        held.subtract(slot.place for slot in ended)
        held.update({place: len(more) for place, more in fresh.items()})
        shape = self.shape(running)

        def with_it(lane: int) -> int:
            among = held + Counter([Place(shape, lane)])
            return sum(work(place.shape, slots) for place, slots in among.items() if place.lane == lane)

        return Place(shape, min(range(self._lanes), key=lambda lane: (with_it(lane), lane)))

    def restore(self, lane: int, slots: list[Running]) -> None:
        """An array as it was held."""
        if slots:
            self._fill(Place(self.shape(slots[0]), lane % self._lanes), [], slots)

    def refill(self, ended: Sequence[Slot], fresh: Mapping[Place, list[Running]]) -> list[Running]:
        """New trials into the slots of ended ones and more; arrays without trials are given up.

        Returns:
            The new trials for which there is no room.
        """
        outside: list[Running] = []
        for place in dict.fromkeys((*self._arrays, *fresh)):
            outside += self._fill(place, [slot.number for slot in ended if slot.place == place], fresh.get(place, []))
        return outside

    def _fill(self, place: Place, ended: list[int], fresh: list[Running]) -> list[Running]:
        try:
            if place not in self._arrays:
                self._arrays[place] = Array(self._make_trainer(place.shape, 0))
            outside = self._arrays[place].replace(ended, fresh)
        except MemoryError as error:
            if place in self._arrays:
                raise SearchError(f"the device has no room for what it had room for ({error}); run it again to go on") from error
            outside = fresh
        if place in self._arrays and not self._arrays[place].slots:
            del self._arrays[place]
        return outside

    # ---- an epoch

    def advance(self, states: Mapping[int, SlotState]) -> tuple[list[tuple[Running, dict[str, Any]]], list[Running]]:
        """One epoch for every array, as many at once as there are lanes.

        Args:
            states: where each trial was before it, by number.

        Returns:
            The points of the curves, of those trials that did not fail; and the trials for which there is no room any more.

        Raises:
            DeviceError: the device has failed.
        """
        points: list[tuple[Running, dict[str, Any]]] = []
        self._outside = []
        for (place, array), tried in zip(list(self._arrays.items()), self._attempts(), strict=True):
            outcomes = self._outcomes(place, array, tried, states)
            self._slowest[place] = max(tried.seconds, self._slowest.get(place, 0.0))
            for running, outcome in zip(array.slots, outcomes, strict=True):
                running.error = outcome.error
                if outcome.error is None and outcome.record is not None and outcome.scored is not None:
                    points.append((running, running.advanced(outcome.record, outcome.scored, tried.seconds / len(array.slots))))
        return points, self._outside

    def _attempts(self) -> list[Attempt]:
        """An epoch of every array; the seconds of arrays that train at once count once."""
        before = self._trained()
        tried = advance_all([self._job(place, array) for place, array in self._arrays.items()])
        lanes = len(set(self.lanes))
        for name, seconds in self._trained().items():
            self.seconds[name] += (seconds - before[name]) / lanes
        return tried

    def _trained(self) -> Counter[str]:
        """The seconds that the arrays' trainers have spent, by what on."""
        found: Counter[str] = Counter()
        for array in self._arrays.values():
            found.update(dict(array.trainer.seconds))
        return found

    def _job(self, place: Place, array: Array) -> Job:
        slowest = self._slowest.get(place, 0.0)
        return Job(place.lane, array.trainer, len(array.slots), max(self._watch, WATCH_TIMES * slowest), slowest)

    def _outcomes(self, place: Place, array: Array, tried: Attempt, states: Mapping[int, SlotState]) -> list[Outcome]:
        """What came of an array's epoch; where it had no room, of as many of its trials as have."""
        while array.slots:
            held = [states[running.number].held for running in array.slots]
            try:
                return tried.result()
            except MemoryError as error:
                if not self._make_room(array, error, held):
                    break
                tried = attempt(self._job(place, array))
            except (DeviceError, SearchError):
                raise  # no trial is to blame: they go on elsewhere, or when the device is back
            except Exception as error:  # noqa: BLE001  whatever a trainer raises is stored with the trial whose fault it is
                if len(array.slots) > 1:
                    told = Outcome.failed(error).error
                    self._notice(f"the trainer raised {told}; its trials are trained one by one to find whose fault it is")
                return array.one_by_one(lambda: self._make_trainer(place.shape, 0), held, self._job(place, array).seconds)
        return [Outcome(None, None)] * len(array.slots)

    def _make_room(self, array: Array, error: MemoryError, held: Sequence[Held]) -> bool:
        """Halves an array, the other half waits for a free slot; whether it is to be tried again."""
        keep = len(array.slots) // 2
        if len(self.running) == 1:
            array.slots[0].no_room = str(error) or "out of memory"
            return False
        self._notice(f"no room for {len(array.slots)} trials at once ({error}); from now on {keep}, the others wait")
        for running, state in zip(array.slots[keep:], held[keep:], strict=True):
            running.held = state
        self._outside += array.slots[keep:]
        self.narrow(len(self.running) - len(array.slots) + keep)
        array.slots = array.slots[:keep]
        try:
            array.restart(held[:keep])
        except MemoryError as more:
            return self._make_room(array, more, held[:keep])
        return True
