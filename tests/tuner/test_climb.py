"""What is not drawn for a new trial: a cheap start, a step from the best, the best's shape."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState

from tests.tuner.scripted import scripted
from tests.tuner.test_search import definition
from tuner import climb
from tuner.climb import ENDLESS, WHOLE_EVERY
from tuner.definition import StudyDefinition
from tuner.errors import DefinitionError
from tuner.promotion import STEP, Proposal
from tuner.starters import planned
from tuner.study import definition_of, feasible

SPACE: dict[str, Any] = {
    "lr": {"low": 1e-4, "high": 4e-3, "log": True},
    "hidden_dim": {"choices": [64, 16, 32], "start": 16},
    "num_rules": {"choices": [2, 4]},
    "batch_size": {"choices": [8, 16]},
}
MADE = definition(search=SPACE, fixed={"loss_weights.parse": 1.0}, baselines=[], budget={"trials": 40, "epochs": 3}, pruning={})
ONE_UP, TWO_UP, TWICE_ONE_UP, TWICE_TWO_UP = (pytest.approx(rate / ratio ** (1 / 3)) for rate in (1e-3, 2e-3) for ratio in (2, 4))
"""The rates at which a best starter's 0.001 and 0.002 go on in a larger size."""
LATE = 41
"""A number that is neither of the start nor drawn whole."""


def guide(made: StudyDefinition, trials: list[FrozenTrial], number: int, steps: int, **more: Any) -> Proposal:
    """With as many of the first trials as are planned, unless something else is said."""
    return climb.guide(made, trials, number, steps, **{"starting": planned(made), **more})


def trial(
    number: int,
    value: float | None,
    hidden: int = 16,
    rules: int = 2,
    batch: int = 8,
    step: bool = False,
    floor: float = -0.1,
    source: int = 0,
) -> FrozenTrial:
    """One of the space; running where it has no value."""
    params = {"lr": 1e-3, "hidden_dim": hidden, "num_rules": rules, "batch_size": batch}
    state = TrialState.RUNNING if value is None else TrialState.COMPLETE
    marks = {STEP: source} if step else {}
    made = optuna.trial.create_trial(state=state, value=value, params=params, distributions=MADE.distributions(), user_attrs=marks)
    made.number = number
    if value is not None:
        made.set_constraint("round_trip", floor)
    return made


def places(trials: list[FrozenTrial], count: int) -> list[tuple[Any, ...]]:
    """The next steps, each ended badly before the next is asked for."""
    found = []
    for number in range(count):
        said, best = guide(MADE, trials, LATE + 8 * number, 2)
        if best is None:
            break
        found.append((said["hidden_dim"], said["num_rules"], said["batch_size"]))
        trials = [*trials, trial(LATE + 8 * number, 0.0, said["hidden_dim"], said["num_rules"], said["batch_size"], step=True)]
    return found


def test_the_first_take_what_is_cheap_and_nothing_else_is_said() -> None:
    """Ten at most, a quarter of the budget at most; those that somebody has put in are not counted."""
    assert planned(MADE) == 10
    for number in range(planned(MADE)):
        said, best = guide(MADE, [], number, 2)
        assert (said.keys(), said["hidden_dim"], best) == ({"hidden_dim", "lr"}, 16, None)
    assert guide(MADE, [trial(3, None)], 10, 2) == ({"hidden_dim": 16}, None), "while they run, in the arrays that there are"
    assert guide(MADE, [trial(3, 0.5, floor=0.1)], 10, 2) == ({}, None), "where none of them is above the floors, in any"
    assert planned(definition(search=SPACE, fixed={}, baselines=[], budget={"trials": 12, "epochs": 3})) == 3
    assert planned(definition()) == 0


