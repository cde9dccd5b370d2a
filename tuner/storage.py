"""Opening a storage by URL, writing to it in batches, and the table of curves: the only file that imports SQLAlchemy.

SQLite is opened in write-ahead mode, so that a dashboard that reads never waits for a search that writes, nor the other way round.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import Column, Integer, MetaData, Table, Text, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Engine, make_url

from tuner.errors import StorageError

DEFAULT_URL = "sqlite:///runs/tuner.db"
SCHEMA_VERSION = 1
LOCK = 0x74756E65
BUSY_SECONDS, CONNECT_SECONDS, PATIENCE_SECONDS, LONGEST_PAUSE = 60, 5, 900.0, 2.0

P = ParamSpec("P")
R = TypeVar("R")

_metadata = MetaData()
_curves = Table(
    "tuner_curves",
    _metadata,
    Column("study_id", Integer, primary_key=True),
    Column("trial", Integer, primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("record", Text, nullable=False),
)
_schema = Table("tuner_schema", _metadata, Column("version", Integer, primary_key=True))


def open_storage(url: str, create: bool = True) -> RDBStorage:
    """Opens the storage of this URL; `create` makes the SQLite file where there is none.

    Raises:
        StorageError: it cannot be opened; the message hides any password.
    """
    parsed = _parsed(url)
    try:
        if parsed.get_backend_name() == "sqlite":
            _prepare_sqlite(parsed, create)
        arguments: dict[str, Any] = {"pool_pre_ping": True}
        if parsed.get_backend_name() == "sqlite":
            arguments["connect_args"] = {"timeout": BUSY_SECONDS}
        elif parsed.get_backend_name() == "postgresql":
            arguments["connect_args"] = {"connect_timeout": CONNECT_SECONDS}
        storage = RDBStorage(url, engine_kwargs=arguments)
        if parsed.get_backend_name() == "sqlite":
            event.listen(storage.engine, "connect", _tune_sqlite)
            storage.engine.dispose()  # connections opened before are opened anew, tuned
        _check_schema(storage.engine)
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, OSError, RuntimeError, optuna.exceptions.OptunaError) as error:
        cause = getattr(error, "orig", None) or error
        advice = "; install the driver with `pip install 'tuner[postgres]'`" if isinstance(error, ImportError) else ""
        raise StorageError(f"the storage {shown(url)} cannot be opened: {_hide(str(cause), parsed)}{advice}") from error
    return storage


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        raise StorageError(
            "the storage URL cannot be read; allowed: sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME"
        ) from error


def shown(url: str) -> str:
    """The URL as it may be shown: without its password."""
    parsed = _parsed(url)
    query = {key: "***" if key in _secrets(parsed) else value for key, value in parsed.query.items()}
    return parsed.set(query=query).render_as_string(hide_password=True)


def _secrets(url: URL) -> list[str]:
    """The keys of the URL's query that hold a password."""
    return [key for key in url.query if "pass" in key.lower()]


def _hide(text: str, url: URL) -> str:
    passwords = [str(url.password)] if url.password else []
    passwords += [str(url.query[key]) for key in _secrets(url)]
    for password in passwords:
        text = text.replace(password, "***").replace(quote(password, safe=""), "***")
    return text


def _prepare_sqlite(url: URL, create: bool) -> None:
    if not url.database or url.database == ":memory:":
        raise StorageError("a SQLite storage needs a file: sqlite:///runs/tuner.db")
    path = Path(url.database)
    if not create and not path.is_file():
        raise StorageError(f"there is no storage {path}; `tuner search` makes one, --storage or TUNER_STORAGE names another")
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = sqlalchemy.create_engine(url, connect_args={"timeout": BUSY_SECONDS})
    with engine.connect() as connection:
        mode = connection.exec_driver_sql("PRAGMA journal_mode=WAL").scalar()
    engine.dispose()
    if mode != "wal":
        raise StorageError(f"{path} cannot be put into write-ahead mode (it is {mode!r}); network file systems cannot: use a local disk")


