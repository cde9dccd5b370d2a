"""The best few trained again with fresh seeds: the best of many noisy trials looks better than it is.

What a search calls best was chosen among trials of one seed each on one validation split, so its value is partly luck. The few that lead
are trained again, side by side, with seeds the search has not seen; the one with the best mean is the winner, and that mean is its figure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from model.config import Hyperparameters, ModelShape
from model.noise import derived_seed
from tuner.definition import StudyDefinition
from tuner.seam import TrainerFactory

CONFIRMED, LISTS = "confirmed", ("seeds", "values", "round_trips")


@dataclass(frozen=True)
class Confirmation:
    """One trial's settings under fresh seeds: the objective and the round trip of each run on the validation split."""

    trial: int
    search_value: float
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    round_trips: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean objective over the fresh seeds."""
        return fmean(self.values)


def feasible(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """The complete trials whose constraints hold, the best first, the earlier of equals first."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE and all(value <= 0 for value in t.constraints.values())]
    return sorted(complete, key=lambda t: (-(t.value or 0.0), t.number))


def leaders(study: optuna.Study, definition: StudyDefinition) -> list[FrozenTrial]:
    """The trials that are confirmed: the best few that are no baselines."""
    own = [t for t in feasible(study.get_trials(deepcopy=False)) if not t.user_attrs.get("baseline")]
    return own[: definition.confirm.top]


def confirmations(study: optuna.Study) -> dict[int, Confirmation]:
    """What has been confirmed so far, by trial."""
    stored: dict[str, dict[str, Any]] = study.user_attrs.get(CONFIRMED, {})
    return {int(number): Confirmation(**{**one, **{name: tuple(one[name]) for name in LISTS}}) for number, one in stored.items()}


def winner(study: optuna.Study, definition: StudyDefinition) -> tuple[FrozenTrial, Confirmation | None] | None:
    """The confirmed leader with the best mean; before anything is confirmed, the best trial; None before any has finished."""
    confirmed = confirmations(study)
    known = [(t, confirmed[t.number]) for t in leaders(study, definition) if t.number in confirmed]
    sound = [(t, one) for t, one in known if fmean(one.round_trips) >= definition.objective.round_trip_floor]
    if chosen := sound or known:
        return max(chosen, key=lambda pair: (pair[1].mean, -pair[0].number))
    best = feasible(study.get_trials(deepcopy=False))
    return (best[0], None) if best else None


def confirm(
    study: optuna.Study, definition: StudyDefinition, make_trainer: TrainerFactory, progress: Callable[[int, int], None]
) -> dict[int, Confirmation]:
    """Trains every leader that has not been confirmed yet with fresh seeds, at the study's full epochs, and stores what came of it.

    Args:
        progress: is told how many epochs of how many are trained.
    """
    confirmed = confirmations(study)
    fresh = [t for t in leaders(study, definition) if t.number not in confirmed]
    runs: dict[ModelShape, list[tuple[FrozenTrial, Hyperparameters]]] = defaultdict(list)
    for trial in fresh:
        for number in range(definition.confirm.seeds):
            seed = derived_seed(definition.seed, "confirm", trial.number, number) % 2**31
            shape, hyperparameters = definition.settings(trial.params, seed)
            runs[shape].append((trial, hyperparameters))
    found: dict[int, list[tuple[int, float, float]]] = defaultdict(list)
    epochs = definition.budget.epochs
    for place, (shape, slots) in enumerate(runs.items()):
        trainer = make_trainer(shape, len(slots))
        for slot, (_, hyperparameters) in enumerate(slots):
            trainer.load(slot, hyperparameters)
        for epoch in range(epochs):
            trainer.train_epoch()
            progress(place * epochs + epoch + 1, len(runs) * epochs)
        for (trial, hyperparameters), scored in zip(slots, trainer.evaluate(), strict=True):
            if scored is None:
                raise RuntimeError(f"the run that confirms trial {trial.number} lost its slot")
            found[trial.number].append((hyperparameters.seed, scored.objective, scored.round_trip))
    for trial in fresh:
        seeds, values, round_trips = zip(*found[trial.number], strict=True)
        confirmed[trial.number] = Confirmation(trial.number, trial.value or 0.0, seeds, values, round_trips)
    if fresh:
        study.set_user_attr(CONFIRMED, {str(number): asdict(one) for number, one in confirmed.items()})
    return confirmed


def confirmed_entry(one: Confirmation | None) -> dict[str, Any] | None:
    """A confirmation as `--json` shows it."""
    return None if one is None else {"mean": one.mean, "values": list(one.values), "seeds": list(one.seeds)}
