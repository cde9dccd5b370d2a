"""Synthetic stories with gold propositions: the default data, which needs no download.

A small grammar over invented words with Zipfian frequencies: 500 entities (singular and plural), 200 adjectives and 100 verbs
(lemma, past, participle), about 1,500 words. Active and passive sentences, adjectives, places, no pronouns. The propositions
follow the rules for real text: for each noun in order its type, then what it does as a verb's agent, then its properties.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Proposition = tuple[str, str, str]
NOT_VERBS = ("type", "has_property")
"""The relations that stand in no sentence; every other is a verb of it."""

ENTITY_COUNT, ADJECTIVE_COUNT, VERB_COUNT = 500, 200, 100
FAMILIAR_NOUNS = ["girl", "boy", "cat", "dog", "bird", "tree", "box", "ball", "garden", "king", "bear", "river", "house", "boat"]
FAMILIAR_ADJECTIVES = ["little", "big", "red", "happy", "old", "small", "green", "shiny", "soft", "brave"]
FAMILIAR_VERBS = [("find", "found", "found"), ("see", "saw", "seen"), ("take", "took", "taken"), ("help", "helped", "helped")]
PREPOSITIONS = ("in", "near", "under", "behind", "with")
OPENINGS = (["one", "day", ","], ["then"], ["later", ","], ["soon"], ["at", "last", ","])


@dataclass(frozen=True)
class Sentence:
    """One sentence of a story: its words and the propositions it states, in order."""

    story_id: str
    tokens: tuple[str, ...]
    propositions: tuple[Proposition, ...]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Sentence:
        """The sentence of one decoded line of JSON."""
        return cls(row["story_id"], tuple(row["tokens"]), tuple((e, r, v) for e, r, v in row["propositions"]))


@dataclass(frozen=True)
class _Noun:
    lemma: str
    plural: bool
    adjectives: tuple[str, ...]

    def words(self, article: str) -> list[str]:
        article = "some" if self.plural and article == "a" else article
        return [article, *self.adjectives, self.lemma + "s" if self.plural else self.lemma]

    def facts(self, act: tuple[str, str] | None = None) -> list[Proposition]:
        deed = [(self.lemma, *act)] if act else []
        return [(self.lemma, "type", self.lemma), *deed, *((self.lemma, "has_property", a) for a in self.adjectives)]


def _invented_words(familiar: list[str], count: int, endings: tuple[str, ...]) -> list[str]:
    """The familiar words first, then two-syllable ones made up in a fixed order; never the same word twice."""
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    invented = ["".join(parts) for parts in itertools.product(syllables, syllables, endings)]
    random.Random("invented words").shuffle(invented)
    return list(dict.fromkeys([*familiar, *invented]))[:count]


class _Lexicon:
    """All words by kind, each list in the order of its Zipfian frequency (weight of rank r: 1 / (r + 3))."""

    def __init__(self) -> None:
        self.nouns = _invented_words(FAMILIAR_NOUNS, ENTITY_COUNT, ("n", "l", "k"))
        self.adjectives = _invented_words(FAMILIAR_ADJECTIVES, ADJECTIVE_COUNT, ("ish", "y"))
        stems = _invented_words([], VERB_COUNT - len(FAMILIAR_VERBS), ("t", "p"))
        self.verbs = list(FAMILIAR_VERBS)
        self.verbs += [(stem, stem + "ed", stem + ("en" if len(stem) % 2 else "ed")) for stem in stems]

    @staticmethod
    def weights(count: int) -> list[float]:
        return [1.0 / (rank + 3) for rank in range(count)]


class _Teller:
    """Tells one story after the other from one stream of random numbers."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(f"synthetic stories {seed}")
        self.lexicon = _Lexicon()

    def _draw(self, words: list[str]) -> str:
        return self.random.choices(words, self.lexicon.weights(len(words)))[0]

    def _noun(self, lemma: str) -> _Noun:
        count = self.random.choices((0, 1, 2), (0.6, 0.33, 0.07))[0]
        adjectives = dict.fromkeys(self._draw(self.lexicon.adjectives) for _ in range(count))
        return _Noun(lemma, self.random.random() < 0.2, tuple(adjectives))

    def _verb(self) -> tuple[str, str, str]:
        return self.random.choices(self.lexicon.verbs, self.lexicon.weights(VERB_COUNT))[0]

    def _active(self, agent: _Noun, patient: _Noun) -> tuple[list[str], list[Proposition]]:
        lemma, past, _ = self._verb()
        words = [*agent.words("the"), past, *patient.words("a")]
        return words, agent.facts((lemma, patient.lemma)) + patient.facts()

    def _passive(self, agent: _Noun, patient: _Noun) -> tuple[list[str], list[Proposition]]:
        lemma, _, participle = self._verb()
        words = [*patient.words("the"), "were" if patient.plural else "was", participle, "by", *agent.words("the")]
        return words, patient.facts() + agent.facts((lemma, patient.lemma))

    def _there_was(self, agent: _Noun, patient: _Noun) -> tuple[list[str], list[Proposition]]:
        words = ["there", "were" if agent.plural else "was", *agent.words("a"), "and", *patient.words("a")]
        return words, agent.facts() + patient.facts()

    def _was_so(self, agent: _Noun, _: _Noun) -> tuple[list[str], list[Proposition]]:
        so = self._draw(self.lexicon.adjectives)
        return [*agent.words("the"), "were" if agent.plural else "was", "very", so], agent.facts()

    def _sentence(self, cast: list[str]) -> tuple[list[str], list[Proposition]]:
        agent, patient = (self._noun(lemma) for lemma in self.random.sample(cast, 2))
        form = self.random.choices((self._active, self._passive, self._there_was, self._was_so), (0.5, 0.2, 0.15, 0.15))[0]
        words, facts = form(agent, patient)
        if self.random.random() < 0.3:
            place = self._noun(self._draw(self.lexicon.nouns))
            words, facts = [*words, self.random.choice(PREPOSITIONS), *place.words("the")], facts + place.facts()
        if self.random.random() < 0.25:
            words = [*self.random.choice(OPENINGS), *words]
        return [*words, "."], facts

    def story(self) -> Iterator[tuple[list[str], list[Proposition]]]:
        """The sentences of the next story: a cast of two to eight entities, six to twelve sentences."""
        cast = list(dict.fromkeys(self._draw(self.lexicon.nouns) for _ in range(self.random.randint(4, 8))))
        while len(cast) < 2:
            cast = list(dict.fromkeys([*cast, self._draw(self.lexicon.nouns)]))
        for _ in range(self.random.randint(6, 12)):
            yield self._sentence(cast)


def tell_stories(count: int, seed: int) -> list[Sentence]:
    """`count` stories; the same seed gives the same stories, and a smaller count gives the first of a larger one."""
    teller = _Teller(seed)
    return [Sentence(f"synthetic-{number:05d}", tuple(words), tuple(facts)) for number in range(count) for words, facts in teller.story()]
