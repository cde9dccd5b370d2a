"""How much of the difference between good settings of the race is luck: many settings trained once each, beside one trained as often.

python -m benchmarks.luck --data stories.jsonl.gz [--stories 100] [--epochs 10] [--trials 32] [--target 0.8049] [--json]
                          [--hidden-dim 64] [--batch-size 16] [--least-lr 0.002] [--seed 0]

The settings are drawn from the race's space in one shape, with learning rates from `--least-lr` up: those among which a search still
chooses once the size is found and no trial stays on a plateau. The one setting is the middle of these. If the values of the many spread no
more than those of the one, a search among them finds only luck.

    settings, repeats    mean and standard deviation of the objective, on valid and test
    ratio                of the two variances on valid, with its 95 % interval (F): above 1 where settings matter
    correlation          of valid and test over all
    reached              how many of all came to the target on valid; 95 % interval of that share (Wilson)
"""

from __future__ import annotations

import math
import random
import statistics
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from scipy.special import fdtri

from benchmarks.command import command, tell
from benchmarks.race.task import Task
from model.config import Hyperparameters, ModelShape
from model.corpus import load_corpus
from model.trainer import FusedTrainer
from tuner.definition import StudyDefinition
from tuner.intervals import wilson
from tuner.space import Choices

PROCESSES, SLOTS = 2, 8
Pair = tuple[float, float]
"""A trial's objective on valid and test."""


def drawn(definition: StudyDefinition, shape: dict[str, int], least_lr: float, count: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """So many settings of a shape, and the one in their middle."""
    generator = random.Random(definition.seed)
    settings: list[dict[str, Any]] = [{} for _ in range(count)]
    middle: dict[str, Any] = {}
    for name, values in definition.search.items():
        many: list[Any]
        if name in shape:
            middle[name] = shape[name]
            many = [shape[name]] * count
        elif isinstance(values, Choices):
            middle[name] = values.choices[len(values.choices) // 2]
            many = [generator.choice(values.choices) for _ in settings]
        else:
            least = math.log(least_lr / values.low) / math.log(values.high / values.low) if name == "lr" else 0.0
            middle[name] = values.at((least + 1) / 2)
            many = [values.at(generator.uniform(least, 1)) for _ in settings]
        for point, value in zip(settings, many, strict=True):
            point[name] = value
    return settings, middle


def trained(task: Task, trials: list[tuple[ModelShape, Hyperparameters]]) -> list[Pair]:
    """What each comes to after its epochs; all of one shape."""
    torch.set_num_threads(1)
    corpus, found = load_corpus(task.data, task.stories, 1), list[Pair]()
    for first in range(0, len(trials), SLOTS):
        some = trials[first : first + SLOTS]
        trainer = FusedTrainer(some[0][0], corpus, len(some))
        for slot, (_, hyperparameters) in enumerate(some):
            trainer.load(slot, hyperparameters)
        for _ in range(task.epochs):
            trainer.train_epoch()
        scores = zip(trainer.evaluate("valid"), trainer.evaluate("test"), strict=True)
        found += [(valid.figures["component_accuracy"], test.figures["component_accuracy"]) for valid, test in scores if valid and test]
    return found


def spread(pairs: list[Pair]) -> dict[str, float]:
    """Means and standard deviations."""
    valid, test = zip(*pairs, strict=True)
    named = {"valid": valid, "test": test}
    means = {f"{name}_mean": round(statistics.mean(values), 4) for name, values in named.items()}
    return means | {f"{name}_sd": round(statistics.stdev(values), 4) for name, values in named.items()}


def compared(settings: list[Pair], repeats: list[Pair], target: float) -> dict[str, Any]:
    """The two spreads, their ratio, and how many reached the target."""
    ratio = statistics.variance(valid for valid, _ in settings) / statistics.variance(valid for valid, _ in repeats)
    degrees, both = (len(settings) - 1, len(repeats) - 1), settings + repeats
    interval = [ratio / float(fdtri(*degrees, share)) for share in (0.975, 0.025)]
    hits = sum(valid >= target for valid, _ in both)
    return {
        "settings": spread(settings),
        "repeats": spread(repeats),
        "ratio": [round(value, 2) for value in (ratio, *interval)],
        "correlation": round(statistics.correlation(*zip(*both, strict=True)), 3),
        "reached": [hits, len(both), *(round(share, 3) for share in wilson(hits, len(both)))],
    }


def main() -> None:
    """The command."""
    parser = command(__doc__)
    parser.add_argument("--data", required=True, help="sentences, .jsonl[.gz]")
    for name, usual in {"stories": 100, "epochs": 10, "hidden-dim": 64, "batch-size": 16, "trials": 32, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--least-lr", type=float, default=2e-3)
    parser.add_argument("--target", type=float, default=0.8049)
    options = parser.parse_args()
    task = Task(options.data, options.stories, options.epochs, 1.0, options.seed, "")
    definition, shape = task.definition, {"hidden_dim": options.hidden_dim, "batch_size": options.batch_size}
    points, middle = drawn(definition, shape, options.least_lr, options.trials)
    trials = [definition.settings(point, seed) for seed, point in enumerate(points + [middle] * options.trials)]
    with ProcessPoolExecutor(PROCESSES) as pool:
        halves = list(pool.map(trained, [task] * PROCESSES, (trials[number::PROCESSES] for number in range(PROCESSES))))
    pairs = [pair for both in zip(*halves, strict=True) for pair in both]
    tell(compared(pairs[: options.trials], pairs[options.trials :], options.target), as_json=options.json)


if __name__ == "__main__":
    main()
