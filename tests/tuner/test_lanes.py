"""Arrays beside each other: at the same time, to the same end, and none waits for one that hangs."""

import _thread
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from optuna.trial import TrialState, create_trial

from model.config import Hyperparameters, ModelShape
from model.corpus import load_corpus
from model.trainer import FusedTrainer
from tests.tuner.scripted import ScriptedTrainer, Step, scripted
from tests.tuner.test_search import definition, ended
from tuner import lanes
from tuner.arrays import Arrays
from tuner.failures import TrainerHangs
from tuner.lanes import Job, UnderWay, advance_all, lanes_of
from tuner.pace import work
from tuner.promotion import STEP
from tuner.slots import Place, Running
from tuner.starters import planned

SHAPE = ModelShape(hidden_dim=16, batch_size=16)


class Doing(ScriptedTrainer):
    """Does something before its epoch."""

    def __init__(self, what: Callable[[], object]) -> None:
        super().__init__(SHAPE, 1)
        self.load(0, Hyperparameters())
        self.what = what

    def train_epoch(self) -> list[Step | None]:
        """The same epoch after that."""
        self.what()
        return super().train_epoch()


def spin(stopped: threading.Event | None = None, began: threading.Event | None = None) -> None:
    """Never ends by itself; says when it has begun and when it is ended from outside."""
    try:
        if began is not None:
            began.set()
        while True:
            pass
    finally:
        if stopped is not None:
            stopped.set()


def test_two_lanes_train_at_the_same_time() -> None:
    """Each waits in its epoch for the other, and both get through."""
    meeting = threading.Barrier(2)
    tried = advance_all([Job(Doing(lambda: meeting.wait(60)), 1, 60) for _ in range(2)], 2)
    assert [len(attempt.result()) for attempt in tried] == [1, 1]


def test_one_lane_trains_one_array_after_the_other() -> None:
    """In the order of the jobs, in this very thread."""
    seen: list[tuple[int, threading.Thread]] = []
    advance_all([Job(Doing(lambda n=n: seen.append((n, threading.current_thread()))), 1, 60) for n in (1, 2, 3)], 1)
    assert seen == [(n, threading.main_thread()) for n in (1, 2, 3)]


def test_the_longest_is_begun_first() -> None:
    """Both threads are at the long ones before the short one is begun; the results stand in the order of the jobs."""
    meeting, began = threading.Barrier(2), list[int]()

    def doing(number: int) -> Doing:
        return Doing(lambda: (began.append(number), meeting.wait(60) if number else None))

    advance_all([Job(doing(0), 1, 60, expected=1.0), Job(doing(1), 1, 60, expected=5.0), Job(doing(2), 1, 60, expected=3.0)], 2)
    assert (set(began[:2]), began[2]) == ({1, 2}, 0)


def test_one_that_hangs_is_told_to_end_and_the_rest_goes_on() -> None:
    """The others are not touched."""
    tried = advance_all([Job(Doing(spin), 1, 0.3), Job(Doing(int), 1, 60), Job(Doing(int), 1, 60)], 2)
    with pytest.raises(TrainerHangs, match="no epoch within 0 seconds"):
        tried[0].result()
    assert [len(attempt.result()) for attempt in tried[1:]] == [1, 1]


