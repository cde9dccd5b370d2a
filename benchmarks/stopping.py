"""Whether stopping trials costs accuracy, and how many epochs it saves: the same searches with stopping on and off, on the real trainer.

python -m benchmarks.stopping --json [--seeds 3] [--trials 32] [--epochs 16] [--stories 60]

Both have the same number of trials and the same sampler (TPE). The winner of each search is then trained again with fresh seeds on an
equal footing: `confirmed` is the mean of these, so that luck in a search does not count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.command import command, tell
from tuner.definition import validated
from tuner.job import run_search
from tuner.preparation import SearchRequest

STOPPING: dict[str, Any] = {"explosion": {}, "plateau": {}, "halving": {}}


def search(options: argparse.Namespace, seed: int, stops: bool) -> dict[str, Any]:
    """One search in a folder of its own."""
    content = {
        "name": "stopping",
        "seed": seed,
        "data": {"source": "synthetic", "stories": options.stories, "seed": 1},
        "budget": {"trials": options.trials, "epochs": options.epochs},
        "objective": {"round_trip_floor": 0.0},
        "search": {
            "lr": {"low": 1e-4, "high": 1e-1, "log": True},
            "dropout": {"low": 0.0, "high": 0.5},
            "weight_decay": {"low": 0.01, "high": 10.0, "log": True},
            "loss_weights.generate": {"low": 0.1, "high": 3.0, "log": True},
            "loss_weights.cycle_backward": {"low": 0.1, "high": 3.0, "log": True},
        },
        "fixed": {"hidden_dim": 32, "batch_size": 16, "num_rules": 4, "loss_weights.parse": 1.0},
        "pruning": STOPPING if stops else {},
        "confirm": {"top": 1, "seeds": 3},
    }
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        request = SearchRequest(
            validated(content, "the benchmark"),
            f"sqlite:///{folder}/t.db",
            *(8, "cpu", None, False),
            Path(folder),
        )
        summary = run_search(request, Console(file=nowhere)).summary
    best = summary["best"]
    return {"confirmed": best["confirmed"]["mean"], "best": best["value"], "epochs": summary["epochs_run"], "trials": summary["trials"]}


def main() -> None:
    """Measures and prints."""
    parser = command(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--stories", type=int, default=60)
    options = parser.parse_args()
    pairs = [(search(options, seed, True), search(options, seed, False)) for seed in range(options.seeds)]
    difference = [on["confirmed"] - off["confirmed"] for on, off in pairs]
    result = {
        "searches": [{"seed": seed, "on": on, "off": off} for seed, (on, off) in enumerate(pairs)],
        "accuracy_on_less_off": round(statistics.fmean(difference), 5),
        "epochs_saved": round(1 - sum(on["epochs"] for on, _ in pairs) / sum(off["epochs"] for _, off in pairs), 4),
    }
    tell(result, as_json=options.json)


if __name__ == "__main__":
    main()
