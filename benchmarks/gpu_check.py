"""Everything that only a GPU can show, in under five minutes: one object.

python -m benchmarks.gpu_check --json [--device cuda] [--dim 64] [--stories 100] [--seconds 90]

Fused parity on the device; trial-steps a second by K beside one at a time, memory by K and the share of the device's best product;
how often an epoch waits for the device; an array that is halved because memory runs out, in a real search; and a real search with the share
of time the device was busy. It needs nothing beyond the product's own dependencies. On a CPU it runs what there is to run, which
shows that it runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.fused_throughput import GROWTH, trial_steps_per_second
from benchmarks.trainer_speed import epoch_gflops, loaded, matmul_gflops
from model.config import Hyperparameters, ModelShape
from model.corpus import Corpus, load_corpus
from model.trainer import FusedTrainer, find_device
from tuner.definition import load_definition
from tuner.job import SearchRequest, run_search

NEIGHBOURS = 4
LOOK_SECONDS = 0.25


def neighbour(slot: int) -> Hyperparameters:
    """A trial with a seed and a rate of its own."""
    return Hyperparameters(lr=3e-3 * (1 + slot) / NEIGHBOURS, epochs=1000, seed=slot)


def parity(corpus: Corpus, dim: int, device: str, dtype: torch.dtype) -> float:
    """How far a slot among neighbours is from the same trial alone after an epoch, relative to the largest number of the tensor."""
    shape, worst = ModelShape(hidden_dim=dim), 0.0
    fused = FusedTrainer(shape, corpus, NEIGHBOURS, device, dtype)
    for slot in range(NEIGHBOURS):
        fused.load(slot, neighbour(slot))
    fused.train_epoch()
    for slot in range(NEIGHBOURS):
        alone = FusedTrainer(shape, corpus, 1, device, dtype)
        alone.load(0, neighbour(slot))
        alone.train_epoch()
        for ours, theirs in zip(fused.parameters(slot).values(), alone.parameters(0).values(), strict=True):
            scale = float(theirs.abs().max()) or 1.0
            worst = max(worst, float((ours - theirs).abs().max()) / scale)
    return worst


def by_width(corpus: Corpus, dim: int, device: str, seconds: float) -> dict[int, dict[str, float]]:
    """Trial-steps a second and peak memory by K, which doubles until that brings no more, memory ends, or the time is up."""
    found: dict[int, dict[str, float]] = {}
    slots, began = 1, time.perf_counter()
    cuda = device.startswith("cuda")
    while time.perf_counter() - began < seconds:
        try:
            if cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(device)
            rate = trial_steps_per_second(loaded(corpus, slots, dim, device), least=1.0)
        except torch.OutOfMemoryError:
            break
        memory = torch.cuda.max_memory_allocated(device) if cuda else 0
        found[slots] = {"trial_steps_per_second": round(rate, 1), "memory_mib": memory >> 20}
        if slots > 1 and rate < GROWTH * found[slots // 2]["trial_steps_per_second"]:
            break
        slots *= 2
    return found


def waits_an_epoch(corpus: Corpus, dim: int, device: str) -> int | None:
    """How often an epoch of training and evaluation waits for the device; None where there is none to wait for."""
    if not device.startswith("cuda"):
        return None
    made = loaded(corpus, 8, dim, device)
    made.train_epoch()
    made.evaluate()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            made.train_epoch()
            made.evaluate()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


@contextmanager
def busy(device: str) -> Iterator[list[float]]:
    """Shares of time in which the device computed, as its driver says, from look to look."""
    looks: list[float] = []
    over, program = threading.Event(), shutil.which("nvidia-smi")

    def look() -> None:
        command = [str(program), "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
        while not over.wait(LOOK_SECONDS):
            said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            if said.strip().isdecimal():
                looks.append(int(said) / 100)

    thread = threading.Thread(target=look)
    if program is not None and device.startswith("cuda"):
        thread.start()
    try:
        yield looks
    finally:
        over.set()
        if thread.ident is not None:
            thread.join()


def searched(device: str, stories: int, trials: int, width: int | None) -> dict[str, Any]:
    """A real search of `quick`, and what it said."""
    made = load_definition("quick").changed(budget_trials=trials, data_stories=stories, budget_least_sentences=0)
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "said").open("w+") as said, busy(device) as looks:
        request = SearchRequest(made, f"sqlite:///{folder}/tuner.db", width, device, None, False, Path(folder), confirm=False)
        summary = run_search(request, Console(file=said, width=200)).summary
        said.seek(0)
        words = said.read()
    seconds = summary["seconds"]
    training = seconds["training"] + seconds["evaluating"]
    return {
        "trials": summary["trials"],
        "epochs": summary["epochs_run"],
        "best": summary["best"]["value"] if summary["best"] else None,
        "seconds": round(seconds["total"], 1),
        "training_share": round(training / max(1e-9, seconds["total"]), 3),
        "device_busy_share": round(statistics.fmean(looks), 3) if looks else None,
        "halved": "no room for" in words,
    }


def short_of_memory(device: str, stories: int, room: int) -> dict[str, Any] | None:
    """A search of 16 trials at once where there is room for about half of them; None where memory cannot be bounded."""
    if not device.startswith("cuda"):
        return None
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, room / whole), device)
    try:
        return searched(device, stories, 16, 16)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    began, device, dim = time.perf_counter(), options.device, options.dim
    find_device(device)
    corpus = load_corpus("synthetic", options.stories, 1)
    exact, single = (parity(corpus, 32, device, dtype) for dtype in (torch.float64, torch.float32))
    widths = by_width(corpus, dim, device, options.seconds)
    rates = {slots: point["trial_steps_per_second"] for slots, point in widths.items()}
    best = max(rates, key=lambda slots: rates[slots])
    limit, one = matmul_gflops(device), loaded(corpus, 1, dim)
    eight = widths.get(8, {}).get("memory_mib", 0) << 20
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "parity_float64": exact,
        "parity_float32": single,
        "widths": {str(slots): point for slots, point in widths.items()},
        "over_one_at_a_time": round(rates[best] / rates[1], 2),
        "best_product_tflops": round(limit / 1e3, 2),
        "share_of_best_product": round(rates[best] / one.steps_an_epoch * epoch_gflops(one) / limit, 4),
        "waits_an_epoch": waits_an_epoch(corpus, dim, device),
        "short_of_memory": short_of_memory(device, 60, 2 * eight),
        "search": searched(device, options.stories, options.trials, None),
        "seconds": round(time.perf_counter() - began),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--stories", type=int, default=100)
    parser.add_argument("--trials", type=int, default=48, help="of the real search")
    parser.add_argument("--seconds", type=float, default=90.0, help="for the rates by K")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    result = measure(options)
    print(json.dumps(result) if options.json else json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
