"""Opening a storage by URL, waiting for one that is away, and the lock under which trials begin.

With `tables` the only file that imports SQLAlchemy.

SQLite is opened in write-ahead mode, so that a dashboard that reads never waits for a search that writes, nor the other way round.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy import Column, Integer, MetaData, Table, Text, event
from sqlalchemy.engine import URL, Engine, make_url

from model.files import opened_to_lock
from tuner.errors import NoStorage, StorageAway, StorageError

DEFAULT_URL = "sqlite:///runs/tuner.db"
PASSWORD_FILE = "TUNER_STORAGE_PASSWORD_FILE"
SCHEMA_VERSION = 1
LOCK = 0x74756E65
BUSY_SECONDS, CONNECT_SECONDS, PATIENCE_SECONDS, LONGEST_PAUSE, AGAIN_SECONDS = 60, 5, 900.0, 2.0, 60.0
GONE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}
"""What libpq needs to notice within a minute or so that a server has vanished without a word."""
HOLD_SECONDS = 60.0
"""A process that is suspended or has vanished holds the server's lock no longer than this."""

P = ParamSpec("P")
R = TypeVar("R")

METADATA = MetaData()
ALLOWED = "allowed: sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME"


def _records(name: str, key: str) -> Table:
    """A table of records in JSON, one for each trial and `key`."""
    keys = [Column(column, Integer, primary_key=True) for column in ("study_id", "trial", key)]
    return Table(name, METADATA, *keys, Column("record", Text, nullable=False))


CURVES, RUNS = _records("tunerCURVES", "epoch"), _records("tuner_confirming_runs", "seed")
_schema = Table("tuner_schema", METADATA, Column("version", Integer, primary_key=True))


def open_storage(url: str, create: bool = True) -> RDBStorage:
    """Opens the storage of this URL; `create` makes the SQLite file where there is none.

    Raises:
        NoStorage: there is no SQLite file, and none is to be made.
        StorageError: it cannot be opened; the message hides any password.
    """
    parsed = _parsed(url)
    sqlite = parsed.get_backend_name() == "sqlite"
    waits = {"timeout": BUSY_SECONDS} if sqlite else {"connect_timeout": CONNECT_SECONDS, **GONE}
    try:
        if sqlite:
            _prepare_sqlite(parsed, create)
        storage = RDBStorage(parsed.render_as_string(hide_password=False), engine_kwargs={"pool_pre_ping": True, "connect_args": waits})
        if sqlite:
            event.listen(storage.engine, "connect", _tune_sqlite)
            storage.engine.dispose()  # connections opened before are opened anew, tuned
        _check_schema(storage.engine)
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, OSError, RuntimeError, optuna.exceptions.OptunaError) as error:
        cause = getattr(error, "orig", None) or error
        advice = "; install the driver with `pip install 'tuner[postgres]'`" if isinstance(error, ImportError) else ""
        raise StorageError(f"the storage {shown(url)} cannot be opened: {_hide(str(cause), parsed)}{advice}") from error
    return storage


def _parsed(url: str) -> URL:
    """The URL, with the password that a file holds where it has none itself: command lines and environments are for others to see."""
    try:
        parsed, name = make_url(url), os.environ.get(PASSWORD_FILE)
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise StorageError(f"a storage of {parsed.get_backend_name()!r} cannot be opened; {ALLOWED}")
        if parsed.get_backend_name() != "sqlite" and parsed.password is None and name:
            parsed = parsed.set(password=Path(name).read_text().strip())
        return parsed
    except OSError as error:
        raise StorageError(f"{PASSWORD_FILE} names {name}, which cannot be read ({error.strerror})") from error
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        raise StorageError(f"the storage URL cannot be read; {ALLOWED}") from error


def shown(url: str) -> str:
    """The URL as it may be shown: without its password."""
    parsed = _parsed(url)
    query = {key: "***" if key in _secrets(parsed) else value for key, value in parsed.query.items()}
    return parsed.set(query=query).render_as_string(hide_password=True)


