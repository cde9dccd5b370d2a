"""A search killed at random moments and gone on with, beside one left alone: `python -m tests.kills --kills 50 [--processes] --json`.

The processes and the kills are real (SIGKILL); the moments are drawn from a seed. Both searches must come to the same end, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from safetensors.torch import load_file

import tuner.preparation
import tuner.snapshots
from tuner.definition import StudyDefinition, validated
from tuner.job import run_search
from tuner.preparation import SearchRequest
from tuner.storage import open_storage
from tuner.study import find_study
from tuner.tables import CurveTable

CONTENT: dict[str, Any] = {
    "name": "killed",
    "data": {"source": "synthetic", "stories": 30, "seed": 1},
    "budget": {"trials": 12, "epochs": 6},
    "search": {"lr": {"low": 1e-4, "high": 1e-2, "log": True}, "hidden_dim": {"choices": [16, 32]}, "num_rules": {"choices": [2, 4]}},
    "fixed": {"batch_size": 16, "loss_weights.parse": 1.0},
    "pruning": {"explosion": {}, "plateau": {}, "halving": {"first": 2, "slack": 0.0, "least": 3}, "audit": 0.2},
    "baselines": [{"name": "slow", "lr": 1e-4, "hidden_dim": 16, "num_rules": 2}],
}

COUNTING = (
    "from tuner import cli, progress, snapshots\n"
    "snapshots.KEEP_SECONDS, snapshots.KEEP_SHARE, snapshots.Seat.writing = 0.0, float('inf'), False\n"
    "progress.PlainProgress.epoch = lambda self, search: self._say(f'epoch of {len(search.running)}')\n"
    "cli.entry()"
)
"""The command line, saying when an epoch is over, and with a state written after each."""
HELD = 6
HOLDING = COUNTING.replace(
    "cli.entry()",
    "import itertools, threading\nsaid, number = progress.PlainProgress.epoch, itertools.count(1)\n"
    "progress.PlainProgress.epoch = lambda self, search: (said(self, search), "
    f"next(number) == {HELD} and threading.Event().wait())\ncli.entry()",
)
"""The same, standing still after so many epochs of its lanes: others come when they can."""


def request(folder: Path, definition: StudyDefinition, url: str | None = None) -> SearchRequest:
    """A search in a folder of its own, or of another storage."""
    storage = url or f"sqlite:///{folder}/tuner.db"
    return SearchRequest(definition, storage, 3, "cpu", None, False, folder, confirm=False)


def search(folder: Path, url: str | None = None) -> None:
    """Searches, or goes on, in this process; every state is written, so that kills fall into the writing too."""
    torch.set_num_threads(2)
    each = patch.multiple(tuner.snapshots, KEEP_SECONDS=0.0, KEEP_SHARE=float("inf"))
    waited_for = patch.object(tuner.snapshots.Seat, "writing", False)  # however slow the disk is
    with each, waited_for:
        run_search(request(folder, validated(CONTENT, "the test"), url), Console(stderr=True))


def started(folder: Path, url: str | None = None, processes: bool = False) -> subprocess.Popen[str]:
    """A search in a process of its own, which trains in further ones if that is asked for."""
    options = [*([] if url is None else ["--storage", url]), *(["--processes"] if processes else [])]
    command = [sys.executable, "-m", "tests.kills", "--search", str(folder), *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).resolve().parents[1])


def outcome(folder: Path, url: str | None = None) -> list[tuple[Any, ...]]:
    """All that must be the same: parameters, ends, verdicts, reports, curves and the numbers of the saved models."""
    storage = open_storage(url or f"sqlite:///{folder}/tuner.db", create=False)
    study = find_study(storage, "killed")
    curves = CurveTable(storage, study._study_id).read()
    found = []
    for t in study.get_trials():
        path = t.user_attrs.get("checkpoint")
        model = {} if path is None else {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}
        ends = (t.state, t.value, t.constraints, t.user_attrs["verdict"], t.user_attrs.get("audited"), t.intermediate_values)
        found.append((t.number, t.params, *ends, json.dumps(curves.get(t.number)), model))
    storage.engine.dispose()
    return found


def kill_often(folder: Path, kills: int, seed: int, within: float = 4.0, processes: bool = False) -> dict[str, int]:
    """Kills a search at random moments, each time going on with it; counts the kills and those that came after the search's own end."""
    chance, count, late = random.Random(seed), 0, 0
    while count < kills:
        process = started(folder, processes=processes)
        if process.stderr is None:
            raise RuntimeError("the search says nothing")
        process.stderr.readline()  # it has begun
        try:
            process.wait(chance.uniform(0, within))
            late += 1
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            count += 1
    return {"kills": count, "late": late}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--search", type=Path)
    parser.add_argument("--storage")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--processes", action="store_true", help="those that are killed train in processes of their own")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.search is not None:
        tuner.preparation.PROCESSES_FROM = 0 if options.processes else tuner.preparation.PROCESSES_FROM
        search(options.search, options.storage)
        return
    kills = rounds = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        straight = Path(name) / "straight"
        search(straight)
        expected, same = outcome(straight), True
        while kills < options.kills and same:
            rounds += 1
            folder = Path(name) / f"killed-{rounds}"
            often, within = min(10, options.kills - kills), 6.0 if options.processes else 4.0
            kills += kill_often(folder, often, options.seed + rounds, within, options.processes)["kills"]
            search(folder)
            same = outcome(folder) == expected
    found = {"kills": kills, "searches": rounds, "bit_identical": same, "seconds": round(time.monotonic() - began)}
    print(json.dumps(found) if options.json else found)
    sys.exit(not same)


if __name__ == "__main__":
    main()
