"""Files from strangers: thousands of damaged definitions, data, checkpoints and snapshots; none may end in anything but an error of ours.

python -m tests.fuzz --inputs 10000 --json

Each is made from a sound file by a few random changes: bytes, slices, lines, numbers that are far too large, things of another type, deep
nesting; of checkpoints and snapshots the header by itself too, with its length put right. The same seed makes the same files. The process
may take 1 GiB more than it has at the start, so that what would fill the memory ends as an error that is not ours. What does it is kept.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import studies
from model.checkpoint import load_checkpoint, save_checkpoint
from model.config import Hyperparameters, ModelShape
from model.corpus import load_corpus
from model.errors import ModelError
from model.sources import DataSource, read_jsonl
from model.trainer import FusedTrainer
from tuner.definition import load_definition
from tuner.errors import TunerError
from tuner.seam import Held
from tuner.states import SearchState, SlotState, read_state, write_state

ROOM = 1 << 30
STRANGE = (
    *(b"1e999", b"-1", b"0", b"999999999999999999999999", b"1000000000", b"null", b"NaN", b"-Infinity", b"true", b'""', b"{}", b"[]"),
    *(b'"\\ud800"', b"\xff\xfe", b"\x00", b"[" * 5000, b'{"a":' * 3000, b"[[]]", b"1.5", b'"' + b"a" * 5000 + b'"', b"\n\n", b"'", b"="),
)
NUMBER = re.compile(rb"-?\d+(\.\d+)?(e-?\d+)?")
LENGTH = 8
"""Bytes before the header of a file of numbers, which say how long it is."""


def damaged(sound: bytes, chance: random.Random) -> bytes:
    """A few changes."""
    made = sound
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        made = chance.choice(CHANGES)(made, chance)
    return made


def _slice(data: bytes, chance: random.Random, longest: int = 200) -> tuple[int, int]:
    start = chance.randrange(len(data) + 1)
    return start, min(len(data), start + chance.randrange(longest))


def _flip(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(max(1, len(data)))
    return data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]


def _drop(data: bytes, chance: random.Random) -> bytes:
    start, end = _slice(data, chance)
    return data[:start] + data[end:]


def _double(data: bytes, chance: random.Random) -> bytes:
    start, end = _slice(data, chance)
    return data[:end] + data[start:end] * chance.choice((1, 1, 50)) + data[end:]


def _insert(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data) + 1)
    return data[:place] + chance.choice(STRANGE) + data[place:]


def _number(data: bytes, chance: random.Random) -> bytes:
    found = list(NUMBER.finditer(data[:100_000]))
    if not found:
        return _insert(data, chance)
    one = chance.choice(found)
    return data[: one.start()] + chance.choice(STRANGE) + data[one.end() :]


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _lines(data: bytes, chance: random.Random) -> bytes:
    lines = data.split(b"\n")
    chance.shuffle(lines)
    return b"\n".join(lines)


CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (_flip, _drop, _double, _insert, _number, _number, _cut, _lines)


def damaged_numbers(sound: bytes, chance: random.Random) -> bytes:
    """A file of numbers: its header by itself in two of three cases."""
    if chance.random() < 1 / 3:
        return damaged(sound, chance)
    length = int.from_bytes(sound[:LENGTH], "little")
    header = damaged(sound[LENGTH : LENGTH + length], chance)
    return len(header).to_bytes(LENGTH, "little") + header + sound[LENGTH + length :]


def sound_files(folder: Path) -> dict[str, bytes]:
    """A small one of each kind."""
    corpus = load_corpus("synthetic", 12, 1)
    trainer = FusedTrainer(ModelShape(hidden_dim=16, batch_size=8), corpus, 1)
    trainer.load(0, Hyperparameters(num_rules=2))
    save_checkpoint(folder / "sound", trainer, 0, DataSource("synthetic", 12, 1), None)
    slot = SlotState(3, ({"objective": 0.5, "loss": float("nan")},), 1.5, Held({"values": torch.zeros(3, 2)}, {"epoch": 1}))
    write_state(folder / "state", SearchState("mark", 7, (0, 1), ((slot,),), (), {"total": 1.0}, (4, 4), (1,)))
    sentences = [
        {"story_id": s.story_id, "tokens": list(s.tokens), "propositions": [list(p) for p in s.propositions]}
        for s in corpus.sentences["train"][:8]
    ]
    return {
        "definition": studies.read("quick"),
        "data": "\n".join(json.dumps(sentence) for sentence in sentences).encode(),
        "checkpoint": (folder / "sound").read_bytes(),
        "snapshot": (folder / "state").read_bytes(),
    }


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "definition": ("x.toml", lambda path: load_definition(str(path))),
    "data": ("x.jsonl", read_jsonl),
    "checkpoint": ("x.safetensors", lambda path: load_checkpoint(path, torch.device("cpu"))),
    "snapshot": ("y.safetensors", read_state),
}


def fuzz(kind: str, sound: bytes, inputs: int, seed: int, folder: Path) -> dict[str, Any]:
    """So many damaged files of a kind: how many were taken as they are, refused, or ended otherwise."""
    name, read = READERS[kind]
    chance, counts, wrong = random.Random(f"{kind} {seed}"), Counter({"taken": 0, "refused": 0, "wrong": 0}), []
    read_from = folder / name
    read_from.write_bytes(sound)
    read(read_from)  # it is sound
    for number in range(inputs):
        made = (damaged_numbers if kind in ("checkpoint", "snapshot") else damaged)(sound, chance)
        read_from.write_bytes(made)
        try:
            read(read_from)
            counts["taken"] += 1
        except (TunerError, ModelError):
            counts["refused"] += 1
        except Exception as error:  # noqa: BLE001  what it is is told, with the file that did it
            counts["wrong"] += 1
            kept = Path(tempfile.gettempdir()) / f"fuzz-{kind}-{seed}-{number}"
            kept.write_bytes(made)
            where = traceback.extract_tb(error.__traceback__)[-1]
            wrong.append(f"{type(error).__name__}: {str(error)[:200]} ({where.filename}, line {where.lineno}); {kept}")
    return {**counts, "errors": wrong[:10]}


def main() -> None:
    """Fuzzes and prints; status 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        sound = sound_files(Path(name))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, resource.RLIM_INFINITY))
        found: dict[str, Any] = {kind: fuzz(kind, sound[kind], options.inputs, options.seed, Path(name)) for kind in READERS}
    found["seconds"] = round(time.perf_counter() - began, 1)
    print(json.dumps(found) if options.json else json.dumps(found, indent=1))
    raise SystemExit(any(found[kind]["wrong"] for kind in READERS))


if __name__ == "__main__":
    main()
