"""How fast the machine is at the moment. Sessions get unlike machines, and a machine has its moods: rows are compared where it was as fast.

python -m benchmarks.race.machine
"""

from __future__ import annotations

import json
import os
import platform
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from model.config import Hyperparameters, ModelShape
from model.corpus import load_corpus
from model.trainer import FusedTrainer

SHAPE, SLOTS, STEPS = ModelShape(hidden_dim=64, batch_size=16), 2, 20


def _seconds(_: int) -> float:
    torch.set_num_threads(1)
    trainer = FusedTrainer(SHAPE, load_corpus("synthetic", 100, 1), SLOTS)
    for slot in range(SLOTS):
        trainer.load(slot, Hyperparameters(num_rules=8, seed=slot))
    trainer.rehearse(STEPS)
    return trainer.rehearse(STEPS)


def measured() -> dict[str, Any]:
    """Milliseconds of a step of two trials at hidden 64 on one core, while all are busy; and what the processor calls itself."""
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        seconds = list(pool.map(_seconds, range(cores)))
    return {"ms_a_step": round(1000 * fmean(seconds), 2), "processor": _processor(), "vectors": torch.backends.cpu.get_cpu_capability()}


def _processor() -> str:
    """Its name, family and model, as Linux has them."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().split("\n\n")[0].splitlines() if path.is_file() else []
    known = dict(map(str.strip, line.partition(":")[::2]) for line in lines)
    found = [known[name] for name in ("model name", "cpu family", "model") if name in known]
    return " ".join(found) or platform.processor()


if __name__ == "__main__":
    print(json.dumps(measured()))
