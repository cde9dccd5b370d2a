"""What a search works with, from a request: device, data, storage, study, and the processes that train."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import optuna
import torch
from optuna.trial import TrialState
from rich.console import Console

from model.config import ModelShape
from model.corpus import Corpus, load_corpus
from model.devices import find_device, is_crowded
from tuner.artifacts import Artifacts, open_artifacts
from tuner.buffer import BufferedStorage
from tuner.confirm import confirm
from tuner.definition import StudyDefinition
from tuner.endings import trim
from tuner.errors import StudyError
from tuner.failures import device_failures
from tuner.health import Pulse
from tuner.lanes import lanes_of, shared_out
from tuner.observer import Observer
from tuner.progress import BarProgress, plainly
from tuner.publish import Publisher
from tuner.remote import Process, Processes, ahead
from tuner.seam import Trainer, TrainerFactory
from tuner.search import Search
from tuner.storage import DEFAULT_URL, Patience, open_storage, shown
from tuner.study import BASELINE, check_data, check_same, definition_of, find_study, open_study, source_of
from tuner.tables import CurveTable, RunTable
from tuner.trainers import find_trainer
from tuner.warm import remember
from tuner.width import WIDEST, fitting, half_of

BASE = Path("runs")
PROCESSES_FROM = 20_000
"""From so many sentences on, counted in every epoch of every trial, processes pay: these take a core about a minute, a process two seconds
to begin."""
A_STORY = 7
"""About how many sentences a story has."""


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
    """Whether the best is confirmed when all trials have ended."""
    confirm_early: bool = False
    """Whether it is so when a limit ends the search, too."""
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

    began: float | None = None
    """When the command began, by `time.monotonic`; its minutes are counted from then."""
    there: str | None = None
    """The full name of a study whose data these must be."""

    @property
    def processes(self) -> int:
        """How many search on this machine, and share its cores."""
        return 1 + len(self.others)

    @property
    def devices(self) -> list[str]:
        """The device of each of its processes, by one name where it has several."""
        return [_same_device(name) for name in (self.device, *self.others)]

    def alone(self, device: str) -> bool:
        """Whether one of its processes alone trains on this device."""
        return self.devices.count(_same_device(device)) == 1

    @property
    def place(self) -> str:
        """Where the artifacts are: as asked for, else a folder in `base`."""
        return self.artifacts or str(self.base / "artifacts")


def _folder(base: Path, storage: str, study: str) -> Path:
    """A folder for each study, and for each storage but the usual one, so that studies of one name do not overwrite each other."""
    runs = base.parent.absolute()
    usual = storage == DEFAULT_URL or (runs.name == BASE.name and storage == f"sqlite:///{runs}/tuner.db")  # as it is called elsewhere
    base = base if usual else base / _mark(shown(storage))
    plain = re.sub(r"[^A-Za-z0-9@._-]", "_", study)
    return base / (plain if plain == study else f"{plain}-{_mark(study)}")


def _same_device(name: str) -> str:
    """One name for a device that has several."""
    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    return "cuda:0" if name == "cuda" else name


def _mark(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Prepared:
    """All that a search works with."""

    request: SearchRequest
    definition: StudyDefinition
    study: optuna.Study
    storage: BufferedStorage
    corpus: Corpus
    device: torch.device
    begun: list[Process] = dataclasses.field(default_factory=list)
    """Processes that have begun and know no data yet."""

    def make_trainer(self, shape: ModelShape, slots: int) -> Trainer:
        """A trainer on the study's data."""
        return find_trainer(self.definition.trainer)(shape, self.corpus, slots, str(self.device), source_of(self.definition))

    def width(self, console: Console, keep: bool = False) -> int:
        """How many trials train at once: as asked for, else as measured when the study was begun, or now. No more than there are trials
        or, with several processes on GPUs, than this one's share of half of them.

        Args:
            keep: whether what is measured is stored for later runs: not where this process has only a share of a machine. It is stored
                for a GPU only, and only if neither the budget of trials nor a lack of memory limited it.
        """
        if self.request.width is not None:
            return self.request.width
        known: dict[str, int] = {} if self.device.type == "cpu" else self.study.user_attrs.get("width", {})
        trials, sharing = self.definition.budget.trials, self.request.processes
        on_gpus = self.device.type != "cpu" and sharing > 1  # processes share out the cores of a CPU, and each counts its own
        most = half_of(trials, sharing) if on_gpus else trials
        if self.device.type not in known:
            with BarProgress(console, "measuring how many trials to train at once") as bar:
                steps = WIDEST.bit_length()
                with device_failures():
                    measured = fitting(self.device.type, self.make_trainer, self.definition, lambda tried: bar(tried, steps), sharing)
                    crowded = is_crowded(self.device)
            plainly(console)(measured.said(most))
            known = {**known, self.device.type: measured.width}
            if keep and self.device.type != "cpu" and not measured.bound and not measured.short and not crowded:
                self.study.set_user_attr("width", known)
        return min(known[self.device.type], most)  # what was known may be of one process

    @property
    def artifacts(self) -> Artifacts:
        """The study's."""
        return Artifacts(open_artifacts(self.request.place), self.study.user_attrs["mark"])

    def publisher(self, tell: Callable[[str], None]) -> Publisher:
        """What keeps the dashboard's note and charts current; it reads through a connection of its own."""
        backend, patience = open_storage(self.request.storage), Patience()  # the search itself says when the storage is away
        study = optuna.load_study(study_name=self.study.study_name, storage=BufferedStorage(backend, patience))
        curves = CurveTable(backend, study._study_id, patience)
        return Publisher(study, curves, self.artifacts, patience, shown(self.request.storage), tell)

    @property
    def _checkpoints(self) -> Path:
        """The folder for the models of the study's trials."""
        return _folder(self.request.base / "checkpoints", self.request.storage, self.study.study_name)

    @property
    def _snapshots(self) -> Path:
        """The folder for what a killed run goes on from."""
        return _folder(self.request.base / "snapshots", self.request.storage, self.study.study_name)

    def trim(self, tell: Callable[[str], None]) -> None:
        """Removes the models that are not to be kept, of whichever process."""
        if self.request.keep is not None:
            trim(self.study, self.definition, self._checkpoints, self.artifacts, self.request.keep, tell)

    def confirm(self, width: int, console: Console) -> dict[str, Any]:
        """Trains the leaders and the baselines again and scores them on the test split."""
        among = " and the baselines" if self.definition.baselines else ""
        with BarProgress(console, f"confirming the best{among} with fresh seeds: epochs") as bar:
            runs = RunTable(self.storage.backend, self.study._study_id, self.storage.patience)
            lanes, trials = min(width, lanes_of(self.device.type)), self.definition.confirm.top + len(self.definition.baselines)
            halfway = self._snapshots / "confirming.safetensors"
            missing = self.definition.confirm.seeds * trials - sum(map(len, runs.by_key().values()))
            with self._makers(lanes, missing) as make_trainer:
                return confirm(self.study, self.definition, runs, make_trainer, width, _alive(bar), plainly(console), lanes, halfway)

    @contextlib.contextmanager
    def _makers(self, lanes: int, trials: int) -> Iterator[TrainerFactory]:
        """What makes trainers: each lane has a process, unless all trials end before that pays. The numbers are the same."""
        if lanes == 1 or trials * self.definition.budget.epochs * len(self.corpus.sentences["train"]) < PROCESSES_FROM:
            yield self.make_trainer
        else:
            data = source_of(self.definition)
            with Processes(lanes, self.definition.trainer, self.corpus, str(self.device), data, self.begun) as processes:
                yield processes.make_trainer

    def search(self, width: int, observer: Observer, *, alone: bool = False) -> None:
        """Runs the search.

        Args:
            alone: whether no other process of ours is known to train on the device.
        """
        request, lanes = self.request, lanes_of(self.device.type)
        ended = sum(trial.state.is_finished() for trial in self.study.get_trials(deepcopy=False))
        with self._makers(lanes, self.definition.budget.trials - ended) as make_trainer:
            Search(
                self.study,
                self.definition,
                make_trainer,
                CurveTable(self.storage.backend, self.study._study_id, self.storage.patience),
                width=width,
                device=str(self.device),
                checkpoints=self._checkpoints,
                snapshots=self._snapshots,
                artifacts=open_artifacts(request.place),
                observer=observer,
                keep=request.keep,
                lanes=lanes,
                began=request.began,
                alone=alone,
            ).run()


