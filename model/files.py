"""Files that appear under their name only when they are whole; numbers with a header of JSON; how much text may be read."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_HEADER = "tuner"
MEMORY_SHARE = 1 / 20
"""Sentences take some ten times the bytes of their text; more text than this share of the machine's memory is not read."""


def is_there(path: Path, fault: type[Exception]) -> bool:
    """Whether there is such a file.

    Raises:
        Exception: as `fault` says: it may not be looked at, or its name is too long to be one.
    """
    try:
        return path.is_file()
    except OSError as error:
        raise fault(f"{path!s:.200} cannot be looked at ({error.strerror})") from error


def room_for_text() -> int:
    """How many bytes of text this machine has memory for."""
    return int(MEMORY_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def opened_to_lock(path: Path) -> int:
    """The descriptor of a file that its owner alone may open: whoever could read it could hold its lock."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with contextlib.suppress(OSError):  # made by an earlier version, for all to read; somebody else's stays as it is
        os.fchmod(lock, 0o600)
    return lock


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Another name to write to; after the `with` the file is on disk under its own, or, where that failed, as it was before.

    Raises:
        OSError: the folder cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def save_numbers(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Writes tensors with a header, as a whole.

    Raises:
        OSError: they cannot be written, and then nothing stands under the name that did not before.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file  # here, so that who writes a page does not wait seconds for torch

    with whole(path) as partial:
        try:
            save_file(dict(tensors), partial, metadata={_HEADER: json.dumps(header)})
        except SafetensorError as error:
            raise OSError(str(error)) from error


def read_numbers(path: Path) -> tuple[Any, dict[str, Tensor]]:
    """The header and the tensors that `save_numbers` wrote, on the CPU.

    Raises:
        SafetensorError, KeyError, ValueError, OSError, RecursionError: it is another file, or damaged.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt", device="cpu") as file:
        header = json.loads((file.metadata() or {})[_HEADER])
        return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  safe_open is no mapping
