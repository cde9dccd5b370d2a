"""The gate before the dashboard: who may come in, from which pages, and whether they may change anything. WSGI around WSGI.

A page of another site that a user happens to visit can send requests to his own machine: so the name in `Host` must be one of ours (a
foreign name that was made to point here is refused) and `Origin`, where there is one, must be this very place.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import ipaddress
import json
import re
import secrets
import socket
import threading
import time
import urllib.parse
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

COOKIE, LONGEST_FORM, MOST = "tuner_session", 4096, 4096
SESSION_SECONDS, FIRST_PAUSE, LONGEST_PAUSE = 12 * 3600.0, 1.0, 60.0
READING = ("GET", "HEAD", "OPTIONS")
RENAME = re.compile(r"/api/studies/\d+/rename")
LOSES = (
    "renaming copies what Optuna knows of a study and deletes the rest: its curves, and what its search goes on from; "
    "`tuner search FILE --name NAME` begins one of another name"
)
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>tuner: log in</title>
<meta name="viewport" content="width=device-width"><style>
body {{ font: 16px system-ui; max-width: 24rem; margin: 15vh auto; padding: 0 1rem }}
input, button {{ font: inherit; padding: .5rem; width: 100%; box-sizing: border-box; margin-top: .5rem }}</style></head>
<body><h1>tuner</h1><form method="post" action="/login"><label for="token">Token (printed where the dashboard was first started)</label>
<input id="token" name="token" type="password" autocomplete="current-password" autofocus required>
<button>Log in</button></form><p role="alert">{said}</p></body></html>"""


