"""The command line: options, one call each, and what becomes of errors. Data on stdout, progress on stderr."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

import click

from model.errors import ModelError
from tuner.cli_model import data, evaluate, generate, parse, train
from tuner.cli_study import best, confirm, enqueue, stop, worker
from tuner.cli_view import dashboard, doctor, health, report, status
from tuner.errors import TunerError
from tuner.options import (
    artifacts_option,
    data_option,
    device_option,
    json_option,
    metrics_options,
    say_aside,
    show,
    storage_option,
    stories_option,
    study_argument,
    telling_options,
    width_of,
    width_option,
)
from tuner.signals import Signals

if TYPE_CHECKING:
    from tuner.definition import StudyDefinition

DASHES = {
    "token_normalize_func": lambda token: token.replace("_", "-"),
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
}
INTERRUPTED = 130


@click.group(context_settings=DASHES)
@click.version_option(package_name="tuner")
def cli() -> None:
    """Finds the learning rate, size and loss weights that work for the symmetric model, and says why the others do not.

    Example: tuner search quick
    """


@cli.command()
@study_argument
@data_option
@stories_option
@click.option("--trials", type=click.IntRange(min=1), metavar="N", help="Total number of trials, earlier runs of the search included.")
@click.option("--epochs", type=click.IntRange(min=1), metavar="N", help="Epochs of one trial.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="MINUTES",
    help="Stop after so many minutes at most (0: no limit); run again to go on.",
)
@click.option("--total-epochs", type=click.IntRange(min=1), metavar="N", help="Epochs of all trials together, earlier runs included.")
@click.option("--gpu-minutes", type=click.FloatRange(min=0), metavar="MINUTES", help="GPU-minutes in total, earlier runs included.")
@click.option(
    "--at-budget",
    type=click.Choice(["store", "finish"]),
    help="Trials still running when a limit is reached: kept for the next run (store, as studies say) or trained to the end.",
)
@width_option
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Processes on this machine, or Ray's.  [default: one for each GPU; 1 with Ray]",
)
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="What runs the workers.")
@click.option("--address", metavar="ADDRESS", help="With --engine ray: the cluster, or auto; without it one on this machine.")
@click.option("--devices", metavar="D,D", help="One worker for each, in place of --device and --workers: cuda:0,cuda:1.")
@device_option
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="The search's seed.")
@storage_option
@artifacts_option
@click.option("--name", metavar="NAME", help="Another name for the study.")
@click.option(
    "--confirm/--no-confirm",
    default=None,
    help="Confirm the best at the end (see `tuner confirm`), also where a limit ended the search.  [default: once all trials have ended]",
)
@click.option("--warm-start", metavar="STUDY", help="Let the sampler learn from an earlier study of this storage.")
@click.option(
    "--keep", type=click.IntRange(min=1), metavar="N", help="Keep the models of the best N trials, and of what is to be confirmed."
)
@click.option(
    "--on-end",
    metavar="COMMAND",
    help="Run this (a program, no shell) when the search is over, not after an error or a signal; TUNER_STUDY names the study.",
)
@telling_options
@metrics_options
@click.option("--dry-run", is_flag=True, help="Say what the search would cost, and begin nothing.")
@click.option("--fresh", is_flag=True, help="Begin anew; an earlier study of the name stays.")
@json_option
def search(
    study: str,
    storage: str,
    artifacts: str,
    width: str,
    device: str,
    devices: str | None,
    workers: int | None,
    engine: str,
    address: str | None,
    name: str | None,
    confirm: bool | None,
    keep: int | None,
    on_end: str | None,
    warm_start: str | None,
    words: int | None,
    log_format: str,
    metrics_port: int | None,
    metrics_host: str,
    dry_run: bool,
    fresh: bool,
    as_json: bool,
    **changes: Any,
) -> None:
    """Searches, or continues a search. STUDY is a shipped study (quick, plateau, full), a TOML file, or the full name of an existing
    study (quick@synthetic-300), which is continued. Without STUDY: quick.

    Example: tuner search quick --data stories.jsonl.gz --num-stories 100
    """
    began = time.monotonic()  # what is imported now takes seconds, which are the budget's

    import optuna

    from model.devices import devices_of_workers
    from tuner.events import telling
    from tuner.job import dry_run as forecast
    from tuner.job import run_search
    from tuner.preparation import SearchRequest

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # our progress says what is worth saying

    if engine == "ray" and (keep is not None or metrics_port is not None):
        raise click.UsageError("--keep and --metrics-port are for the processes of this command; --engine ray has none")
    console, events = telling(log_format)
    definition, there, called = _defined(study, storage, changes)
    if devices is not None:
        first, *others = devices.split(",")
    else:  # Ray gives its workers GPUs itself
        first, *others = devices_of_workers(device, workers) if engine == "local" else [device] * (workers or 1)
    request = SearchRequest(
        definition,
        storage,
        width_of(width),
        first,
        name or called,
        fresh,
        confirm=confirm is not False,
        confirm_early=confirm is True,
        others=tuple(others),
        ray=(address or "local") if engine == "ray" else None,
        warm_start=warm_start,
        keep=keep,
        artifacts=artifacts,
        words=words or 0,
        events=events,
        metrics=None if metrics_port is None else (metrics_host, metrics_port),
        began=began,
        there=None if name or fresh else there,
    )
    report = forecast(request, console) if dry_run else run_search(request, console)
    if on_end is not None and not dry_run:
        _run_at_end(on_end, report.summary["study"])
    show(as_json, report.summary, report.lines)


def _defined(study: str, storage: str, changes: dict[str, Any]) -> tuple[StudyDefinition, str | None, str | None]:
    """What is to be searched, with what the options change; of a study that is there and goes on, its full name and what it is called."""
    from tuner.definition import load_definition
    from tuner.storage import open_storage
    from tuner.study import gone_on_with

    names = {
        "data": "data_source",
        "num_stories": "data_stories",
        "trials": "budget_trials",
        "epochs": "budget_epochs",
        "timeout": "budget_minutes",
        "total_epochs": "budget_total_epochs",
        "gpu_minutes": "budget_gpu_minutes",
        "at_budget": "budget_at_budget",
    }
    there = study if "@" in study and not study.endswith(".toml") else None
    own, called = (load_definition(study), None) if there is None else gone_on_with(open_storage(storage, create=False), there)
    definition = own.changed(**{names.get(key, key): value for key, value in changes.items()})
    if changes["epochs"] is not None or definition.data == own.data:
        definition = definition.changed(budget_least_sentences=0)  # what was asked for, or meant for these data, is what is run
    return definition, there, called


def _run_at_end(command: str, study: str) -> None:
    """Runs what is to be run when a search is over; says so if it fails, for the search itself has not."""
    try:
        # what it prints goes where all goes that is no result: on standard output stands what the search found
        status = subprocess.run(shlex.split(command), env={**os.environ, "TUNER_STUDY": study}, stdout=sys.stderr, check=False).returncode
    except (OSError, ValueError) as error:
        click.echo(f"--on-end {command!r} could not be run: {error}", err=True)
        return
    if status:
        click.echo(f"--on-end {command!r} ended with status {status}", err=True)


@cli.command()
@click.argument("subject", metavar="STUDY|STUDY:TRIAL|CHECKPOINT")
@storage_option
@device_option
@json_option
def diagnose(subject: str, storage: str, device: str, as_json: bool) -> None:
    """Says what is wrong: with a run, or in which part of a study's space the plateau is left.

    Example: tuner diagnose plateau
    """
    from tuner.inspection import diagnose as findings_of

    findings = findings_of(subject, storage, device)
    lines = [line for one in findings for line in (one.finding, f"    {one.advice}")]
    show(as_json, {"findings": [one.as_dict() for one in findings]}, lines or ["no problem found"])


for command in (best, confirm, status, dashboard, report, doctor, health, worker, stop, enqueue, train, evaluate, parse, generate, data):
    cli.add_command(command)


def _interrupted(arguments: list[str]) -> str:
    """What becomes of a command that was broken off."""
    named = next((word for word in arguments if word in cli.commands), "")
    if named in ("search", "worker", "confirm") and "--dry-run" not in arguments:
        return f"interrupted; the {'confirmation' if named == 'confirm' else 'search'} continues when it is run again"
    return "interrupted"


def _say_last(event: str, text: str, arguments: list[str]) -> None:
    """Why a command ends, on stderr; as an event where that is to be JSON."""
    if "--log-format=json" in arguments or ("--log-format", "json") in itertools.pairwise(arguments):
        from tuner.events import line

        text = line(event, "error" if event == "error" else "info", message=text)
    elif event == "error":
        text = f"error: {text}"
    say_aside(text)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0 done, 1 failed, 2 bad usage or input, 130 and 143 after signals."""
    signals, given = Signals(), sys.argv[1:] if arguments is None else arguments
    try:
        cli.main(args=arguments, prog_name="tuner", standalone_mode=False)
    except click.ClickException as error:
        with contextlib.suppress(OSError):  # a log on a disk that is full
            error.show()
        return 2
    except (TunerError, ModelError) as error:
        _say_last("error", str(error), given)
        return signals.status or error.status
    except SystemExit:
        if not signals.status:
            raise
        _say_last("interrupted", _interrupted(given), given)
    except click.Abort:
        return INTERRUPTED
    return signals.status


def entry() -> NoReturn:
    """The console script."""
    status = main()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # it may have been closed
                stream.flush()
        except OSError:  # the disk of a log is full: what could not be said must not be tried again, and become the status
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(status)
