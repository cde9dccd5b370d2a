"""At which rate what was cheap is tried in a larger model."""

import math
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from tests.tuner.test_climb import MADE, SPACE
from tests.tuner.test_search import definition
from tuner.definition import StudyDefinition
from tuner.promotion import STEP, Start
from tuner.space import Numbers


def starter(number: int, level: float, of: StudyDefinition = MADE, **params: Any) -> optuna.trial.FrozenTrial:
    """One that was stopped at its second epoch."""
    given = {"lr": 1e-3, "hidden_dim": 16, "num_rules": 2, "batch_size": 8, **params}
    made = optuna.trial.create_trial(
        state=TrialState.PRUNED, params=given, distributions=of.distributions(), intermediate_values={1: 0.1, 2: level}
    )
    made.number = number
    return made


def test_a_larger_one_is_tried_at_the_rate_of_the_best_which_falls_with_the_size() -> None:
    """Whichever of them it is: by the cube root of the ratio of the sizes; within the range that is searched."""
    three = [starter(0, 0.7, lr=5e-4), starter(1, 0.9, lr=1e-3), starter(2, 0.8, lr=2e-3)]
    start = Start(MADE, three, range(3), 2)
    for one in three:
        assert start.enlarged(one, {"hidden_dim": 64}) == {**one.params, "hidden_dim": 64, "lr": pytest.approx(1e-3 / 4 ** (1 / 3))}
        assert start.enlarged(one, {"hidden_dim": 32}) == {**one.params, "hidden_dim": 32, "lr": pytest.approx(1e-3 / 2 ** (1 / 3))}
    assert Start(MADE, [], range(3), 2).enlarged(starter(3, 0.9, lr=1.1e-4), {"hidden_dim": 64})["lr"] == 1e-4


def test_where_larger_ones_are_compared_early_each_has_its_own_rate_until_one_has_ended() -> None:
    """Then that of the best of those that have ended in this size; of other sizes, as before."""
    two = [starter(0, 0.7, lr=5e-4), starter(1, 0.9, lr=1e-3)]
    start = Start(MADE, two, range(2), 2, compares=True)
    assert [start.enlarged(one, {"hidden_dim": 64})["lr"] for one in two] == [pytest.approx(rate / 4 ** (1 / 3)) for rate in (5e-4, 1e-3)]
    steps = [ended(2, 0.8, 1.1e-3), ended(3, 0.85, 1.7e-3), ended(4, 0.9, 2e-3, step=False), ended(5, 0.95, 3e-3, hidden=32)]
    later = Start(MADE, [*two, *steps], range(2), 2, compares=True)
    assert [later.enlarged(one, {"hidden_dim": 64})["lr"] for one in two] == [1.7e-3] * 2
    assert later.enlarged(two[0], {"hidden_dim": 32})["lr"] == 3e-3


def test_the_rate_rises_with_the_root_of_the_batch() -> None:
    """Where a larger one is taken, and back where a shape is given that has the old one; also from what has ended in this size."""
    space = {**SPACE, "batch_size": {"choices": [8, 16], "start": 8}}
    made = definition(search=space, fixed={"loss_weights.parse": 1.0}, baselines=[], budget={"trials": 40, "epochs": 3}, pruning={})
    one = starter(0, 0.9, made, lr=1e-3)
    start = Start(made, [one], range(1), 2, sentences=10_000)
    grown = {**one.params, "hidden_dim": 64, "batch_size": 16, "lr": pytest.approx(2**0.5 * 1e-3 / 4 ** (1 / 3))}
    assert start.enlarged(one, {"hidden_dim": 64}) == grown
    assert start.enlarged(one, {"hidden_dim": 64, "batch_size": 8})["lr"] == pytest.approx(1e-3 / 4 ** (1 / 3))
    assert start.promoted({"hidden_dim": 64, "batch_size": 8}) == (start.enlarged(one, {"hidden_dim": 64, "batch_size": 8}), 0)
    later = Start(made, [one, ended(2, 0.8, 1e-3)], range(1), 2, sentences=10_000, compares=True)
    assert later.enlarged(one, {"hidden_dim": 64})["lr"] == pytest.approx(2**0.5 * 1e-3)
    assert Start(made, [], range(1), 2, sentences=10_000).enlarged(starter(0, 0.9, made, lr=4e-3), {"hidden_dim": 32})["lr"] == 4e-3


@pytest.mark.parametrize(("rate", "tried"), [(1.5e-4, 1e-3 / 40 ** (1 / 4)), (3.9e-3, 1e-3 * 40 ** (1 / 4)), (2e-3, 2e-3)])
def test_a_rate_of_its_own_is_no_further_from_the_bests_than_starters_are_apart(rate: float, tried: float) -> None:
    """Four cut the range, whose ends are 40 times apart, into four parts by its logarithm."""
    four = [starter(number, 0.9 - number / 10, lr=own) for number, own in enumerate((1e-3, rate, 1e-4, 5e-4))]
    start = Start(MADE, four, range(4), 2, compares=True)
    assert start.enlarged(four[1], {"hidden_dim": 64})["lr"] == pytest.approx(tried / 4 ** (1 / 3))


