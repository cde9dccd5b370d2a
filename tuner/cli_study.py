"""Commands for a study that is there: help with it, stop it, put a trial into it."""

from __future__ import annotations

import datetime
import tomllib
from typing import Any

import click
from rich.console import Console

from tuner.options import artifacts_option, device_option, json_option, show, storage_option, study_argument, width_of, width_option


@click.command()
@study_argument
@storage_option
@artifacts_option
@width_option
@device_option
def worker(study: str, storage: str, artifacts: str, width: str, device: str) -> None:
    """Helps with a search that was begun elsewhere, from this machine or another, until its budget is used up.

    Example: tuner worker quick --storage postgresql+psycopg://tuner@db/tuner
    """
    import optuna

    from tuner.job import run_worker

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    run_worker(study, storage, device, width_of(width), Console(stderr=True), artifacts)


@click.command()
@study_argument
@storage_option
def stop(study: str, storage: str) -> None:
    """Ends a running search from another terminal; it goes on when it is run again.

    Example: tuner stop quick
    """
    from tuner.budget import STOP
    from tuner.storage import open_storage
    from tuner.study import find_study

    found = find_study(open_storage(storage, create=False), study)
    found.set_user_attr(STOP, datetime.datetime.now(datetime.UTC).isoformat())
    click.echo(f"{found.study_name} is asked to stop; it does so after the epoch it is in", err=True)


@click.command()
@study_argument
@click.argument("settings", nargs=-1, required=True, metavar="NAME=VALUE...")
@storage_option
@json_option
def enqueue(study: str, settings: tuple[str, ...], storage: str, as_json: bool) -> None:
    """Puts in a trial of your own: it is the next to begin. What is not named has the model's default.

    Example: tuner enqueue quick lr=3e-3 hidden_dim=64
    """
    from tuner.storage import open_storage
    from tuner.study import definition_of, find_study

    found = find_study(open_storage(storage, create=False), study)
    point = definition_of(found).reachable(dict(map(_setting, settings)))
    found.enqueue_trial(point, user_attrs={"suggested": "by hand"})
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
