"""The way to the right size: beside the best trial, one step further.

A sampler that takes each parameter for itself stays in the shape in which it learnt the others, and one that draws shapes freely leaves
every array half empty. So new trials are drawn in the shape of the best, their arrays full; and the best settings known are tried, each
place once, with the next larger and the next smaller value of each number that is chosen from a few. Where that is better, both go on from
there (coordinate steps from what is cheap, as in Wu, Wang and Huang, arXiv:2005.01571). Now and then one is drawn whole.

Where the time that is left has room for few trials one after the other, steps one after the other would be all of it, and ten trials say
too little for a sampler. There the first two sizes above what is cheap are tried beside each other; then the better half of the cheap ones
in the larger shape, the best first (successive halving, with sizes as its rungs), which is that of a step as soon as it has passed the
best; and none is drawn whole.

The first, cheap ones are spread evenly: each range is cut into as many equal parts as there are of them, and each part has one (Latin
hypercube: McKay, Beckman and Conover, Technometrics 21, 1979). Ten draws at random leave the good end of a range empty now and then.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from model.config import SHAPE_NAMES
from model.noise import derived_seed
from tuner.definition import Choices, Numbers, StudyDefinition
from tuner.study import feasible

STEP = "step_from"
"""A trial's attribute: which trial's settings it tries one step further."""
STARTERS = "starters"
"""A study's attribute: how many trials begin with what is cheap, where its minutes have no room for as many as its definition says."""
WHOLE_EVERY = 8
"""One in so many is drawn with its shape."""
SIZE = "hidden_dim"


class Room(Protocol):
    """What the time that is left has room for."""

    def few(self, params: dict[str, Any]) -> bool:
        """Whether a lane has room for few more trials with these settings, one after the other."""

    def ends(self, params: dict[str, Any]) -> bool:
        """Whether a trial with these settings ends that begins now in a lane of its own."""


def guide(
    definition: StudyDefinition,
    trials: Sequence[FrozenTrial],
    number: int,
    steps: int,
    *,
    warm: bool = False,
    sizes_cost: bool = True,
    starting: int | None = None,
    room: Room | None = None,
) -> tuple[dict[str, Any], int | None]:
    """What is not drawn for a new trial, and from which trial it is a step, if it is one.

    Args:
        trials: those that there are.
        number: the new one's.
        steps: how many steps may run at once.
        warm: whether the sampler knows an earlier study, from which it draws even the first.
        sizes_cost: whether a larger model takes much longer on the device; where it does not, the first are of a middle size.
        starting: how many begin with what is cheap; None: as many as the definition says.
        room: what the time that is left has room for; None: for many.
    """
    start = definition.cheap if sizes_cost else {**definition.cheap, **definition.middling}
    starting = definition.starting if starting is None else starting
    starters = range(definition.first_starter, definition.first_starter + starting)
    if number < starters.stop:
        return start if warm else {**start, **_spread(definition, number, starting)}, None
    if definition.sampler != "tpe":
        return {}, None
    best = best_of(trials)
    if best is None:
        return _shape(start) if any(t.number in starters and t.state == TrialState.RUNNING for t in trials) else {}, None
    running = [t for t in trials if t.state == TrialState.RUNNING and STEP in t.user_attrs and t.number != number]
    # a starter's shape was cheap, not good: what is drawn in it until the step from it has ended is mostly lost
    first = _first_larger(best, running) if best.number in starters else None
    shape = _shape((first or best).params)
    step = next_step(definition, trials, best) if len(running) < steps else None
    if room is not None and room.few({**best.params, **shape}):
        leap = None if first is None else _leap(definition, trials, best, first)
        leap = leap if leap is not None and room.ends(leap) else None
        return _in_a_hurry(trials, best, step, leap, starters, _ahead(best, running) or shape)
    if step is not None:
        return step, best.number
    return {} if number % WHOLE_EVERY == 0 else shape, None


def starters_of(attributes: Mapping[str, Any], definition: StudyDefinition) -> int:
    """How many trials of a study with these attributes begin with what is cheap."""
    return min(definition.starting, int(attributes.get(STARTERS, definition.starting)))


def _shape(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: params[name] for name in SHAPE_NAMES if name in params}


