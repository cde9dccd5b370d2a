"""Trainers in processes of their own: the same numbers, and one that dies, hangs or talks nonsense costs its own trial alone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from optuna.trial import TrialState

from model.config import Hyperparameters, ModelShape
from model.corpus import Corpus, load_corpus
from tests.tuner.faulty import ENTRY, FAULTS
from tests.tuner.scripted import scripted
from tests.tuner.test_failures import plain
from tests.tuner.test_search import definition, ended, quiet, request
from tuner import preparation
from tuner.errors import DefinitionError, SearchError
from tuner.failures import Elsewhere
from tuner.job import run_search
from tuner.lanes import lanes_of
from tuner.remote import Processes, ahead
from tuner.saving import SavingTrainer
from tuner.seam import Held, Trainer
from tuner.storage import open_storage
from tuner.study import find_study
from tuner.trainers import find_trainer
from tuner.training import SYNTHETIC

SHAPE = ModelShape(hidden_dim=16, batch_size=16)
SETTINGS = [Hyperparameters(lr=3e-3, num_rules=2, epochs=4, seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Small."""
    return load_corpus("synthetic", 30, 1)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The faulty trainer, as a package that is installed."""
    package = tmp_path / "site" / "faulty-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(ENTRY)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


def test_a_trainer_that_cannot_be_made_is_an_error_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: Corpus) -> None:
    """Of a package whose module breaks off, or that takes no such shape."""
    package = tmp_path / "others-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[tuner.trainers]\nbroken = broken_at_once:make\nrefusing = refusing_shapes:make\n")
    (tmp_path / "broken_at_once.py").write_text("1 / 0\n")
    (tmp_path / "refusing_shapes.py").write_text("def make(shape, *others):\n    raise RuntimeError(f'not {shape.hidden_dim}')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DefinitionError, match=r"trainer = 'broken' \(broken_at_once:make\) cannot be imported: division by zero"):
        find_trainer("broken")
    assert find_trainer("symmetric") is SavingTrainer
    with pytest.raises(SearchError, match=r"trainer = 'refusing' cannot be made for .*RuntimeError: not 16 .*; mend it and run it again"):
        find_trainer("refusing")(SHAPE, corpus, 0, "cpu", SYNTHETIC)


def test_a_corpus_is_the_same_again(corpus: Corpus) -> None:
    """With what it leaves out, as JSON would bring it."""
    again = Corpus.of(corpus.content())
    assert (again.fingerprint, again.left_out, again.vocabulary.symbols) == (corpus.fingerprint, corpus.left_out, corpus.vocabulary.symbols)


def train(trainer: Trainer, path: Path) -> tuple[list[Any], list[torch.Tensor]]:
    """Refills, narrows, goes on from a state and saves; what was seen, and all numbers at the end."""
    seen: list[Any] = []
    trainer.resize((), 2)
    trainer.load(0, SETTINGS[0])
    trainer.load(1, SETTINGS[1])
    seen += [trainer.train_epoch(), trainer.evaluate()]
    state = trainer.held(0)
    trainer.load(0, SETTINGS[2])
    seen += [trainer.train_epoch(), trainer.evaluate()]
    trainer.resize([1, 0], 3)
    trainer.resume(2, SETTINGS[0], state)
    seen += [trainer.train_epoch(), trainer.evaluate()]
    trainer.save(2, path, trainer.evaluate()[2])  # type: ignore[arg-type]
    seen.append(trainer.tally())
    plainly = [[None if one is None else {n: getattr(one, n) for n in names(one)} for one in several] for several in seen]
    return plainly, [tensor for slot in range(3) for _, tensor in sorted(trainer.held(slot).tensors.items())]


def names(one: object) -> tuple[str, ...]:
    """What the seam knows of it."""
    for fields in (("epoch", "loss", "losses", "gradient_norm"), ("objective", "round_trip", "figures"), ("stated", "right")):
        if all(hasattr(one, name) for name in fields):
            return fields
    raise AssertionError(one)


def test_a_process_trains_as_this_one_would(corpus: Corpus, tmp_path: Path) -> None:
    """To the bit: figures, states, the file that is saved."""
    here, numbers = train(SavingTrainer(SHAPE, corpus, 0, "cpu", SYNTHETIC), tmp_path / "here")
    with Processes(2, "symmetric", corpus, "cpu", SYNTHETIC) as processes:
        remote = processes.make_trainer(SHAPE, 0)
        there, others = train(remote, tmp_path / "there")
        assert remote.steps_an_epoch == SavingTrainer(SHAPE, corpus, 1, "cpu", SYNTHETIC).steps_an_epoch
        assert remote.rehearse(2) > 0
        state = remote.held(0)
        with pytest.raises(ValueError, match="layout"):
            remote.resume(0, SETTINGS[0], Held(state.tensors, {**state.notes, "layout": "another"}))
        assert remote.seconds["training"] > 0 < remote.seconds["evaluating"]
    assert repr(there).replace("[", "(").replace("]", ")") == repr(here).replace("[", "(").replace("]", ")")
    assert all(torch.equal(one, other) for one, other in zip(numbers, others, strict=True))
    assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()


def test_a_search_in_processes_finds_what_it_finds_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one in two lanes, and what confirms it, to the bit; afterwards no process is left."""
    found, asked_for, ask = [], list[str](), Processes.ask

    def counted(self: Processes, body: Any, tensors: Any) -> Any:
        asked_for.append(body["call"])
        return ask(self, body, tensors)

    monkeypatch.setattr(Processes, "ask", counted)
    for folder, pays in (("with", 0), ("without", 1 << 40)):
        monkeypatch.setattr(preparation, "PROCESSES_FROM", pays)
        (tmp_path / folder).mkdir()
        asked = request(tmp_path / folder, definition(confirm={"top": 2, "seeds": 2}))
        study = find_study(open_storage(asked.storage), run_search(asked, quiet()).summary["study"])
        found.append((ended(study), study.user_attrs["confirmed"]))
        assert not trained_by()
    assert found[0] == found[1]
    assert len(asked_for) > 10, "the first was trained in processes"
    assert "tally" in asked_for
    assert len(found[0][1]["confirmed"]) > 1


