"""Several processes on one study, and commands that reach a running search from outside: real processes, a real kill."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from rich.console import Console

from model import devices
from model.devices import devices_of_workers
from model.errors import DeviceError
from model.trainer import EpochRecord
from tests.conftest import Called
from tests.kills import HELD, HOLDING
from tests.tuner.scripted import corpus_of
from tests.vehicle import light
from tuner import crew, preparation
from tuner.artifacts import Artifacts, Folder
from tuner.buffer import BufferedStorage
from tuner.crew import Crew
from tuner.definition import load_definition, validated
from tuner.job import run_search
from tuner.ownership import SILENT_SECONDS, alive, gone, owner
from tuner.saving import SavingTrainer
from tuner.storage import open_storage
from tuner.study import find_study, open_study
from tuner.tables import CurveTable

TUNER = str(Path(sys.executable).with_name("tuner"))
SEARCH = ("search", "quick.toml", "--num-stories", "30", "--no-confirm", "--width", "2")
"""Of the file that `light` writes."""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command to its end."""
    light(folder)
    return subprocess.run([TUNER, *arguments], cwd=folder, capture_output=True, text=True, check=False)


def begun(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A command under way."""
    light(folder)
    return subprocess.Popen([TUNER, *arguments], cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def until(process: subprocess.Popen[str], text: str) -> None:
    """Reads what a command says up to a line with this text."""
    assert process.stderr is not None
    assert any(text in line for line in process.stderr), f"it never said {text!r}"


def study_in(folder: Path) -> optuna.Study:
    """The study that a search in this folder made."""
    return find_study(open_storage(f"sqlite:///{folder}/runs/tuner.db", create=False), "quick")


def test_two_workers_share_a_study_and_its_budget(tmp_path: Path) -> None:
    """Every trial once, by both, not one too many, and nothing is locked; both say what they do in the form that was asked for."""
    words = ("search", "quick", *SEARCH[2:])  # whose baselines keep the first busy while the other begins
    done = run(tmp_path, *words, "--workers", "2", "--trials", "9", "--epochs", "6", "--log-format", "json")
    assert done.returncode == 0, done.stderr
    assert "locked" not in done.stderr
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert {event["trial"] for event in events if event["event"] == "ended"} == set(range(9))
    study = study_in(tmp_path)
    trials = study.get_trials()
    assert len(trials) == 9
    assert all(t.state.is_finished() for t in trials)
    assert len({t.user_attrs["owner"]["pid"] for t in trials}) == 2
    assert all(len(t.intermediate_values) == t.user_attrs["epochs_run"] for t in trials)
    drawn = Counter(str(t.params) for t in trials if "baseline" not in t.user_attrs and "suggested" not in t.user_attrs)
    assert set(drawn.values()) == {1}


def test_a_killed_workers_trials_are_taken_up_by_another_where_they_were(tmp_path: Path) -> None:
    """At once, since the dead process was on this host; each exactly once."""
    light(tmp_path)
    holding = [sys.executable, "-c", HOLDING, *SEARCH, "--trials", "4", "--epochs", "12"]
    first = subprocess.Popen(holding, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    for _ in range(HELD):
        until(first, "epoch of 2")
    other = begun(tmp_path, "worker", "quick", "--width", "2")
    until(other, "trial 3 starts")
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert other.stderr is not None
    rest = other.stderr.read()
    assert other.wait() == 0, rest
    assert rest.count("goes on after epoch") == 2
    study = study_in(tmp_path)
    trials = [t for t in study.get_trials() if t.state != TrialState.WAITING]
    curves = CurveTable(open_storage(f"sqlite:///{tmp_path}/runs/tuner.db"), study._study_id).read()
    assert len(trials) == 4
    assert {t.state for t in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert {t.user_attrs["owner"]["pid"] for t in trials} == {other.pid}
    for trial in trials:
        assert [point["epoch"] for point in curves[trial.number]] == list(range(1, trial.user_attrs["epochs_run"] + 1))


def test_a_search_is_stopped_from_another_terminal_and_goes_on(tmp_path: Path, here: Callable[..., Called]) -> None:
    """With status 0: it was asked to."""
    search = begun(tmp_path, *SEARCH, "--trials", "4", "--epochs", "300", "-v")
    until(search, "epoch 1 of 300")
    asked = run(tmp_path, "stop", "quick")
    assert asked.returncode == 0, asked.stderr
    assert search.stderr is not None
    rest = search.stderr.read()
    assert search.wait() == 0, rest
    trials = study_in(tmp_path).get_trials()
    assert sum(t.state == TrialState.RUNNING for t in trials) == 2
    status = here(tmp_path, "status", "quick").stdout
    assert "0 running, 2 interrupted (tuner search quick@synthetic-30 goes on with them)" in status
    assert re.search(r"; [1-9]\d* epochs run, 0 saved", status), status  # those of trials that have not ended
    assert "trial 3 of quick@synthetic-30 waits and has not begun" in here(tmp_path, "train", "--from", "quick:3").stderr
    assert "2 were interrupted; there is nothing to stop" in here(tmp_path, "stop", "quick").stderr
    again = begun(tmp_path, *SEARCH, "--trials", "4", "--epochs", "300")
    until(again, "goes on after epoch")
    again.kill()
    again.wait()


def test_a_trial_of_ones_own_is_the_next_to_begin(tmp_path: Path, here: Callable[..., Called]) -> None:
    """What cannot be reached is refused with what is allowed."""
    light(tmp_path)
    assert here(tmp_path, *SEARCH, "--trials", "2", "--epochs", "1").status == 0
    choices = load_definition("quick").search["hidden_dim"].corners()
    done = run(tmp_path, "enqueue", "quick", "lr=3e-3", f"hidden_dim={choices[0]}")
    assert done.returncode == 0, done.stderr
    assert "enqueued" in done.stdout
    known = len(study_in(tmp_path).get_trials())
    assert f"search on with --trials {known}" in done.stderr
    assert "there is nothing to stop" in here(tmp_path, "stop", "quick").stderr
    for wrong, why in {"lr=1e9": "cannot be reached; allowed: low", "hidden_dim": "is not NAME=VALUE", "x=1": "is not searched"}.items():
        refused = here(tmp_path, "enqueue", "quick", wrong)
        assert refused.status == 2
        assert why in refused.stderr
    assert here(tmp_path, *SEARCH, "--trials", "7", "--epochs", "1").status == 0
    mine = [t for t in study_in(tmp_path).get_trials() if t.user_attrs.get("suggested") == "by hand"]
    assert len(mine) == 1
    assert mine[0].params["lr"] == pytest.approx(3e-3)
    assert mine[0].state.is_finished()


def test_workers_of_a_search_end_with_it_however_it_ends(tmp_path: Path) -> None:
    """Killed with kill -9 it can tell nobody: its worker sees it, leaves what it trains to whoever comes, and is gone."""
    search = begun(tmp_path, *SEARCH, "--workers", "2", "--trials", "8", "--epochs", "2000")
    assert search.stderr is not None
    for _ in range(4):
        until(search, " starts")
    (worker,) = {t.user_attrs["owner"]["pid"] for t in study_in(tmp_path).get_trials() if "owner" in t.user_attrs} - {search.pid}
    watched = os.pidfd_open(worker)
    search.kill()
    search.wait()
    assert select.select([watched], [], [], 120)[0], "it trains on"
    os.close(watched)
    rest = search.stderr.read()
    assert rest.endswith("interrupted; the search continues when it is run again\n"), rest


def test_the_minutes_of_a_worker_are_those_of_its_search(tmp_path: Path, here: Callable[..., Called]) -> None:
    """They began when that did, which was long ago here."""
    light(tmp_path)
    assert here(tmp_path, *SEARCH, "--trials", "9", "--epochs", "2", "--total-epochs", "1", "--timeout", "1").status == 0
    words = [TUNER, "worker", "quick", "--of-search", "0"]
    late = subprocess.Popen(words, cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert late.stderr is not None
    said = late.stderr.read()
    assert late.wait() == 0, said
    assert "the minutes had no room for 'original" in said


def test_a_command_is_run_at_the_end(tmp_path: Path) -> None:
    """It knows the study; one that fails is told of, and the search has succeeded all the same."""
    code = "import os, pathlib, sys; pathlib.Path('ended').write_text(os.environ['TUNER_STUDY']); sys.exit(3)"
    done = run(tmp_path, *SEARCH, "--trials", "1", "--epochs", "1", "--on-end", f'{sys.executable} -c "{code}"')
    assert done.returncode == 0
    assert (tmp_path / "ended").read_text() == "quick@synthetic-30"
    assert "ended with status 3" in done.stderr
    more = run(tmp_path, *SEARCH, "--trials", "2", "--epochs", "1", "--json", "--on-end", "echo over")
    assert json.loads(more.stdout)["study"] == "quick@synthetic-30"
    assert "over" in more.stderr.splitlines()


def test_a_device_that_fails_is_left_out_and_its_trials_go_to_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken in the third epoch of the process that began the search: the other worker ends all trials, those that were running too."""
    monkeypatch.chdir(tmp_path)
    advanced = []

    class Breaking(SavingTrainer):
        def train_epoch(self) -> list[EpochRecord | None]:
            advanced.append(1)
            if len(advanced) > 2:
                raise DeviceError("the device has failed: unspecified launch failure")
            return super().train_epoch()

    monkeypatch.setattr(preparation, "find_trainer", lambda name: Breaking)
    content = {"data": {"source": "synthetic", "stories": 30, "seed": 1}, "budget": {"trials": 6, "epochs": 3}, "pruning": {}}
    made = validated({"name": "broken", "search": {"lr": {"low": 1e-3, "high": 4e-3}}, "fixed": {"hidden_dim": 16}, **content}, "the test")
    base = preparation.SearchRequest(made, f"sqlite:///{tmp_path}/runs/tuner.db", 2, "cpu", None, False, confirm=False)
    said = io.StringIO()
    with pytest.raises(DeviceError, match="unspecified launch failure"):
        run_search(base, Console(file=said, width=200))
    advanced.clear()
    with pytest.raises(DeviceError, match="unspecified launch failure"):
        run_search(dataclasses.replace(base, fresh=True, others=("cuda:99",)), Console(file=said, width=200))
    assert "the worker on cuda:99 ended with status 2" in said.getvalue()
    advanced.clear()
    found = run_search(dataclasses.replace(base, fresh=True, others=("cpu",), confirm=True), Console(file=said, width=200))
    assert f"the best is not confirmed: cpu has failed; tuner confirm {found.summary['study']} --device D" in said.getvalue()
    assert found.summary["confirmation"] is None
    assert "cpu is left out: the device has failed: unspecified launch failure; its trials go to the others" in said.getvalue()
    trials = find_study(open_storage(base.storage), found.summary["study"]).get_trials()
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 6
    assert [len(t.intermediate_values) for t in trials] == [3] * 6
    assert len({t.user_attrs["owner"]["pid"] for t in trials}) == 1


def test_who_could_not_be_seen_while_the_storage_was_away_is_not_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence on another host is counted from when the storage was back; who said that he leaves is gone all the same."""
    there = {"host": "elsewhere", "pid": 1, "started": "1", "seat": 0, "seen": 1000.0}
    monkeypatch.setattr("time.time", lambda: 1000.0 + 2 * SILENT_SECONDS)
    assert not alive(there)
    assert alive(there, back=1000.0 + 1.5 * SILENT_SECONDS)
    assert not alive(there, back=1000.0 + 0.5 * SILENT_SECONDS)
    assert not alive({**gone(0), "host": "elsewhere"}, back=1000.0 + 1.5 * SILENT_SECONDS)


def test_where_there_is_no_proc_a_process_is_known_by_what_ps_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a Mac: this one lives, one that has ended does not, nor one of its number that began at another time."""
    monkeypatch.setattr("tuner.ownership.PROCESSES", tmp_path / "none")
    mine = owner(0)
    assert mine["started"]
    assert alive(mine)
    assert not alive({**mine, "started": "Thu Jan 1 00:00:00 1970"})
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not alive({**mine, "pid": ended.pid})


def test_a_dry_run_measures_and_begins_nothing(tmp_path: Path) -> None:
    """One object with `--json`; no storage is made."""
    done = run(tmp_path, *SEARCH, "--epochs", "3", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["seconds_at_most"] > 0
    assert found["epochs_at_most"] == 3 * found["trials"]
    assert not (tmp_path / "runs" / "tuner.db").exists()


def test_each_gpu_of_a_machine_has_a_worker_unless_something_else_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `auto` alone; where there are more workers than GPUs they share them."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert devices_of_workers("auto", None) == ["auto"], "a driver that this torch cannot use"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert devices_of_workers("auto", None) == ["cuda:0", "cuda:1", "cuda:2"]
    assert devices_of_workers("auto", 1) == ["cuda:0"]
    assert devices_of_workers("auto", 4) == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]
    assert devices_of_workers("cuda:1", None) == ["cuda:1"]
    assert devices_of_workers("cpu", 2) == ["cpu", "cpu"]


def test_while_workers_are_waited_for_the_search_is_shown_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it publishes has what they do; the table is drawn by itself."""
    monkeypatch.setattr(crew, "POLL_SECONDS", 0.05)
    waited, told = list[int](), list[str]()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text("raise SystemExit(9)")  # in the researcher's folder, and nothing of ours
    url = f"sqlite:///{tmp_path}/none.db"  # there is no such study: the worker ends, some seconds later
    with Crew(
        "none", url, "a", ("cpu",), 1, threads=1, began=0.0, tell=told.append, alone=lambda _: True, meanwhile=lambda: waited.append(1)
    ) as begun:
        pass
    assert len(waited) > 1
    assert begun.failed
    assert told == ["the worker on cpu ended with status 2; its trials went to the others"]


def test_no_more_models_are_kept_than_asked_for_whoever_trained_them(tmp_path: Path) -> None:
    """Asked for when the search is over already: what is too much goes, from the artifacts too."""
    content = {"data": {"source": "synthetic", "stories": 30, "seed": 1}, "budget": {"trials": 5, "epochs": 1}, "pruning": {}}
    made = validated({"name": "kept", "search": {"lr": {"low": 1e-3, "high": 4e-3}}, "fixed": {"hidden_dim": 16}, **content}, "the test")
    base = preparation.SearchRequest(made, f"sqlite:///{tmp_path}/t.db", 2, "cpu", None, False, tmp_path, confirm=False)
    said = Console(file=io.StringIO())
    run_search(base, said)
    assert len(list(tmp_path.glob("checkpoints/**/trial-*.safetensors"))) == 5
    run_search(dataclasses.replace(base, keep=2), said)
    left = sorted(tmp_path.glob("checkpoints/**/trial-*.safetensors"))
    study = find_study(open_storage(base.storage), "kept")
    best = sorted(study.get_trials(), key=lambda trial: -trial.value)[: max(2, made.confirm.top)]
    assert {path.name for path in left} == {f"trial-{trial.number}.safetensors" for trial in best}
    kept = Artifacts(Folder(tmp_path / "artifacts"), study.user_attrs["mark"])
    numbers = {trial.number for trial in study.get_trials() if kept.get(f"trial-{trial.number}.safetensors", tmp_path / "got")}
    assert numbers == {trial.number for trial in best}


def test_a_model_that_cannot_be_removed_ends_no_search(tmp_path: Path) -> None:
    """It is told of; the others go."""
    content = {
        "data": {"source": "synthetic", "stories": 30, "seed": 1},
        "budget": {"trials": 3, "epochs": 1},
        "pruning": {},
        "confirm": {"top": 1},
    }
    made = validated({"name": "kept", "search": {"lr": {"low": 1e-3, "high": 4e-3}}, "fixed": {"hidden_dim": 16}, **content}, "the test")
    base = preparation.SearchRequest(made, f"sqlite:///{tmp_path}/t.db", 2, "cpu", None, False, tmp_path, confirm=False)
    run_search(base, Console(file=io.StringIO()))
    study = find_study(open_storage(base.storage), "kept")
    worst = min(study.get_trials(), key=lambda trial: trial.value)
    Path(worst.user_attrs["checkpoint"]).unlink()
    Path(worst.user_attrs["checkpoint"]).mkdir()
    said = io.StringIO()
    run_search(dataclasses.replace(base, keep=1), Console(file=said, width=300))
    assert f"the model of trial {worst.number} could not be removed (" in said.getvalue()


def test_a_worker_serves_its_own_figures(tmp_path: Path, here: Callable[..., Called]) -> None:
    """Where it is asked to, as each pod of a job."""
    light(tmp_path)
    assert here(tmp_path, *SEARCH, "--trials", "2", "--epochs", "1").status == 0
    study = study_in(tmp_path)
    definition = {**study.user_attrs["definition"]}
    study.set_user_attr("definition", {**definition, "budget": {**definition["budget"], "trials": 3}})
    done = run(tmp_path, "worker", "quick", "--metrics-port", "0", "--width", "1")
    assert done.returncode == 0, done.stderr
    assert "figures for Prometheus: http://127.0.0.1:" in done.stderr


def test_a_worker_is_told_no_password_where_all_can_read_it_and_no_signal_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its command line is for all to see; Ctrl-C reaches it through the search alone."""
    begun: list[tuple[list[str], dict[str, Any]]] = []

    class Begun:
        stdin, returncode = io.BytesIO(), 0

        def __init__(self, command: list[str], **options: Any) -> None:
            begun.append((command, options))

        def wait(self, timeout: float | None = None) -> int:
            return 0

    monkeypatch.setattr(crew.subprocess, "Popen", Begun)
    url = "postgresql+psycopg://me:very secret@host/name"
    with Crew("s", url, "a", ("cpu", "cpu"), 1, threads=1, began=0.0, tell=print, alone=lambda _: True, meanwhile=lambda: None):
        pass
    assert len(begun) == 2
    for command, options in begun:
        assert not any("secret" in word for word in command)
        assert options["env"]["TUNER_STORAGE"] == url
        assert options["start_new_session"] is True


def test_a_cpus_cores_are_counted_on_each_machine(tmp_path: Path) -> None:
    """What another had is not kept with the study."""
    content = {"data": {"source": "synthetic", "stories": 30, "seed": 1}, "budget": {"trials": 40, "epochs": 1}, "pruning": {}}
    made = validated({"name": "many", "search": {"lr": {"low": 1e-3, "high": 4e-3}}, **content}, "the test")
    url, said = f"sqlite:///{tmp_path}/t.db", Console(file=io.StringIO())
    study = open_study(BufferedStorage(open_storage(url)), made, corpus_of("synthetic", 30, 1))
    study.set_user_attr("width", {"cpu": 128, "cuda": 64})
    assert preparation.again("many", url, "cpu", None, said, None).width(said, keep=True) == 2 * torch.get_num_threads()
    assert study.user_attrs["width"] == {"cpu": 128, "cuda": 64}


def test_no_process_begins_where_a_quota_leaves_one_core_to_each_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers in a container with two of many cores have one lane each."""
    (tmp_path / "cpu.max").write_text("200000 100000")
    monkeypatch.setattr(devices, "GROUPS", tmp_path)
    begun: list[int] = []

    @contextlib.contextmanager
    def ahead(lanes: int) -> Iterator[list[Any]]:
        begun.append(lanes)
        yield []

    monkeypatch.setattr(preparation, "ahead", ahead)
    made = load_definition("quick")
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    try:
        for others in ((), ("cpu",)):
            base = preparation.SearchRequest(made, f"sqlite:///{tmp_path}/t.db", None, "cpu", None, False, tmp_path, others=others)
            with preparation.started_ahead(base):
                pass
            torch.set_num_threads(8)
    finally:
        torch.set_num_threads(before)
    assert begun == [2, 0]
