"""What the engine costs beside the training: asking, judging and reporting, and the share of a real search that is not training.

python -m benchmarks.engine_overhead [--json] [--stock] [--search] [--finished 10000]

    ask_ms, should_prune_ms, report_ms   with 64 running trials of 200 reports each, SQLite on disk; medians
    overhead_share                       of a real search of 16 slots (`--search`): the share of its time not in training or evaluating
    finished                             `ask`, opening a study and `tuner status` beside so many finished trials (`--finished`)

`--stock` measures Optuna's own storage beside ours.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.pruners import MedianPruner
from optuna.storages import BaseStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.trial import create_trial
from rich.console import Console

from benchmarks.command import command, tell
from tuner.buffer import BufferedStorage
from tuner.climb import guide
from tuner.definition import validated
from tuner.job import run_search
from tuner.preparation import SearchRequest
from tuner.pruning import ExplosionPruner, FirstOf, HalvingPruner, PlateauPruner
from tuner.starters import planned
from tuner.storage import open_storage
from tuner.summary import report

RUNNING, REPORTS = 64, 200
SPACE = {name: FloatDistribution(1e-4, 1.0, log=True) for name in ("lr", "generate", "cycle_forward", "cycle_backward", "weight_decay")}


def milliseconds(work: Callable[[], object], times: int) -> float:
    """The median of several calls."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - began))
    return round(statistics.median(taken), 3)


def crowd(storage: BaseStorage, pruner: optuna.pruners.BasePruner, reports: int) -> tuple[optuna.Study, list[optuna.Trial]]:
    """A study with its running trials, each with its reports."""
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.TPESampler(seed=1), pruner=pruner, direction="maximize")
    trials = [study.ask(SPACE) for _ in range(RUNNING)]
    for number, trial in enumerate(trials):
        for step in range(1, reports):
            trial.report(number / RUNNING + step / 1000, step)
    return study, trials


def latencies(storage: BaseStorage, pruner: optuna.pruners.BasePruner, times: int) -> dict[str, float]:
    """The three figures over a storage."""
    study, trials = crowd(storage, pruner, REPORTS)
    if isinstance(storage, BufferedStorage):
        storage.flush()
    steps = iter(range(REPORTS, REPORTS + 10_000))
    found = {"report_ms": milliseconds(lambda: trials[0].report(0.5, next(steps)), times)}
    found["should_prune_ms"] = milliseconds(trials[1].should_prune, times)
    found["ask_ms"] = milliseconds(lambda: study.ask(SPACE), times)
    return found


def ours() -> FirstOf:
    """The rules that a search has."""
    return FirstOf(*(kind(2 * REPORTS) for kind in (ExplosionPruner, PlateauPruner, HalvingPruner)))


def beside_finished(folder: Path, finished: int) -> dict[str, float]:
    """What `ask`, opening the study and `tuner status` take when so many trials have ended."""
    url = f"sqlite:///{folder}/finished.db"
    made = definition(1, 10)
    run_search(SearchRequest(made, url, 1, "cpu", None, False, folder, confirm=False), nowhere())
    study = optuna.load_study(study_name=f"{made.name}@synthetic-30", storage=open_storage(url))
    verdict = {"cause": "finished", "epoch": 10, "reason": "ran its 10 epochs", "evidence": {}}
    distributions = made.distributions()
    for number in range(finished):
        params = {"lr": 1e-4 * 1.0003**number, "dropout": (number % 100) / 250}
        study.add_trial(
            create_trial(
                params=params,
                distributions=distributions,
                value=number / finished,
                intermediate_values={step: step / 10 for step in range(1, 11)},
                user_attrs={"verdict": verdict, "epochs_run": 10, "seed": number},
            )
        )
    began = time.perf_counter()
    storage = BufferedStorage(open_storage(url))
    opened = optuna.load_study(study_name=study.study_name, storage=storage, sampler=optuna.samplers.TPESampler(seed=1))
    opened.get_trials(deepcopy=False)
    start = time.perf_counter() - began
    asked = milliseconds(lambda: opened.ask(distributions), 5)
    guided = milliseconds(lambda: guide(made, opened.get_trials(deepcopy=False), finished + 1, 2, starting=planned(made)), 5)
    storage.flush()
    began = time.perf_counter()
    report(url, study.study_name)
    return {
        "trials": finished,
        "ask_ms": asked,
        "guide_ms": guided,
        "open_s": round(start, 2),
        "status_s": round(time.perf_counter() - began, 2),
    }


def definition(trials: int, epochs: int) -> Any:
    """A real study of one shape."""
    return validated(
        {
            "name": "overhead",
            "data": {"source": "synthetic", "stories": 30, "seed": 1},
            "budget": {"trials": trials, "epochs": epochs},
            "search": {"lr": {"low": 1e-4, "high": 1e-2, "log": True}, "dropout": {"low": 0.0, "high": 0.4}},
            "fixed": {"hidden_dim": 64, "batch_size": 16, "num_rules": 4},
            "pruning": {"explosion": {}, "plateau": {}, "halving": {}},
        },
        "the benchmark",
    )


def nowhere() -> Console:
    """A console that nobody reads."""
    return Console(file=open(os.devnull, "w"))


def searched(folder: Path) -> dict[str, float]:
    """Where the seconds of a real search go."""
    made = definition(48, 10).changed(data_stories=300)
    request = SearchRequest(made, f"sqlite:///{folder}/search.db", 16, "cpu", None, False, folder, confirm=False)
    seconds: dict[str, float] = run_search(request, nowhere()).summary["seconds"]
    return {**seconds, "overhead_share": round(1 - (seconds["training"] + seconds["evaluating"]) / seconds["total"], 4)}


def main() -> None:
    """Prints one JSON object, or lines."""
    parser = command(__doc__)
    parser.add_argument("--stock", action="store_true", help="Optuna's own storage and median pruner beside ours")
    parser.add_argument("--search", action="store_true", help="a real search too")
    parser.add_argument("--finished", type=int, default=0, metavar="N", help="beside so many finished trials too")
    parser.add_argument("--times", type=int, default=20)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result: dict[str, Any] = latencies(BufferedStorage(open_storage(f"sqlite:///{folder}/ours.db")), ours(), options.times)
        if options.search:
            result["search"] = searched(folder)
            result["overhead_share"] = result["search"]["overhead_share"]
        if options.finished:
            result["finished"] = beside_finished(folder, options.finished)
        if options.stock:
            result["stock"] = latencies(_CachedStorage(open_storage(f"sqlite:///{folder}/stock.db")), MedianPruner(), 3)
    tell(result, as_json=options.json)


if __name__ == "__main__":
    main()
