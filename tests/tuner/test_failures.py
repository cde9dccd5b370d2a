"""What a search does when its trainer raises, hangs, returns nonsense or finds no room: one trial's fault is not the others'."""

from __future__ import annotations

import io
import itertools
import re
import threading
import weakref
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import Mock

import pytest
import torch
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from rich.console import Console

from model.config import ModelShape
from model.errors import DeviceError
from tests.tuner.scripted import ScriptedTrainer, Step, corpus_of, scripted
from tests.tuner.test_search import definition
from tuner.bench import Bench
from tuner.budget import SECONDS
from tuner.buffer import BufferedStorage
from tuner.definition import StudyDefinition
from tuner.errors import SearchError, StudyError, TunerError
from tuner.forecast import forecast, told
from tuner.job import dry_run
from tuner.observer import Observer
from tuner.ownership import OWNER, alive, in_seat, itself, owner, seat_of
from tuner.preparation import SearchRequest
from tuner.slots import Running
from tuner.storage import open_storage
from tuner.study import find_study, open_study
from tuner.verdict import Verdict
from tuner.width import fitting, measure

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
        said = f"the study's 8 epochs are used up (--total-epochs), {ended} of 8 trials have ended; raise that limit to go on"
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
    assert "width 8, of trial-steps a second" in found.said(100)
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
    assert measure(Gaining, made, processes=4).width == 8, "no more than half of the trials in all of them"

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


def test_a_forecast_leaves_out_what_has_no_room_even_alone() -> None:
    """As the search does; a baseline of that shape too. What has room for fewer is no forecast."""

    class Short(ScriptedTrainer):
        def rehearse(self, steps: int) -> float:
            if self.shape.hidden_dim == 32 and len(self.slots) > most:
                raise MemoryError("no room")
            return super().rehearse(steps)

    notes = [{"name": str(size), "lr": 1e-3, "hidden_dim": size} for size in (16, 32)]
    made, most = plain(budget={"trials": 8, "epochs": 3}, baselines=notes), 0
    found = forecast(Short, made, 4)
    assert [[shape["hidden_dim"] for shape in found[key]] for key in ("shapes", "no_room")] == [[16], [32]]
    assert found["confirmation"]["runs"] == (made.confirm.top + 1) * made.confirm.seeds
    assert told(found)[-1].startswith("  hidden_dim 32, ")
    assert told(found)[-1].endswith(": no room even for one trial")
    most = 1
    with pytest.raises(MemoryError, match="no room"):
        forecast(Short, made, 4)


def test_a_forecast_takes_no_longer_than_the_minutes() -> None:
    """And says what all trials would take."""
    found = forecast(ScriptedTrainer, plain(budget={"trials": 800, "epochs": 3, "minutes": 10}), 4)
    assert (found["seconds_of_all"], found["seconds_at_most"]) == (6000, 600)
    said = "at most 0 h 10 min, the study's time limit; all trials would take 1 h 40 min if each shape is drawn equally often; memory"
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
    assert told(found)[1].startswith("at most 0 h 30 min; 0 h 20 min if each shape is drawn equally often; memory")


def test_a_forecast_knows_how_many_processes_share_the_trials() -> None:
    """Each of two has half of them; the confirmation is one's own."""
    notes = [{"name": "notes", "lr": 1e-3, "hidden_dim": 16}]
    made = plain(budget={"trials": 8, "epochs": 3}, baselines=notes)
    alone, shared = (forecast(ScriptedTrainer, made, 4, processes=many) for many in (1, 2))
    assert shared["seconds_at_most"] * 2 == alone["seconds_at_most"] == 60
    assert shared["confirmation"] == alone["confirmation"]
    assert told(shared)[0] == "8 trials, 24 epochs if none is stopped, 4 at once in each of 2 processes"