def test_no_more_begin_with_what_is_cheap_than_differ_in_the_rest() -> None:
    """Where all that is searched is chosen from a few; a size that the model's own is not among is measured at one of its own."""
    size = {"choices": [512, 1024], "start": 512}
    alone = definition(search={"hidden_dim": size}, fixed={}, baselines=[], budget={"trials": 40, "epochs": 3})
    assert planned(alone) == 1
    three = {"hidden_dim": size, "batch_size": {"choices": [8, 16, 32]}}
    assert planned(definition(search=three, fixed={}, baselines=[], budget={"trials": 40, "epochs": 3})) == 3
    whole = {"hidden_dim": size, "num_rules": {"low": 2, "high": 4}}
    assert planned(definition(search=whole, fixed={}, baselines=[], budget={"trials": 40, "epochs": 3})) == 3
    unlike = definition(search={**three, "hidden_dim": {"choices": [512, 1024]}}, fixed={}, baselines=[])
    assert (planned(unlike), unlike.usual["hidden_dim"]) == (0, 512)


@given(st.integers(0, 2**31), st.integers(4, 60), st.booleans(), st.integers(0, 3))
def test_the_first_have_one_in_each_part_of_each_range(seed: int, trials: int, log: bool, enqueued: int) -> None:
    """Whatever the seed, their number and what somebody has put in before them; one range says nothing about another."""
    ranges = {"lr": (1e-4, 1e-2, log), "loss_weights.generate": (0.5, 3.0, False)}
    space = {**SPACE, **{name: {"low": low, "high": high, "log": by_log} for name, (low, high, by_log) in ranges.items()}}
    put_in = [{"name": f"mine {n}", "lr": 1e-3, "hidden_dim": 64, "num_rules": 2, "batch_size": 8} for n in range(enqueued)]
    made = definition(search=space, fixed={}, baselines=[], enqueue=put_in, seed=seed, budget={"trials": trials, "epochs": 3})
    count = planned(made)
    starters = [guide(made, [], enqueued + number, 2)[0] for number in range(count)]
    for name, (low, high, by_log) in ranges.items():
        edges = np.geomspace(low, high, count + 1) if by_log else np.linspace(low, high, count + 1)
        values = [one[name] for one in starters]
        assert all(low <= value <= high for value in values)
        assert sorted(np.clip(np.searchsorted(edges, values) - 1, 0, count - 1)) == list(range(count))
    assert all("lr" not in guide(made, [], number, 2)[0] for number in range(enqueued))


def test_the_first_are_not_spread_where_something_is_known_or_a_random_sampler_was_asked_for() -> None:
    """They still take what is cheap."""
    drawn = definition(search=SPACE, fixed={}, baselines=[], budget={"trials": 40, "epochs": 3}, sampler="random")
    assert guide(drawn, [], 0, 2) == ({"hidden_dim": 16}, None)
    assert guide(MADE, [], 0, 2, warm=True) == ({"hidden_dim": 16}, None)


def test_every_place_beside_the_best_is_tried_once_shapes_first() -> None:
    """One rung up and one down each ladder, in the order of size whatever the order of the choices."""
    first = trial(0, 0.5, hidden=32, rules=2, batch=8)
    assert places([first], 9) == [(64, 2, 8), (16, 2, 8), (32, 2, 16), (32, 4, 8)]


def test_where_a_step_is_better_the_next_goes_on_from_there() -> None:
    """From 16 over 32 to 64, with what else the best has."""
    trials = [trial(0, 0.5), trial(1, 0.6, hidden=32, step=True)]
    said, best = guide(MADE, trials, LATE, 2)
    assert (said, best) == ({"lr": 1e-3, "hidden_dim": 64, "num_rules": 2, "batch_size": 8}, 1)


def test_where_a_larger_model_costs_no_more_the_first_are_of_a_middle_size() -> None:
    """On a GPU; what else is named for them is as it is on a CPU."""
    space = {**SPACE, "batch_size": {"choices": [8, 16], "start": 8}}
    made = definition(search=space, fixed={}, baselines=[], budget={"trials": 40, "epochs": 3})
    said, _ = guide(made, [], 0, 2, sizes_cost=False)
    assert (said["hidden_dim"], said["batch_size"]) == (32, 8)
    assert guide(made, [trial(0, None)], 10, 2, sizes_cost=False) == ({"hidden_dim": 32, "batch_size": 8}, None)
    large = definition(
        search={**SPACE, "hidden_dim": {"choices": [16, 32, 64], "start": 64}}, fixed={}, baselines=[], budget={"trials": 40, "epochs": 3}
    )
    assert guide(large, [], 0, 2, sizes_cost=False)[0]["hidden_dim"] == 64, "never a smaller one than is named"


