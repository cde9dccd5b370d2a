"""What a person sees while a search runs."""

import dataclasses
import io
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.tuner.scripted import ScriptedTrainer, Step, scripted
from tests.tuner.test_search import definition
from tuner.progress import BARS, BarProgress, Line, LiveProgress, screen, sparkline


@given(st.lists(st.floats(0, 1), max_size=60), st.integers(1, 20))
def test_a_sparkline_has_its_width_and_keeps_lowest_and_highest_apart(curve: list[float], width: int) -> None:
    """One character a point, never more than asked for."""
    drawn = sparkline(tuple(curve), width)
    assert len(drawn) == min(len(curve), width)
    assert set(drawn) <= set(BARS)
    assert sparkline((0.0, float("nan"), 1.0, float("inf")), 4) == f"{BARS[0]}!{BARS[-1]}!"


def test_a_bar_without_a_terminal_is_a_line_now_and_then() -> None:
    """None for what is done soon."""
    said, now = io.StringIO(), iter((0.0, 1.0, 31.0, 31.0, 40.0, 62.0, 62.0))
    with BarProgress(Console(file=said), "epochs", lambda: next(now)) as bar:
        for done in range(4):
            bar(done, 1000)
    assert said.getvalue().splitlines() == ["epochs 1 of 1,000", "epochs 3 of 1,000"]


TINY = (
    "[data]\nstories = 30\n[budget]\ntrials = 3\nepochs = 2\n[search]\nlr = { low = 1e-3, high = 1e-2, log = true }\n"
    "[fixed]\nhidden_dim = 16\nnum_rules = 2\n"
)


def on_a_terminal(folder: Path, columns: int, *arguments: str, **environment: str) -> tuple[bytes, bytes]:
    """A command on a real pseudo-terminal of so many columns, to its end; what the terminal got, and stdout."""
    master, slave = pty.openpty()
    given = {**os.environ, "COLUMNS": str(columns), "LINES": "24", "TERM": "xterm", **environment}
    command = [sys.executable, "-m", "tuner", *arguments]
    process = subprocess.Popen(command, cwd=folder, stdin=slave, stderr=slave, stdout=subprocess.PIPE, env=given)
    os.close(slave)
    seen = b""
    while process.poll() is None or select.select([master], [], [], 0)[0]:
        if select.select([master], [], [], 0.2)[0]:
            try:
                seen += os.read(master, 65536)
            except OSError:  # the terminal is closed when the program has ended
                break
    assert process.stdout is not None
    assert process.wait() == 0, seen.decode()
    return seen, process.stdout.read()


COLOUR = re.compile(rb"\x1b\[[0-9;]*(3[0-7]|9[0-7])m")


def lines_of(seen: bytes) -> list[str]:
    """What stands on the terminal, without its control sequences."""
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode()))


def test_a_terminal_gets_a_live_table_and_verdicts(tmp_path: Path) -> None:
    """Slots, best, rates, the time left, verdicts; no line is wider than the terminal, and a wide one shows the components. With NO_COLOR
    nothing sets a colour."""
    (tmp_path / "tiny.toml").write_text(TINY)
    seen, out = on_a_terminal(tmp_path, 80, "search", "tiny.toml", "--no-confirm")
    text = "\n".join(lines_of(seen))
    for word in (
        "tiny@synthetic-30",
        "accuracy",
        "curve",
        "finished",
        "trials a minute",
        "epochs a second",
        "saved",
        "left",
        "best baseline|no base",
    ):
        assert re.search(word, text), word
    assert "relation" not in text
    assert max(map(len, lines_of(seen))) <= 80
    assert COLOUR.search(seen)
    assert b"best: trial" in out
    (tmp_path / "tiny.toml").write_text(TINY.replace("trials = 3", "trials = 4"))
    wide, _ = on_a_terminal(tmp_path, 140, "search", "tiny.toml", "--no-confirm", NO_COLOR="1")
    again = "\n".join(lines_of(wide))
    assert "3 finished of 4 trials" in again  # those of the run before count
    assert "relation" in again
    assert max(map(len, lines_of(wide))) <= 140
    assert not COLOUR.search(wide)
    assert not re.search(r"best -|none ended", again)
    watched, out = on_a_terminal(tmp_path, 80, "status", "tiny", "--watch")
    assert "4 finished of 4 trials" in "\n".join(lines_of(watched))
    assert max(map(len, lines_of(watched))) <= 80
    assert b"best: trial" in out


def test_of_several_processes_one_shows_the_table_and_it_has_the_trials_of_all(tmp_path: Path) -> None:
    """Each drew its own into the same terminal once."""
    (tmp_path / "tiny.toml").write_text(TINY)
    words = ("search", "tiny.toml", "--workers", "2", "--trials", "8", "--epochs", "8", "--no-confirm")
    seen, out = on_a_terminal(tmp_path, 100, *words)
    text = "\n".join(lines_of(seen))
    assert re.search(r"of 8 trials; \d+ epochs run", text)
    assert not re.search(r"trial \d+ starts", text)
    assert max(map(len, lines_of(seen))) <= 100
    assert b"trials: 8 finished; 0 running" in out


@pytest.mark.parametrize("minutes", [0, 1])
def test_no_more_time_is_left_than_the_minutes_have(tmp_path: Path, minutes: int) -> None:
    """After fifty seconds; without minutes it is what the trials to come would take."""
    console, now = Console(width=120, file=io.StringIO(), force_terminal=True), [0.0]
    live = LiveProgress(console, lambda: now[0])
    now[0] = 50.0
    with live:
        made = definition(budget={"trials": 30, "epochs": 3, "minutes": minutes})
        scripted(tmp_path, made, 4, observer=live, clock=lambda: now[0], began=0.0)
    shown = "\n".join(lines_of(console.file.getvalue().encode()))
    assert ("about 10 s left" in shown, bool(re.search(r"about \d+ min left", shown))) == (minutes == 1, minutes == 0)


def test_a_baseline_below_the_floor_is_one_that_has_ended(tmp_path: Path) -> None:
    """What the best is compared with is shown whatever its round trip, as in every other view; also when the search goes on."""
    made = definition(objective={"round_trip_floor": 0.9})

    class Mute(ScriptedTrainer):
        """Nothing survives its round trip."""

        def evaluate(self) -> list[Step | None]:
            """As scripted otherwise."""
            return [dataclasses.replace(step, round_trip=0.0) for step in super().evaluate()]

    for trials in (3, 4):
        console = Console(width=120, file=io.StringIO(), force_terminal=True)
        with LiveProgress(console) as live:
            scripted(tmp_path, made.changed(budget_trials=trials), 1, Mute, live)
        assert live.best is None
        assert live.best_baseline == (pytest.approx(0.01), "slow")


def line(number: int, curve: tuple[float, ...]) -> Line:
    """A slot."""
    return Line(number, number == 0, {"lr": 1e-3, "hidden_dim": 1024, "num_rules": 16, "batch_size": 256}, 12, 100, {"loss": 1.5}, curve)


def test_a_table_of_long_things_fits_eighty_columns() -> None:
    """What is too long is cut, not wrapped."""
    console = Console(width=80, file=io.StringIO(), force_terminal=True)
    lines = [line(number, tuple(step / 50 for step in range(50))) for number in (0, 12, 1234)]
    console.print(screen("study", lines, ["t" * 200], ["v" * 200], 80))
    text = lines_of(console.file.getvalue().encode())
    assert max(map(len, text)) <= 80
    assert any("1024/16/256" in one and BARS[-1] in one for one in text)
    assert sum("v" * 60 in one for one in text) == 1