def test_one_that_does_not_come_back_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can raise an error in what waits for a lock; another thread does what else there is."""
    monkeypatch.setattr(lanes, "LEAVE_SECONDS", 0.2)
    never = threading.Event()
    try:
        tried = advance_all([Job(Doing(never.wait), 1, 0.3), Job(Doing(int), 1, 60), Job(Doing(int), 1, 60)], 2)
    finally:
        never.set()
        for thread in threading.enumerate():
            if isinstance(thread, lanes._Thread):
                thread.join(60)
    with pytest.raises(TrainerHangs, match="did not come back"):
        tried[0].result()
    assert [len(attempt.result()) for attempt in tried[1:]] == [1, 1]


def test_what_interrupts_the_search_ends_the_lanes() -> None:
    """No thread trains on when the program is asked to stop."""
    stopped, began, before = threading.Event(), threading.Event(), signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        began.wait(60)
        _thread.interrupt_main()

    try:
        with pytest.raises(KeyboardInterrupt):
            advance_all([Job(Doing(lambda: spin(stopped, began)), 1, 600), Job(Doing(interrupt), 1, 600)], 2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.is_set()
    assert not any(isinstance(thread, lanes._Thread) and thread.is_alive() for thread in threading.enumerate())


def test_a_lane_under_way_goes_on_behind_what_hangs_and_ends_when_it_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The array after it has its epoch, in another thread."""
    monkeypatch.setattr(lanes, "LEAVE_SECONDS", 0.2)
    never, stopped, began = threading.Event(), threading.Event(), threading.Event()
    under_way = UnderWay([Job(Doing(never.wait), 1, 0.3), Job(Doing(int), 1, 60)], apart=True)
    under_way.begin()
    hanging, after = under_way.attempts()
    never.set()
    with pytest.raises(TrainerHangs, match="did not come back"):
        hanging.result()
    assert len(after.result()) == 1
    left = UnderWay([Job(Doing(lambda: spin(stopped, began)), 1, 600)], apart=True)
    left.begin()
    assert began.wait(60)
    monkeypatch.setattr(lanes, "LEAVE_SECONDS", 60.0)
    left.tell()
    left.leave()
    assert stopped.is_set()


def turns(of: random.Random, most: int) -> None:
    """Holds a thread up, for a while that nobody knows."""
    for _ in range(of.randrange(most)):
        threading.Event().wait(0)


class Moody(ScriptedTrainer):
    """Takes now long, now short for an epoch."""

    moods = random.Random(0)

    def train_epoch(self) -> list[Step | None]:
        """The same epoch whenever it ends."""
        turns(Moody.moods, 300)
        return super().train_epoch()


TWO_SHAPES: dict[str, Any] = {
    "search": {"lr": {"low": 1e-4, "high": 1e-2, "log": True}, "hidden_dim": {"choices": [64, 128]}},
    "baselines": [],
    "fixed": {},
}


