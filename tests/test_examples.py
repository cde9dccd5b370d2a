"""The examples are installed and run as their readers would."""

import os
import subprocess
import sys
from pathlib import Path

from tuner.storage import open_storage
from tuner.study import find_study

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "own_trainer"


def test_a_trainer_of_ones_own_is_installed_and_searched(tmp_path: Path) -> None:
    """Found by its entry point, trained slot by slot, judged and saved as ours is."""
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(site), str(EXAMPLE)]
    installed = subprocess.run(install, capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr
    search = [str(Path(sys.executable).with_name("tuner")), "search", str(EXAMPLE / "bag.toml"), "--width", "3"]
    done = subprocess.run(search, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    trials = find_study(open_storage(f"sqlite:///{tmp_path}/runs/tuner.db"), "bag").get_trials()
    assert len(trials) == 6
    best = max(trials, key=lambda t: t.value or 0.0)
    assert best.value > 0.3
    assert Path(tmp_path / best.user_attrs["checkpoint"]).is_file()
    assert "tuner best bag@synthetic-60" in done.stdout
    assert "tuner train" not in done.stdout

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(site)}
        return subprocess.run([search[0], *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    refused = call("train", "--from", "bag")
    assert refused.returncode == 2
    assert "is trained by 'bag-of-words'; tuner train trains the symmetric model alone" in refused.stderr
    assert call("diagnose", f"bag:{best.number}").returncode == 0, "by its curve"


def test_a_trainer_that_is_not_installed_is_named_with_those_that_are(tmp_path: Path) -> None:
    """Bad usage: status 2."""
    search = [str(Path(sys.executable).with_name("tuner")), "search", str(EXAMPLE / "bag.toml")]
    done = subprocess.run(search, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "'bag-of-words' is not installed; there are: symmetric" in done.stderr


def test_the_pruners_are_of_use_to_any_study() -> None:
    """Each rule stops something there, with its reason, and what is good runs to its end."""
    done = subprocess.run([sys.executable, str(EXAMPLE.parent / "pruners.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *trials, last = done.stdout.splitlines()
    for cause in ("exploded: ", "plateaued: ", "outpaced: ", "finished at "):
        assert any(cause in line for line in trials), cause
    assert int(last.partition("} ")[2].partition(" of 1600 epochs")[0]) < 800
