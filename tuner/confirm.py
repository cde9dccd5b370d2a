"""The best few and every baseline trained with fresh seeds, side by side, and scored once on the test split; see `winner`."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from model.config import Hyperparameters, ModelShape
from model.errors import DeviceError
from model.noise import derived_seed
from tuner.definition import StudyDefinition
from tuner.errors import SearchError, TrainerUnmade
from tuner.failures import TrainerNonsense, as_json, device_failures, in_words
from tuner.halfway import Halfway, HeldRuns, Key
from tuner.lanes import WATCH_SECONDS, WATCH_TIMES, Attempt, Job, advance_all
from tuner.pace import work
from tuner.seam import Held, Scored, Tally, Trainer, TrainerFactory
from tuner.study import BASELINE, attributes_of
from tuner.tables import RunTable
from tuner.tested import begin_use, end_use
from tuner.winner import CONFIRMED, FIGURES, baselines, confirmed_of, finding_of, impossible, leaders, standing


class _Untrainable(SearchError):
    """Runs that cannot be trained, for a reason that is theirs."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Run:
    """A trial's settings with a fresh seed."""

    trial: int
    hyperparameters: Hyperparameters

    @property
    def key(self) -> Key:
        """Its trial and its seed."""
        return self.trial, self.hyperparameters.seed


@dataclass(eq=False)
class _Array:
    """Runs of one shape, side by side; `spare`: of baselines that the search has not ended."""

    shape: ModelShape
    runs: Sequence[Run]
    spare: bool = False
    epochs: int = 0
    held: Sequence[Held] = ()
    """The states to go on from; none: from the beginning."""
    trainer: Trainer | None = None
    scored: Sequence[Scored | None] = ()
    seconds: float = 0.0

    @property
    def work(self) -> int:
        """About how long an epoch takes."""
        return work(self.shape, len(self.runs))

    def job(self, make_trainer: TrainerFactory) -> Job:
        """Its next epoch."""
        if self.trainer is None:
            self.trainer = self._filled(make_trainer)
        return Job(self.trainer, len(self.runs), max(WATCH_SECONDS, WATCH_TIMES * self.seconds), self.seconds)

    def _filled(self, make_trainer: TrainerFactory) -> Trainer:
        trainer, held = make_trainer(self.shape, len(self.runs)), self.held
        if not held:
            for slot, run in enumerate(self.runs):
                trainer.load(slot, run.hyperparameters)
            return trainer
        try:
            with device_failures():
                for slot, run in enumerate(self.runs):
                    trainer.resume(slot, run.hyperparameters, held[slot])
        except (ValueError, KeyError, RuntimeError):  # what was held is of another form: from the beginning
            self.epochs, self.held = 0, ()
            return self._filled(make_trainer)
        self.held = ()
        return trainer

    def held_runs(self) -> HeldRuns:
        """Its runs, to go on from."""
        held = self.held if self.trainer is None else [self.trainer.held(slot) for slot in range(len(self.runs))]
        return {run.key: (self.epochs, state) for run, state in zip(self.runs, held, strict=True)}

    def take(self, tried: Attempt) -> None:
        """What came of an epoch; the trainer's error where it failed."""
        outcomes = tried.result()
        for outcome in outcomes:
            if outcome.error:
                raise self._failed(outcome.error)
        self.epochs, self.seconds = self.epochs + 1, max(self.seconds, tried.seconds)
        self.scored = [outcome.scored for outcome in outcomes]

    def records(self) -> list[tuple[int, int, dict[str, Any]]]:
        """What its runs have come to, by trial and seed; here the test split is used, and then its trainer is done."""
        tallies = self.trainer.tally() if self.trainer is not None else ()
        scores = zip(self.runs, self.scored, tallies, strict=True)
        made = [(run.trial, run.hyperparameters.seed, _record(run, scored, tally)) for run, scored, tally in scores]
        self.trainer = None
        return made

    def halves(self, error: MemoryError) -> list[_Array]:
        """Two of half as many runs, from their beginning; its own trainer gives its memory back."""
        self.trainer = None
        if len(self.runs) == 1:
            raise _Untrainable(
                f"the device has no room to confirm trial {self.runs[0].trial} ({error}); "
                "free some memory or use --device cpu instead of a GPU, and run `tuner confirm STUDY` again",
                f"the device has no room for it ({error})",
            ) from error
        half = len(self.runs) // 2
        return [_Array(self.shape, self.runs[:half], self.spare), _Array(self.shape, self.runs[half:], self.spare)]

    def one_by_one(self) -> list[_Array]:
        """One for each of its trials, from their beginning."""
        self.trainer = None
        trials = dict.fromkeys(run.trial for run in self.runs)
        return [_Array(self.shape, [run for run in self.runs if run.trial == trial], self.spare) for trial in trials]

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Turns what the trainer raises into an error that names the trials; what is no trial's fault is raised as it is."""
        try:
            with device_failures():
                yield
        except TrainerUnmade as error:
            raise self._failed(error.reason) from error
        except (MemoryError, DeviceError, SearchError):
            raise
        except Exception as error:
            raise self._failed(in_words(error)) from error

    def _failed(self, told: str) -> _Untrainable:
        trials = ", ".join(map(str, sorted({run.trial for run in self.runs})))
        return _Untrainable(f"trial {trials} cannot be confirmed: {told}; run `tuner confirm STUDY` again to go on", told)


