"""A search that is watched by machines: figures for Prometheus, a pulse, events as lines of JSON."""

import dataclasses
import io
import json
import os
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

import tuner.watch
from tests.tuner.scripted import corpus_of, scripted
from tests.tuner.test_search import definition, quiet, request
from tuner import preparation
from tuner.buffer import BufferedStorage
from tuner.definition import StudyDefinition
from tuner.errors import StorageAway, TunerError
from tuner.events import JsonEvents, json_console
from tuner.health import LEAST_SECONDS, Pulse, health
from tuner.job import run_search
from tuner.metrics import Metrics, MetricsServer
from tuner.observer import Beating, Observer, Several, Watched
from tuner.progress import Others
from tuner.slots import Running
from tuner.storage import PATIENCE_SECONDS, open_storage
from tuner.study import find_study, open_study
from tuner.verdict import Verdict
from tuner.views import view
from tuner.watch import Rates, shown_at


def plain(**changes: Any) -> StudyDefinition:
    """Six trials of a script."""
    content = {"baselines": [], "pruning": {"explosion": {}}, "budget": {"trials": 12, "epochs": 3}}
    return definition(**{**content, **changes})


def scraped(port: int) -> dict[tuple[str, str], float]:
    """What Prometheus' own parser reads, by name and by cause or activity."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).read().decode()
    families = text_string_to_metric_families(text)
    return {(s.name, s.labels.get("cause", s.labels.get("activity", ""))): s.value for family in families for s in family.samples}


def test_prometheus_reads_the_figures_of_a_search(tmp_path: Path) -> None:
    """Counts agree with the study; while it runs slots are busy; afterwards nobody listens."""
    metrics, seen = Metrics("tiny@x", "cpu"), []
    with MetricsServer(metrics, "127.0.0.1", 0) as server:

        class Scraping(Observer):
            def epoch(self, search: Watched) -> None:
                seen.append(scraped(server.port))

        study, _, _ = scripted(tmp_path, plain(), 4, observer=Several(metrics, Scraping()))
        found = scraped(server.port)
    trials = study.get_trials()
    causes = [t.user_attrs["verdict"]["cause"] for t in trials]
    for cause in ("finished", "exploded", "outpaced"):
        assert found["tuner_trials_total", cause] == causes.count(cause)
    assert found["tuner_epochs_total", ""] == sum(len(t.intermediate_values) for t in trials)
    assert found["tuner_best_objective", ""] == max(t.value for t in trials if t.state == TrialState.COMPLETE)
    assert seen[0]["tuner_slots_busy", ""] == seen[0]["tuner_slots", ""] == 4
    assert {activity for name, activity in found if name == "tuner_seconds_total"} == {
        "training",
        "evaluating",
        "asking",
        "storing",
        "keeping",
    }
    assert found["tuner_seconds_total", "storing"] > 0
    assert "tuner_device_memory_bytes" not in {name for name, _ in found}
    with pytest.raises(OSError, match="refused"):
        scraped(server.port)


def test_figures_are_served_on_this_machine_only_unless_asked_otherwise(tmp_path: Path) -> None:
    """Loopback by default; an address that is taken is said."""
    with MetricsServer(Metrics("a", "cpu"), "127.0.0.1", 0) as server:
        assert server._server.server_address[0] == "127.0.0.1"
        with pytest.raises(TunerError, match=r"127.0.0.1:\d+ cannot be served on .*--metrics-port and --metrics-host"):
            MetricsServer(Metrics("b", "cpu"), "127.0.0.1", server.port)
    said = io.StringIO()
    made = request(tmp_path, definition(budget={"trials": 2, "epochs": 1}), metrics=("127.0.0.1", 0), confirm=False)
    run_search(made, Console(file=said, width=200))
    assert "figures for Prometheus: http://127.0.0.1:" in said.getvalue()


def test_a_pulse_tells_progress_from_silence(tmp_path: Path) -> None:
    """Twenty minutes or twenty times the longest epoch; without a file nothing is wrong."""
    now = [1000.0]
    path = tmp_path / "pulse"
    assert health(path, 0.0).well
    pulse = Pulse(path, lambda: now[0])
    now[0] += 100
    pulse.beat()
    assert health(path, now[0] + 20 * 100).well
    assert not health(path, now[0] + 20 * 100 + 1).well
    assert "the limit is 2000: it seems to hang" in health(path, now[0] + 3000).reason
    assert [entry.name for entry in tmp_path.iterdir()] == ["pulse"]
    path.write_text("{")
    assert not health(path, now[0]).well


def test_a_search_beats_after_every_epoch(tmp_path: Path) -> None:
    """As often as it advances, and at its beginning."""
    beats: list[float] = []

    def clock() -> float:
        beats.append(1.0 * len(beats))
        return beats[-1]

    scripted(tmp_path, plain(budget={"trials": 4, "epochs": 3}, pruning={}), 4, observer=Beating(Pulse(tmp_path / "pulse", clock)))
    assert len(beats) == 2 + 3
    Beating(Pulse(tmp_path / "waiting", clock)).waited()
    assert len(beats) == 2 + 3 + 3


def test_a_pulse_that_cannot_be_written_is_bad_usage_at_first_and_no_fault_later(tmp_path: Path) -> None:
    """The search goes on; whoever asks hears that it is silent."""
    with pytest.raises(TunerError, match=r"TUNER_PULSE names .*, which cannot be written"):
        Pulse(tmp_path / "none" / "pulse")
    (tmp_path / "some").mkdir()
    pulse = Pulse(tmp_path / "some" / "pulse")
    (tmp_path / "some").rename(tmp_path / "away")
    pulse.beat()
    assert not (tmp_path / "some").exists()


def test_who_watches_a_search_that_its_budget_ended_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials are left for the next start, nobody trains them, and more are to come: it is over all the same."""
    monkeypatch.setattr(tuner.watch, "EVERY_SECONDS", 0.0)
    made = plain(budget={"trials": 8, "epochs": 3, "total_epochs": 8}, search={"lr": {"low": 1e-3, "high": 2e-3}}, enqueue=[])
    study, _, _ = scripted(tmp_path, made, 4)
    assert {t.state for t in study.get_trials()} == {TrialState.RUNNING}
    shown = io.StringIO()
    tuner.watch.watch(f"sqlite:///{tmp_path}/tuner.db", study.study_name, Console(file=shown, force_terminal=True))
    assert study.study_name in shown.getvalue()


