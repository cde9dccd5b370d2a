"""The best few and every baseline trained again with fresh seeds, side by side, and scored once on the test split; see `winner`."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from model.config import Hyperparameters, ModelShape
from model.errors import DeviceError
from model.noise import derived_seed
from tuner.definition import StudyDefinition
from tuner.errors import SearchError
from tuner.failures import Outcome
from tuner.lanes import WATCH_SECONDS, WATCH_TIMES, Attempt, Job, advance_all
from tuner.seam import Scored, Tally, Trainer, TrainerFactory
from tuner.tables import RunTable
from tuner.winner import CONFIRMED, FIGURES, baselines, confirmed_of, finding_of, leaders

TEST_USES = "test_uses"
"""The study's attribute that names every use of the test split: when, and which trials with which seeds."""


@dataclass(frozen=True)
class Run:
    """A trial's settings with a fresh seed."""

    trial: int
    hyperparameters: Hyperparameters


@dataclass(eq=False)
class _Array:
    """Runs of one shape, side by side, from their first epoch on."""

    shape: ModelShape
    runs: Sequence[Run]
    epochs: int = 0
    trainer: Trainer | None = None
    scored: Sequence[Scored | None] = ()
    seconds: float = 0.0

    def job(self, lane: int, make_trainer: TrainerFactory) -> Job:
        """Its next epoch; MemoryError where there is no room to begin."""
        if self.trainer is None:
            trainer = make_trainer(self.shape, len(self.runs))
            for slot, run in enumerate(self.runs):
                trainer.load(slot, run.hyperparameters)
            self.trainer = trainer
        return Job(lane, self.trainer, len(self.runs), max(WATCH_SECONDS, WATCH_TIMES * self.seconds), self.seconds)

    def take(self, tried: Attempt) -> None:
        """What came of an epoch.

        Raises:
            MemoryError: there was no room for it.
            SearchError: the trainer failed.
        """
        try:
            outcomes = tried.result()
        except (MemoryError, DeviceError, SearchError):
            raise
        except Exception as error:
            raise self._failed(Outcome.failed(error).error) from error
        if any(fault := outcome.error for outcome in outcomes):
            raise self._failed(fault)
        self.epochs, self.seconds = self.epochs + 1, max(self.seconds, tried.seconds)
        self.scored = [outcome.scored for outcome in outcomes]

    def _failed(self, told: str | None) -> SearchError:
        trials = ", ".join(map(str, sorted({run.trial for run in self.runs})))
        return SearchError(f"trial {trials} cannot be confirmed: {told}; run `tuner confirm` again to go on")

    def records(self) -> list[tuple[int, int, dict[str, Any]]]:
        """What its runs have come to, by trial and seed; here the test split is used."""
        tallies = self.trainer.tally() if self.trainer is not None else ()
        scores = zip(self.runs, self.scored, tallies, strict=True)
        return [(run.trial, run.hyperparameters.seed, _record(run, scored, tally)) for run, scored, tally in scores]

    def halves(self, error: MemoryError) -> list[_Array]:
        """Two of half as many runs, from their beginning."""
        if len(self.runs) == 1:
            raise SearchError(f"the device has no room to confirm trial {self.runs[0].trial} ({error}); --device cpu may have") from error
        half = len(self.runs) // 2
        return [_Array(self.shape, self.runs[:half]), _Array(self.shape, self.runs[half:])]


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
) -> dict[str, Any]:
    """Trains leaders and baselines with the fresh seeds they lack, at the study's full epochs, and stores what came of it array by array.

    Args:
        width: how many runs an array has.
        progress: is told how many epochs of how many are trained.
        tell: is told what is trained, and when the test split is used once more.
        lanes: how many arrays train at the same time.

    Returns:
        The finding, which is stored with the study; see `finding_of`.

    Raises:
        SearchError: the device has no room for one run, or the trainer fails.
    """
    trials = [*leaders(study, definition), *baselines(study)]
    arrays = _arrays(definition, trials, runs, width)
    missing = [run for array in arrays for run in array.runs]
    _use_test(study, missing, tell)
    epochs = definition.budget.epochs
    if missing:
        tell(f"confirming {len(trials)} trials, baselines among them, with fresh seeds: {len(missing)} runs of {epochs} epochs")
    over = 0
    while arrays:
        for array, tried in _epoch(arrays if lanes > 1 else arrays[:1], make_trainer, lanes):
            try:
                array.take(tried)
                if array.epochs == epochs:
                    runs.write(array.records())
            except MemoryError as error:
                place = arrays.index(array)
                arrays[place : place + 1] = array.halves(error)
        finished = [array for array in arrays if array.epochs == epochs]
        progress(over * epochs + sum(array.epochs for array in arrays), (over + len(arrays)) * epochs)
        over, arrays = over + len(finished), [array for array in arrays if array.epochs < epochs]
    return _conclude(study, definition, runs, trials)


