"""What the minutes of a search have room for: fewer first trials, fewer at once near the end, baselines that end or do not begin."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import optuna
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from model.config import Hyperparameters, ModelShape
from tests.tuner.scripted import ScriptedTrainer, Step, scripted
from tests.tuner.test_climb import SPACE
from tests.tuner.test_failures import Listener
from tests.tuner.test_lanes import TWO_SHAPES, arrays_of, put
from tests.tuner.test_search import definition
from tuner.admission import Admission
from tuner.arrays import Arrays
from tuner.definition import Budget
from tuner.pace import FEW, Pace, lane_work, sooner_together, work
from tuner.promotion import STEP
from tuner.search import Search
from tuner.starters import GOING_ON, RUNG, STARTERS
from tuner.study import FIXED

EVEN = {name: space for name, space in SPACE.items() if name != "batch_size"}
NOTES = [{"name": f"notes {n}", "lr": 1e-4, "hidden_dim": 64, "num_rules": 4} for n in range(3)]
SMALL, LARGE = (ModelShape(hidden_dim=hidden, batch_size=16) for hidden in (16, 64))
CHEAP = work(SMALL, 1)
LENIENT = {"halving": {"keep_first": 1.0, "keep_last": 1.0}}
SHAPES = st.sampled_from([SMALL, LARGE])
BESIDE = st.lists(st.tuples(SHAPES, st.integers(0, 9)), max_size=6)


def pace(minutes: float = 10, lanes: int = 2, shared: bool = True, at_budget: Literal["finish", "store"] = "store") -> Pace:
    """Of trials of four epochs."""
    return Pace(Budget(trials=100, epochs=4, minutes=minutes, at_budget=at_budget), lanes, shared=shared)


def test_a_trial_ends_if_its_lane_has_the_time() -> None:
    """Four side by side took as many seconds as their work is counted, so that is what all others take."""
    known, one = pace(), work(LARGE, 1)
    known.measured([SMALL] * 4, work(SMALL, 4))
    assert known.ends(LARGE, [], 4 * one)
    assert not known.ends(LARGE, [], 4 * one - 1)
    pair = 2 * work(LARGE, 2) + 2 * one  # the one beside it ends after two epochs
    assert known.ends(LARGE, [(LARGE, 2)], pair)
    assert not known.ends(LARGE, [(LARGE, 2)], pair - 1)
    assert known.ends(LARGE, [(SMALL, 6)], 4 * one + 6 * CHEAP)
    assert not known.ends(LARGE, [(SMALL, 6)], 4 * one + 6 * CHEAP - 1)
    known.measured([LARGE], one / 2)
    assert known.ends(LARGE, [], 2 * one)


def test_as_many_begin_in_each_lane_as_have_room_in_a_quarter() -> None:
    """Of ten minutes that is 150 seconds: two trials of 100 have it, for fused they take less than twice as long; one in any case. Where
    all but the best are stopped at their first epoch of 25 seconds it is 50."""
    known = pace()
    known.measured([SMALL], 25.0)
    assert known.starters(SMALL, 10) == 4
    assert known.starters(SMALL, 3) == 3
    assert [known.starters(SMALL, 10, rung=rung) for rung in (1, 2, 3)] == [6, 2, 2]
    assert known.starters(LARGE, 10) == 2
    known.measured([SMALL], 3700.0)
    assert known.starters(SMALL, 10) == 2
    known.measured([SMALL], 0.01)
    assert known.starters(SMALL, 10) == 10


def test_nothing_is_said_before_it_is_measured_without_minutes_on_a_gpu_or_where_trials_finish() -> None:
    """Then everything may begin."""
    assert pace().ends(SMALL, [], 0.0)
    for free in (pace(minutes=0), pace(shared=False), pace(at_budget="finish")):
        free.measured([SMALL], 6.0)
        assert free.ends(SMALL, [], 0.0)


def test_the_minutes_cut_off_what_would_not_end_though_it_takes_no_more_than_is_asked() -> None:
    """Four epochs at hidden 64 take three minutes; alone they have both cores. One epoch that was slow says nothing."""
    known, finishing = pace(), pace(at_budget="finish")
    assert not known.cut_off(LARGE, 0.0, 600.0, alone=False)
    for each in (known, finishing):
        each.measured([LARGE], 45.0)
    assert [known.cut_off(LARGE, left, 200.0, alone=False) for left in (180.0, 179.0, 0.0)] == [False, True, True]
    assert [known.cut_off(LARGE, left, 200.0, alone=True) for left in (135.0, 134.0)] == [False, True]
    assert not known.cut_off(LARGE, 0.0, 179.0, alone=False)
    assert known.cut_off(SMALL, 0.0, 179.0, alone=False)
    assert not finishing.cut_off(LARGE, 0.0, 600.0, alone=False)
    known.measured([LARGE], 90.0)
    assert not known.cut_off(LARGE, 180.0, 600.0, alone=False)
    one_lane = pace(lanes=1)
    one_lane.measured([LARGE], 45.0)
    assert one_lane.cut_off(LARGE, 179.0, 600.0, alone=True)


def test_it_is_too_late_for_what_takes_no_more_than_a_third_of_the_run() -> None:
    """Of twelve seconds a trial of four takes no more; a longer one goes on from run to run. With both cores it has a third more time."""
    arrays = arrays_of(8)
    put(arrays, 0, 64)
    there, large = arrays.of_lane(0), {"hidden_dim": 64}
    for run, late in ((11.9, False), (12.1, True)):
        admission = within(run, arrays)
        admission._allowance.left = 3.5
        assert not admission.lets_begin(1, {0: there}, ())
        assert (admission.cut_off(large), admission.too_late(large)) == (True, late)
        assert admission.lets_begin(1, {}, ())
        assert not admission.cut_off(large)
        assert not admission.too_late(large)
        admission._allowance.left = 2.9
        assert admission.too_late(large) == late
        assert admission.too_late({}) == late, "what is not named is as small as can be"
        assert not admission.too_late({"hidden_dim": 128}), "it takes more than a third"


@given(st.lists(SHAPES, min_size=1, max_size=6), st.floats(0.1, 100), SHAPES, BESIDE, st.floats(0, 1000))
def test_what_is_said_to_end_would(shapes: list[ModelShape], seconds: float, shape: ModelShape, beside: Any, left: float) -> None:
    """Epoch by epoch; and less beside it, more time or a smaller model never takes that back."""
    known = pace()
    known.measured(shapes, seconds)
    if known.ends(shape, beside, left):
        assert known.ends(shape, beside[1:], left)
        assert known.ends(shape, beside, 2 * left)
        assert known.ends(SMALL, [(SMALL, epochs) for _, epochs in beside], left)
        trials = [*beside, (shape, 4)]
        epochs = [[one for one, to_go in trials if to_go > past] for past in range(max(to_go for _, to_go in trials))]
        assert sum(map(lane_work, epochs)) * seconds / lane_work(shapes) <= left * (1 + 1e-9)


@given(st.builds(ModelShape, hidden_dim=st.sampled_from([16, 32, 64, 128]), batch_size=st.sampled_from([8, 16, 32, 64])), st.integers(1, 9))
def test_together_is_sooner_where_the_mean_end_is(shape: ModelShape, others: int) -> None:
    """All end late beside each other; the others earlier, and one very late, if it begins when they have ended."""
    apart = [lane_work([shape] * others)] * others + [lane_work([shape] * others) + lane_work([shape])]
    assert sooner_together(shape, others) == (lane_work([shape] * (others + 1)) * (others + 1) < sum(apart))


def test_where_few_trials_have_room_one_more_waits_unless_all_end_sooner() -> None:
    """A trial of four epochs at hidden 64 takes four seconds alone; two at hidden 16 side by side end sooner than one after the other."""
    known = pace()
    assert known.together(LARGE, 1, 0.0)
    known.measured([LARGE], 1.0)
    assert known.together(LARGE, 1, 4 * FEW)
    assert not known.together(LARGE, 1, 4 * FEW - 0.01)
    assert known.together(SMALL, 1, 0.01)
    finishing = pace(at_budget="finish")
    finishing.measured([LARGE], 1.0)
    assert finishing.together(LARGE, 1, 0.0)


def test_lanes_lend_where_minutes_count_until_it_does_not_help() -> None:
    """Never without a limit of minutes, nor with one lane. What an epoch takes with more cores says nothing of those with one."""
    assert [free.lends for free in (pace(), pace(minutes=0), pace(shared=False), pace(lanes=1))] == [True, False, False, False]
    known, one = pace(), work(LARGE, 1)
    known.measured([LARGE], one)
    known.measured([LARGE], 0.6 * one, lent=True)
    assert known.lends
    assert known.ends(LARGE, [], 4 * one)
    assert not known.ends(LARGE, [], 4 * one - 1)
    for seconds in (2.0, 0.6, 2.0):
        known.measured([LARGE], seconds * one, lent=True)
        assert known.lends, "one slow epoch may be the machine's"
    known.measured([LARGE], 1.0 * one, lent=True)
    known.measured([LARGE], 0.6 * one, lent=True)
    assert not known.lends


@pytest.mark.parametrize(("left", "lets"), [(4.0, True), (3.9, False), (2.0, False), (1.9, False)])
def test_an_empty_lane_lends_its_core_to_what_would_not_end_in_time(left: float, lets: bool) -> None:
    """A trial of four seconds beside it; also where the seconds are too few in any case, for what begins would not end either."""
    arrays = arrays_of(8)
    put(arrays, 0, 64)
    admission = within(left, arrays)
    assert admission.lets_begin(1, {0: arrays.of_lane(0)}, ()) == lets
    arrays.closed = {0}  # in an epoch, after which three are left
    assert admission.lets_begin(1, {0: arrays.of_lane(0)}, ()) == (left > 3)


def test_what_cannot_be_helped_keeps_no_lane_empty() -> None:
    """Eight trials beside each other have four times as much to do as there is time for, and one more would end."""
    arrays = arrays_of(20)
    for number in range(8):
        assert put(arrays, number, 64) == number % 2
    one, eight = 4 * work(ModelShape(hidden_dim=64), 1), 4 * work(ModelShape(hidden_dim=64), 8)
    admission, there = within(4.0 * 1.1, arrays), arrays.running
    assert eight > 2 * 1.1 * one
    assert admission.lets_begin(1, {0: there}, ())
    assert not admission.lets_begin(1, {0: there[:1] * 2}, ()), "two of them have the time with both cores"


def within(left: float, arrays: Arrays) -> Admission:
    """With so many seconds left, where a trial of hidden 64 takes four."""
    made = definition(**TWO_SHAPES, budget={"trials": 100, "epochs": 4, "minutes": 10})
    allowance, study = SimpleNamespace(left=left, spent=lambda: False, share=lambda _: 0.9), SimpleNamespace(_study_id=0)
    storage: Any = SimpleNamespace(begun=lambda _: 50)
    admission = Admission(study, storage, made, allowance, arrays, 2, shared=True, notice=pytest.fail)  # type: ignore[arg-type]
    admission.measured(arrays.running[:1], 1.0)
    return admission


class Timed(ScriptedTrainer):
    """An epoch of a trial at hidden 16 takes a second of the clock, a larger one as much longer as is reckoned with."""

    now = 0.0
    seen: ClassVar[list[tuple[float, int, int]]] = []

    def train_epoch(self) -> list[Step | None]:
        """The clock goes on; when, how large and how many is noted."""
        Timed.seen.append((Timed.now, self.shape.hidden_dim, sum(slot is not None for slot in self.slots)))
        Timed.now += len(self.slots) * work(self.shape, 1) / CHEAP
        return super().train_epoch()

    def rehearse(self, steps: int) -> float:
        """A tenth of that."""
        return len(self.slots) * work(self.shape, 1) / CHEAP / self.steps_an_epoch


def searched(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    minutes: float,
    make: type[Timed] = Timed,
    began: float = 0.0,
    lanes: int = 1,
    search: Any = EVEN,
    pruning: Any = None,
    seed: int = 0,
    enqueue: Any = (),
    listener: Listener | None = None,
    width: int = 4,
    **budget: Any,
) -> tuple[optuna.Study, list[str]]:
    """A search of four at once, or as many as are said, and what it said, but that its minutes are used up or too few are left."""
    monkeypatch.setattr(Timed, "now", 0.0)
    monkeypatch.setattr(Timed, "seen", [])
    content: dict[str, Any] = {
        "search": search,
        "fixed": {"batch_size": 16, "loss_weights.parse": 1.0},
        "baselines": NOTES,
        "pruning": pruning or {},
    }
    content |= {"seed": seed, "enqueue": list(enqueue)}
    made, heard = definition(**content, budget={"trials": 1000, "epochs": 3, "minutes": minutes, **budget}), listener or Listener()
    study, _, _ = scripted(folder, made, width, make, heard, clock=lambda: Timed.now, began=began, lanes=lanes)
    ended = sum(trial.state.is_finished() for trial in study.get_trials())
    left = 60 * minutes - (Timed.now - began)
    few = f"the {math.ceil(left)} s left of {minutes:g} minutes are too few for another trial"
    over = f"{minutes:g} minutes are used up" if left <= 0 else few
    over += f", {ended} of {made.budget.trials} trials have ended; run it again to go on"
    assert [text for text in heard.told if "run it again" in text] == [over] * (ended < made.budget.trials)
    return study, [text for text in heard.told if "run it again" not in text]


def count(trials: list[FrozenTrial], state: TrialState) -> int:
    """How many there are in a state."""
    return sum(trial.state == state for trial in trials)


def test_in_two_minutes_all_baselines_end_and_little_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten starters have room in a quarter; the baselines begin when 80 seconds are over; at the end one trial is left, not four."""
    study, told = searched(tmp_path, monkeypatch, 2.0)
    trials = study.get_trials()
    assert STARTERS not in study.user_attrs
    assert {t.params["hidden_dim"] for t in trials[3:13]} == {16}
    assert [t.state for t in trials[:3]] == [TrialState.COMPLETE] * 3
    assert count(trials, TrialState.RUNNING) <= 1
    assert not told


