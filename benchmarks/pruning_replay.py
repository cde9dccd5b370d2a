"""Replays recorded learning curves through real Optuna pruners: what stopping saves, and what it costs.

    python -m benchmarks.pruning_replay FILE... [--json] [--draws 20] [--rules ours median ...]

FILE is a list of `{"valid": {"loss": [...]}}` (gzip and bare NaN allowed). For each file, draws of 200 configurations arrive one after the
other (`ours_cohort`: 16 at a time; `look_at...`: all at once); a rule sees a curve's values up to the present step and those of the
curves before.

    regret          (final loss of what it would pick - best of the draw) / (median of the draw - best), at most 1; where half or more
                    diverge, or more than half are as good as the best, 0 for the best and 1 else: there is no median to measure by
    regret_p90      what nine of ten draws stay below
    budget          evaluations spent / all
    top10_stopped   the share of the ten best configurations, of those that do not diverge, that it stopped early
"""

from __future__ import annotations

import gzip
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.pruners import BasePruner, MedianPruner, NopPruner, PatientPruner, SuccessiveHalvingPruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from benchmarks.command import command, tell
from tuner.definition import Pruning
from tuner.judges import History, Judge, Peer
from tuner.pruning import RulePruner

Curves = NDArray[np.float64]
ARRIVALS, COHORT, TOP = 200, 16, 10
FORM = '{"valid": {"loss": [number, ...]}}'


class Stock(BasePruner):
    """A rule on a trial's own values, as people write it down."""

    def __init__(self, stops: Callable[[list[float]], bool]) -> None:
        self.stops = stops

    def prune(self, study: Study, trial: FrozenTrial) -> bool:  # noqa: ARG002  its own values are all it sees
        """What the function says."""
        return self.stops([trial.intermediate_values[step] for step in sorted(trial.intermediate_values)])


class KeepTen(BasePruner):
    """Looks once, after so many evaluations, and goes on if fewer than ten of those before were better there (arXiv:2307.15422)."""

    def __init__(self, step: int) -> None:
        self.step = step

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """At its one step only."""
        if trial.last_step != self.step:
            return False
        before = (t.intermediate_values.get(self.step, math.inf) for t in study.get_trials(deepcopy=False) if t.number != trial.number)
        return sum(value < trial.intermediate_values[self.step] for value in before) >= TOP


def flat(tolerance: float, window: int) -> Callable[[list[float]], bool]:
    """Stops when the last values hardly differ."""
    return lambda values: len(values) >= window and float(np.std(values[-window:])) < tolerance


def explosive(values: list[float]) -> bool:
    """Stops above twice the first value."""
    return values[-1] > 2 * values[0]


def ours(evaluations: int) -> RulePruner:
    """What `tuner search` stops with when a definition names the rules and nothing else."""
    return RulePruner(Pruning.model_validate({"plateau": {}, "explosion": {}, "halving": {}}).rule(), evaluations)


def rules(evaluations: int) -> dict[str, BasePruner]:
    """Every rule by name; those of Optuna are Optuna's own."""
    halving = {f"halving_eta{eta}_first{first}": (eta, first) for eta, first in ((3, 2), (3, 4), (4, 2), (4, 5))}
    return {
        "ours": ours(evaluations),
        "ours_cohort": ours(evaluations),
        "nan_only": NopPruner(),
        "twice_the_initial_loss": Stock(explosive),
        "std_below_.01_over_4": Stock(flat(0.01, 4)),
        "std_below_.001_over_4": Stock(flat(0.001, 4)),
        "std_below_.001_over_8": Stock(flat(0.001, 8)),
        "patience_5": PatientPruner(None, 5),
        "patience_10": PatientPruner(None, 10),
        "median": MedianPruner(),
        **{name: SuccessiveHalvingPruner(first, eta, 0) for name, (eta, first) in halving.items()},
        **{f"look_at_{step}_keep_ten": KeepTen(step - 1) for step in (3, 5, 8)},
    }


def replay(curves: Curves, pruner: BasePruner, cohort: int) -> NDArray[np.int64]:
    """How many evaluations of each curve are spent when they arrive `cohort` at a time."""
    study = optuna.create_study(direction="minimize", pruner=pruner)
    spent = np.zeros(len(curves), dtype=np.int64)
    for start in range(0, len(curves), cohort):
        running = {number: study.ask() for number in range(start, min(start + cohort, len(curves)))}
        for step in range(curves.shape[1]):
            for number, trial in running.items():
                spent[number] = step + 1
                if not math.isnan(curves[number, step]):
                    trial.report(float(curves[number, step]), step)
            last = step + 1 == curves.shape[1]
            over = {n for n, trial in running.items() if last or math.isnan(curves[n, step]) or pruned(study, pruner, trial)}
            for number in over:
                ended, value = running.pop(number), curves[number, step]
                if last and not math.isnan(value):
                    study.tell(ended, float(value))
                else:
                    study.tell(ended, state=TrialState.PRUNED)
    return spent