def _first_larger(best: FrozenTrial, steps: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The first of these steps that leads to a larger model."""
    return next((step for step in steps if step.params.get(SIZE, 0) > best.params.get(SIZE, 0)), None)


def _ahead(best: FrozenTrial, steps: Sequence[FrozenTrial]) -> dict[str, Any]:
    """The shape of the step that has passed the best before its end, the furthest; nothing if none has."""
    reached = [(step.intermediate_values[max(step.intermediate_values)], step) for step in steps if step.intermediate_values]
    value, ahead = max(reached, key=lambda one: one[0], default=(-math.inf, best))
    return _shape(ahead.params) if best.value is not None and value > best.value else {}


def _spread(definition: StudyDefinition, number: int, parts: int) -> dict[str, float]:
    """Where a starter lies in each range; nothing for what somebody has put in, nor beside a random sampler."""
    which = number - definition.first_starter
    if which < 0 or definition.sampler != "tpe":
        return {}
    spread, distributions = dict[str, float](), definition.distributions()
    for name, space in definition.search.items():
        if isinstance(space, Numbers) and isinstance(distributions[name], FloatDistribution):
            order = random.Random(derived_seed(definition.seed, "starters", name)).sample(range(parts), parts)
            within = random.Random(derived_seed(definition.seed, "starters", name, which)).random()
            spread[name] = space.at((order[which] + within) / parts)
    return spread


def best_of(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The best that has finished above the floors."""
    return next(iter(feasible(trials)), None)


def next_step(definition: StudyDefinition, trials: Sequence[FrozenTrial], best: FrozenTrial) -> dict[str, Any] | None:
    """The best's parameters in a shape beside its own where no step has been, or else beside it in other numbers; None: all are tried.

    A way that was worse once, a number further up or further down, comes after those that were not."""
    ladders, steps = _ladders(definition), _steps(trials)
    shape = [name for name in ladders if name in SHAPE_NAMES]
    been = [best.params, *(trial.params for step in steps for trial in step)]
    worse = {way for source, there in steps if _was_worse(there, source) for way in _ways(ladders, source.params, there.params)}
    for names, compared in ((shape, shape), ([name for name in ladders if name not in shape], list(ladders))):
        reached = [[params[name] for name in compared] for params in been]
        beside = list(_beside({name: ladders[name] for name in names}, best.params))
        for params in sorted(beside, key=lambda params: bool(worse & _ways(ladders, best.params, params))):
            if [params[name] for name in compared] not in reached:
                return params
    return None


def _in_a_hurry(
    trials: Sequence[FrozenTrial],
    best: FrozenTrial,
    step: dict[str, Any] | None,
    leap: dict[str, Any] | None,
    starters: range,
    shape: dict[str, Any],
) -> tuple[dict[str, Any], int | None]:
    """Where few trials have room: the next larger size, the one after it beside that, the better starters in the larger shape, other steps.

    Args:
        step: the next from the best, if one may run.
        leap: the size after that of a first step which runs, if it is to be tried.
        shape: in which the rest are drawn.
    """
    if step is not None and step.get(SIZE, 0) > best.params.get(SIZE, 0):
        return step, best.number
    if leap is not None:
        return leap, best.number
    if (promoted := _promoted(trials, starters, shape)) is not None:
        return promoted
    return (shape, None) if step is None else (step, best.number)


def _promoted(trials: Sequence[FrozenTrial], starters: range, shape: dict[str, Any]) -> tuple[dict[str, Any], int] | None:
    """The best of the better half of the starters that has not been tried in this larger shape; none when as many others have ended as
    there are starters, for the sampler knows more than these then."""
    known = feasible(trials)
    ended = [trial for trial in known if trial.number in starters]
    for starter in ended[: math.ceil(len(ended) / 2)] if len(known) < len(ended) + len(starters) else ():
        larger = {**starter.params, **shape}
        if larger.get(SIZE, 0) > starter.params.get(SIZE, 0) and all(trial.params != larger for trial in trials):
            return larger, starter.number
    return None


def _leap(definition: StudyDefinition, trials: Sequence[FrozenTrial], best: FrozenTrial, first: FrozenTrial) -> dict[str, Any] | None:
    """The best's settings in the model one size above that of this first step, where no step has been."""
    larger = next((size for size in _ladders(definition).get(SIZE, []) if size > first.params[SIZE]), None)
    been = larger in {step.params[SIZE] for _, step in _steps(trials)}
    return None if larger is None or been else {**best.params, SIZE: larger}


def _steps(trials: Sequence[FrozenTrial]) -> list[tuple[FrozenTrial, FrozenTrial]]:
    """From where to where steps have led."""
    known = {trial.number: trial for trial in trials}
    return [(known[trial.user_attrs[STEP]], trial) for trial in trials if trial.params and trial.user_attrs.get(STEP) in known]


def _was_worse(step: FrozenTrial, source: FrozenTrial) -> bool:
    """Whether a step has ended below where it came from, or was not worth ending."""
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
