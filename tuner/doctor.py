"""What `tuner doctor` finds: whether this machine has what a search needs, and what to install where something is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.extraction import LANGUAGE_MODEL
from tuner.errors import NoStorage, StorageError
from tuner.storage import SCHEMA_VERSION, open_storage, shown
from tuner.study import installed

LEAST_DISK = 2 * 2**30
EXTRAS = {
    "psycopg": ("PostgreSQL", "pip install 'tuner[postgres]'"),
    "boto3": ("artifacts in S3", "pip install 'tuner[s3]'"),
    "ray": ("--engine ray", "pip install 'tuner[ray]'"),
    "prometheus_client": ("--metrics-port", "pip install 'tuner[metrics]'"),
}


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Args:
        state: good, missing (something optional) or bad.
        advice: what to do; "" where it is good.
    """

    name: str
    state: str
    found: str
    advice: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As `--json` shows it."""
        return asdict(self)

    @property
    def line(self) -> str:
        """As the terminal shows it."""
        mark = {"good": "ok", "missing": "--", "bad": "!!"}[self.state]
        return f"{mark}  {self.name:10} {self.found}" + (f"; {self.advice}" if self.advice else "")


def examine(storage_url: str, base: Path = Path("runs")) -> list[Check]:
    """All checks, in the order in which a newcomer meets them."""
    return [_python(), _torch(), *_devices(), _storage(storage_url), _stories(), *_extras(), _disk(base)]


def _python() -> Check:
    return Check("Python", "good", f"{platform.python_version()}, tuner {installed('tuner')}")


def _torch() -> Check:
    import torch

    return Check("torch", "good", f"{torch.__version__}, {torch.get_num_threads()} of {os.cpu_count()} cores")


def _devices() -> list[Check]:
    import torch

    from model.devices import usable_gpus

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = [Check("cpu", "good", f"{_bytes(memory)} of memory")]
    for number in range(usable_gpus()):
        free, total = torch.cuda.mem_get_info(number)
        found.append(Check(f"cuda:{number}", "good", f"{torch.cuda.get_device_name(number)}, {_bytes(free)} of {_bytes(total)} free"))
    if len(found) == 1:
        without, version = torch.version.cuda is None, torch.__version__.partition("+")[0]
        cause = "this torch is built without CUDA" if without else _why_none()
        build = f"install the build of torch {version} for its CUDA version (pytorch.org has the command)"
        advice = f"if this machine has a GPU, {build}" if without else f"if this machine has a GPU, update its driver, or {build}"
        found.append(Check("cuda", "missing", cause, advice))
    return found


def _why_none() -> str:
    """Why torch sees no GPU, in its own words: the driver may be too old for it."""
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return str(error).partition("\n")[0]
    return "no GPU is visible"


def _storage(url: str) -> Check:
    try:
        storage = open_storage(url, create=False)
    except NoStorage as error:
        return Check("storage", "missing", str(error))
    except StorageError as error:
        return Check("storage", "bad", str(error), "correct the URL in --storage or TUNER_STORAGE, or leave both out")
    studies = len(storage.get_all_studies())
    return Check("storage", "good", f"{shown(url)}: {studies} {'study' if studies == 1 else 'studies'}, curves of schema {SCHEMA_VERSION}")


def _stories() -> Check:
    advice = "only for stories as text (.txt, the hub): pip install 'tuner[stories]'"
    if importlib.util.find_spec("spacy") is None:
        return Check("spaCy", "missing", "not installed", advice)
    version = importlib.metadata.version("spacy")
    if importlib.util.find_spec(LANGUAGE_MODEL) is None:
        return Check("spaCy", "missing", f"{version} without its model {LANGUAGE_MODEL}", advice)
    return Check("spaCy", "good", f"{version} with {LANGUAGE_MODEL}")


def _extras() -> list[Check]:
    found = []
    for package, (use, install) in EXTRAS.items():
        if importlib.util.find_spec(package) is None:
            found.append(Check(package, "missing", "not installed", f"only for {use}: {install}"))
        else:
            found.append(Check(package, "good", f"{importlib.metadata.version(package)} ({use})"))
    return found


def _disk(base: Path) -> Check:
    place = base.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if not os.access(place, os.W_OK):
        return Check("disk", "bad", f"{place} cannot be written", "change its owner, or run this in another folder")
    advice = "" if free >= LEAST_DISK else f"make room: {_bytes(LEAST_DISK)} for models and snapshots"
    return Check("disk", "good" if not advice else "bad", f"{_bytes(free)} free in {place}", advice)


def _bytes(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