@given(
    low=st.floats(1e-6, 1.0), share=st.floats(1.5, 1e6), parts=st.integers(1, 20), log=st.booleans(), at=st.tuples(*[st.floats(0, 1)] * 2)
)
def test_what_is_moved_near_another_lies_between_them(low: float, share: float, parts: int, log: bool, at: tuple[float, float]) -> None:
    """No further from it than a part is wide: the value itself if it is as near."""
    space = Numbers(low=low, high=low * share, log=log)
    other, value = map(space.at, at)
    moved = space.near(value, other, parts)
    assert min(other, value) <= moved <= max(other, value)
    width = math.log(moved / other) / math.log(share) if log else (moved - other) / (low * share - low)
    assert abs(width) <= 1 / parts + 1e-6
    assert moved == value or abs(width) == pytest.approx(1 / parts)


def test_the_bests_rate_is_that_of_its_own_batch() -> None:
    """Where the batch is drawn, those of two starters may differ."""
    best, other = starter(0, 0.9, lr=2e-3, batch_size=16), starter(1, 0.8, lr=1e-3, batch_size=8)
    start = Start(MADE, [best, other], range(2), 2)
    assert start.enlarged(other, {"hidden_dim": 64, "batch_size": 16})["lr"] == pytest.approx(2e-3 / 4 ** (1 / 3))
    assert start.enlarged(other, {"hidden_dim": 64})["lr"] == pytest.approx(2e-3 / 4 ** (1 / 3) / 2**0.5)
    low = starter(1, 0.8, lr=1.5e-4, batch_size=8)
    compared = Start(MADE, [best, low], range(2), 2, compares=True).enlarged(low, {"hidden_dim": 64})
    assert compared["lr"] == pytest.approx(2e-3 / 2**0.5 / 40**0.5 / 4 ** (1 / 3))


def test_two_that_differ_in_their_rates_alone_are_both_tried_though_one_is_too_far() -> None:
    """Brought near the best's their rates would be the same, and one lane would have nothing to compare."""
    three = [starter(number, 0.9 - number / 10, lr=rate) for number, rate in enumerate((4e-3, 5e-4, 1e-4))]
    trials, rates = list(three), list[float]()
    for _ in three:
        found = Start(MADE, trials, range(3), 2, compares=True).promoted({"hidden_dim": 64})
        assert found is not None
        assert found.step_from is not None
        trials.append(under_way(len(trials), found.params, found.step_from))
        rates.append(found.params["lr"] * 4 ** (1 / 3))
    assert rates == [pytest.approx(rate) for rate in (4e-3, 4e-3 / 40 ** (1 / 3), 1e-4 * 4 ** (1 / 3))]


def under_way(number: int, params: dict[str, Any], source: int) -> optuna.trial.FrozenTrial:
    """A step that has no curve yet."""
    made = optuna.trial.create_trial(state=TrialState.RUNNING, params=params, distributions=MADE.distributions(), user_attrs={STEP: source})
    made.number = number
    return made


def ended(number: int, value: float, rate: float, *, hidden: int = 64, step: bool = True) -> optuna.trial.FrozenTrial:
    """A larger one that has run its epochs."""
    made = optuna.trial.create_trial(
        value=value,
        params={"lr": rate, "hidden_dim": hidden, "num_rules": 2, "batch_size": 8},
        distributions=MADE.distributions(),
        user_attrs={STEP: 1} if step else {},
        intermediate_values={1: 0.1, 2: value},
    )
    made.number = number
    return made


def test_rates_of_other_sizes_say_nothing() -> None:
    """A start whose sizes were drawn."""
    mixed = [starter(0, 0.9, lr=1e-3, hidden_dim=32), starter(1, 0.8, lr=3e-4), starter(2, 0.7, lr=5e-4), starter(3, 0.6, lr=2e-3)]
    assert Start(MADE, mixed, range(4), 2).enlarged(mixed[1], {"hidden_dim": 64})["lr"] == pytest.approx(3e-4 / 4 ** (1 / 3))


@pytest.mark.parametrize(
    ("own", "epochs", "sentences", "batch"), [(8, 3, 5334, 16), (8, 3, 5333, 8), (8, 4, 4000, 16), (8, 3, 0, 8), (32, 3, 90000, 32)]
)
def test_a_larger_one_takes_the_next_larger_batch_if_a_thousand_steps_are_left(own: int, epochs: int, sentences: int, batch: int) -> None:
    """Where the space names a cheap one; not where the number of sentences is not known, or there is none larger."""
    for start, there in ({"start": 8}, batch), ({}, own):
        space = {**SPACE, "batch_size": {"choices": [32, 8, 16], **start}}
        made = definition(search=space, fixed={}, baselines=[], budget={"trials": 40, "epochs": epochs})
        cheap = starter(0, 0.9, made, batch_size=own)
        assert Start(made, [cheap], range(1), 2, sentences).enlarged(cheap, {"hidden_dim": 64})["batch_size"] == there


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
    assert Start(made, [cheap], range(1), 2).enlarged(cheap, {"hidden_dim": 64}) == {**cheap.params, "hidden_dim": 64}


def test_where_a_rung_compares_them_what_came_to_grief_is_not_among_them() -> None:
    """Nor what never came so far; whether it has ended does not matter."""
    trials = [starter(0, 0.5), starter(1, 0.7), starter(2, 0.6), starter(3, math.nan), starter(9, 0.9)]
    trials[2].user_attrs["verdict"] = {"cause": "exploded"}
    assert [trial.number for trial in Start(MADE, trials, range(4), 2).ranked] == [1, 0]
    assert Start(MADE, trials, range(4), 3).ranked == []