def wherever(url: str) -> str:
    """The URL as it means the same in any folder."""
    parsed = _parsed(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return url
    return parsed.set(database=str(Path(parsed.database).absolute())).render_as_string(hide_password=False)


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
        raise NoStorage(f"there is no storage {path}; `tuner search` makes one, --storage or TUNER_STORAGE names another")
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
        METADATA.create_all(connection)
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
        self.back = 0.0
        """When the storage last came back, in seconds since the epoch of time; 0: it was never away for long."""

    def __call__(self, call: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        """What the call returns.

        Raises:
            StorageAway: the storage stayed away.
            StorageError: it may only be read, and waiting would not change that.
        """
        began, pause, said = time.monotonic(), 0.25, 0.0
        while True:
            try:
                result = call(*arguments, **named)
                if said:
                    self.back = time.time()
                    self._tell(f"the storage is back after {time.monotonic() - began:.0f} seconds")
                return result
            except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, StorageError) as error:
                cause = _outage(error)
                if cause is None or isinstance(error, StorageAway):
                    raise
                if _refused(error):
                    raise StorageError(f"the storage cannot be written ({cause}); see who owns it: nothing is lost") from error
                if time.monotonic() - began + pause > self.seconds:
                    raise StorageAway(f"the storage stayed away ({cause}); nothing is lost: run it again when that is back") from error
            if pause >= 1 and (waited := time.monotonic() - began) >= said:
                self._tell(f"the storage is away ({cause}); waiting, {waited:.0f} of {self.seconds:.0f} seconds by now")
                said = max(AGAIN_SECONDS, 2 * said)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _of_driver(error: BaseException) -> sqlalchemy.exc.DBAPIError | None:
    """What the driver raised, where this comes from there."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, sqlalchemy.exc.DBAPIError):
        found = found.__cause__ or found.__context__
    return found


def _refused(error: BaseException) -> bool:
    """Whether SQLite's file may only be read. (A server that says so is about to take over from another, and is waited for.)"""
    found = _of_driver(error)
    return found is not None and getattr(found.orig, "sqlite_errorname", "").startswith("SQLITE_READONLY")


def _outage(error: BaseException) -> str | None:
    """What the storage said if it is away, in one line; None where the call itself is at fault."""
    found = _of_driver(error)
    away = isinstance(found, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError) or (found and found.connection_invalidated)
    return in_a_line(error) if away else None


def in_a_line(error: BaseException) -> str:
    """What the driver said, or else the error itself, in one line."""
    cause = getattr(_of_driver(error), "orig", None) or error
    return str(cause).strip().partition("\n")[0] or type(cause).__name__


@contextlib.contextmanager
def asking(storage: RDBStorage, study_id: int, patience: Patience) -> Iterator[None]:
    """One process at a time, wherever it runs: a lock of the server's, or on a file beside SQLite's.

    Should the server die meanwhile, its lock is gone with it, and what is done under it goes on without.

    Raises:
        StorageError: the file cannot be opened.
    """
    if storage.engine.dialect.name == "postgresql":
        connection = patience(_locked, storage.engine, study_id)
        try:
            yield
        finally:
            with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):
                connection.close()  # ends the transaction, and with it the lock
        return
    path = Path(f"{storage.engine.url.database}.asking")
    try:
        lock = opened_to_lock(path)
    except OSError as error:
        advice = "remove it if it is another user's and no search runs; several users share a study through PostgreSQL"
        raise StorageError(f"{path} cannot be opened ({error.strerror}); {advice}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _locked(engine: Engine, study_id: int) -> sqlalchemy.Connection:
    connection = engine.connect()
    try:
        # one that is suspended, or whose host is gone, must not keep all others waiting
        connection.execute(sqlalchemy.text(f"SET LOCAL idle_in_transaction_session_timeout = {int(1000 * HOLD_SECONDS)}"))
        connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_xact_lock(LOCK, study_id)))
    except BaseException:
        connection.close()
        raise
    return connection
