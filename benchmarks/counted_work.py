"""How well the work that a search counts for its arrays agrees with the seconds they take; that count decides which lane is next.

python -m benchmarks.counted_work --data stories.jsonl.gz [--stories 100] [--json]

A process on each of two cores trains one epoch of every array, in an order of its own. Nothing else may run on the machine.

    arrays    hidden_dim, batch_size, slots, the mean seconds of both, and how much longer than counted, beside the others
    rms, most that ratio's error, over all
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from benchmarks.command import command, tell
from model.config import Hyperparameters, ModelShape
from model.corpus import load_corpus
from model.trainer import FusedTrainer
from tuner.pace import work

ARRAYS = list(itertools.product((32, 64, 128), (16, 32), (1, 2, 3, 5)))
PROCESSES = 2


def seconds(data: str, stories: int, seed: int) -> dict[tuple[int, int, int], float]:
    """What an epoch of each array takes on one core, evaluation included."""
    torch.set_num_threads(1)
    corpus, found = load_corpus(data, stories, 0), {}
    for hidden_dim, batch_size, slots in random.Random(seed).sample(ARRAYS, len(ARRAYS)):
        trainer = FusedTrainer(ModelShape(hidden_dim=hidden_dim, batch_size=batch_size), corpus, slots)
        for again in (False, True):
            for slot in range(slots):
                trainer.load(slot, Hyperparameters(num_rules=8, seed=slot))
            if not again:
                trainer.rehearse(3)
        began = time.perf_counter()
        trainer.train_epoch()
        trainer.evaluate()
        found[hidden_dim, batch_size, slots] = time.perf_counter() - began
    return found


def measured(data: str, stories: int) -> dict[str, Any]:
    """All arrays, and how far the counted work is off."""
    with ProcessPoolExecutor(PROCESSES) as pool:
        taken = list(pool.map(seconds, [data] * PROCESSES, [stories] * PROCESSES, range(PROCESSES)))
    means = {array: statistics.mean(found[array] for found in taken) for array in ARRAYS}
    ratios = {array: mean / work(ModelShape(hidden_dim=array[0], batch_size=array[1]), array[2]) for array, mean in means.items()}
    usual = statistics.geometric_mean(ratios.values())
    off = {array: ratio / usual for array, ratio in ratios.items()}
    errors = [math.log(ratio) for ratio in off.values()]
    return {
        "arrays": [[*array, round(means[array], 3), round(off[array], 3)] for array in ARRAYS],
        "rms": round(math.sqrt(statistics.mean(error**2 for error in errors)), 3),
        "most": round(max(map(abs, errors)), 3),
    }


def main() -> None:
    """The command."""
    parser = command(__doc__)
    parser.add_argument("--data", required=True, help="sentences, .jsonl[.gz]")
    parser.add_argument("--stories", type=int, default=100)
    options = parser.parse_args()
    tell(measured(options.data, options.stories), as_json=options.json)


if __name__ == "__main__":
    main()
