"""optuna-dashboard over a storage, served by waitress on this machine only."""

from __future__ import annotations

from collections.abc import Callable

import waitress
from optuna.storages import RDBStorage
from optuna_dashboard import wsgi

HOST = "127.0.0.1"


def serve(storage: RDBStorage, port: int, tell: Callable[[str], None]) -> None:
    """Serves the dashboard until interrupted."""
    server = waitress.create_server(wsgi(storage), host=HOST, port=port, threads=4)
    tell(f"optuna-dashboard: http://{HOST}:{server.effective_port}/dashboard (Ctrl-C ends it)")
    try:
        server.run()
    finally:
        server.close()