def fresh_seed(definition: StudyDefinition, trial: int, number: int) -> int:
    """The n-th seed that confirms a trial."""
    return derived_seed(definition.seed, "confirm", trial, number) % 2**31


def confirm(
    study: optuna.Study,
    definition: StudyDefinition,
    runs: RunTable,
    make_trainer: TrainerFactory,
    width: int,
    progress: Callable[[int, int], None],
    tell: Callable[[str], None],
    lanes: int = 1,
    halfway: Path | None = None,
) -> dict[str, Any]:
    """Trains leaders and baselines with the fresh seeds they lack, at the study's full epochs, and stores what came of it array by array.

    Args:
        width: how many runs an array has.
        progress: is told how many epochs of how many are trained.
        tell: is told what is trained, and when the test split is used once more.
        lanes: how many arrays train at the same time.
        halfway: the file that holds the runs under way; None: those of a confirmation that is broken off begin anew.

    Returns:
        The finding, which is stored with the study; see `finding_of`.

    Raises:
        SearchError: the device has no room for one run, or the trainer fails.
        DeviceError: the device has failed.
        StudyError: the study has been deleted meanwhile.
    """
    ahead = leaders(study, definition)
    trials = [*ahead, *baselines(study)] if ahead else []
    arrays = _arrays(definition, trials, runs, width)
    missing = [run for array in arrays for run in array.runs]
    if not missing and (known := _covering(study, definition, trials)) is not None:
        return known
    begin_use(study, [run.key for run in missing], tell)
    epochs = definition.budget.epochs
    if missing:
        among = ", baselines among them," if len(trials) > len(ahead) else ""
        tell(f"confirming {len(trials)} trials{among} with fresh seeds: {len(missing)} runs of {epochs} epochs")
    mark = study.user_attrs["mark"]
    kept = Halfway(halfway, mark, tell)
    arrays = _gone_on_with(arrays, kept, epochs)
    over, failed, left_out = 0, list[Exception](), dict[int, str]()
    while arrays and not failed:
        trained = _epoch(arrays[:lanes], make_trainer, lanes)
        attributes_of(study, mark)  # what is written now is not to be another study's
        for array, tried in trained:
            place = arrays.index(array)
            try:
                arrays[place : place + 1] = _take(array, tried, epochs, runs)
            except (SearchError, DeviceError) as error:
                if array.spare and isinstance(error, _Untrainable):
                    arrays[place : place + 1] = _apart(array, error, left_out, tell)
                else:
                    failed.append(error)  # the others of this round are stored first
        made, whole = sum(len(array.runs) * array.epochs for array in arrays), sum(len(array.runs) for array in arrays)
        progress(over * epochs + made, (over + whole) * epochs)
        over += sum(len(array.runs) for array in arrays if array.epochs == epochs)
        arrays = [array for array in arrays if array.epochs < epochs]
        if kept.due and not failed:
            kept.hold({key: run for array in arrays if array.epochs for key, run in array.held_runs().items()})
    if failed:
        raise failed[0]
    if missing:
        kept.forget()
    return _conclude(study, definition, runs, trials, left_out)


def _gone_on_with(arrays: Sequence[_Array], kept: Halfway, epochs: int) -> list[_Array]:
    """The arrays with what is held of their runs; those that are as far train side by side."""
    found, parts = kept.found(), list[_Array]()
    for array in arrays:
        by_epoch: dict[int, list[Run]] = defaultdict(list)
        for run in array.runs:
            made = found[run.key][0] if run.key in found else 0
            by_epoch[made if made < epochs else 0].append(run)
        for made, runs in sorted(by_epoch.items(), reverse=True):
            held = [found[run.key][1] for run in runs] if made else []
            parts.append(_Array(array.shape, runs, array.spare, made, held))
    return parts


