"""A search over a real Ray cluster of several nodes on this machine, one of which dies on the way."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from tests.kills import COUNTING
from tuner.errors import TunerError
from tuner.ray_engine import placed, run_with_ray
from tuner.storage import open_storage
from tuner.study import find_study

pytest.importorskip("ray", reason="needs Ray: pip install '.[ray]'")


def trials_of(url: str) -> list[FrozenTrial]:
    """As the storage has them now."""
    return find_study(open_storage(url), "quick").get_trials()


@contextlib.contextmanager
def killed_at_last(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that does not outlive the `with`."""
    process = subprocess.Popen(command, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_node_that_dies_costs_no_trial(tmp_path: Path) -> None:
    """Two workers on two nodes; the node of one is removed when both train: all trials end elsewhere, each exactly once."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "wait": False})
    try:
        nodes = [cluster.add_node(num_cpus=1, wait=False) for _ in range(2)]
        cluster.wait_for_nodes(timeout=120)
        url = f"sqlite:///{tmp_path}/runs/tuner.db"  # as it is by itself
        options = ["--num-stories", "30", "--trials", "8", "--epochs", "8", "--width", "2", "--no-confirm"]
        command = [sys.executable, "-c", COUNTING, "search", "quick", *options]  # whose baselines keep both at it
        with killed_at_last(
            [*command, "--workers", "2", "--engine", "ray", "--address", cluster.address], cwd=tmp_path, stderr=subprocess.PIPE, text=True
        ) as search:
            assert search.stderr is not None
            said = []
            for line in search.stderr:
                said.append(line)
                if line.startswith("4 trials running"):
                    break
            else:
                pytest.fail(f"both never trained at once: {''.join(said)}")
            owners = {t.user_attrs["owner"]["pid"] for t in trials_of(url) if "owner" in t.user_attrs}
            cluster.remove_node(nodes[0], allow_graceful=False)
            cluster.add_node(num_cpus=1, wait=False)
            said += search.stderr.readlines()
            assert search.wait() == 0, "".join(said)
    finally:
        cluster.shutdown()
    assert re.search(r"trial \d+ finished: ", "".join(said)), "as it happens"
    assert list(tmp_path.glob("runs/artifacts/*")), "the workers run in folders of Ray's"
    trials = [t for t in trials_of(url) if t.state != TrialState.WAITING]
    models = [Path(t.user_attrs["checkpoint"]) for t in trials if t.state == TrialState.COMPLETE]
    assert models
    assert all(path.is_relative_to(tmp_path) and path.is_file() for path in models)
    assert len(owners) == 2
    assert len(trials) == 8
    assert all(t.state.is_finished() for t in trials)
    assert all(len(t.intermediate_values) == t.user_attrs["epochs_run"] for t in trials)


def first_fails(study: str, storage: str, artifacts: str, device: str, width: int | None, base: str) -> None:
    """A worker; whoever comes first has a broken disk."""
    try:
        (Path(base) / "first").mkdir()
    except FileExistsError:
        (Path(base) / "second").touch()
        return
    raise TunerError("a broken disk")


def test_a_worker_that_fails_is_told_of_and_the_others_go_on(tmp_path: Path) -> None:
    """Where all fail the search does."""
    told, ours = list[str](), signal.getsignal(signal.SIGTERM)
    run_with_ray(first_fails, "s", "u", "a", ("cpu", "cpu"), 1, None, tmp_path, lambda: None, told.append)
    assert (tmp_path / "second").exists()
    (said,) = told
    assert "a broken disk" in said
    assert "its trials go to the others" in said
    (tmp_path / "first").rmdir()
    handlers: list[object] = []

    def tick() -> None:
        handlers.append(signal.getsignal(signal.SIGTERM))

    with pytest.raises(TunerError, match="a broken disk"):
        run_with_ray(first_fails, "s", "u", "a", ("cpu",), 1, None, tmp_path, tick, told.append)
    assert set(handlers) == {ours}, "Ray's own ends with a status that says nothing"


def test_each_worker_that_wants_a_gpu_gets_one_of_its_own() -> None:
    """It sees no other, whatever its number; `auto` takes what is left, and the CPU where nothing is."""
    assert placed(["cuda:0", "cuda:1"], 2) == ["cuda", "cuda"]
    assert placed(["auto"] * 3, 2) == ["cuda", "cuda", "cpu"]
    assert placed(["auto", "cuda:0", "cpu"], 1) == ["cpu", "cuda", "cpu"]


def test_a_cluster_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    """Status 2, one line."""
    command = [sys.executable, "-m", "tuner", "search", "quick", "--num-stories", "30", "--engine", "ray", "--address", "127.0.0.1:1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "the Ray cluster '127.0.0.1:1' cannot be reached" in done.stderr
