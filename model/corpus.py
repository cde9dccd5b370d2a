"""From sentences to tensors: splitting by story, encoding, the ceiling, length classes. Knows nothing of networks."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.alignment import alignments, verbs_read
from model.config import ROLES
from model.errors import DataError
from model.extraction import Progress, silent
from model.sources import load_sentences
from model.stories import Sentence
from model.vocabulary import Unknowns, Vocabulary, singular

SPLITS = ("train", "valid", "test")
MAX_TOKENS = 64
HARDLY_ANY = 0.01
"""There is no warning while at most this share of the sentences is longer than the model reads."""
TENSORS = ("tokens_NT", "gold_tokens_NT", "propositions_NQ3", "token_counts_N", "proposition_counts_N")


def split_stories(story_ids: Iterable[str], seed: int) -> dict[str, str]:
    """Story id -> split: 80/10/10, cut by the rank of a hash of story id and seed."""
    ranked = sorted(dict.fromkeys(story_ids), key=lambda story: hashlib.sha256(f"{seed}:{story}".encode("utf-8", "surrogatepass")).digest())
    train, valid = round(0.8 * len(ranked)), round(0.9 * len(ranked))
    return {story: "train" if rank < train else "valid" if rank < valid else "test" for rank, story in enumerate(ranked)}


def split_sentences(sentences: Sequence[Sentence], seed: int) -> tuple[dict[str, list[Sentence]], dict[str, int]]:
    """The sentences of each split, and how many of valid and test are left out because they stand word for word in train."""
    place = split_stories((s.story_id for s in sentences), seed)
    parts = {split: [s for s in sentences if place[s.story_id] == split] for split in SPLITS}
    trained = {s.tokens for s in parts["train"]}
    fresh = {split: [s for s in parts[split] if s.tokens not in trained] for split in ("valid", "test")}
    return {"train": parts["train"], **fresh}, {split: len(parts[split]) - len(fresh[split]) for split in fresh}


@dataclass(frozen=True)
class Split:
    """One split as tensors. N sentences, T tokens at most, Q propositions at most (also beyond the model's places)."""

    tokens_NT: Tensor
    """As the model reads them: an unknown word has the id of its base form, or an id of its own."""
    gold_tokens_NT: Tensor
    """As they are scored: every unknown word has an id of its own."""
    propositions_NQ3: Tensor
    token_counts_N: Tensor
    proposition_counts_N: Tensor
    stories_N: tuple[str, ...]
    unknowns: Unknowns

    def __len__(self) -> int:
        return len(self.stories_N)

    def first(self, sentences: int) -> Split:
        """The first so many sentences, or all."""
        tensors = {name: getattr(self, name)[:sentences] for name in TENSORS}
        return replace(self, **tensors, stories_N=self.stories_N[:sentences])

    def to(self, device: torch.device) -> Split:
        """The same split with its tensors on `device`."""
        moved = {name: getattr(self, name).to(device) for name in TENSORS}
        return replace(self, **moved, unknowns=self.unknowns.to(device))


def encode_sentences(sentences: Sequence[Sentence], vocabulary: Vocabulary, max_tokens: int) -> Split:
    """Sentences as tensors; tokens beyond `max_tokens` are cut off."""
    kept = [s.tokens[:max_tokens] for s in sentences]
    tokens = np.zeros((len(kept), max(map(len, kept), default=1)), dtype=np.int64)
    gold = np.zeros_like(tokens)
    propositions = np.zeros((len(kept), max([1, *(len(s.propositions) for s in sentences)]), 3), dtype=np.int64)
    unknowns = Unknowns(vocabulary)
    for row, (words, sentence) in enumerate(zip(kept, sentences, strict=True)):
        tokens[row, : len(words)] = [unknowns.token_id(word) for word in words]
        gold[row, : len(words)] = [unknowns.id(word) for word in words]
        for place, parts in enumerate(sentence.propositions):
            propositions[row, place] = [unknowns.id(word) for word in parts]
    return Split(
        torch.from_numpy(tokens),
        torch.from_numpy(gold),
        torch.from_numpy(propositions),
        torch.tensor([len(words) for words in kept], dtype=torch.int64),
        torch.tensor([len(s.propositions) for s in sentences], dtype=torch.int64),
        tuple(s.story_id for s in sentences),
        unknowns.to(torch.device("cpu")),
    )


@dataclass(frozen=True)
class LengthClass:
    """Sentences of similar length, all padded to one width, from which every trial draws new batches in each epoch.

    They are sorted by their number of propositions. A batch takes one sentence of every `len(batches)` consecutive ones, so no batch of the
    class, in whatever trial, has more than `facts` propositions in all: they can be packed without padding.
    """

    sentences: Tensor
    tokens: int
    propositions: int
    facts: int
    batches: tuple[int, ...]

    def draw(self, chances_KN: Tensor) -> Tensor:
        """The sentences of the class in a random order, one batch after the other, from as many numbers in [0, 1): `rows_KN`."""
        number, place_N = len(self.batches), torch.arange(len(self.sentences), device=chances_KN.device)
        shuffled_KN = (place_N // number + chances_KN).argsort(dim=1)
        dealt_N = torch.cat([place_N[batch::number] for batch in range(number)])
        return self.sentences[shuffled_KN[:, dealt_N]]

    def to(self, device: torch.device) -> LengthClass:
        """The same on `device`."""
        return replace(self, sentences=self.sentences.to(device))


class Corpus:
    """All splits of one data set with its vocabulary; what a trainer is built on."""

    def __init__(self, name: str, sentences: Sequence[Sentence], seed: int) -> None:
        """Splits `sentences` by story.

        Raises:
            DataError: too few stories for three splits.
        """
        self.name, self.seed, self._given = name, seed, sentences
        self.sentences, self.left_out = split_sentences(sentences, seed)
        self.stories = stories = len({s.story_id for s in sentences})
        """How many there are."""
        if not any(s.propositions for s in sentences):
            raise DataError(f"{name}: none of its {len(sentences):,} sentences has propositions, so there is nothing to learn from them")
        if not all(any(s.propositions for s in self.sentences[split]) for split in SPLITS):
            left = sum(self.left_out.values())
            raise DataError(
                f"{name}: {stories} stories leave a split without propositions ({left} sentences are left out as repeats of train); "
                "at least 30 stories of different sentences are advisable"
            )
        train = self.sentences["train"]
        self.max_tokens = min(MAX_TOKENS, max(len(s.tokens) for s in train))
        self.vocabulary = Vocabulary.of(train, verbs_read(train, self.aligned_NQ3))

    def content(self) -> dict[str, Any]:
        """All that it is made of, as JSON can hold it."""
        return {"name": self.name, "seed": self.seed, "sentences": [[s.story_id, s.tokens, s.propositions] for s in self._given]}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Corpus:
        """The same corpus again."""
        keys = ("story_id", "tokens", "propositions")
        return cls(content["name"], [Sentence.of(dict(zip(keys, row, strict=True))) for row in content["sentences"]], content["seed"])

    @cached_property
    def fingerprint(self) -> str:
        """See `fingerprint_of`."""
        return fingerprint_of(self.sentences)

    @cached_property
    def splits(self) -> dict[str, Split]:
        """The splits as tensors on the CPU."""
        return {split: encode_sentences(self.sentences[split], self.vocabulary, self.max_tokens) for split in SPLITS}

    @property
    def too_long(self) -> str:
        """What is to be said of sentences longer than the model reads; see `too_long`."""
        return too_long([s for split in SPLITS for s in self.sentences[split]], self.max_tokens)

    @cached_property
    def aligned_NQ3(self) -> Tensor:
        """Which tokens the propositions of train come from; see `alignments`. Worked out once, whatever shapes are trained."""
        train = self.sentences["train"]
        return alignments(train, max(len(s.propositions) for s in train), self.max_tokens)

    def ceiling(self, split: str, places: int) -> dict[str, float]:
        """The best accuracy that train's words and the number of `places` leave possible without copying."""
        return ceiling(self.sentences[split], self.vocabulary, places)

    def nameable(self, split: str, places: int) -> dict[str, float]:
        """The best accuracy that is possible at all; see `nameable`."""
        return nameable(self.sentences[split], self.vocabulary, places, self.max_tokens)

    def most_frequent(self, split: str) -> dict[str, float]:
        """What always answering train's most frequent entity, relation and value scores on `split`."""
        return answer_always(self.sentences[split], self.answers)

    @cached_property
    def answers(self) -> list[str]:
        """Train's most frequent entity, relation and value."""
        counts = [Counter(p[role] for s in self.sentences["train"] for p in s.propositions) for role in range(3)]
        return [max(count, key=lambda word: (count[word], word)) for count in counts]

    def symbol_counts(self) -> list[int]:
        """How often each symbol of the table stands in train's sentences."""
        counts = Counter(word for s in self.sentences["train"] for word in s.tokens)
        return [counts[symbol] for symbol in self.vocabulary.symbols]


def fingerprint_of(splits: Mapping[str, Sequence[Sentence]]) -> str:
    """A digest of every sentence and of the split."""
    content = repr([(split, s.story_id, s.tokens, s.propositions) for split in SPLITS for s in splits[split]])
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def load_corpus(source: str, stories: int | None, seed: int, progress: Progress = silent) -> Corpus:
    """Reads the data `source` and splits it; see `load_sentences` and `Corpus`."""
    name, sentences = load_sentences(source, stories, seed, progress)
    return Corpus(name, sentences, seed)


def ceiling(sentences: Sequence[Sentence], vocabulary: Vocabulary, places: int) -> dict[str, float]:
    """The share of gold words that the symbol table holds, by component and for whole triples: how far one comes without copying."""
    return _shares([[word in vocabulary for word in p] for s in sentences for p in s.propositions[:places]], sentences)


def too_long(sentences: Sequence[Sentence], most: int) -> str:
    """What is to be said of sentences with more than so many tokens; nothing where they are hardly any."""
    count = sum(len(s.tokens) > most for s in sentences)
    lost = "the rest of them is not read, and what it states counts as wrong"
    return f"{count:,} of {len(sentences):,} sentences have more than {most} tokens: {lost}" if count > HARDLY_ANY * len(sentences) else ""


def nameable(sentences: Sequence[Sentence], vocabulary: Vocabulary, places: int, most_tokens: int) -> dict[str, float]:
    """The share of gold words that can be named at all: the symbol table holds them, or they are copied from as much of the sentence as is
    read."""
    named = []
    for sentence in sentences:
        copied = {singular(word) for word in sentence.tokens[:most_tokens] if vocabulary.input_id(word) >= len(vocabulary)}
        stated = sentence.propositions[:places]
        named += [[word in vocabulary or (role != 1 and word in copied) for role, word in enumerate(p)] for p in stated]
    return _shares(named, sentences)


def _shares(right: list[list[bool]], sentences: Sequence[Sentence]) -> dict[str, float]:
    total = max(1, sum(len(s.propositions) for s in sentences))
    shares = [sum(row[role] for row in right) / total for role in range(3)]
    exact = sum(map(all, right)) / total
    return {**dict(zip(ROLES, shares, strict=True)), "component_accuracy": sum(shares) / 3, "exact": exact}


def answer_always(sentences: Sequence[Sentence], answers: Sequence[str]) -> dict[str, float]:
    """The accuracy of one constant answer per component."""
    gold = [p for s in sentences for p in s.propositions]
    shares = [sum(p[role] == answers[role] for p in gold) / max(1, len(gold)) for role in range(3)]
    return {**dict(zip(ROLES, shares, strict=True)), "component_accuracy": sum(shares) / 3}


def length_classes(split: Split, batch_size: int, places: int) -> list[LengthClass]:
    """Cuts a split into classes of sentences of similar length: about 24, each of 2 to 16 batches; fewer for little data, more for much.

    The cut depends only on the data, the batch size and the number of places, so fused neighbours agree on every padded width at every
    step, whenever each of them was loaded.
    """
    counts_N = split.proposition_counts_N.clamp(max=places)
    order_N = (split.token_counts_N * (places + 1) + counts_N).argsort(stable=True)
    size = batch_size * min(16, max(2, round(len(split) / batch_size / 24)))
    return [_length_class(split, rows[counts_N[rows].argsort(stable=True)], counts_N, batch_size) for rows in torch.split(order_N, size)]


def _length_class(split: Split, rows: Tensor, counts_N: Tensor, batch_size: int) -> LengthClass:
    number = math.ceil(len(rows) / batch_size)
    batches = tuple(len(range(batch, len(rows), number)) for batch in range(number))
    largest = [counts_N[stratum].max() for stratum in torch.split(rows, number)]
    width, places = int(split.token_counts_N[rows].max()), max(1, int(counts_N[rows].max()))
    return LengthClass(rows, width, places, max(1, int(sum(largest))), batches)
