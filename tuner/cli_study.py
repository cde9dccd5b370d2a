"""Commands for a study that is there: help with it, stop it, put a trial into it."""

from __future__ import annotations

import datetime
import os
import shlex
import signal
import threading
import tomllib
from typing import Any

import click
from rich.console import Console

from tuner.options import (
    artifacts_option,
    device_option,
    json_option,
    metrics_options,
    say_aside,
    show,
    storage_option,
    study_argument,
    telling_options,
    width_of,
    width_option,
)


@click.command()
@study_argument
@storage_option
@artifacts_option
@width_option
@device_option
@click.option("--of-search", type=float, hidden=True, help="When the search on this machine began that this is a worker of.")
@click.option("--alone", is_flag=True, hidden=True, help="No other process of that search has the device.")
@telling_options
@metrics_options
def worker(
    study: str,
    storage: str,
    artifacts: str,
    width: str,
    device: str,
    of_search: float | None,
    alone: bool,
    words: int | None,
    log_format: str,
    metrics_port: int | None,
    metrics_host: str,
) -> None:
    """Helps with a search that was begun elsewhere, from this machine or another, until its budget is used up.

    Example: tuner worker quick --storage postgresql+psycopg://tuner@db/tuner
    """
    import optuna

    from tuner.events import telling
    from tuner.job import run_worker

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if of_search is not None:
        threading.Thread(target=_leave_with_it, daemon=True).start()
    console, events = telling(log_format)
    run_worker(
        study,
        storage,
        device,
        width_of(width),
        console,
        artifacts,
        words=words or 0,
        events=events,
        metrics=None if metrics_port is None else (metrics_host, metrics_port),
        began=of_search,
        alone=alone or of_search is None,  # of one that is begun by hand or by a cluster nobody else is known
    )


def _leave_with_it() -> None:
    """Ends this process, as a request to end would, once whatever holds the other end of its standard input is gone."""
    while os.read(0, 4096):  # not through `sys.stdin`, whose lock the end of the process needs
        pass
    os.kill(os.getpid(), signal.SIGTERM)


@click.command()
@study_argument
@click.option("--top", type=click.IntRange(min=1), metavar="N", help="How many of the best trials.  [default: as the study says]")
@click.option("--seeds", type=click.IntRange(min=1), metavar="N", help="Fresh seeds for each.  [default: as the study says]")
@storage_option
@artifacts_option
@width_option
@device_option
@json_option
def confirm(study: str, top: int | None, seeds: int | None, storage: str, artifacts: str, width: str, device: str, as_json: bool) -> None:
    """Trains the best trials and every baseline again with fresh seeds, and says whether the best has won.

    The best is chosen on the validation split; what is printed are means of the test split, with 95 % intervals over seeds and stories.

    Example: tuner confirm quick --top 3 --seeds 5
    """
    import optuna

    from tuner.job import run_confirm

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = run_confirm(study, storage, device, width_of(width), Console(stderr=True), top, seeds, artifacts)
    show(as_json, found.summary, found.lines)


@click.command()
@study_argument
@storage_option
def stop(study: str, storage: str) -> None:
    """Ends a running search from another terminal; it goes on when it is run again.

    Example: tuner stop quick
    """
    from optuna.trial import TrialState

    from tuner.budget import STOP
    from tuner.ownership import OWNER, alive
    from tuner.storage import Patience, open_storage
    from tuner.study import find_study

    found = find_study(open_storage(storage, create=False), study)
    running = [trial for trial in found.get_trials(deepcopy=False) if trial.state == TrialState.RUNNING]
    if not any(alive(trial.user_attrs.get(OWNER)) for trial in running):
        left = f", {len(running)} were interrupted" if running else ""
        told = f"no trial of {found.study_name} runs{left}; there is nothing to stop (a confirmation is ended with Ctrl-C)"
        say_aside(told)
        return
    Patience(seconds=0)(found.set_user_attr, STOP, datetime.datetime.now(datetime.UTC).isoformat())
    say_aside(f"{found.study_name} is asked to stop; it does so after the epoch it is in")


@click.command()
@study_argument
@click.argument("settings", nargs=-1, required=True, metavar="NAME=VALUE...")
@storage_option
@json_option
def enqueue(study: str, settings: tuple[str, ...], storage: str, as_json: bool) -> None:
    """Puts in a trial of your own: it is the next to begin. What is not named has the model's default.

    Example: tuner enqueue quick lr=3e-3 hidden_dim=64
    """
    from tuner.storage import Patience, open_storage
    from tuner.study import definition_of, find_study

    found = find_study(open_storage(storage, create=False), study)
    point = definition_of(found).reachable(dict(map(_setting, settings)))
    Patience(seconds=0)(found.enqueue_trial, point, user_attrs={"suggested": "by hand"})
    known, budget = len(found.get_trials(deepcopy=False)), definition_of(found).budget.trials
    if known > budget:
        say_aside(f"with it there are {known} trials, and the study's budget is {budget}: search on with --trials {known}")
    show(as_json, {"study": found.study_name, "enqueued": point}, [f"{found.study_name}: enqueued {point}"])


def _setting(text: str) -> tuple[str, Any]:
    """`lr=3e-3` as name and value; a value is written as in TOML, a word without quotes is a word."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE; for example lr=3e-3", param_hint="SETTINGS")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


@click.command()
@study_argument
@storage_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["cli", "toml", "json"]),
    help="Its settings as options of `tuner train`, as a file for its --preset, or JSON.",
)
@json_option
def best(study: str, storage: str, form: str | None, as_json: bool) -> None:
    """Prints the best trial of a study: the confirmed one, where it has been confirmed.

    With --format cli: tuner train $(tuner best quick --format cli)

    Example: tuner best quick --format toml
    """
    from tuner.choice import best_choice

    found = best_choice(storage, study)
    if form == "cli" and shlex.quote(str(found.data["source"])) != found.data["source"]:
        say_aside(f'the data\'s path is shell-quoted; to use it in a command: eval "tuner train $(tuner best {study} --format cli)"')
    show(as_json or form == "json", found.as_dict(), found.said(form))
