"""What a search does when its trainer raises, hangs, returns nonsense or finds no room: one trial's fault is not the others'."""

from __future__ import annotations

import inspect
import io
import re
import sys
import threading
import weakref
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import Mock

import pytest
import torch
from optuna.trial import TrialState
from rich.console import Console

from model.config import ModelShape, settings_from
from model.corpus import load_corpus
from model.devices import held_by_others
from model.errors import DeviceError
from tests.tuner.scripted import ScriptedTrainer, Step, scripted
from tests.tuner.test_search import definition
from tuner.definition import StudyDefinition
from tuner.errors import SearchError, TunerError
from tuner.forecast import forecast, told
from tuner.inspection import diagnose
from tuner.job import dry_run
from tuner.observer import Observer
from tuner.preparation import SearchRequest
from tuner.saving import SavingTrainer
from tuner.slots import Running
from tuner.storage import open_storage
from tuner.study import find_study
from tuner.training import SYNTHETIC
from tuner.verdict import Verdict
from tuner.width import measure

SPACE = {"lr": {"low": 1e-4, "high": 4e-3}, "hidden_dim": {"choices": [16, 32]}}
MARKED = 1.5e-3


def plain(**changes: Any) -> StudyDefinition:
    """A study without rules, whose second trial has a mark by which it is known."""
    marked = [{"name": "good", "lr": 1e-3, "hidden_dim": 16}, {"name": "bad", "lr": MARKED, "hidden_dim": 16}]
    content = {
        "budget": {"trials": 8, "epochs": 3},
        "search": SPACE,
        "pruning": {},
        "baselines": [],
        "enqueue": marked,
        "sampler": "random",
    }
    return definition(**{**content, **changes})


