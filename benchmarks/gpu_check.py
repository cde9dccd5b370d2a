"""Everything that only a GPU can show, in under five minutes: one object.

python -m benchmarks.gpu_check --json [--device cuda] [--dim 64] [--stories 100] [--seconds 60]

Fused parity on the device, and of replayed steps; trial-steps a second by K beside one at a time, memory by K and the share of the
device's best product; how often an epoch waits for the device; an array that is halved because memory runs out, in a real search; and a
real search with the share of time the device was busy. It needs nothing beyond the product's own dependencies. On a CPU it runs what
there is to run, which shows that it runs.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.command import command, tell
from benchmarks.fused_throughput import GROWTH, trial_steps_per_second
from benchmarks.trainer_speed import epoch_gflops, loaded, matmul_gflops
from model.config import Hyperparameters, ModelShape
from model.corpus import Corpus, load_corpus
from model.devices import find_device
from model.replay import recorder_for
from model.trainer import FusedTrainer
from tuner.definition import StudyDefinition, load_definition
from tuner.job import run_search
from tuner.preparation import SearchRequest

NEIGHBOURS = 4
LOOK_SECONDS = 0.25
ROOM = 500 << 20
"""Memory in which about eight trials of the search that is short of it have room, and sixteen do not."""


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
        alone = FusedTrainer(shape, corpus, 1, device, dtype, recorder=as_it_stands)
        alone.load(0, neighbour(slot))
        alone.train_epoch()
        worst = max(worst, apart(fused, slot, alone, 0))
    return worst


def as_it_stands(_: torch.device) -> None:
    """Nothing is recorded: each operation of a step is asked for by itself, as a user's own training would."""


def apart(one: FusedTrainer, slot: int, other: FusedTrainer, place: int) -> float:
    """How far two slots are from each other, relative to the largest number of the tensor."""
    pairs = zip(one.parameters(slot).values(), other.parameters(place).values(), strict=True)
    return max(float((ours - theirs).abs().max()) / (float(theirs.abs().max()) or 1.0) for ours, theirs in pairs)


def replayed(corpus: Corpus, dim: int, device: str) -> float:
    """How far replayed steps are from steps as they stand: six epochs in float64, a refill and other numbers of slots among them."""
    shape, trainers = ModelShape(hidden_dim=dim), []
    for recorder in (recorder_for, as_it_stands):
        trainer = FusedTrainer(shape, corpus, NEIGHBOURS, device, torch.float64, recorder=recorder)
        for slot in range(NEIGHBOURS):
            trainer.load(slot, neighbour(slot))
        for epoch in range(6):
            if epoch == 2:
                trainer.load(1, neighbour(NEIGHBOURS))
            if epoch == 3:
                trainer.resize([1, 0], 2)
            if epoch == 4:
                trainer.resize([0, 1], 2 * NEIGHBOURS)
            trainer.train_epoch()
        trainers.append(trainer)
    return max(apart(trainers[0], slot, trainers[1], slot) for slot in range(2))


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
            made = loaded(corpus, slots, dim, device)
            for _ in range(2 if cuda else 0):
                made.train_epoch()  # recorded
            rate = trial_steps_per_second(made, least=1.0)
        except torch.OutOfMemoryError:
            break
        peak, reserved = (torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)) if cuda else (0, 0)
        found[slots] = {"trial_steps_per_second": round(rate, 1), "memory_mib": peak >> 20, "reserved_mib": reserved >> 20}
        made.evaluate()
        before = made.seconds["evaluating"]
        made.evaluate()
        found[slots]["evaluation_seconds"] = round(made.seconds["evaluating"] - before, 4)
        if slots > 1 and rate < GROWTH * found[slots // 2]["trial_steps_per_second"]:
            break
        slots *= 2
    return found


def waits_an_epoch(corpus: Corpus, dim: int, device: str) -> int | None:
    """How often an epoch of training and evaluation waits for the device; None where there is none to wait for."""
    if not device.startswith("cuda"):
        return None
    made = loaded(corpus, 8, dim, device)
    for _ in range(3):
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
    return sum("called a synchronizing" in str(warning.message) for warning in caught)


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


def searched(device: str, made: StudyDefinition, width: int | None) -> dict[str, Any]:
    """A real search, and what it said."""
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
        "seconds": {name: round(spent, 2) for name, spent in seconds.items()},
        "training_share": round(training / max(1e-9, seconds["total"]), 3),
        "device_busy_share": round(statistics.fmean(looks), 3) if looks else None,
        "width": next((line.strip() for line in words.splitlines() if "width" in line), None),
        "halved": "no room for" in words,
    }


