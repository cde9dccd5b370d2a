"""What a data set is like, in figures: how large, how varied, and how far the most frequent answer comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from model.config import ROLES
from model.stories import Sentence

SIZES = (100, 1000)


def describe(sentences: Sequence[Sentence]) -> dict[str, Any]:
    """The figures of some sentences; shares as fractions 0..1."""
    stated = [s.propositions for s in sentences if s.propositions]
    gold = [p for propositions in stated for p in propositions]
    relations = Counter(relation for _, relation, _ in gold)
    named = {kind: relations[kind] / max(1, len(gold)) for kind in ("type", "has_property")}
    return {
        "stories": len({s.story_id for s in sentences}),
        "sentences": len(sentences),
        "most_tokens": max((len(s.tokens) for s in sentences), default=0),
        "words": len({word for s in sentences for word in (*s.tokens, *(part for p in s.propositions for part in p))}),
        "entities": len({entity for entity, _, _ in gold}),
        "relations": len(relations),
        "kinds": {**named, "verb": 1 - sum(named.values()) if gold else 0.0},
        "propositions": len(gold),
        "propositions_a_sentence": len(gold) / max(1, len(sentences)),
        "most_propositions": max(map(len, stated), default=0),
        "beyond": {str(place): sum(max(0, len(p) - place) for p in stated) / max(1, len(gold)) for place in (5, 8)},
        "most_frequent_first": _always([propositions[0] for propositions in stated]),
        "most_frequent": _always(gold),
    }


def _always(propositions: Sequence[tuple[str, str, str]]) -> dict[str, float]:
    """How often the most frequent answer to each part is right."""
    counts = [Counter(p[role] for p in propositions) for role in range(len(ROLES))]
    return {role: max(count.values(), default=0) / max(1, len(propositions)) for role, count in zip(ROLES, counts, strict=True)}


def describe_by_size(sentences: Sequence[Sentence]) -> dict[str, dict[str, Any]]:
    """The figures of the first 100 and 1,000 stories, as far as there are so many, and of all."""
    ids = list(dict.fromkeys(s.story_id for s in sentences))
    parts = {str(size): set(ids[:size]) for size in SIZES if size < len(ids)}
    columns = {name: describe([s for s in sentences if s.story_id in chosen]) for name, chosen in parts.items()}
    return {**columns, "all": describe(sentences)}


def table(columns: dict[str, dict[str, Any]]) -> list[str]:
    """The figures as lines of a table, one column for each size."""

    def percent(*shares: float) -> str:
        return " / ".join(f"{100 * share:.1f}" for share in shares) + " %"

    rows = {
        "sentences (tokens of the longest)": lambda f: f"{f['sentences']:,} ({f['most_tokens']})",
        "words (tokens and lemmas)": lambda f: f"{f['words']:,}",
        "entities / relations": lambda f: f"{f['entities']:,} / {f['relations']:,}",
        "type / has_property / verbs": lambda f: percent(*f["kinds"].values()),
        "propositions a sentence (largest)": lambda f: f"{f['propositions_a_sentence']:.2f} ({f['most_propositions']})",
        "propositions beyond the fifth / eighth": lambda f: percent(*f["beyond"].values()),
        "most frequent answer, first proposition": lambda f: percent(*f["most_frequent_first"].values()),
        "most frequent answer, all propositions": lambda f: percent(*f["most_frequent"].values()),
    }
    heads = [f"{figures['stories']:,} stories" for figures in columns.values()]
    lines = [["", *heads], *([name, *map(show, columns.values())] for name, show in rows.items())]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