class Listener(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def noticed(self, what: str) -> None:
        """Kept."""
        self.told.append(what)


def marked(trainer: ScriptedTrainer, epoch: int) -> bool:
    """Whether the marked trial is here and about to make this epoch."""
    return any(slot is not None and slot.hyperparameters.lr == MARKED and slot.epoch + 1 == epoch for slot in trainer.slots)


class Raises(ScriptedTrainer):
    """Breaks off in the marked trial's second epoch, when the other slots are half-way."""

    def train_epoch(self) -> list[Step | None]:
        """As long as it goes."""
        if marked(self, 2):
            raise ZeroDivisionError("the marked one")
        return super().train_epoch()


class Hangs(ScriptedTrainer):
    """Never comes back from the marked trial's second epoch."""

    def train_epoch(self) -> list[Step | None]:
        """As long as it goes."""
        if marked(self, 2):
            threading.Event().wait()
        return super().train_epoch()


class Nonsense(ScriptedTrainer):
    """Returns a word as the marked trial's objective."""

    def train_epoch(self) -> list[Step | None]:
        """As it should, but for that."""
        bad = marked(self, 2)
        steps = super().train_epoch()
        for slot, step in zip(self.slots, steps, strict=True):
            if bad and slot is not None and slot.hyperparameters.lr == MARKED and step is not None:
                step.objective = "excellent"  # type: ignore[assignment]
        return steps


class Wordy(Nonsense):
    """Returns the marked trial's accuracy as text."""

    def train_epoch(self) -> list[Step | None]:
        """As it should, but for that."""
        bad = marked(self, 2)
        steps = ScriptedTrainer.train_epoch(self)
        for slot, step in zip(self.slots, steps, strict=True):
            if bad and slot is not None and slot.hyperparameters.lr == MARKED and step is not None:
                step.figures = {"entity": "0.5"}
        return steps


class Unsaved(ScriptedTrainer):
    """Cannot save the marked trial's model, and says so in its own way."""

    def save(self, slot: int, path: Path, evaluation: Any) -> None:
        """An error that is none of a disk."""
        if self.slots[slot].hyperparameters.lr == MARKED:
            raise RuntimeError("tensors share memory")
        super().save(slot, path, evaluation)


@pytest.mark.parametrize(
    ("trainer", "reason"),
    [
        (Wordy, "the trainer returned '0.5' as entity, which is no number"),
        (Unsaved, "its model could not be saved: RuntimeError: tensors share memory"),
        (Raises, r"ZeroDivisionError: the marked one \(test_failures.py, line \d+\)"),
        (Hangs, "TrainerHangs: no epoch within 0"),
        (Nonsense, "the trainer returned 'excellent' as objective, which is no number"),
    ],
)
def test_a_trial_at_fault_fails_with_its_error_and_the_others_go_on(tmp_path: Path, trainer: type[ScriptedTrainer], reason: str) -> None:
    """The others have the same curves as without it."""
    (tmp_path / "sound").mkdir()
    sound, _, _ = scripted(tmp_path / "sound", plain(), 4)
    study, _, _ = scripted(tmp_path, plain(), 4, trainer, watch=0.2)
    for trial, other in zip(study.get_trials(), sound.get_trials(), strict=True):
        if trial.params["lr"] == MARKED:
            assert trial.state == TrialState.FAIL
            assert trial.user_attrs["verdict"]["cause"] == "failed"
            assert trial.number == 1
            assert re.search(reason, trial.user_attrs["verdict"]["reason"])
        else:
            assert (trial.state, trial.values, trial.intermediate_values) == (other.state, other.values, other.intermediate_values)


class AlwaysRaises(ScriptedTrainer):
    """Never trains."""

    def train_epoch(self) -> list[Step | None]:
        """Raises."""
        raise OSError("the data are gone")


def test_too_many_failures_in_a_row_stop_the_search(tmp_path: Path) -> None:
    """With the reason, and not after all trials."""
    with pytest.raises(SearchError, match="5 trials failed one after the other, the last: OSError: the data are gone"):
        scripted(tmp_path, plain(budget={"trials": 50, "epochs": 3}), 1, AlwaysRaises)


class Small(ScriptedTrainer):
    """Has room for two slots of the small shape, and for none of the large."""

    def __init__(self, shape: ModelShape, slots: int) -> None:
        super().__init__(shape, slots)
        self.room = 2 if shape.hidden_dim == 16 else 0

    def train_epoch(self) -> list[Step | None]:
        """If there is room."""
        if len(self.slots) > self.room:
            raise MemoryError(f"no room for {len(self.slots)}")
        return super().train_epoch()


def test_an_array_without_room_is_halved_and_what_does_not_fit_alone_ends_so(tmp_path: Path) -> None:
    """No epoch is lost or trained twice; the sampler keeps away from what cannot be trained."""
    listener = Listener()
    made = plain(budget={"trials": 40, "epochs": 3})
    study, _, curves = scripted(tmp_path, made, 8, Small, listener)
    trials = study.get_trials()
    assert len(trials) == 40
    for trial in trials:
        fits = trial.params["hidden_dim"] == 16
        assert trial.state == (TrialState.COMPLETE if fits else TrialState.PRUNED)
        assert trial.user_attrs["verdict"]["cause"] == ("finished" if fits else "out_of_memory")
        assert trial.user_attrs["epochs_run"] == (3 if fits else 0)
        assert [point["epoch"] for point in curves.read(trial.number).get(trial.number, [])] == ([1, 2, 3] if fits else [])
    assert any("no room for" in line for line in listener.told)
    late = Counter(trial.params["hidden_dim"] for trial in trials[20:])
    assert late[16] > late[32], late


def test_a_trial_that_had_to_wait_goes_on_from_where_it_was(tmp_path: Path) -> None:
    """Room that shrinks in the middle: no epoch twice."""

    class Shrinks(ScriptedTrainer):
        def train_epoch(self) -> list[Step | None]:
            if len(self.slots) > 1 and any(slot is not None and slot.epoch == 2 for slot in self.slots):
                raise MemoryError("another program took it")
            return super().train_epoch()

    made = plain(search={"lr": SPACE["lr"]}, enqueue=[], budget={"trials": 4, "epochs": 4})
    study, trainers, curves = scripted(tmp_path, made, 4, Shrinks)
    assert {t.state for t in study.get_trials()} == {TrialState.COMPLETE}
    for number, curve in curves.read().items():
        assert [point["epoch"] for point in curve] == [1, 2, 3, 4], number
    assert {epoch for trainer in trainers for epoch in trainer.resumed} == {2}


class Crammed(ScriptedTrainer):
    """Ten units of memory for all trainers that are alive: one for each slot, and another while it trains."""

    alive: ClassVar[weakref.WeakSet[ScriptedTrainer]] = weakref.WeakSet()

    def __init__(self, shape: ModelShape, slots: int) -> None:
        super().__init__(shape, slots)
        self.alive.add(self)
        self.take(0)

    def take(self, more: int) -> None:
        """Where there is as much."""
        if sum(len(trainer.slots) for trainer in self.alive) + more > 10:
            raise MemoryError(f"no room for {more} more")

    def resize(self, keep: Any, slots: int) -> None:
        """If there is room."""
        self.take(slots - len(self.slots))
        super().resize(keep, slots)

    def train_epoch(self) -> list[Step | None]:
        """If there is room."""
        self.take(len(self.slots))
        return super().train_epoch()


class Dazzled(Crammed):
    """Has room to train, and to evaluate four at most."""

    def train_epoch(self) -> list[Step | None]:
        """In any case."""
        return ScriptedTrainer.train_epoch(self)

    def evaluate(self) -> list[Step | None]:
        """If there is room."""
        self.take(len(self.slots))
        return super().evaluate()


@pytest.mark.parametrize("trainer", [Crammed, Dazzled])
def test_an_array_gives_its_memory_back_before_its_half_begins_again(trainer: type[Crammed], tmp_path: Path) -> None:
    """Eight fit and cannot be trained, or evaluated; four could not begin beside eight. None is blamed, no epoch is in a curve twice."""
    made = plain(search={"lr": SPACE["lr"]}, enqueue=[], budget={"trials": 8, "epochs": 3})
    listener = Listener()
    study, _, curves = scripted(tmp_path, made, 8, trainer, listener)
    assert {t.state for t in study.get_trials()} == {TrialState.COMPLETE}
    for number, curve in curves.read().items():
        assert [point["epoch"] for point in curve] == [1, 2, 3], number
    assert sum("no room for 8 trials at once" in line for line in listener.told) == 1
    assert not any("one by one" in line for line in listener.told)


class Full:
    """In the place of a trainer's store: whatever is wanted of it, torch is asked for more memory than there can be."""

    def __getattr__(self, name: str) -> Any:
        return torch.empty(1 << 58)


@pytest.mark.parametrize("name", ["load", "resume", "resize", "train_epoch", "rehearse", "evaluate", "tally"])
def test_whatever_a_trainer_does_without_room_is_a_memory_error(name: str) -> None:
    """As torch says it, it would be the trial's fault."""
    shape, hyperparameters = settings_from({"hidden_dim": 16, "num_rules": 2, "batch_size": 8}, epochs=2, seed=0)
    trainer = SavingTrainer(shape, load_corpus("synthetic", 30, 1), 1, "cpu", SYNTHETIC)
    trainer.load(0, hyperparameters)
    held = trainer.held(0)
    arguments: dict[str, tuple[Any, ...]] = {
        "load": (0, hyperparameters),
        "resume": (0, hyperparameters, held),
        "resize": ([0], 2),
        "rehearse": (1,),
    }
    trainer.store = Full()  # type: ignore[assignment]
    with pytest.raises(MemoryError, match="can't allocate memory"):
        getattr(trainer, name)(*arguments.get(name, ()))


class Crowded(ScriptedTrainer):
    """Cannot be made wider than two slots of the small shape, nor one of the large."""

    def resize(self, keep: Any, slots: int) -> None:
        """If there is room."""
        if slots > (2 if self.shape.hidden_dim == 16 else 0):
            raise MemoryError(f"no room for {slots}")
        super().resize(keep, slots)


def test_room_that_runs_out_while_slots_are_filled_makes_trials_wait(tmp_path: Path) -> None:
    """Those in slots train on, unchanged; a trial that cannot be loaded at all ends so."""
    listener = Listener()
    study, _, curves = scripted(tmp_path, plain(budget={"trials": 20, "epochs": 3}), 8, Crowded, listener)
    for trial in study.get_trials():
        fits = trial.params["hidden_dim"] == 16
        assert trial.user_attrs["verdict"]["cause"] == ("finished" if fits else "out_of_memory"), trial.number
        assert [point["epoch"] for point in curves.read(trial.number).get(trial.number, [])] == ([1, 2, 3] if fits else [])
        if not fits:
            (said,) = diagnose(f"{study.study_name}:{trial.number}", f"sqlite:///{tmp_path}/tuner.db", "cpu")
            assert said.finding.startswith("out of memory in epoch 0: the device has no room for this trial alone")
    assert any("the others wait" in line for line in listener.told)


class Elbowed(ScriptedTrainer):
    """One of the large shape has no room to train beside any other."""

    alive: ClassVar[weakref.WeakSet[ScriptedTrainer]] = weakref.WeakSet()

    def __init__(self, shape: ModelShape, slots: int) -> None:
        super().__init__(shape, slots)
        self.alive.add(self)

    def train_epoch(self) -> list[Step | None]:
        """If there is room."""
        assert self.slots, "an array without trials is not trained"
        if self.shape.hidden_dim == 32 and any(other.slots for other in self.alive if other is not self):
            raise MemoryError("no room beside others")
        return super().train_epoch()


def test_an_array_of_one_that_has_no_room_beside_others_waits(tmp_path: Path) -> None:
    """It trains when they have ended; what is said of how many go on is so."""
    listener = Listener()
    enqueue = [{"name": str(n), "lr": n * 1e-3, "hidden_dim": 32 if n == 3 else 16} for n in (1, 2, 3)]
    study, _, curves = scripted(tmp_path, plain(budget={"trials": 3, "epochs": 3}, enqueue=enqueue), 3, Elbowed, listener)
    assert {t.state for t in study.get_trials()} == {TrialState.COMPLETE}
    assert [[point["epoch"] for point in curve] for curve in curves.read().values()] == [[1, 2, 3]] * 3
    assert "no room for 3 trials at once (no room beside others); from now on 2, the others wait" in listener.told


def test_a_device_that_fails_while_a_fault_is_looked_for_is_no_trials_fault(tmp_path: Path) -> None:
    """Each is trained alone then; they go on when the device is back."""

    class Failing(ScriptedTrainer):
        def train_epoch(self) -> list[Step | None]:
            raise torch.AcceleratorError("an illegal access") if len(self.slots) == 1 else ValueError("somebody is to blame")

    made = plain(search={"lr": SPACE["lr"]}, enqueue=[], budget={"trials": 2, "epochs": 3})
    with pytest.raises(DeviceError, match="the device has failed"):
        scripted(tmp_path, made, 2, Failing)
    study = find_study(open_storage(f"sqlite:///{tmp_path}/tuner.db"), made.name)
    assert {t.state for t in study.get_trials()} == {TrialState.RUNNING}


class Endings(Observer):
    """Counts the endings."""

    def __init__(self) -> None:
        self.ends: list[int] = []

    def ended(self, running: Running, verdict: Verdict, value: float | None) -> None:
        """Counted."""
        self.ends.append(running.number)


def test_the_budget_of_epochs_ends_a_search_which_finishes_or_stores(tmp_path: Path) -> None:
    """`finish` lets running trials run their epochs, `store` leaves them to the next start, which has no more to spend."""
    for at, states in (("finish", {TrialState.COMPLETE}), ("store", {TrialState.RUNNING})):
        folder = tmp_path / at
        folder.mkdir()
        budget = {"trials": 8, "epochs": 3, "total_epochs": 8, "at_budget": at}
        listener = Listener()
        study, _, _ = scripted(folder, plain(budget=budget, search={"lr": SPACE["lr"]}, enqueue=[]), 4, observer=listener)
        trials = study.get_trials()
        assert len(trials) == 4
        assert {t.state for t in trials} == states
        ended = 4 if at == "finish" else 0
        said = f"the study's 8 epochs are used up (--total-epochs), {ended} of 8 trials have ended; raise them to go on"
        assert listener.told[-1] == said
    rest = {**budget, "total_epochs": 0}
    study, trainers, _ = scripted(folder, plain(budget=rest, search={"lr": SPACE["lr"]}, enqueue=[]), 4)
    assert {t.state for t in study.get_trials()} == {TrialState.COMPLETE}
    assert trainers[0].resumed == [2, 2, 2, 2]


def test_only_the_best_models_stay_on_disk(tmp_path: Path) -> None:
    """As many as asked for."""
    study, _, _ = scripted(tmp_path, plain(), 4, keep=2)
    best = sorted(study.get_trials(), key=lambda t: -t.value)[:2]
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {f"trial-{t.number}.safetensors" for t in best}


def test_the_width_is_measured_until_it_brings_no_more() -> None:
    """The scripted trainer gains up to eight slots, others more or nothing; half of the trials at the most; a device without room stops
    earlier. It is told how many have been tried."""
    made, tried = plain(budget={"trials": 100, "epochs": 1}), list[int]()
    found = measure(ScriptedTrainer, made, tried.append)
    assert found.width == 8
    assert list(found.rates) == [4, 8, 16, 32]
    assert "width 8, of trial-steps a second" in found.said()
    assert tried == [0, 1, 2, 3]

    class Gaining(ScriptedTrainer):
        def rehearse(self, steps: int) -> float:
            return 1.0

    assert (measure(Gaining, made).width, list(measure(Gaining, made).rates)) == (32, [16, 32])
    few = plain(budget={"trials": 13, "epochs": 1})
    assert (measure(Gaining, few).width, list(measure(Gaining, few).rates)) == (4, [2, 4])
    assert measure(Gaining, few).bound
    assert not found.bound

    class Busy(ScriptedTrainer):
        def rehearse(self, steps: int) -> float:
            return float(len(self.slots))

    assert measure(Busy, made).width == 1

    class Narrow(ScriptedTrainer):
        def rehearse(self, steps: int) -> float:
            if len(self.slots) > 2:
                raise MemoryError("no room")
            return 1.0

    assert measure(Narrow, made).width == 2


def test_a_forecast_says_what_a_search_would_cost_at_most() -> None:
    """The scripted trainer: a second a step, ten steps an epoch, four slots, two shapes."""
    found = forecast(ScriptedTrainer, plain(budget={"trials": 8, "epochs": 3}), 4)
    assert (found["trials"], found["epochs_at_most"], found["seconds_at_most"]) == (8, 24, 24 * 10 // 4)
    assert [shape["hidden_dim"] for shape in found["shapes"]] == [16, 32]
    assert found["memory_bytes"] > 0
    assert told(found)[0] == "8 trials, 24 epochs if none is stopped, 4 at once"


def test_a_forecast_takes_no_longer_than_the_minutes() -> None:
    """And says what all trials would take."""
    found = forecast(ScriptedTrainer, plain(budget={"trials": 800, "epochs": 3, "minutes": 10}), 4)
    assert (found["seconds_of_all"], found["seconds_at_most"]) == (6000, 600)
    said = "at most 0 h 10 min, which are its minutes; for all trials 1 h 40 min where each shape comes up as often; memory"
    assert told(found)[1].startswith(said)


def test_a_forecast_knows_which_bounds_end_a_search() -> None:
    """Epochs of all trials do; minutes after which running trials are finished do not."""
    budget = {"trials": 800, "epochs": 3, "minutes": 10, "total_epochs": 480, "at_budget": "finish"}
    found = forecast(ScriptedTrainer, plain(budget=budget), 4)
    assert (found["epochs_at_most"], found["seconds_at_most"]) == (480, 1200)


def test_what_a_forecast_calls_the_most_is_what_the_dearest_shape_takes() -> None:
    """Not the mean of all: a step of the larger one takes three seconds for one."""

    class Sized(ScriptedTrainer):
        def rehearse(self, steps: int) -> float:
            return super().rehearse(steps) * (3 if self.shape.hidden_dim == 32 else 1)

    found = forecast(Sized, plain(budget={"trials": 80, "epochs": 3}), 4)
    assert (found["seconds_of_all"], found["seconds_at_most"]) == (240 * 2 * 10 // 4, 240 * 3 * 10 // 4)
    assert told(found)[1].startswith("at most 0 h 30 min; 0 h 20 min where each shape comes up as often; memory")


def test_a_forecast_counts_what_confirms_the_best() -> None:
    """The best three with two seeds each, and one baseline, of three epochs."""
    notes = [{"name": "notes", "lr": 1e-3, "hidden_dim": 16}]
    found = forecast(ScriptedTrainer, plain(budget={"trials": 8, "epochs": 3}, baselines=notes, confirm={"top": 3, "seeds": 2}), 4)
    assert found["confirmation"] == {"runs": 8, "epochs": 24, "seconds_at_most": 24 * 10 // 4}
    assert told(found)[2] == "then 8 runs, 24 epochs, to confirm the best beside the baselines: at most 0 h 1 min"


def test_a_device_that_others_have_filled_costs_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search ends, says who holds its memory, and goes on when there is room."""
    made = plain(search={"lr": SPACE["lr"]}, enqueue=[], budget={"trials": 3, "epochs": 2})

    class Full(ScriptedTrainer):
        def resize(self, keep: Any, slots: int) -> None:
            if slots:
                raise MemoryError("no room for one")
            super().resize(keep, slots)

    monkeypatch.setattr("tuner.search.held_by_others", lambda device: 0.9)
    with pytest.raises(SearchError, match="cpu has no room for a single trial: other programs hold 90 % of its memory"):
        scripted(tmp_path, made, 2, Full, alone=True)
    study, _, _ = scripted(tmp_path, made, 2)
    assert [t.user_attrs["verdict"]["cause"] for t in study.get_trials()] == ["finished"] * 3


def test_hundreds_of_trials_without_room_are_no_recursion(tmp_path: Path) -> None:
    """Each ends, one after the other."""

    class Full(ScriptedTrainer):
        def resize(self, keep: Any, slots: int) -> None:
            if slots:
                raise MemoryError("no room for one")
            super().resize(keep, slots)

    made = plain(search={"lr": SPACE["lr"]}, enqueue=[], budget={"trials": 300, "epochs": 2})
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 400)
    try:
        study, _, _ = scripted(tmp_path, made, 2, Full)
    finally:
        sys.setrecursionlimit(before)
    assert {t.user_attrs["verdict"]["cause"] for t in study.get_trials()} == {"out_of_memory"}


def test_what_others_hold_of_a_gpu_is_what_is_neither_free_nor_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU does not say."""
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (10, 100))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 30)
    assert held_by_others(torch.device("cuda")) == pytest.approx(0.6)
    assert held_by_others(torch.device("cpu")) == 0.0


class Cramped(ScriptedTrainer):
    """Two cannot be trained, and having given both back there is no room for one, at first."""

    refused = False

    def train_epoch(self) -> list[Step | None]:
        """One at a time."""
        if len(self.slots) > 1:
            raise MemoryError("no room for two")
        return super().train_epoch()

    def resize(self, keep: Any, slots: int) -> None:
        """Somebody else was faster, once."""
        if not self.slots and slots == 1 and not self.refused:
            self.refused = True
            raise MemoryError("no room for one")
        super().resize(keep, slots)


def test_after_an_array_has_lost_all_its_room_the_next_trial_is_not_blamed(tmp_path: Path) -> None:
    """The one that was left ends without room; the other goes on in slots that are made anew."""
    made = plain(search={"lr": SPACE["lr"]}, enqueue=[], budget={"trials": 3, "epochs": 3})
    study, _, curves = scripted(tmp_path, made, 2, Cramped)
    assert [t.user_attrs["verdict"]["cause"] for t in study.get_trials()] == ["out_of_memory", "finished", "finished"]
    assert [[point["epoch"] for point in curve] for curve in curves.read().values()] == [[1, 2, 3]] * 2


class Faulty(ScriptedTrainer):
    """Breaks off beside others in the marked trial's second epoch; alone that has no room."""

    alive: ClassVar[weakref.WeakSet[ScriptedTrainer]] = weakref.WeakSet()
    beside: ClassVar[list[int]] = []

    def __init__(self, shape: ModelShape, slots: int) -> None:
        super().__init__(shape, slots)
        self.alive.add(self)

    def train_epoch(self) -> list[Step | None]:
        """As long as it goes."""
        if marked(self, 2) and len(self.slots) > 1:
            raise ValueError("somebody is to blame")
        if len(self.slots) == 1 and any(slot is not None and slot.epoch == 1 for slot in self.slots):
            self.beside.append(sum(len(other.slots) for other in self.alive if other is not self))
        if marked(self, 2):
            raise MemoryError("not even alone")
        return super().train_epoch()


def test_where_a_fault_is_looked_for_each_has_the_device_to_itself(tmp_path: Path) -> None:
    """What was trained together has been given back by then; what has no room alone ends so, and the others go on."""
    Faulty.beside.clear()
    made = plain(search={"lr": SPACE["lr"]}, enqueue=[{"name": "bad", "lr": MARKED}], budget={"trials": 3, "epochs": 3})
    study, _, curves = scripted(tmp_path, made, 3, Faulty, keep_trainers=False)
    assert [t.user_attrs["verdict"]["cause"] for t in study.get_trials()] == ["out_of_memory", "finished", "finished"]
    assert study.get_trials()[0].user_attrs["verdict"]["reason"].endswith("for this trial alone: not even alone")
    assert [[point["epoch"] for point in curve] for curve in curves.read().values()][1:] == [[1, 2, 3]] * 2
    assert Faulty.beside == [0, 0, 0]


def test_who_could_not_be_saved_is_nobodys_peer(tmp_path: Path) -> None:
    """It has failed, now as after a kill."""
    made, pasts = plain(), list[Any]()

    class Looking(Observer):
        def epoch(self, search: Any) -> None:
            pasts.append(search._past)

    study, _, _ = scripted(tmp_path, made, 4, Unsaved, Looking())
    (failed,) = [t.number for t in study.get_trials() if t.state == TrialState.FAIL]
    assert failed not in pasts[-1].peers
    assert failed in pasts[-1].over


def test_a_forecast_without_room_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, status 1 or 2, no traceback."""
    monkeypatch.setattr("tuner.job.forecast", Mock(side_effect=MemoryError("out of memory")))
    made = plain(search={"lr": SPACE["lr"]}, fixed={"hidden_dim": 16}, enqueue=[])
    request = SearchRequest(made, f"sqlite:///{tmp_path}/t.db", 4096, "cpu", None, False, tmp_path)
    with pytest.raises(TunerError, match=r"cpu has no room for 4096 trials of this study at once \(out of memory\); try a smaller --width"):
        dry_run(request, Console(file=io.StringIO()))
