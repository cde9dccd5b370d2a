"""A running search in figures, as Prometheus collects them (the only file that imports prometheus_client)."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import torch

from tuner.errors import TunerError
from tuner.observer import Observer, Watched
from tuner.slots import Running
from tuner.verdict import CAUSES, Verdict

PATIENCE_SECONDS, LEAVE_SECONDS = 10.0, 1.0
ACTIVITIES = ("training", "evaluating", "asking", "storing", "keeping")


class Metrics(Observer):
    """The figures of the last epoch; nothing is worked out when somebody asks.

    Args:
        device: whose memory and utilisation are told of, where it is a GPU.
        clock: seconds.
    """

    def __init__(self, study: str, device: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._study, self._device, self._clock, self._began = study, device, clock, clock()
        self._ended = Counter(dict.fromkeys(CAUSES, 0))
        self._epochs = 0
        self._best: float | None = None
        self._seconds = dict.fromkeys(ACTIVITIES, 0.0)
        self._now: dict[str, tuple[str, float]] = {}

    def epoch(self, search: Watched) -> None:
        """Reads what is to be told."""
        self._epochs = search.epochs
        spent = search.spent
        self._seconds = {name: spent.get(name, 0.0) for name in ACTIVITIES}
        rate = self._epochs / max(1e-9, self._clock() - self._began)
        self._now = {
            "slots_busy": ("Trials in slots.", len(search.running)),
            "slots": ("Trials that may train at once.", search.width),
            "writes_waiting": ("Rows that the storage has not written yet.", search.waiting_writes),
            "epochs_per_second": ("Epochs of trials a second, since this process began.", rate),
            **_of_device(self._device),
        }

    def ended(self, running: Running, verdict: Verdict, value: float | None) -> None:
        """Counts the cause."""
        self._ended[verdict.cause] += 1
        if value is not None and not running.baseline:
            self._best = value if self._best is None else max(self._best, value)

    def collect(self) -> Iterator[Any]:
        """All of it, in the client's own classes."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        labels = ["study"]
        ended = CounterMetricFamily("tuner_trials", "Trials that have ended in this process, by cause.", labels=[*labels, "cause"])
        for cause, count in self._ended.items():
            ended.add_metric([self._study, cause], count)
        spent = CounterMetricFamily("tuner_seconds", "Seconds of this process, by what on.", labels=[*labels, "activity"])
        for activity, seconds in self._seconds.items():
            spent.add_metric([self._study, activity], seconds)
        epochs = CounterMetricFamily("tuner_epochs", "Epochs of trials trained by this process.", labels=labels)
        epochs.add_metric([self._study], self._epochs)
        now = dict(self._now)
        if self._best is not None:
            now["best_objective"] = (
                "Component accuracy of the best trial that has finished in this process, baselines not counted.",
                self._best,
            )
        gauges = [GaugeMetricFamily(f"tuner_{name}", text, labels=labels) for name, (text, _) in now.items()]
        for gauge, (_, value) in zip(gauges, now.values(), strict=True):
            gauge.add_metric([self._study], value)
        yield from (ended, spent, epochs, *gauges)


def _of_device(device: str) -> dict[str, tuple[str, float]]:
    """A GPU's memory, and how busy it is where its driver's library is there to say so."""
    if not device.startswith("cuda"):
        return {}
    found = {"device_memory_bytes": ("Memory that tensors take on the GPU.", float(torch.cuda.memory_allocated(device)))}
    said = getattr(sys.modules.get("pynvml"), "NVMLError", RuntimeError)  # what the driver's library raises, where torch has found it
    with contextlib.suppress(ModuleNotFoundError, RuntimeError, said):
        found["device_utilisation"] = ("Share of the last second in which the GPU computed.", torch.cuda.utilization(device) / 100)
    return found


class _Server(WSGIServer):
    """Says nothing of who asks wrongly, or not at all: the terminal, or the lines of JSON, are the search's."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing."""


class _OfItsFamily(_Server):
    """On an IPv6 address."""

    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    """Says nothing of who asks, and waits for nobody long: the next one waits for him."""

    timeout = PATIENCE_SECONDS

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


class MetricsServer:
    """Serves figures on an address while it is open; one at a time, so that whoever holds connections open takes nothing from the search.

    Raises:
        TunerError: the client is not installed, or the address cannot be bound.
    """

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        try:
            from prometheus_client import CollectorRegistry, make_wsgi_app
        except ModuleNotFoundError as error:
            raise TunerError("--metrics-port needs the Prometheus client: pip install 'tuner[metrics]'") from error
        registry = CollectorRegistry()
        registry.register(metrics)
        try:
            self._server = make_server(host, port, make_wsgi_app(registry), _OfItsFamily if ":" in host else _Server, _Quiet)
        except (OSError, OverflowError) as error:
            raise TunerError(f"{host}:{port} cannot be served on ({error}); name another with --metrics-port and --metrics-host") from error
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    @property
    def port(self) -> int:
        """Where it is served."""
        return int(self._server.server_port)

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        closing = threading.Thread(target=self._server.shutdown, daemon=True)  # it waits for whoever asks just now, as the search does not
        closing.start()
        closing.join(LEAVE_SECONDS)
        self._server.server_close()
