"""Training outside a search: one configuration from the command line."""

from __future__ import annotations

import itertools
import math
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import studies
from model.checkpoint import check_writable
from model.config import Hyperparameters, settings_from
from model.corpus import load_corpus
from model.devices import find_device
from model.evaluation import Evaluation
from model.extraction import Progress, silent
from model.sources import DataSource
from model.trainer import EpochRecord
from tuner.choice import choose
from tuner.errors import DefinitionError, TunerError
from tuner.saving import SavingTrainer, at_work
from tuner.seam import Held

SYNTHETIC = DataSource("synthetic", None, 1)


@dataclass(frozen=True)
class TrainRequest:
    """What `tuner train` was asked for."""

    data: DataSource
    settings: Mapping[str, Any]
    epochs: int
    seed: int
    device: str
    checkpoint: Path


@dataclass(frozen=True)
class Base:
    """What a training begins with where no option says otherwise."""

    settings: Mapping[str, Any]
    epochs: int = Hyperparameters.epochs
    seed: int = 0
    data: DataSource = SYNTHETIC

    def request(
        self,
        settings: Mapping[str, Any],
        source: str | None,
        stories: int | None,
        split_seed: int | None,
        epochs: int | None,
        seed: int | None,
        device: str,
        checkpoint: Path,
    ) -> TrainRequest:
        """With what the options say; another source has all of its stories unless a number is named."""
        kept = self.data.stories if source is None else None
        split = self.data.seed if split_seed is None else split_seed
        data = DataSource(source or self.data.source, kept if stories is None else stories, split)
        return TrainRequest(
            data, {**self.settings, **settings}, epochs or self.epochs, self.seed if seed is None else seed, device, checkpoint
        )


def base_of(preset: str | None, origin: str | None, storage_url: str) -> Base:
    """A preset (a shipped one, or a file), the trial of a study (`STUDY` its best, or `STUDY:TRIAL`), or the defaults.

    Raises:
        DefinitionError: there is no such preset, or it is none.
        TunerError: there is no such study or trial, or the study has a trainer of its own.
    """
    if origin is not None:
        found = choose(storage_url, origin)
        found.check_own()
        data = DataSource(found.data["source"], found.data["stories"], found.data["seed"])
        return Base(found.settings, found.epochs, found.seed, data)
    if preset is None:
        return Base({})
    if preset in studies.presets():
        return _preset(studies.read_preset(preset), preset)
    if not preset.endswith(".toml"):
        raise DefinitionError(f"there is no preset {preset!r}; allowed: {', '.join(studies.presets())} or a .toml file of that form")
    try:
        return _preset(Path(preset).read_bytes(), preset)
    except OSError as error:
        raise DefinitionError(f"{preset} cannot be read ({error.strerror})") from error


def _preset(content: bytes, name: str) -> Base:
    """Settings and epochs as `tuner best --format toml` writes them."""
    try:
        found = tomllib.loads(content.decode())
        extra = sorted(set(found) - {"epochs", "settings", "summary"})
        if extra or not isinstance(found["settings"], dict) or type(found["epochs"]) is not int or found["epochs"] < 1:
            raise ValueError(f"{extra[0]} is not known" if extra else "epochs is no whole number from 1 on, or settings no table")
    except (ValueError, KeyError) as error:  # a file that is no TOML, or no text, is a ValueError
        form = "it has epochs = N and a table [settings], as `tuner best --format toml` writes them"
        raise DefinitionError(f"{name} is no preset ({error}); {form}") from error
    return Base(found["settings"], found["epochs"])


def original_form(record: EpochRecord, evaluation: Evaluation) -> str:
    """One epoch in the original script's form, with component accuracy beside it."""
    figures = evaluation.figures
    parts = {"loss": record.loss, "parse": record.losses["parse"], "gen": record.losses["generate"]}
    cycles = {"cyc_f": record.losses["cycle_forward"], "cyc_b": record.losses["cycle_backward"]}
    losses = ", ".join(f"{name}={value:.4f}" for name, value in {**parts, **cycles}.items())
    accuracy = " ".join(f"{name} {100 * figures[name]:.2f} %" for name in ("entity", "relation", "value", "exact"))
    return f"epoch {record.epoch}: {losses} | component accuracy {100 * evaluation.objective:.2f} % ({accuracy})"


def train(request: TrainRequest, tell: Callable[[str], None], parsing: Progress = silent) -> dict[str, Any]:
    """Trains one configuration and writes its checkpoint; returns what `tuner train --json` prints.

    One that is interrupted writes the model as it was after its last whole epoch; beside one that was there already, not over it.

    Raises:
        TunerError: the device has no room for it, or the loss is no number any more.
        DeviceError: the device has failed.
    """
    with at_work(request.device, "this model and its batches", "take a smaller --batch-size or --hidden-dim"):
        return _trained(request, tell, parsing)


