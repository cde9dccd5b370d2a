"""Shared pieces of the tests: small corpora, and where the real stories lie."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import optuna
import pytest
import torch

from model.corpus import Corpus, load_corpus

REAL_STORIES = Path(__file__).resolve().parents[2] / "shared" / "data" / "tinystories" / "stories.jsonl.gz"

RANDOM = "TUNER_TEST_RANDOM" in os.environ
"""Whether properties are tried on examples that are new each time (`make fuzz`); else on the same, for what fails must be of the change."""

hypothesis.settings.register_profile("busy", deadline=None, derandomize=not RANDOM)  # two test processes share the cores
hypothesis.settings.load_profile("busy")


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