def test_who_watches_a_study_in_which_nothing_ever_begins_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its minutes were too few for a trial, say."""
    monkeypatch.setattr(tuner.watch, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(tuner.watch, "EMPTY_LOOKS", 3)
    url = f"sqlite:///{tmp_path}/tuner.db"
    study = open_study(BufferedStorage(open_storage(url)), plain(enqueue=[]), corpus_of("synthetic", 30, 1))
    shown = io.StringIO()
    tuner.watch.watch(url, study.study_name, Console(file=shown, force_terminal=True))
    assert study.study_name in shown.getvalue()


def test_a_table_that_cannot_be_drawn_is_told_of_once_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the storage is away; it is tried again."""
    study, _, _ = scripted(tmp_path, plain(), 4)
    tried, again = list[str](), threading.Event()

    def failing(seen: optuna.Study, *_: object) -> None:
        tried.append(seen.study_name)
        if len(tried) == 3:
            again.set()
        raise StorageAway("gone")

    monkeypatch.setattr(tuner.watch, "view", failing)
    monkeypatch.setattr(tuner.watch, "EVERY_SECONDS", 0.0)
    said = io.StringIO()
    with tuner.watch.StudyProgress(f"sqlite:///{tmp_path}/tuner.db", study.study_name, Console(file=said, width=200)):
        assert again.wait(60)
    assert set(tried) == {study.study_name}
    assert said.getvalue().count("the table could not be drawn (StorageAway: gone)") == 1


def test_tuner_health_says_it_in_its_status(tmp_path: Path) -> None:
    """0 and 1 as a container's health check takes them; 2 where nothing says where to look."""
    path = tmp_path / "pulse"
    told = {**os.environ, "TUNER_PULSE": str(path)}

    def asked(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tuner", "health", "--json"], env=environment, capture_output=True, text=True, check=False
        )

    Pulse(path)
    assert (asked(told).returncode, json.loads(asked(told).stdout)["well"]) == (0, True)
    Pulse(path, lambda: 1000.0)  # long ago
    assert (asked(told).returncode, json.loads(asked(told).stdout)["well"]) == (1, False)
    assert asked({name: value for name, value in told.items() if name != "TUNER_PULSE"}).returncode == 2
    assert LEAST_SECONDS > PATIENCE_SECONDS, "a storage that is away is waited for, and nothing is wrong with who waits"


def test_events_are_lines_of_json(tmp_path: Path) -> None:
    """Each with its time, study, trial, slot and epoch; a trial's slot is its own while it runs."""
    said = io.StringIO()
    study, _, _ = scripted(tmp_path, plain(), 4, observer=JsonEvents("tiny@x", said, words=1))
    events = [json.loads(line) for line in said.getvalue().splitlines()]
    assert {event["study"] for event in events} == {"tiny@x"}
    ended = {event["trial"]: event for event in events if event["event"] == "ended"}
    assert {number: event["cause"] for number, event in ended.items()} == {
        t.number: t.user_attrs["verdict"]["cause"] for t in study.get_trials()
    }
    occupied: dict[int, int] = {}
    for event in events:
        if event["event"] == "started":
            assert event["slot"] not in occupied.values()
            assert 0 <= event["slot"] < 4
            occupied[event["trial"]] = event["slot"]
        assert occupied[event["trial"]] == event["slot"]
        if event["event"] == "ended":
            del occupied[event["trial"]]
    epochs = [(event["trial"], event["epoch"]) for event in events if event["event"] == "epoch"]
    assert len(epochs) == len(set(epochs)) > 12
    assert {event["loss"] is None for event in ended.values() if event["cause"] == "exploded"} == {True}, "NaN is no number in JSON"