def test_a_forecast_counts_what_confirms_the_best() -> None:
    """The best three with two seeds each, and one baseline, of three epochs."""
    notes = [{"name": "notes", "lr": 1e-3, "hidden_dim": 16}]
    found = forecast(ScriptedTrainer, plain(budget={"trials": 8, "epochs": 3}, baselines=notes, confirm={"top": 3, "seeds": 2}), 4)
    assert found["confirmation"] == {"runs": 8, "epochs": 24, "seconds_at_most": 24 * 10 // 4}
    assert told(found)[2] == "then 8 runs, 24 epochs, to confirm the best beside the baselines: at most 0 h 1 min"
    alone = forecast(ScriptedTrainer, plain(budget={"trials": 2, "epochs": 3}, confirm={"top": 3, "seeds": 2}), 4)
    assert told(alone)[2] == "then 4 runs, 12 epochs, to confirm the best: at most 0 h 0 min"
    nothing = forecast(ScriptedTrainer, plain(budget={"trials": 1, "epochs": 3}, baselines=notes, enqueue=[]), 4)
    assert nothing["confirmation"]["runs"] == 0
    assert not any("confirm" in line for line in told(nothing))


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
    """One line, no traceback."""
    monkeypatch.setattr("tuner.job.forecast", Mock(side_effect=MemoryError("out of memory")))
    made = plain(search={"lr": SPACE["lr"]}, fixed={"hidden_dim": 16}, enqueue=[])
    request = SearchRequest(made, f"sqlite:///{tmp_path}/t.db", 4096, "cpu", None, False, tmp_path)
    with pytest.raises(TunerError, match=r"cpu has no room for 4096 trials of this study at once \(out of memory\); try a smaller --width"):
        dry_run(request, Console(file=io.StringIO()))


class Ticking:
    """A clock that goes on by a second whenever it is looked at."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_the_budget_of_gpu_minutes_is_that_of_all_runs(tmp_path: Path) -> None:
    """It ends the search, leaves nothing to the next run, and does not count a CPU's time."""
    budget = {"trials": 40, "epochs": 3, "gpu_minutes": 0.5}
    made = plain(budget=budget, search={"lr": SPACE["lr"]}, enqueue=[])
    for run in range(2):
        listener = Listener()
        study, trainers, _ = scripted(tmp_path, made, 4, observer=listener, device="cuda", clock=Ticking())
        assert any(line.startswith("the study's 0.5 GPU-minutes are used up (--gpu-minutes)") for line in listener.told)
        assert bool(sum(len(trainer.widths) for trainer in trainers)) == (run == 0)
    ended = [trial for trial in study.get_trials() if trial.state.is_finished()]
    assert len(ended) < 40
    (tmp_path / "cpu").mkdir()
    study, _, _ = scripted(tmp_path / "cpu", made, 4, clock=Ticking())
    assert [trial.state for trial in study.get_trials()] == [TrialState.COMPLETE] * 40


def test_a_trial_with_settings_of_another_space_fails_alone(tmp_path: Path) -> None:
    """Put in without `tuner enqueue`, by whoever can write to the database; its owner may be anything."""
    made = plain(enqueue=[])
    storage = BufferedStorage(open_storage(f"sqlite:///{tmp_path}/tuner.db"))
    study = open_study(storage, made, corpus_of("synthetic", 30, 1))
    study.enqueue_trial({"lr": 7.0})
    study.enqueue_trial({"lr": 2e-3, "batch_size": 16})
    study.enqueue_trial({"lr": 2e-3, "hidden_dim": 32.0})
    study.add_trial(create_trial(state=TrialState.WAITING, params={"momentum": 0.5}, distributions={"momentum": FloatDistribution(0, 1)}))
    left = storage.backend.create_new_trial(study._study_id, create_trial(state=TrialState.RUNNING, user_attrs={OWNER: "x"}))
    why = {0: "lr = 7.0 cannot be reached; allowed:", 2: "hidden_dim = 32.0 is not allowed", 3: "'momentum' is not searched; allowed: lr"}
    for _ in range(2):
        study, _, _ = scripted(tmp_path, made, 2)
        trials = study.get_trials()
        assert {trial.number: trial.state for trial in trials if trial.state != TrialState.COMPLETE} == dict.fromkeys(why, TrialState.FAIL)
        for number, fault in why.items():
            assert trials[number].user_attrs["verdict"]["reason"].startswith(f"its settings are not of this study: {fault}")
        assert trials[1].params["lr"] == 2e-3
        assert study._storage.get_trial(left).state == TrialState.COMPLETE


@pytest.mark.parametrize("what", [None, "x", 7, [], {}, {**owner(0), "seat": "0"}, {**owner(0), "seen": None}, {**owner(0), "pid": "1"}])
def test_an_owner_that_nobody_of_us_has_written_is_none(what: Any) -> None:
    """Its trial is taken up, as one that was left."""
    assert not alive(what)
    assert not itself(what)
    assert not in_seat(what, 0)
    assert seat_of(what) is None
    assert seat_of(owner(0)) == (owner(3)["host"], 0)


MORE = ", up to 2 for each core; a larger budget of trials allows more, for the later ones learn from those before"


def test_on_many_cores_half_of_the_trials_learn_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else all begin before any has ended. With few cores, or few trials, there are as many as the cores have room for."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    widths = {trials: fitting("cpu", ScriptedTrainer, plain(budget={"trials": trials, "epochs": 1})) for trials in (100, 24, 3)}
    assert {trials: found.width for trials, found in widths.items()} == {100: 32, 24: 12, 3: 4}
    assert widths[100].said(100) == "width 32, up to 2 for each core"
    assert widths[24].said(24) == "width 12" + MORE
    assert widths[3].said(3) == "width 3" + MORE
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert fitting("cpu", ScriptedTrainer, plain(budget={"trials": 24, "epochs": 1})).width == 4


def test_of_a_hundred_stops_as_many_are_audited_as_is_said() -> None:
    """By the trial's number, so that it repeats."""
    bench = Bench(plain(pruning={"audit": 0.05}), 0.0)
    assert 450 < sum(map(bench._audited, range(10_000))) < 550


def test_a_study_that_is_deleted_ends_its_search(tmp_path: Path) -> None:
    """As in the dashboard, between two epochs or in one. A new study, to which SQLite gives its number, has nothing of it."""
    backend = open_storage(f"sqlite:///{tmp_path}/tuner.db")

    def delete(again: bool) -> None:
        (there,) = backend.get_all_studies()
        backend.delete_study(there._study_id)
        if again:
            open_study(BufferedStorage(backend), plain(name="next"), corpus_of("synthetic", 30, 1))

    class Between(Observer):
        def __init__(self, again: bool) -> None:
            self.again, self.epochs = again, 0

        def epoch(self, search: Any) -> None:
            self.epochs += 1
            if self.epochs == 2:
                delete(self.again)

    class AtWork(ScriptedTrainer):
        def train_epoch(self) -> list[Step | None]:
            if any(slot is not None and slot.epoch == 1 for slot in self.slots):
                delete(again)
            return super().train_epoch()

    gone = "the study has been deleted while it was searched"
    for again in (False, True):
        ticks = itertools.count(0, 3)
        with pytest.raises(StudyError, match=gone):
            scripted(tmp_path, plain(search={"lr": SPACE["lr"]}, enqueue=[]), 8, AtWork, clock=lambda ticks=ticks: float(next(ticks)))
        for study in backend.get_all_studies():
            backend.delete_study(study._study_id)
        with pytest.raises(StudyError, match=gone):
            scripted(tmp_path, plain(), 2, observer=Between(again))
    (left,) = backend.get_all_studies()
    assert {t.state for t in backend.get_all_trials(left._study_id)} == {TrialState.WAITING}
    assert not [name for name in left.user_attrs if name.startswith(SECONDS)]
