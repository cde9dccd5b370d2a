"""From sentences to tensors: reading, splitting by story, the symbol table, the ceiling, length classes.

Knows the data contract (one sentence a line of JSON) and nothing of networks. The symbol table is shared by tokens, entities,
relations and values and comes from the train split alone; a word it does not hold is `UNKNOWN` and always counts as wrong.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.config import ROLES
from model.errors import DataError
from model.stories import Sentence, tell_stories

PAD, UNKNOWN = 0, 1
SPECIAL_SYMBOLS = ("<pad>", "<unknown>")
SPLITS = ("train", "valid", "test")
MAX_TOKENS = 64
FORM = '{"story_id": str, "tokens": [str], "propositions": [[entity, relation, value], ...]}'
WORD_LENGTH = 256
ENDING_LENGTH, ENDING_SHARED_BY = 3, 4
INFLECTIONS = (
    *(("ies", ("y",)), ("ied", ("y",)), ("es", ("e", "")), ("s", ("",)), ("ing", ("", "e")), ("ed", ("e", ""))),
    *(("ier", ("y",)), ("iest", ("y",)), ("er", ("", "e")), ("est", ("", "e"))),
)
BASE_LENGTH = 3
LINE_BYTES = 1 << 20


def _fault(line: Any) -> str | None:
    """What is wrong with one decoded line, or None."""
    if not isinstance(line, dict):
        return f"it is a {type(line).__name__}, not an object"
    if missing := [key for key in ("story_id", "tokens", "propositions") if key not in line]:
        return f"it has no {missing[0]!r}"
    if not isinstance(line["story_id"], str):
        return f"story_id is {line['story_id']!r}, not a string"
    if not _words(line["tokens"]) or not line["tokens"]:
        return "tokens is not a list of one or more words"
    if not isinstance(line["propositions"], list):
        return "propositions is not a list"
    for number, parts in enumerate(line["propositions"], 1):
        if not _words(parts) or len(parts) != 3:
            return f"proposition {number} is {json.dumps(parts)[:80]}, not [entity, relation, value]"
    return None


def _words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) and 0 < len(word) <= WORD_LENGTH for word in value)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        number = 0
        while line := file.readline(LINE_BYTES + 1):
            number += 1
            if len(line) > LINE_BYTES:
                raise DataError(f"{path}, line {number}: longer than {LINE_BYTES:,} bytes; a line holds one sentence: {FORM}")
            yield number, line


def read_jsonl(path: Path, stories: int | None = None) -> list[Sentence]:
    """The sentences of a `.jsonl` or `.jsonl.gz` file, of its first `stories` story ids.

    Raises:
        DataError: the file is missing, empty or not of the form; names file, line and fault.
    """
    if not path.is_file():
        raise DataError(f"there is no data file {path}; allowed: 'synthetic' or a .jsonl[.gz] file of lines {FORM}")
    sentences: list[Sentence] = []
    seen: set[str] = set()
    try:
        for number, raw in _lines(path):
            sentence = _parse_line(path, number, raw)
            if sentence.story_id not in seen and stories is not None and len(seen) >= stories:
                continue
            seen.add(sentence.story_id)
            sentences.append(sentence)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not sentences:
        raise DataError(f"{path} is empty; a line of it must be {FORM}")
    return sentences


def _parse_line(path: Path, number: int, raw: bytes) -> Sentence:
    where = f"{path}, line {number}"
    try:
        line = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 (byte {error.start}); save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}); a line must be {FORM}") from error
    if fault := _fault(line):
        raise DataError(f"{where}: {fault}; a line must be {FORM}")
    return Sentence(line["story_id"], tuple(line["tokens"]), tuple((e, r, v) for e, r, v in line["propositions"]))


def _few(stories: int | None) -> str:
    return "all" if stories is None else str(stories)


def load_sentences(source: str, stories: int | None, seed: int) -> tuple[str, list[Sentence]]:
    """The data's short name (as it stands in a study's name) and its sentences.

    Args:
        source: `synthetic` or the path of a data file.
        stories: the first so many story ids; None for all (synthetic: 300).
        seed: the synthetic stories' seed.
    """
    if source == "synthetic":
        count = stories or 300
        return f"synthetic-{count}", tell_stories(count, seed)
    path = Path(source)
    if source == "tinystories" or not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise DataError(f"data = {source!r} is not known; allowed: 'synthetic' or the path of a .jsonl or .jsonl.gz file of lines {FORM}")
    sentences = read_jsonl(path, stories)
    digest = hashlib.sha256(repr([(s.tokens, s.propositions) for s in sentences]).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{path.name.removesuffix('.gz').removesuffix('.jsonl')}-{digest[:4]}", sentences


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


def base_forms(word: str) -> Iterator[str]:
    """What the word may be an inflection of, by English spelling alone: `stories` -> `story`, `stopped` -> `stop`, `made` -> nothing."""
    for ending, replacements in INFLECTIONS:
        stem = word.removesuffix(ending)
        if stem != word:
            doubled = [stem[:-1]] if len(stem) > 2 and stem[-1] == stem[-2] else []
            yield from (base for base in (*(stem + letters for letters in replacements), *doubled) if len(base) >= BASE_LENGTH)


class Vocabulary:
    """The symbol table: special symbols first, then words by falling frequency, then by alphabet; and the words' endings.

    Input ids go beyond the table: an unknown word is read as `len(vocabulary) + ending`, so that its ending still says something.
    """

    def __init__(self, symbols: Sequence[str], endings: Sequence[str]) -> None:
        self.symbols, self.endings = tuple(symbols), tuple(endings)
        self._ids = {symbol: number for number, symbol in enumerate(self.symbols) if number >= len(SPECIAL_SYMBOLS)}
        self._endings = {ending: number for number, ending in enumerate(self.endings)}

    @classmethod
    def of(cls, sentences: Sequence[Sentence]) -> Vocabulary:
        """The table of every token, entity, relation and value of `sentences` (the train split)."""
        counts = Counter(word for s in sentences for word in s.tokens)
        counts.update(word for s in sentences for proposition in s.propositions for word in proposition)
        words = sorted(counts, key=lambda word: (-counts[word], word))
        shared = Counter(word[-length:] for word in words for length in range(1, ENDING_LENGTH + 1) if len(word) > length)
        endings = [ending for ending, count in shared.items() if count >= ENDING_SHARED_BY]
        return cls([*SPECIAL_SYMBOLS, *words], ["", *sorted(endings)])

    def __len__(self) -> int:
        return len(self.symbols)

    def __contains__(self, word: str) -> bool:
        return self.id(word) != UNKNOWN

    def id(self, word: str) -> int:
        """The word's number; `<pad>` written in a text is a word like any other."""
        return self._ids.get(word, UNKNOWN)

    def ending(self, word: str) -> int:
        """The number of the longest ending of the word that several words of train share."""
        longest = range(min(ENDING_LENGTH, len(word) - 1), 0, -1)
        return next((self._endings[word[-length:]] for length in longest if word[-length:] in self._endings), 0)

    def base(self, word: str) -> int:
        """The symbol of the word's base form by the spelling (`needles` -> `needle`); PAD if the table holds none."""
        return next((self._ids[base] for base in base_forms(word) if base in self._ids), PAD)

    def input_id(self, word: str) -> int:
        """The number under which the word is read: its symbol, else its base form's, else its ending's."""
        return self._ids.get(word) or self.base(word) or len(self) + self.ending(word)

    def symbol_bases(self) -> list[int]:
        """The base form of every symbol of the table, PAD where there is none."""
        return [PAD] * len(SPECIAL_SYMBOLS) + [self.base(word) for word in self.symbols[len(SPECIAL_SYMBOLS) :]]

    def symbol_endings(self) -> list[int]:
        """The ending of every symbol of the table."""
        return [0] * len(SPECIAL_SYMBOLS) + [self.ending(word) for word in self.symbols[len(SPECIAL_SYMBOLS) :]]