def _tune_sqlite(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")


def _check_schema(engine: Engine) -> None:
    with engine.begin() as connection:
        _metadata.create_all(connection)
        version = connection.execute(sqlalchemy.select(_schema.c.version)).scalar()
        if version is None:
            connection.execute(_schema.insert().values(version=SCHEMA_VERSION))
        elif version != SCHEMA_VERSION:
            raise StorageError(
                f"the storage's curves have schema {version}, this program reads {SCHEMA_VERSION}; use the matching version of tuner"
            )


class Patience:
    """Repeats a call that fails because the storage is away (a server that restarts, a disk that is full), after longer and longer pauses.

    Args:
        tell: is told that it waits and that it goes on.
        seconds: for how long at most.
    """

    def __init__(self, tell: Callable[[str], None] = lambda _: None, seconds: float = PATIENCE_SECONDS) -> None:
        self.seconds, self._tell = seconds, tell

    def __call__(self, call: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        """What the call returns.

        Raises:
            StorageError: the storage stayed away.
        """
        began, pause, told = time.monotonic(), 0.25, False
        while True:
            try:
                result = call(*arguments, **named)
                if told:
                    self._tell(f"the storage is back after {time.monotonic() - began:.0f} seconds")
                return result
            except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
                cause = _outage(error)
                if cause is None:
                    raise
                if time.monotonic() - began + pause > self.seconds:
                    raise StorageError(f"the storage stayed away ({cause}); nothing is lost: run it again when that is back") from error
            if not told and pause >= 1:
                self._tell(f"the storage is away ({cause}); waiting for up to {self.seconds:.0f} seconds")
                told = True
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _outage(error: BaseException) -> str | None:
    """What the storage said if it is away, in one line; None where the call itself is at fault."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, sqlalchemy.exc.DBAPIError):
        found = found.__cause__ or found.__context__
    if isinstance(found, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError) or (found and found.connection_invalidated):
        return str(found.orig).strip().partition("\n")[0] or type(found.orig).__name__
    return None


def take_over(storage: RDBStorage, trial_id: int, key: str, was: Any, value: Any) -> bool:
    """Compare and swap: sets an attribute of a running trial if it still is what it was (None: there was none); whether it did."""
    attributes: Any = models.TrialUserAttributeModel.__table__
    insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[storage.engine.dialect.name]
    running = sqlalchemy.exists().where(models.TrialModel.trial_id == trial_id, models.TrialModel.state == TrialState.RUNNING)
    with storage.engine.begin() as connection:
        if not connection.execute(sqlalchemy.select(running)).scalar():
            return False
        if was is None:
            statement = insert(attributes).values(trial_id=trial_id, key=key, value_json=json.dumps(value)).on_conflict_do_nothing()
        else:
            there = (attributes.c.trial_id == trial_id) & (attributes.c.key == key) & (attributes.c.value_json == json.dumps(was))
            statement = attributes.update().where(there).values(value_json=json.dumps(value))
        if int(connection.execute(statement).rowcount) == 1:
            return True
        now = sqlalchemy.select(attributes.c.value_json).where((attributes.c.trial_id == trial_id) & (attributes.c.key == key))
        return bool(connection.execute(now).scalar() == json.dumps(value))  # it was done before, and the answer was lost


@contextlib.contextmanager
def asking(storage: RDBStorage, study_id: int, patience: Patience) -> Iterator[None]:
    """One process at a time, wherever it runs: a lock of the server's, or on a file beside SQLite's.

    Should the server die meanwhile, its lock is gone with it, and what is done under it goes on without.
    """
    if storage.engine.dialect.name == "postgresql":
        connection = patience(_locked, storage.engine, study_id)
        try:
            yield
        finally:
            with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):
                connection.close()  # ends the transaction, and with it the lock
        return
    lock = os.open(f"{storage.engine.url.database}.asking", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _locked(engine: Engine, study_id: int) -> sqlalchemy.Connection:
    connection = engine.connect()
    try:
        connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_xact_lock(LOCK, study_id)))
    except BaseException:
        connection.close()
        raise
    return connection


@dataclass(frozen=True)
class Row:
    """Something to be written of a running trial: `kind` is param, report, user_attr or system_attr, `key` its name or step."""

    kind: str
    trial_id: int
    key: str | int
    value: Any
    distribution: BaseDistribution | None = None


_TABLES: dict[str, tuple[Any, str]] = {
    "param": (models.TrialParamModel, "param_name"),
    "report": (models.TrialIntermediateValueModel, "step"),
    "user_attr": (models.TrialUserAttributeModel, "key"),
    "system_attr": (models.TrialSystemAttributeModel, "key"),
}
"""Optuna's own table for each kind, and the column that is unique within a trial."""


def _columns(row: Row) -> dict[str, Any]:
    """A row as Optuna stores it."""
    if row.kind == "param" and row.distribution is not None:
        return {"param_value": row.value, "distribution_json": distribution_to_json(row.distribution)}
    if row.kind == "report":
        value, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(row.value)
        return {"intermediate_value": value, "intermediate_value_type": kind}
    return {"value_json": json.dumps(row.value)}


def write_rows(storage: RDBStorage, rows: Sequence[Row]) -> list[int]:
    """Writes rows into Optuna's tables in one transaction, the last of one key over those before it.

    Returns:
        The ids of trials that are not running any more; of these nothing is written.
    """
    insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[storage.engine.dialect.name]
    ids = {row.trial_id for row in rows}
    running = sqlalchemy.select(models.TrialModel.trial_id).where(
        models.TrialModel.trial_id.in_(ids), models.TrialModel.state == TrialState.RUNNING
    )
    with storage.engine.begin() as connection:
        alive = set(connection.execute(running).scalars())
        for kind, (model, key) in _TABLES.items():
            latest = {(row.trial_id, row.key): row for row in rows if row.kind == kind and row.trial_id in alive}
            if latest:
                content = [{"trial_id": row.trial_id, key: row.key, **_columns(row)} for row in latest.values()]
                statement = insert(model.__table__)
                given = {name: statement.excluded[name] for name in content[0] if name not in ("trial_id", key)}
                connection.execute(statement.on_conflict_do_update(index_elements=["trial_id", key], set_=given), content)
    return sorted(ids - alive)


class CurveTable:
    """Each trial's per-epoch records, in a table of our own beside Optuna's."""

    def __init__(self, storage: RDBStorage, study_id: int, patience: Patience | None = None) -> None:
        self._engine, self._study_id, self._patience = storage.engine, study_id, patience or Patience()

    def add(self, records: Sequence[tuple[int, dict[str, Any]]]) -> None:
        """Stores (trial number, record) pairs in one transaction; a record of an epoch that is there already replaces it."""
        if not records:
            return
        keys = [{"study_id": self._study_id, "trial": trial, "epoch": record["epoch"]} for trial, record in records]
        rows = [{**key, "record": json.dumps(record)} for key, (_, record) in zip(keys, records, strict=True)]
        self._patience(self._replace, [{f"old_{name}": value for name, value in key.items()} for key in keys], rows)

    def _replace(self, old: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
        same = sqlalchemy.and_(*(_curves.c[name] == sqlalchemy.bindparam(f"old_{name}") for name in ("study_id", "trial", "epoch")))
        with self._engine.begin() as connection:
            connection.execute(_curves.delete().where(same), old)
            connection.execute(_curves.insert(), rows)

    def read(self, trial: int | None = None) -> dict[int, list[dict[str, Any]]]:
        """The curves by trial number, each in the order of its epochs."""
        wanted = _curves.c.study_id == self._study_id
        if trial is not None:
            wanted = wanted & (_curves.c.trial == trial)
        query = sqlalchemy.select(_curves.c.trial, _curves.c.record).where(wanted).order_by(_curves.c.trial, _curves.c.epoch)
        curves: dict[int, list[dict[str, Any]]] = {}
        with self._engine.connect() as connection:
            for number, record in connection.execute(query):
                curves.setdefault(number, []).append(json.loads(record))
        return curves
