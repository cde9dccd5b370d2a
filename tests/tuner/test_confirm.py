"""The winner is chosen by fresh seeds, not by the luck of the search."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from model.config import Hyperparameters, ModelShape
from tuner.confirm import confirm, confirmations, leaders, winner
from tuner.definition import StudyDefinition, validated
from tuner.summary import summarise

SPACE = FloatDistribution(1e-4, 1e-1)
TRUTH = {1e-3: 0.6, 2e-3: 0.7, 3e-3: 0.65, 4e-3: 0.8}


def definition(top: int = 3) -> StudyDefinition:
    """Three are confirmed with two seeds."""
    content: dict[str, Any] = {
        "name": "luck",
        "budget": {"trials": 4, "epochs": 5},
        "search": {"lr": {"low": 1e-4, "high": 1e-1}},
        "objective": {"round_trip_floor": 0.1},
        "confirm": {"top": top, "seeds": 2},
    }
    return validated(content, "the test")


@dataclass
class Scored:
    """What the trainer below finds."""

    objective: float
    round_trip: float = 1.0
    figures: dict[str, object] = field(default_factory=dict)


class TruthfulTrainer:
    """Every rate scores its true value with any fresh seed, a little more with the first of them; 4e-3 loses its round trip."""

    made: list[list[tuple[float, int]]]

    def __init__(self, made: list[list[tuple[float, int]]], slots: int) -> None:
        self.held: list[Hyperparameters] = [Hyperparameters()] * slots
        self.seconds, self.epochs, self.made = {"training": 0.0}, 0, made

    def load(self, slot: int, hyperparameters: Hyperparameters) -> None:
        """Takes a run."""
        self.held[slot] = hyperparameters

    def resize(self, keep: Sequence[int], slots: int) -> None:
        """Never asked for."""

    def train_epoch(self) -> list[Any]:
        """Counts."""
        self.epochs += 1
        return []

    def evaluate(self) -> list[Scored]:
        """After all epochs only."""
        assert self.epochs == 5
        self.made.append([(hp.lr, hp.seed) for hp in self.held])
        return [Scored(TRUTH[hp.lr], 0.0 if hp.lr == 4e-3 else 1.0) for hp in self.held]

    def save(self, slot: int, path: Path, evaluation: Any) -> None:
        """Never asked for."""


def study_of(values: dict[float, float]) -> optuna.Study:
    """A study whose trials had these rates and values, the last a baseline."""
    study = optuna.create_study(direction="maximize")
    for lr, value in values.items():
        study.add_trial(create_trial(value=value, params={"lr": lr}, distributions={"lr": SPACE}))
    best = create_trial(value=0.99, params={"lr": 0.05}, distributions={"lr": SPACE}, user_attrs={"baseline": "notes"})
    study.add_trial(best)
    study.add_trial(create_trial(state=TrialState.PRUNED, params={"lr": 0.06}, distributions={"lr": SPACE}))
    return study


def test_the_best_mean_over_fresh_seeds_wins_and_nothing_is_trained_twice() -> None:
    """The lucky first of the search is not the winner; a leader below the floor is not either; more leaders train only the new ones."""
    study, made = study_of({1e-3: 0.9, 2e-3: 0.8, 3e-3: 0.7, 4e-3: 0.75}), []

    def make(shape: ModelShape, slots: int) -> TruthfulTrainer:
        return TruthfulTrainer(made, slots)

    asked: list[tuple[int, int]] = []
    assert [t.number for t in leaders(study, definition())] == [0, 1, 3]
    found = confirm(study, definition(), make, lambda done, total: asked.append((done, total)))  # type: ignore[arg-type]
    assert asked == [(epoch, 5) for epoch in range(1, 6)]
    assert len({seed for lr, seed in made[0]}) == 6
    assert [lr for lr, seed in made[0]] == [1e-3, 1e-3, 2e-3, 2e-3, 4e-3, 4e-3]
    assert {number: one.mean for number, one in found.items()} == {0: 0.6, 1: 0.7, 3: 0.8}
    assert confirmations(study) == found
    chosen = winner(study, definition())
    assert chosen is not None
    assert (chosen[0].number, chosen[1]) == (1, found[1])

    confirm(study, definition(top=4), make, lambda done, total: None)  # type: ignore[arg-type]
    assert [lr for lr, seed in made[1]] == [3e-3, 3e-3]
    confirm(study, definition(top=4), make, lambda done, total: None)  # type: ignore[arg-type]
    assert len(made) == 2


def test_before_anything_is_confirmed_the_best_trial_stands_in() -> None:
    """Also a baseline; the summary says that nothing was confirmed."""
    study = study_of({1e-3: 0.9})
    chosen = winner(study, definition())
    assert chosen is not None
    assert (chosen[0].number, chosen[1]) == (1, None)
    for name, value in (("definition", definition().model_dump(mode="json")), ("most_frequent", {}), ("ceiling", {})):
        study.set_user_attr(name, value)
    assert summarise(study, "memory")["best"]["confirmed"] is None
    assert winner(optuna.create_study(direction="maximize"), definition()) is None
