"""What a search does where the device has no room: no epoch is lost or trained twice, and only what does not fit alone ends so."""

from __future__ import annotations

import inspect
import sys
import weakref
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from optuna.trial import TrialState

from model.config import ModelShape, settings_from
from model.corpus import load_corpus
from model.devices import held_by_others, out_of_room
from model.errors import DeviceFailed
from tests.tuner.scripted import ScriptedTrainer, Step, scripted
from tests.tuner.test_failures import SPACE, Listener, plain
from tuner import preparation
from tuner.inspection import diagnose
from tuner.saving import SavingTrainer, no_room
from tuner.seam import Held
from tuner.search import Search
from tuner.training import SYNTHETIC
from tuner.width import Measured, measure


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


class Widths(Listener):
    """Keeps how many may train at once after each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.widths: list[int] = []

    def epoch(self, search: Search) -> None:
        """As the search says it."""
        self.widths.append(search.width)


class Loaded(ScriptedTrainer):
    """Has no room for a slot of the large shape."""

    def resize(self, keep: Any, slots: int) -> None:
        """If it is small."""
        if self.shape.hidden_dim == 32 and slots:
            raise MemoryError("no room for one")
        super().resize(keep, slots)


class Trained(ScriptedTrainer):
    """Has room for a slot of the large shape, and for no epoch of it."""

    def train_epoch(self) -> list[Step | None]:
        """If it is small."""
        if self.shape.hidden_dim == 32:
            raise MemoryError("no room for an epoch")
        return super().train_epoch()


@pytest.mark.parametrize("trainer", [Loaded, Trained])
@pytest.mark.parametrize("large", [[10], [10, 11], [10, 11, 12, 13]])
def test_what_does_not_fit_alone_leaves_the_others_their_room(trainer: type[ScriptedTrainer], large: list[int], tmp_path: Path) -> None:
    """Fewer and fewer train until each of the shape has been alone and ended; then as many as before."""
    enqueue = [{"name": str(n), "lr": 1e-3, "hidden_dim": 32 if n in large else 16} for n in range(60)]
    listener = Widths()
    study, _, _ = scripted(tmp_path, plain(budget={"trials": 60, "epochs": 3}, enqueue=enqueue), 8, trainer, listener)
    assert [t.number for t in study.get_trials() if t.user_attrs["verdict"]["cause"] == "out_of_memory"] == large
    least = min(listener.widths)
    lost = len(listener.widths) - listener.widths[::-1].index(least)
    assert least < 8
    assert listener.widths[:lost] == sorted(listener.widths[:lost], reverse=True), "all of the shape are tried alone before"
    assert set(listener.widths[lost:]) == {8}


class Stops(Widths):
    """Ends the process's search as soon as there is room for less than five."""

    def epoch(self, search: Search) -> None:
        """As nobody expects."""
        super().epoch(search)
        if search.width < 5:
            raise KeyboardInterrupt


def test_a_search_that_is_killed_before_it_knows_what_does_not_fit_has_its_room_back_too(tmp_path: Path) -> None:
    """It goes on as narrow as it was, and is as wide as before when what does not fit alone has ended."""
    enqueue = [{"name": str(n), "lr": 1e-3, "hidden_dim": 32 if n == 10 else 16} for n in range(60)]
    made, listener = plain(budget={"trials": 60, "epochs": 3}, enqueue=enqueue), Widths()
    with pytest.raises(KeyboardInterrupt):
        scripted(tmp_path, made, 8, Loaded, Stops())
    scripted(tmp_path, made, 8, Loaded, listener)
    assert (listener.widths[0] < 6, listener.widths[-1]) == (True, 8)


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


class Filled(ScriptedTrainer):
    """Has no room for a slot."""

    def resize(self, keep: Any, slots: int) -> None:
        """Not for one."""
        if slots:
            raise MemoryError("no room for one")
        super().resize(keep, slots)


class Untrained(ScriptedTrainer):
    """Has room for slots, and for no epoch."""

    def train_epoch(self) -> list[Step | None]:
        """Not of one."""
        raise MemoryError("no room for an epoch")


