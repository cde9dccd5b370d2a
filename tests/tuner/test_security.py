"""What strangers send and what strangers see: damaged files end in our own errors, bombs in a limit, secrets nowhere."""

from __future__ import annotations

import gzip
import io
import json
import shlex
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from model import extraction, sources
from model.errors import DataError
from model.sources import read_jsonl
from tests.conftest import Called
from tests.tuner.scripted import corpus_of
from tests.tuner.test_search import definition
from tuner import metrics
from tuner.buffer import BufferedStorage
from tuner.choice import options
from tuner.events import JsonEvents
from tuner.metrics import Metrics, MetricsServer
from tuner.options import show
from tuner.progress import Line, plainly, screen
from tuner.snapshots import Seat
from tuner.storage import Patience, asking, open_storage
from tuner.study import open_study

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
    monkeypatch.setattr(sources, "room_for_text", lambda: 1000 * len(line))
    with pytest.raises(DataError, match=r"more sentences than this machine has memory for \(line 1001\); name --num-stories N"):
        read_jsonl(path)
    path.write_bytes(gzip.compress(b"a" * (1 << 26)))
    with pytest.raises(DataError, match="longer than 1,048,576 bytes"):
        read_jsonl(path)
    others = b"".join(json.dumps({**SENTENCE, "story_id": f"b{number}"}).encode() + b"\n" for number in range(5000))
    path.write_bytes(gzip.compress(line * 10 + others))
    assert len(read_jsonl(path, stories=1)) == 10


def test_a_bomb_of_stories_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of them may be taken."""
    path = tmp_path / "bomb.txt.gz"
    path.write_bytes(gzip.compress(b"a story<|endoftext|>" * 100_000))
    monkeypatch.setattr(extraction, "room_for_text", lambda: 1000 * (len("a story") + extraction.STORY_BYTES))
    with pytest.raises(DataError, match=r"more stories than this machine has memory for \(story 1,001\); name --num-stories N"):
        extraction.read_stories(path)
    assert len(extraction.read_stories(path, 10)) == 10


def test_what_a_shell_is_given_are_words_whatever_the_database_holds() -> None:
    """The settings of a winner as a command line."""
    hostile = "3; touch x"
    said = " ".join(options({"lr": 1e-3, hostile: hostile}, 3, {"source": "a b", "stories": hostile, "seed": hostile}))
    words = ["--data", "a b", "--num-stories", hostile, "--split-seed", hostile, "--epochs", "3", "--lr", "0.001", f"--{hostile}", hostile]
    assert shlex.split(said) == words


def test_a_report_is_written_here_whatever_the_study_is_called(tmp_path: Path, here: Callable[..., Called]) -> None:
    """Whoever can write to the database can give a study any name."""
    url, folder = f"sqlite:///{tmp_path}/tuner.db", tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    storage = open_storage(url)
    open_study(BufferedStorage(storage), definition(), corpus_of("synthetic", 30, 1))
    name = "tiny@x/../../out"
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE studies SET study_name = ?", (name,))
    done = here(folder, "report", name, "--storage", url)
    assert (done.status, done.stdout) == (0, "tiny@x_.._.._out.html\n"), done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*.html")) == ["tiny@x_.._.._out.html"]
    assert (folder / "tiny@x_.._.._out.html").is_file()


def test_what_a_terminal_would_obey_is_shown_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    """A verdict's reason may come from anybody; lines stay lines."""
    hostile, shown = "a\x1b]52;c;eA==\x1b\\b\x9b\r", "a\\x1b]52;c;eA==\\x1b\\b\\x9b\\x0d"
    show(False, {}, [hostile, "c\td"])
    assert capsys.readouterr().out == f"{shown}\nc\td\n"
    show(False, {}, ["caf\udce9.jsonl"])
    assert capsys.readouterr().out == "caf\\udce9.jsonl\n", "what is no text is no error either"
    said = io.StringIO()
    plainly(Console(file=said, width=300))(hostile)
    slot = Line(0, False, {"hidden_dim": f"[red]{hostile}"}, 1, 2, {}, ())
    Console(file=said, width=300).print(screen(hostile, [slot], [hostile], [hostile], 200))
    assert said.getvalue().count(shown) == 5
    assert "[red]" in said.getvalue()
    assert "\x1b" not in said.getvalue()


def test_a_log_whose_disk_is_full_costs_its_lines_and_nothing_else() -> None:
    """It may lie on the disk that the search waits for."""
    full = Path("/dev/full").open("w")  # noqa: SIM115  closing it is what fails
    plainly(Console(file=full))("lost")
    JsonEvents("a", full).noticed("lost")
    JsonEvents("a", full).noticed("lost too")
    with pytest.raises(OSError, match="No space left"):
        full.close()


def test_only_their_owner_can_hold_the_locks(tmp_path: Path) -> None:
    """Who may read a file can lock it, and would stop the search for good."""
    storage, locks = (
        open_storage(f"sqlite:///{tmp_path}/tuner.db"),
        (tmp_path / "tuner.db.asking", tmp_path / "snapshots" / "seat-0" / "lock"),
    )
    for _ in range(2):
        with asking(storage, 1, Patience()):
            pass
        Seat(tmp_path / "snapshots").close()
        for lock in locks:
            assert lock.stat().st_mode & 0o077 == 0, lock
            lock.chmod(0o644)  # as the version before had made it


def test_who_holds_connections_to_the_figures_takes_nothing_from_the_search() -> None:
    """No thread for each of them."""
    with MetricsServer(Metrics("a", "cpu"), "127.0.0.1", 0) as server:
        before = threading.active_count()
        silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(5)]
        assert threading.active_count() <= before
        for one in silent:
            one.close()
        answer = urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=120)
        assert b"tuner_trials_total" in answer.read()
        assert threading.active_count() <= before


def test_a_search_that_ends_does_not_wait_for_who_asks_for_figures(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One that says nothing is left where he is; nor does his silence become a traceback on the search's terminal."""
    reading, timed_out = threading.Event(), threading.Event()

    class Noted(metrics._Quiet):
        timeout = 1.0

        def handle(self) -> None:
            reading.set()
            try:
                super().handle()
            except TimeoutError:
                timed_out.set()
                raise

    monkeypatch.setattr(metrics, "_Quiet", Noted)
    server = MetricsServer(Metrics("a", "cpu"), "127.0.0.1", 0)
    with socket.create_connection(("127.0.0.1", server.port)):
        assert reading.wait(120)
        assert timed_out.wait(120)
        Noted.timeout, reading = None, threading.Event()  # the next one is waited for without end
        with socket.create_connection(("127.0.0.1", server.port)):
            assert reading.wait(120)
            server.__exit__(None, None, None)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("words", [("best", "nothing"), ("best", "--nonsense")])
def test_a_log_that_is_full_does_not_change_the_status(tmp_path: Path, words: tuple[str, ...]) -> None:
    """A script would take it for another end."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "tuner", *words], stderr=full, stdout=subprocess.PIPE, cwd=tmp_path, check=False)
    assert done.returncode == 2


def test_where_nothing_can_be_said_the_status_says_it(tmp_path: Path) -> None:
    """With standard error closed."""
    command = ["sh", "-c", f"{sys.executable} -m tuner doctor 2>&-"]
    assert subprocess.run(command, stdout=subprocess.PIPE, cwd=tmp_path, check=False).returncode == 0