REASONS = {
    "raises": ("failed", r"ZeroDivisionError: the marked one \(faulty.py, line \d+\)"),
    "hangs": ("failed", "TrainerHangs: no epoch within"),
    "crashes": ("failed", "the process that trained it ended with SIGSEGV"),
    "is killed": ("out_of_memory", "killed, as is done where memory runs short"),
    "leaves": ("failed", "the process that trained it ended with exit status 3"),
    "talks": ("failed", "the trainer returned {'excellent'} as objective, which is no number"),
}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("faults", [("raises", "crashes", "talks", "leaves"), ("hangs",), ("is killed",)])
def test_a_trial_at_fault_costs_itself_alone(faults: tuple[str, ...], corpus: Corpus, tmp_path: Path) -> None:
    """Also one that takes its process with it; all others have the curves that they have in one process."""
    marked = {FAULTS[fault][0]: REASONS[fault] for fault in faults}
    put_in = [{"name": "good", "lr": 1e-3, "hidden_dim": 16}, *({"name": str(r), "lr": r, "hidden_dim": 16} for r in marked)]
    made = plain(enqueue=put_in, budget={"trials": 6, "epochs": 2})
    for folder in ("sound", "faulty"):
        (tmp_path / folder).mkdir()
    sound, _, _ = scripted(tmp_path / "sound", made, 4, lanes=2)
    watch = 5.0 if "hangs" in faults else 60.0  # on a busy machine a sound epoch takes seconds too
    # one more than there are lanes, so that what is asked in the place of one that hung has begun: `watch` would count its beginning too
    with Processes(3, "faulty", corpus, "cpu", SYNTHETIC) as processes:
        study, _, _ = scripted(tmp_path / "faulty", made, 4, processes.make_trainer, lanes=2, watch=watch)  # type: ignore[arg-type]
    for trial, other in zip(study.get_trials(), sound.get_trials(), strict=True):
        if trial.params["lr"] in marked:
            cause, reason = marked.pop(trial.params["lr"])
            assert trial.user_attrs["verdict"]["cause"] == cause
            assert re.search(reason, trial.user_attrs["verdict"]["reason"])
        else:
            assert (trial.state, trial.values, trial.intermediate_values) == (other.state, other.values, other.intermediate_values)
            assert trial.state == TrialState.COMPLETE
    assert not marked


