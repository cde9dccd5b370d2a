"""Where sentences come from: synthetic stories, a file of sentences, raw stories, the hub.

The contract is one sentence a line of JSON; whatever is not of that form is an error that names file, line and fault.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import DataError
from model.extraction import Progress, parse_stories, read_stories, silent
from model.files import is_there, room_for_text
from model.hub import hub_stories
from model.stories import Sentence, tell_stories

FORM = '{"story_id": str, "tokens": [str], "propositions": [[entity, relation, value], ...]}'
HUB = "tinystories"
SOURCES = f"'synthetic', 'tinystories', a .jsonl[.gz] file of lines {FORM} or a .txt[.gz] file of stories"
WORD_LENGTH = 256
LINE_BYTES = 1 << 20
MOST_PROPOSITIONS = 1000
"""Every sentence has as much room as the one with the most."""
MOST_SYNTHETIC = 1_000_000
PARSED_STORIES = Path("runs/cache/stories")


@dataclass(frozen=True)
class DataSource:
    """Which data a model was trained on, in the words of `--data`, `--num-stories` and the split's seed."""

    source: str
    stories: int | None
    seed: int


def _fault(line: Any) -> str | None:
    """What is wrong with one decoded line, or None."""
    if not isinstance(line, dict):
        return f"it is a {type(line).__name__}, not an object"
    if missing := [key for key in ("story_id", "tokens", "propositions") if key not in line]:
        return f"it has no {missing[0]!r}"
    if not isinstance(line["story_id"], str):
        return f"story_id is {line['story_id']!r}, not a string"
    if not isinstance(line["tokens"], list) or not line["tokens"]:
        return "tokens is not a list of one or more words"
    if fault := _no_word(line["tokens"]):
        return f"token {fault}"
    if not isinstance(line["propositions"], list):
        return "propositions is not a list"
    if len(line["propositions"]) > MOST_PROPOSITIONS:
        return f"it has {len(line['propositions']):,} propositions; allowed: up to {MOST_PROPOSITIONS:,} for one sentence"
    for number, parts in enumerate(line["propositions"], 1):
        if not isinstance(parts, list) or len(parts) != 3 or not all(isinstance(part, str) for part in parts):
            return f"proposition {number} is {json.dumps(parts)[:80]}, not [entity, relation, value]"
        if fault := _no_word(parts):
            return f"proposition {number}: part {fault}"
    return None


def _no_word(words: list[Any]) -> str | None:
    """Which of these is no word, and why; None if all are."""
    for number, word in enumerate(words, 1):
        if not isinstance(word, str):
            return f"{number} is {json.dumps(word)[:80]}, not a word"
        if not 0 < len(word) <= WORD_LENGTH:
            given = f"has {len(word):,} characters" if word else "is empty"
            return f"{number} {given}; allowed: words of 1 to {WORD_LENGTH} characters"
    return None


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
    if not is_there(path, DataError):
        raise DataError(f"there is no data file {path}; allowed: {SOURCES}")
    sentences: list[Sentence] = []
    seen: set[str] = set()
    room = room_for_text()
    try:
        for number, raw in _lines(path):
            sentence = _parse_line(path, number, raw)
            if sentence.story_id not in seen and stories is not None and len(seen) >= stories:
                continue
            seen.add(sentence.story_id)
            sentences.append(sentence)
            room -= len(raw)
            if room < 0:
                raise DataError(f"{path} has more sentences than this machine has memory for (line {number}); name --num-stories N")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not sentences:
        raise DataError(f"{path} is empty; a line of it must be {FORM}")
    return sentences


def _parse_line(path: Path, number: int, raw: bytes) -> Sentence:
    where = f"{path}, line {number}"
    if not raw.strip():
        raise DataError(f"{where}: an empty line; leave it out: a line must be {FORM}")
    try:
        line = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))  # the mark that some editors begin a file with
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 (byte {error.start}); save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}); a line must be {FORM}") from error
    if fault := _fault(line):
        raise DataError(f"{where}: {fault}; a line must be {FORM}")
    return Sentence.of(line)


def load_sentences(source: str, stories: int | None, seed: int, progress: Progress = silent) -> tuple[str, list[Sentence]]:
    """The data's short name (as it stands in a study's name) and its sentences.

    Args:
        source: `synthetic`, `tinystories` (the hub), or the path of a file of sentences (`.jsonl`) or of raw stories (`.txt`).
        stories: the first so many story ids; None for all (synthetic: 300).
        seed: the synthetic stories' seed.
        progress: is told how many raw stories of how many are parsed.

    Raises:
        DataError: the data cannot be had or are not of the form.
    """
    if source == "synthetic":
        count = stories or 300
        if count > MOST_SYNTHETIC:
            raise DataError(f"{count:,} synthetic stories are asked for; allowed: up to {MOST_SYNTHETIC:,}")
        return f"synthetic-{count}", tell_stories(count, seed)
    path = Path(source)
    stem = path.name.removesuffix(".gz")
    if source == HUB:
        sentences = parse_stories(_from_hub(stories), PARSED_STORIES, progress)
    elif stem.endswith(".txt"):
        sentences = parse_stories(read_stories(path, stories), PARSED_STORIES, progress)
    elif stem.endswith(".jsonl"):
        sentences = read_jsonl(path, stories)
    else:
        raise DataError(f"data = {source!r} is not known; allowed: {SOURCES}")
    digest = hashlib.sha256(repr([(s.tokens, s.propositions) for s in sentences]).encode("utf-8", "surrogatepass")).hexdigest()
    name = stem.removesuffix(".jsonl").removesuffix(".txt").encode("utf-8", "replace").decode()  # not every name of a file is text
    return f"{name}-{digest[:4]}", sentences


def _from_hub(stories: int | None) -> list[str]:
    if stories is None:
        raise DataError("data = 'tinystories' has two million stories, which take hours to parse; say how many with --num-stories N")
    return hub_stories(stories)
