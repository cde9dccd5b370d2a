"""The gate before the dashboard: a real server on this machine, asked as a browser, a program and a foreign page would ask it."""

from __future__ import annotations

import http.client
import threading
import wsgiref.simple_server
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tuner import dashboard
from tuner.dashboard import given_token, is_loopback, made_token, serve
from tuner.errors import TunerError
from tuner.gate import FIRST_PAUSE, SESSION_SECONDS, Gate

TOKEN = "a token of some length"


@dataclass
class Answer:
    """A status, headers and a body."""

    status: int
    headers: dict[str, str]
    body: str


class Silent(wsgiref.simple_server.WSGIRequestHandler):
    """Says nothing of what it is asked."""

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


class Served:
    """A gate before an application that says what it was asked, and a clock that the test sets."""

    def __init__(self, token: str | None, read_only: bool = False) -> None:
        self.now, self.reached = 1000.0, list[str]()
        self.gate = Gate(self._inner, token, read_only=read_only, clock=lambda: self.now)
        self.server = wsgiref.simple_server.make_server("127.0.0.1", 0, self.gate, handler_class=Silent)
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        """Ends it."""
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def _inner(self, environ: dict[str, str], start: object) -> list[bytes]:
        self.reached.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        start("200 OK", [("Content-Type", "text/plain")])
        return [b"the dashboard"]

    def ask(self, method: str, path: str, body: str = "", **headers: str) -> Answer:
        """One request; header names are given with underscores."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {"Host": f"127.0.0.1:{self.port}", **{name.replace("_", "-"): value for name, value in headers.items()}}
        connection.request(method, path, body or None, sent)
        answer = connection.getresponse()
        found = Answer(answer.status, dict(answer.getheaders()), answer.read().decode())
        connection.close()
        return found

    def log_in(self, token: str) -> Answer:
        """The login page's form."""
        return self.ask("POST", "/login", urlencode({"token": token}), Content_Type="application/x-www-form-urlencoded")


@pytest.fixture
def guarded() -> Iterator[Served]:
    """One that demands a token."""
    served = Served(TOKEN)
    yield served
    served.close()


@pytest.fixture
def open_to_us() -> Iterator[Served]:
    """One on the loopback address, without a token."""
    served = Served(None)
    yield served
    served.close()


def test_nobody_comes_in_without_the_token_and_everybody_with_it(guarded: Served) -> None:
    """Programs get 401, people the login page; a session lasts for hours and not for ever."""
    assert guarded.ask("GET", "/api/studies").status == 401
    assert "form" in guarded.ask("GET", "/dashboard").body
    assert guarded.ask("GET", "/static/bundle.js").status == 401
    assert guarded.reached == []
    assert guarded.ask("GET", "/api/studies", Authorization=f"Bearer {TOKEN}").body == "the dashboard"
    answer = guarded.log_in(TOKEN)
    assert (answer.status, answer.headers["Location"]) == (303, "/dashboard")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in cookie
    session = cookie.partition(";")[0]
    assert guarded.ask("GET", "/api/studies", Cookie=session).body == "the dashboard"
    for others in ('theme={"dark":true}', "version=1", "a@b=1", f"tuner_session_{guarded.port}=old", "x"):
        assert guarded.ask("GET", "/api/studies", Cookie=f"{others}; {session}").status == 200, others
    guarded.now += SESSION_SECONDS + 1
    assert guarded.ask("GET", "/api/studies", Cookie=session).status == 401
    assert guarded.ask("GET", "/api/studies", Cookie=f"tuner_session_{guarded.port}=").status == 401


def test_a_study_is_not_renamed_for_that_would_lose_its_curves(open_to_us: Served) -> None:
    """The dashboard's rename copies the study without what is ours and deletes it; a note is written all the same."""
    answer = open_to_us.ask("POST", "/api/studies/3/rename", '{"study_name": "mine"}')
    assert (answer.status, open_to_us.reached) == (403, [])
    assert "its curves" in answer.body
    assert open_to_us.ask("PUT", "/api/studies/3/note", "{}").body == "the dashboard"


def test_two_dashboards_of_one_host_do_not_log_each_other_out(guarded: Served) -> None:
    """A browser sends the cookies of both to both, and keeps one of each name; behind a port that is not named it is the bare one."""
    other = Served(TOKEN)
    kept = dict(served.log_in(TOKEN).headers["Set-Cookie"].partition(";")[0].split("=") for served in (guarded, other))
    both = "; ".join(f"{name}={value}" for name, value in kept.items())
    assert [served.ask("GET", "/api/studies", Cookie=both).status for served in (guarded, other)] == [200, 200]
    other.close()
    plain = guarded.ask("POST", "/login", urlencode({"token": TOKEN}), Host="localhost")
    assert plain.headers["Set-Cookie"].startswith("tuner_session=")


def test_who_guesses_waits_ever_longer(guarded: Served) -> None:
    """Meanwhile even the token is not looked at; a session that was there goes on."""
    session = guarded.log_in(TOKEN).headers["Set-Cookie"].partition(";")[0]
    for guess in range(4):
        assert guarded.log_in("wrong").status == 401
        assert guarded.log_in(TOKEN).status == 429
        assert guarded.ask("GET", "/api/studies", Authorization=f"Bearer {TOKEN}").status == 429
        assert guarded.ask("GET", "/api/studies", Cookie=session).status == 200
        guarded.now += FIRST_PAUSE * 2**guess + 0.01
    assert guarded.ask("GET", "/api/studies", Authorization="Bearer wrong").status == 429
    assert guarded.log_in(TOKEN).status == 429
    guarded.now += 60
    assert guarded.log_in(TOKEN).status == 303


