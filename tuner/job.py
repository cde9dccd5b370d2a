"""What `tuner search` does, from a request to a summary: device, data, storage, study, search."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import optuna
import torch
from optuna.trial import TrialState
from rich.console import Console

from model.config import ModelShape
from model.corpus import Corpus, load_corpus
from model.devices import find_device
from model.errors import DeviceError
from tuner.artifacts import Artifacts, open_artifacts
from tuner.buffer import BufferedStorage
from tuner.confirm import confirm
from tuner.crew import Crew
from tuner.definition import StudyDefinition
from tuner.events import JsonEvents
from tuner.forecast import forecast, told
from tuner.health import Pulse
from tuner.lanes import lanes_of
from tuner.metrics import Metrics, MetricsServer
from tuner.observer import Beating, Observer, Several
from tuner.progress import BarProgress, LiveProgress, PlainProgress, QuietProgress, WordyProgress
from tuner.ray_engine import run_with_ray
from tuner.remote import Processes
from tuner.seam import Trainer, TrainerFactory
from tuner.search import Search
from tuner.storage import DEFAULT_URL, Patience, open_storage, shown
from tuner.study import check_data, complete, definition_of, find_study, open_study, source_of
from tuner.summary import finding, summarise, verdicts
from tuner.tables import CurveTable, RunTable
from tuner.trainers import find_trainer
from tuner.warm import remember
from tuner.width import WIDEST, fitting
from tuner.winner import told as confirmation

if TYPE_CHECKING:
    from tuner.publish import Publisher

BASE = Path("runs")
PROCESSES_FROM = 20_000
"""So many sentences trained once, about a minute of a core, pay for two seconds in which processes begin."""


@dataclass(frozen=True)
class SearchRequest:
    """What `tuner search` was asked for; the definition has the command line's changes already."""

    definition: StudyDefinition
    storage: str
    width: int | None
    device: str
    name: str | None
    fresh: bool
    base: Path = BASE
    """The folder for checkpoints and snapshots."""
    confirm: bool = True
    others: tuple[str, ...] = ()
    """The devices of further workers."""
    ray: str | None = None
    """The address of a Ray cluster that runs all workers; `local`: one on this machine. None: they are processes of this machine."""
    warm_start: str | None = None
    """An earlier study that the sampler learns from."""
    keep: int | None = None
    """How many checkpoints stay on disk."""
    artifacts: str | None = None
    """Where other machines and the dashboard find models and snapshots: a folder, or `s3://BUCKET/PREFIX`; None: a folder in `base`."""

    words: int = 0
    """How much is said: -1 only what goes wrong, 1 a line for each epoch too."""
    events: TextIO | None = None
    """Where it is said as lines of JSON; None: on the console, in words."""
    metrics: tuple[str, int] | None = None
    """The host and port on which Prometheus finds figures; None: nowhere."""

    @property
    def place(self) -> str:
        """That place."""
        return self.artifacts or str(self.base / "artifacts")


@dataclass(frozen=True)
class Report:
    """A study's summary as an object and as lines of text."""

    summary: dict[str, Any]
    lines: list[str]


@contextlib.contextmanager
def _progress(console: Console, study: str, words: int = 0, events: TextIO | None = None) -> Iterator[Observer]:
    if events is not None:
        yield JsonEvents(study, events, words)
    elif words:
        yield (WordyProgress if words > 0 else QuietProgress)(console)
    elif console.is_terminal:
        with LiveProgress(console) as live:
            yield live
    else:
        yield PlainProgress(console)


@contextlib.contextmanager
def _watching(request: SearchRequest, study: str, device: str, console: Console) -> Iterator[list[Observer]]:
    """Those that look on: who shows the search, who tells whether it is alive, and who serves its figures."""
    with contextlib.ExitStack() as opened:
        observers = [opened.enter_context(_progress(console, study, request.words, request.events)), *map(Beating, Pulse.asked_for())]
        if request.metrics is not None:
            metrics = Metrics(study, device)
            server = opened.enter_context(MetricsServer(metrics, *request.metrics))
            _plainly(console)(f"figures for Prometheus: http://{request.metrics[0]}:{server.port}/metrics")
            observers.append(metrics)
        yield observers


