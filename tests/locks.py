"""Two workers on one SQLite study and a dashboard that reads it all the while: `python -m tests.locks --minutes 60 --json`.

All are processes of their own, as a user would start them. What is looked for is "database is locked", anywhere, and a trial that is
lost, doubled or left unfinished by more than the minutes' end.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from tuner.storage import open_storage
from tuner.study import find_study

TUNER = str(Path(sys.executable).with_name("tuner"))
SEARCH = ("search", "quick", "--num-stories", "30", "--no-confirm", "--width", "4", "--epochs", "3", "--workers", "2")


def read_on(address: str, over: threading.Event, answers: Counter[str]) -> None:
    """Asks the dashboard for its studies and the whole study, again and again; counts what it answers."""
    while not over.is_set():
        for path in ("/api/studies", "/api/studies/1?after=0"):
            try:
                with urllib.request.urlopen(address + path, timeout=60) as answer:
                    body = answer.read()
                    answers["locked" if b"is locked" in body else str(answer.status)] += 1
            except urllib.error.HTTPError as error:
                answers[str(error.code)] += 1
            except OSError:  # no answer within a minute: the machine has other work
                answers["late"] += 1


def soak(folder: Path, minutes: float) -> dict[str, Any]:
    """The three processes for so many minutes; what was counted."""
    with (folder / "search.log").open("w") as log, (folder / "dashboard.log").open("w+") as served:
        search = subprocess.Popen([TUNER, *SEARCH, "--trials", "1000000", "--timeout", str(minutes)], cwd=folder, stderr=log, stdout=log)
        while not (folder / "runs" / "tuner.db").is_file() and search.poll() is None:
            time.sleep(0.1)
        dashboard = subprocess.Popen([TUNER, "dashboard", "--port", "0"], cwd=folder, stderr=subprocess.PIPE, stdout=served, text=True)
        address = next(found[0] for line in dashboard.stderr or () if (found := re.search(r"http://[\d.:]+", line)))
        over, answers = threading.Event(), Counter[str]()
        reader = threading.Thread(target=read_on, args=(address, over, answers))
        reader.start()
        status = search.wait()
        over.set()
        reader.join()
        dashboard.terminate()
        said = dashboard.stderr.read() if dashboard.stderr else ""
        dashboard.wait()
    said += (folder / "search.log").read_text() + (folder / "dashboard.log").read_text()
    trials = find_study(open_storage(f"sqlite:///{folder}/runs/tuner.db"), "quick").get_trials(deepcopy=False)
    states = Counter(t.state.name.lower() for t in trials)
    locked = said.count("is locked") + answers["locked"]
    return {"minutes": minutes, "status": status, "locked": locked, "trials": dict(states), "answers": dict(answers)}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = soak(Path(name), options.minutes)
    print(json.dumps(found) if options.json else found)
    sys.exit(found["status"] or bool(found["locked"]))


if __name__ == "__main__":
    main()
