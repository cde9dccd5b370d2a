"""A search over scripted trainers, for what it does with them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna

from model.config import ModelShape
from model.corpus import load_corpus
from tests.tuner.script import ScriptedTrainer, Step
from tuner.artifacts import Folder
from tuner.buffer import BufferedStorage
from tuner.definition import StudyDefinition
from tuner.observer import Observer
from tuner.search import Search
from tuner.storage import open_storage
from tuner.study import open_study
from tuner.tables import CurveTable
from tuner.warm import remember

__all__ = ["ScriptedTrainer", "Step", "corpus_of", "scripted"]

corpus_of = functools.cache(load_corpus)
"""The same data for every study of scripted trainers."""


def scripted(
    folder: Path,
    made: StudyDefinition,
    width: int,
    make: Callable[[ModelShape, int], ScriptedTrainer] = ScriptedTrainer,
    observer: Observer | None = None,
    warm_start: str | None = None,
    keep_trainers: bool = True,
    device: str = "cpu",
    **options: Any,
) -> tuple[optuna.Study, list[ScriptedTrainer], CurveTable]:
    """A search over scripted trainers, to its end; the study, all trainers that were made, the curves."""
    storage = open_storage(f"sqlite:///{folder}/tuner.db")
    study = open_study(BufferedStorage(storage), made, corpus_of("synthetic", 30, 1))
    if warm_start is not None:
        remember(study, study._storage, warm_start, made.distributions())
    trainers: list[ScriptedTrainer] = []

    def noted(shape: ModelShape, slots: int) -> ScriptedTrainer:
        made_now = make(shape, slots)
        if keep_trainers:
            trainers.append(made_now)
        return made_now

    curves = CurveTable(storage, study._study_id)
    places = {"checkpoints": folder / "checkpoints", "snapshots": folder / "snapshots", "artifacts": Folder(folder / "artifacts")}
    Search(study, made, noted, curves, width=width, device=device, observer=observer, **places, **options).run()
    return study, trainers, curves
