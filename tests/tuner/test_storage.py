"""Storages: write-ahead SQLite, the table of curves, and errors that hide passwords."""

import fcntl
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from sqlalchemy import event

from model.corpus import load_corpus
from tests.tuner.test_search import definition
from tuner import study
from tuner.buffer import BufferedStorage
from tuner.cli import main
from tuner.errors import NoStorage, StorageAway, StorageError, StudyError
from tuner.ownership import OWNER, owner
from tuner.storage import Patience, open_storage, shown
from tuner.study import find_study, gone_on_with, open_study
from tuner.tables import CurveTable


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A SQLite storage that is not there yet, in a folder that is not there yet."""
    return f"sqlite:///{tmp_path}/runs/tuner.db"


def test_sqlite_is_opened_in_write_ahead_mode(url: str) -> None:
    """Also on the second time, and a dashboard's plain connection sees it."""
    for _ in range(2):
        open_storage(url)
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_curves_are_kept_by_trial_and_epoch_and_a_repeated_epoch_replaces(url: str) -> None:
    """Studies do not see each other's."""
    storage = open_storage(url)
    first, second = (optuna.create_study(study_name=name, storage=storage)._study_id for name in "ab")
    table = CurveTable(storage, first)
    table.add([(0, {"epoch": 2, "loss": 1.0}), (1, {"epoch": 1, "loss": 3.0}), (0, {"epoch": 1, "loss": 2.0})])
    table.add([(0, {"epoch": 2, "loss": 0.5})])
    table.add([])
    assert table.read() == {0: [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 0.5}], 1: [{"epoch": 1, "loss": 3.0}]}
    assert table.read(1) == {1: [{"epoch": 1, "loss": 3.0}]}
    assert CurveTable(storage, second).read() == {}
    CurveTable(storage, second).add([(1, {"epoch": 3, "loss": 9.0})])
    assert table.latest() == {0: {"epoch": 2, "loss": 0.5}, 1: {"epoch": 1, "loss": 3.0}}
    assert CurveTable(storage, second).read() == {1: [{"epoch": 3, "loss": 9.0}]}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "cannot be read"),
        ("sqlite:////proc/none/tuner.db", "cannot be opened"),
        ("sqlite://", "needs a file"),
        ("nodb://user:secret@host/name", "cannot be opened; allowed: sqlite"),
        ("mysql+pymysql://user:secret@host/name", "a storage of 'mysql' cannot be opened; allowed: sqlite"),
        ("postgresql+psycopg://user:secret@127.0.0.1:1/name", "cannot be opened"),
    ],
)
def test_what_cannot_be_opened_says_why_and_hides_the_password(url: str, message: str) -> None:
    """Never a traceback, never a secret."""
    with pytest.raises(StorageError, match=message) as error:
        open_storage(url)
    assert "secret" not in str(error.value)


def test_a_missing_storage_is_not_made_by_those_who_only_read(url: str) -> None:
    """`tuner status` on a machine without a search leaves no file behind."""
    with pytest.raises(NoStorage, match="there is no storage"):
        open_storage(url, create=False)
    assert not Path(url.removeprefix("sqlite:///")).exists()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """And left as it was."""
    path = tmp_path / "notes.db"
    path.write_text("these are my notes, not a database; " * 100)
    with pytest.raises(StorageError, match="cannot be opened"):
        open_storage(f"sqlite:///{path}")
    assert path.read_text().startswith("these are my notes")


def test_a_url_is_shown_without_its_password() -> None:
    """Everywhere it is printed."""
    assert shown("postgresql+psycopg://user:secret@host/name") == "postgresql+psycopg://user:***@host/name"


