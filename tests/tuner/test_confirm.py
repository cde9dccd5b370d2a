"""The winner is chosen by fresh seeds, not by the luck of the search."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from model.config import Hyperparameters, ModelShape
from tuner.confirm import confirm, confirmations, leaders, winner
from tuner.definition import StudyDefinition, validated
from tuner.summary import _audit_line, audit, summarise

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
    """Every rate scores its true value and a little more by the seed; 4e-3 loses its round trip."""

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
        return [Scored(TRUTH[hp.lr] + hp.seed % 7 / 1000, 0.0 if hp.lr == 4e-3 else 1.0) for hp in self.held]

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
    found = confirm(study, definition(), make, 4, lambda done, total: asked.append((done, total)))  # type: ignore[arg-type]
    assert asked == [(epoch, 10) for epoch in range(1, 11)]
    runs = [run for array in made for run in array]
    assert [lr for lr, seed in runs] == [1e-3, 1e-3, 2e-3, 2e-3, 4e-3, 4e-3]
    assert len({seed for lr, seed in runs}) == 6
    for number, lr in ((0, 1e-3), (1, 2e-3), (3, 4e-3)):
        values = [TRUTH[lr] + seed % 7 / 1000 for rate, seed in runs if rate == lr]
        assert found[number].values == tuple(values)
        assert found[number].mean == pytest.approx(sum(values) / 2)
    assert confirmations(study) == found
    chosen = winner(study, definition())
    assert chosen is not None
    assert (chosen[0].number, chosen[1]) == (1, found[1])

    wider = definition(top=4)
    assert winner(study, wider) == (study.trials[4], None)
    confirm(study, wider, make, 4, lambda done, total: None)  # type: ignore[arg-type]
    assert [lr for lr, seed in made[2]] == [3e-3, 3e-3]
    confirm(study, wider, make, 4, lambda done, total: None)  # type: ignore[arg-type]
    assert len(made) == 3
    more = validated({**wider.model_dump(), "confirm": {"top": 1, "seeds": 3}}, "the test")
    assert confirm(study, more, make, 4, lambda done, total: None)[0].values[:2] == found[0].values  # type: ignore[arg-type]
    assert len(made[3]) == 1


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


def test_the_audit_counts_stops_that_would_have_cost_a_good_trial() -> None:
    """Two of the best three of 30 were to be stopped and ran on; below twenty stops nothing is claimed."""
    study = optuna.create_study(direction="maximize")
    for number in range(30):
        marks: dict[str, Any] = {"audited": {"cause": "outpaced"}} if number >= 28 or number < 10 else {}
        study.add_trial(create_trial(value=number / 30, params={"lr": 1e-3}, distributions={"lr": SPACE}, user_attrs=marks))
    exploded = {"audited": {"cause": "outpaced"}}
    study.add_trial(create_trial(state=TrialState.PRUNED, params={"lr": 1e-3}, distributions={"lr": SPACE}, user_attrs=exploded))
    for value in (2.0, 3.0, 4.0):
        notes = {"baseline": "notes"}
        study.add_trial(create_trial(value=value, params={"lr": 1e-3}, distributions={"lr": SPACE}, user_attrs=notes))
    found = audit(study.get_trials())
    assert (found["stops"], found["wrong"]) == (13, 2)
    assert "too few to tell" in _audit_line(found)
    assert "stopping is wrong in 3 to 18 % of cases" in _audit_line({"stops": 40, "wrong": 3, "low": 0.0258, "high": 0.1789})
