"""How the search finds the right size: one step at a time from the best trial.

A sampler that treats each parameter separately stays in the shape in which it learnt the others, and one that draws shapes freely leaves
every array half empty. So new trials are drawn in the shape of the best, which fills its arrays. Beside them, steps are tried: the best
settings with the next larger or the next smaller value of one number that is chosen from a few, each combination once. If a step turns out
better, drawing and stepping both go on from there (coordinate steps from what is cheap, as in Wu, Wang and Huang, arXiv:2005.01571). Now
and then a trial is drawn whole, its shape included.

When there is time for only a few trials one after the other, single steps would take all of it, and ten trials are too few for a sampler.
Then the cheap trials are compared at a quarter of their epochs or sooner, and only the best goes on, or none (`admission`). The better half
of them is tried in a larger size, the best first (`promotion`): two sizes up, or one if two would not end in time or steps there ended
without success. Then come steps from what has ended there; once a step is ahead of the best, new trials are drawn in its shape. None is
drawn whole.

What the minutes would cut off gives way to another step, to something in the best's shape, or to the best one size down, which shows
whether that is enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from optuna.trial import FrozenTrial, TrialState

from model.config import SHAPE_NAMES
from tuner.definition import StudyDefinition
from tuner.promotion import SIZE, STEP, Proposal, Start
from tuner.space import Choices
from tuner.starters import cheap, middling, numbers_of, spread
from tuner.study import feasible

DOWN = (SIZE, False)
"""The step to a smaller model: in a hurry it comes last, since the search has left the smaller ones."""
WHOLE_EVERY = 8
"""One trial in so many is drawn whole, its shape included."""


class Room(Protocol):
    """What the time that is left has room for."""

    @property
    def rung(self) -> int | None:
        """The epoch at which only the best of the first trials goes on; None: they end like others."""

    @property
    def sentences(self) -> int:
        """How many an epoch trains on; 0: that is not known."""

    @property
    def compares(self) -> bool:
        """Whether the first larger trials are compared early."""

    @property
    def bounded(self) -> bool:
        """Whether so little time is left that it can be too late for something."""

    def few(self, params: dict[str, Any]) -> bool:
        """Whether a lane has room for few more trials with these settings, one after the other."""

    def ends(self, params: dict[str, Any]) -> bool:
        """Whether a trial with these settings ends that begins now in a lane of its own."""

    def cut_off(self, params: dict[str, Any]) -> bool:
        """Whether a trial with these settings would not end any more, though a run has room for it."""

    def too_late(self, params: dict[str, Any]) -> bool:
        """Whether it is so short besides that it had better not begin; what is not named takes as little as can be."""


class Endless:
    """Room for any number of trials: a search without a limit of minutes."""

    rung: int | None = None
    sentences = 0
    compares = bounded = False

    def few(self, params: dict[str, Any]) -> bool:  # noqa: ARG002
        """There is room for many."""
        return False

    def ends(self, params: dict[str, Any]) -> bool:  # noqa: ARG002
        """All end."""
        return True

    def cut_off(self, params: dict[str, Any]) -> bool:  # noqa: ARG002
        """Nothing is."""
        return False

    too_late = cut_off


ENDLESS = Endless()


def guide(
    definition: StudyDefinition,
    trials: Sequence[FrozenTrial],
    number: int,
    steps: int,
    *,
    starting: int,
    room: Room = ENDLESS,
    warm: bool = False,
    sizes_cost: bool = True,
) -> Proposal:
    """What is said of a new trial.

    Args:
        trials: all trials of the study so far.
        number: the new trial's.
        steps: how many steps may run at once; in a hurry, any number once the best is no starter and no running step is ahead of it, and
            in place of what would be cut off.
        starting: how many trials begin with cheap settings.
        room: what the remaining time has room for.
        warm: whether the sampler knows an earlier study, from which it draws even the first trials.
        sizes_cost: whether a larger model takes much longer on the device; if not, the first trials are of a middle size.
    """
    settings = cheap(definition) if sizes_cost else {**cheap(definition), **middling(definition)}
    first = numbers_of(definition, starting)
    if number < first.stop:
        return Proposal(settings if warm else {**settings, **spread(definition, number, len(first))})
    if definition.sampler != "tpe":
        return Proposal({})
    start = Start(definition, trials, first, room.rung, room.sentences, room.compares)
    best = _leader(start)
    if best is None:
        return Proposal(_shape(settings) if start.training else {})
    return _in_time(start, best, _beside_others(start, number, steps, best, room), room)


def _beside_others(start: Start, number: int, steps: int, best: FrozenTrial, room: Room) -> Proposal:
    """A step from the best, or the shape in which something is drawn."""
    definition, trials = start.definition, start.trials
    running = [t for t in trials if t.state == TrialState.RUNNING and STEP in t.user_attrs and t.number != number]
    # a starter's shape was chosen as cheap, not as good: what is drawn in it before the step from it has ended is mostly wasted
    of_start = best.number in start.numbers
    shape = _shape(((_larger(best, running) if of_start else None) or best).params)
    if (of_start and room.rung is not None) or room.few({**best.params, **shape}):
        ahead = _ahead(best, running)
        one_more = len(running) < steps or not (of_start or ahead)  # where few are to come a step says more than what is drawn
        step = next_step(definition, trials, best, last=DOWN) if one_more else None
        return _in_a_hurry(start, best, step, room, ahead or shape)
    step = next_step(definition, trials, best) if len(running) < steps else None
    if step is not None:
        return Proposal(step, best.number)
    return Proposal({} if number % WHOLE_EVERY == 0 else shape)


def _in_time(start: Start, best: FrozenTrial, said: Proposal, room: Room) -> Proposal:
    """What is said of a trial. Where that would be cut off another step from the best is tried, or something drawn in its shape, or else
    the best is tried one size down; what was said where all these would be cut off too."""
    if not room.cut_off({**best.params, **said.params}):
        return said
    step = next_step(start.definition, start.trials, best, last=DOWN, skip=room.cut_off)
    ways = [] if step is None or step.get(SIZE, 0) < best.params.get(SIZE, 0) else [_step_from(start, best, step)]
    ways += [Proposal(_shape(best.params)), *_size_down(start, best)]
    return next((one for one in ways if not room.cut_off({**best.params, **one.params})), said)


def _size_down(start: Start, best: FrozenTrial) -> list[Proposal]:
    """The best one size down, if there is such a size, no step has led there, and it has not been reached from one there that has ended."""
    below = [size for size in _ladders(start.definition).get(SIZE, []) if size < best.params.get(SIZE, -math.inf)][-1:]
    source = [trial for trial in start.trials if trial.number == best.user_attrs.get(STEP) and trial.state == TrialState.COMPLETE]
    been = {trial.params.get(SIZE) for trial in (*source, *(step for _, step in _steps(start.trials)))}
    return [Proposal(start.resized(best, size), best.number) for size in below if size not in been]


def _shape(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: params[name] for name in SHAPE_NAMES if name in params}


def _larger(best: FrozenTrial, steps: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Of these steps to a larger model the smallest."""
    larger = [step for step in steps if step.params.get(SIZE, 0) > best.params.get(SIZE, 0)]
    return min(larger, key=lambda step: step.params[SIZE], default=None)


