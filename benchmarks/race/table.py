"""The rows of a race as two tables in Markdown, as they stand in benchmarks/RESULTS.md.

There they stand between marks, `<!-- race: --stories 100 --minutes 4 --epochs 10 -->` and `<!-- end -->`, and are written anew with
python -m benchmarks.search_race --count --results benchmarks/RESULTS.md
Tables of other rows name them, `<!-- race: --stories 100 --minutes 4 --epochs 10 --rows race_new_seeds.jsonl -->`, and need `--rows` too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.race.score import Row, corpora, of_race, reached, score
from benchmarks.race.task import BARE, OURS

TITLES = {
    OURS: "**`tuner search`**",
    "optuna-median": "Optuna, TPE, MedianPruner",
    "optuna-hyperband": "Optuna, TPE, HyperbandPruner",
    "optuna-tpe": "Optuna, TPE, no pruner",
    "random": "random search",
    "look-once": "look once, keep ten",
    "ray-asha-optuna": "Ray Tune, ASHA and OptunaSearch",
    "syne-asha": "Syne Tune, ASHA",
}
FOUND = (
    "searcher",
    "reached",
    "target after, s, by seed",
    "mean and interval",
    "epochs until then",
    "best, validation",
    "its pick, test",
    "epochs trained",
    "outside training",
    "memory, MB",
    "machine, ms a step",
)
ASIDE = "Earlier versions, and ours with one thing left out"
LEAST_SEEDS = 3
"""An interval of two goes beyond what can be."""
MARKED = re.compile(r"(<!-- race: --stories (\d+) --minutes ([\d.]+) --epochs (\d+)(?: --rows (\S+))? -->).*?(\n<!-- end -->)", re.S)
USUAL_ROWS = "race_rows.jsonl"


def _rows_of(mark: re.Match[str]) -> str:
    """The name of the file whose rows a table is of."""
    return mark[5] or USUAL_ROWS


def has_tables(text: str, name: str) -> bool:
    """Whether a page has tables of the rows in the file of this name."""
    return any(_rows_of(mark) == name for mark in MARKED.finditer(text))


def rewritten(text: str, rows: Sequence[Row], name: str = USUAL_ROWS) -> str:
    """A page with the tables between its marks as these rows say, where they are of the file of this name."""

    def anew(mark: re.Match[str]) -> str:
        if _rows_of(mark) != name:
            return mark[0]
        stories, minutes, epochs = int(mark[2]), float(mark[3]), int(mark[4])
        every = [row for row in rows if of_race(row, stories, epochs, minutes)]
        first = next(iter(corpora(every)), None)
        own = [row for row in every if row["task"]["corpus"] == first]
        return f"{mark[1]}\n{tables(own, minutes)}{mark[6]}"

    return MARKED.sub(anew, text)


def tables(rows: Sequence[Row], minutes: float) -> str:
    """What was found and at what cost, and how soon; the searchers first, then ours as it was or with something left out.

    Args:
        rows: all of one race, for the target is set by the best of them.
        minutes: that each had.
    """
    said = score(rows, minutes)
    found = said["searchers"]
    names = sorted(found, key=lambda name: (found[name]["seconds_to_target"]["mean"], name))

    def both(group: Sequence[str]) -> list[str]:
        soon = _table(_soon_columns(found), [_soon(name, found[name]) for name in group])
        return [*_table(FOUND, [_found(name, found[name], rows, said["target"], 60 * minutes) for name in group]), "", *soon]

    searchers = [name for name in names if title(name) != name]
    lines = [f"Best known {said['best_known']:.4f}, target {said['target']:.4f}.", "", *both(searchers)]
    if others := [name for name in names if name not in searchers]:
        lines += ["", f"<details><summary>{ASIDE}</summary>", "", *both(others), "", "</details>"]
    return "\n".join(lines)


def _table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(line) + " |" for line in (columns, ["---"] * len(columns), *lines)]


def _found(name: str, figures: Mapping[str, Any], rows: Sequence[Row], target: float, whole: float) -> list[str]:
    own = sorted((row for row in rows if row["searcher"] == name), key=lambda row: row["task"]["seed"])
    after = [reached(row, target) for row in own]
    bounds, without = len(own) >= LEAST_SEEDS, sum(not row["epochs"] for row in own)
    return [
        title(name),
        f"{figures['reached']} of {figures['seeds']}" + (f", {without} without an epoch" if without else ""),
        ", ".join("-" if seconds is None else f"{seconds:.0f}" for seconds in after),
        _between(figures["seconds_to_target"], 0, bounds and figures["reached"] > 0, most=whole),
        _between(figures["epochs_to_target"], 0, bounds),
        _between(figures["best_value"], 3, bounds),
        _between(figures["test"], 3, bounds),
        _between(figures["epochs"], 0, bounds=False),
        _between({key: None if share is None else 100 * share for key, share in figures["overhead"].items()}, 1, bounds) + " %",
        _between(figures["peak_mb"], 0, bounds),
        _between(figures["ms_a_step"], 1, bounds=False),
    ]


def title(name: str) -> str:
    """How a searcher is called, in Markdown, one without baselines too; ours as it was, or with something left out, has its name."""
    plain = name if name.startswith(OURS) else name.removesuffix(BARE)
    return TITLES[plain] + name.removeprefix(plain) if plain in TITLES else name


def _between(figure: Mapping[str, float | None], places: int, bounds: bool, most: float = math.inf) -> str:
    """A mean, with its interval where that is asked for, as far as it can be: from nothing to the most."""
    if figure["mean"] is None:
        return "-"
    mean, low, high = f"{figure['mean']:.{places}f}", figure["low"], figure["high"]
    if not bounds or low is None or high is None:
        return mean
    return f"{mean} ({max(0.0, low):.{places}f} to {min(most, high):.{places}f})"


def _soon_columns(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Seconds until a share of the best known is reached, and the best value of an ended trial by second."""
    first = next(iter(found.values()))
    return ["searcher", *first["seconds_to_share"], *(f"at {second} s" for second in first["best_by_second"])]


def _soon(name: str, figures: Mapping[str, Any]) -> list[str]:
    shares = [f"{seconds:.0f}" for seconds in figures["seconds_to_share"].values()]
    return [title(name), *shares, *(f"{value:.3f}" for value in figures["best_by_second"].values())]
