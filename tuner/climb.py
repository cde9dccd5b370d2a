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
WHOLE_EVERY = 8
"""One in so many is drawn with its shape."""


def guide(
    definition: StudyDefinition, trials: Sequence[FrozenTrial], number: int, steps: int, warm: bool = False
) -> tuple[dict[str, Any], int | None]:
    """What is not drawn for a new trial, and from which trial it is a step, if it is one.

    Args:
        trials: those that there are.
        number: the new one's.
        steps: how many steps may run at once.
        warm: whether the sampler knows an earlier study, from which it draws even the first.
    """
    if said := definition.start(number):
        return said if warm else {**said, **_spread(definition, number)}, None
    best = best_of(trials)
    if best is None or definition.sampler != "tpe":
        return {}, None
    running = sum(t.state == TrialState.RUNNING and STEP in t.user_attrs and t.number != number for t in trials)
    if running < steps and (step := next_step(definition, trials, best)) is not None:
        return step, best.number
    return {} if number % WHOLE_EVERY == 0 else {name: best.params[name] for name in SHAPE_NAMES if name in best.params}, None


def _spread(definition: StudyDefinition, number: int) -> dict[str, float]:
    """Where a starter lies in each range; nothing for what somebody has put in, nor beside a random sampler."""
    which, parts = number - definition.first_starter, definition.starting
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
    """The best's parameters in a shape beside its own that no step has led to, or else beside it in other numbers; None: all are tried."""
    ladders = _ladders(definition)
    shape = [name for name in ladders if name in SHAPE_NAMES]
    been = [best.params, *(t.params for t in trials if STEP in t.user_attrs and t.params)]
    for names, compared in ((shape, shape), ([name for name in ladders if name not in shape], list(ladders))):
        reached = [[params[name] for name in compared] for params in been]
        for params in _beside({name: ladders[name] for name in names}, best.params):
            if [params[name] for name in compared] not in reached:
                return params
    return None


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