def replay_rule(curves: Curves, rule: Judge, cohort: int = 1) -> NDArray[np.int64]:
    """The same with a rule alone, without a study around it."""
    spent, past, width = np.zeros(len(curves), dtype=np.int64), [], curves.shape[1]
    for start in range(0, len(curves), cohort):
        running = list(range(start, min(start + cohort, len(curves))))
        for step in range(width):
            said = {number: tuple(-curves[number, : step + 1][~np.isnan(curves[number, : step + 1])]) for number in running}
            here, over = {number: Peer(curve) for number, curve in said.items()}, []
            for number in running:
                peers = (*past, *(peer for other, peer in here.items() if other != number))
                if step + 1 == width or np.isnan(curves[number, step]) or rule(History(said[number], epochs=width, peers=peers)):
                    over.append(number)
            spent[running] = step + 1
            past += [Peer(said[number], over=True) for number in over]
            running = [number for number in running if number not in over]
    return spent


def pruned(study: Study, pruner: BasePruner, trial: optuna.Trial) -> bool:
    """What `trial.should_prune()` asks, without copying the trial twice."""
    return pruner.prune(study, study._storage.get_trial(trial._trial_id))


def judged(curves: Curves, spent: NDArray[np.int64]) -> tuple[float, float, float]:
    """Regret, budget and the share of the ten best that were stopped."""
    final = np.where(np.isnan(curves[:, -1]), np.inf, curves[:, -1])
    last = np.where(np.isnan(curves), np.inf, curves)[np.arange(len(curves)), spent - 1]
    finished = (spent == curves.shape[1]) & np.isfinite(last)
    picked = int(np.where(finished, last, np.inf).argmin() if finished.any() else last.argmin())
    best, gap = float(final.min()), float(np.median(final) - final.min())
    above = float(final[picked]) - best if final[picked] > best else 0.0
    regret = above / gap if 0 < gap < math.inf else float(above > 0)
    order = np.argsort(final, kind="stable")
    top = order[np.isfinite(final[order])][:TOP]
    stopped = float((spent[top] < curves.shape[1]).mean()) if len(top) else 0.0
    return min(1.0, regret), float(spent.mean() / curves.shape[1]), stopped


def read(path: Path) -> Curves:
    """The validation losses of a file, one row a configuration; what is missing up to the end has diverged."""
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    try:
        rows = [record["valid"]["loss"] for record in json.loads(text)]
        table = [[math.nan if value is None else float(value) for value in row] for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        sys.exit(f"{path} is not a list of {FORM}: {type(error).__name__} {error}")
    lengths = sorted({len(row) for row in table})
    if len(lengths) != 1 or not lengths[0]:
        sys.exit(f"{path} has curves of {lengths or 'no'} evaluations; allowed: as many in each, at least one")
    curves = np.array(table)
    if len(gaps := np.flatnonzero((np.diff(np.isnan(curves).astype(int), axis=1) < 0).any(axis=1))):
        sys.exit(f"{path}: record {gaps[0]} has a value after one that is missing; fill gaps, for what is missing is taken for diverged")
    return curves


def drawings(table: Curves, draws: int, seed: tuple[int, ...]) -> list[Curves]:
    """So many draws of `ARRIVALS` configurations from a file."""
    generator = np.random.default_rng(seed)
    return [table[generator.permutation(len(table))[:ARRIVALS]] for _ in range(draws)]


def measure(curves: Sequence[Curves], names: Sequence[str], draws: int, seed: int) -> dict[str, dict[str, float]]:
    """The figures of each rule over all files and draws."""
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
    for number, table in enumerate(curves):
        for drawn in drawings(table, draws, (seed, number)):
            for name in names:
                cohort = COHORT if name.endswith("_cohort") else ARRIVALS if name.startswith("look_at") else 1
                found[name].append(judged(drawn, replay(drawn, rules(drawn.shape[1])[name], cohort)))
    return {name: figures(results) for name, results in found.items()}


def figures(results: list[tuple[float, float, float]]) -> dict[str, float]:
    """Means over draws, and the regret that nine of ten draws stay below."""
    regrets, budgets, stopped = zip(*results, strict=True)
    p90 = float(np.quantile(regrets, 0.9))
    return {"regret": fmean(regrets), "regret_p90": p90, "budget": fmean(budgets), "top10_stopped": fmean(stopped)}


def main() -> None:
    """Prints one JSON object, or a table."""
    parser = command(__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rules", nargs="+", choices=list(rules(1)), default=list(rules(1)))
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = measure([read(path) for path in options.files], options.rules, options.draws, options.seed)
    tell({"rules": found} if options.json else found, as_json=options.json)


if __name__ == "__main__":
    main()