def test_all_that_a_search_says_is_json_if_asked(tmp_path: Path) -> None:
    """What is said in words too."""
    said = io.StringIO()
    made = request(tmp_path, definition(budget={"trials": 2, "epochs": 1}), events=said, confirm=False)
    run_search(made, json_console(said))
    events = [json.loads(line) for line in said.getvalue().splitlines()]
    assert any("30 stories (--num-stories)" in event.get("message", "") for event in events)
    assert sum(event["event"] == "ended" for event in events) == 2
    quietly = io.StringIO()
    run_search(request(tmp_path, definition(budget={"trials": 4, "epochs": 1}), events=quietly, words=-1, confirm=False), quiet())
    assert quietly.getvalue() == ""


def test_what_others_train_is_said_as_it_happens(tmp_path: Path) -> None:
    """How many run, and each verdict once; what had ended before is not news."""
    study, _, _ = scripted(tmp_path, plain(budget={"trials": 3, "epochs": 2}), 2)
    said, beats = list[str](), list[int]()

    class Beaten(Observer):
        def waited(self) -> None:
            beats.append(1)

    look = Others(study, said.append, Beaten())
    look()
    look()
    assert said == ["0 trials running, 3 ended"]
    study.add_trial(create_trial(state=TrialState.RUNNING))
    verdict = {"cause": "plateaued", "epoch": 2, "reason": "no progress", "evidence": {}}
    study.add_trial(create_trial(state=TrialState.PRUNED, user_attrs={"verdict": verdict}))
    look()
    assert said[1:] == ["trial 4 plateaued: no progress", "1 trial running, 4 ended"]
    assert len(beats) == 2, "once for what there was, once for what has changed"


def test_how_fast_a_study_goes_is_told_from_what_changes(tmp_path: Path) -> None:
    """From the second look on; what is left is counted as long as what has ended."""
    study, _, curves = scripted(tmp_path, plain(budget={"trials": 4, "epochs": 3}, pruning={}), 2)
    done, now = view(study, curves, "here"), [100.0]
    rates = Rates(lambda: now[0])
    budget = done.definition.changed(budget_trials=8)
    first = dataclasses.replace(done, definition=budget, trials=done.trials[:1], summary={**done.summary, "epochs_run": 3})
    assert rates.said(first) == ""
    now[0] += 30.0
    assert rates.said(first) == ""
    later = dataclasses.replace(first, trials=done.trials, summary={**done.summary, "epochs_run": 12})
    said = rates.said(later)
    assert said == "6.0 trials a minute, 0.3 epochs a second; about 40 s left"
    console = Console(file=io.StringIO(), width=120)
    console.print(shown_at(later, 120, said))
    assert said in console.file.getvalue()


def test_reading_stories_is_progress_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take hours, and nothing hangs."""
    path, bar = tmp_path / "pulse", list[tuple[int, int]]()
    monkeypatch.setenv("TUNER_PULSE", str(path))
    went_on = preparation._alive(lambda done, total: bar.append((done, total)))
    path.unlink()
    went_on(1, 2)
    assert health(path, 0.0).well
    assert path.is_file()
    assert bar == [(1, 2)]


def test_a_slot_of_a_trial_that_was_taken_over_is_free_again(tmp_path: Path) -> None:
    """It never ends here; whoever begins next has the lowest number that is free all the same."""
    said = io.StringIO()
    events = JsonEvents("tiny@x", said)

    class Robbed(Observer):
        def started(self, running: Running) -> None:
            events.started(running)

        def ended(self, running: Running, verdict: Verdict, value: float | None) -> None:
            events.left(running)

    scripted(tmp_path, plain(budget={"trials": 9, "epochs": 2}, pruning={}), 2, observer=Several(Robbed()))
    assert {json.loads(line)["slot"] for line in said.getvalue().splitlines()} == {0, 1}


def test_a_trial_that_somebody_else_ends_has_left(tmp_path: Path) -> None:
    """In the dashboard, while it trains."""
    left, made = list[int](), plain(budget={"trials": 3, "epochs": 3}, pruning={})

    class Interfering(Observer):
        def epoch(self, search: Watched) -> None:
            if search.epochs == 2:
                url = f"sqlite:///{tmp_path}/tuner.db"
                study = find_study(open_storage(url), "tiny")
                study.tell(search.running[0].number, state=TrialState.FAIL)

        def left(self, running: Running) -> None:
            left.append(running.number)

    scripted(tmp_path, made, 2, observer=Several(Interfering()))
    assert left == [0]
