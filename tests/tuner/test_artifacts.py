"""Models and snapshots in an artifact store: a folder, and a bucket of a real S3 server on this machine; a host that dies, and another."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import optuna
import pytest
from botocore.exceptions import ResponseStreamingError
from botocore.response import StreamingBody
from moto.server import ThreadedMotoServer
from optuna.artifacts._protocol import ArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from tests.kills import COUNTING, HELD, HOLDING
from tests.tuner.test_failures import plain
from tests.tuner.test_workers import SEARCH, TUNER, study_in, until
from tests.vehicle import light
from tuner.artifacts import Artifacts, Folder, open_artifacts
from tuner.endings import trim
from tuner.errors import StorageError
from tuner.storage import open_storage
from tuner.tables import CurveTable

ELSEWHERE = (
    "import socket; from tuner import ownership; socket.gethostname = lambda: '{host}'\n"
    "ownership.BEAT_SECONDS, ownership.SILENT_SECONDS = 0.5, 3.0\n"
)
"""Another host, and hearts that are missed after three seconds."""


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A part of a bucket, on a server of this module's own."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    given = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**given, "AWS_DEFAULT_REGION": "us-east-1"}.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="studies")
        yield "s3://studies/ours"
    server.stop()


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    """One of each kind."""
    return open_artifacts(str(tmp_path / "artifacts") if request.param == "folder" else request.getfixturevalue("bucket"))


def test_what_is_put_is_got_replaced_and_removed(store: ArtifactStore, tmp_path: Path) -> None:
    """By name; studies do not see each other's."""
    ours, theirs = Artifacts(store, "ours"), Artifacts(store, "theirs")
    there, here = tmp_path / "there", tmp_path / "here"
    for content in (b"first", b"second"):
        there.write_bytes(content)
        ours.put("model", there)
        there.unlink()
        assert ours.get("model", here)
        assert here.read_bytes() == content
    assert not theirs.get("model", here)
    ours.remove("model")
    ours.remove("model")
    assert not ours.get("model", here)