@pytest.mark.parametrize("trainer", [Filled, Untrained])
def test_a_device_that_others_have_filled_costs_no_trial(
    trainer: type[ScriptedTrainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as one that has failed, it is said who holds its memory, and all goes on when there is room."""
    made = plain(search={"lr": SPACE["lr"]}, enqueue=[], budget={"trials": 3, "epochs": 2})
    monkeypatch.setattr("model.devices.held_by_others", lambda device: 0.9)
    with pytest.raises(DeviceFailed, match="cpu has no room for a single trial: other programs hold 90 % of its memory"):
        scripted(tmp_path, made, 2, trainer, alone=True)
    study, _, _ = scripted(tmp_path, made, 2, alone=True)
    assert [t.user_attrs["verdict"]["cause"] for t in study.get_trials()] == ["finished"] * 3
    shared = tmp_path / "shared"
    shared.mkdir()
    study, _, _ = scripted(shared, made, 2, trainer)
    assert {t.user_attrs["verdict"]["cause"] for t in study.get_trials()} == {"out_of_memory"}, "the others are our own"


class Broken(ScriptedTrainer):
    """Its device fails while a state is asked for, between two epochs."""

    def held(self, slot: int) -> Held:
        """As torch says it."""
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def test_a_device_that_fails_between_epochs_has_failed(tmp_path: Path) -> None:
    """No traceback, and no trial is to blame: they wait for the next start."""
    made = plain(search={"lr": SPACE["lr"]}, enqueue=[], budget={"trials": 3, "epochs": 2})
    with pytest.raises(DeviceFailed, match="the device has failed: CUDA error: an illegal memory access"):
        scripted(tmp_path, made, 2, Broken)
    study, _, _ = scripted(tmp_path, made, 2)
    assert [t.user_attrs["verdict"]["cause"] for t in study.get_trials()] == ["finished"] * 3


def test_a_width_for_which_there_was_no_room_is_said_and_not_of_cores() -> None:
    """It says nothing of the device when that is free again."""

    def full(shape: ModelShape, slots: int) -> ScriptedTrainer:
        raise MemoryError("no room")

    found = measure(full, plain(budget={"trials": 64, "epochs": 2}))
    assert (found.width, found.short, found.rates) == (1, True, {})
    assert found.said(64) == "width 1: there is no room for more now"


def test_the_width_is_measured_in_the_largest_shape_that_has_room() -> None:
    """One without room for a single trial says nothing of the others; one with room for just one says that there is no room for more."""

    def cramped(shape: ModelShape, slots: int) -> ScriptedTrainer:
        if shape.hidden_dim == 32 and slots > most:
            raise MemoryError("no room")
        return ScriptedTrainer(shape, slots)

    made, most = plain(budget={"trials": 64, "epochs": 2}), 0
    found = measure(cramped, made)
    assert (min(found.rates) > 1, found.short) == (True, False)
    most = 1
    assert measure(cramped, made) == Measured(1, {}, short=True)


def test_two_names_of_one_device_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process would take the other for a stranger."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    request = preparation.SearchRequest(plain(), "", None, "cuda", None, False, Path(), others=("cuda:0", "cuda:1"))
    assert [request.alone(name) for name in ("cuda", "cuda:0", "auto", "cuda:1")] == [False, False, False, True]


def test_hundreds_of_trials_without_room_are_no_recursion(tmp_path: Path) -> None:
    """Each ends, one after the other."""

    made = plain(search={"lr": SPACE["lr"]}, enqueue=[], budget={"trials": 300, "epochs": 2})
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 400)
    try:
        study, _, _ = scripted(tmp_path, made, 2, Filled)
    finally:
        sys.setrecursionlimit(before)
    assert {t.user_attrs["verdict"]["cause"] for t in study.get_trials()} == {"out_of_memory"}


@pytest.mark.parametrize("said", ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"])
def test_no_room_is_understood_in_all_ways_that_torch_has_of_saying_it(said: str) -> None:
    """And what else goes wrong is raised as it is."""
    with pytest.raises(MemoryError, match=said[:10]), no_room():
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="index out of range"), no_room():
        raise RuntimeError("index out of range")


@pytest.mark.parametrize(("free", "short"), [(100 << 20, True), (50 << 30, False)])
def test_cublas_that_cannot_begin_lacks_memory_only_where_there_is_none(free: int, short: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere it is broken: were that taken for no room every trial would end so."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 80 << 30))
    assert out_of_room(RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`")) is short


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
