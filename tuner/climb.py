"""The way to the right size: beside the best trial, one step further.

A sampler that takes each parameter for itself stays in the shape in which it learnt the others, and one that draws shapes freely leaves
every array half empty. So new trials are drawn in the shape of the best, their arrays full; and the best settings known are tried, each
place once, with the next larger and the next smaller value of each number that is chosen from a few. Where that is better, both go on from
there (coordinate steps from what is cheap, as in Wu, Wang and Huang, arXiv:2005.01571). Now and then one is drawn whole.

Where the time that is left has room for few trials one after the other, steps one after the other would be all of it, and ten trials say
too little for a sampler. There the cheap ones are compared at a quarter of their epochs and only the best goes on; from there the first two
sizes above what is cheap are tried beside each other, the larger first; then the better half of the cheap ones in the larger shape, the
best first (successive halving, with sizes as its rungs), which is that of a step as soon as it has passed the best. None is drawn whole.

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
RUNG = "start_rung"
"""A study's attribute: at which epoch only the best of the first trials goes on, where its minutes have room for few (`StartRule`)."""
WHOLE_EVERY = 8
"""One in so many is drawn with its shape."""
SIZE = "hidden_dim"


class Room(Protocol):
    """What the time that is left has room for."""

    @property
    def rung(self) -> int | None:
        """The epoch at which only the best of the first trials goes on; None: they end like others."""

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
    rung = None if room is None else room.rung
    best = best_of(trials) if rung is None else _leader(trials, starters, rung)
    if best is None:
        return _shape(start) if any(t.number in starters and t.state == TrialState.RUNNING for t in trials) else {}, None
    return _beside_others(definition, trials, number, steps, best, starters, room)


def _beside_others(
    definition: StudyDefinition,
    trials: Sequence[FrozenTrial],
    number: int,
    steps: int,
    best: FrozenTrial,
    starters: range,
    room: Room | None,
) -> tuple[dict[str, Any], int | None]:
    """A step from the best, or the shape in which something is drawn."""
    running = [t for t in trials if t.state == TrialState.RUNNING and STEP in t.user_attrs and t.number != number]
    step = next_step(definition, trials, best) if len(running) < steps else None
    # a starter's shape was cheap, not good: what is drawn in it until the step from it has ended is mostly lost
    cheap = best.number in starters
    shape = _shape(((_larger(best, running) if cheap else None) or best).params)
    if room is not None and ((cheap and room.rung is not None) or room.few({**best.params, **shape})):
        shape = _ahead(best, running) or shape
        larger = _size_up(definition, trials, best, room) if cheap else None
        return _in_a_hurry(best, larger, step, _promoted(trials, starters, shape, room.rung), shape)
    if step is not None:
        return step, best.number
    return {} if number % WHOLE_EVERY == 0 else shape, None


def starters_of(attributes: Mapping[str, Any], definition: StudyDefinition) -> int:
    """How many trials of a study with these attributes begin with what is cheap."""
    return min(definition.starting, int(attributes.get(STARTERS, definition.starting)))


def _shape(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: params[name] for name in SHAPE_NAMES if name in params}