def test_no_step_leads_to_where_one_came_from() -> None:
    """From 16 to 32 and on to 64, which is worse: 16 was there before."""
    trials = [trial(0, 0.5), trial(1, 0.6, hidden=32, step=True), trial(2, 0.55, hidden=64, step=True, source=1)]
    said, best = guide(MADE, trials, LATE, 1)
    assert (said["hidden_dim"], said["batch_size"], said["num_rules"], best) == (32, 16, 2, 1)


def test_a_way_that_was_worse_is_tried_last() -> None:
    """Larger batches were worse at 16, so at 32 they come after 64, and where the step has not ended or was better they do not."""
    space = {"batch_size": SPACE["batch_size"], **{name: one for name, one in SPACE.items() if name != "batch_size"}}
    made = definition(search=space, fixed={"loss_weights.parse": 1.0}, baselines=[], budget={"trials": 40, "epochs": 3}, pruning={})
    for value, batch, hidden in ((0.4, 8, 64), (None, 16, 32), (0.55, 16, 32)):
        trials = [trial(0, 0.5), trial(1, value, batch=16, step=True), trial(2, 0.6, hidden=32, step=True)]
        said, best = guide(made, trials, LATE, 2)
        assert (said["batch_size"], said["hidden_dim"], best) == (batch, hidden, 2), value


def test_while_a_larger_model_is_tried_for_the_first_time_trials_are_drawn_in_its_shape() -> None:
    """What is cheap is not good; once something else is the best, its own shape counts."""
    larger = trial(10, None, hidden=32, step=True)
    assert guide(MADE, [trial(0, 0.5), larger], LATE, 1) == ({"hidden_dim": 32, "batch_size": 8}, None)
    assert guide(MADE, [trial(0, 0.5), trial(10, None, batch=16, step=True)], LATE, 1) == ({"hidden_dim": 16, "batch_size": 8}, None)
    assert guide(MADE, [trial(12, 0.5), larger], LATE, 1) == ({"hidden_dim": 16, "batch_size": 8}, None)


class Short:
    """Time for few more trials of some sizes, and for many of others."""

    def __init__(self, few: list[int] | list[None], ends: bool = True, rung: int | None = None, late: Sequence[int] = ()) -> None:
        self.sizes, self.last, self.rung, self.sentences, self.compares = few, ends, rung, 0, False
        self.late, self.bounded = late, bool(late)

    def few(self, params: dict[str, Any]) -> bool:
        """By size."""
        return params.get("hidden_dim") in self.sizes

    def ends(self, params: dict[str, Any]) -> bool:
        """As said."""
        return self.last

    def cut_off(self, params: dict[str, Any]) -> bool:
        """By size."""
        return params.get("hidden_dim") in self.late

    too_late = cut_off


def test_where_few_have_room_the_best_goes_two_sizes_up_or_one() -> None:
    """Each size once, at a lower rate; two up, if that ends; not where many have room, nor from a step."""
    starter, first = trial(0, 0.5, rules=4), trial(10, None, hidden=32, rules=4, step=True)
    larger = trial(11, None, hidden=64, rules=4, step=True)
    two_up, one_up = ({**starter.params, "hidden_dim": size, "lr": rate} for size, rate in ((64, TWO_UP), (32, ONE_UP)))
    short, drawn = Short([32]), ({"hidden_dim": 32, "batch_size": 8}, None)
    assert guide(MADE, [starter, first], LATE, 1, room=short) == (two_up, 0)
    assert guide(MADE, [starter, first], LATE, 1) == drawn
    assert guide(MADE, [starter, first], LATE, 1, room=Short([32], ends=False)) == drawn
    assert guide(MADE, [starter, first], LATE, 1, room=Short([16, 64])) == drawn, "it is what would be drawn that few have room of"
    assert guide(MADE, [starter, first, trial(11, 0.1, hidden=64, rules=4, step=True)], LATE, 1, room=short) == drawn
    ended = trial(10, 0.6, hidden=32, rules=4, step=True)
    assert guide(MADE, [starter, ended, larger], LATE, 1, room=short) == ({**ended.params, "batch_size": 16}, 10)
    assert guide(MADE, [starter, trial(10, None, batch=16, step=True)], LATE, 1, room=Short([16])) == (two_up, 0)
    assert guide(MADE, [starter], LATE, 1, room=Short([16])) == (two_up, 0)
    assert guide(MADE, [starter], LATE, 1, room=Short([16], ends=False)) == (one_up, 0)
    assert guide(MADE, [starter, larger], LATE, 1, room=Short([64])) == ({"hidden_dim": 64, "batch_size": 8}, None)
    assert guide(MADE, [starter, larger], LATE, 1, room=Short([64], ends=False)) == (one_up, 0), "what is left has room for no other"
    assert guide(MADE, [starter, first, larger], LATE, 1, room=short) == drawn


