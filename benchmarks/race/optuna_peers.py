"""Optuna as a competent user would run it: one process per core on one journal. And looking once, keeping ten.

python -m benchmarks.race.optuna_peers KIND TASK.json NUMBER
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from benchmarks.race.task import REDUCTION, Task, Trainee
from model.corpus import Corpus
from model.noise import derived_seed

KEPT, LOOKING = 10, 0.3
"""So many are trained on after the look, which takes this share of the time (arXiv:2307.15422)."""


def study_of(kind: str, task: Task, number: int) -> optuna.Study:
    """The study that all processes share; the first puts the baselines in, and the others wait for that."""
    seed = 1000 * task.seed + number
    sampler = optuna.samplers.RandomSampler(seed) if kind == "random" else optuna.samplers.TPESampler(seed=seed)
    pruners = {
        "optuna-median": optuna.pruners.MedianPruner(),
        "optuna-hyperband": optuna.pruners.HyperbandPruner(min_resource=1, max_resource=task.epochs, reduction_factor=REDUCTION),
    }
    storage = JournalStorage(JournalFileBackend(f"{task.folder}/journal.log"))
    study = optuna.create_study(
        study_name="race",
        storage=storage,
        sampler=sampler,
        pruner=pruners.get(kind, optuna.pruners.NopPruner()),
        direction="maximize",
        load_if_exists=True,
    )
    if number == 0:
        for point in task.baselines:
            study.enqueue_trial(point)
    while len(study.get_trials(deepcopy=False)) < len(task.baselines):
        time.sleep(0.05)
    return study


def optimise(kind: str, task: Task, corpus: Corpus, number: int) -> None:
    """Until it is ended."""
    space = task.definition.distributions()

    def objective(trial: optuna.Trial) -> float:
        params = {name: trial._suggest(name, distribution) for name, distribution in space.items()}
        trainee, value = Trainee(task, corpus, params, derived_seed(task.seed, trial.number) % 2**31, str(trial.number)), 0.0
        for epoch in range(task.epochs):
            value = trainee.train_epoch()
            trial.report(value, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    study_of(kind, task, number).optimize(objective)


def look_once(task: Task, corpus: Corpus, number: int) -> None:
    """Random settings for one epoch each for a share of the time; then the best of this process's share of ten to their end."""
    began, looked = time.monotonic(), list[tuple[float, Trainee]]()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(1000 * task.seed + number))
    space, points = task.definition.distributions(), task.baselines[number :: task.processes]
    while points or time.monotonic() - began < LOOKING * 60 * task.minutes:
        params = points.pop() if points else study.ask(space).params
        seed = derived_seed(task.seed, number, len(looked)) % 2**31
        trainee = Trainee(task, corpus, params, seed, f"{number}-{len(looked)}")
        looked.append((trainee.train_epoch(), trainee))
    for _, trainee in sorted(looked, key=lambda one: -one[0])[: max(1, KEPT // task.processes)]:
        while trainee.epoch < task.epochs:
            trainee.train_epoch()


def main() -> None:
    """One process of a searcher."""
    kind, path, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    task = Task.read(path)
    corpus = task.corpus()
    if kind == "look-once":
        look_once(task, corpus, number)
    else:
        optimise(kind, task, corpus, number)


if __name__ == "__main__":
    main()