def _trained(request: TrainRequest, tell: Callable[[str], None], parsing: Progress) -> dict[str, Any]:
    find_device(request.device)
    check_writable(request.checkpoint)
    shape, hyperparameters = settings_from(request.settings, epochs=request.epochs, seed=request.seed)
    corpus = load_corpus(request.data.source, request.data.stories, request.data.seed, parsing)
    trainer = SavingTrainer(shape, corpus, 1, request.device, request.data)
    trainer.load(0, hyperparameters)
    began, curve, whole = time.monotonic(), [], None
    sizes = [f"{len(corpus.splits[split]):,} {split}" for split in ("train", "valid", "test")]
    left = f"{sum(corpus.left_out.values()):,} left out as repeats of train"
    tell(f"{corpus.name}: {', '.join(sizes)} sentences, {left}; {len(corpus.vocabulary):,} symbols; on {trainer.device}")
    if corpus.too_long:
        tell(corpus.too_long)
    if request.checkpoint.exists():
        tell(f"{request.checkpoint} is there already; it is replaced at the end")
    try:
        for _ in range(request.epochs):
            record, evaluation = _epoch(trainer, hyperparameters, tell)
            curve.append(_point(record, evaluation))
            whole = trainer.held(0), evaluation
        _save(trainer, request.checkpoint, evaluation)
    except SystemExit:
        tell(_rescued(trainer, _free(request.checkpoint), hyperparameters, whole))
        raise
    references = trainer.references()
    tell(_beside(references))
    return {
        "checkpoint": str(request.checkpoint),
        "epochs": request.epochs,
        "curve": curve,
        "evaluation": {**evaluation.figures, **references},
        "seconds": time.monotonic() - began,
        "sentences_per_second": len(corpus.splits["train"]) * request.epochs / trainer.seconds["training"],
    }


def _beside(references: Mapping[str, Any]) -> str:
    """What component accuracies are to be compared with."""
    always, most = (100 * references[name]["component_accuracy"] for name in ("most_frequent", "ceiling"))
    return f"always the most frequent answer comes to {always:.2f} %, and {most:.2f} % can be had without copying"


def _epoch(trainer: SavingTrainer, hyperparameters: Hyperparameters, tell: Callable[[str], None]) -> tuple[EpochRecord, Evaluation]:
    record, evaluation = trainer.train_epoch()[0], trainer.evaluate()[0]
    if record is None or evaluation is None:
        raise RuntimeError("the trainer lost its slot")
    tell(original_form(record, evaluation))
    if not (math.isfinite(record.loss) and math.isfinite(record.gradient_norm)):
        what, found = ("gradient", record.gradient_norm) if math.isfinite(record.loss) else ("loss", record.loss)
        raise TunerError(
            f"the {what} is {found} after epoch {record.epoch}: there is nothing left to train, and no checkpoint is written; "
            f"try a lower --lr than {hyperparameters.lr:g}"
        )
    return record, evaluation


def _point(record: EpochRecord, evaluation: Evaluation) -> dict[str, Any]:
    accuracy = {role: evaluation.figures[role] for role in ("entity", "relation", "value")}
    losses = {"epoch": record.epoch, "loss": record.loss, "losses": record.losses, "gradient_norm": record.gradient_norm}
    return {**losses, "objective": evaluation.objective, **accuracy}


def _save(trainer: SavingTrainer, path: Path, evaluation: Evaluation) -> None:
    try:
        trainer.save(0, path, evaluation)
    except OSError as error:
        raise TunerError(
            f"the model cannot be written to {path} ({error.strerror}); make room, or name another with --checkpoint"
        ) from error


def _free(path: Path) -> Path:
    """The path, or the first name beside it that no file has: what is there is not written over."""
    numbers = (f"{path.stem}-interrupted-{number}" for number in itertools.count(2))
    stems = itertools.chain((path.stem, f"{path.stem}-interrupted"), numbers)
    return next(free for stem in stems if not (free := path.with_name(stem + path.suffix)).exists())


def _rescued(trainer: SavingTrainer, path: Path, hyperparameters: Hyperparameters, whole: tuple[Held, Evaluation] | None) -> str:
    """Writes the model as it was after its last whole epoch, if there is one; what is said of it."""
    if whole is None:
        return "interrupted before the first epoch ended: no checkpoint is written"
    held, evaluation = whole
    trainer.resume(0, hyperparameters, held)
    _save(trainer, path, evaluation)
    return f"{path} has the model after epoch {held.notes['epoch']} of {hyperparameters.epochs}; the next run begins anew"
