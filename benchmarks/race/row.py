"""One row of the race: a searcher with a seed, from its start to its last minute, as a process group that is watched from outside."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import tomli_w
import torch

from benchmarks.race.machine import measured
from benchmarks.race.task import BARE, EVENTS, OURS, Task, without_start
from model.checkpoint import load_checkpoint
from tuner.storage import open_storage
from tuner.study import find_study
from tuner.summary import summarise

UNFUSED, EMPTY, PEERS = (
    "tuner without fusing",
    "tuner without refill",
    ("optuna-tpe", "optuna-median", "optuna-hyperband", "random", "look-once"),
)
ABLATIONS: dict[str, dict[str, Any]] = {
    UNFUSED: {},
    EMPTY: {},
    "tuner without a cheap start": {"search": without_start()},
    "tuner without stopping": {"pruning": {}},
}
SEARCHERS = (OURS, *PEERS, "ray-asha-optuna", "syne-asha")
LEAVE_SECONDS, LOOK_SECONDS = 20.0, 0.5


def commands(searcher: str, task: Task) -> list[list[str]]:
    """The processes of a searcher, in the order of their start."""
    path, python = f"{task.folder}/task.json", sys.executable
    if searcher.startswith(OURS):
        width = ["--width", "1", "--workers", str(task.processes)] if searcher == UNFUSED else []
        program = "benchmarks.race.without_refill" if searcher == EMPTY else "tuner"
        return [[python, "-m", program, "search", f"{task.folder}/race.toml", "--no-confirm", "--device", task.device, *width]]
    searcher = searcher.removesuffix(BARE)
    if searcher in PEERS:
        return [[python, "-m", "benchmarks.race.optuna_peers", searcher, path, str(number)] for number in range(task.processes)]
    return [[python, "-m", f"benchmarks.race.{searcher.partition('-')[0]}_peer", path]]


def run(searcher: str, task: Task, corpus: str) -> dict[str, Any]:
    """The row; a searcher that cannot be started, or ends before its time, is a row that says so.

    Args:
        corpus: the name of the task's data, with their digest: a path says nothing elsewhere.
    """
    with tempfile.TemporaryDirectory() as name:
        task = Task(**{**vars(task), "folder": name, "bare": searcher.endswith(BARE)})
        task.write(Path(name) / "task.json")
        changes = ABLATIONS.get(searcher, {})
        content = {key: value for key, value in task.content(**changes).items() if key != "name"}
        (Path(name) / "race.toml").write_text(tomli_w.dumps(content))
        machine = measured()
        began = time.time()
        watched = _Watched(searcher, task)
        wall = (time.time() - began) * (1 if _fused(searcher) else task.processes)
        made = _of_tuner(task) if searcher.startswith(OURS) else _of_log(task)
        ends = [end for end in made.ends if end["at"] <= began + 60 * task.minutes]
        best = max((end for end in ends if end["round_trip"] >= task.definition.objective.round_trip_floor), key=_value, default=None)
        return {
            "searcher": searcher,
            "task": {**{key: value for key, value in vars(task).items() if key not in ("folder", "data")}, "corpus": corpus},
            "ends": [[round(end["at"] - began, 2), round(end["value"], 5)] for end in ends],
            "settings": [chosen(end["params"]) for end in ends],
            "epochs": watched.epochs,
            "busy_share": round(made.busy / wall, 4),
            "peak_mb": watched.peak >> 20,
            "pick": None if best is None else {"value": best["value"], "test": _test(Path(name), best["model"])},
            "error": watched.error,
            "torch": torch.__version__,
            "machine": machine,
        }


def _fused(searcher: str) -> bool:
    """Whether one process uses all cores; all others have one process per core."""
    return searcher.startswith(OURS) and searcher != UNFUSED


def chosen(params: dict[str, Any]) -> list[float]:
    """What a row says of a trial that ended: its hidden dimensions and its learning rate, to four figures."""
    return [params["hidden_dim"], float(f"{params['lr']:.4g}")]


def _value(end: dict[str, Any]) -> float:
    return float(end["value"])


def _test(folder: Path, model: str) -> dict[str, float]:
    path = Path(model)
    figures = load_checkpoint(path if path.is_absolute() else folder / path, torch.device("cpu")).evaluate(None, None, "test").figures
    return {name: figures[name] for name in ("component_accuracy", "entity", "relation", "value", "exact", "round_trip")}


class _Made:
    """What a searcher made of its time: the ends of its trials, and the seconds it trained and evaluated, over all processes."""

    def __init__(self, ends: list[dict[str, Any]], busy: float) -> None:
        self.ends, self.busy = ends, busy


def _of_log(task: Task) -> _Made:
    path = Path(task.folder) / EVENTS
    events = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return _Made([one for one in events if one["kind"] == "end"], sum(one.get("seconds", 0.0) for one in events))


def _of_tuner(task: Task) -> _Made:
    path = Path(task.folder) / "runs" / "tuner.db"
    if not path.is_file():
        return _Made([], 0.0)
    study = find_study(open_storage(f"sqlite:///{path}"), "race")
    floor, ends = task.definition.objective.round_trip_floor, []
    for trial in study.get_trials(deepcopy=False):
        if trial.value is not None and "checkpoint" in trial.user_attrs and trial.datetime_complete is not None:
            end = {"at": trial.datetime_complete.timestamp(), "value": trial.value, "model": trial.user_attrs["checkpoint"]}
            ends.append({**end, "params": trial.params, "round_trip": floor - trial.constraints.get("round_trip", 0.0)})
    seconds = summarise(study, "")["seconds"]
    return _Made(ends, seconds["training"] + seconds["evaluating"])


class _Watched:
    """The processes of one searcher, from their start to the end of its time: epochs trained by second, and the memory of all at most."""

    def __init__(self, searcher: str, task: Task) -> None:
        self.epochs: list[list[float]] = []
        self.peak, self.error = 0, ""
        self._count = _count_curves if searcher.startswith(OURS) else _count_events
        began, over = time.monotonic(), threading.Event()
        root = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": paths, "SYNETUNE_FOLDER": task.folder}
        if not _fused(searcher):
            environment["OMP_NUM_THREADS"] = "1"  # one process per core
        with (Path(task.folder) / "said.txt").open("wb") as said:
            processes = [
                subprocess.Popen(words, cwd=task.folder, env=environment, stdout=said, stderr=said, start_new_session=True)
                for words in commands(searcher, task)
            ]
            looking = threading.Thread(target=self._look, args=(processes, Path(task.folder), began, over))
            looking.start()
            for process in processes:
                try:
                    process.wait(max(0.1, began + 60 * task.minutes - time.monotonic()))
                except subprocess.TimeoutExpired:
                    continue
            ended = [process.poll() for process in processes]
            over.set()
            looking.join()
            _end(processes)
        if any(ended) or not self.epochs:
            self.error = (Path(task.folder) / "said.txt").read_text(errors="replace")[-800:]

    def _look(self, processes: list[subprocess.Popen[bytes]], folder: Path, began: float, over: threading.Event) -> None:
        while not over.wait(LOOK_SECONDS):
            self.peak = max(self.peak, sum(map(_memory, processes)))
            count = self._count(folder)
            if count and (not self.epochs or count > self.epochs[-1][1]):
                self.epochs.append([round(time.monotonic() - began, 1), count])


def _memory(process: subprocess.Popen[bytes]) -> int:
    """Bytes of a process and all below it; what they share is counted for each."""
    try:
        return sum(each.memory_info().rss for each in _family(process))
    except psutil.Error:
        return 0


def _family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """A process and all below it; none once it is gone."""
    try:
        own = psutil.Process(process.pid)
        return [own, *own.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _count_events(folder: Path) -> int:
    path = folder / EVENTS
    return path.read_text().count('"kind": "epoch"') if path.is_file() else 0


def _count_curves(folder: Path) -> int:
    path = folder / "runs" / "tuner.db"
    if not path.is_file():
        return 0
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5) as connection:
            return int(connection.execute('SELECT COUNT(*) FROM "tunerCURVES"').fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # not made yet


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ends the processes and all below them, by asking first."""
    families = [one for process in processes for one in _family(process)]
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + LEAVE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    for one in families:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