@dataclass(frozen=True)
class Split:
    """One split as tensors. N sentences, T tokens at most, Q propositions at most (also beyond the model's places)."""

    tokens_NT: Tensor
    propositions_NQ3: Tensor
    token_counts_N: Tensor
    proposition_counts_N: Tensor
    stories_N: tuple[str, ...]
    cut_tokens: int

    def __len__(self) -> int:
        return len(self.stories_N)

    def to(self, device: torch.device) -> Split:
        """The same split with its tensors on `device`."""
        return Split(
            self.tokens_NT.to(device),
            self.propositions_NQ3.to(device),
            self.token_counts_N.to(device),
            self.proposition_counts_N.to(device),
            self.stories_N,
            self.cut_tokens,
        )


def encode_sentences(sentences: Sequence[Sentence], vocabulary: Vocabulary, max_tokens: int) -> Split:
    """Sentences as tensors; tokens beyond `max_tokens` are cut off and counted."""
    kept = [s.tokens[:max_tokens] for s in sentences]
    tokens = np.zeros((len(kept), max(map(len, kept), default=1)), dtype=np.int64)
    propositions = np.zeros((len(kept), max(1, *(len(s.propositions) for s in sentences), 1), 3), dtype=np.int64)
    for row, (words, sentence) in enumerate(zip(kept, sentences, strict=True)):
        tokens[row, : len(words)] = [vocabulary.input_id(word) for word in words]
        for place, parts in enumerate(sentence.propositions):
            propositions[row, place] = [vocabulary.id(word) for word in parts]
    return Split(
        torch.from_numpy(tokens),
        torch.from_numpy(propositions),
        torch.tensor([len(words) for words in kept], dtype=torch.int64),
        torch.tensor([len(s.propositions) for s in sentences], dtype=torch.int64),
        tuple(s.story_id for s in sentences),
        sum(len(s.tokens) - len(words) for s, words in zip(sentences, kept, strict=True)),
    )