def test_where_two_sizes_up_came_to_grief_the_best_goes_one_up() -> None:
    """At a lower rate than its own as well; the others of the start are not tried where it came to grief."""
    starters = [trial(number, value, rules=rules) for number, value, rules in ((0, 0.5, 2), (1, 0.4, 4))]
    grief = trial(10, 0.1, hidden=64, step=True)
    one_up = ({**starters[0].params, "hidden_dim": 32, "lr": ONE_UP}, 0)
    assert guide(MADE, [*starters, grief], LATE, 2, room=Short([16, 32])) == one_up
    beside = [*starters, grief, trial(11, None, hidden=32, step=True)]
    assert guide(MADE, beside, LATE, 2, room=Short([16, 32])) == ({**starters[1].params, "hidden_dim": 32, "lr": ONE_UP}, 1)


def test_a_step_up_from_the_start_takes_a_lower_rate_too() -> None:
    """Where more may run than there is to be promoted."""
    starters, larger = [trial(0, 0.5)], trial(10, None, hidden=64, step=True)
    assert guide(MADE, [*starters, larger], LATE, 2, room=Short([64])) == ({**starters[0].params, "hidden_dim": 32, "lr": ONE_UP}, 0)


def test_beside_the_best_the_second_best_goes_to_the_same_size() -> None:
    """While nothing but the start has ended; where what is left has no room for it the best goes one size up."""
    starters = [trial(number, value, rules=rules) for number, value, rules in ((0, 0.5, 2), (1, 0.4, 4), (2, 0.3, 2), (3, 0.2, 2))]
    larger = trial(10, None, hidden=64, step=True)
    second = ({**starters[1].params, "hidden_dim": 64, "lr": TWO_UP}, 1)
    assert guide(MADE, [*starters, larger], LATE, 2, room=Short([64])) == second
    assert guide(MADE, [*starters, larger], LATE, 2, room=Short([64], ends=False))[0]["hidden_dim"] == 32


def test_where_few_have_room_the_better_starters_are_tried_in_the_larger_shape() -> None:
    """The best first, each once, before any other step: the better half, at least three; not where many have room or as many have ended."""
    starters = [trial(number, value, rules=rules) for number, value, rules in ((0, 0.5, 2), (1, 0.3, 2), (2, 0.4, 4), (3, 0.2, 2))]
    starters[1].params["lr"] = 2e-3
    trials = [*starters, trial(10, 0.6, hidden=32, step=True)]
    assert guide(MADE, trials, LATE, 1, room=Short([32]))[0]["hidden_dim"] == 64, "a larger size comes first"
    trials.append(trial(40, 0.1, hidden=64, step=True, source=10))
    assert guide(MADE, trials, LATE, 1, room=Short([32])) == ({**starters[2].params, "hidden_dim": 32, "lr": ONE_UP}, 2)
    assert guide(MADE, trials, LATE, 1)[1] == 10
    others = [trial(number, 0.1, hidden=32) for number in range(11, 11 + planned(MADE) - 3)]
    assert guide(MADE, [*trials, *others], LATE, 1, room=Short([32]))[1] == 2
    assert guide(MADE, [*trials, *others, trial(30, 0.1, hidden=32)], LATE, 1, room=Short([32]))[1] == 10
    trials.append(trial(11, None, hidden=32, rules=4, step=True, source=2))
    assert guide(MADE, trials, LATE, 1, room=Short([32])) == ({**starters[1].params, "hidden_dim": 32, "lr": ONE_UP}, 1)
    trials.append(trial(12, None, hidden=32, step=True, source=1))
    assert guide(MADE, trials, LATE, 1) == ({"hidden_dim": 32, "batch_size": 8}, None)
    assert guide(MADE, trials, LATE, 1, room=Short([32])) == ({**trials[4].params, "batch_size": 16}, 10), "however many run"


