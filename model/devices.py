"""Where numbers lie and how they get there."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from model.errors import DeviceError, DeviceFailed

GROUPS = Path("/sys/fs/cgroup")
"""Where Linux tells a container what it may use."""


def find_device(name: str) -> torch.device:
    """`auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`; torch uses no more cores from now on than a container's quota pays for.

    Raises:
        DeviceError: the device does not exist here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()) or name.endswith(":") or (kind == "cpu" and number):
        raise DeviceError(f"device {name!r} is not known; allowed: auto, cpu, cuda, cuda:N")
    if kind == "cuda" and int(number or 0) >= usable_gpus():
        sees = f"torch {torch.__version__} sees {usable_gpus()} CUDA devices"
        raise DeviceError(f"device {name!r} is not here: {sees}; use --device cpu or auto")
    if (quota := quota_of_cores()) is not None and quota < torch.get_num_threads():
        torch.set_num_threads(quota)  # torch counts the cores that it may run on, however little of their time it has
    return torch.device(name)


def quota_of_cores() -> int | None:
    """The whole cores' worth of time that a container has (`docker run --cpus`), at least one; None where nothing bounds it."""
    try:
        if (GROUPS / "cpu.max").is_file():
            quota, period = (GROUPS / "cpu.max").read_text().split()
        else:
            quota, period = ((GROUPS / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return max(1, int(quota) // int(period)) if int(quota) > 0 else None
    except (OSError, ValueError):  # no container, another system, or "max"
        return None


def usable_gpus() -> int:
    """How many GPUs torch can use: a driver that is too old for it counts them all the same."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def devices_of_workers(name: str, workers: int | None) -> list[str]:
    """The device of each worker of one machine; `workers`: None for as many as there are GPUs, or one.

    With `auto` the workers take the GPUs in turn; a device that is named is that of all.
    """
    gpus = usable_gpus() if name == "auto" else 0
    if gpus < 2:
        return [name] * (workers or 1)
    return [f"cuda:{number % gpus}" for number in range(workers or gpus)]


NO_ROOM, NO_CUBLAS = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"), "CUBLAS_STATUS_NOT_INITIALIZED"
CROWDED = 0.5
"""If other programs hold more than this share of a device's memory, what does not fit is not to blame."""
LITTLE = 1 << 30
"""With less free memory than this cuBLAS may have had none to begin with; with more its installation, or the device, is broken."""


def out_of_room(error: RuntimeError) -> bool:
    """Whether torch says, in one of its ways, that the device has no memory left: not all memory is its own allocator's."""
    if NO_CUBLAS in str(error):
        return bool(torch.cuda.mem_get_info()[0] < LITTLE)
    return isinstance(error, torch.OutOfMemoryError) or any(said in str(error) for said in NO_ROOM)


def settle(device: torch.device) -> None:
    """Makes a GPU that is named by its number this process's own: else what torch does for the current one takes memory of the first."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def held_by_others(device: torch.device) -> float:
    """The share of a GPU's memory that other programs hold; 0 of a CPU, which does not say."""
    if device.type != "cuda":
        return 0.0
    free, total = torch.cuda.mem_get_info(device)
    return max(0.0, (total - free - torch.cuda.memory_reserved(device)) / total)


def is_crowded(device: torch.device) -> bool:
    """Whether other programs hold most of a GPU's memory."""
    return held_by_others(device) > CROWDED


def check_others(device: torch.device) -> None:
    """Checks that what has no room on a device is itself to blame.

    Raises:
        DeviceFailed: other programs hold most of the device's memory.
    """
    if (others := held_by_others(device)) > CROWDED:
        raise DeviceFailed(
            f"{device} has no room for a single trial: other programs hold {100 * others:.0f} % of its memory; "
            "end them, or name another --device, and run it again"
        )


def sent(numbers: Tensor, device: torch.device) -> Tensor:
    """What was worked out on the CPU, on its way to the device: nobody waits for it to arrive."""
    return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers.to(device)
