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
from model.noise import derived_seed
from tuner.definition import StudyDefinition
from tuner.errors import SearchError
from tuner.seam import Scored, Tally, TrainerFactory
from tuner.tables import RunTable
from tuner.winner import CONFIRMED, FIGURES, baselines, confirmed_of, finding_of, leaders

TEST_USES = "test_uses"
"""The study's attribute that names every use of the test split: when, and which trials with which seeds."""


@dataclass(frozen=True)
class Run:
    """A trial's settings with a fresh seed."""

    trial: int
    hyperparameters: Hyperparameters


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
) -> dict[str, Any]:
    """Trains leaders and baselines with the fresh seeds they lack, at the study's full epochs, and stores what came of it array by array.

    Args:
        width: how many runs train at once.
        progress: is told how many epochs of how many are trained.
        tell: is told what is trained, and when the test split is used once more.

    Returns:
        The finding, which is stored with the study; see `finding_of`.

    Raises:
        SearchError: the device has no room for one run.
    """
    trials = [*leaders(study, definition), *baselines(study)]
    arrays = _arrays(definition, trials, runs, width)
    missing = [run for _, slots in arrays for run in slots]
    _use_test(study, missing, tell)
    epochs, done = definition.budget.epochs, 0
    if missing:
        tell(f"confirming {len(trials)} trials, baselines among them, with fresh seeds: {len(missing)} runs of {epochs} epochs")
    while arrays:
        shape, slots = arrays.pop(0)
        try:
            for epoch in _trained(shape, slots, runs, make_trainer, epochs):
                progress(done + epoch, done + (len(arrays) + 1) * epochs)
        except MemoryError as error:
            if len(slots) == 1:
                raise SearchError(f"the device has no room to confirm trial {slots[0].trial} ({error}); --device cpu may have") from error
            half = len(slots) // 2
            arrays[:0] = [(shape, slots[:half]), (shape, slots[half:])]
            continue
        done += epochs
    return _conclude(study, definition, runs, trials)


def _arrays(definition: StudyDefinition, trials: Sequence[FrozenTrial], runs: RunTable, width: int) -> list[tuple[ModelShape, list[Run]]]:
    """The runs that are missing, those of one shape together."""
    made = runs.by_key()
    missing: dict[ModelShape, list[Run]] = defaultdict(list)
    for trial in trials:
        for number in range(definition.confirm.seeds):
            seed = fresh_seed(definition, trial.number, number)
            if seed not in made.get(trial.number, {}):
                shape, hyperparameters = definition.settings(trial.params, seed)
                missing[shape].append(Run(trial.number, hyperparameters))
    return [(shape, slots[start : start + width]) for shape, slots in missing.items() for start in range(0, len(slots), width)]


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


def _trained(shape: ModelShape, slots: Sequence[Run], runs: RunTable, make_trainer: TrainerFactory, epochs: int) -> Iterator[int]:
    """One array from its first epoch to its last, epoch by epoch; then what came of it is stored."""
    trainer = make_trainer(shape, len(slots))
    for slot, run in enumerate(slots):
        trainer.load(slot, run.hyperparameters)
    for epoch in range(epochs):
        trainer.train_epoch()
        yield epoch + 1
    scores = zip(slots, trainer.evaluate(), trainer.tally(), strict=True)
    runs.write([(run.trial, run.hyperparameters.seed, _record(run, scored, tally)) for run, scored, tally in scores])


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