def test_in_a_hurry_no_step_leads_to_a_smaller_size_before_all_others() -> None:
    """What is smaller was left; where many have room it is a step like others."""
    trials = [trial(12, 0.5, hidden=64)]
    for smaller_first in (True, False):
        found, there = [], list(trials)
        for number in range(20, 23):
            said, _ = guide(MADE, there, number, 1, room=ENDLESS if smaller_first else Short([64]))
            found.append((said["hidden_dim"], said["num_rules"], said["batch_size"]))
            there.append(trial(number, 0.0, *found[-1], step=True, source=12))
        assert found == ([(32, 2, 8), (64, 2, 16), (64, 4, 8)] if smaller_first else [(64, 2, 16), (64, 4, 8), (32, 2, 8)])


def test_what_would_be_cut_off_gives_way_to_another_step_then_to_a_draw_in_the_bests_shape() -> None:
    """A larger size would be; nothing smaller is tried while what is as large as the best would not."""
    best, short = trial(12, 0.5, hidden=32), Short([32], late=[64])
    assert guide(MADE, [best], LATE, 1, room=Short([32]))[0]["hidden_dim"] == 64
    assert guide(MADE, [best], LATE, 1, room=short) == ({**best.params, "batch_size": 16}, 12)
    steps = [trial(number, 0.4, hidden=32, rules=rules, batch=batch, step=True, source=12) for number, rules, batch in STEPS_AT_32]
    assert guide(MADE, [best, *steps], LATE, 1, room=short) == ({"hidden_dim": 32, "batch_size": 8}, None)


def test_what_is_larger_than_a_starter_takes_a_lower_rate_in_place_of_what_would_be_cut_off_too() -> None:
    """As any step up from the start does."""
    starters, larger = [trial(0, 0.5)], trial(10, None, hidden=64, step=True)
    said = guide(MADE, [*starters, larger], LATE, 1, room=Short([64], late=[64]))
    assert said == ({**starters[0].params, "hidden_dim": 32, "lr": ONE_UP}, 0)


STEPS_AT_32 = ((13, 2, 16), (14, 4, 8))


def test_where_nothing_as_large_as_the_best_would_end_it_is_tried_one_size_down_once() -> None:
    """At a rate that is higher the smaller the model is; where that would not end either, or is known, what was said stays."""
    best = trial(12, 0.5, hidden=64)
    smaller = {**best.params, "hidden_dim": 32, "lr": pytest.approx(best.params["lr"] * 2 ** (1 / 3))}
    stays = guide(MADE, [best], LATE, 1, room=Short([64]))
    assert stays[0]["hidden_dim"] == 64
    assert guide(MADE, [best], LATE, 1, room=Short([64], late=[64])) == (smaller, 12)
    assert guide(MADE, [best], LATE, 1, room=Short([64], late=[32, 64])) == stays
    assert guide(MADE, [best, trial(13, 0.4, hidden=32)], LATE, 1, room=Short([64], late=[64])) == (smaller, 12), "that is no step"
    been = trial(13, 0.4, hidden=32, step=True, source=12)
    assert guide(MADE, [best, been], LATE, 1, room=Short([64], late=[64]))[0]["hidden_dim"] == 64
    grown = trial(13, 0.6, hidden=64, step=True, source=11)
    for ended in (True, False):
        source = trial(11, 0.4 if ended else None, hidden=32)
        said = guide(MADE, [grown, source], LATE, 1, room=Short([64], late=[64]))
        assert said[0]["hidden_dim"] == (64 if ended else 32), "it came from there"
    least = [trial(12, 0.5)]
    assert guide(MADE, least, LATE, 1, room=Short([16], late=[16, 32, 64])) == guide(MADE, least, LATE, 1, room=Short([16]))


