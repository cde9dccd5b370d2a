"""On a real PostgreSQL: Optuna's own suite, a server that dies and comes back, a wrong password."""

from __future__ import annotations

import itertools
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.testing.pytest_storages import StorageTestCase

import tuner.storage
from tests.kills import COUNTING, outcome, search, started
from tests.postgres import PASSWORD, Server, serving
from tests.vehicle import light
from tuner.buffer import BufferedStorage
from tuner.errors import StorageError
from tuner.storage import Patience, asking, open_storage, shown
from tuner.summary import report
from tuner.tables import CurveTable
from tuner.tested import digest_of, evaluations, note_evaluation

AWAY_SECONDS = int(os.environ.get("TUNER_TEST_AWAY", "1"))
"""For so long at least the server is away in the middle of a search; `make outage` has a minute."""
REFUSED = "cannot execute INSERT in a read-only transaction"
names = (f"db{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server of this module's own."""
    with serving() as started:
        yield started


@pytest.fixture
def storage(server: Server) -> Iterator[BaseStorage]:
    """A new one."""
    buffered = BufferedStorage(open_storage(server.create(next(names))))
    yield buffered
    buffered.backend.engine.dispose()


class TestOptunasOwnSuite(StorageTestCase):
    """Every promise of Optuna's storages."""


def test_a_wrong_password_is_told_of_and_not_shown(server: Server) -> None:
    """At the start."""
    with pytest.raises(StorageError, match="password authentication failed") as caught:
        open_storage(server.url("postgres", "wrong secret"))
    assert "wrong secret" not in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_the_password_comes_from_a_file_that_the_environment_names(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the URL has none; it is never shown. A file that is not there is told of by its name."""
    url = re.sub(r":[^:@/]+@", "@", server.create(next(names)))
    assert "//tuner@127.0.0.1:" in url
    with pytest.raises(StorageError):
        open_storage(url)
    secret = tmp_path / "secret"
    secret.write_text(PASSWORD + "\n")
    monkeypatch.setenv("TUNER_STORAGE_PASSWORD_FILE", str(secret))
    assert open_storage(url).get_all_studies() == []
    assert PASSWORD not in shown(url)
    secret.write_text("another")
    with pytest.raises(StorageError) as caught:
        open_storage(url)
    assert "another" not in str(caught.value)
    secret.unlink()
    with pytest.raises(StorageError, match=r"TUNER_STORAGE_PASSWORD_FILE names .*secret, which cannot be read"):
        open_storage(url)


def test_an_evaluation_is_no_error_where_the_account_may_only_read(server: Server, tmp_path: Path) -> None:
    """That the test split was used can then not be noted, which is said in a line."""
    url, model, told = server.create(next(names)), tmp_path / "model", list[str]()
    study = optuna.create_study(storage=open_storage(url))
    study.set_user_attr("data", {"fingerprint": "ours"})
    model.write_bytes(b"any")
    note_evaluation(f"{url}?options=-c%20default_transaction_read_only%3Don", digest_of(model), model, told.append, "ours")
    assert told == [f"the use of the test split is not noted ({REFUSED}); evaluate again to have it noted"]
    assert evaluations(study.user_attrs) == []
    note_evaluation(url, digest_of(model), model, told.append, "ours")
    assert (len(told), len(evaluations(study.user_attrs))) == (1, 1)


def test_a_server_that_dies_is_waited_for_and_nothing_is_lost(server: Server) -> None:
    """Killed hard between two reports; started again only after the search has said that it waits."""
    said: list[str] = []

    def tell(line: str) -> None:
        said.append(line)
        if len(said) == 1:
            server.start()

    buffered = BufferedStorage(open_storage(server.create(next(names))), Patience(tell))
    study = optuna.create_study(storage=buffered)
    curves = CurveTable(buffered.backend, study._study_id, Patience(tell))
    trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
    trial.report(0.5, 1)
    buffered.flush()
    server.kill()
    trial.report(0.25, 2)
    buffered.flush()
    curves.add([(0, {"epoch": 1, "loss": 1.0})])
    study.tell(trial.number, 0.125)
    assert "away" in said[0]
    assert "back after" in said[1]
    (found,) = study.get_trials()
    assert (found.value, found.intermediate_values) == (0.125, {1: 0.5, 2: 0.25})
    assert curves.read() == {0: [{"epoch": 1, "loss": 1.0}]}


def test_patience_has_an_end(server: Server) -> None:
    """Then there is an error that says what to do."""
    buffered = BufferedStorage(open_storage(server.create(next(names))), Patience(seconds=0.0))
    study = optuna.create_study(storage=buffered)
    trial = study.ask()
    trial.report(0.5, 1)
    server.kill()
    try:
        with pytest.raises(StorageError, match="nothing is lost"):
            buffered.flush()
    finally:
        server.start()
    buffered.flush()
    assert study.get_trials()[0].intermediate_values == {1: 0.5}


def test_a_search_goes_on_when_the_server_comes_back(tmp_path: Path, server: Server) -> None:
    """A real search, the server killed in its middle and away for a while, a minute in `make outage`: the same end as on SQLite. Its report
    is waited for too: what has ended well must not fail because the server restarts then."""
    straight, other = tmp_path / "straight", tmp_path / "other"
    search(straight)
    url = server.create(next(names))
    process = started(other, url)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("trial 5 starts"):
            server.kill()
        elif (waited := re.search(r"is away \(.*\); waiting, (\d+) of 900 seconds by now", line)) and int(waited[1]) >= AWAY_SECONDS:
            server.start()
            break
    rest = process.stderr.read()
    assert process.wait() == 0, rest
    back = re.search(r"is back after (\d+) seconds", rest)
    assert back is not None
    assert int(back[1]) >= AWAY_SECONDS
    assert outcome(other, url) == outcome(straight)
    (name,), said = optuna.get_all_study_names(open_storage(url)), list[str]()

    def tell(line: str) -> None:
        said.append(line)
        if len(said) == 1:
            server.start()

    server.kill()
    with pytest.raises(StorageError, match="cannot be opened"):
        report(url, name)
    assert report(url, name, Patience(tell)).summary["study"] == name
    assert ["is away (" in said[0], "back after" in said[1]] == [True, True]


def test_a_search_that_waits_for_its_server_leaves_when_asked(tmp_path: Path, server: Server) -> None:
    """SIGTERM while the server is away: a snapshot, and out with the usual status; it goes on from there."""
    environment = {**os.environ, "TUNER_STORAGE": server.create(next(names))}
    options = ["--num-stories", "30", "--epochs", "5", "--trials", "4", "--width", "4", "--no-confirm"]
    command = [sys.executable, "-c", COUNTING, "search", light(tmp_path), *options]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    epochs = 0
    try:
        for line in process.stderr:
            epochs += line.startswith("epoch of 4")
            if epochs == 3 and line.startswith("epoch of 4"):
                server.kill()
            elif "is away" in line:
                process.terminate()
                break
        assert process.wait() == 143, process.stderr.read()
    finally:
        server.start()
    assert list(tmp_path.glob("runs/snapshots/*/*/seat-0/*.safetensors"))
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("goes on after epoch") == 4


def test_a_server_that_vanishes_without_a_word_is_missed(server: Server) -> None:
    """What the kernel is told: else a query that was sent waits for a quarter of an hour, or for hours."""
    connection = open_storage(server.create(next(names))).engine.raw_connection()
    with socket.socket(fileno=os.dup(connection.driver_connection.fileno())) as opened:
        assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
        assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
    connection.close()


def test_one_at_a_time_asks_and_one_that_sleeps_loses_its_turn(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the server, for workers on other machines; of another study it is another turn."""
    url = server.create(next(names))
    ours, theirs = open_storage(url), open_storage(url)

    def free(study: int) -> bool:
        with theirs.engine.connect() as connection:
            return bool(connection.exec_driver_sql(f"SELECT pg_try_advisory_xact_lock({tuner.storage.LOCK}, {study})").scalar())

    with asking(ours, 1, Patience()):
        assert not free(1)
        assert free(2)
    assert free(1)
    monkeypatch.setattr(tuner.storage, "HOLD_SECONDS", 0.5)
    with asking(ours, 1, Patience()), asking(theirs, 1, Patience()):
        pass  # the first sleeps, and the second has the turn


def test_a_heart_that_beats_while_the_server_is_away_keeps_nobody_waiting(server: Server) -> None:
    """It holds what the search needs to wait by itself, and says that it waits."""
    buffered = BufferedStorage(open_storage(server.create(next(names))))
    study = optuna.create_study(storage=buffered)
    trial = study.ask()
    buffered.mark_own("owner", 1)
    server.kill()
    try:
        with pytest.raises(StorageError):
            buffered.mark_own("owner", 2, wait=False)
        assert buffered.patience.back > 0, "nobody could be seen meanwhile"
    finally:
        server.start()
    buffered.mark_own("owner", 3)
    assert study.get_trials()[trial.number].user_attrs == {"owner": 3}
