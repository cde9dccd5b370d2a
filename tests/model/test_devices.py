"""What a container may use of a machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model import devices
from model.devices import find_device, quota_of_cores


@pytest.fixture
def two_threads() -> Iterator[None]:
    """As they were, afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
    ],
)
def test_a_quota_is_read_as_either_kernel_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_threads: None, files: dict[str, str], cores: int | None
) -> None:
    """Whole cores, one at least; torch uses no more of them, and never more than before."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(devices, "GROUPS", tmp_path)
    assert quota_of_cores() == cores
    find_device("cpu")
    assert torch.get_num_threads() == min(2, cores or 2)
