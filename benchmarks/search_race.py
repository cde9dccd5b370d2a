"""Who finds it first: `tuner search` and its peers on the same space, trainer, stories and cores, with equal wall time, in turns.

python -m benchmarks.search_race --data stories.jsonl.gz --json [--stories 100] [--seeds 5] [--minutes 10] [--epochs 12] [--searchers A,B]
[--device cuda]

Each row (searcher, seed) is kept in --rows as it ends; those that are there are not run again, so the race can be stopped and
continued (one that did not come to an epoch, as where `race` was not installed, is run again); --count only counts, rows of --data where
that is given. What counts as found is the value of a trial that has ended, when it has ended; the target is 98 %
of the best value that any row of the race knows. The peers are of the extra `race`; one that does not start is a row with its
error. Nothing else may run on the machine. --results writes the tables of a page anew, all races that it has.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.command import command
from benchmarks.race.picture import draw
from benchmarks.race.row import ABLATIONS, SEARCHERS, run
from benchmarks.race.score import Row, corpora, of_race, score
from benchmarks.race.table import has_tables, rewritten
from benchmarks.race.task import BARE, Task
from model.files import whole
from model.sources import load_sentences

ALL = (*SEARCHERS, *ABLATIONS, *(name + BARE for name in SEARCHERS))


def played(rows: Path) -> list[Row]:
    """The rows that are there."""
    return [json.loads(line) for line in rows.read_text().splitlines()] if rows.is_file() else []


def play(options: argparse.Namespace, corpus: str) -> None:
    """Runs the rows that are missing, seed by seed, the searchers in another order for each."""
    there = played(options.rows)
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        names = options.searchers[seed % len(options.searchers) :] + options.searchers[: seed % len(options.searchers)]
        for searcher in names:
            task = Task(str(options.data.absolute()), options.stories, options.epochs, options.minutes, seed, "", options.device)
            known = [r for r in there if r["searcher"] == searcher and r["task"]["seed"] == seed and _same(r, options, corpus)]
            if not any(row["epochs"] for row in known):
                there = [row for row in there if row not in known] + [run(searcher, task, corpus)]
                _write(options.rows, there)


def _write(path: Path, rows: list[Row]) -> None:
    """All rows, in the place of those that were there."""
    with whole(path) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _same(row: Row, options: argparse.Namespace, corpus: str | None) -> bool:
    return of_race(row, options.stories, options.epochs, options.minutes, options.device, corpus)


def main() -> None:
    """Races, or counts, and prints."""
    parser = command(__doc__)
    parser.add_argument("--data", type=Path, help="sentences, .jsonl[.gz]; not needed to count")
    parser.add_argument("--stories", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--epochs", type=int, default=12, help="of a whole trial")
    parser.add_argument("--searchers", type=lambda text: text.split(","), default=list(SEARCHERS), help=", ".join(ALL))
    parser.add_argument("--device", default="cpu", help="cuda: all searchers on one GPU, a process of a peer for each core")
    parser.add_argument("--rows", type=Path, default=Path("benchmarks/race_rows.jsonl"))
    parser.add_argument("--count", action="store_true", help="run nothing, count the rows that are there")
    parser.add_argument("--png", type=Path, help="write the anytime curve of these searchers")
    parser.add_argument("--results", type=Path, help="a page whose tables between marks are written anew")
    options = parser.parse_args()
    if unknown := [name for name in options.searchers if name not in ALL]:
        parser.error(f"there is no searcher {unknown[0]!r}; there are: {', '.join(ALL)}")
    if options.data is None and not options.count:
        parser.error("--data is needed to race; without it --count counts the rows that are there")
    if options.results and not (options.results.is_file() and has_tables(options.results.read_text(), options.rows.name)):
        marks = "<!-- race: --stories N --minutes M --epochs E [--rows FILE] -->, a line, <!-- end -->"
        parser.error(f"{options.results} has no table of {options.rows.name} to write: {marks}")
    corpus = None if options.data is None else load_sentences(str(options.data), options.stories, 1)[0]
    if not options.count and corpus is not None:
        play(options, corpus)
    there = played(options.rows)
    rows = [row for row in there if _same(row, options, corpus)]
    if len(names := corpora(rows)) > 1:
        parser.error(f"{options.rows} has rows of {' and '.join(names)}; name the data with --data")
    if options.png:
        draw([row for row in rows if row["searcher"] in options.searchers], options.minutes, options.png)
    if options.results:
        options.results.write_text(rewritten(options.results.read_text(), there, options.rows.name))
    print(json.dumps(score(rows, options.minutes), indent=None if options.json else 1))


if __name__ == "__main__":
    main()