def quick(trials: int, stories: int, epochs: int | None = None) -> StudyDefinition:
    """`quick`, in small."""
    return load_definition("quick").changed(budget_trials=trials, data_stories=stories, budget_epochs=epochs, budget_least_sentences=0)


def short_of_memory(device: str, stories: int, room: int) -> dict[str, Any] | None:
    """A search of 16 trials of one shape at once where there is room for fewer; None where memory cannot be bounded."""
    if not device.startswith("cuda"):
        return None
    one_shape = {"lr": {"low": 1e-4, "high": 1e-2, "log": True}}
    made = quick(16, stories).changed(search=one_shape, fixed={"hidden_dim": 64}, baselines=[], enqueue=[], budget_epochs=4)
    gc.collect()
    torch.cuda.empty_cache()
    index = torch.device(device).index or 0
    whole = torch.cuda.get_device_properties(index).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, room / whole), index)
    try:
        return searched(device, made, 16)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, index)


def throughput(corpus: Corpus, dim: int, device: str, seconds: float) -> dict[str, Any]:
    """Rates and memory by K, beside one trial at a time as it stands and beside the device's best product."""
    plain = trial_steps_per_second(loaded(corpus, 1, dim, device, as_it_stands), least=1.0)
    widths = by_width(corpus, dim, device, seconds)
    rates = {slots: point["trial_steps_per_second"] for slots, point in widths.items()}
    best, limit, one = max(rates.values()), matmul_gflops(device), loaded(corpus, 1, dim)
    return {
        "widths": {str(slots): point for slots, point in widths.items()},
        "one_at_a_time": round(plain, 1),
        "over_one_at_a_time": round(best / plain, 2),
        "best_product_tflops": round(limit / 1e3, 2),
        "share_of_best_product": round(best / one.steps_an_epoch * epoch_gflops(one) / limit, 4),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All of it; each part is said on standard error as soon as it is known, and one that fails leaves the others as they are."""
    began, device = time.perf_counter(), options.device
    find_device(device)
    corpus = load_corpus("synthetic", options.stories, 1)
    parts: dict[str, Callable[[], Any]] = {
        "parity_float64": lambda: parity(corpus, 32, device, torch.float64),
        "parity_float32": lambda: parity(corpus, 32, device, torch.float32),
        "replayed_beside_as_it_stands": lambda: replayed(corpus, 32, device),
        "short_of_memory": lambda: short_of_memory(device, options.stories, ROOM),
        "search": lambda: searched(device, quick(options.trials, options.searched, options.epochs), None),
        "waits_an_epoch": lambda: waits_an_epoch(corpus, options.dim, device),
        "throughput": lambda: throughput(corpus, options.dim, device, options.seconds),
    }
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    for name, part in parts.items():
        try:
            found[name] = part()
        except Exception as error:  # noqa: BLE001  what fails on a device is among the findings
            found[name] = {"error": f"{type(error).__name__}: {error}"}
            traceback.print_exc()
        print(f"{time.perf_counter() - began:5.0f} s  {name}: {json.dumps(found[name])}", file=sys.stderr, flush=True)
    return {**found, "seconds": round(time.perf_counter() - began)}


def main() -> None:
    """Measures and prints."""
    parser = command(__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--stories", type=int, default=100)
    parser.add_argument("--trials", type=int, default=48, help="of the real search")
    parser.add_argument("--epochs", type=int, help="of a trial of the real search; its own where not given")
    parser.add_argument("--searched", type=int, default=300, help="stories of the real search")
    parser.add_argument("--seconds", type=float, default=60.0, help="for the rates by K")
    options = parser.parse_args()
    tell(measure(options), as_json=options.json)


if __name__ == "__main__":
    main()
