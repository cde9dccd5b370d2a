"""optuna-dashboard over a storage, served by waitress on this machine only."""

from __future__ import annotations

import socket
from collections.abc import Callable

from optuna.storages import RDBStorage
from optuna_dashboard import wsgi
from waitress import serve as serve_forever

from tuner.errors import TunerError

HOST = "127.0.0.1"


def serve(storage: RDBStorage, port: int, tell: Callable[[str], None]) -> None:
    """Serves the dashboard until interrupted."""
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        raise TunerError(f"port {port} of {HOST} cannot be had ({error.strerror}); name another with --port, or 0 for any") from error
    with listening:
        tell(f"optuna-dashboard: http://{HOST}:{listening.getsockname()[1]}/dashboard (Ctrl-C ends it)")
        serve_forever(wsgi(storage), sockets=[listening], threads=4)
