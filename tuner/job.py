"""What `tuner search` does, from a request to a summary: device, data, storage, study, search."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import optuna
import torch
from rich.console import Console

from model.config import ModelShape
from model.devices import find_device
from model.errors import DeviceError
from tuner.artifacts import BUCKET
from tuner.budget import STOP
from tuner.crew import Crew
from tuner.definition import SYMMETRIC
from tuner.errors import TunerError
from tuner.events import JsonEvents
from tuner.forecast import forecast, told
from tuner.health import Pulse
from tuner.lanes import shared_out
from tuner.metrics import Metrics, MetricsServer
from tuner.observer import Beating, Observer, Several
from tuner.preparation import BASE, Prepared, SearchRequest, again, begin, load, started_ahead
from tuner.progress import LiveProgress, Others, PlainProgress, QuietProgress, WordyProgress, plainly
from tuner.publish import Publisher
from tuner.ray_engine import find_ray, run_with_ray
from tuner.remote import Process
from tuner.seam import Trainer
from tuner.storage import open_storage, wherever
from tuner.study import complete, find_study, source_of
from tuner.summary import Report, report
from tuner.trainers import find_trainer
from tuner.width import fitting
from tuner.winner import leaders
from tuner.winner import told as confirmation


@contextlib.contextmanager
def _progress(request: SearchRequest, study: str, console: Console, *, shared: bool) -> Iterator[Observer]:
    """Who shows the search; `shared`: whether others are known to train it too."""
    if request.events is not None:
        yield JsonEvents(study, request.events, request.words)
    elif not _tabled(request, console):
        yield {-1: QuietProgress, 0: PlainProgress, 1: WordyProgress}[request.words](console)
    elif shared:
        from tuner.watch import StudyProgress  # what it draws with takes seconds to load

        with StudyProgress(request.storage, study, console) as live:
            yield live
    else:
        with LiveProgress(console) as live:
            yield live


@contextlib.contextmanager
def _watching(request: SearchRequest, study: str, device: str, console: Console, *, shared: bool) -> Iterator[list[Observer]]:
    """Those that look on: who shows the search, who tells whether it is alive, and who serves its figures.

    Args:
        shared: whether other processes are known to train the study.
    """
    with contextlib.ExitStack() as opened:
        shown = opened.enter_context(_progress(request, study, console, shared=shared))
        observers = [shown, *map(Beating, Pulse.asked_for())]
        if request.metrics is not None:
            metrics = Metrics(study, device)
            server = opened.enter_context(MetricsServer(metrics, *request.metrics))
            plainly(console)(f"figures for Prometheus: http://{request.metrics[0]}:{server.port}/metrics")
            observers.append(metrics)
        yield observers


def run_search(request: SearchRequest, console: Console) -> Report:
    """Begins or continues a search and runs it to the end of its budget."""
    find_trainer(request.definition.trainer)  # before anything is begun
    Pulse.asked_for()
    if request.ray is not None:
        find_ray()
    with started_ahead(request) as begun:
        return _searched(request, console, begun)


def _aside(console: Console, words: int) -> Console:
    """The console for what is said when all is well: quiet with -q."""
    return Console(file=console.file, quiet=True) if words < 0 else console


def _searched(request: SearchRequest, console: Console, begun: list[Process]) -> Report:
    aside = _aside(console, request.words)
    prepared = begin(request, aside, begun, plainly(console))
    study, lost, stop = prepared.study, False, prepared.study.user_attrs.get(STOP)
    width = None
    if request.ray is None:  # its workers find out for themselves
        with shared_out(request.processes):
            width = prepared.width(aside, keep=not request.others)
    with prepared.publisher(plainly(console)) as publisher:
        if width is not None:
            lost = _search_here(prepared, width, console, publisher)
        else:
            _search_with_ray(prepared, console, publisher)
        if lost:  # what was being trained here has been ended by others since
            study = find_study(prepared.storage.patience(open_storage, request.storage, create=False), study.study_name)
        if request.ray is None:
            dataclasses.replace(prepared, study=study).trim(plainly(console))
        early = request.confirm_early and study.user_attrs.get(STOP) == stop and bool(leaders(study, prepared.definition))
        if request.confirm and not (early or complete(study, prepared.definition)):
            first = "" if request.definition.budget.bounded else "run the search again to go on, or "
            later = f"{first}run `tuner confirm {study.study_name}` to confirm what there is now"
            plainly(aside)(f"the best is not confirmed yet: that begins when all trials have ended; {later}")
        elif request.confirm and lost:
            plainly(console)(
                f"the best is not confirmed: {prepared.device} has failed; tuner confirm {study.study_name} --device D confirms it"
            )
        elif request.confirm:
            prepared.confirm(prepared.width(aside) if width is None else width, aside)
    found = report(request.storage, study.study_name, prepared.storage.patience)
    own = prepared.definition.trainer == SYMMETRIC
    return Report(found.summary, [*found.lines, _next(study.study_name, found.summary["best"] is not None, own)])


def _search_here(prepared: Prepared, width: int, console: Console, publisher: Publisher) -> bool:
    """Runs the search in this process, and in one more for each further device. Returns whether this process's device has failed.

    Raises:
        DeviceError: all devices have failed.
    """
    request, name, tell = prepared.request, prepared.study.study_name, plainly(console)
    began, failed = time.monotonic() if request.began is None else request.began, None
    with shared_out(request.processes), contextlib.ExitStack() as opened:
        watching = opened.enter_context(_watching(request, name, str(prepared.device), console, shared=bool(request.others)))
        observer = Several(*watching, publisher)
        crew = Crew(
            name,
            request.storage,
            request.place,
            request.others,
            width,
            threads=torch.get_num_threads(),
            began=began,
            tell=tell,
            alone=request.alone,
            meanwhile=publisher.offer,
            telling=_telling(request, console),
        )
        with crew:
            try:
                prepared.search(width, observer, alone=request.alone(request.device))
            except DeviceError as error:
                if not request.others:
                    raise
                failed = error
                tell(f"{prepared.device} is left out: {error}; its trials go to the others")
    if failed is not None and crew.failed:
        raise failed
    return failed is not None


def _tabled(request: SearchRequest, console: Console) -> bool:
    """Whether a table shows the search."""
    return console.is_terminal and not request.words and request.events is None


def _others_words(request: SearchRequest, console: Console) -> int:
    """How much is said beside the search itself: where a table shows it only what goes wrong."""
    return -1 if _tabled(request, console) else request.words


def _telling(request: SearchRequest, console: Console) -> list[str]:
    """The options with which further workers say that much."""
    words = {-1: ["-q"], 1: ["-v"]}.get(_others_words(request, console), [])
    return [*words, *(["--log-format", "json"] if request.events is not None else [])]


def _next(study: str, found: bool, own: bool) -> str:
    """What can be done with a search that is over; `tuner train` trains no model but our own."""
    if not found:
        return f"next: tuner diagnose {study}"
    if not own:
        return f"next: tuner report {study} -o report.html; tuner best {study}"
    return f"next: tuner report {study} -o report.html; tuner best {study} --format cli; tuner train --from {study}"


def _search_with_ray(prepared: Prepared, console: Console, publisher: Publisher) -> None:
    """Has Ray's workers run the search, and shows what they do."""
    request, study, tell = prepared.request, prepared.study, plainly(console)
    address, devices = None if request.ray == "local" else request.ray, (request.device, *request.others)
    base = request.base.absolute()
    with _watching(request, study.study_name, str(prepared.device), console, shared=True) as observers:
        say = plainly(_aside(console, _others_words(request, console)))
        others = Others(study, say, Several(*observers, publisher))
        # workers run in folders of Ray's
        place = request.place if request.place.startswith(BUCKET) else str(Path(request.place).absolute())
        work = study.study_name, wherever(request.storage), place, devices, request.width
        run_with_ray(_work_for_ray, *work, address, base, others, tell)