def test_a_foreign_page_can_neither_read_nor_change(open_to_us: Served) -> None:
    """A name that was made to point here, a page of another origin, a picture or a form of another site; a link may be followed."""
    ask, here = open_to_us.ask, f"http://127.0.0.1:{open_to_us.port}"
    assert ask("GET", "/api/studies", Host="evil.example").status == 403
    assert ask("GET", "/api/studies", Host="").status in (400, 403)
    assert ask("POST", "/api/studies", "{}", Origin="http://evil.example").status == 403
    assert ask("GET", "/api/studies", Origin="null").status == 403
    assert ask("GET", "/api/studies", Origin="http://[").status == 403
    assert ask("DELETE", "/api/studies/1", Sec_Fetch_Site="cross-site").status == 403
    assert ask("GET", "/api/studies", Sec_Fetch_Site="same-site", Sec_Fetch_Mode="no-cors").status == 403
    assert open_to_us.reached == []
    visit = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert ask("GET", "/dashboard", **visit).status == 200
    assert ask("POST", "/api/studies", "{}", Origin=here, Sec_Fetch_Site="same-origin").status == 200
    for host in ("localhost", "[::1]:80", "192.168.1.7:8080"):
        assert ask("GET", "/api/studies", Host=host).status == 200


def test_read_only_refuses_what_changes() -> None:
    """Whatever the path."""
    served = Served(None, read_only=True)
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert served.ask(method, "/api/studies/1/note", "{}").status == 403
    assert served.ask("GET", "/api/studies/1").status == 200
    assert served.reached == ["GET /api/studies/1"]
    served.close()


def test_a_form_that_is_too_long_is_not_read(guarded: Served) -> None:
    """Nor one whose length is no number."""
    assert guarded.log_in("x" * 10_000).status == 413


def test_a_token_is_given_or_made_once_and_kept_for_its_owner(tmp_path: Path) -> None:
    """From the environment, from a file, or new; one that is too short is refused."""
    assert given_token({}) is None
    assert given_token({"TUNER_DASHBOARD_TOKEN": TOKEN}) == TOKEN
    (tmp_path / "given").write_text(f"{TOKEN}\n")
    assert given_token({"TUNER_DASHBOARD_TOKEN_FILE": str(tmp_path / "given")}) == TOKEN
    with pytest.raises(TunerError, match="needs 16"):
        given_token({"TUNER_DASHBOARD_TOKEN": "short"})
    with pytest.raises(TunerError, match="cannot be read"):
        given_token({"TUNER_DASHBOARD_TOKEN_FILE": str(tmp_path / "none")})
    (tmp_path / "bytes").write_bytes(b"\xff" * 32)
    with pytest.raises(TunerError, match="is no text"):
        given_token({"TUNER_DASHBOARD_TOKEN_FILE": str(tmp_path / "bytes")})
    with pytest.raises(TunerError, match=r"cannot be kept in .*; name one in TUNER_DASHBOARD_TOKEN"):
        made_token(tmp_path / "given" / "token", print)
    told: list[str] = []
    made = made_token(tmp_path / "runs" / "token", told.append)
    assert made_token(tmp_path / "runs" / "token", told.append) == made
    assert [made in line for line in told] == [True, False]
    assert (tmp_path / "runs" / "token").stat().st_mode & 0o777 == 0o600
    assert [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "192.168.1.7")] == [True, True, True, False, False]


def test_a_file_of_a_study_runs_nothing_in_the_page_of_who_looks_at_it(open_to_us: Served) -> None:
    """Whoever writes to a study can put a page there; what is ours is left as it is."""
    there = open_to_us.ask("GET", "/artifacts/1/ab").headers
    assert (there["Content-Security-Policy"], there["X-Content-Type-Options"]) == ("sandbox", "nosniff")
    assert "Content-Security-Policy" not in open_to_us.ask("GET", "/dashboard").headers


def gate_of(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Callable[[str], int], dict[str, Any], list[str]]:
    """The gate that `serve` puts before the dashboard: the status that it answers a host name with, what waitress is told, what is said."""
    kept, told = dict[str, Any](), list[str]()

    def page(environ: dict[str, Any], start: Callable[..., object]) -> list[bytes]:
        start("200 OK", [])
        return [b""]

    def served(gate: Gate, **given: Any) -> None:
        kept.update(given, gate=gate)

    monkeypatch.chdir(folder)
    monkeypatch.setattr(dashboard, "wsgi", lambda storage, artifact_store: page)
    monkeypatch.setattr(dashboard, "serve_forever", served)
    for name in (dashboard.TOKEN, dashboard.TOKEN_FILE):
        monkeypatch.delenv(name, raising=False)
    serve(None, None, told.append, port=0, **options)

    def status(host: str) -> int:
        found: list[str] = []
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/api/studies", "HTTP_HOST": host, "REMOTE_ADDR": "127.0.0.1"}
        kept["gate"](environ, lambda status, headers: found.append(status))
        return int(found[0][:3])

    return status, kept, told


def test_on_another_address_there_is_a_login_and_further_names_are_let_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is made and told; bodies have a limit."""
    status, kept, told = gate_of(tmp_path, monkeypatch, host="0.0.0.0", names=("box.lan",))
    assert [status(host) for host in ("box.lan", "127.0.0.1", "other.lan")] == [401, 401, 403]
    assert "the token to log in with" in told[0]
    assert kept["max_request_body_size"] == dashboard.LARGEST_BODY


def test_on_this_machine_there_is_none_unless_the_storage_is_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is on it reaches a file without us, but not a server that wants a password."""
    status, _, _ = gate_of(tmp_path, monkeypatch)
    assert status("localhost") == 200
    status, _, told = gate_of(tmp_path, monkeypatch, open_here=False)
    assert status("localhost") == 401
    assert "the token to log in with" in told[0]
