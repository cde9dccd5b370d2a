"""Ray Tune with ASHA and OptunaSearch, a trial for each core at once: python -m benchmarks.race.ray_peer TASK.json"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import optuna
import ray
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from benchmarks.race.task import REDUCTION, Task, Trainee
from model.corpus import Corpus
from model.noise import derived_seed


def train(config: dict[str, Any], task: Task, corpus: Corpus) -> None:
    """One trial, as Ray calls it."""
    torch.set_num_threads(1)
    name = tune.get_context().get_trial_id()
    trainee = Trainee(task, corpus, config, derived_seed(task.seed, name) % 2**31, name)
    for _ in range(task.epochs):
        tune.report({"value": trainee.train_epoch()})


def main() -> None:
    """Until it is ended."""
    task = Task.read(Path(sys.argv[1]))
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    ray.init(num_cpus=task.processes, include_dashboard=False, log_to_driver=False, _temp_dir=f"/tmp/r{os.getpid()}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = OptunaSearch(
        space=dict(task.definition.distributions()), metric="value", mode="max", points_to_evaluate=task.baselines, seed=task.seed
    )
    trainable = tune.with_resources(tune.with_parameters(train, task=task, corpus=task.corpus()), {"cpu": 1})
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            metric="value",
            mode="max",
            search_alg=search,
            scheduler=ASHAScheduler(max_t=task.epochs, grace_period=1, reduction_factor=REDUCTION),
            num_samples=-1,
            max_concurrent_trials=task.processes,
            time_budget_s=60 * task.minutes,
        ),
        run_config=tune.RunConfig(storage_path=f"{task.folder}/ray", verbose=0),
    ).fit()


if __name__ == "__main__":
    main()