class Guesses:
    """Slows down who guesses: after each wrong token an address waits twice as long as before.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """For how many seconds this address must not guess."""
        return max(0.0, self._wrong.get(address, (0, 0.0))[1] - self._clock())

    def wrong(self, address: str) -> None:
        """It has guessed wrong."""
        times = self._wrong.pop(address, (0, 0.0))[0] + 1
        self._wrong[address] = times, self._clock() + min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(times - 1, 10))
        while len(self._wrong) > MOST:
            self._wrong.popitem(last=False)

    def right(self, address: str) -> None:
        """It has found the token."""
        self._wrong.pop(address, None)


class Gate:
    """Lets requests through to the dashboard, or answers them itself.

    Args:
        token: what everybody must know, loopback clients too; None: nobody need know anything.
        names: the host names under which it may be reached, beside addresses, `localhost` and this machine's own.
        read_only: whether what changes a study is refused.
    """

    def __init__(
        self,
        inner: WSGIApplication,
        token: str | None,
        names: Iterable[str] = (),
        read_only: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner, self._read_only, self._clock = inner, read_only, clock
        self._token = None if token is None else hashlib.sha256(token.encode()).digest()
        self._names = {name.lower() for name in (*names, "localhost", socket.gethostname(), socket.getfqdn())}
        self._sessions: OrderedDict[str, float] = OrderedDict()
        self._guesses, self._lock = Guesses(clock), threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Answers a request."""
        path, method = environ.get("PATH_INFO", "/").rstrip("/") or "/", environ["REQUEST_METHOD"]
        if (foreign := self._foreign(environ)) is not None:
            return self._refuse(start, environ, "403 Forbidden", foreign)
        if path == "/login" and self._token is not None:
            return self._log_in(environ, start) if method == "POST" else self._ask(start, "200 OK")
        if self._token is not None and not self._known(environ):
            if wait := self._guesses.wait(_address(environ)):
                return self._slow(start, environ, wait)
            return self._refuse(start, environ, "401 Unauthorized", "log in first, or send the token as Authorization: Bearer")
        if self._read_only and method not in READING:
            return self._refuse(start, environ, "403 Forbidden", "this dashboard is read-only")
        if method == "POST" and RENAME.fullmatch(path):
            return self._refuse(start, environ, "403 Forbidden", LOSES)
        return self._inner(environ, _harmless(start) if path.startswith("/artifacts/") else start)

    # ---- from where

    def _foreign(self, environ: WSGIEnvironment) -> str | None:
        """What is wrong with where a request comes from or goes to."""
        host = environ.get("HTTP_HOST", "")
        if not self._ours(host):
            return "this name is not one of ours; `tuner dashboard --allow-host NAME` lets it in"
        origin = environ.get("HTTP_ORIGIN")
        if origin is not None and _netloc(origin) != host.lower():
            return "a page of another origin may not come here"
        if environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("same-origin", "none") and not self._visit(environ):
            return "a page of another site may not come here"
        return None

    @staticmethod
    def _visit(environ: WSGIEnvironment) -> bool:
        """Somebody follows a link: that reads a page for himself and for nobody else."""
        whole = environ["REQUEST_METHOD"] == "GET" and environ.get("HTTP_SEC_FETCH_MODE") == "navigate"
        return whole and environ.get("HTTP_SEC_FETCH_DEST") == "document"

    def _ours(self, host: str) -> bool:
        try:
            name = (urllib.parse.urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True  # an address is what it is: no name server can make it point elsewhere

    # ---- who

    def _known(self, environ: WSGIEnvironment) -> bool:
        """Whether it has a session or brings the token."""
        kind, _, given = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if kind.lower() == "bearer":
            return self._right(environ, given.strip())
        # read by hand: what other programs have set may be no cookies at all, and must not hide ours
        pairs = (pair.partition("=") for pair in environ.get("HTTP_COOKIE", "").split(";"))
        sessions = [value.strip() for name, _, value in pairs if name.strip() == _cookie(environ)]
        with self._lock:
            return any(self._sessions.get(session, 0.0) > self._clock() for session in sessions)

    def _right(self, environ: WSGIEnvironment, given: str) -> bool:
        """Whether this is the token; not looked at while the address must wait."""
        with self._lock:
            if self._guesses.wait(_address(environ)):
                return False
            right = hmac.compare_digest(hashlib.sha256(given.encode()).digest(), self._token or b"")
            if right:
                self._guesses.right(_address(environ))
            else:
                self._guesses.wrong(_address(environ))
            return right

    def _log_in(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        length = environ.get("CONTENT_LENGTH") or "0"
        if not length.isdecimal() or int(length) > LONGEST_FORM:
            return self._ask(start, "413 Content Too Large", "That is too long for a token.")
        if wait := self._guesses.wait(_address(environ)):
            return self._slow(start, environ, wait)
        form = urllib.parse.parse_qs(environ["wsgi.input"].read(int(length)).decode(errors="replace"))
        if not self._right(environ, form.get("token", [""])[0]):
            return self._ask(start, "401 Unauthorized", "That is not the token.")
        session = secrets.token_urlsafe(32)
        with self._lock:
            self._sessions[session] = self._clock() + SESSION_SECONDS
            while len(self._sessions) > MOST:
                self._sessions.popitem(last=False)
        cookie = f"{_cookie(environ)}={session}; HttpOnly; SameSite=Strict; Path=/; Max-Age={SESSION_SECONDS:.0f}"
        return _answer(start, "303 See Other", "", [("Location", "/dashboard"), ("Set-Cookie", cookie)])

    # ---- answers

    def _ask(self, start: StartResponse, status: str, said: str = "", headers: list[tuple[str, str]] | None = None) -> Iterable[bytes]:
        return _answer(start, status, PAGE.format(said=html.escape(said)), headers)

    def _slow(self, start: StartResponse, environ: WSGIEnvironment, wait: float) -> Iterable[bytes]:
        seconds = max(1, round(wait + 0.5))
        return self._refuse(start, environ, "429 Too Many Requests", f"wait {seconds} seconds", [("Retry-After", str(seconds))])

    def _refuse(
        self, start: StartResponse, environ: WSGIEnvironment, status: str, why: str, headers: list[tuple[str, str]] | None = None
    ) -> Iterable[bytes]:
        """To programs as JSON; to people the login page where that is what is missing."""
        if environ.get("PATH_INFO", "").startswith(("/api", "/artifacts", "/csv")):
            return _answer(start, status, json.dumps({"reason": why}), headers, "application/json")
        if status.startswith(("401", "429")):
            return self._ask(start, status, "" if status.startswith("401") else f"Too many guesses: {why}.", headers)
        return _answer(start, status, html.escape(why), headers)


def _harmless(start: StartResponse) -> StartResponse:
    """Answers with a file that whoever writes to the study has put there: shown as what it says it is, no page of ours runs it."""

    def sandboxed(status: str, headers: list[tuple[str, str]], *error: Any) -> Callable[[bytes], object]:
        return start(status, [*headers, ("Content-Security-Policy", "sandbox"), ("X-Content-Type-Options", "nosniff")], *error)

    return sandboxed


def _cookie(environ: WSGIEnvironment) -> str:
    """What a session's cookie is called: a browser tells cookies apart by name and host, not by the port, and another may be on that."""
    try:
        port = urllib.parse.urlsplit(f"//{environ.get('HTTP_HOST', '')}").port
    except ValueError:
        port = None
    return COOKIE if port is None else f"{COOKIE}_{port}"


def _address(environ: WSGIEnvironment) -> str:
    return str(environ.get("REMOTE_ADDR", ""))


def _answer(
    start: StartResponse, status: str, body: str, headers: list[tuple[str, str]] | None = None, kind: str = "text/html; charset=utf-8"
) -> list[bytes]:
    content = body.encode()
    policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
    always: list[tuple[str, Any]] = [("Content-Type", kind), ("Content-Length", str(len(content))), ("Cache-Control", "no-store")]
    start(status, [*always, ("Content-Security-Policy", policy), *(headers or [])])
    return [content]


def _netloc(origin: str) -> str | None:
    """Host and port of an address; None of what is none."""
    try:
        return urllib.parse.urlsplit(origin).netloc.lower()
    except ValueError:
        return None
