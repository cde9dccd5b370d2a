"""The command line: options, one call each, and what becomes of errors. Data on stdout, progress on stderr."""

from __future__ import annotations

import json
import math
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console

from model.errors import ModelError
from tuner.errors import TunerError

DASHES = {
    "token_normalize_func": lambda token: token.replace("_", "-"),
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
}
INTERRUPTED = 130

study_argument = click.argument("study", default="quick")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
storage_option = click.option(
    "--storage",
    metavar="URL",
    envvar="TUNER_STORAGE",
    default="sqlite:///runs/tuner.db",
    show_default=True,
    help="Where studies are kept.",
)
device_option = click.option("--device", metavar="D", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
data_option = click.option("--data", metavar="D", help="synthetic, or a .jsonl[.gz] file of sentences.")
stories_option = click.option("--num-stories", type=click.IntRange(min=1), metavar="N", help="The first N stories.")


def _plain(value: Any) -> Any:
    """The value as JSON can say it: what is not finite becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _print(as_json: bool, summary: dict[str, Any], lines: list[str]) -> None:
    click.echo(json.dumps(_plain(summary), allow_nan=False) if as_json else "\n".join(lines))


def _flat(figures: dict[str, Any], prefix: str = "") -> list[str]:
    lines: list[str] = []
    for name, value in figures.items():
        if isinstance(value, dict):
            lines += _flat(value, f"{prefix}{name}.")
        else:
            lines.append(f"{prefix + name:34} " + (f"{100 * value:7.2f} %" if isinstance(value, float) else str(value)))
    return lines


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
@click.option("--trials", type=click.IntRange(min=1), metavar="N", help="Trials in all, however often the search is continued.")
@click.option("--epochs", type=click.IntRange(min=1), metavar="N", help="Epochs of one trial.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="MINUTES", help="Stop after so many minutes; run again to go on.")
@click.option("--width", metavar="N|auto", default="auto", show_default=True, help="Trials trained at once.")
@device_option
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="The search's seed.")
@storage_option
@click.option("--name", metavar="NAME", help="Another name for the study.")
@click.option("--fresh", is_flag=True, help="Begin anew; an earlier study of the name stays.")
@json_option
def search(study: str, storage: str, width: str, device: str, name: str | None, fresh: bool, as_json: bool, **changes: Any) -> None:
    """Searches, or continues a search. STUDY is a shipped study (quick, plateau) or a TOML file.

    Example: tuner search quick --data stories.jsonl.gz --num-stories 100
    """
    import optuna

    from tuner.definition import load_definition
    from tuner.job import SearchRequest, run_search

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # our progress says what is worth saying

    names = {
        "data": "data_source",
        "num_stories": "data_stories",
        "trials": "budget_trials",
        "epochs": "budget_epochs",
        "timeout": "budget_minutes",
    }
    definition = load_definition(study).changed(**{names.get(key, key): value for key, value in changes.items()})
    request = SearchRequest(definition, storage, _width(width), device, name, fresh)
    report = run_search(request, Console(stderr=True))
    _print(as_json, report.summary, report.lines)


def _width(width: str) -> int | None:
    if width == "auto":
        return None
    if not width.isdecimal() or not 1 <= int(width) <= 4096:
        raise click.BadParameter(f"{width!r} is not allowed; allowed: auto or a whole number from 1 to 4096", param_hint="--width")
    return int(width)


@cli.command()
@study_argument
@storage_option
@json_option
def status(study: str, storage: str, as_json: bool) -> None:
    """Says how far a study is, what it has found and why trials were stopped.

    Example: tuner status quick
    """
    from tuner.job import report

    found = report(storage, study)
    _print(as_json, found.summary, found.lines)


@cli.command()
@study_argument
@storage_option
@json_option
def best(study: str, storage: str, as_json: bool) -> None:
    """Prints the best trial of a study.

    Example: tuner best quick --json
    """
    from tuner.job import report

    found = report(storage, study).summary["best"]
    if found is None:
        raise TunerError(f"no trial of {study} has finished above the floor on round_trip yet; `tuner status {study}` says how far it is")
    lines = [f"trial {found['trial']}: component accuracy {found['value']:.4f}", f"checkpoint: {found['checkpoint']}"]
    _print(as_json, found, [*lines, *(f"{name} = {value}" for name, value in found["hyperparameters"].items())])


@cli.command()
@click.argument("study", required=False)
@storage_option
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes any free port.")
def dashboard(study: str | None, storage: str, port: int) -> None:
    """Serves optuna-dashboard over the storage, on this machine only.

    Example: tuner dashboard quick --port 8080
    """
    from tuner.dashboard import serve
    from tuner.storage import open_storage
    from tuner.study import find_study

    opened = open_storage(storage, create=False)
    if study is not None:
        find_study(opened, study)
    serve(opened, port, lambda line: click.echo(line, err=True))


def _settings_options(command: Callable[..., None]) -> Callable[..., None]:
    options = [
        click.option("--lr", type=float, metavar="X", help="Peak learning rate."),
        click.option("--batch-size", type=int, metavar="N", help="Sentences a step."),
        click.option("--weight-decay", type=float, metavar="X", help="AdamW's weight decay."),
        click.option("--dropout", type=float, metavar="X", help="Share of features dropped."),
        click.option("--word-dropout", type=float, metavar="X", help="How often rare words are hidden from the parser."),
        click.option("--clip-norm", type=float, metavar="X", help="Largest gradient norm."),
        click.option("--proposition-loss", metavar="L", help="cross_entropy or mse."),
        *(click.option(f"--weight-{part}", type=float, metavar="X", help=f"Weight of the {part} loss.") for part in ("parse", "generate")),
        *(
            click.option(f"--weight-cycle-{way}", type=float, metavar="X", help=f"Weight of the {way} cycle.")
            for way in ("forward", "backward")
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _named_settings(options: dict[str, Any]) -> dict[str, Any]:
    weights = ("parse", "generate", "cycle_forward", "cycle_backward")
    dotted = {f"weight_{part}": f"loss_weights.{part}" for part in weights}
    return {dotted.get(name, name): value for name, value in options.items() if value is not None}


@cli.command()
@data_option
@stories_option
@click.option("--epochs", type=click.IntRange(min=1), default=30, show_default=True, metavar="N", help="Passes over the train split.")
@click.option("--hidden-dim", type=int, metavar="N", help="Width of the model.")
@click.option("--num-rules", type=int, metavar="N", help="Reversible rules.")
@_settings_options
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="The trial's seed.")
@click.option("--split-seed", type=click.IntRange(min=0), default=1, show_default=True, metavar="N", help="The split's seed.")
@click.option("--checkpoint", type=click.Path(path_type=Path), default=Path("runs/checkpoints/train.safetensors"), show_default=True)
@device_option
@json_option
def train(
    data: str | None,
    num_stories: int | None,
    epochs: int,
    seed: int,
    split_seed: int,
    checkpoint: Path,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Trains one configuration and prints its losses in the original's form, component accuracy beside them.

    Example: tuner train --num-stories 100 --epochs 30 --batch-size 32 --lr 0.0003 --hidden-dim 128 --num-rules 16
    """
    from model.checkpoint import DataSource
    from tuner.training import TrainRequest, train

    source = DataSource(data or "synthetic", num_stories, split_seed)
    request = TrainRequest(source, _named_settings(options), epochs, seed, device, checkpoint)
    result = train(request, lambda line: click.echo(line, err=as_json))
    _print(
        as_json,
        result,
        [
            f"checkpoint: {result['checkpoint']}",
            f"{result['seconds']:.1f} s, {result['sentences_per_second']:.0f} sentences a second",
        ],
    )


@cli.command()
@click.argument("checkpoint", type=click.Path(path_type=Path), required=False)
@click.option("--checkpoint", "named", type=click.Path(path_type=Path), hidden=True)
@data_option
@stories_option
@click.option("--split", type=click.Choice(["test", "valid", "all"]), default="test", show_default=True, help="Which sentences.")
@click.option("--hidden-dim", type=int, metavar="N", help="Checked against the checkpoint.")
@click.option("--num-rules", type=int, metavar="N", help="Checked against the checkpoint.")
@device_option
@json_option
def evaluate(
    checkpoint: Path | None,
    named: Path | None,
    data: str | None,
    num_stories: int | None,
    split: str,
    device: str,
    as_json: bool,
    **expected: int | None,
) -> None:
    """Scores a checkpoint on the data it was made for, or on others.

    Example: tuner evaluate runs/checkpoints/train.safetensors --split test --json
    """
    from model.checkpoint import load_checkpoint
    from model.trainer import find_device

    path = checkpoint or named
    if path is None:
        raise click.UsageError("give the CHECKPOINT to evaluate; `tuner best --json` names the best trial's")
    loaded = load_checkpoint(path, find_device(device))
    loaded.check(expected)
    figures = loaded.evaluate(data, num_stories, split).as_dict()
    _print(as_json, figures, _flat(figures))


class _Signals:
    """Remembers which signal ended the program: servers swallow the exception that it raises."""

    def __init__(self) -> None:
        self.status = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._received)

    def _received(self, number: int, _: Any) -> NoReturn:
        self.status = 128 + number
        raise SystemExit(self.status)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0 done, 1 failed, 2 bad usage or input, 130 and 143 after signals."""
    signals = _Signals()
    try:
        cli.main(args=arguments, prog_name="tuner", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 2
    except (TunerError, ModelError) as error:
        click.echo(f"error: {error}", err=True)
        return 2
    except SystemExit:
        if not signals.status:
            raise
        click.echo("interrupted; a search goes on when it is run again", err=True)
    except click.Abort:
        return INTERRUPTED
    return signals.status


def entry() -> NoReturn:
    """The console script."""
    sys.exit(main())