def test_a_storage_whose_disk_is_full_is_waited_for_and_nothing_is_lost(url: str) -> None:
    """SQLite's own "database or disk is full", by a limit on its pages; there is room again as soon as the waiting is told of."""
    backend = open_storage(url)
    pages, said = [1], list[str]()

    def limit(connection: sqlite3.Connection, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count={pages[0]}")  # as many as there are, at least

    def tell(line: str) -> None:
        said.append(line)
        pages[0] = 100_000
        backend.engine.dispose()

    buffered = BufferedStorage(backend, Patience(tell))
    study = optuna.create_study(storage=buffered, direction="maximize")
    curves = CurveTable(backend, study._study_id, Patience(tell))
    trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
    buffered.flush()
    backend.engine.dispose()
    event.listen(backend.engine, "connect", limit)
    trial.set_user_attr("long", "x" * 100_000)
    trial.report(0.5, 1)
    buffered.flush()
    curves.add([(0, {"epoch": 1, "loss": 1.0})])
    study.tell(trial.number, 0.25)
    assert "disk is full" in said[0]
    assert "back after" in said[1]
    (found,) = optuna.load_study(study_name=study.study_name, storage=open_storage(url)).get_trials()
    assert (found.value, found.intermediate_values, len(found.user_attrs["long"])) == (0.25, {1: 0.5}, 100_000)
    assert curves.read() == {0: [{"epoch": 1, "loss": 1.0}]}


def only_read(connection: sqlite3.Connection, _: object) -> None:
    """As where the file belongs to somebody else; that would not keep root from writing."""
    connection.execute("PRAGMA query_only=ON")


def test_a_storage_that_may_only_be_read_is_not_waited_for(url: str) -> None:
    """Waiting would change nothing."""
    backend = open_storage(url)
    buffered = BufferedStorage(backend, Patience(pytest.fail))
    made = optuna.create_study(storage=buffered, direction="maximize")
    event.listen(backend.engine, "connect", only_read)
    backend.engine.dispose()
    with pytest.raises(StorageError, match=r"the storage cannot be written \(attempt to write a readonly database\)"):
        made.set_user_attr("name", 1)


@pytest.mark.usefixtures("handlers")
def test_commands_say_that_the_storage_may_only_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`stop` while a search runs, and `enqueue`."""
    url = f"sqlite:///{tmp_path}/tuner.db"
    made = open_study(BufferedStorage(open_storage(url)), definition(), load_corpus("synthetic", 30, 1))
    made.ask().set_user_attr(OWNER, owner(0))
    made._storage.flush()  # type: ignore[attr-defined]
    monkeypatch.setattr("tuner.storage._tune_sqlite", only_read)
    for words in (["stop", made.study_name], ["enqueue", made.study_name, "lr=2e-3", "hidden_dim=16", "num_rules=2"]):
        assert main([*words, "--storage", url]) == 2
        assert "error: the storage cannot be written (attempt to write a readonly database)" in capsys.readouterr().err


def test_a_lock_that_cannot_be_opened_is_an_error_of_the_storage(tmp_path: Path) -> None:
    """As where another user of the same file has made it."""
    (tmp_path / "tuner.db.asking").mkdir()
    with pytest.raises(StorageError, match=r"tuner\.db\.asking cannot be opened \(Is a directory\); remove it"):
        open_study(BufferedStorage(open_storage(f"sqlite:///{tmp_path}/tuner.db")), definition(), load_corpus("synthetic", 30, 1))


def test_curves_are_waited_for_too(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that restarts while they are read; who has no patience is told at once."""
    storage = open_storage(url)
    study_id = optuna.create_study(storage=storage)._study_id
    table, tries, read = CurveTable(storage, study_id, Patience()), list[int](), CurveTable._read

    def away(self: CurveTable, trial: int | None) -> Any:
        tries.append(1)
        if len(tries) == 1:
            raise sqlalchemy.exc.OperationalError("SELECT", {}, Exception("the server is starting"))
        return read(self, trial)

    monkeypatch.setattr(CurveTable, "_read", away)
    assert table.read() == {}
    assert len(tries) == 2
    tries.clear()
    with pytest.raises(StorageAway, match="the server is starting"):
        CurveTable(storage, study_id).read()


def test_studies_of_a_name_are_told_apart_when_some_were_deleted(url: str) -> None:
    """Each command takes the one that was begun last, and none of them begins a second of its name."""
    storage, made, corpus = BufferedStorage(open_storage(url)), definition(), load_corpus("synthetic", 30, 1)
    names = [open_study(storage, made, corpus, fresh=True).study_name for _ in range(3)]
    assert names == ["tiny@synthetic-30", "tiny@synthetic-30.2", "tiny@synthetic-30.3"]
    optuna.delete_study(study_name=names[0], storage=storage)
    assert open_study(storage, made, corpus).study_name == find_study(storage, "tiny").study_name == names[2]
    optuna.delete_study(study_name=names[1], storage=storage)
    assert open_study(storage, made, corpus).study_name == names[2]
    assert open_study(storage, made, corpus, fresh=True).study_name == "tiny@synthetic-30.4"
    assert gone_on_with(storage, "tiny@synthetic-30.4")[1] == "tiny"
    with pytest.raises(StudyError, match=r"only tiny@synthetic-30.4 can be continued"):
        gone_on_with(storage, names[2])


def test_a_study_is_set_up_by_one_process_alone(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that begin it at once: the second waits, and finds it made."""
    storage, made, corpus = BufferedStorage(open_storage(url)), definition(), load_corpus("synthetic", 30, 1)
    set_up, locked = study._set_up, list[bool]()

    def noted(begun: optuna.Study, *rest: Any) -> None:
        with open(f"{url.removeprefix('sqlite:///')}.asking") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                locked.append(True)
        set_up(begun, *rest)

    monkeypatch.setattr(study, "_set_up", noted)
    marks = {open_study(storage, made, corpus).user_attrs["mark"] for _ in range(2)}
    assert (locked, len(marks)) == ([True], 1)


def test_a_package_that_is_not_installed_has_no_version() -> None:
    """As this project itself, where it is a folder only."""
    assert study.installed("pytest")
    assert study.installed("no-such-package") == "not installed"


def test_a_study_that_is_just_being_made_is_said_to_be(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or whose making was interrupted: it has a definition, and not all that it must know of itself."""
    kept = optuna.Study.set_user_attr

    def interrupted(self: optuna.Study, key: str, value: Any) -> None:
        if key == "most_frequent":
            raise KeyboardInterrupt
        kept(self, key, value)

    monkeypatch.setattr(optuna.Study, "set_user_attr", interrupted)
    storage = BufferedStorage(open_storage(url))
    with pytest.raises(KeyboardInterrupt):
        open_study(storage, definition(), load_corpus("synthetic", 30, 1))
    with pytest.raises(StudyError, match=r"is just being made, or its making was interrupted: `tuner search .*` makes it whole"):
        study.definition_of(find_study(storage, definition().name))
