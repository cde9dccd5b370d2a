"""Which token each part of a proposition comes from: known for training sentences, what both directions learn to choose for others.

    entity      the tokens with propositions stand in the order of their propositions (the extraction works token by token)
    relation    the nearest token to the entity that is this word or a form of it, if any (`type` stands nowhere)
    value       likewise

A form is one by the spelling (`needles` of `needle`), or one that train shows: `children` stands wherever a proposition's `child` would
otherwise come from nowhere.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from model.layout import IGNORED
from model.stories import NOT_VERBS, Proposition, Sentence
from model.vocabulary import base_forms

NOWHERE = IGNORED
FORM_COUNT, FORM_LIFT = 3, 10


class Aligner:
    """Aligns sentences with their propositions; `irregular` holds the forms of words that spelling does not show."""

    def __init__(self, irregular: Mapping[str, frozenset[str]]) -> None:
        self.irregular = irregular
        self._words: dict[str, frozenset[str]] = {}
        self._called: defaultdict[str, list[str]] = defaultdict(list)
        for word, forms in irregular.items():
            for form in forms:
                self._called[form].append(word)

    @classmethod
    def of(cls, sentences: Sequence[Sentence]) -> Aligner:
        """Learns the irregular forms of `sentences`.

        A token is a form of a word with the same first letter if, among the sentences whose propositions use the word but that have no
        token for it, it occurs in at least a third and at least `FORM_COUNT`, and `FORM_LIFT` times as often as in all sentences.
        """
        plain, tokens = cls({}), Counter(token for s in sentences for token in set(s.tokens))
        lost: Counter[str] = Counter()
        pairs: Counter[tuple[str, str]] = Counter()
        for sentence in sentences:
            sought = {word for proposition in sentence.propositions for word in proposition}
            for word in sought.difference(*map(plain.words, sentence.tokens)):
                lost[word] += 1
                pairs.update((word, token) for token in set(sentence.tokens))
        forms: dict[str, set[str]] = {}
        for (word, token), count in pairs.items():
            lift = (count / lost[word]) / (tokens[token] / len(sentences))
            if count >= FORM_COUNT and lift >= FORM_LIFT and 3 * count >= lost[word] and token[:1] == word[:1]:
                forms.setdefault(word, set()).add(token)
        return cls({word: frozenset(found) for word, found in forms.items()})

    def words(self, token: str) -> frozenset[str]:
        """What the token is, and what it is a form of."""
        if token not in self._words:  # a text has few different ones
            self._words[token] = frozenset((token, *base_forms(token), *self._called.get(token, ())))
        return self._words[token]

    def align(self, sentence: Sentence) -> list[tuple[int, int, int]]:
        """The token of each proposition's entity, relation and value; NOWHERE if there is none, except that an entity always gets one.

        An entity not found further on (about one in two hundred) is put at the token after the previous entity's (the same token if it is
        the same entity), or at the sentence's last, so that the counts still add up to the number of propositions.
        """
        found: list[tuple[int, int, int]] = []
        place, entity = -1, None
        for stated in sentence.propositions:
            first = place if stated[0] == entity and stated[1] != "type" else place + 1
            places = self._places(sentence, stated[0])
            place = min(next((p for p in places if p >= first), first), len(sentence.tokens) - 1)
            entity = stated[0]
            found.append((place, self._nearest(sentence, stated[1], place), self._value(sentence, stated, place)))
        return found

    def _value(self, sentence: Sentence, stated: Proposition, place: int) -> int:
        return place if stated[2] == stated[0] else self._nearest(sentence, stated[2], place)

    def _nearest(self, sentence: Sentence, word: str, place: int) -> int:
        return min(self._places(sentence, word), key=lambda p: abs(p - place), default=NOWHERE)

    def _places(self, sentence: Sentence, word: str) -> list[int]:
        return [place for place, token in enumerate(sentence.tokens) if word in self.words(token)]


def verbs_read(sentences: Sequence[Sentence], aligned_NQ3: Tensor) -> dict[str, str]:
    """The relation each token stands for when a proposition's relation is read from it: the one it had most often in `sentences`.

    A token from which none was read stands for itself, or for its base form by spelling, if that is a verb of their propositions.
    """
    read: dict[str, Counter[str]] = {}
    for sentence, at in zip(sentences, aligned_NQ3[..., 1].tolist(), strict=True):
        for stated, place in zip(sentence.propositions, at, strict=False):
            if place != NOWHERE and stated[1] not in NOT_VERBS:
                read.setdefault(sentence.tokens[place], Counter())[stated[1]] += 1
    verbs = {token: max(called, key=lambda verb: (called[verb], verb)) for token, called in read.items()}
    known = {p[1] for s in sentences for p in s.propositions} - set(NOT_VERBS)
    for token in dict.fromkeys(token for s in sentences for token in s.tokens):
        if token not in verbs and (form := next((form for form in (token, *base_forms(token)) if form in known), None)):
            verbs[token] = form
    return verbs


def alignments(sentences: Sequence[Sentence], places: int, tokens: int) -> Tensor:
    """The alignment of each sentence's first propositions, `aligned_NP3`, with the forms that these sentences show; NOWHERE elsewhere,
    and where a relation or a value stands beyond the first `tokens`."""
    aligner = Aligner.of(sentences)
    aligned = np.full((len(sentences), places, 3), NOWHERE, dtype=np.int64)
    for row, sentence in enumerate(sentences):
        if found := aligner.align(sentence)[:places]:
            aligned[row, : len(found)] = found
    aligned[..., 0] = aligned[..., 0].clip(max=tokens - 1)  # an entity always has one
    aligned[..., 1:][aligned[..., 1:] >= tokens] = NOWHERE
    return torch.from_numpy(aligned)