def started(*curves: tuple[float, ...]) -> list[FrozenTrial]:
    """Starters that run, with these curves."""
    trials = [trial(number, None) for number, _ in enumerate(curves)]
    for starter, levels in zip(trials, curves, strict=True):
        starter.intermediate_values, starter.params["lr"] = dict(enumerate(levels, 1)), 1e-3 * (1 + starter.number)
    return trials


def test_where_only_the_best_of_the_start_goes_on_steps_begin_from_it_before_its_end() -> None:
    """When all have come to the rung, from the best there, while it is ahead of what has ended, or where that is below the floors."""
    starters, draw = started((0.5, 0.6, 0.9), (0.2, 0.7, 0.68), (0.1, 0.2)), {"hidden_dim": 16}
    step, one_up = ({**starters[1].params, "hidden_dim": size, "lr": rate} for size, rate in ((64, TWICE_TWO_UP), (32, TWICE_ONE_UP)))
    assert guide(MADE, starters, LATE, 1) == (draw, None)
    assert guide(MADE, starters, LATE, 1, room=Short([], rung=3)) == (draw, None)
    assert guide(MADE, starters, LATE, 1, room=Short([], rung=2)) == (step, 1)
    assert guide(MADE, starters, LATE, 1, room=Short([], ends=False, rung=2)) == (one_up, 1)
    for stopped in (starters[0], starters[2]):
        stopped.state = TrialState.PRUNED
    assert guide(MADE, [*starters, trial(20, 0.65, hidden=32)], LATE, 1, room=Short([], rung=2)) == (step, 1)
    assert guide(MADE, [*starters, trial(20, 0.69, hidden=32)], LATE, 1, room=Short([], rung=2))[1] == 20
    starters[1].state = TrialState.PRUNED
    assert guide(MADE, starters, LATE, 1, room=Short([], rung=2)) == (step, 1)
    starters[1].user_attrs["verdict"] = {"cause": "exploded"}
    assert guide(MADE, starters, LATE, 1, room=Short([], rung=2))[1] == 0


def test_of_a_start_of_which_only_the_best_goes_on_the_better_half_is_promoted() -> None:
    """By the level at which it was decided, the best first, each once; half of all, at least three, though some had not come so far."""
    starters = started((0.5, 0.6), (0.2, 0.7, 0.68), (0.1, 0.5), (0.1, 0.4), (0.1, 0.3), (0.1,))
    starters[2].params["num_rules"] = starters[3].params["num_rules"] = 4
    for stopped in (starters[0], *starters[2:]):
        stopped.state = TrialState.PRUNED
    first, leap = (trial(number, None, hidden=hidden, step=True, source=1) for number, hidden in ((10, 32), (11, 64)))
    for step in (first, leap):
        step.params["lr"] = starters[1].params["lr"]
    found, trials, room = [], [*starters, first, leap], Short([], rung=2)
    for number in range(12, 16):
        said, source = guide(MADE, trials, number, 1, starting=6, room=room)
        found.append((said["hidden_dim"], source))
        if source is not None:
            trials.append(trial(number, None, step=True, source=source))
            trials[-1].params.update(said)
    assert found == [(32, 0), (32, 2), (32, None), (32, None)]


def test_a_size_that_is_not_searched_is_not_climbed() -> None:
    """Where few have room too: the step is one to other batches."""
    space = {name: one for name, one in SPACE.items() if name != "hidden_dim"} | {"batch_size": {"choices": [8, 16], "start": 8}}
    made = definition(search=space, fixed={"loss_weights.parse": 1.0}, baselines=[], budget={"trials": 40, "epochs": 3}, pruning={})
    for starter, there in (trial(0, 0.5), trial(10, None, batch=16, step=True)), (trial(0, 0.5), trial(10, 0.4, batch=16, step=True)):
        for one in (starter, there):
            del one.params["hidden_dim"]
        said, _ = guide(made, [starter, there], LATE, 2, room=Short([None]))
        assert "hidden_dim" not in said


