"""Trainers by name: the symmetric model's own, and those of other packages, found through the entry-point group `tuner.trainers`."""

from __future__ import annotations

import importlib.metadata
from typing import Protocol

from model.config import ModelShape
from model.corpus import Corpus
from model.errors import ModelError
from model.sources import DataSource
from tuner.errors import DefinitionError, TrainerUnmade, TunerError
from tuner.failures import device_failures, in_words
from tuner.seam import Trainer

GROUP = "tuner.trainers"
OWN = importlib.metadata.EntryPoint("symmetric", "tuner.saving:SavingTrainer", GROUP)
"""Found also where the project is only a folder, not installed. A process that trains loads no definitions for the sake of its name."""


class MakeTrainer(Protocol):
    """What an entry point must be: a class or a function that makes a trainer."""

    def __call__(self, shape: ModelShape, corpus: Corpus, slots: int, device: str, data: DataSource) -> Trainer:
        """A trainer of this shape with so many free slots, over this corpus; `data` says where the corpus came from."""


def find_trainer(name: str) -> MakeTrainer:
    """The trainer of this name.

    Raises:
        DefinitionError: there is none, or it cannot be imported.
    """
    found = {OWN.name: OWN, **{point.name: point for point in importlib.metadata.entry_points(group=GROUP)}}
    if name not in found:
        raise DefinitionError(f"trainer = {name!r} is not installed; there are: {', '.join(sorted(found))} (entry points {GROUP!r})")
    try:
        made: MakeTrainer = found[name].load()
    except Exception as error:  # whatever the module of somebody else raises
        raise DefinitionError(f"trainer = {name!r} ({found[name].value}) cannot be imported: {error}") from error
    return made if found[name] == OWN else _blamed(name, made)


def _blamed(name: str, make: MakeTrainer) -> MakeTrainer:
    """Turns what the trainer of somebody else raises when it is made into an error that names it; want of room is raised as it is."""

    def made(shape: ModelShape, corpus: Corpus, slots: int, device: str, data: DataSource) -> Trainer:
        try:
            with device_failures():
                return make(shape, corpus, slots, device, data)
        except (MemoryError, ModelError, TunerError):
            raise
        except Exception as error:
            raise TrainerUnmade(f"trainer = {name!r} cannot be made for {shape}: {in_words(error)}") from error

    return made
