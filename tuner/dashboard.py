"""optuna-dashboard over a storage, behind a gate, served by waitress."""

from __future__ import annotations

import errno
import ipaddress
import os
import secrets
import socket
import webbrowser
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from optuna.artifacts._protocol import ArtifactStore
from optuna.storages import BaseStorage
from optuna_dashboard import wsgi
from waitress import serve as serve_forever

from tuner.errors import TunerError
from tuner.gate import Gate

TOKEN, TOKEN_FILE = "TUNER_DASHBOARD_TOKEN", "TUNER_DASHBOARD_TOKEN_FILE"
KEPT_TOKEN = Path("runs/dashboard-token")
LEAST_TOKEN = 16
LARGEST_BODY = 64 * 2**20
"""So much may be sent at once, an artifact that is put there by hand: it is received before anybody is asked for a token."""


def given_token(environment: Mapping[str, str]) -> str | None:
    """The token from the environment, or from the file that it names.

    Raises:
        TunerError: the file cannot be read, or the token is too short to be safe.
    """
    token: str | None = environment.get(TOKEN)
    if token is None and (name := environment.get(TOKEN_FILE)) is not None:
        try:
            token = Path(name).read_text().strip()
        except OSError as error:
            raise TunerError(f"{TOKEN_FILE} names {name}, which cannot be read ({error.strerror})") from error
        except UnicodeDecodeError as error:
            raise TunerError(f"{TOKEN_FILE} names {name}, which is no text; write the token in letters and digits") from error
    if token is not None and len(token) < LEAST_TOKEN:
        raise TunerError(f"the dashboard's token has {len(token)} characters; it needs {LEAST_TOKEN} at least")
    return token


def made_token(path: Path, tell: Callable[[str], None]) -> str:
    """The token of the starts before, or a new one, which is kept where its owner alone can read it and told once."""
    try:
        if path.is_file() and (kept := path.read_text().strip()):
            tell(f"the token to log in with is in {path}")
            return kept
        token = secrets.token_urlsafe(24)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(token + "\n")
    except OSError as error:
        raise TunerError(f"the token cannot be kept in {path} ({error.strerror}); name one in {TOKEN} or {TOKEN_FILE}") from error
    tell(f"the token to log in with: {token} (kept in {path})")
    return token


def is_loopback(host: str) -> bool:
    """Whether an address or a name means this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def serve(
    storage: BaseStorage,
    artifacts: ArtifactStore,
    tell: Callable[[str], None],
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    open_here: bool = True,
    names: Iterable[str] = (),
    read_only: bool = False,
    study: int | None = None,
    show: bool = False,
) -> None:
    """Serves the dashboard until interrupted; on any address but loopback everybody must log in.

    Args:
        open_here: whether nobody need log in on loopback: whoever is on this machine can reach the storage without us too.
        names: further names under which it may be reached.
        study: the id of the study whose page is told of.
        show: whether to open it in a browser.

    Raises:
        TunerError: the address cannot be had.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host.strip("[]"), port), family=family)
    except OSError as error:
        foreign = error.errno in (socket.EAI_NONAME, socket.EAI_AGAIN, errno.EADDRNOTAVAIL)
        advice = "--host must be an address of this machine" if foreign else "name another with --port, or 0 for any"
        raise TunerError(f"cannot listen on port {port} of {host} ({error.strerror}); {advice}") from error
    with listening:
        token = given_token(os.environ)
        if token is None and not (open_here and is_loopback(host)):
            token = made_token(KEPT_TOKEN, tell)
        gate = Gate(wsgi(storage, artifact_store=artifacts), token, (*names, host), read_only)
        page = "/dashboard" if study is None else f"/dashboard/studies/{study}"
        address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}{page}"
        tell(f"optuna-dashboard: {address} ({'read-only; ' if read_only else ''}Ctrl-C ends it)")
        if show:
            webbrowser.open(address)
        serve_forever(gate, sockets=[listening], threads=8, ident=None, max_request_body_size=LARGEST_BODY)
