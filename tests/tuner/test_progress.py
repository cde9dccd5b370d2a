"""What a person sees while a search runs."""

import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tuner.progress import BARS, sparkline


@given(st.lists(st.floats(0, 1), max_size=60), st.integers(1, 20))
def test_a_sparkline_has_its_width_and_keeps_lowest_and_highest_apart(curve: list[float], width: int) -> None:
    """One character a point, never more than asked for."""
    drawn = sparkline(tuple(curve), width)
    assert len(drawn) == min(len(curve), width)
    assert set(drawn) <= set(BARS)
    assert sparkline((0.0, float("nan"), 1.0, float("inf")), 4) == f"{BARS[0]}!{BARS[-1]}!"


def test_a_terminal_gets_a_live_table_and_verdicts(tmp_path: Path) -> None:
    """A real pseudo-terminal of 80 columns: slots, best, verdicts; no line is wider."""
    (tmp_path / "tiny.toml").write_text(
        "[data]\nstories = 30\n[budget]\ntrials = 3\nepochs = 2\n[search]\nlr = { low = 1e-3, high = 1e-2, log = true }\n"
        "[fixed]\nhidden_dim = 16\nnum_rules = 2\n"
    )
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "LINES": "24", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tuner", "search", "tiny.toml"],
        cwd=tmp_path,
        stdin=slave,
        stderr=slave,
        stdout=subprocess.PIPE,
        env=environment,
    )
    os.close(slave)
    seen = b""
    while process.poll() is None or select.select([master], [], [], 0)[0]:
        if select.select([master], [], [], 0.2)[0]:
            try:
                seen += os.read(master, 65536)
            except OSError:  # the terminal is closed when the program has ended
                break
    assert process.stdout is not None
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode())
    assert process.wait() == 0, text
    assert all(word in text for word in ("tiny@synthetic-30", "accuracy", "curve", "finished", "trial-epochs a second"))
    assert max(len(line) for line in re.split(r"[\r\n]+", text)) <= 80
    assert b"best: trial" in process.stdout.read()