def test_large_trials_train_beside_each_other_while_there_is_room_for_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At hidden 64 one takes 5.1 seconds: those that begin in the last 31 of two minutes do so alone, and all of half a minute."""
    large = {**EVEN, "hidden_dim": {"choices": [64]}}
    searched(tmp_path / "long", monkeypatch, 2.0, search=large)
    one = 3 * work(LARGE, 1) / CHEAP
    assert {slots for now, _, slots in Timed.seen if one < now < 120 - FEW * one} == {1, 4}
    assert {slots for now, _, slots in Timed.seen if now > 120 - FEW * one + 4 * one} == {1}  # four that began before have ended
    searched(tmp_path / "short", monkeypatch, 0.5, search=large)
    assert {slots for now, _, slots in Timed.seen if now > 4 * one} == {1}  # four begin before anything is measured


def test_in_a_quarter_of_a_minute_the_start_is_short_and_no_baseline_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cheap trial takes 3 of 13.8 seconds, a quarter has room for one, but four begin at once; a baseline of 5.1 would not end."""
    study, told = searched(tmp_path, monkeypatch, 0.23)
    trials = study.get_trials()
    assert study.user_attrs[STARTERS] == 4
    assert [t.state for t in trials[:3]] == [TrialState.WAITING] * 3
    assert count(trials, TrialState.RUNNING) <= 1
    assert told == ["the minutes had no room for 'notes 0', 'notes 1', 'notes 2'; tuner confirm trains all baselines"]


