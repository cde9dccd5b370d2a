"""Trial-steps a second when K trials train fused, beside one trial at a time and, on a CPU, beside one process for each core.

python -m benchmarks.fused_throughput --device cpu --json [--dim 128] [--stories 100] [--data synthetic]

K doubles until the rate stops growing or memory ends. The processes are what a user of plain Optuna would start: each with one
thread and one trial, all at work at the same time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from typing import Any

import torch

from benchmarks.command import command, tell
from benchmarks.trainer_speed import loaded
from model.corpus import Corpus, load_corpus
from model.devices import find_device
from model.trainer import FusedTrainer

GROWTH = 1.03
"""K doubles no further when that brings less than this."""


def trial_steps_per_second(trainer: FusedTrainer, least: float = 5.0) -> float:
    """The rate over whole epochs that take at least so many seconds together, after one that does not count."""
    trainer.train_epoch()
    before, epochs = trainer.seconds["training"], 0
    while trainer.seconds["training"] - before < least:
        trainer.train_epoch()
        epochs += 1
    return epochs * trainer.steps_an_epoch * trainer.slots / (trainer.seconds["training"] - before)


def fused_rates(corpus: Corpus, dim: int, device: str) -> dict[int, float]:
    """The rate by K."""
    rates: dict[int, float] = {}
    slots = 1
    while True:
        try:
            rates[slots] = trial_steps_per_second(loaded(corpus, slots, dim, device))
        except torch.OutOfMemoryError:
            return rates
        if slots > 1 and rates[slots] < GROWTH * rates[slots // 2]:
            return rates
        slots *= 2


def process_rate(options: argparse.Namespace) -> float:
    """The sum of the rates of one process for each core."""
    command = [sys.executable, "-m", "benchmarks.fused_throughput", "--alone", "--dim", str(options.dim)]
    command += ["--data", options.data, "--stories", str(options.stories)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        for _ in range(torch.get_num_threads())
    ]
    for worker in workers:  # all have loaded their data before any begins
        if worker.stdout is None or worker.stdout.readline() != "ready\n":
            raise RuntimeError("a worker did not become ready; run the command with --alone to see why")
    for worker in workers:
        if worker.stdin is not None:
            worker.stdin.write("go\n")
            worker.stdin.flush()
    return sum(float(worker.communicate()[0]) for worker in workers)


def alone(options: argparse.Namespace) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    trainer = loaded(load_corpus(options.data, options.stories, 1), 1, options.dim, "cpu")
    print("ready", flush=True)
    sys.stdin.readline()
    print(trial_steps_per_second(trainer, least=15.0))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    began = time.perf_counter()
    corpus = load_corpus(options.data, options.stories, 1)
    rates = fused_rates(corpus, options.dim, options.device)
    on_cpu = find_device(options.device).type == "cpu"
    processes = process_rate(options) if on_cpu else None
    best = max(rates, key=lambda slots: rates[slots])
    return {
        "device": "cpu" if on_cpu else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
        "hidden_dim": options.dim,
        "symbols": len(corpus.vocabulary),
        "trial_steps_per_second": {str(slots): round(rate, 1) for slots, rate in rates.items()},
        "best_slots": best,
        "over_one_at_a_time": round(rates[best] / rates[1], 2),
        "process_per_core": None if processes is None else round(processes, 1),
        "over_process_per_core": None if processes is None else round(rates[best] / processes, 2),
        "seconds": round(time.perf_counter() - began),
    }


def main() -> None:
    """Measures and prints."""
    parser = command(__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--stories", type=int, default=100)
    parser.add_argument("--alone", action="store_true", help="one process of those for each core; waits for a line on standard input")
    options = parser.parse_args()
    if options.alone:
        return alone(options)
    return tell(measure(options), as_json=options.json)


if __name__ == "__main__":
    main()