def _folder(base: Path, storage: str, study: str) -> Path:
    """A folder for each study, and for each storage but the usual one, so that studies of one name do not overwrite each other."""
    base = base if storage == DEFAULT_URL else base / hashlib.sha256(shown(storage).encode()).hexdigest()[:8]
    return base / re.sub(r"[^A-Za-z0-9@._-]", "_", study)


@dataclass(frozen=True)
class _Prepared:
    """All that a search works with."""

    request: SearchRequest
    definition: StudyDefinition
    study: optuna.Study
    storage: BufferedStorage
    corpus: Corpus
    device: torch.device

    def make_trainer(self, shape: ModelShape, slots: int) -> Trainer:
        """A trainer on the study's data."""
        return find_trainer(self.definition.trainer)(shape, self.corpus, slots, str(self.device), source_of(self.definition))

    def width(self, console: Console) -> int:
        """As asked for, else as measured when the study was begun, else measured now."""
        if self.request.width is not None:
            return self.request.width
        known: dict[str, int] = self.study.user_attrs.get("width", {})
        if self.device.type not in known:
            with BarProgress(console, "measuring how many trials to train at once") as bar:
                measured = fitting(
                    self.device.type, self.make_trainer, self.definition, lambda width: bar(width.bit_length() - 1, WIDEST.bit_length())
                )
            _plainly(console)(measured.said())
            known = {**known, self.device.type: measured.width}
            self.study.set_user_attr("width", known)
        return known[self.device.type]

    def publisher(self, tell: Callable[[str], None]) -> Publisher:
        """What keeps the dashboard's note and charts current; it reads through a connection of its own."""
        from tuner.publish import Publisher  # it loads matplotlib, which `tuner status` does not need

        backend, patience = open_storage(self.request.storage), Patience()  # the search itself says when the storage is away
        study = optuna.load_study(study_name=self.study.study_name, storage=BufferedStorage(backend, patience))
        artifacts = Artifacts(open_artifacts(self.request.place), study.user_attrs["mark"])
        curves = CurveTable(backend, study._study_id, patience)
        return Publisher(study, curves, artifacts, patience, shown(self.request.storage), tell)

    def confirm(self, width: int, console: Console) -> dict[str, Any]:
        """Trains the leaders and the baselines again and scores them on the test split."""
        with BarProgress(console, "confirming the best and the baselines with fresh seeds: epochs") as bar:
            runs = RunTable(self.storage.backend, self.study._study_id, self.storage.patience)
            pulses = Pulse.asked_for()

            def went_on(done: int, total: int) -> None:
                bar(done, total)
                for pulse in pulses:
                    pulse.beat()

            return confirm(self.study, self.definition, runs, self.make_trainer, width, went_on, _plainly(console))

    @contextlib.contextmanager
    def _makers(self, lanes: int) -> Iterator[TrainerFactory]:
        """What makes trainers: each lane has a process, unless the search is over before that pays. The numbers are the same."""
        budget = self.definition.budget
        if lanes == 1 or budget.trials * budget.epochs * len(self.corpus.sentences["train"]) < PROCESSES_FROM:
            yield self.make_trainer
        else:
            with Processes(lanes, self.definition.trainer, self.corpus, str(self.device), source_of(self.definition)) as processes:
                yield processes.make_trainer

    def search(self, width: int, observer: Observer) -> None:
        """Runs the search."""
        request, name, lanes = self.request, self.study.study_name, lanes_of(self.device.type)
        with self._makers(lanes) as make_trainer:
            Search(
                self.study,
                self.definition,
                make_trainer,
                CurveTable(self.storage.backend, self.study._study_id, self.storage.patience),
                width=width,
                device=str(self.device),
                checkpoints=_folder(request.base / "checkpoints", request.storage, name),
                snapshots=_folder(request.base / "snapshots", request.storage, name),
                artifacts=open_artifacts(request.place),
                observer=observer,
                keep=request.keep,
                lanes=lanes,
            ).run()


