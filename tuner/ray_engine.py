"""Workers across machines, placed and restarted by Ray; the study's storage is where they meet. The only file that imports Ray.

A worker is what `tuner worker` runs, in a process of Ray's: it gets plain arguments and finds everything else in the storage. One whose
node dies is started again by Ray elsewhere, and its trials are taken up as those of any dead worker.
"""

from __future__ import annotations

import importlib.util
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from tuner.errors import TunerError

TICK_SECONDS, CONNECT_SECONDS = 2.0, 5.0


def find_ray() -> None:
    """Finds out whether Ray is here, without loading it.

    Raises:
        TunerError: it is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise TunerError("--engine ray needs Ray; install it with `pip install 'tuner[ray]'`")


def run_with_ray(
    work: Callable[[str, str, str, str, int | None, str], None],
    study: str,
    storage: str,
    artifacts: str,
    devices: tuple[str, ...],
    width: int | None,
    address: str | None,
    base: Path,
    tick: Callable[[], None],
    tell: Callable[[str], None],
) -> None:
    """Runs one worker for each device until the study's budget is used up. One that fails is told of, and the others take its trials.

    Args:
        work: a worker, of study, storage, artifacts, device, width and base; a function of a module that every node has.
        width: how many trials each trains at once; None: as each finds out, for nodes are unlike.
        address: of a Ray cluster (`auto`: the one that this machine belongs to); None begins one on this machine.
        base: the folder for checkpoints and snapshots; every node must have it, and share it if models are to be found in one place.
        tick: called every `TICK_SECONDS`.
        tell: is told of a worker that fails.

    Raises:
        TunerError: the cluster cannot be reached.
        Exception: what the last worker failed with, where all have.
    """
    import ray  # it is here: `find_ray` has been asked

    _reach(address)
    ended = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise TunerError(f"the Ray cluster {address!r} cannot be reached: {error}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, ended)  # Ray has put its own there, whose status says nothing
    try:
        remote = ray.remote(max_retries=-1)(work)
        waiting = [
            remote.options(num_cpus=1, num_gpus=int(device == "cuda")).remote(study, storage, artifacts, device, width, str(base))
            for device in placed(devices, int(ray.cluster_resources().get("GPU", 0)))  # type: ignore[no-untyped-call]
        ]
        failed: list[Exception] = []
        while waiting:
            done, waiting = ray.wait(waiting, timeout=TICK_SECONDS)
            for one in done:
                try:
                    ray.get(one)
                except ray.exceptions.RayError as error:
                    failed.append(error)
                    tell(f"a worker of Ray's has failed ({error.__cause__ or error}); its trials go to the others")
            tick()
        if len(failed) == len(devices):
            raise failed[-1]
    finally:
        ray.shutdown()


def placed(devices: Sequence[str], gpus: int) -> list[str]:
    """Where each worker trains: Ray gives each that asks for a GPU one of its own, which is the only one that it sees.

    Args:
        devices: as they were asked for; `auto` is a GPU where the cluster has one left.
        gpus: how many the cluster has.
    """
    left, found = gpus - sum(device.startswith("cuda") for device in devices), list[str]()
    for device in devices:
        gpu = device.startswith("cuda") or (device == "auto" and left > 0)
        left -= gpu and device == "auto"
        found.append("cuda" if gpu else "cpu")
    return found


def _reach(address: str | None) -> None:
    """Finds out at once what Ray finds out after minutes.

    Raises:
        TunerError: nobody listens there.
    """
    host, _, port = (address or "").rpartition(":")
    if not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise TunerError(f"the Ray cluster {address!r} cannot be reached: {error}") from error
