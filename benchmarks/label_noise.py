"""How well the labels of real stories can be recovered from what a model reads: spaCy itself, given lower-case tokens, beside the labels.

python -m benchmarks.label_noise DATA.jsonl[.gz] --json [--direct-objects] [--split test] [--seed 1]

The labels were made by spaCy from the stories as they are printed. A parser that reads the lower-cased tokens of one sentence at a time
does not see what told a name from a noun. What the same program says under these conditions is not an upper bound (a model may learn the
labels' own habits), but it shows how much of the labels is noise to such a reader. --direct-objects for labels that were made without
the nouns under a verb's preposition, as the shared ones were: else the two follow different rules, and what differs is no noise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.command import command, tell
from model.config import ROLES
from model.corpus import SPLITS, split_sentences
from model.evaluation import KINDS
from model.extraction import extract_again, load_language
from model.sources import load_sentences
from model.stories import NOT_VERBS, Proposition


def agreement(said: Sequence[Sequence[Proposition]], gold: Sequence[Sequence[Proposition]]) -> dict[str, Any]:
    """Accuracy position by position, and F1 in any order, of all triples and by kind."""
    pairs = [(one, wanted) for ones, wanteds in zip(said, gold, strict=True) for one, wanted in _by_position(ones, wanteds)]
    right = [[a == b for a, b in zip(one, wanted, strict=True)] for one, wanted in pairs]
    positions = {name: sum(row[part] for row in right) / len(right) for part, name in enumerate(ROLES)}
    kinds = {kind: f1([only(ones, kind) for ones in said], [only(ones, kind) for ones in gold]) for kind in KINDS}
    return {**positions, "exact": sum(map(all, right)) / len(right), "triple_f1": f1(said, gold), "f1": kinds}


def _by_position(said: Sequence[Proposition], gold: Sequence[Proposition]) -> list[tuple[Proposition, Proposition]]:
    return list(zip([*said, *[("", "", "")] * len(gold)][: len(gold)], gold, strict=True))


def only(propositions: Sequence[Proposition], kind: str) -> list[Proposition]:
    """Those of one kind."""
    return [p for p in propositions if (p[1] if p[1] in NOT_VERBS else "verb") == kind]


def f1(said: Sequence[Sequence[Proposition]], gold: Sequence[Sequence[Proposition]]) -> float:
    """Twice the hits over all that was said and all that was wanted."""
    hits = sum((Counter(ones) & Counter(wanted)).total() for ones, wanted in zip(said, gold, strict=True))
    return 2 * hits / max(1, sum(map(len, said)) + sum(map(len, gold)))


def main() -> None:
    """Measures and prints."""
    parser = command(__doc__)
    parser.add_argument("data")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--direct-objects", action="store_true", help="the labels know no objects under prepositions")
    options = parser.parse_args()
    sentences = split_sentences(load_sentences(options.data, None, options.seed)[1], options.seed)[0][options.split]
    if not any(s.propositions for s in sentences):
        parser.error(f"the {options.split} split of {options.data} has no propositions to compare with")
    said = list(extract_again(load_language(), sentences, prepositions=not options.direct_objects))
    found = agreement(said, [s.propositions for s in sentences])
    tell({"sentences": len(sentences), **found}, as_json=options.json)


if __name__ == "__main__":
    main()