@dataclass(frozen=True)
class LengthClass:
    """Sentences of about one length, from which every trial draws its batches anew in each epoch, padded to one width for all.

    The sentences stand in the order of their number of propositions. A batch takes one of every `len(batches)` neighbours in that order, so
    no batch of the class has more than `facts` propositions in all, whoever draws it: they can be packed without padding.
    """

    sentences: Tensor
    tokens: int
    propositions: int
    facts: int
    batches: tuple[int, ...]

    def draw(self, generator: torch.Generator) -> Tensor:
        """The sentences of the class in a random order, one batch after the other."""
        number, count = len(self.batches), len(self.sentences)
        strata = torch.arange(count) // number
        shuffled = (strata + torch.rand(count, generator=generator, dtype=torch.float64)).argsort()
        return torch.cat([self.sentences[shuffled[batch::number]] for batch in range(number)])


class Corpus:
    """All splits of one data set with its vocabulary; what a trainer is built on."""

    def __init__(self, name: str, sentences: Sequence[Sentence], seed: int, vocabulary: Vocabulary | None = None) -> None:
        """Splits `sentences` by story; with a `vocabulary` given (a checkpoint's), that one is used.

        Raises:
            DataError: too few stories for three splits.
        """
        self.name, self.seed = name, seed
        self.sentences, self.left_out = split_sentences(sentences, seed)
        stories = len({s.story_id for s in sentences})
        if not all(any(s.propositions for s in self.sentences[split]) for split in SPLITS):
            raise DataError(f"{name}: {stories} stories leave a split without propositions; at least 30 stories are advisable")
        self.vocabulary = vocabulary or Vocabulary.of(self.sentences["train"])
        self.max_tokens = min(MAX_TOKENS, max(len(s.tokens) for s in self.sentences["train"]))

    @cached_property
    def fingerprint(self) -> str:
        """A digest of every sentence and of the split."""
        content = repr([(split, s.story_id, s.tokens, s.propositions) for split in SPLITS for s in self.sentences[split]])
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @cached_property
    def splits(self) -> dict[str, Split]:
        """The splits as tensors on the CPU."""
        return {split: encode_sentences(self.sentences[split], self.vocabulary, self.max_tokens) for split in SPLITS}

    def ceiling(self, split: str, places: int) -> dict[str, float]:
        """The best accuracy that unknown words and the number of `places` leave possible."""
        return ceiling(self.sentences[split], self.vocabulary, places)

    def most_frequent(self, split: str) -> dict[str, float]:
        """What always answering train's most frequent entity, relation and value scores on `split`."""
        return answer_always(self.sentences[split], self.answers)

    @cached_property
    def answers(self) -> list[str]:
        """Train's most frequent entity, relation and value."""
        counts = [Counter(p[role] for s in self.sentences["train"] for p in s.propositions) for role in range(3)]
        return [max(count, key=lambda word: (count[word], word)) for count in counts]

    def symbol_counts(self, split: str = "train") -> dict[str, list[int]]:
        """How often each symbol of the table stands in `split` as a token and in each of the three roles."""
        words = {"text": Counter(word for s in self.sentences[split] for word in s.tokens)}
        for role, name in enumerate(ROLES):
            words[name] = Counter(p[role] for s in self.sentences[split] for p in s.propositions)
        return {name: [counts[symbol] for symbol in self.vocabulary.symbols] for name, counts in words.items()}


def load_corpus(source: str, stories: int | None, seed: int, vocabulary: Vocabulary | None = None) -> Corpus:
    """Reads the data `source` and splits it; see `load_sentences` and `Corpus`."""
    name, sentences = load_sentences(source, stories, seed)
    return Corpus(name, sentences, seed, vocabulary)


def ceiling(sentences: Sequence[Sentence], vocabulary: Vocabulary, places: int) -> dict[str, float]:
    """The share of gold words that the symbol table holds, by component and for whole triples."""
    known = [[word in vocabulary and place < places for word in p] for s in sentences for place, p in enumerate(s.propositions)]
    shares = [sum(row[role] for row in known) / max(1, len(known)) for role in range(3)]
    exact = sum(all(row) for row in known) / max(1, len(known))
    return {**dict(zip(ROLES, shares, strict=True)), "component_accuracy": sum(shares) / 3, "exact": exact}


def answer_always(sentences: Sequence[Sentence], answers: Sequence[str]) -> dict[str, float]:
    """The accuracy of one constant answer per component."""
    gold = [p for s in sentences for p in s.propositions]
    shares = [sum(p[role] == answers[role] for p in gold) / max(1, len(gold)) for role in range(3)]
    return {**dict(zip(ROLES, shares, strict=True)), "component_accuracy": sum(shares) / 3}


def length_classes(split: Split, batch_size: int, places: int) -> list[LengthClass]:
    """Cuts a split into classes of two to sixteen batches of similar length, about 24 of them where the data suffice.

    The cut depends on the data and the batch size alone, so fused neighbours agree on every padded width at every step,
    whenever each of them was loaded.
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
