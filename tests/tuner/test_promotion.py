"""At which rate what was cheap is tried in a larger model."""

import math
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from tests.tuner.test_climb import MADE, SPACE
from tests.tuner.test_search import definition
from tuner.promotion import STEP, Start, peak

RATES = st.lists(st.integers(-90, -40).map(lambda tenth: tenth / 10), min_size=3, max_size=12, unique=True)


@given(RATES, st.floats(-10.0, -3.0), st.floats(0.01, 10.0), st.floats(-1.0, 1.0))
def test_the_peak_of_a_parabola_is_found_and_lies_within_the_rates(logs: list[float], where: float, bend: float, height: float) -> None:
    """Whatever it is like, and whatever the order of the trials."""
    found = peak([(math.exp(log), height - bend * (log - where) ** 2) for log in logs])
    assert found is not None
    assert math.log(found) == pytest.approx(np.clip(where, min(logs), max(logs)), abs=1e-3)


def test_without_a_peak_there_is_none() -> None:
    """Two rates, a line, levels that rise to both sides."""
    assert peak([]) is None
    assert peak([(1e-3, 0.5), (2e-3, 0.6), (2e-3, 0.4)]) is None
    assert peak([(1e-3, 0.6), (2e-3, 0.4), (4e-3, 0.7)]) is None
    assert peak([(1e-3, 0.4), (2e-3, 0.5), (4e-3, 0.6)]) is None, "a line"
    assert peak([(1e-3, 0.4), (2e-3, 0.4), (3e-3, 0.4), (7e-3, 0.4)]) is None, "all as good"
    assert peak([(0.0, 0.9), (1e-3, 0.6), (2e-3, 0.4)]) is None, "a rate of nothing has no logarithm"


def starter(number: int, level: float, **params: Any) -> optuna.trial.FrozenTrial:
    """One that was stopped at its second epoch."""
    given = {"lr": 1e-3, "hidden_dim": 16, "num_rules": 2, "batch_size": 8, **params}
    made = optuna.trial.create_trial(
        state=TrialState.PRUNED, params=given, distributions=MADE.distributions(), intermediate_values={1: 0.1, 2: level}
    )
    made.number = number
    return made


def test_a_larger_one_is_tried_where_the_levels_peak_times_the_root_of_the_sizes_ratio() -> None:
    """Whichever of them it is; within the range that is searched; without a peak the best one's rate counts."""
    three = [starter(0, 0.9, lr=1e-3), starter(1, 0.9, lr=2e-3), starter(2, 0.7, lr=4e-3)]
    start = Start(MADE, three, range(3), 2)
    assert [start.enlarged(one, 64) for one in three] == [{**three[0].params, "hidden_dim": 64, "lr": 7.07e-4}] * 3
    assert Start(MADE, three[:2], range(3), 2).enlarged(three[1], 64)["lr"] == 5e-4
    assert Start(MADE, [], range(3), 2).enlarged(starter(3, 0.9, lr=1.1e-4), 64)["lr"] == 1e-4


def test_rates_of_other_sizes_say_nothing() -> None:
    """A start whose sizes were drawn."""
    mixed = [starter(0, 0.9, lr=1e-3, hidden_dim=32), starter(1, 0.8, lr=3e-4), starter(2, 0.7, lr=5e-4), starter(3, 0.6, lr=2e-3)]
    assert Start(MADE, mixed, range(4), 2).enlarged(mixed[1], 64)["lr"] == 1.5e-4


def test_none_is_promoted_twice() -> None:
    """Two that differ in their rates alone are the same in a larger size."""
    two = [starter(0, 0.9, lr=1e-3), starter(1, 0.8, lr=2e-3), starter(2, 0.7, lr=2e-3, num_rules=4)]
    shape, trials, found = {"hidden_dim": 64, "batch_size": 8}, list(two), []
    while (promoted := Start(MADE, trials, range(3), 2).promoted(shape)) is not None:
        larger = starter(10 + len(found), 0.1, **promoted[0])
        larger.user_attrs[STEP] = promoted[1]
        trials.append(larger)
        found.append(promoted[1])
    assert found == [0, 2]


@pytest.mark.parametrize("rate", [None, {"choices": [1e-3, 2e-3]}])
def test_a_rate_that_is_not_searched_in_a_range_stays(rate: dict[str, Any] | None) -> None:
    """Fixed, or one of a few."""
    space = {name: one for name, one in {**SPACE, "lr": rate}.items() if one is not None}
    made = definition(search=space, fixed={}, baselines=[], budget={"trials": 40, "epochs": 3})
    cheap = starter(0, 0.9)
    assert Start(made, [cheap], range(1), 2).enlarged(cheap, 64) == {**cheap.params, "hidden_dim": 64}


def test_where_a_rung_compares_them_what_came_to_grief_is_not_among_them() -> None:
    """Nor what never came so far; whether it has ended does not matter."""
    trials = [starter(0, 0.5), starter(1, 0.7), starter(2, 0.6), starter(3, math.nan), starter(9, 0.9)]
    trials[2].user_attrs["verdict"] = {"cause": "exploded"}
    assert [trial.number for trial in Start(MADE, trials, range(4), 2).ranked] == [1, 0]
    assert Start(MADE, trials, range(4), 3).ranked == []