def test_what_begins_at_once_is_spread_like_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 21 seconds a quarter has room for two, but four begin beside each other: each has its own quarter of the range of rates."""
    study, _ = searched(tmp_path, monkeypatch, 0.35)
    assert study.user_attrs[STARTERS] == 4
    low, high = EVEN["lr"]["low"], EVEN["lr"]["high"]
    rates = [trial.params["lr"] for trial in study.get_trials()[len(NOTES) :][:4]]
    assert sorted(int(4 * math.log(rate / low) / math.log(high / low)) for rate in rates) == [0, 1, 2, 3]


def test_as_many_baselines_begin_as_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 36 seconds twelve are left when they may begin: not all three of 5.1 have room, and none is cut off."""
    study, told = searched(tmp_path, monkeypatch, 0.6)
    ends = [t.state for t in study.get_trials()[:3]]
    assert set(ends) == {TrialState.COMPLETE, TrialState.WAITING}
    assert len(told) == 1


def test_where_running_trials_are_finished_the_baselines_begin_in_any_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is cut off there."""
    study, told = searched(tmp_path, monkeypatch, 0.5, at_budget="finish")
    assert [t.state for t in study.get_trials()[:3]] == [TrialState.COMPLETE] * 3
    assert count(study.get_trials(), TrialState.RUNNING) == 0
    assert not told


def test_where_only_baselines_are_left_they_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they end or not: four others are all that the budget of seven trials has room for."""
    study, _ = searched(tmp_path, monkeypatch, 0.3, trials=7)
    trials = study.get_trials()
    assert len(trials) == 7
    assert TrialState.WAITING not in {trials[0].state, trials[1].state}


