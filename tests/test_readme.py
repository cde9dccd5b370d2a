"""The README's commands: all of them are commands of this program, and the short ones are run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import studies
from tuner.cli import cli

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
COMMANDS = [
    line.strip() for block in re.findall(r"```console\n(.*?)```", README, re.S) for line in block.splitlines() if line.startswith("tuner ")
]
PLATEAU = (Path(__file__).resolve().parents[1] / "docs" / "plateau.md").read_text()
TRIED = re.search(r"<!-- tried -->\s*```console\n(.*?)```", README, re.S)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_is_one_of_this_program(command: str) -> None:
    """Its options parse and its study is shipped."""
    words = shlex.split(command, comments=True)[1:]
    whole = cli.make_context("tuner", list(words))
    name, parsed, rest = cli.resolve_command(whole, words)
    assert parsed is not None
    context = parsed.make_context(name, rest, parent=whole)
    study = context.params.get("study") or context.params.get("subject")
    assert study is None or study.partition("@")[0].partition(":")[0] in studies.names()


def test_the_first_steps_run_as_they_stand(tmp_path: Path) -> None:
    """The block marked as tried, line by line, in an empty folder."""
    assert TRIED is not None
    lines = [line for line in TRIED[1].splitlines() if line.startswith("tuner ")]
    assert len(lines) >= 4
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        done = subprocess.run([sys.executable, "-m", "tuner", *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert done.stdout


def test_the_page_on_plateaus_runs_as_it_stands(tmp_path: Path) -> None:
    """All its commands, one after the other; the staged faults are found in the notes' own setting."""
    commands = [line for block in re.findall(r"```console\n(.*?)```", PLATEAU, re.S) for line in block.splitlines()]
    assert len(commands) == 3
    printed = []
    for line in commands:
        words = shlex.split(line)[1:]
        done = subprocess.run([sys.executable, "-m", "tuner", *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        printed.append(done.stdout)
    assert "where the plateau is left" not in printed[1], "too few to say"
    assert "symbol ids are regressed" in printed[2]
