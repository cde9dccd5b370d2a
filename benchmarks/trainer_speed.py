"""How fast the fused trainer is here, beside the best matrix product of the same run.

python -m benchmarks.trainer_speed --json [--stories N] [--slots 1,4,16] [--dims 64,128,256]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.flops import step_flops
from model.config import Hyperparameters, ModelShape
from model.corpus import Corpus, load_corpus
from model.trainer import FusedTrainer


def best_seconds(work: Callable[[], object], least: float = 0.3) -> float:
    """The fastest of several calls that together take at least so long."""
    work()
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < least:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def matmul_gflops() -> float:
    """The best rate of a float32 product over several sizes."""
    rates = []
    for size in (256, 512, 1024, 2048):
        a, b = torch.randn(size, size), torch.randn(size, size)
        rates.append(2 * size**3 / best_seconds(lambda a=a, b=b: a @ b) / 1e9)
    return max(rates)


class _Operations(TorchDispatchMode):
    """Counts what is dispatched, views not counted."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (func.is_view or "detach" in func.name())
        return func(*args, **(kwargs or {}))


def operations_per_step(trainer: FusedTrainer) -> float:
    """Operations dispatched by a training step, batch and optimizer included."""
    operations = _Operations()
    step = trainer._step

    def counted(*arguments: Any) -> Any:
        with operations:
            return step(*arguments)

    trainer._step = counted  # type: ignore[method-assign]
    trainer.train_epoch()
    trainer._step = step  # type: ignore[method-assign]
    return operations.count / trainer.steps_an_epoch


def measure(corpus: Corpus, slots: int, dim: int, best_rate: float) -> dict[str, Any]:
    """One point: K slots of one width."""
    shape = ModelShape(hidden_dim=dim)
    trainer = FusedTrainer(shape, corpus, slots)
    for slot in range(slots):
        trainer.load(slot, Hyperparameters(seed=slot, epochs=100))
    operations = operations_per_step(trainer)
    before = trainer.seconds["training"]
    trainer.train_epoch()
    seconds = trainer.seconds["training"] - before
    train = corpus.splits["train"]
    tokens, facts = int(train.token_counts_N.sum()), int(train.proposition_counts_N.clamp(max=8).sum())
    sizes = tokens, facts, tokens / len(train), facts / len(train)
    gflops = slots * step_flops(shape, len(corpus.vocabulary), *sizes) / seconds / 1e9
    return {
        "slots": slots,
        "hidden_dim": dim,
        "batch_size": shape.batch_size,
        "sentences_per_second": round(slots * len(train) / seconds, 1),
        "gflops": round(gflops, 2),
        "utilization": round(gflops / best_rate, 4),
        "operations_per_step": round(operations, 1),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--stories", type=int, default=100)
    parser.add_argument("--slots", default="1,4,16")
    parser.add_argument("--dims", default="64,128,256")
    options = parser.parse_args()
    corpus, rate = load_corpus(options.data, options.stories, 1), matmul_gflops()
    points = [measure(corpus, int(k), int(dim), rate) for dim in options.dims.split(",") for k in options.slots.split(",")]
    if options.json:
        print(json.dumps({"matmul_gflops": round(rate, 1), "points": points}))
    else:
        print(f"best matrix product: {rate:.0f} GFLOP/s")
        for point in points:
            print("  ".join(f"{name} {value}" for name, value in point.items()))


if __name__ == "__main__":
    main()
