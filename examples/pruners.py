"""The rules that stop trials, in a study of your own: nothing of `tuner search` is needed, only Optuna and curves.

python examples/pruners.py

Three kinds of runs, of forty epochs each: those that rise, those that stay on their plateau, those that explode.
"""

from __future__ import annotations

import math
import random
from collections import Counter

import optuna
from optuna.trial import TrialState

from tuner.pruning import ExplosionPruner, FirstOf, HalvingPruner, PlateauPruner

EPOCHS = 40


def accuracy(rate: float, epoch: int, noise: random.Random) -> float:
    """A run's accuracy after an epoch: with too low a rate flat, with too high a one no number."""
    if rate > 0.1:
        return math.nan if epoch > 1 else 0.2
    level = 0.2 if rate < 1e-4 else 0.2 + 0.7 * (1 - math.exp(-epoch * rate * 100))
    return level + noise.gauss(0, 0.005)


def objective(trial: optuna.Trial) -> float:
    """A run as anybody writes one for Optuna: report each epoch, ask whether to go on."""
    rate, noise = trial.suggest_float("rate", 1e-6, 1.0, log=True), random.Random(trial.number)
    value = 0.0
    for epoch in range(1, EPOCHS + 1):
        value = accuracy(rate, epoch, noise)
        trial.report(value, epoch)
        if trial.should_prune():
            verdict = pruner.judge(trial.study, trial.study.get_trials(deepcopy=False)[trial.number])
            trial.set_user_attr("verdict", "" if verdict is None else f"{verdict.cause}: {verdict.reason}")
            raise optuna.TrialPruned
    return value


pruner = FirstOf(ExplosionPruner(EPOCHS), PlateauPruner(EPOCHS, noise=0.005), HalvingPruner(EPOCHS))

if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=1), pruner=pruner)
    study.optimize(objective, n_trials=40)
    for trial in study.trials:
        said = trial.user_attrs["verdict"] if trial.state == TrialState.PRUNED else f"finished at {trial.value:.3f}"
        print(f"trial {trial.number}, rate {trial.params['rate']:.1e}: {said}")
    epochs = sum(len(trial.intermediate_values) for trial in study.trials)
    states = dict(Counter(trial.state.name.lower() for trial in study.trials))
    print(states, f"{epochs} of {40 * EPOCHS} epochs run; best {study.best_value:.3f}")