def _plainly(console: Console) -> Callable[[str], None]:
    """Says something in one line, as it is."""
    return functools.partial(console.print, soft_wrap=True, highlight=False, markup=False)


def _load(definition: StudyDefinition, console: Console) -> Corpus:
    with BarProgress(console, "parsing stories") as parsing:
        return load_corpus(definition.data.source, definition.data.stories, definition.data.seed, parsing)


def _begin(request: SearchRequest, console: Console) -> _Prepared:
    """Device, data, storage and study."""
    find_trainer(request.definition.trainer)  # before anything is begun
    device, corpus = find_device(request.device), _load(request.definition, console)
    definition = request.definition.fitted(len(corpus.sentences["train"]))
    if definition.budget.epochs != request.definition.budget.epochs:
        before = request.definition.budget.epochs
        _plainly(console)(f"{definition.budget.epochs} epochs a trial in place of {before}: the data are small (least_sentences)")
    storage = BufferedStorage(open_storage(request.storage), Patience(_plainly(console)))
    open_artifacts(request.place)
    if request.warm_start is not None:
        find_study(storage, request.warm_start)  # what is not there is told of before a study is begun
    study = open_study(storage, definition, corpus, request.name, request.fresh)
    if request.warm_start is not None:
        remember(study, storage, request.warm_start, definition.distributions())
    if definition.budget.trials <= len(definition.baselines):
        known = len(definition.baselines)
        _plainly(console)(f"{definition.budget.trials} trials are all for the {known} baselines, nothing is searched; raise --trials")
    sizes = ", ".join(f"{len(corpus.sentences[split]):,} {split}" for split in corpus.sentences)
    left, stories = sum(corpus.left_out.values()), definition.data.stories or "all"
    console.print(
        f"{study.study_name}: {stories} stories (--num-stories), {sizes} sentences, {left} left out as repeats of train",
        soft_wrap=not console.is_terminal,
    )
    return _Prepared(request, definition, study, storage, corpus, device)


def run_search(request: SearchRequest, console: Console) -> Report:
    """Begins or continues a search and runs it to the end of its budget."""
    aside = Console(file=console.file, quiet=True) if request.words < 0 else console
    prepared = _begin(request, aside)
    width, study = prepared.width(aside), prepared.study
    with prepared.publisher(_plainly(console)) as publisher:
        if request.ray is None:
            with (
                Crew(study.study_name, request.storage, request.place, request.others, width, _plainly(console)),
                _watching(request, study.study_name, str(prepared.device), console) as observers,
            ):
                try:
                    prepared.search(width, Several(*observers, publisher))
                except DeviceError as error:
                    if not request.others:
                        raise
                    _plainly(console)(f"{prepared.device} is left out: {error}; its trials go to the others")
        else:
            _search_with_ray(request, study, width, _Counts(study, console, publisher.offer))
        if request.confirm and not complete(study, prepared.definition):
            _plainly(aside)("the best is not confirmed yet: that comes when all trials have ended; run the search again to go on")
        elif request.confirm:
            prepared.confirm(width, aside)
    found = report(request.storage, study.study_name)
    return Report(found.summary, [*found.lines, _next(study.study_name, found.summary["best"] is not None)])


def _next(study: str, found: bool) -> str:
    """What can be done with a search that is over."""
    if not found:
        return f"next: tuner diagnose {study}"
    return f"next: tuner report {study} -o report.html; tuner best {study} --format cli; tuner train --from {study}"


def _search_with_ray(request: SearchRequest, study: optuna.Study, width: int, tick: Callable[[], None]) -> None:
    address, devices = None if request.ray == "local" else request.ray, (request.device, *request.others)
    base = request.base.absolute()
    run_with_ray(_work_for_ray, study.study_name, request.storage, request.place, devices, width, address, base, tick)