def test_a_download_that_breaks_off_is_an_error_of_ours(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks takes another state, or begins anew."""
    ours = Artifacts(open_artifacts(bucket), "ours")
    (tmp_path / "there").write_bytes(b"content" * 1000)
    ours.put("model", tmp_path / "there")

    def torn(*_: object, **__: object) -> bytes:
        raise ResponseStreamingError(error="connection reset")

    monkeypatch.setattr(StreamingBody, "read", torn)
    with pytest.raises(OSError, match=r"S3: .*connection reset"):
        ours.get("model", tmp_path / "here")
    assert not (tmp_path / "here").exists()
    ours.remove("model")


def test_a_model_that_cannot_be_removed_from_a_store_costs_nothing_and_each_is_removed_once(tmp_path: Path) -> None:
    """With `--keep`; a trial that somebody ended in the dashboard has none. No other file goes, whatever a row says of where a model is."""
    removed: list[str] = []

    class Away(Artifacts):
        def remove(self, name: str) -> None:
            removed.append(name)
            if len(removed) == 1:
                raise OSError("S3: away")

    study = optuna.create_study(direction="maximize")
    study.set_user_attr("mark", "ours")
    made, artifacts, told, gone = plain(confirm={"top": 1, "seeds": 1}), Away(Folder(tmp_path), "ours"), list[str](), set[int]()
    space = {"lr": FloatDistribution(0, 1)}
    precious = tmp_path / "precious"
    precious.touch()
    for number in range(4):
        (tmp_path / f"trial-{number}.safetensors").touch()
        marks = {"checkpoint": [str(precious), None, 5, ""][number]} if number != 1 else {}
        study.add_trial(create_trial(value=number / 10, params={"lr": 0.5}, distributions=space, user_attrs=marks))
    for _ in range(3):
        gone |= trim(study, made, tmp_path, artifacts, 1, told.append, gone)
    assert removed == ["trial-0.safetensors", "trial-2.safetensors", "trial-0.safetensors"]
    assert told == ["the model of trial 0 could not be removed (S3: away)"]
    assert gone == {0, 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious", "trial-1.safetensors", "trial-3.safetensors"]


def test_in_a_folder_nothing_takes_room_twice(tmp_path: Path) -> None:
    """A link where that can be; a body without a name is copied; nothing leads out of the folder."""
    store, path = Folder(tmp_path / "artifacts"), tmp_path / "model"
    path.write_bytes(b"numbers")
    with path.open("rb") as body:
        store.write("a", body)
    assert path.stat().st_nlink == 2
    with pytest.raises(ArtifactNotFound):
        store.open_reader("b")
    with pytest.raises(ValueError, match="Invalid artifact_id"):
        store.write("../b", io.BytesIO(b"x"))
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(("target", "why"), [("s3://", "names no bucket"), ("s3:///x/", "NoSuchBucket|bucket")])
def test_a_place_that_is_none_is_refused(target: str, why: str, bucket: str, tmp_path: Path) -> None:
    """At the start where it can be seen there, else as what a disk would say."""
    (tmp_path / "file").touch()
    with pytest.raises((StorageError, OSError), match=why):
        Artifacts(open_artifacts(target), "m").put("x", tmp_path / "file")


def test_a_host_that_dies_is_missed_and_its_trials_go_on_elsewhere(tmp_path: Path, bucket: str) -> None:
    """Killed on one host, taken up on another that has none of its files: after missed heartbeats, from the snapshots in S3, once."""
    here, there = tmp_path / "here", tmp_path / "there"
    (tmp_path / "runs").mkdir()
    environment = {**os.environ, "TUNER_STORAGE": f"sqlite:///{tmp_path}/runs/tuner.db", "TUNER_ARTIFACTS": bucket}
    options = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True, "env": environment}
    for folder in (here, there):
        light(folder)
    code = ELSEWHERE.format(host="first") + HOLDING
    first = subprocess.Popen([sys.executable, "-c", code, *SEARCH, "--trials", "4", "--epochs", "12"], cwd=here, **options)
    for _ in range(HELD):
        until(first, "epoch of 2")
    code = ELSEWHERE.format(host="second") + COUNTING
    second = subprocess.Popen([sys.executable, "-c", code, "worker", "quick", "--width", "2"], cwd=there, **options)
    until(second, "trial 3 starts")
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert second.stderr is not None
    rest = second.stderr.read()
    assert second.wait() == 0, rest
    assert rest.count("goes on after epoch") == 2
    study = study_in(tmp_path)
    trials = [t for t in study.get_trials() if t.state != TrialState.WAITING]
    assert len(trials) == 4
    assert {t.user_attrs["owner"]["host"] for t in trials} == {"second"}
    curves = CurveTable(open_storage(environment["TUNER_STORAGE"]), study._study_id).read()
    for trial in trials:
        assert [point["epoch"] for point in curves[trial.number]] == list(range(1, trial.user_attrs["epochs_run"] + 1))
    keys = {found["Key"] for found in boto3.client("s3").list_objects_v2(Bucket="studies")["Contents"]}
    models = Artifacts(Folder(tmp_path), study.user_attrs["mark"])
    assert keys == {f"ours/{models.id(f'trial-{t.number}.safetensors')}" for t in trials if t.state == TrialState.COMPLETE}


def test_a_store_that_is_away_costs_nothing_but_the_copies(tmp_path: Path) -> None:
    """A server that nobody answers at: it is said, models and snapshots are on this disk, and the search comes to its end."""
    runs = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    environment = {**os.environ, **runs, "AWS_MAX_ATTEMPTS": "1", "TUNER_ARTIFACTS": "s3://nowhere"}
    options = ["--trials", "2", "--epochs", "2"]
    light(tmp_path)
    done = subprocess.run([TUNER, *SEARCH, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the model of trial 0 could not be put among the artifacts (S3: " in done.stderr
    assert "a snapshot could not be written, or not be put among the artifacts (S3: " in done.stderr
    assert [t.state for t in study_in(tmp_path).get_trials()[:2]] == [TrialState.COMPLETE] * 2
    assert len(list(tmp_path.glob("runs/checkpoints/*/trial-*.safetensors"))) == 2