def test_minutes_are_counted_from_the_command_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run had spent before its first trial is gone: a minute less of two leaves one."""
    searched(tmp_path, monkeypatch, 2.0, began=-60.0)
    assert 57 <= Timed.now <= 64  # by the clock of the trials; an epoch under way is waited for


def test_a_run_in_which_nothing_began_leaves_nothing_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its minutes were over before its first trial: with more time the start is that of a new study."""

    class Slow(Timed):
        """What is timed before the first trial takes longer than the minutes."""

        def rehearse(self, steps: int) -> float:
            """The clock goes on."""
            Timed.now += 100
            return super().rehearse(steps)

    searched(tmp_path / "twice", monkeypatch, 0.8, Slow, lanes=2, pruning=LENIENT, trials=40)
    short, told = searched(tmp_path / "twice", monkeypatch, 0.8, lanes=2, pruning=LENIENT, trials=40, began=-100.0)
    assert "no trial had time to begin: give it more minutes (--timeout)" in told
    assert {trial.state for trial in short.get_trials()} == {TrialState.WAITING}
    twice, _ = searched(tmp_path / "twice", monkeypatch, 8.0, lanes=2, pruning=LENIENT, trials=40)
    once, _ = searched(tmp_path / "once", monkeypatch, 8.0, lanes=2, pruning=LENIENT, trials=40)
    assert [trial.params for trial in twice.get_trials()] == [trial.params for trial in once.get_trials()]
    assert [trial.state for trial in twice.get_trials()] == [trial.state for trial in once.get_trials()]