def _covering(study: optuna.Study, definition: StudyDefinition, trials: Sequence[FrozenTrial]) -> dict[str, Any] | None:
    """What was confirmed before, where it has all of these trials with as many seeds: fewer of them would say less. Not where these are
    all that it has, and an earlier version concluded it."""
    known = standing(study)
    if known is None:
        return None
    seeds = {entry["trial"]: len(entry["seeds"]) for entry in known["confirmed"]}
    if "announced" not in known and seeds == {trial.number: definition.confirm.seeds for trial in trials}:
        return None
    return known if all(seeds.get(trial.number, 0) >= definition.confirm.seeds for trial in trials) else None


def _apart(array: _Array, error: _Untrainable, left_out: dict[int, str], tell: Callable[[str], None]) -> list[_Array]:
    """Each of an array's baselines alone, so that one that cannot be trained is no other's fault; one that is alone is left out."""
    parts = array.one_by_one()
    if len(parts) > 1:
        return parts
    tell(f"a baseline that the search has not ended is left out: {error}")
    left_out[array.runs[0].trial] = error.reason
    return []


def _arrays(definition: StudyDefinition, trials: Sequence[FrozenTrial], runs: RunTable, width: int) -> list[_Array]:
    """The runs that are missing, those of one shape together; what takes longest first, so that those beside each other are alike."""
    made = runs.by_key()
    missing: dict[tuple[ModelShape, bool], list[Run]] = defaultdict(list)
    for trial in trials:
        for number in range(definition.confirm.seeds):
            seed = fresh_seed(definition, trial.number, number)
            if seed not in made.get(trial.number, {}):
                shape, hyperparameters = definition.settings(trial.params, seed)
                missing[shape, trial.state != TrialState.COMPLETE].append(Run(trial.number, hyperparameters))
    parts = [
        (shape, spare, slots[start : start + width]) for (shape, spare), slots in missing.items() for start in range(0, len(slots), width)
    ]
    return sorted((_Array(shape, slots, spare) for shape, spare, slots in parts), key=lambda array: -array.work)


def _epoch(arrays: Sequence[_Array], make_trainer: TrainerFactory, lanes: int) -> list[tuple[_Array, Attempt]]:
    """One epoch of each array, all at once."""
    jobs, tried = dict[_Array, Job](), list[tuple[_Array, Attempt]]()
    for array in arrays:
        try:
            with array.blamed():
                jobs[array] = array.job(make_trainer)
        except (MemoryError, SearchError) as error:
            tried.append((array, Attempt(None, error, 0.0)))
    return [*tried, *zip(jobs, advance_all(list(jobs.values()), lanes), strict=True)]


def _take(array: _Array, tried: Attempt, epochs: int, runs: RunTable) -> list[_Array]:
    """Takes the results of an array's epoch, and stores them after the last. Returns the arrays to go on with: two if it had no room."""
    try:
        with array.blamed():
            array.take(tried)
            records = array.records() if array.epochs == epochs else []
    except MemoryError as error:
        return array.halves(error)
    if records:
        runs.write(records)
    return [array]


def _record(run: Run, scored: Scored | None, tally: Tally | None) -> dict[str, Any]:
    if scored is None or tally is None:
        raise RuntimeError(f"the run that confirms trial {run.trial} lost its slot")
    figures = {name: scored.figures[name] for name in FIGURES if name in scored.figures}
    stated, right = list(map(int, tally.stated)), {name: list(map(int, tally.right[name])) for name in FIGURES}
    for name, counts in right.items():
        if len(counts) != len(stated) or not all(0 <= count <= most for count, most in zip(counts, stated, strict=True)):
            raise TrainerNonsense(f"the trainer's tally has more {name} right than is stated, or not as many stories")
    valid = as_json({"component_accuracy": scored.objective, **figures})
    return {"valid": valid, "round_trip": float(scored.round_trip), "test": {"stated": stated, "right": right}}


def _conclude(
    study: optuna.Study, definition: StudyDefinition, runs: RunTable, trials: Sequence[FrozenTrial], left_out: Mapping[int, str]
) -> dict[str, Any]:
    """What all these runs say but those of what is left out, stored with the study."""
    made = runs.by_key()
    trained = [trial for trial in trials if trial.number not in left_out]
    seeds = {t.number: [fresh_seed(definition, t.number, number) for number in range(definition.confirm.seeds)] for t in trained}
    found = [confirmed_of(definition, t, {seed: made[t.number][seed] for seed in seeds[t.number]}) for t in trained]
    without = {str(trial.user_attrs[BASELINE]): left_out[trial.number] for trial in trials if trial.number in left_out}
    uses = end_use(study, made, seeds)
    finding = finding_of(found, definition.objective.round_trip_floor, uses, {**impossible(study), **without})
    study.set_user_attr(CONFIRMED, finding)
    return finding
