"""What strangers send and what strangers see: damaged files end in our own errors, bombs in a limit, secrets nowhere."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from model import sources
from model.errors import DataError
from model.sources import read_jsonl

SENTENCE = {"story_id": "a", "tokens": ["the", "cat", "slept", "."], "propositions": [["cat", "type", "cat"]]}


def test_hundreds_of_damaged_files_end_in_errors_of_ours() -> None:
    """Definition, data, checkpoint, snapshot; `make fuzz` does ten thousand of each."""
    command = [sys.executable, "-m", "tests.fuzz", "--inputs", "400", "--seed", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert done.returncode == 0, found
    for kind in ("definition", "data", "checkpoint", "snapshot"):
        assert found[kind]["wrong"] == 0, found[kind]["errors"]
        assert found[kind]["refused"] > 100
        assert found[kind]["taken"] > 0


def test_a_bomb_is_refused_before_it_fills_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file of a million equal lines, and a line without an end; the first stories alone may be taken."""
    path = tmp_path / "bomb.jsonl.gz"
    line = json.dumps(SENTENCE).encode() + b"\n"
    path.write_bytes(gzip.compress(line * 200_000))
    assert path.stat().st_size < 1 << 20
    monkeypatch.setattr(sources, "MEMORY_SHARE", 1000 * len(line) / (os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    with pytest.raises(DataError, match=r"more sentences than this machine has memory for \(line 1001\); name --num-stories N"):
        read_jsonl(path)
    path.write_bytes(gzip.compress(b"a" * (1 << 26)))
    with pytest.raises(DataError, match="longer than 1,048,576 bytes"):
        read_jsonl(path)
    others = b"".join(json.dumps({**SENTENCE, "story_id": f"b{number}"}).encode() + b"\n" for number in range(5000))
    path.write_bytes(gzip.compress(line * 10 + others))
    assert len(read_jsonl(path, stories=1)) == 10