def _arrays(definition: StudyDefinition, trials: Sequence[FrozenTrial], runs: RunTable, width: int) -> list[_Array]:
    """The runs that are missing, those of one shape together."""
    made = runs.by_key()
    missing: dict[ModelShape, list[Run]] = defaultdict(list)
    for trial in trials:
        for number in range(definition.confirm.seeds):
            seed = fresh_seed(definition, trial.number, number)
            if seed not in made.get(trial.number, {}):
                shape, hyperparameters = definition.settings(trial.params, seed)
                missing[shape].append(Run(trial.number, hyperparameters))
    return [_Array(shape, slots[start : start + width]) for shape, slots in missing.items() for start in range(0, len(slots), width)]


def _use_test(study: optuna.Study, missing: Sequence[Run], tell: Callable[[str], None]) -> None:
    """Notes that the test split is used, unless a use that was interrupted goes on."""
    uses: list[dict[str, Any]] = study.user_attrs.get(TEST_USES, [])
    names = [[run.trial, run.hyperparameters.seed] for run in missing]
    if not names or (uses and all(name in uses[-1]["runs"] for name in names)):
        return
    if uses:
        tell(
            f"the test split of {study.study_name} is used again ({len(uses) + 1} times by now, first on {uses[0]['at'][:10]}): "
            "the more often its figures decide anything, the less they are worth"
        )
    study.set_user_attr(TEST_USES, [*uses, {"at": datetime.datetime.now(datetime.UTC).isoformat(), "runs": names}])


def _epoch(arrays: Sequence[_Array], make_trainer: TrainerFactory, lanes: int) -> Iterator[tuple[_Array, Attempt]]:
    """One epoch of each array, as many at once as there are lanes."""
    jobs = dict[_Array, Job]()
    for number, array in enumerate(arrays):
        try:
            jobs[array] = array.job(number % lanes, make_trainer)
        except MemoryError as error:
            yield array, Attempt(None, MemoryError(*error.args), 0.0)
    yield from zip(jobs, advance_all(list(jobs.values()), lanes), strict=True)


def _record(run: Run, scored: Scored | None, tally: Tally | None) -> dict[str, Any]:
    if scored is None or tally is None:
        raise RuntimeError(f"the run that confirms trial {run.trial} lost its slot")
    valid = {"component_accuracy": scored.objective, **{name: scored.figures.get(name, scored.objective) for name in FIGURES}}
    test = {"stated": list(tally.stated), "right": {name: list(tally.right[name]) for name in FIGURES}}
    return {"valid": valid, "round_trip": scored.round_trip, "test": test}


def _conclude(study: optuna.Study, definition: StudyDefinition, runs: RunTable, trials: Sequence[FrozenTrial]) -> dict[str, Any]:
    """What all these runs say, stored with the study."""
    made = runs.by_key()
    seeds = {t.number: [fresh_seed(definition, t.number, number) for number in range(definition.confirm.seeds)] for t in trials}
    found = [confirmed_of(definition, t, {seed: made[t.number][seed] for seed in seeds[t.number]}) for t in trials]
    finding = finding_of(found, definition.objective.round_trip_floor, len(study.user_attrs.get(TEST_USES, [])))
    study.set_user_attr(CONFIRMED, finding)
    return finding