def _alive(bar: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """Moves the bar, and tells whoever watches the process that it goes forward."""
    pulses = Pulse.asked_for()

    def went_on(done: int, total: int) -> None:
        bar(done, total)
        for pulse in pulses:
            pulse.beat()

    return went_on


def load(definition: StudyDefinition, console: Console) -> Corpus:
    """The definition's data."""
    with BarProgress(console, "parsing stories") as parsing:
        return load_corpus(definition.data.source, definition.data.stories, definition.data.seed, _alive(parsing))


@contextlib.contextmanager
def started_ahead(request: SearchRequest) -> Iterator[list[Process]]:
    """Processes that begin while the data are read, where the search is likely to use them."""
    data, budget = request.definition.data, request.definition.budget
    device = find_device(request.device)  # before the cores are shared out, for a quota is of all
    with shared_out(request.processes):
        lanes = lanes_of(device.type)
    likely = data.stories is None or budget.trials * budget.epochs * data.stories * A_STORY >= PROCESSES_FROM
    with ahead(lanes if likely and lanes > 1 and request.ray is None else 0) as begun:
        yield begun


def begin(request: SearchRequest, console: Console, begun: list[Process], tell: Callable[[str], None]) -> Prepared:
    """Device, data, storage and study; `tell` is told what goes wrong, also where the console is to be quiet."""
    device, corpus = find_device(request.device), load(request.definition, console)
    definition = request.definition.fitted(len(corpus.sentences["train"]))
    if definition.budget.epochs != request.definition.budget.epochs:
        before = request.definition.budget.epochs
        plainly(console)(f"{definition.budget.epochs} epochs a trial in place of {before}: the data are small (least_sentences)")
    storage = BufferedStorage(open_storage(request.storage), Patience(tell))
    open_artifacts(request.place)
    # what is not there is told of before a study is begun, which may have the same name and be newer
    earlier = None if request.warm_start is None else find_study(storage, request.warm_start).study_name
    if earlier is not None and definition.sampler == "random":
        raise StudyError(f'{definition.name} has sampler = "random", which learns from nothing; leave --warm-start out or take "tpe"')
    if request.there is not None:
        check_data(find_study(storage, request.there), definition, corpus)  # else a study of another name would be begun
    study = open_study(storage, definition, corpus, request.name, request.fresh)
    if earlier is not None:
        remember(study, storage, earlier, definition.distributions())
    _warn_of_few(study, definition, plainly(console))
    if corpus.too_long:
        plainly(console)(corpus.too_long)
    if definition.budget.gpu_minutes and set(request.devices) == {"cpu"} and request.ray is None:
        plainly(console)("time on a CPU does not count towards gpu_minutes; --timeout limits it")
    sizes = ", ".join(f"{len(corpus.sentences[split]):,} {split}" for split in corpus.sentences)
    left, asked = sum(corpus.left_out.values()), definition.data.stories
    fewer = f"all there are, {asked:,} were asked for" if asked is not None and corpus.stories < asked else "--num-stories"
    plainly(console, head=True)(
        f"{study.study_name}: {corpus.stories:,} stories ({fewer}), {sizes} sentences, {left} left out as repeats of train; on {device}"
    )
    return Prepared(request, definition, study, storage, corpus, device, begun)


def _warn_of_few(study: optuna.Study, definition: StudyDefinition, tell: Callable[[str], None]) -> None:
    """Says so where a budget of trials is too small for anything new to begin, or for anything to be searched."""
    budget, baselines, put_in = definition.budget.trials, len(definition.baselines), len(definition.baselines) + len(definition.enqueue)
    begun = [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
    if len(begun) > budget:
        tell(f"{len(begun)} trials of {study.study_name} have begun, so --trials {budget} begins none; raise it: it counts all trials")
    elif budget <= baselines and len(begun) == sum(BASELINE in trial.user_attrs for trial in begun):
        tell(f"{budget} trials are all for the {baselines} baselines, nothing is searched; raise --trials")
    elif budget <= put_in and not begun:
        tell(f"{budget} trials are all for the {put_in} that the study puts in ([[baselines]], [[enqueue]]); raise --trials to search")


def again(
    name: str,
    storage_url: str,
    device: str,
    width: int | None,
    console: Console,
    artifacts: str | None,
    base: Path = BASE,
    tell: Callable[[str], None] | None = None,
    began: float | None = None,
) -> Prepared:
    """A study that is there, with its data.

    Args:
        tell: is told what goes wrong, where the console is to be quiet.

    Raises:
        StudyError: there is none, or it was begun on other data or with another model than these.
    """
    storage = BufferedStorage(open_storage(storage_url, create=False), Patience(tell or plainly(console)))
    study = find_study(storage, name)
    definition = definition_of(study)
    request = SearchRequest(definition, storage_url, width, device, None, False, base, artifacts=artifacts, began=began)
    corpus = load(definition, console)
    check_same(study, definition, corpus, "put them back as they were, or use the version of tuner that began it")
    return Prepared(request, definition, study, storage, corpus, find_device(device))
