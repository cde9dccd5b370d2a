"""A saved model at work: text to propositions, propositions to text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.checkpoint import Checkpoint
from model.corpus import Split, encode_sentences
from model.errors import DataError
from model.evaluation import generate_ids, parse_ids
from model.stories import Proposition, Sentence
from model.vocabulary import PAD, UNKNOWN, Vocabulary

AT_ONCE = 64
WORDS = re.compile(
    r"(?:mr|mrs|ms|dr|st|jr)\.|o'clock\b|can(?=not\b)|\w+(?=n't\b)|n't\b|'(?:s|re|ve|ll|d|m)\b|\w+|\.{2,}|[^\w\s]", re.IGNORECASE
)
"""As spaCy cuts, which made the stories' tokens."""
NO_SPACE_BEFORE = re.compile(r" (?=[.,!?;:]|n't\b|'(?:s|re|ve|ll|d|m)\b)")


@dataclass(frozen=True)
class Parse:
    """What a sentence was found to state."""

    tokens: tuple[str, ...]
    """Those that are read."""
    propositions: tuple[Proposition, ...]
    unknown: tuple[str, ...]
    """Words of the sentence that the model does not know, or knows by their base form only."""
    beyond: int = 0
    """How many tokens the sentence has beyond what the model reads."""


@dataclass(frozen=True)
class Writing:
    """The sentence written for some propositions."""

    text: str
    propositions: tuple[Proposition, ...]
    unknown: tuple[str, ...]


def tokenize(text: str) -> tuple[str, ...]:
    """A sentence as the stories' tokens: punctuation and contractions apart (`didn't` -> `did`, `n't`)."""
    return tuple(WORDS.findall(text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")))


def in_its_case(vocabulary: Vocabulary, words: Sequence[str]) -> tuple[str, ...]:
    """Words as the model's data write them: in lower case, as the stories are; where they had capitals as given, unless it knows only the
    word in lower case, as at the beginning of a sentence."""
    if not vocabulary.cased:
        return tuple(word.lower() for word in words)
    return tuple(word.lower() if word not in vocabulary and word.lower() in vocabulary else word for word in words)


def read_propositions(words: Sequence[str], places: int) -> tuple[Proposition, ...]:
    """Propositions as written on a command line, `girl,find,needle`.

    Raises:
        DataError: one has not three parts, or there are none or more than the model's `places`.
    """
    found: list[Proposition] = []
    for word in words:
        parts = word.split(",")
        if len(parts) != 3 or not all(parts):
            raise DataError(f"proposition {word!r} has not three parts; allowed: entity,relation,value, as in girl,find,needle")
        found.append((parts[0], parts[1], parts[2]))
    if not 1 <= len(found) <= places:
        raise DataError(f"{len(found)} propositions were given; allowed: 1 to {places} for one sentence")
    return tuple(found)


@torch.no_grad()
def parse_texts(model: Checkpoint, texts: Sequence[str]) -> list[Parse]:
    """The propositions of each sentence, in its order; a sentence beyond the model's length is read as far as that goes.

    Raises:
        DataError: a text holds no word.
    """
    sentences = [Sentence("", in_its_case(model.vocabulary, tokenize(text)), ()) for text in texts]
    for text, sentence in zip(texts, sentences, strict=True):
        if not sentence.tokens:
            raise DataError(f"{text!r} holds no word; give one sentence, as in 'The girl found a needle.'")
    parameters = model.network.with_tables(model.store.views)

    def work(split: Split) -> Tensor:
        return parse_ids(model.network, parameters, split.tokens_NT[None], split.unknowns).propositions_KBP3

    found = []
    for sentence, (row, word) in zip(sentences, _rows(model, sentences, work), strict=True):
        stated = [(word(e), word(r), word(v)) for e, r, v in row.tolist() if e != PAD]
        there = sentence.tokens[: model.max_tokens]
        found.append(Parse(there, tuple(stated), _unknown(model, there), len(sentence.tokens) - len(there)))
    return found


@torch.no_grad()
def generate_texts(model: Checkpoint, propositions: Sequence[Sequence[Proposition]]) -> list[Writing]:
    """A sentence for each group of propositions."""
    stated = [[in_its_case(model.vocabulary, words) for words in group] for group in propositions]
    sentences = [Sentence("", ("",), tuple((entity, relation, value) for entity, relation, value in group)) for group in stated]
    parameters = model.network.with_tables(model.store.views)

    def work(split: Split) -> Tensor:
        return generate_ids(model.network, parameters, split.propositions_NQ3[None], split.unknowns)

    written = []
    for sentence, (row, word) in zip(sentences, _rows(model, sentences, work), strict=True):
        text = NO_SPACE_BEFORE.sub("", " ".join(word(number) for number in row.tolist() if number != PAD))
        written.append(Writing(text, sentence.propositions, _unknown(model, [word for p in sentence.propositions for word in p])))
    return written


def _rows(
    model: Checkpoint, sentences: Sequence[Sentence], work: Callable[[Split], Tensor]
) -> Iterator[tuple[Tensor, Callable[[int], str]]]:
    """One row of ids for each sentence, worked off in small batches, and what turns its ids into words."""
    for start in range(0, len(sentences), AT_ONCE):
        batch = encode_sentences(sentences[start : start + AT_ONCE], model.vocabulary, model.max_tokens).to(model.store.device)
        for row in work(batch)[0].cpu():
            yield row, batch.unknowns.word


def _unknown(model: Checkpoint, words: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for word in words if model.vocabulary.id(word) == UNKNOWN))
