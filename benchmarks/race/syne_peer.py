"""Syne Tune with ASHA, a trial for each core at once: python -m benchmarks.race.syne_peer TASK.json

The same file is the script that Syne Tune starts for each trial.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import optuna
import torch

from benchmarks.race.task import REDUCTION, Task, Trainee
from model.noise import derived_seed


def train(arguments: list[str]) -> None:
    """One trial, as Syne Tune starts it."""
    from syne_tune import Reporter

    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("--task")
    known, rest = parser.parse_known_args(arguments)
    given = dict(zip((name.removeprefix("--") for name in rest[::2]), rest[1::2], strict=True))
    task = Task.read(Path(known.task))
    space, report = task.definition.distributions(), Reporter()
    params = {name: _typed(space[name], text) for name, text in given.items() if name in space}
    name = Path(given.get("st_checkpoint_dir", "0")).parent.name
    trainee = Trainee(task, task.corpus(), params, derived_seed(task.seed, name) % 2**31, name)
    for _ in range(task.epochs):
        report(value=trainee.train_epoch(), epoch=trainee.epoch)


def _typed(distribution: optuna.distributions.BaseDistribution, text: str) -> Any:
    return float(text) if isinstance(distribution, optuna.distributions.FloatDistribution) else json.loads(text)


def space_of(task: Task) -> dict[str, Any]:
    """The space in Syne Tune's words."""
    from syne_tune.config_space import choice, loguniform

    made: dict[str, Any] = {"task": f"{task.folder}/task.json"}
    for name, distribution in task.definition.distributions().items():
        if isinstance(distribution, optuna.distributions.CategoricalDistribution):
            made[name] = choice(list(distribution.choices))
        elif isinstance(distribution, optuna.distributions.FloatDistribution):
            made[name] = loguniform(distribution.low, distribution.high)
    return made


def search(task: Task) -> None:
    """Until it is ended."""
    from syne_tune import StoppingCriterion, Tuner
    from syne_tune.backend import LocalBackend
    from syne_tune.optimizer.baselines import ASHA

    scheduler = ASHA(
        space_of(task),
        metric="value",
        do_minimize=False,
        time_attr="epoch",
        max_t=task.epochs,
        grace_period=1,
        reduction_factor=REDUCTION,
        random_seed=task.seed,
        points_to_evaluate=[{**point, "task": f"{task.folder}/task.json"} for point in task.baselines],
    )
    Tuner(
        trial_backend=LocalBackend(entry_point=__file__),
        scheduler=scheduler,
        stop_criterion=StoppingCriterion(max_wallclock_time=60 * task.minutes),
        n_workers=task.processes,
        tuner_name=f"race{task.seed}",
        sleep_time=0.5,
    ).run()


if __name__ == "__main__":
    if len(sys.argv) == 2:
        search(Task.read(Path(sys.argv[1])))
    else:
        train(sys.argv[1:])
