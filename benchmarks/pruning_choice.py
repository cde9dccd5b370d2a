"""How far thresholds that were chosen on some recorded curves hold on others: chosen on half of the files, reported on the other half, then
the other way round.

    python -m benchmarks.pruning_choice FILE... [--json] [--candidates 60] [--draws 6] [--report 20]

Candidates are random settings of the halving rule, the same for both halves, each with the other rules as `tuner search` has them. Chosen
is what costs least on one half: budget + top10_stopped + 10 * (regret beyond 0.003); its figures on the other half are those of the real
pruners, on other draws. See `benchmarks.pruning_replay` for the figures.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import optuna

from benchmarks.command import command, tell
from benchmarks.pruning_replay import Curves, drawings, figures, judged, read, replay, replay_rule
from tuner.judges import ExplosionRule, FirstRule, HalvingRule, PlateauRule
from tuner.pruning import RulePruner

CHOOSING, REPORTING = 100, 0
"""The seeds of the draws."""


def candidates(number: int, seed: int) -> list[HalvingRule]:
    """Today's settings, and random ones."""
    generator, made = np.random.default_rng(seed), [HalvingRule()]
    while len(made) < number:
        made.append(
            HalvingRule(
                first=float(generator.choice([0.04, 0.06, 0.08, 0.1])),
                step=round(float(generator.uniform(1.25, 2.2)), 2),
                keep_first=round(float(generator.uniform(0.15, 0.45)), 3),
                keep_last=round(float(generator.uniform(0.02, 0.09)), 3),
                slack=round(float(generator.uniform(0, 1)), 2),
                ahead=float(generator.choice([0, 2, 4, 8])),
                back=int(generator.choice([1, 2, 3, 4])),
            )
        )
    return made


def combined(halving: HalvingRule) -> FirstRule:
    """The rules that `tuner search` has, with this one of halving."""
    return FirstRule((ExplosionRule(), PlateauRule(), halving))


def cost(halving: HalvingRule, tables: Sequence[Curves]) -> float:
    """What a setting costs on some draws."""
    found = [judged(table, replay_rule(table, combined(halving))) for table in tables]
    regret, budget, stopped = (fmean(column) for column in zip(*found, strict=True))
    return budget + stopped + 10 * max(0.0, regret - 0.003)


def fold(chosen_on: Sequence[Curves], reported: Sequence[Curves], options: argparse.Namespace) -> dict[str, Any]:
    """The settings chosen on some files, and the real pruner's figures with them on the others."""
    tables = [drawn for number, table in enumerate(chosen_on) for drawn in drawings(table, options.draws, (CHOOSING, number))]
    best = min(candidates(options.candidates, options.seed), key=lambda halving: cost(halving, tables))
    results = [
        judged(drawn, replay(drawn, RulePruner(combined(best), drawn.shape[1]), 1))
        for number, table in enumerate(reported)
        for drawn in drawings(table, options.report, (REPORTING, number))
    ]
    return {"chosen": vars(best), **figures(results)}


def main() -> None:
    """Prints one JSON object, or two lines."""
    parser = command(__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--candidates", type=int, default=60)
    parser.add_argument("--draws", type=int, default=6, help="draws of each file to choose by")
    parser.add_argument("--report", type=int, default=20, help="draws of each file to report")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if len(options.files) < 2:
        parser.error("give two files or more: thresholds are chosen on one half of them and reported on the other")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    tables = [read(path) for path in sorted(options.files)]
    halves = tables[::2], tables[1::2]
    folds = [fold(halves[one], halves[1 - one], options) for one in (0, 1)]
    tell({"folds": folds}, as_json=options.json)


if __name__ == "__main__":
    main()