@pytest.mark.parametrize(("minutes", "sizes"), [(0.8, [64, 64]), (8.0, [32, 32])])
def test_where_few_have_room_the_two_best_are_tried_in_a_larger_size(
    minutes: float, sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One in each lane, when the start is over; with ten times as long a step up, and beside it something is drawn."""
    study, _ = searched(tmp_path, monkeypatch, minutes, lanes=2, trials=40)
    starting, trials = study.user_attrs.get(STARTERS, 10), study.get_trials()[len(NOTES) :]
    step, beside = trials[starting : starting + 2]
    assert [step.params["hidden_dim"], beside.params["hidden_dim"]] == sizes
    sources = [trials[trial.user_attrs[STEP] - len(NOTES)].params for trial in (step, beside) if STEP in trial.user_attrs]
    assert len(sources) == (2 if minutes < 1 else 1)
    assert all(source["hidden_dim"] == 16 for source in sources)
    assert len({source["lr"] for source in sources}) == len(sources)


class Helped(Timed):
    """Two cores take half as long, or three times as long beside another program. How good a large model is depends on its seed."""

    busy = False
    cores: ClassVar[list[tuple[int, int]]] = []

    def train_epoch(self) -> list[Step | None]:
        """How large and with how many cores is noted."""
        before, own = Timed.now, torch.get_num_threads()
        Helped.cores.append((self.shape.hidden_dim, own))
        found = super().train_epoch()
        for slot, step in zip(self.slots, found, strict=True):
            if slot is not None and step is not None and self.shape.hidden_dim > 16:
                step.objective = step.epoch * (1 + slot.hyperparameters.seed % 97) / 1000
        if own > 1:  # then nothing else trains
            Timed.now = before + (Timed.now - before) * (3.0 if Helped.busy else 1 / own)
        return found


@pytest.mark.parametrize(("seed", "better_first", "busy"), [(5, True, False), (0, False, False), (0, False, True)])
def test_where_very_few_have_room_two_larger_ones_begin_and_the_better_has_both_cores(
    seed: int, better_first: bool, busy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the start goes on. The other waits until the better has ended, or both cores are seen not to help; then it goes on."""
    monkeypatch.setattr(Helped, "busy", busy)
    monkeypatch.setattr(Helped, "cores", [])
    study, _ = searched(tmp_path, monkeypatch, 1.0, Helped, lanes=2, pruning=LENIENT, trials=40, epochs=6, seed=seed)
    trials = study.get_trials()
    assert (study.user_attrs[RUNG], study.user_attrs[GOING_ON]) == (2, 0)
    start = trials[len(NOTES) :][: study.user_attrs[STARTERS]]
    assert [trial.state for trial in start] == [TrialState.PRUNED] * len(start)
    assert all("go on in a larger model" in trial.user_attrs["verdict"]["reason"] for trial in start)
    larger = [trial for trial in trials if STEP in trial.user_attrs][:2]
    assert all(trial.params["hidden_dim"] == 64 and list(trial.intermediate_values) == [1, 2, 3, 4, 5, 6] for trial in larger)
    better, other = sorted(larger, key=lambda trial: -trial.intermediate_values[2])
    assert larger[1].datetime_start < better.datetime_complete < other.datetime_complete
    assert (better is larger[0]) == better_first
    assert [cores for hidden, cores in Helped.cores if hidden == 64][:8] == [1] * 4 + ([2] * 2 + [1] * 2 if busy else [2] * 4)


@pytest.mark.parametrize(("lanes", "enqueued"), [(4, False), (4, True), (3, True)])
def test_with_more_lanes_the_better_half_of_the_first_larger_ones_has_all_cores(
    lanes: int, enqueued: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the others waits once, and goes on; also where somebody's own trial has a lane meanwhile."""
    monkeypatch.setattr(Helped, "busy", False)
    monkeypatch.setattr(Helped, "cores", [])
    own = [{"name": "mine", "lr": 1e-3, "hidden_dim": 64, "num_rules": 4}] * enqueued
    more: dict[str, Any] = {"lanes": lanes, "pruning": LENIENT, "enqueue": own}
    study, told = searched(tmp_path, monkeypatch, 1.0, Helped, trials=40, epochs=6, **more)
    assert study.user_attrs[GOING_ON] == 0
    waited = [int(text.split()[1]) for text in told if "waits until a better one" in text]
    assert len(waited) == len(set(waited))
    if enqueued:  # it has a lane until some of the larger ones have ended
        return
    larger = [trial for trial in study.get_trials() if STEP in trial.user_attrs]
    levels = {trial.number: trial.intermediate_values[2] for trial in larger[:4]}
    assert waited == sorted(levels, key=lambda number: -levels[number])[2:]
    assert [cores for hidden, cores in Helped.cores if hidden == 64].count(2) >= 6


class Interrupted(Listener):
    """Breaks the search off in the epoch after a trial was set aside."""

    def epoch(self, search: Search) -> None:
        """Whatever the search is."""
        if any("waits until" in text for text in self.told):
            raise KeyboardInterrupt


def test_what_was_set_aside_waits_on_when_the_search_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The better one still has both cores, and ends before it."""
    monkeypatch.setattr(Helped, "busy", False)
    monkeypatch.setattr(Helped, "cores", [])
    more: dict[str, Any] = {"lanes": 2, "pruning": LENIENT, "trials": 40, "epochs": 6}
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path, monkeypatch, 1.0, Helped, listener=Interrupted(), **more)
    study, told = searched(tmp_path, monkeypatch, 1.0, Helped, **more)
    better, other = sorted((t for t in study.get_trials() if STEP in t.user_attrs), key=lambda trial: trial.number)[:2][::-1]
    assert better.intermediate_values[2] > other.intermediate_values[2]
    assert all(list(trial.intermediate_values) == [1, 2, 3, 4, 5, 6] for trial in (better, other))
    assert better.datetime_complete < other.datetime_complete
    assert not [text for text in told if "waits until" in text]
    assert [cores for hidden, cores in Helped.cores if hidden == 64][:8] == [1] * 4 + [2] * 4


def test_where_four_have_room_the_best_of_the_start_goes_on_and_nothing_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is small ends soon."""
    monkeypatch.setattr(Helped, "cores", [])
    study, _ = searched(tmp_path, monkeypatch, 2.0, Helped, lanes=2, pruning=LENIENT, trials=40, epochs=6)
    assert (study.user_attrs[RUNG], GOING_ON in study.user_attrs) == (2, False)
    assert count(study.get_trials()[len(NOTES) :][: study.user_attrs[STARTERS]], TrialState.COMPLETE) == 1
    first, second, *_ = (trial for trial in study.get_trials() if STEP in trial.user_attrs)
    assert second.datetime_start < first.datetime_complete


@pytest.mark.parametrize(("minutes", "lanes"), [(0.8, 2), (0.8, 1), (8.0, 2)])
def test_where_few_have_room_only_the_best_of_the_start_goes_on(
    minutes: float, lanes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as all have made a quarter of their epochs; the step from it begins in another lane, or when it has ended; with ten times as
    long all of them end."""
    study, _ = searched(tmp_path, monkeypatch, minutes, lanes=lanes, pruning=LENIENT, trials=40)
    starting, trials = study.user_attrs.get(STARTERS, 10), study.get_trials()[len(NOTES) :]
    start, step = trials[:starting], trials[starting]
    if minutes > 1:
        assert RUNG not in study.user_attrs
        assert all(trial.state == TrialState.COMPLETE for trial in start)
        return
    assert study.user_attrs[RUNG] == 1
    best = max(start, key=lambda trial: trial.intermediate_values[1])
    assert [trial.number for trial in start if trial.state == TrialState.COMPLETE] == [best.number]
    assert all("that began together were better" in trial.user_attrs["verdict"]["reason"] for trial in start if trial != best)
    assert (step.user_attrs[STEP], step.params["hidden_dim"]) == (best.number, 64)
    assert (step.datetime_start < best.datetime_complete) == (lanes == 2)


class Refusing(Timed):
    """Loads no trial with a rate at the lower end of its range, but the baselines."""

    def load(self, slot: int, hyperparameters: Hyperparameters) -> None:
        """Or says why not."""
        if 1.1e-4 < hyperparameters.lr < 3e-4:
            raise ValueError("too low for me")
        super().load(slot, hyperparameters)


def test_what_fails_of_a_start_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the others only the best goes on all the same."""
    study, _ = searched(tmp_path, monkeypatch, 0.8, Refusing, lanes=2, pruning=LENIENT)
    start = study.get_trials()[len(NOTES) :][: study.user_attrs[STARTERS]]
    assert count(start, TrialState.FAIL) >= 1
    assert count(start, TrialState.COMPLETE) == 1
    assert count(start, TrialState.PRUNED) >= 1


def test_beside_a_start_of_one_nothing_is_begun_that_it_would_show_to_be_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of seven trials one is a first one; the other lane's first is a step from it."""
    study, _ = searched(tmp_path, monkeypatch, 1.0, lanes=2, pruning=LENIENT, trials=7, epochs=6)
    assert study.user_attrs[STARTERS] == 1
    start, *later = [trial for trial in study.get_trials()[len(NOTES) :] if trial.state != TrialState.WAITING]
    assert start.params["hidden_dim"] == 16
    assert STEP in later[0].user_attrs
    assert later[0].params["hidden_dim"] > 16


class Long(Timed):
    """An epoch is of many steps."""

    @property
    def steps_an_epoch(self) -> int:
        """As of eight hundred stories."""
        return 580


@pytest.mark.parametrize(("make", "epochs", "rung"), [(Long, 12, 2), (Timed, 12, 3), (Long, 60, 4)])
def test_a_start_is_compared_after_so_many_steps_where_a_quarter_of_its_epochs_is_longer(
    make: type[Timed], epochs: int, rung: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs of 580, where a quarter would be three; never while the rate still rises, which takes a twentieth of sixty."""
    study, _ = searched(tmp_path, monkeypatch, epochs / 12, make, lanes=2, pruning=LENIENT, trials=40, epochs=epochs)
    assert study.user_attrs[RUNG] == rung


class Narrow(Timed):
    """An array has room for three."""

    def resize(self, keep: Any, slots: int) -> None:
        """No more."""
        if slots > 3:
            raise MemoryError("too many")
        super().resize(keep, slots)


def test_a_start_that_has_no_room_is_made_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten at once are too many, and so are five: the search goes on with two."""
    study, told = searched(tmp_path, monkeypatch, 2.0, Narrow)
    assert told == [f"no room for {n} more trials; from now on {n // 2} at once, the others wait" for n in (10, 5)]
    assert count(study.get_trials(), TrialState.COMPLETE) > 10


def test_a_run_that_goes_on_knows_how_fast_it_goes_and_has_no_other_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its first epoch; with more trials than before none of those that have begun since becomes one of the first."""
    timed: list[int] = []

    class Noted(Timed):
        def rehearse(self, steps: int) -> float:
            timed.append(steps)
            return super().rehearse(steps)

    options: dict[str, Any] = {"lanes": 2, "pruning": LENIENT}
    study, _ = searched(tmp_path, monkeypatch, 0.8, Noted, trials=24, **options)
    starters = study.user_attrs[STARTERS]
    assert 0 < starters <= 6, "a quarter of the trials at most"
    study, _ = searched(tmp_path, monkeypatch, 0.8, Noted, trials=80, **options)
    assert len(timed) == 2
    assert study.user_attrs[STARTERS] == starters


ONE_SIZE = {**EVEN, "hidden_dim": {"choices": [64]}}


@pytest.mark.parametrize(("minutes", "left"), [(0.65, True), (0.125, False)])
def test_what_would_not_end_does_not_begin_and_the_search_ends_sooner(
    minutes: float, left: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial takes 5.1 seconds. Of 39 the last ones are left; where a run has 7.5, the second goes on in the next."""
    one = 3 * work(LARGE, 1) / CHEAP
    study, _ = searched(tmp_path, monkeypatch, minutes, search=ONE_SIZE, width=1)
    assert (count(study.get_trials(), TrialState.RUNNING) == 0) == left
    assert (0 < 60 * minutes - Timed.now < one) == left


class Broken(Timed):
    """Its second epoch is broken off at once; then all is as ever."""

    broken = False

    def train_epoch(self) -> list[Step | None]:
        """The clock stands still in what is broken off."""
        if len(Timed.seen) == 1 and not Broken.broken:
            Broken.broken = True
            raise RuntimeError("once")
        return super().train_epoch()


def test_an_epoch_that_was_broken_off_says_nothing_of_how_long_one_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes no time, so all would seem to end."""
    monkeypatch.setattr(Broken, "broken", False)
    study, _ = searched(tmp_path, monkeypatch, 0.65, Broken, search=ONE_SIZE, width=1)
    assert Broken.broken
    assert count(study.get_trials(), TrialState.RUNNING) == 0


@pytest.mark.parametrize(("left", "begins"), [(4.0, True), (3.0, True), (2.9, False)])
def test_in_an_empty_lane_a_baseline_is_reckoned_like_what_is_new(left: float, begins: bool) -> None:
    """One of hidden 64 takes four seconds, with both cores three."""
    arrays = arrays_of(8)
    put(arrays, 0, 64)
    admission = within(left, arrays)
    frozen = create_trial(state=TrialState.WAITING, system_attrs={FIXED: {"hidden_dim": 64}})
    assert admission.lets_begin(1, {}, ())
    assert admission.lets_baseline_begin(frozen, False, beside=[], begun=1) == begins


def test_a_run_that_was_slow_to_begin_trains_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two minutes two seconds are left when the first trial could begin, and it takes three: it goes on in the next run."""
    study, _ = searched(tmp_path, monkeypatch, 2.0, began=-118.0)
    trials = study.get_trials()
    assert count(trials[: len(NOTES)], TrialState.WAITING) == len(NOTES)
    assert count(trials[len(NOTES) :], TrialState.RUNNING) > 0


def test_what_ended_sooner_goes_on_with_more_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run begins what it has room for."""
    first, _ = searched(tmp_path, monkeypatch, 0.65, search=ONE_SIZE)
    ended = len(first.get_trials())
    again, _ = searched(tmp_path, monkeypatch, 0.65, search=ONE_SIZE)
    assert len(again.get_trials()) > ended
    assert count(again.get_trials(), TrialState.RUNNING) == 0