@pytest.mark.parametrize("many", [2, 4])
def test_lanes_are_judged_in_the_same_order_whichever_is_ready_first(tmp_path: Path, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three searches, held up at random in every epoch, with arrays of two shapes: the same trials come to the same ends."""
    found = []
    for seed in range(3):
        monkeypatch.setattr(Moody, "moods", random.Random(seed))
        (tmp_path / str(seed)).mkdir()
        made = definition(**TWO_SHAPES, budget={"trials": 30, "epochs": 4})
        study, trainers, curves = scripted(tmp_path / str(seed), made, 5, Moody, lanes=many)
        found.append((ended(study), curves.read()))
    assert found[0] == found[1] == found[2]
    assert {trainer.shape.hidden_dim for trainer in trainers} == {64, 128}


def arrays_of(width: int, lanes: int = 2, make: type[ScriptedTrainer] = ScriptedTrainer) -> Arrays:
    """In so many lanes."""
    return Arrays(definition(**TWO_SHAPES), make, width=width, lanes=lanes, watch=60, notice=pytest.fail)


def put(arrays: Arrays, number: int, hidden: int) -> int | None:
    """One more trial, and into which lane."""
    distributions = definition(**TWO_SHAPES).distributions()
    trial = create_trial(value=0.0, params={"lr": 1e-3, "hidden_dim": hidden}, distributions=distributions)
    trial.number = number
    running = Running(trial, Hyperparameters())
    lane = next(iter(arrays.lanes_for_more(arrays.width, [], {})), None)
    if lane is not None:
        assert arrays.refill([], {Place(arrays.shape(running), lane): [running]}) == []
    return lane


def test_each_lane_has_its_share_and_the_one_with_less_to_do_takes_the_next() -> None:
    """Three small trials beside a large one, until a lane is full; in the end both are."""
    arrays = arrays_of(5)
    assert [put(arrays, number, hidden) for number, hidden in enumerate((64, 128, 64, 64, 128, 64))] == [0, 1, 0, 0, 1, None]
    assert [running.number for running in arrays.running] == list(range(5))
    arrays.narrow(2, [])
    assert put(arrays, 6, 64) is None
    arrays.width = 9
    assert arrays.lanes_for_more(9, [], {}) == [0, 1]
    arrays.closed = {0}  # as where a search goes on that was left while this lane was under way
    assert arrays.lanes_for_more(9, [], {}) == [1]
    assert {slot.place.lane for slot in arrays.slots()} == {1}


def test_a_lane_with_half_the_work_has_two_epochs_meanwhile() -> None:
    """Its clock counts what is done; one that is under way is neither looked at nor filled."""
    arrays = arrays_of(4)
    for number, hidden in enumerate((128, 64, 64)):
        put(arrays, number, hidden)
    assert arrays.lanes == (0, 1)
    arrays.states()
    states = {slot.trial: slot for array in arrays.states() for slot in array}
    seen = []
    for _ in range(5):
        arrays.begin()
        seen.append((epoch := arrays.advance(states)).lanes)
        assert {running.number for running, _ in epoch.points} == {slot.running.number for slot in arrays.slots()}
        assert set(arrays.lanes_for_more(4, [], {})) <= set(epoch.lanes)
        states |= {slot.trial: slot for array in arrays.states() for slot in array}
    small, large = work(ModelShape(hidden_dim=64), 2), work(ModelShape(hidden_dim=128), 1)
    order = sorted([*((n * large, 0) for n in range(1, 6)), *((n * small, 1) for n in range(1, 6))])
    assert seen == [(lane,) for _, lane in order[:5]]
    arrays.leave()


class Counting(ScriptedTrainer):
    """Notes with how many cores it trains; an epoch counts as a second."""

    cores: ClassVar[list[int]] = []

    def train_epoch(self) -> list[Step | None]:
        """The same epoch with any number."""
        Counting.cores.append(torch.get_num_threads())
        self.seconds["training"] += 1.0
        return super().train_epoch()


@pytest.mark.parametrize(("lanes", "sizes", "times"), [(2, [64], 2), (2, [64, 128], 1), (4, [64, 128], 2), (4, [64, 128, 64], 1)])
def test_lanes_without_trials_lend_the_others_their_cores(
    lanes: int, sizes: list[int], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In equal parts, from the next epoch on, where they are told to; what is spent with two lanes' cores counts twice."""
    monkeypatch.setattr(Counting, "cores", [])
    arrays, own = arrays_of(8, lanes, Counting), torch.get_num_threads()
    for number, hidden in enumerate(sizes):
        put(arrays, number, hidden)
    states = {slot.trial: slot for array in arrays.states() for slot in array}
    spent = list[float]()
    for lend in (False, True):
        arrays.begin(lend=lend)
        lent = set[int]()
        while arrays.under_way:
            lent |= arrays.advance(states).lent
        assert lent == (set(arrays.lanes) if lend and times > 1 else set())
        spent.append(arrays.seconds["training"] - sum(spent))
    assert Counting.cores == [own] * len(sizes) + [times * own] * len(sizes)
    assert spent[1] == pytest.approx(times * spent[0])
    assert torch.get_num_threads() == own


def test_an_empty_lane_takes_every_other_trial_of_one_that_has_several() -> None:
    """They go on where they are, its clock from now; a single one stays where it is, as does what is under way."""
    arrays = arrays_of(6)
    for number, hidden in enumerate((128, 64, 64, 64)):
        put(arrays, number, hidden)
    assert [place.lane for place in arrays._arrays] == [0, 1]
    states = {slot.trial: slot for array in arrays.states() for slot in array}
    arrays.begin()
    assert arrays.advance(states).lanes == (0,)
    assert arrays.even_out() == []
    assert arrays.refill(list(arrays.slots()), {}) == []
    assert arrays.even_out() == []
    assert arrays.lanes == (1,)
    states |= {slot.trial: slot for array in arrays.states() for slot in array}
    behind = arrays.clocks[0]
    assert arrays.advance(states).lanes == (1,)
    assert arrays.even_out() == []
    assert [(slot.place.lane, slot.running.number) for slot in arrays.slots()] == [(1, 1), (1, 3), (0, 2)]
    assert arrays.clocks[0] == arrays.clocks[1] > behind
    assert [slot.held.notes for array in arrays.states() for slot in array] == [{"epoch": 1}] * 3
    assert arrays.even_out() == []
    assert len(list(arrays.slots())) == 3


START: dict[str, Any] = {
    "search": {"lr": {"low": 1e-3, "high": 2e-2, "log": True}, "hidden_dim": {"choices": [64, 32], "start": 32}},
    "pruning": {"explosion": {}},
    "baselines": [],
    "fixed": {},
}


def test_both_lanes_end_the_first_trials_before_one_goes_on(tmp_path: Path) -> None:
    """Some of them are stopped, so one lane would be through long before the other: no step begins from the best of that lane alone."""
    made = definition(**START, seed=5, budget={"trials": 40, "epochs": 8})
    study, _, _ = scripted(tmp_path, made, 4, lanes=2)
    trials = study.get_trials()
    starters = trials[: planned(made)]
    assert {t.state for t in starters} == {TrialState.COMPLETE, TrialState.PRUNED}
    best = max(t.value for t in starters if t.state == TrialState.COMPLETE)
    first = next(t for t in trials if STEP in t.user_attrs)
    assert trials[first.user_attrs[STEP]].value == best


def test_real_models_in_lanes_train_as_alone() -> None:
    """To the bit, with as many cores each; and the number of cores is afterwards what it was."""
    corpus, cores = load_corpus("synthetic", 30, 1), torch.get_num_threads()

    def made(seed: int) -> FusedTrainer:
        trainer = FusedTrainer(SHAPE, corpus, 2)
        for slot in range(2):
            trainer.load(slot, Hyperparameters(lr=3e-3, num_rules=2, seed=seed + slot))
        return trainer

    beside = [made(seed) for seed in (1, 3)]
    for _ in range(2):
        advance_all([Job(trainer, 2, 600) for trainer in beside], len(beside))
    assert torch.get_num_threads() == cores
    torch.set_num_threads(max(1, cores // 2))
    alone = [made(seed) for seed in (1, 3)]
    for trainer in alone:
        trainer.train_epoch()
        trainer.train_epoch()
    torch.set_num_threads(cores)
    for one, other in zip(beside, alone, strict=True):
        for slot in range(2):
            assert all(torch.equal(a, b) for a, b in zip(one.snapshot(slot).rows, other.snapshot(slot).rows, strict=True))


def test_a_gpu_has_one_lane_and_a_cpu_one_for_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four at most."""
    assert lanes_of("cuda") == 1
    for cores, many in {1: 1, 2: 2, 16: 4}.items():
        monkeypatch.setattr(torch, "get_num_threads", lambda cores=cores: cores)
        assert lanes_of("cpu") == many


def test_who_has_ended_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be another thread's by then, which would be ended for it."""
    ends = UnderWay([Job(Doing(int), 1, 60)], apart=True)
    ends.begin()
    assert len(ends.attempts()[0].result()) == 1
    told = list[object]()
    monkeypatch.setattr(lanes, "_raise_in", lambda *what: told.append(what))
    ends.tell()
    assert told == []
