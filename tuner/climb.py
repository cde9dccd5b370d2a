"""The way to the right size: beside the best trial, one step further.

A sampler that takes each parameter for itself stays in the shape in which it learnt the others, and one that draws shapes freely leaves
every array half empty. So new trials are drawn in the shape of the best, their arrays full; and the best settings known are tried, each
place once, with the next larger and the next smaller value of each number that is chosen from a few. Where that is better, both go on from
there (coordinate steps from what is cheap, as in Wu, Wang and Huang, arXiv:2005.01571). Now and then one is drawn whole.

The first, cheap ones are spread evenly: each range is cut into as many equal parts as there are of them, and each part has one (Latin
hypercube: McKay, Beckman and Conover, Technometrics 21, 1979). Ten draws at random leave the good end of a range empty now and then.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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


def guide(
    definition: StudyDefinition,
    trials: Sequence[FrozenTrial],
    number: int,
    steps: int,
    *,
    warm: bool = False,
    sizes_cost: bool = True,
    starting: int | None = None,
) -> tuple[dict[str, Any], int | None]:
    """What is not drawn for a new trial, and from which trial it is a step, if it is one.

    Args:
        trials: those that there are.
        number: the new one's.
        steps: how many steps may run at once.
        warm: whether the sampler knows an earlier study, from which it draws even the first.
        sizes_cost: whether a larger model takes much longer on the device; where it does not, the first are of a middle size.
        starting: how many begin with what is cheap; None: as many as the definition says.
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
    if len(running) < steps and (step := next_step(definition, trials, best)) is not None:
        return step, best.number
    if number % WHOLE_EVERY == 0:
        return {}, None
    return _drawn_in(best, running if best.number in starters else ()), None


def starters_of(attributes: Mapping[str, Any], definition: StudyDefinition) -> int:
    """How many trials of a study with these attributes begin with what is cheap."""
    return min(definition.starting, int(attributes.get(STARTERS, definition.starting)))


def _shape(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: params[name] for name in SHAPE_NAMES if name in params}


def _drawn_in(best: FrozenTrial, steps: Sequence[FrozenTrial]) -> dict[str, Any]:
    """The shape for what is drawn: that of the first of these steps to a larger model, else the best's.

    A starter's shape was cheap, not good: what is drawn in it until the step from it has ended is mostly lost."""
    for step in steps:
        if step.params.get("hidden_dim", 0) > best.params.get("hidden_dim", 0):
            return _shape(step.params)
    return _shape(best.params)


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
