"""Shared pieces of the tests: small corpora, where the real stories lie, the program in this process, which files are run first."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import hypothesis
import optuna
import pytest
import torch

import tuner.cli
import tuner.signals
from model.corpus import Corpus, load_corpus

REAL_STORIES = Path(__file__).resolve().parents[2] / "shared" / "data" / "tinystories" / "stories.jsonl.gz"

RANDOM = "TUNER_TEST_RANDOM" in os.environ
"""Whether properties are tried on examples that are new each time (`make fuzz`); else on the same, for what fails must be of the change."""

hypothesis.settings.register_profile("busy", deadline=None, derandomize=not RANDOM)  # two test processes share the cores
hypothesis.settings.load_profile("busy")


LONGEST = (
    *("resume", "readme", "workers", "views", "remote", "postgres", "faults", "cli", "ray", "fused"),
    *("progress", "search", "benchmarks", "examples", "deploy", "artifacts", "pace"),
)
"""By name, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that no process is left alone with one of them at the end."""
    place = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture(scope="session", autouse=True)
def quiet_and_repeatable() -> None:
    """Two threads and no chatter, so that sums and output are the same everywhere."""
    torch.set_num_threads(2)
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For what trains without a search, which would have a lane a thread: two test processes of two threads each take twice as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small_corpus() -> Corpus:
    """Thirty synthetic stories."""
    return load_corpus("synthetic", 30, 1)


@pytest.fixture
def real_stories() -> Path:
    """The shared real stories."""
    if not REAL_STORIES.is_file():
        pytest.skip(f"needs the shared real stories at {REAL_STORIES}, which are not kept in the repository")
    return REAL_STORIES


class Called(NamedTuple):
    """What became of a command."""

    status: int
    stdout: str
    stderr: str


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the program sets in its process is put back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, tuner.signals.AGAIN)}
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], handlers: None) -> Callable[..., Called]:
    """The program in this process, which has loaded torch already, in some folder."""

    def called(folder: Path, *arguments: str) -> Called:
        monkeypatch.chdir(folder)
        capfd.readouterr()
        try:
            status = tuner.cli.main(list(arguments))
        except SystemExit as left:
            status = int(left.code or 0)
        return Called(status, *capfd.readouterr())

    return called