def _ahead(best: FrozenTrial, steps: Sequence[FrozenTrial]) -> dict[str, Any]:
    """The shape of the running step that is furthest ahead of the best; empty if none is ahead."""
    ahead = max(steps, key=_latest, default=best)
    return _shape(ahead.params) if _latest(ahead) > _latest(best) else {}


def _latest(trial: FrozenTrial) -> float:
    """Its value, or that of its last epoch so far; minus infinity where there is none."""
    return trial.value if trial.value is not None else max(trial.intermediate_values.items(), default=(0, -math.inf))[1]


def _leader(start: Start) -> FrozenTrial | None:
    """The best trial that has finished above the floors. But if there is a rung, and all starters have reached it or ended: the best
    starter, if it still trains and is ahead of that trial, or if no trial has finished above the floors."""
    known, rung = next(iter(feasible(start.trials)), None), start.rung
    if rung is None or any(rung not in trial.intermediate_values for trial in start.training):
        return known
    going = [trial for trial in start.ranked[:1] if trial.state == TrialState.RUNNING or known is None]
    return max([trial for trial in (known, *going) if trial is not None], key=_latest, default=None)


def next_step(
    definition: StudyDefinition,
    trials: Sequence[FrozenTrial],
    best: FrozenTrial,
    last: tuple[str, bool] | None = None,
    skip: Callable[[dict[str, Any]], bool] = ENDLESS.cut_off,
) -> dict[str, Any] | None:
    """The best's parameters with one number of its shape, or else one other number, at a neighbouring value that is untried; None: all are.

    A direction (a number, up or down) that was worse once comes after those that were not.

    Args:
        last: a direction that comes last in any case.
        skip: what is passed over.
    """
    ladders, steps = _ladders(definition), _steps(trials)
    shape = [name for name in ladders if name in SHAPE_NAMES]
    others = [name for name in ladders if name not in shape]
    been = [best.params, *(trial.params for pair in steps for trial in pair)]
    worse = {way for source, there in steps if _was_worse(there, source) for way in _ways(ladders, source.params, there.params)}
    found = list[dict[str, Any]]()
    # a shape was tried if one of these had it; another number only if one had it with all other numbers the same
    for names, compared in ((shape, shape), (others, list(ladders))):
        reached = [[params[name] for name in compared] for params in been]
        beside = list(_beside({name: ladders[name] for name in names}, best.params))
        beside.sort(key=lambda params: bool(worse & _ways(ladders, best.params, params)))
        found += [params for params in beside if [params[name] for name in compared] not in reached and not skip(params)]
    return min(found, key=lambda params: last in _ways(ladders, best.params, params), default=None)


