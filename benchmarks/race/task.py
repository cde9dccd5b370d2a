"""What every searcher of the race is given: the space, the baselines, the trainer, the data; and the log of what it does with them."""

from __future__ import annotations

import json
import os
import time
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import studies
from model.corpus import Corpus, load_corpus
from model.sources import DataSource
from tuner.definition import StudyDefinition, validated
from tuner.saving import SavingTrainer

EVENTS = "events.jsonl"
OURS = "tuner"
"""How a searcher of ours is called, or begins: its earlier versions, and it with something left out."""
BARE = " without baselines"
"""The suffix of a searcher that need not train them."""
REDUCTION = 3
"""The reduction factor of every peer with rungs."""


def without_start() -> dict[str, Any]:
    """The space of `quick` without what its first trials take."""
    space = tomllib.loads(studies.read("quick").decode())["search"]
    return {name: {key: value for key, value in own.items() if key != "start"} for name, own in space.items()}


@dataclass(frozen=True)
class Task:
    """One searcher's run: `epochs` of a full trial, `minutes` of wall time, a folder of its own; on a GPU, if `device` names one; `bare`
    without baselines."""

    data: str
    stories: int
    epochs: int
    minutes: float
    seed: int
    folder: str
    device: str = "cpu"
    bare: bool = False

    @property
    def processes(self) -> int:
        """How many processes a peer has: one for each core, also where they share a GPU."""
        return len(os.sched_getaffinity(0))

    @staticmethod
    def read(path: Path) -> Task:
        """As written beside the run."""
        return Task(**json.loads(path.read_text()))

    def write(self, path: Path) -> None:
        """For the processes of the run."""
        path.write_text(json.dumps(asdict(self)))

    def content(self, **changes: Any) -> dict[str, Any]:
        """The study: the space and baselines of `quick`, without the settings that we would try first."""
        quick = tomllib.loads(studies.read("quick").decode())
        del quick["enqueue"]
        if self.bare:
            del quick["baselines"]
        data = {"source": self.data, "stories": self.stories, "seed": 1}
        budget = {"trials": 100_000, "epochs": self.epochs, "minutes": self.minutes}
        return {**quick, "name": "race", "seed": self.seed, "data": data, "budget": budget, **changes}

    @property
    def definition(self) -> StudyDefinition:
        """The same, checked."""
        return validated(self.content(), "the race")

    @property
    def baselines(self) -> list[dict[str, Any]]:
        """The baselines as points of the space."""
        definition = self.definition
        return [definition.point(baseline) for baseline in definition.baselines]

    def corpus(self) -> Corpus:
        """The data."""
        return load_corpus(self.data, self.stories, 1)


class Trainee:
    """One trial in training, alone on one core; every epoch and the end are logged."""

    def __init__(self, task: Task, corpus: Corpus, params: dict[str, Any], seed: int, name: str) -> None:
        shape, hyperparameters = task.definition.settings(params, seed)
        self.task, self.name, self.epoch, self.params = task, name, 0, params
        self.trainer = SavingTrainer(shape, corpus, 1, task.device, DataSource(task.data, task.stories, 1))
        self.trainer.load(0, hyperparameters)

    def train_epoch(self) -> float:
        """One epoch and its validation; the objective."""
        began = time.perf_counter()
        self.trainer.train_epoch()
        (self.scored,) = self.trainer.evaluate()
        self.epoch += 1
        value = self.scored.objective if self.scored else 0.0
        self._log("epoch", value, seconds=time.perf_counter() - began)
        if self.epoch == self.task.epochs:
            self._end(value)
        return value

    def _end(self, value: float) -> None:
        path = Path(self.task.folder) / "models" / f"{self.name}.safetensors"
        if self.scored is not None:
            self.trainer.save(0, path, self.scored)
            self._log("end", value, params=self.params, round_trip=self.scored.round_trip, model=str(path))

    def _log(self, kind: str, value: float, **more: Any) -> None:
        line = json.dumps({"at": time.time(), "kind": kind, "trial": self.name, "epoch": self.epoch, "value": value, **more}) + "\n"
        file = os.open(Path(self.task.folder) / EVENTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(file, line.encode())  # whole lines, whoever else writes
        os.close(file)