def dry_run(request: SearchRequest, console: Console) -> Report:
    """What the search would cost, measured; no study is begun."""
    find_trainer(request.definition.trainer)
    device, corpus = find_device(request.device), load(request.definition, console)
    definition = request.definition.fitted(len(corpus.sentences["train"]))
    data = source_of(definition)

    def make_trainer(shape: ModelShape, slots: int) -> Trainer:
        return find_trainer(definition.trainer)(shape, corpus, slots, str(device), data)

    processes, trials = request.processes, definition.budget.trials
    devices = len(set(request.devices)) if device.type == "cuda" else processes
    try:
        with shared_out(processes):
            width = request.width or min(trials, fitting(device.type, make_trainer, definition, processes=processes).width)
            found = forecast(make_trainer, definition, width, request.confirm, devices, device)
    except MemoryError as error:
        raise TunerError(f"{device} has no room for {width} trials of this study at once ({error}); try a smaller --width") from error
    return Report(found, told(found))


def run_worker(
    name: str,
    storage_url: str,
    device: str,
    width: int | None,
    console: Console,
    artifacts: str | None = None,
    base: Path = BASE,
    *,
    words: int = 0,
    events: TextIO | None = None,
    metrics: tuple[str, int] | None = None,
    began: float | None = None,
    alone: bool = False,
) -> None:
    """Helps with a study that was begun elsewhere, until its budget is used up.

    Args:
        base: the folder for checkpoints and snapshots.
        words, events, metrics, began: as in a `SearchRequest`.
        alone: whether no other process of ours is known to train on the device.

    Raises:
        StudyError: there is no such study, or the data are not those it was begun on.
    """
    aside = _aside(console, words)
    prepared = again(name, storage_url, device, width, aside, artifacts, base, plainly(console), began)
    if complete(prepared.study, prepared.definition):
        said = f"all {prepared.definition.budget.trials} trials of {prepared.study.study_name} have ended: there is nothing to help with"
        plainly(aside)(f"{said}; tuner search {prepared.study.study_name} --trials N goes on")
    request = dataclasses.replace(prepared.request, words=words, events=events, metrics=metrics)
    with _watching(request, prepared.study.study_name, str(prepared.device), console, shared=True) as observers:
        prepared.search(prepared.width(aside), Several(*observers), alone=alone)


def run_confirm(
    name: str, storage_url: str, device: str, width: int | None, console: Console, top: int | None, seeds: int | None, artifacts: str | None
) -> Report:
    """Confirms the best of a study, also of one that is not over.

    Args:
        top, seeds: how many trials with how many seeds each; None: as the study's definition says.

    Raises:
        StudyError: there is no such study, or the data are not those it was begun on.
    """
    prepared = again(name, storage_url, device, width, console, artifacts)
    definition = prepared.definition.changed(confirm_top=top, confirm_seeds=seeds)
    prepared.study.set_user_attr("definition", definition.model_dump(mode="json"))
    prepared = dataclasses.replace(prepared, definition=definition)
    with prepared.publisher(plainly(console)):
        found = prepared.confirm(prepared.width(console), console)
    return Report(found, confirmation(found))


def _work_for_ray(study: str, storage: str, artifacts: str, device: str, width: int | None, base: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    run_worker(study, storage, device, width, Console(stderr=True), artifacts, Path(base), alone=device != "cpu")
