"""How fast the fused trainer is here, beside the best matrix product of the same run.

python -m benchmarks.trainer_speed --json [--data D] [--stories N] [--slots 1,4,16] [--dims 64,128,256] [--rounds 3]

`utilization` is our rate of useful floating-point operations (`benchmarks.flops`) over the best matrix product's. `original` is a step in
the original script's form (`benchmarks.original_form`), timed in turns with ours; `overhead` is the time
of an evaluation over that of an epoch's training.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.command import command, tell
from benchmarks.flops import step_flops
from benchmarks.original_form import OriginalTrainer, batches
from model.config import Hyperparameters, ModelShape
from model.corpus import Corpus, load_corpus
from model.replay import Recorder, recorder_for
from model.trainer import FusedTrainer

ORIGINAL_BATCHES = 100


def best_seconds(work: Callable[[], object], least: float = 0.3) -> float:
    """The fastest of several calls that together take at least so long."""
    work()
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < least:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def matmul_gflops(device: str = "cpu") -> float:
    """The best rate of a float32 product over several sizes."""
    on_gpu, rates = device.startswith("cuda"), []
    for size in (256, 512, 1024, 2048, *((4096, 8192) if on_gpu else ())):
        a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)

        def product(a: torch.Tensor = a, b: torch.Tensor = b) -> None:
            _ = a @ b
            if on_gpu:
                torch.cuda.synchronize(device)

        rates.append(2 * size**3 / best_seconds(product) / 1e9)
    return max(rates)


def epoch_gflops(trainer: FusedTrainer) -> float:
    """What an epoch of one slot costs by the book, in 10^9 operations."""
    train = trainer.corpus.splits["train"]
    tokens, facts = int(train.token_counts_N.sum()), int(train.proposition_counts_N.clamp(max=8).sum())
    return step_flops(trainer.shape, trainer.symbols_a_step, tokens, facts, tokens / len(train), facts / len(train)) / 1e9


class _Operations(TorchDispatchMode):
    """Counts what is dispatched, views not counted."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (func.is_view or "detach" in func.name())
        return func(*args, **(kwargs or {}))


def operations_per_step(trainer: FusedTrainer) -> float:
    """Operations dispatched by a training step, optimizer included; the batch is cut from what was drawn for the epoch."""
    operations = _Operations()
    step = trainer._replayed

    def counted(*arguments: Any) -> Any:
        with operations:
            return step(*arguments)

    trainer._replayed = counted  # type: ignore[assignment]
    trainer.train_epoch()
    trainer._replayed = step
    return operations.count / trainer.steps_an_epoch


def beside_the_original(corpus: Corpus, dim: int, slots: int, rounds: int = 3) -> dict[str, Any]:
    """Sentences a second in the original's form (`ORIGINAL_BATCHES` at the most) and in ours (K slots, and one; whole epochs), in turns."""
    train, rates = corpus.splits["train"], {"original": 0.0, "one_slot": 0.0, "fused": 0.0}
    original = OriginalTrainer(len(corpus.vocabulary), dim)
    pieces = batches(train.tokens_NT, train.propositions_NQ3, 32)[:ORIGINAL_BATCHES]
    trainers = {"one_slot": loaded(corpus, 1, dim), "fused": loaded(corpus, slots, dim)}
    for _ in range(rounds):
        began = time.perf_counter()
        for tokens, propositions in pieces:
            original.step(tokens, propositions)
        rates["original"] = max(rates["original"], sum(len(tokens) for tokens, _ in pieces) / (time.perf_counter() - began))
        for name, trainer in trainers.items():
            before = trainer.seconds["training"]
            trainer.train_epoch()
            rates[name] = max(rates[name], trainer.slots * len(train) / (trainer.seconds["training"] - before))
    ratios = {f"{name}_ratio": round(rates[name] / rates["original"], 2) for name in trainers}
    return {"hidden_dim": dim, "slots": slots, **{name: round(rate, 1) for name, rate in rates.items()}, **ratios}


def loaded(
    corpus: Corpus, slots: int, dim: int, device: str = "cpu", recorder: Callable[[torch.device], Recorder | None] = recorder_for
) -> FusedTrainer:
    """A trainer with a trial in every slot, all with epochs enough."""
    trainer = FusedTrainer(ModelShape(hidden_dim=dim), corpus, slots, device, recorder=recorder)
    for slot in range(slots):
        trainer.load(slot, Hyperparameters(seed=slot, epochs=1000))
    return trainer


def peak_mebibytes(source: str, stories: int, slots: int, dim: int) -> float:
    """The largest resident size of a process that trains one epoch."""
    program = (
        "import resource, sys\nfrom benchmarks.trainer_speed import loaded\nfrom model.corpus import load_corpus\n"
        f"loaded(load_corpus({source!r}, {stories}, 1), {slots}, {dim}).train_epoch()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)\n"
    )
    return float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)


def measure(corpus: Corpus, slots: int, dim: int, best_rate: float) -> dict[str, Any]:
    """One point: K slots of one width."""
    trainer = loaded(corpus, slots, dim)
    operations = operations_per_step(trainer)
    before = trainer.seconds["training"]
    trainer.train_epoch()
    seconds = trainer.seconds["training"] - before
    trainer.evaluate()
    outside = trainer.seconds["evaluating"] / seconds
    gflops = slots * epoch_gflops(trainer) / seconds
    return {
        "slots": slots,
        "hidden_dim": dim,
        "batch_size": trainer.shape.batch_size,
        "sentences_per_second": round(slots * len(corpus.splits["train"]) / seconds, 1),
        "gflops": round(gflops, 2),
        "utilization": round(gflops / best_rate, 4),
        "operations_per_step": round(operations, 1),
        "overhead": round(outside, 4),
    }


def main() -> None:
    """Measures and prints."""
    parser = command(__doc__)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--stories", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3, help="turns beside the original's form")
    parser.add_argument("--slots", default="1,4,16")
    parser.add_argument("--dims", default="64,128,256")
    options = parser.parse_args()
    corpus, rate = load_corpus(options.data, options.stories, 1), matmul_gflops()
    points = [measure(corpus, int(k), int(dim), rate) for dim in options.dims.split(",") for k in options.slots.split(",")]
    result = {
        "matmul_gflops": round(rate, 1),
        "points": points,
        "symbols": len(corpus.vocabulary),
        "original": beside_the_original(corpus, 128, 4, options.rounds),
        "peak_mebibytes": {"slots": 16, "hidden_dim": 128, "peak": round(peak_mebibytes(options.data, options.stories, 16, 128))},
    }
    tell(result, as_json=options.json)


if __name__ == "__main__":
    main()