def test_where_few_have_room_they_are_drawn_in_the_shape_that_is_ahead_and_never_whole() -> None:
    """A step that has passed the best before its end says enough; until then another step is tried, and nothing drawn."""
    best, step, short = trial(12, 0.5, hidden=32), trial(13, None, hidden=64, step=True, source=12), Short([32])
    number = 6 * WHOLE_EVERY
    assert guide(MADE, [best, step], number, 1, room=short) == ({**best.params, "batch_size": 16}, 12)
    step.intermediate_values = {1: 0.4, 2: 0.49}
    assert guide(MADE, [best, step], number, 1, room=short) == ({**best.params, "batch_size": 16}, 12)
    step.intermediate_values[3] = 0.51
    assert guide(MADE, [best, step], number, 1, room=short) == ({"hidden_dim": 64, "batch_size": 8}, None)
    assert guide(MADE, [best, step], number, 1) == ({}, None)
    assert guide(MADE, [best, step], LATE, 1) == ({"hidden_dim": 32, "batch_size": 8}, None)


def test_beside_the_steps_trials_are_drawn_in_the_shape_of_the_best() -> None:
    """While as many steps run as may; one in eight is drawn whole."""
    trials = [trial(12, 0.5, hidden=32), trial(13, None, hidden=64, step=True, source=12)]
    assert guide(MADE, trials, LATE, 1) == ({"hidden_dim": 32, "batch_size": 8}, None)
    assert guide(MADE, trials, 6 * WHOLE_EVERY, 1) == ({}, None)
    assert guide(MADE, trials, LATE, 2)[1] == 12


def test_the_best_is_above_the_floors() -> None:
    """And has ended; a random sampler is not guided."""
    assert feasible([trial(0, 0.9, floor=0.1), trial(1, 0.4), trial(2, None)])
    assert feasible([trial(0, 0.9, floor=0.1), trial(1, 0.4), trial(2, 0.4)])[0].number == 1
    assert not feasible([trial(0, 0.9, floor=0.1), trial(2, None)])
    drawn = definition(search=SPACE, fixed={}, baselines=[], budget={"trials": 40, "epochs": 3}, sampler="random")
    assert guide(drawn, [trial(1, 0.4)], LATE, 2) == ({}, None)


def test_of_equals_the_best_is_the_one_with_the_best_round_trip() -> None:
    """It decides where the value does not, and then the earlier."""
    sound = [trial(0, 0.9, floor=-0.2), trial(1, 0.9, floor=-0.5), trial(2, 0.9, floor=-0.5), trial(3, 0.8, floor=-0.9)]
    assert feasible(sound)[0].number == 1


def test_a_start_must_be_one_of_the_choices() -> None:
    """What was given, what is allowed."""
    with pytest.raises(DefinitionError, match=r"hidden_dim: start = 48 is none of the choices; allowed: 64, 16, 32"):
        definition(search={**SPACE, "hidden_dim": {"choices": [64, 16, 32], "start": 48}}, fixed={})


def test_a_search_starts_small_climbs_and_leaves_the_baselines_for_later(tmp_path: Path) -> None:
    """The scripted trainer likes high rates whatever the shape: the start is of one shape and all at once, every shape beside it is tried
    with the best rate known, and the baselines begin together when two thirds of the budget are spent."""
    notes = [{"name": f"notes {n}", "lr": 1e-4, "hidden_dim": 64, "num_rules": 4, "batch_size": 8} for n in range(3)]
    content = {"search": SPACE, "fixed": {"loss_weights.parse": 1.0}, "baselines": notes, "budget": {"trials": 40, "epochs": 3}}
    study, trainers, _ = scripted(tmp_path, definition(**content, pruning={}), 4)
    trials = study.get_trials()
    assert planned(definition_of(study)) == 10
    assert {t.params["hidden_dim"] for t in trials[3:13]} == {16}
    assert len({t.params["lr"] for t in trials[3:13]}) == 10
    began = sorted(trials, key=lambda t: t.datetime_start)
    assert len(trainers[0].slots) + len(trainers[1].slots) <= 10 == max(trainers[0].widths) + max(trainers[1].widths)
    assert [began.index(trials[n]) for n in range(3)] == [27, 28, 29], [t.number for t in began]
    steps = [t for t in trials if STEP in t.user_attrs]
    assert steps
    for step in steps:
        source = trials[step.user_attrs[STEP]]
        assert sum(step.params[name] != source.params[name] for name in SPACE) == 1
        assert step.params["lr"] == source.params["lr"]