def dry_run(request: SearchRequest, console: Console) -> Report:
    """What the search would cost, measured; no study is begun."""
    find_trainer(request.definition.trainer)
    device, corpus = find_device(request.device), _load(request.definition, console)
    definition = request.definition.fitted(len(corpus.sentences["train"]))
    data = source_of(definition)

    def make_trainer(shape: ModelShape, slots: int) -> Trainer:
        return find_trainer(definition.trainer)(shape, corpus, slots, str(device), data)

    width = request.width or fitting(device.type, make_trainer, definition).width
    found = forecast(make_trainer, definition, width, request.confirm)
    return Report(found, told(found))


def run_worker(
    name: str, storage_url: str, device: str, width: int | None, console: Console, artifacts: str | None = None, base: Path = BASE
) -> None:
    """Helps with a study that was begun elsewhere, until its budget is used up.

    Args:
        base: the folder for checkpoints and snapshots.

    Raises:
        StudyError: there is no such study, or the data are not those it was begun on.
    """
    prepared = _again(name, storage_url, device, width, console, artifacts, base)
    with _progress(console, prepared.study.study_name) as observer:
        prepared.search(prepared.width(console), Several(observer, *map(Beating, Pulse.asked_for())))


def run_confirm(
    name: str, storage_url: str, device: str, width: int | None, console: Console, top: int | None, seeds: int | None, artifacts: str | None
) -> Report:
    """Confirms the best of a study, also of one that is not over.

    Args:
        top, seeds: how many trials with how many seeds each; None: as the study's definition says.

    Raises:
        StudyError: there is no such study, or the data are not those it was begun on.
    """
    prepared = _again(name, storage_url, device, width, console, artifacts)
    definition = prepared.definition.changed(confirm_top=top, confirm_seeds=seeds)
    prepared.study.set_user_attr("definition", definition.model_dump(mode="json"))
    prepared = dataclasses.replace(prepared, definition=definition)
    with prepared.publisher(_plainly(console)):
        found = prepared.confirm(prepared.width(console), console)
    return Report(found, confirmation(found))


def _again(
    name: str, storage_url: str, device: str, width: int | None, console: Console, artifacts: str | None, base: Path = BASE
) -> _Prepared:
    """A study that is there, with its data."""
    storage = BufferedStorage(open_storage(storage_url, create=False), Patience(_plainly(console)))
    study = find_study(storage, name)
    definition = definition_of(study)
    request = SearchRequest(definition, storage_url, width, device, None, False, base, artifacts=artifacts)
    corpus = _load(definition, console)
    check_data(study, corpus)
    return _Prepared(request, definition, study, storage, corpus, find_device(device))


class _Counts:
    """Says how many trials run and have ended, when that changes; then does what is to be done now and then."""

    def __init__(self, study: optuna.Study, console: Console, then: Callable[[], None]) -> None:
        self._study, self._console, self._said, self._then = study, console, "", then

    def __call__(self) -> None:
        states = [trial.state for trial in self._study.get_trials(deepcopy=False)]
        running, ended = states.count(TrialState.RUNNING), sum(state.is_finished() for state in states)
        if (line := f"{running} trials running, {ended} ended") != self._said:
            self._said = line
            self._console.print(line)
        self._then()


def _work_for_ray(study: str, storage: str, artifacts: str, device: str, width: int, base: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    run_worker(study, storage, device, width, Console(stderr=True), artifacts, Path(base))


def report(storage_url: str, study_name: str) -> Report:
    """The state of a study, running or ended."""
    storage = open_storage(storage_url, create=False)
    study = find_study(BufferedStorage(storage), study_name)
    summary = summarise(study, shown(storage_url))
    lines = finding(summary, CurveTable(storage, study._study_id).read())
    return Report(summary, [*lines, *verdicts(study)])
