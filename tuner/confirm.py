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

    def extended(self, seed: int, value: float, round_trip: float) -> Confirmation:
        """The same with one more run."""
        runs = ((*self.seeds, seed), (*self.values, value), (*self.round_trips, round_trip))
        return Confirmation(self.trial, self.search_value, *runs)


def feasible(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """The complete trials whose constraints hold, the best first, the earlier of equals first."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE and all(value <= 0 for value in t.constraints.values())]
    return sorted(complete, key=lambda t: (-(t.value or 0.0), t.number))


def candidates(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """The feasible trials that are no baselines, the best first."""
    return [t for t in feasible(trials) if not t.user_attrs.get("baseline")]


def leaders(study: optuna.Study, definition: StudyDefinition) -> list[FrozenTrial]:
    """The trials that are confirmed: the best few that are no baselines."""
    return candidates(study.get_trials(deepcopy=False))[: definition.confirm.top]


def confirmations(study: optuna.Study) -> dict[int, Confirmation]:
    """What has been confirmed so far, by trial."""
    stored: dict[str, dict[str, Any]] = study.user_attrs.get(CONFIRMED, {})
    return {int(number): Confirmation(**{**one, **{name: tuple(one[name]) for name in LISTS}}) for number, one in stored.items()}


def winner(study: optuna.Study, definition: StudyDefinition) -> tuple[FrozenTrial, Confirmation | None] | None:
    """The leader with the best mean over fresh seeds; the best trial of the search as long as a leader waits to be confirmed.

    None if no trial has finished above the floor on the round trip, or no leader stays above it with fresh seeds.
    """
    confirmed, ahead = confirmations(study), leaders(study, definition)
    if not ahead or any(t.number not in confirmed for t in ahead):
        best = feasible(study.get_trials(deepcopy=False))
        return (best[0], None) if best else None
    known = [(t, confirmed[t.number]) for t in ahead]
    sound = [(t, one) for t, one in known if fmean(one.round_trips) >= definition.objective.round_trip_floor]
    return max(sound, key=lambda pair: (pair[1].mean, -pair[0].number), default=None)


def confirm(
    study: optuna.Study,
    definition: StudyDefinition,
    make_trainer: TrainerFactory,
    width: int,
    progress: Callable[[int, int], None],
) -> dict[int, Confirmation]:
    """Trains every leader with the fresh seeds it lacks, at the study's full epochs, and stores what came of it array by array.

    Args:
        width: how many runs train at once.
        progress: is told how many epochs of how many are trained.
    """
    confirmed = confirmations(study)
    runs: dict[ModelShape, list[tuple[FrozenTrial, Hyperparameters]]] = defaultdict(list)
    for trial in leaders(study, definition):
        made = confirmed[trial.number].seeds if trial.number in confirmed else ()
        for number in range(len(made), definition.confirm.seeds):
            seed = derived_seed(definition.seed, "confirm", trial.number, number) % 2**31
            shape, hyperparameters = definition.settings(trial.params, seed)
            runs[shape].append((trial, hyperparameters))
    arrays = [(shape, slots[start : start + width]) for shape, slots in runs.items() for start in range(0, len(slots), width)]
    epochs = definition.budget.epochs
    for place, (shape, slots) in enumerate(arrays):
        trainer = make_trainer(shape, len(slots))
        for slot, (_, hyperparameters) in enumerate(slots):
            trainer.load(slot, hyperparameters)
        for epoch in range(epochs):
            trainer.train_epoch()
            progress(place * epochs + epoch + 1, len(arrays) * epochs)
        for (trial, hyperparameters), scored in zip(slots, trainer.evaluate(), strict=True):
            if scored is None:
                raise RuntimeError(f"the run that confirms trial {trial.number} lost its slot")
            before = confirmed.get(trial.number, Confirmation(trial.number, trial.value or 0.0, (), (), ()))
            confirmed[trial.number] = before.extended(hyperparameters.seed, scored.objective, scored.round_trip)
        study.set_user_attr(CONFIRMED, {str(number): asdict(one) for number, one in confirmed.items()})
    return confirmed


def confirmed_entry(one: Confirmation | None) -> dict[str, Any] | None:
    """A confirmation as `--json` shows it."""
    return None if one is None else {"mean": one.mean, "values": list(one.values), "seeds": list(one.seeds)}
