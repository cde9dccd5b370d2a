"""How long a large study takes to open in a browser: `python -m benchmarks.dashboard_open --json [--trials 2000] [--reports 50]`.

A study is written, the dashboard served, and its page opened in Debian's chromium; the clock stops when the history is drawn, and again
when the intermediate values are.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import TrialState, create_trial
from playwright.sync_api import sync_playwright

from benchmarks.command import command, tell
from tuner.storage import open_storage
from tuner.tables import Row, write_rows

SPACE = {"lr": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True), "hidden_dim": optuna.distributions.IntDistribution(16, 256)}


def write(url: str, trials: int, reports: int) -> None:
    """A study of so many ended trials, each with so many reports."""
    storage, generator = open_storage(url), np.random.default_rng(1)
    study = optuna.create_study(study_name="large", storage=storage, direction="maximize")
    for number in range(trials):
        params = {"lr": float(10 ** generator.uniform(-4, -2)), "hidden_dim": int(generator.integers(16, 257))}
        curve = 0.9 * (1 - np.exp(-np.arange(1, reports + 1) * generator.uniform(0.02, 0.2)))
        trial_id = storage.create_new_trial(study._study_id, create_trial(state=TrialState.RUNNING, params=params, distributions=SPACE))
        write_rows(storage, [Row("report", trial_id, epoch, float(value)) for epoch, value in enumerate(curve, 1)])
        pruned = number % 3 == 0
        state = TrialState.PRUNED if pruned else TrialState.COMPLETE
        storage.set_trial_state_values(trial_id, state, None if pruned else [float(curve[-1])])


@contextlib.contextmanager
def served(folder: Path):  # type: ignore[no-untyped-def]
    """The dashboard over the study; its address."""
    command = [sys.executable, "-m", "tuner", "dashboard", "--port", "0", "--read-only"]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    yield next(found[0] for line in process.stderr or () if (found := re.search(r"http://[\d.:]+", line)))
    process.terminate()
    process.wait()


def opened(address: str) -> dict[str, float]:
    """Seconds until the history and the intermediate values are drawn."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)
        page.goto(f"{address}/dashboard")
        page.locator("text=large >> visible=true").first.wait_for()
        began = time.perf_counter()
        page.goto(f"{address}/dashboard/studies/1")
        page.wait_for_selector("#plot-history .scatterlayer .points path", state="attached")
        history = time.perf_counter() - began
        page.wait_for_selector("#graph-intermediate-values .plot-container", state="attached")
        everything = time.perf_counter() - began
        browser.close()
    return {"history_s": round(history, 2), "intermediate_values_s": round(everything, 2)}


def main() -> None:
    """The command."""
    parser = command(__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--reports", type=int, default=50)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(f"sqlite:///{folder}/runs/tuner.db", options.trials, options.reports)
        with served(folder) as address:
            first, again = opened(address), opened(address)
    tell({"trials": options.trials, "reports": options.reports, "first": first, "again": again}, as_json=options.json)


if __name__ == "__main__":
    main()