def _larger(best: FrozenTrial, steps: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Of these steps to a larger model the smallest."""
    larger = [step for step in steps if step.params.get(SIZE, 0) > best.params.get(SIZE, 0)]
    return min(larger, key=lambda step: step.params[SIZE], default=None)


def _ahead(best: FrozenTrial, steps: Sequence[FrozenTrial]) -> dict[str, Any]:
    """The shape of the step that has passed the best before its end, the furthest; nothing if none has."""
    ahead = max(steps, key=_level, default=best)
    return _shape(ahead.params) if _level(ahead) > _level(best) else {}


def _level(trial: FrozenTrial) -> float:
    """Its value, or that of its last epoch so far; minus infinity where there is none."""
    return trial.value if trial.value is not None else max(trial.intermediate_values.items(), default=(0, -math.inf))[1]


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


def _leader(trials: Sequence[FrozenTrial], starters: range, rung: int) -> FrozenTrial | None:
    """The best, or once all starters have come to their rung or ended the one that goes on from there, while it is ahead of that, or where
    nothing has finished above the floors."""
    known, ranked = feasible(trials)[:1], _ranked(trials, starters, rung)[:1]
    if any(t.number in starters and t.state == TrialState.RUNNING and rung not in t.intermediate_values for t in trials):
        return next(iter(known), None)
    going = [trial for trial in ranked if trial.state == TrialState.RUNNING or not known]
    return max([*known, *going], key=_level, default=None)


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
    best: FrozenTrial,
    larger: dict[str, Any] | None,
    step: dict[str, Any] | None,
    promoted: tuple[dict[str, Any], int] | None,
    shape: dict[str, Any],
) -> tuple[dict[str, Any], int | None]:
    """Where few trials have room: larger sizes beside each other, the better starters in the larger shape, other steps.

    Args:
        larger: the best, if it is a starter, in a size above its own that is to be tried now.
        step: the next from the best, if one may run.
        promoted: the next of the better starters in a larger shape, if there is one.
        shape: in which the rest are drawn.
    """
    if larger is not None:
        return larger, best.number
    if step is not None and step.get(SIZE, 0) > best.params.get(SIZE, 0):
        return step, best.number
    if promoted is not None:
        return promoted
    return (shape, None) if step is None else (step, best.number)


def _promoted(trials: Sequence[FrozenTrial], starters: range, shape: dict[str, Any], rung: int | None) -> tuple[dict[str, Any], int] | None:
    """The best of the better half of the starters that has not been tried in this larger shape; none when as many others have ended as
    there are starters, for the sampler knows more than these then."""
    ended = feasible(trials)
    ranked = [trial for trial in ended if trial.number in starters] if rung is None else _ranked(trials, starters, rung)
    enough = sum(trial.number not in starters for trial in ended) >= len(starters)
    for starter in () if enough else ranked[: math.ceil((len(ranked) if rung is None else len(starters)) / 2)]:
        larger = {**starter.params, **shape}
        if larger.get(SIZE, 0) > starter.params.get(SIZE, 0) and all(trial.params != larger for trial in trials):
            return larger, starter.number
    return None


def _ranked(trials: Sequence[FrozenTrial], starters: range, rung: int) -> list[FrozenTrial]:
    """The starters that came to this epoch, the best there first, whether they ended or not; none that came to grief or stayed flat."""
    known = [trial for trial in trials if trial.number in starters and trial.state != TrialState.FAIL]
    sound = [trial for trial in known if trial.user_attrs.get("verdict", {}).get("cause", "finished") in ("finished", "outpaced")]
    there = [trial for trial in sound if math.isfinite(trial.intermediate_values.get(rung, math.nan))]
    return sorted(there, key=lambda trial: -trial.intermediate_values[rung])


def _size_up(definition: StudyDefinition, trials: Sequence[FrozenTrial], best: FrozenTrial, room: Room) -> dict[str, Any] | None:
    """The best's settings in one of the two sizes above its own, where no step has been: in the larger first, if that ends, for it takes
    longest and so is given the lane that is free, and the other comes to lie beside what still trains."""
    above, been = sizes_above(definition, best.params)[:2], [step.params.get(SIZE) for _, step in _steps(trials)]
    for size in reversed(above):
        params = {**best.params, SIZE: size}
        if size not in been and (size == above[0] or room.ends(params)):
            return params
    return None


def sizes_above(definition: StudyDefinition, params: Mapping[str, Any]) -> list[float]:
    """The sizes above these settings', the nearest first; none where the size is not chosen from a few."""
    return [size for size in _ladders(definition).get(SIZE, []) if SIZE in params and size > params[SIZE]]


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
