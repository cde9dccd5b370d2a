"""What the minutes of a search have room for: fewer first trials, fewer at once near the end, baselines that end or do not begin."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState

from model.config import ModelShape
from tests.tuner.scripted import ScriptedTrainer, Step, scripted
from tests.tuner.test_climb import SPACE
from tests.tuner.test_search import definition
from tuner.arrays import work
from tuner.climb import STARTERS
from tuner.definition import Budget
from tuner.observer import Observer
from tuner.pace import Pace

NOTES = [{"name": f"notes {n}", "lr": 1e-4, "hidden_dim": 64, "num_rules": 4, "batch_size": 8} for n in range(3)]
CHEAP = work(ModelShape(hidden_dim=16), 1)
GOING = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 9)), max_size=6)


def pace(minutes: float = 10, lanes: int = 2, shared: bool = True) -> Pace:
    """Of trials of four epochs."""
    return Pace(Budget(trials=100, epochs=4, minutes=minutes), lanes, shared=shared)


def test_a_trial_ends_if_its_lane_and_all_lanes_have_the_time() -> None:
    """A round of four trials that cost 3 took 6 seconds of two cores, so one costs a core a second: 4 epochs at 5 are 20 seconds."""
    known = pace()
    known.measured([3, 3, 3, 3], 6.0)
    assert known.ends(5, [], 20.0)
    assert not known.ends(5, [], 19.9)
    assert known.ends(5, [(10, 2)], 20.0)
    assert not known.ends(5, [(10, 2), (1, 1)], 20.0)
    assert known.starters(3) == 25
    assert known.starters(300) == 2
    known.measured([4], 8.0)
    assert known.ends(5, [], 40.0)
    assert not known.ends(5, [], 39.0)


def test_nothing_is_said_before_a_round_without_minutes_or_on_a_gpu() -> None:
    """Then everything may begin."""
    assert pace().ends(5, [], 0.0)
    for free in (pace(minutes=0), pace(shared=False)):
        free.measured([3], 6.0)
        assert not free.limits
        assert free.ends(5, [], 0.0)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.floats(0.1, 100), st.integers(1, 50), GOING, st.floats(0, 1000))
def test_more_beside_it_or_less_time_never_lets_a_trial_end(costs: list[int], seconds: float, cost: int, going: Any, left: float) -> None:
    """And twice the time is enough for what needs it."""
    known = pace()
    known.measured(costs, seconds)
    if known.ends(cost, going, left):
        assert known.ends(cost, going[1:], left)
        assert known.ends(cost, going, 2 * left)
        assert known.ends(max(1, cost // 2), going, left)


class Timed(ScriptedTrainer):
    """An epoch of a trial at hidden 16 takes a second of the clock, a larger one as much longer as is reckoned with."""

    now = 0.0

    def train_epoch(self) -> list[Step | None]:
        """The clock goes on."""
        Timed.now += len(self.slots) * work(self.shape, 1) / CHEAP
        return super().train_epoch()


class Heard(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def noticed(self, line: str) -> None:
        """One line more."""
        self.told.append(line)


def searched(folder: Path, monkeypatch: pytest.MonkeyPatch, minutes: float, **changes: Any) -> tuple[optuna.Study, list[str]]:
    """A search of four at once, and what it said."""
    monkeypatch.setattr(Timed, "now", 0.0)
    content = {"search": SPACE, "fixed": {"loss_weights.parse": 1.0}, "baselines": NOTES, "pruning": {}, **changes}
    made, heard = definition(**content, budget={"trials": 1000, "epochs": 3, "minutes": minutes}), Heard()
    study, _, _ = scripted(folder, made, 4, Timed, heard, clock=lambda: Timed.now)
    return study, heard.told


def states(trials: list[FrozenTrial], state: TrialState) -> int:
    """How many there are in it."""
    return sum(trial.state == state for trial in trials)


def test_in_two_minutes_all_baselines_end_and_little_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten starters have room in a quarter; the baselines begin when 80 seconds are over; at the end one trial is left, not four."""
    study, told = searched(tmp_path, monkeypatch, 2.0)
    trials = study.get_trials()
    assert study.user_attrs[STARTERS] == 10
    assert {t.params["hidden_dim"] for t in trials[3:13]} == {16}
    assert [t.state for t in trials[:3]] == [TrialState.COMPLETE] * 3
    assert states(trials, TrialState.RUNNING) <= 1
    assert not told


def test_in_a_quarter_of_a_minute_the_start_is_short_and_no_baseline_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four cheap trials take 12 seconds, a baseline 4.2: it is said that they are left to the confirmation."""
    study, told = searched(tmp_path, monkeypatch, 0.23)
    trials = study.get_trials()
    assert study.user_attrs[STARTERS] == 4
    assert [t.state for t in trials[:3]] == [TrialState.WAITING] * 3
    assert states(trials, TrialState.COMPLETE) == 4
    assert states(trials, TrialState.RUNNING) == 1
    assert told == ["the minutes have no room for 'notes 0', 'notes 1', 'notes 2' any more; tuner confirm trains all baselines"]


def test_as_many_baselines_begin_as_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six of 18 seconds are left when the start has ended: one of 4.2 has room."""
    study, told = searched(tmp_path, monkeypatch, 0.3)
    assert [t.state for t in study.get_trials()[:3]] == [TrialState.COMPLETE, TrialState.WAITING, TrialState.WAITING]
    assert told == ["the minutes have no room for 'notes 1', 'notes 2' any more; tuner confirm trains all baselines"]
