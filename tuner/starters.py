"""The first trials of a study: how many there are, which cheap settings they take, and how they are spread over the rest.

They are spread evenly: each range is cut into as many equal parts as there are such trials, one for each part (Latin hypercube: McKay,
Beckman and Conover, Technometrics 21, 1979). Ten draws at random leave the good end of a range empty now and then.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

from optuna.distributions import FloatDistribution

from model.noise import derived_seed
from tuner.definition import StudyDefinition
from tuner.space import Choices, Numbers, Value

MOST = 10
"""So many trials, a quarter of all at most, take what their space names as `start`; as many as TPE draws at random."""
STARTERS = "starters"
"""A study's attribute: how many trials begin with cheap settings, if its minutes do not allow as many as its definition says, or if that
would say more of them once the budget has more trials."""
RUNG = "start_rung"
"""A study's attribute: the epoch at which the first trials are compared, and most of them end, if its minutes allow only a few
(`StartRule`)."""
GOING_ON = "start_going_on"
"""A study's attribute: how many of them go on at that epoch, if not one."""


def cheap(definition: StudyDefinition) -> dict[str, Value]:
    """What the space names for its first trials."""
    return {name: space.start for name, space in definition.search.items() if isinstance(space, Choices) and space.start is not None}


def cheapest(definition: StudyDefinition) -> dict[str, Value]:
    """A whole point of the space with what is cheap in it."""
    return {**definition.usual, **cheap(definition)}


def least_work(definition: StudyDefinition) -> dict[str, Value]:
    """A whole point of the space that takes no longer than any other: the smallest model, the largest batches."""
    found = dict(definition.usual)
    for name, extreme in (("hidden_dim", min), ("batch_size", max)):
        if isinstance(space := definition.search.get(name), Choices):
            found[name] = extreme(space.choices, key=float)
    return found


def middling(definition: StudyDefinition) -> dict[str, Value]:
    """The middle of the sizes for which the space names a cheap one, for where that is not cheaper."""
    space = definition.search.get("hidden_dim")
    if not isinstance(space, Choices) or space.start is None:
        return {}
    sizes = sorted(map(int, space.choices))
    return {"hidden_dim": max(int(space.start), sizes[len(sizes) // 2])}


def planned(definition: StudyDefinition) -> int:
    """How many trials are to begin with cheap settings: none if no setting names one, and no more than can differ in the other settings."""
    named = cheap(definition)
    unlike = math.prod(_kinds(definition, name) for name in definition.search if name not in named)
    return min(MOST, definition.budget.trials // 4, unlike) if named else 0


def _kinds(definition: StudyDefinition, name: str) -> int:
    """How many values a setting can have; of a range, but for whole numbers, as many as matter."""
    space = definition.search[name]
    if isinstance(space, Choices):
        return len(space.choices)
    return int(space.high) - int(space.low) + 1 if name == "num_rules" else MOST


def decided(definition: StudyDefinition, attributes: Mapping[str, Any]) -> int:
    """How many do so in a study with these attributes."""
    count = planned(definition)
    return min(count, int(attributes.get(STARTERS, count)))


def numbers_of(definition: StudyDefinition, count: int) -> range:
    """The numbers of the first so many trials that nobody has put in."""
    first = len(definition.baselines) + len(definition.enqueue)
    return range(first, first + count)


def spread(definition: StudyDefinition, number: int, count: int) -> dict[str, float]:
    """Where one of so many starters lies in each range; nothing for what somebody has put in, nor beside a random sampler."""
    which = number - numbers_of(definition, count).start
    if which < 0 or definition.sampler != "tpe":
        return {}
    found, distributions = dict[str, float](), definition.distributions()
    for name, space in definition.search.items():
        if isinstance(space, Numbers) and isinstance(distributions[name], FloatDistribution):
            order = random.Random(derived_seed(definition.seed, "starters", name)).sample(range(count), count)
            within = random.Random(derived_seed(definition.seed, "starters", name, which)).random()
            found[name] = space.at((order[which] + within) / count)
    return found