@pytest.mark.usefixtures("installed")
def test_where_no_process_can_be_started_no_trial_is_blamed(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search says so and can be run again: none can be started at its beginning, or none any more, when one has died."""
    with pytest.raises(SearchError, match=r"exit status 5"), Processes(2, "still", corpus, "cpu", SYNTHETIC):
        pytest.fail("it began")
    with Processes(2, "faulty", corpus, "cpu", SYNTHETIC) as processes:
        monkeypatch.setenv("TUNER_TEST_STILL", "1")
        with pytest.raises(SearchError, match=r"exit status 5"):
            scripted(
                tmp_path, plain(enqueue=[{"name": "bad", "lr": FAULTS["leaves"][0], "hidden_dim": 16}]), 4, processes.make_trainer, lanes=2
            )  # type: ignore[arg-type]
    storage = open_storage(f"sqlite:///{tmp_path}/tuner.db")
    (study,) = storage.get_all_studies()
    assert {trial.state for trial in storage.get_all_trials(study._study_id)} == {TrialState.RUNNING}


class Interrupted(Exception):
    """By a signal."""


@pytest.mark.usefixtures("installed")
def test_an_answer_that_is_awaited_can_be_broken_off(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that was asked is ended, another one takes its place."""

    def interrupted(*_: object) -> None:
        raise Interrupted

    def interrupt() -> None:
        os.close(os.open(pipe, os.O_RDONLY))  # as soon as the other end is open
        os.kill(os.getpid(), signal.SIGUSR1)

    pipe, before = tmp_path / "pipe", signal.signal(signal.SIGUSR1, interrupted)
    os.mkfifo(pipe)
    monkeypatch.setenv("TUNER_TEST_PIPE", str(pipe))
    try:
        with Processes(1, "faulty", corpus, "cpu", SYNTHETIC) as processes:
            trainer = processes.make_trainer(SHAPE, 1)
            trainer.load(0, Hyperparameters(lr=FAULTS["hangs"][0]))
            (child,) = trained_by()
            assert len(trainer.train_epoch()) == 1
            threading.Thread(target=interrupt).start()
            with pytest.raises(Interrupted):
                trainer.train_epoch()
            trainer.load(0, Hyperparameters(lr=FAULTS["raises"][0]))
            assert not child.is_running()
            trainer.train_epoch()
            with pytest.raises(Elsewhere, match="ZeroDivisionError: the marked one"):
                trainer.train_epoch()
    finally:
        signal.signal(signal.SIGUSR1, before)


def trained_by(parent: int | None = None) -> list[psutil.Process]:
    """The processes that train for this one, or for another."""
    return [child for child in psutil.Process(parent).children() if "tuner.remote_end" in child.cmdline()]


@pytest.mark.usefixtures("installed")
def test_one_that_died_while_nobody_asked_is_nobodys_fault(corpus: Corpus) -> None:
    """Another takes its place."""
    with Processes(1, "faulty", corpus, "cpu", SYNTHETIC) as processes:
        trainer = processes.make_trainer(SHAPE, 1)
        trainer.load(0, Hyperparameters(lr=1e-3))
        for child in trained_by():
            child.kill()
            psutil.wait_procs([child], timeout=60)
        assert len(trainer.train_epoch()) == 1


def test_processes_that_began_ahead_are_used_and_others_end(corpus: Corpus) -> None:
    """One that has died meanwhile is not."""
    with ahead(3) as begun:
        before = {process._process.pid for process in begun}  # a process that has just begun has no command line yet
        last = psutil.Process(begun[-1]._process.pid)
        last.kill()
        psutil.wait_procs([last], timeout=60)
        with Processes(2, "symmetric", corpus, "cpu", SYNTHETIC, begun) as processes:
            assert processes.make_trainer(SHAPE, 1).steps_an_epoch > 0
            now = {child.pid for child in trained_by()}
            assert len(now - before) == 1
            assert len(now & before) == 2
            assert len(begun) == 1
    assert not trained_by()


def test_a_search_begins_processes_ahead_where_it_is_likely_to_use_them(tmp_path: Path) -> None:
    """It is asked about before the data are read: some seven sentences a story are expected."""
    for stories, likely in ((20, False), (1000, True)):
        made = definition(data={"source": "synthetic", "stories": stories, "seed": 1}, budget={"trials": 20, "epochs": 5})
        with preparation.started_ahead(request(tmp_path, made)) as begun:
            assert len(begun) == (lanes_of("cpu") if likely and lanes_of("cpu") > 1 else 0)
    assert not trained_by()


def test_a_model_that_cannot_be_written_is_an_error_of_the_disk(corpus: Corpus, tmp_path: Path) -> None:
    """As in one process, so that the search says what to do."""
    (tmp_path / "file").touch()
    with Processes(1, "symmetric", corpus, "cpu", SYNTHETIC) as processes:
        trainer = processes.make_trainer(SHAPE, 1)
        trainer.load(0, SETTINGS[0])
        trainer.train_epoch()
        (scored,) = trainer.evaluate()
        assert scored is not None
        with pytest.raises(OSError, match="file"):
            trainer.save(0, tmp_path / "file" / "model", scored)


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Callable[[], tuple[subprocess.Popen[bytes], list[psutil.Process]]]]:
    """A search in processes, as a user would start it, and its processes, once it trains."""
    program = "import tuner.preparation; tuner.preparation.PROCESSES_FROM = 0; from tuner.cli import entry; entry()"
    words = ["search", "quick", "--num-stories", "100", "--trials", "50", "--no-confirm", "--storage", f"sqlite:///{tmp_path}/tuner.db"]
    started: list[subprocess.Popen[bytes]] = []
    threads = {**os.environ, "OMP_NUM_THREADS": "2"}

    def start() -> tuple[subprocess.Popen[bytes], list[psutil.Process]]:
        search = subprocess.Popen(
            [sys.executable, "-c", program, *words], cwd=tmp_path, env=threads, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        started.append(search)
        assert search.stdout is not None
        for line in search.stdout:
            if b"starts" in line:
                break
        children = trained_by(search.pid)
        assert len(children) == 2
        return search, children

    yield start
    for search in started:
        search.kill()
        search.communicate()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_its_processes_end_with_a_search(
    end: signal.Signals, begun: Callable[[], tuple[subprocess.Popen[bytes], list[psutil.Process]]]
) -> None:
    """However that ends."""
    search, children = begun()
    search.send_signal(end)
    search.communicate(timeout=120)
    gone, alive = psutil.wait_procs(children, timeout=60)
    assert (len(gone), alive) == (len(children), [])
