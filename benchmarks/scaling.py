"""How many workers one study bears: trials a second and the latency of asking, with trainers that do nothing.

python -m benchmarks.scaling --json [--workers 1 4 16 64 256] [--seconds 20] [--grpc]

Each simulated worker is a thread with a storage of its own, spread over four processes; it is given a trial as a search is (taking up what
dead workers left, under the budget's lock), reports ten epochs (written once each) and tells. A real PostgreSQL is started for it. With
--grpc the same with plain Optuna through its proxy (needs grpcio), which writes every report and has no lock.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage

from benchmarks.command import command, tell
from model.corpus import load_corpus
from tests.postgres import Server, binaries
from tuner.buffer import BufferedStorage
from tuner.climb import ENDLESS
from tuner.definition import validated
from tuner.intake import Intake
from tuner.snapshots import Seat
from tuner.storage import open_storage
from tuner.study import open_study

LOSSES = ("loss_weights.generate", "loss_weights.cycle_forward", "loss_weights.cycle_backward")
DEFINITION = validated(
    {
        "name": "scaling",
        "data": {"source": "synthetic", "stories": 30, "seed": 1},
        "budget": {"trials": 1_000_000, "epochs": 10},
        "search": {name: {"low": 1e-4, "high": 1e-2, "log": True} for name in ("lr", *LOSSES)},
        "fixed": {"hidden_dim": 16},
        "pruning": {},
    },
    "the benchmark",
)
STUDY, PROCESSES, REPORTS = "scaling@synthetic-30", 4, 10
LEAST = 2
"""So many trials a worker makes in any case: one alone is no rate."""
READY_SECONDS = 120.0
"""Until all are ready, at most: then one of them has failed."""
PROXY = (
    "import sys, optuna; from tuner.storage import open_storage;"
    "optuna.storages.run_grpc_proxy_server(open_storage(sys.argv[1]), host='127.0.0.1', port=int(sys.argv[2]))"
)


def opened(target: str) -> BaseStorage:
    """A storage of one worker: over the database, or over the proxy on a port."""
    if target.isdecimal():
        return optuna.storages.GrpcStorageProxy(host="127.0.0.1", port=int(target))
    return BufferedStorage(open_storage(target))


def work(target: str, seed: int, ready: threading.Barrier, seconds: float, asked: list[float]) -> None:
    """One worker, for so long once all are ready; notes the seconds of each `ask`."""
    storage = opened(target)
    study = optuna.load_study(study_name=STUDY, storage=storage)
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Seat(Path(folder))) as seat:
        ask = asker(study, storage, seat, seed)
        ready.wait()
        until = time.time() + seconds
        while time.time() < until or len(asked) < LEAST:
            began = time.perf_counter()
            trial = ask()
            asked.append(time.perf_counter() - began)
            for step in range(1, REPORTS + 1):
                trial.report(0.1 * step, step)
                if isinstance(storage, BufferedStorage):
                    storage.flush()
            study.tell(trial.number, sum(trial.params.values()))


def asker(study: optuna.Study, storage: BaseStorage, seat: Seat, seed: int) -> Callable[[], optuna.Trial]:
    """As the search asks; where there is the proxy, as Optuna does."""
    if isinstance(storage, BufferedStorage):
        intake = Intake(study, storage, DEFINITION, seat, "cpu", steps=1, room=ENDLESS)
        return lambda: _begun(intake)
    study.sampler = optuna.samplers.TPESampler(seed=seed)
    return lambda: study.ask(DEFINITION.distributions())


def _begun(intake: Intake) -> optuna.Trial:
    running = intake.next(fresh=True, may_begin=lambda *_: True)
    if running is None or not isinstance(running.trial, optuna.Trial):
        raise RuntimeError("the budget of a million trials was not enough")
    return running.trial


def process(target: str, seeds: list[int], all_ready: Any, seconds: float, results: Any) -> None:
    """Some workers as threads of one process."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    socket.gethostname = lambda: threading.current_thread().name  # each is a host of its own, with trials of its own
    asked: list[list[float]] = [[] for _ in seeds]
    began: list[float] = []

    def begin() -> None:
        all_ready.wait()
        began.append(time.time())

    ready = threading.Barrier(len(seeds), action=begin, timeout=READY_SECONDS)
    named = [(f"worker-{seed}", (target, seed, ready, seconds, notes)) for seed, notes in zip(seeds, asked, strict=True)]
    threads = [threading.Thread(target=work, name=name, args=arguments) for name, arguments in named]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put((time.time() - began[0], [taken for notes in asked for taken in notes]))


def crowd(target: str, workers: int, seconds: float) -> dict[str, float]:
    """So many workers at once."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    shares = [list(range(first, workers, PROCESSES)) for first in range(min(PROCESSES, workers))]
    all_ready = context.Barrier(len(shares), timeout=READY_SECONDS)
    processes = [context.Process(target=process, args=(target, share, all_ready, seconds, results)) for share in shares]
    for one in processes:
        one.start()
    notes = [results.get(timeout=seconds + 3 * READY_SECONDS) for _ in processes]
    for one in processes:
        one.join()
    asked = [found for _, share in notes for found in share]
    tails = statistics.quantiles(asked, n=20)
    rate = len(asked) / max(taken for taken, _ in notes)
    latency = {"ask_ms": round(1e3 * tails[9], 1), "ask_p95_ms": round(1e3 * tails[18], 1)}
    return {"workers": workers, "trials": len(asked), "trials_a_second": round(rate, 1), **latency}


def main() -> None:
    """The command."""
    parser = command(__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--grpc", action="store_true")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    programs = binaries()
    if programs is None:
        sys.exit("needs a PostgreSQL server: pip install pgserver")
    server = Server(programs, connections=1000)
    server.start()
    found: dict[str, list[dict[str, float]]] = {"postgresql": [], **({"grpc": []} if options.grpc else {})}
    try:
        for kind, rows in found.items():
            for workers in options.workers:
                before = server.cpu_seconds()
                row = measured(server, kind, workers, options.seconds)
                rows.append({**row, "server_cpu_ms_a_trial": round(1e3 * (server.cpu_seconds() - before) / row["trials"], 1)})
                print(rows[-1], file=sys.stderr)
    finally:
        server.remove()
    tell({"cores": os.cpu_count(), **found}, as_json=options.json)


def measured(server: Server, kind: str, workers: int, seconds: float) -> dict[str, float]:
    """A fresh study, directly or behind a proxy."""
    url = server.create(f"{kind}-{workers}")
    open_study(BufferedStorage(open_storage(url)), DEFINITION, load_corpus("synthetic", 30, 1))
    if kind == "postgresql":
        return crowd(url, workers, seconds)
    port = str(server.free_port())
    proxy = subprocess.Popen([sys.executable, "-c", PROXY, url, port])
    try:
        optuna.storages.GrpcStorageProxy(host="127.0.0.1", port=int(port)).wait_server_ready(timeout=60)
        return crowd(port, workers, seconds)
    finally:
        proxy.terminate()
        proxy.wait()


if __name__ == "__main__":
    main()