def _in_a_hurry(start: Start, best: FrozenTrial, step: dict[str, Any] | None, room: Room, shape: dict[str, Any]) -> Proposal:
    """What to try when there is time for few trials: a larger size, then the better starters in the larger shape, then other steps.

    Args:
        step: the next step from the best, if one may run.
        shape: the larger shape, in which the rest are drawn.
    """
    of_start = best.number in start.numbers
    up = step if step is not None and step.get(SIZE, 0) > best.params.get(SIZE, 0) else None
    larger = _size_up(start, best, room) if of_start else up
    if larger is not None:
        return Proposal(larger, best.number)
    if (promoted := start.promoted(shape)) is not None:
        return promoted
    if step is None:
        return Proposal(shape)
    return _step_from(start, best, step)


def _step_from(start: Start, best: FrozenTrial, step: dict[str, Any]) -> Proposal:
    """A step; from a starter to a larger size with the rate and the batch that suit it."""
    up = best.number in start.numbers and step.get(SIZE, 0) > best.params.get(SIZE, 0)
    return Proposal(start.enlarged(best, {SIZE: step[SIZE]}) if up else step, best.number)


def _size_up(start: Start, best: FrozenTrial, room: Room) -> dict[str, Any] | None:
    """The best, which is a starter, two sizes up if that would end in time, or else one. Sizes in which a step has already ended are passed
    over; None if a step to the size is already running."""
    above = [start.enlarged(best, {SIZE: size}) for size in sizes_above(start.definition, best.params)[:2]]
    steps = [step for _, step in _steps(start.trials)]
    over = {step.params.get(SIZE) for step in steps if step.state.is_finished()}
    left = [params for params in above if params[SIZE] not in over and (params is above[0] or room.ends(params))]
    begun = {step.params.get(SIZE) for step in steps}
    return left[-1] if left and left[-1][SIZE] not in begun else None


def sizes_above(definition: StudyDefinition, params: Mapping[str, Any]) -> list[float]:
    """The sizes above these settings', the nearest first; none where the size is not chosen from a few."""
    return [size for size in _ladders(definition).get(SIZE, []) if SIZE in params and size > params[SIZE]]


def _steps(trials: Sequence[FrozenTrial]) -> list[tuple[FrozenTrial, FrozenTrial]]:
    """From where to where steps have led."""
    known = {trial.number: trial for trial in trials}
    return [(known[trial.user_attrs[STEP]], trial) for trial in trials if trial.params and trial.user_attrs.get(STEP) in known]


def _was_worse(step: FrozenTrial, source: FrozenTrial) -> bool:
    """Whether a step has ended worse than the trial it came from, or was stopped or failed."""
    return step.state.is_finished() and step not in feasible([step, source])[:1]


def _ways(ladders: Mapping[str, list[float]], source: Mapping[str, Any], there: Mapping[str, Any]) -> set[tuple[str, bool]]:
    """Which numbers are others there, and whether they are larger."""
    return {(name, there[name] > source[name]) for name in ladders if there[name] != source[name]}


def _ladders(definition: StudyDefinition) -> dict[str, list[float]]:
    """The numbers that are chosen from a few, each with its values from the smallest up."""
    found: dict[str, list[float]] = {}
    for name, space in definition.search.items():
        if isinstance(space, Choices):
            numbers = [value for value in space.choices if isinstance(value, (int, float)) and not isinstance(value, bool)]
            if len(numbers) == len(space.choices):
                found[name] = sorted(numbers)
    return found


def _beside(ladders: Mapping[str, list[float]], params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One rung up and one rung down each ladder."""
    for name, rungs in ladders.items():
        here = rungs.index(params[name])
        for there in (here + 1, here - 1):
            if 0 <= there < len(rungs):
                yield {**params, name: rungs[there]}
