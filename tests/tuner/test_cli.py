"""The command line as a user meets it: help, JSON, the original's options, bad input, signals, the dashboard."""

import dataclasses
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

import tuner.cli
from model.errors import DataError, DeviceError, DeviceFailed
from model.trainer import FusedTrainer
from tests.conftest import Called
from tuner import training
from tuner.errors import SearchError, StorageAway, StorageError, StudyError
from tuner.preparation import SearchRequest, _folder
from tuner.saving import SavingTrainer
from tuner.storage import DEFAULT_URL, open_storage

EVALUATE_KEYS = {
    *("sentences", "component_accuracy", "entity", "relation", "value", "at_least_one", "two_of_three", "exact", "first"),
    *("triple_precision", "triple_recall", "triple_f1", "f1", "round_trip", "spurious", "most_frequent", "ceiling"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small study, searched once."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "tiny.toml").write_text(
        "[data]\nstories = 30\n[budget]\ntrials = 3\nepochs = 1\n[search]\nlr = { low = 1e-3, high = 1e-2, log = true }\n"
        '[fixed]\nhidden_dim = 16\nnum_rules = 2\n[[baselines]]\nname = "slow"\nlr = 1e-3\n[confirm]\ntop = 1\nseeds = 2\n'
    )
    done = call(folder, "search", "tiny.toml", "--json")
    assert done.returncode == 0, done.stderr
    (folder / "search.json").write_text(done.stdout)
    return folder


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The real program in a real process."""
    command = [sys.executable, "-m", "tuner", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False, stdin=subprocess.DEVNULL)


@pytest.fixture
def inside(home: Path, here: Callable[..., Called]) -> Callable[..., Called]:
    """The same program in this process."""
    return partial(here, home)


def test_search_status_and_best_print_their_objects(inside: Callable[..., Called], home: Path) -> None:
    """Exactly one JSON object on stdout, with the keys that scripts rely on."""
    found = json.loads((home / "search.json").read_text())
    assert {"study", "storage", "trials", "running", "epochs_run", "epochs_saved", "best", "baselines", "seconds"} <= found.keys()
    assert {"total", "training", "asking", "storing"} <= found["seconds"].keys()
    assert found["trials"] == {"finished": 3}
    status = json.loads(inside("status", "tiny", "--json").stdout)
    assert status == found
    best = json.loads(inside("best", "tiny", "--json").stdout)
    assert best == found["best"]
    assert best["hyperparameters"]["hidden_dim"] == 16
    text = inside("status", "tiny").stdout
    assert all(words in text for words in ("ceiling", "slow", "most frequent answer", "best: trial"))
    assert inside("status", "tiny.toml").stdout == text


def test_diagnose_looks_at_a_study_a_trial_or_a_checkpoint(inside: Callable[..., Called], home: Path) -> None:
    """A trial that was kept and its checkpoint differ by the curve alone; what is not there is named."""
    best = json.loads((home / "search.json").read_text())["best"]
    found = {}
    for subject in ("tiny", f"tiny:{best['trial']}", best["checkpoint"]):
        done = inside("diagnose", subject, "--json")
        assert done.status == 0, done.stderr
        found[subject] = json.loads(done.stdout)["findings"]
        assert all(one["finding"] and one["advice"] and one["kind"] for one in found[subject])
    assert [one["kind"] for one in found["tiny"]] == ["too_few_trials"]
    of_trial, of_checkpoint = ([one for one in found[s] if not one["kind"].startswith("rate")] for s in list(found)[1:])
    assert of_trial == of_checkpoint
    for subject, words in (("tiny:99", "no trial 99"), ("none", "no study"), ("none.safetensors", "no checkpoint")):
        refused = inside("diagnose", subject)
        assert refused.status == 2
        assert words in refused.stderr


def test_the_original_command_line_works_and_prints_its_form(inside: Callable[..., Called]) -> None:
    """Underscores and all; then `evaluate` with its flags."""
    options = ["--num_stories", "30", "--epochs", "2", "--batch_size", "16", "--lr", "0.003", "--hidden_dim", "32", "--num_rules", "4"]
    done = inside("train", *options)
    assert done.status == 0, done.stderr
    assert len(re.findall(r"loss=[\d.]+, parse=[\d.]+, gen=[\d.]+.*component accuracy [\d.]+ %", done.stdout)) == 2
    path = "runs/checkpoints/train.safetensors"
    scored = inside("evaluate", "--checkpoint", path, "--hidden_dim", "32", "--num_rules", "4", "--json")
    assert scored.status == 0, scored.stderr
    assert json.loads(scored.stdout).keys() >= EVALUATE_KEYS
    wrong = inside("evaluate", path, "--num_rules", "16")
    assert wrong.status == 2
    assert "num_rules = 4, not 16" in wrong.stderr


def test_train_prints_its_object(inside: Callable[..., Called]) -> None:
    """With the curve and the validation figures; two runs of one seed are equal."""
    options = [
        "train",
        "--num-stories",
        "30",
        "--epochs",
        "1",
        "--hidden-dim",
        "16",
        "--num-rules",
        "2",
        "--checkpoint",
        "a.safetensors",
        "--json",
    ]
    first, second = (json.loads(inside(*options).stdout) for _ in range(2))
    assert {"checkpoint", "epochs", "curve", "evaluation", "seconds", "sentences_per_second"} == first.keys()
    point = {"epoch", "loss", "losses", "objective", "entity", "relation", "value", "gradient_norm"}
    assert point == first["curve"][0].keys()
    assert first["evaluation"].keys() >= EVALUATE_KEYS
    assert first["curve"] == second["curve"]


def test_a_loss_that_is_no_number_ends_the_training(inside: Callable[..., Called], home: Path) -> None:
    """With what to do about it, and without a checkpoint."""
    small = (
        "--num-stories",
        "30",
        "--epochs",
        "3",
        "--hidden-dim",
        "16",
        "--num-rules",
        "2",
        "--lr",
        "1e6",
        "--checkpoint",
        "nan.safetensors",
    )
    done = inside("train", *small)
    assert done.status == 2
    assert "try a lower --lr than 1e+06" in done.stderr
    assert not (home / "nan.safetensors").exists()


def test_a_verdict_is_told_again_by_diagnose(inside: Callable[..., Called], home: Path) -> None:
    """Of the trial that it ended, with what to do about it; and it is told that baselines are all there is."""
    few = inside("search", "plateau", "--num-stories", "30", "--trials", "3", "--epochs", "1", "--no-confirm")
    assert "3 trials are all for the 3 baselines" in few.stderr
    assert few.stdout.splitlines()[-1].startswith("next: tuner diagnose plateau@synthetic-30")
    (home / "hot.toml").write_text((home / "tiny.toml").read_text().replace("1e-2", "1e6") + EXPLODING)
    assert inside("search", "hot.toml", "--epochs", "4", "--no-confirm").status == 0
    verdicts = inside("status", "hot").stdout
    number = re.search(r"^trial (\d+) exploded in epoch (\d+): (.*)$", verdicts, re.M)
    assert number is not None, verdicts
    told = inside("diagnose", f"hot:{number[1]}").stdout
    assert f"exploded in epoch {number[2]}: {number[3]}" in told
    assert "a lower learning rate" in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search", "quick"], "the search continues when it is run again"),
        (["worker", "quick"], "the search continues when it is run again"),
        (["confirm", "quick"], "the confirmation continues when it is run again"),
        (["search", "quick", "--dry-run"], "interrupted"),
        (["train", "--lr", "1"], "interrupted"),
        ([], "interrupted"),
    ],
)
def test_what_becomes_of_a_command_that_is_interrupted(arguments: list[str], words: str) -> None:
    """It is not promised that what is lost goes on."""
    assert tuner.cli._interrupted(arguments).endswith(words)


EXPLODING = '[pruning]\nexplosion = {}\n[[enqueue]]\nname = "hot"\nlr = 1e6\n'
BAD_DATA = {
    "missing.jsonl": None,
    "empty.jsonl": b"",
    "text.jsonl": b"once upon a time",
    "two.jsonl": b'{"story_id": "a", "tokens": ["a"], "propositions": [["a", "type"]]}',
    "latin.jsonl": b'{"story_id": "caf\xe9", "tokens": ["a"], "propositions": []}',
}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search", "quik"], ["'quik'", "quick"]),
        (["search", "unknown_key.toml"], ["budget.hours", "allowed"]),
        (["search", "inverted.toml"], ["search.lr", "above"]),
        (["search", "zero_width.toml"], ["search.lr", "[fixed]"]),
        (["search", "quick", "--treils", "3"], ["--treils"]),
        (["search", "quick", "--width", "many"], ["many", "auto"]),
        *((["search", "quick", "--data", name], [name]) for name in BAD_DATA),
        (["train", "--data", "two.jsonl"], ["two.jsonl, line 1", "proposition 1"]),
        (["train", "--data", f"{'x' * 300}.jsonl"], ["cannot be looked at (File name too long)"]),
        (["parse", "a sentence where the checkpoint belongs, " * 9], ["cannot be looked at (File name too long)"]),
        (["train", "--hidden-dim", "50"], ["hidden_dim", "50", "multiple of 16"]),
        (["evaluate", "tiny.toml"], ["tiny.toml", "no checkpoint"]),
        (["evaluate", "best_model.pt"], ["pickle", "tuner train"]),
        (["evaluate"], ["CHECKPOINT"]),
        (["search", "quick", "--storage", "sqlite:////proc/none/x.db"], ["/proc/none/x.db"]),
        (["search", "quick", "--storage", "postgresql+psycopg://me:secret@127.0.0.1:1/x"], ["cannot be opened"]),
        (["search", "quick", "--device", "cuda:99"], ["cuda:99", "--device cpu"]),
        (["search", "quick", "--device", "tpu"], ["tpu", "auto"]),
        (["search", "quick", "--storage", "mysql://me@127.0.0.1/x"], ["cannot be opened", "allowed: sqlite:///FILE or postgresql"]),
        (["search", "tiny.toml", "--name", "no@ne"], ["'no@ne'", "@ is not allowed", "--name"]),
        (["search", "tiny.toml", "--engine", "ray", "--keep", "2"], ["--keep", "--engine ray has none"]),
        (["search", "quick", "--num-stories", "100000000"], ["100,000,000 synthetic stories", "allowed: up to 1,000,000"]),
        (["search", "tiny.toml", "--name", "none", "--warm-start", "nothing"], ["no study 'nothing'"]),
        (["search", "tiny.toml", "--name", "none", "--artifacts", "s3://"], ["names no bucket"]),
        (["dashboard", "--host", "999.1.1.1", "--port", "0"], ["999.1.1.1", "--host must be an address of this machine"]),
        (["search", "other/tiny.toml"], ["another search", "--name", "--fresh"]),
        (["status", "nothing"], ["'nothing'", "tiny@synthetic-30"]),
        (["status", "tiny:1"], ["'tiny:1'", "tuner diagnose tiny:1"]),
    ],
)
def test_bad_input_says_what_was_given_and_ends_with_status_2(
    home: Path, inside: Callable[..., Called], arguments: list[str], words: list[str]
) -> None:
    """Nothing on stdout, nothing half-written."""
    sound = (home / "tiny.toml").read_text()
    changes = {
        "unknown_key": ("trials = 3", "trials = 3\nhours = 2"),
        "inverted": ("low = 1e-3", "low = 1e-1"),
        "zero_width": ("low = 1e-3", "low = 1e-2"),
    }
    for name, (old, new) in changes.items():
        (home / f"{name}.toml").write_text(sound.replace(old, new, 1))
    (home / "other").mkdir(exist_ok=True)
    (home / "other" / "tiny.toml").write_text(sound.replace("high = 1e-2", "high = 5e-2"))
    (home / "best_model.pt").write_bytes(b"PK\x03\x04 a pickle in a zip")
    for name, content in BAD_DATA.items():
        if content is not None:
            (home / name).write_bytes(content)
    before = sorted(str(path) for path in home.rglob("*"))
    done = inside(*arguments)
    assert done.status == 2, done.stderr
    assert "secret" not in done.stderr
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr
    if "none" in arguments:
        assert "none@" not in inside("status", "nothing").stderr, "a search that cannot begin leaves no study"
    after = sorted(str(path) for path in home.rglob("*"))
    assert [path for path in after if path not in before and not path.endswith(("-wal", "-shm"))] == []


def test_bad_input_in_a_process_of_its_own(home: Path) -> None:
    """The status is that of the process, and there is no traceback."""
    done = call(home, "search", "quik")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'quik'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_study_that_is_there_goes_on_by_its_full_name(inside: Callable[..., Called], home: Path) -> None:
    """With the definition it was begun with and its data; only the newest of a name, and one that is there."""
    (home / "mine.toml").write_text((home / "tiny.toml").read_text())
    for fresh in ((), ("--fresh",)):
        assert inside("search", "mine.toml", "--name", "own", "--no-confirm", "--trials", "2", *fresh).status == 0
    (home / "mine.toml").unlink()
    more = inside("search", "own@synthetic-30.2", "--no-confirm", "--trials", "3", "--json")
    assert more.status == 0, more.stderr
    found = json.loads(more.stdout)
    assert (found["study"], found["trials"]) == ("own@synthetic-30.2", {"finished": 3})
    few = inside("search", "own@synthetic-30.2", "--no-confirm", "--trials", "2")
    assert "3 trials of own@synthetic-30.2 have begun, so --trials 2 begins none" in few.stderr
    refused = {
        ("own@synthetic-30",): "only own@synthetic-30.2 can be continued",
        ("no@where",): "there is no study 'no@where'",
        ("own@synthetic-30.2", "--num-stories", "40"): "own@synthetic-30.2 was begun on other data than these",
    }
    for words, why in refused.items():
        done = inside("search", *words)
        assert done.status == 2
        assert why in done.stderr
    other = inside("search", "own@synthetic-30.2", "--num-stories", "40", "--name", "others", "--no-confirm", "--json")
    assert json.loads(other.stdout)["study"] == "others@synthetic-40", other.stderr
    helped = inside("worker", "own@synthetic-30.2", "--width", "1")
    assert helped.status == 0
    assert "there is nothing to help with; tuner search own@synthetic-30.2 --trials N goes on" in helped.stderr


def test_a_training_that_is_interrupted_keeps_its_last_whole_epoch(tmp_path: Path, here: Callable[..., Called]) -> None:
    """Its model is that epoch's: what it scores on validation is what was said."""
    command = [sys.executable, "-m", "tuner", "train", "--num-stories", "30", "--epochs", "500", "--hidden-dim", "16", "--num-rules", "2"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("epoch 3:"):
            process.send_signal(signal.SIGINT)
            break
    said += process.stdout.readlines()
    assert process.wait() == 130, said
    assert said[-1] == "interrupted\n"
    kept = re.fullmatch(r"(\S+) has the model after epoch (\d+) of 500; the next run begins anew\n", said[-2])
    assert kept is not None, said[-2]
    epoch = next(line for line in said if line.startswith(f"epoch {kept[2]}:"))
    figures = json.loads(here(tmp_path, "evaluate", kept[1], "--split", "valid", "--json").stdout)
    assert f"component accuracy {100 * figures['component_accuracy']:.2f} %" in epoch


def test_a_training_that_is_interrupted_leaves_the_model_that_was_there(tmp_path: Path, here: Callable[..., Called]) -> None:
    """It was to be replaced at the end; what the interrupted one came to lies beside it."""
    kept = tmp_path / "runs" / "checkpoints" / "train.safetensors"
    options = ["--num-stories", "30", "--hidden-dim", "16", "--num-rules", "2"]
    assert here(tmp_path, "train", "--epochs", "1", *options).status == 0
    before = kept.read_bytes()
    command = [sys.executable, "-m", "tuner", "train", "--epochs", "500", *options]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    assert any(line.startswith("epoch 2:") for line in process.stdout)
    process.send_signal(signal.SIGINT)
    said = process.stdout.read()
    assert process.wait() == 130, said
    assert kept.read_bytes() == before
    assert f"{kept.parent.relative_to(tmp_path)}/train-interrupted.safetensors has the model after epoch " in said
    assert (kept.parent / "train-interrupted.safetensors").is_file()


@pytest.mark.parametrize("redirected", ["> /dev/full", "| head -1"])
def test_a_training_whose_lines_cannot_be_written_keeps_its_model(redirected: str, tmp_path: Path) -> None:
    """On a disk that is full, or with a reader who has read enough."""
    options = "--num-stories 30 --epochs 2 --hidden-dim 16 --num-rules 2"
    command = ["sh", "-c", f"{sys.executable} -m tuner train {options} {redirected}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert (done.returncode == 0) == ("head" in redirected), "of `head`, or for want of a place for what was found"
    assert (tmp_path / "runs" / "checkpoints" / "train.safetensors").is_file()


def test_what_an_interrupted_training_leaves_is_never_written_over(
    tmp_path: Path, here: Callable[..., Called], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by the next one, nor what another has finished meanwhile."""
    one, calls = training._epoch, itertools.count()

    def epoch(*arguments: Any) -> Any:
        if next(calls) % 2:
            raise SystemExit(130)
        return one(*arguments)

    monkeypatch.setattr(training, "_epoch", epoch)
    folder, kept = tmp_path / "runs" / "checkpoints", dict[str, bytes]()
    for seed, name in enumerate(("train", "train-interrupted", "train-interrupted-2")):
        options = ["--num-stories", "30", "--hidden-dim", "16", "--num-rules", "2", "--epochs", "2", "--seed", str(seed)]
        assert here(tmp_path, "train", *options).status == 130
        assert all((folder / before).read_bytes() == content for before, content in kept.items())
        kept[f"{name}.safetensors"] = (folder / f"{name}.safetensors").read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == sorted(kept)


def test_a_signal_while_a_training_writes_its_model_costs_nothing(
    tmp_path: Path, here: Callable[..., Called], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All its epochs are made."""
    save, calls = SavingTrainer.save, itertools.count()

    def once(*arguments: Any) -> None:
        if not next(calls):
            raise SystemExit(143)
        save(*arguments)

    monkeypatch.setattr(SavingTrainer, "save", once)
    done = here(tmp_path, "train", "--num-stories", "30", "--hidden-dim", "16", "--num-rules", "2", "--epochs", "2")
    assert done.status == 143
    assert "train.safetensors has the model after epoch 2 of 2" in done.stdout


def test_a_gradient_that_is_no_number_is_no_sound_model(
    tmp_path: Path, here: Callable[..., Called], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the step before it may be one yet."""
    train = SavingTrainer.train_epoch

    def infinite(self: SavingTrainer) -> Any:
        return [record and dataclasses.replace(record, gradient_norm=math.inf) for record in train(self)]

    monkeypatch.setattr(SavingTrainer, "train_epoch", infinite)
    done = here(tmp_path, "train", "--num-stories", "30", "--hidden-dim", "16", "--num-rules", "2", "--epochs", "1")
    assert done.status == 2
    assert "the gradient is inf after epoch 1" in done.stderr
    assert not (tmp_path / "runs" / "checkpoints" / "train.safetensors").exists()


def test_a_model_too_large_for_the_device_is_said_to_be(inside: Callable[..., Called], monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to do."""

    def full(self: SavingTrainer, *_: object) -> None:
        raise MemoryError("tried to allocate 80 GiB")

    monkeypatch.setattr(SavingTrainer, "__init__", full)
    done = inside("train", "--num-stories", "30", "--epochs", "1", "--checkpoint", "big.safetensors")
    assert done.status == 2
    assert (
        "has no room for this model and its batches (tried to allocate 80 GiB); take a smaller --batch-size or --hidden-dim" in done.stderr
    )


def test_the_last_line_is_json_where_that_is_asked_for(inside: Callable[..., Called]) -> None:
    """Why it ends, at the level of an error."""
    done = inside("search", "quick", "--device", "cuda:99", "--log-format", "json")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.status == 2
    assert (events[-1]["event"], events[-1]["level"]) == ("error", "error")
    assert "cuda:99" in events[-1]["message"]


def test_a_model_that_cannot_be_written_in_the_end_is_told_of(inside: Callable[..., Called], monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk was full by then."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SavingTrainer, "save", full)
    done = inside("train", "--num-stories", "30", "--epochs", "1", "--hidden-dim", "16", "--num-rules", "2")
    assert done.status == 2
    assert "cannot be written to runs/checkpoints/train.safetensors (No space left on device); make room" in done.stderr


def test_a_pulse_that_cannot_be_written_begins_no_study(inside: Callable[..., Called], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is bad usage."""
    monkeypatch.setenv("TUNER_PULSE", "no/such/folder/pulse")
    refused = inside("search", "tiny.toml", "--name", "pulsing")
    assert refused.status == 2
    assert "TUNER_PULSE names no/such/folder/pulse, which cannot be written" in refused.stderr
    assert "pulsing" not in inside("status", "nothing").stderr


@pytest.mark.parametrize(
    ("error", "status"),
    [(SearchError, 1), (StorageAway, 1), (DeviceFailed, 1), (StorageError, 2), (DeviceError, 2), (DataError, 2), (StudyError, 2)],
)
def test_what_may_succeed_when_it_is_run_again_is_no_bad_usage(
    inside: Callable[..., Called], monkeypatch: pytest.MonkeyPatch, error: type[Exception], status: int
) -> None:
    """Schedulers go by it."""

    def failing(*_: object) -> None:
        raise error("what happened")

    monkeypatch.setattr("tuner.job.run_search", failing)
    assert inside("search", "tiny.toml") == (status, "", "error: what happened\n")


@pytest.mark.parametrize(("words", "asked"), [((), (True, False)), (("--confirm",), (True, True)), (("--no-confirm",), (False, False))])
def test_the_best_is_confirmed_at_the_end_or_in_any_case_or_not(
    inside: Callable[..., Called], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], asked: tuple[bool, bool]
) -> None:
    """As is asked for."""
    seen = list[SearchRequest]()

    def looking(request: SearchRequest, *_: object) -> None:
        seen.append(request)
        raise StudyError("seen")

    monkeypatch.setattr("tuner.job.run_search", looking)
    assert inside("search", "tiny.toml", *words).stderr == "error: seen\n"
    assert [(request.confirm, request.confirm_early) for request in seen] == [asked]


def test_a_study_of_another_program_is_named_as_such(inside: Callable[..., Called], tmp_path: Path) -> None:
    """Whatever is asked of it."""
    url = f"sqlite:///{tmp_path}/t.db"
    optuna.create_study(study_name="theirs", storage=open_storage(url))
    for command in (["diagnose", "theirs"], ["status", "theirs"], ["best", "theirs"]):
        done = inside(*command, "--storage", url)
        assert done.status == 2
        assert "was not begun by `tuner search`" in done.stderr


def test_studies_whose_names_are_no_names_of_files_have_folders_of_their_own(tmp_path: Path) -> None:
    """Else one would write over the other's models."""
    names = ["quick@synthetic-300", "größe@x", "grüße@x", "a b@x", "a_b@x"]
    folders = [_folder(tmp_path, DEFAULT_URL, name) for name in names]
    assert folders[0] == tmp_path / "quick@synthetic-300"
    assert len(set(folders)) == len(names)
    runs = tmp_path / "runs"
    places = [_folder(runs / "checkpoints", url, names[0]) for url in (DEFAULT_URL, f"sqlite:///{runs}/tuner.db", f"sqlite:///{runs}/b.db")]
    assert places[0] == places[1] == runs / "checkpoints" / names[0], "the usual storage as a worker of Ray's calls it"
    assert places[2] not in places[:2]


def test_without_ray_nothing_is_begun(inside: Callable[..., Called], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is said before there is a study."""
    monkeypatch.setitem(sys.modules, "ray", None)
    refused = inside("search", "tiny.toml", "--name", "rayed", "--engine", "ray")
    assert refused.status == 2
    assert "--engine ray needs Ray" in refused.stderr
    assert "rayed" not in inside("status", "nothing").stderr


def test_a_signal_ends_a_search_with_its_status_and_it_can_go_on(home: Path, tmp_path: Path, here: Callable[..., Called]) -> None:
    """What was running is taken up by the next start. Other signals: test_resume."""
    (tmp_path / "tiny.toml").write_text((home / "tiny.toml").read_text().replace("epochs = 1", "epochs = 40"))
    command = [sys.executable, "-m", "tuner", "search", "tiny.toml", "--width", "2"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    begun = 0
    for line in process.stderr:
        begun += " starts" in line
        if begun == 2:
            process.send_signal(signal.SIGINT)
            break
    rest = process.stderr.read()
    assert process.wait() == 130
    assert "Traceback" not in rest
    left = json.loads(here(tmp_path, "status", "tiny", "--json").stdout)
    assert (left["running"], left["interrupted"]) == (0, 2)


def test_the_dashboard_serves_the_study_on_this_machine_only(home: Path) -> None:
    """Any free port; its API names the study and its trials."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tuner", "dashboard", "tiny", "--port", "0"], cwd=home, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "http://" in line)
        url = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert url is not None
        studies: dict[str, Any] = json.loads(urllib.request.urlopen(f"{url[0]}/api/studies", timeout=30).read())
        assert "tiny@synthetic-30" in [entry["study_name"] for entry in studies["study_summaries"]]
        page = urllib.request.urlopen(f"{url[0]}/dashboard", timeout=30).read()
        assert b"<html" in page.lower()
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_the_stock_dashboard_opens_the_storage(home: Path) -> None:
    """`optuna-dashboard sqlite:///runs/tuner.db`, as anybody would start it."""
    program = Path(sys.executable).parent / "optuna-dashboard"
    command = [str(program), "sqlite:///runs/tuner.db", "--port", "0", "--host", "127.0.0.1"]
    process = subprocess.Popen(
        command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "http://" in line:
                break
        assert any("http://" in line for line in lines), lines
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.usefixtures("handlers")
def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    """And `--help` ends with status 0 and names every command."""
    assert tuner.cli.main(["--help"]) == 0
    overview = capsys.readouterr().out
    for name, command in tuner.cli.cli.commands.items():
        assert name in overview
        assert command.help is not None
        assert f"Example: tuner {name}" in command.help


def test_a_checkpoint_parses_and_generates(inside: Callable[..., Called], home: Path) -> None:
    """From arguments and from standard input, as text and as one object; what parse prints, generate takes."""
    checkpoint = json.loads((home / "search.json").read_text())["best"]["checkpoint"]
    parsed = json.loads(inside("parse", checkpoint, "One day , the girl found a box .", "--json").stdout)["sentences"]
    assert parsed[0]["tokens"][:2] == ["one", "day"]
    command = [sys.executable, "-m", "tuner"]
    lines = "girl,find,box box,type,box\n\nboy,type,boy\n"
    piped = subprocess.run([*command, "generate", checkpoint], cwd=home, input=lines, capture_output=True, text=True, check=True)
    assert len(piped.stdout.splitlines()) == 2
    wrong = inside("generate", checkpoint, "girl,find")
    assert wrong.status == 2
    assert "entity,relation,value" in wrong.stderr
    empty = call(home, "parse", checkpoint)
    assert empty.returncode == 2
    assert "standard input was empty" in empty.stderr
    marked = b"\xef\xbb\xbfthe girl found a box .\r\nthe\xe2\x80\xa8boy slept .\r\n"
    read = subprocess.run([*command, "parse", checkpoint, "--json"], cwd=home, input=marked, capture_output=True, check=True)
    assert [sentence["tokens"][0] for sentence in json.loads(read.stdout)["sentences"]] == ["the", "the"]
    closed = subprocess.run(["sh", "-c", f"{sys.executable} -m tuner parse {checkpoint} <&-"], cwd=home, capture_output=True, check=False)
    assert (closed.returncode, b"Traceback" in closed.stderr) == (2, False)
    torn = subprocess.run([*command, "parse", checkpoint], cwd=home, input=b"a box .\na caf\xe9 .\n", capture_output=True, check=False)
    assert torn.returncode == 2
    assert b"line 2 of standard input is not UTF-8" in torn.stderr


def test_what_cannot_be_said_beside_the_result_costs_only_itself(inside: Callable[..., Called], home: Path) -> None:
    """Warnings of words that a terminal would obey, and on a log that is full."""
    checkpoint = json.loads((home / "search.json").read_text())["best"]["checkpoint"]
    assert "\\x1b]0;x" in inside("generate", checkpoint, "a\x1b]0;x,type,a").stderr
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "tuner", "parse", checkpoint, "a zyzzyva ."]
        done = subprocess.run(command, cwd=home, stdout=subprocess.PIPE, stderr=full, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("command", ["parse", "generate", "evaluate", "diagnose"])
def test_a_device_without_room_for_a_saved_model_is_said_to_be(
    command: str, inside: Callable[..., Called], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to do."""

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    checkpoint = json.loads((home / "search.json").read_text())["best"]["checkpoint"]
    for name in ("model.inference.parse_texts", "model.inference.generate_texts", "model.checkpoint.evaluate_split"):
        monkeypatch.setattr(name, full)
    monkeypatch.setattr(FusedTrainer, "probe", full)
    done = inside(command, checkpoint, *{"parse": ["the girl ."], "generate": ["girl,find,box"]}.get(command, []), "--device", "cpu")
    assert done.status == 2
    assert "error: cpu has no room for this (CUDA out of memory)" in done.stderr


def test_data_are_described(inside: Callable[..., Called]) -> None:
    """As a table and as an object."""
    described = json.loads(inside("data", "describe", "synthetic", "--num-stories", "120", "--json").stdout)
    assert described["columns"].keys() == {"100", "all"}
    assert described["columns"]["all"]["stories"] == 120
    assert "type / has_property / verbs" in inside("data", "describe", "synthetic", "--num-stories", "30").stdout
    wrong = inside("data", "describe", "none.jsonl")
    assert wrong.status == 2
    assert "no data file" in wrong.stderr


def test_the_hub_is_asked_for_a_number_of_stories(inside: Callable[..., Called]) -> None:
    """Two million stories are not parsed by accident."""
    wrong = inside("data", "describe", "tinystories")
    assert wrong.status == 2
    assert "--num-stories" in wrong.stderr


def test_as_much_is_said_as_was_asked_for(home: Path, tmp_path: Path, here: Callable[..., Called]) -> None:
    """`-q` says nothing while all goes well, whatever is loaded; `-v` a line for each epoch."""
    (tmp_path / "tiny.toml").write_text((home / "tiny.toml").read_text())
    options = ["search", "tiny.toml", "--trials", "2", "--epochs", "2", "--width", "2", "--no-confirm"]
    quiet = call(tmp_path, *options, "-q")
    assert quiet.returncode == 0, quiet.stderr
    assert "study tiny@synthetic-30" in quiet.stdout
    assert quiet.stderr == ""
    wordy = here(tmp_path, *options, "--fresh", "-v")
    assert wordy.status == 0, wordy.stderr
    assert "study tiny@synthetic-30.2" in wordy.stdout
    assert len(re.findall(r"trial [01] epoch [12] of 2: loss [\d.]+, component accuracy [\d.]+", wordy.stderr)) == 4


def test_the_shell_completes_commands_and_options() -> None:
    """As the README says to set it up: click's own."""
    environment = {**os.environ, "_TUNER_COMPLETE": "bash_complete", "COMP_WORDS": "tuner se", "COMP_CWORD": "1"}
    program = str(Path(sys.executable).with_name("tuner"))
    done = subprocess.run([program], env=environment, capture_output=True, text=True, check=False)
    assert "search" in done.stdout
