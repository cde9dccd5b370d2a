"""What `tuner search` does, from a request to a summary: device, data, storage, study, search."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from model.checkpoint import DataSource
from model.config import ModelShape
from model.corpus import load_corpus
from model.trainer import find_device
from tuner.buffer import BufferedStorage
from tuner.confirm import confirm
from tuner.definition import StudyDefinition
from tuner.progress import BarProgress, LiveProgress, PlainProgress
from tuner.search import Observer, Search
from tuner.storage import DEFAULT_URL, CurveTable, open_storage, shown
from tuner.study import find_study, open_study
from tuner.summary import finding, summarise, verdicts
from tuner.training import SavingTrainer

CPU_WIDTH, CUDA_WIDTH = 8, 32


@dataclass(frozen=True)
class SearchRequest:
    """What `tuner search` was asked for; the definition has the command line's changes already."""

    definition: StudyDefinition
    storage: str
    width: int | None
    device: str
    name: str | None
    fresh: bool
    checkpoints: Path = Path("runs/checkpoints")
    confirm: bool = True


@dataclass(frozen=True)
class Report:
    """A study's summary as an object and as lines of text."""

    summary: dict[str, Any]
    lines: list[str]


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Observer]:
    if console.is_terminal:
        with LiveProgress(console) as live:
            yield live
    else:
        yield PlainProgress(console)


def _checkpoints(request: SearchRequest) -> Path:
    """A folder for each storage but the usual one, so that studies of one name in two storages do not overwrite each other."""
    if request.storage == DEFAULT_URL:
        return request.checkpoints
    return request.checkpoints / hashlib.sha256(shown(request.storage).encode()).hexdigest()[:8]


def run_search(request: SearchRequest, console: Console) -> Report:
    """Begins or continues a search and runs it to the end of its budget."""
    definition, device = request.definition, find_device(request.device)
    with BarProgress(console, "parsing stories") as parsing:
        corpus = load_corpus(definition.data.source, definition.data.stories, definition.data.seed, parsing)
    fitted = definition.fitted(len(corpus.sentences["train"]))
    if fitted.budget.epochs != definition.budget.epochs:
        console.print(f"{fitted.budget.epochs} epochs a trial in place of {definition.budget.epochs}: the data are small (least_sentences)")
    definition = fitted
    backend = open_storage(request.storage)
    study = open_study(BufferedStorage(backend), definition, corpus, request.name, request.fresh)
    data = DataSource(definition.data.source, definition.data.stories, definition.data.seed)
    curves = CurveTable(backend, study._study_id)

    sizes = ", ".join(f"{len(corpus.sentences[split]):,} {split}" for split in corpus.sentences)
    left = sum(corpus.left_out.values())
    stories = definition.data.stories or "all"
    console.print(
        f"{study.study_name}: {stories} stories (--num-stories), {sizes} sentences, {left} left out as repeats of train",
        soft_wrap=not console.is_terminal,
    )

    def make_trainer(shape: ModelShape, slots: int) -> SavingTrainer:
        return SavingTrainer(shape, corpus, slots, str(device), data)

    width = request.width or (CUDA_WIDTH if device.type == "cuda" else CPU_WIDTH)
    with _progress(console) as observer:
        search = Search(
            study,
            definition,
            make_trainer,
            curves,
            width=width,
            device=str(device),
            checkpoints=_checkpoints(request),
            minutes=definition.budget.minutes,
            observer=observer,
        )
        search.run()
    if request.confirm and not search.complete:
        console.print("the best is not confirmed yet: that comes when all trials have ended; run the search again to go on")
    elif request.confirm:
        with BarProgress(console, "confirming the best with fresh seeds: epochs") as confirming:
            confirm(study, definition, make_trainer, width, confirming)
    return report(request.storage, study.study_name)


def report(storage_url: str, study_name: str) -> Report:
    """The state of a study, running or ended."""
    storage = open_storage(storage_url, create=False)
    study = find_study(storage, study_name)
    summary = summarise(study, shown(storage_url))
    lines = finding(summary, CurveTable(storage, study._study_id).read())
    return Report(summary, [*lines, *verdicts(study)])
