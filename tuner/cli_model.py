"""The commands about one model and its data: train, evaluate, parse, generate, data. Data on stdout, progress on stderr."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from tuner.options import data_option, device_option, json_option, say_aside, show, storage_option, stories_option

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint

checkpoint_argument = click.argument("checkpoint", type=click.Path(path_type=Path))


def _flat(figures: dict[str, Any], prefix: str = "") -> list[str]:
    lines: list[str] = []
    for name, value in figures.items():
        if isinstance(value, dict):
            lines += _flat(value, f"{prefix}{name}.")
        else:
            lines.append(f"{prefix + name:34} " + (f"{100 * value:7.2f} %" if isinstance(value, float) else str(value)))
    return lines


def _settings_options(command: Callable[..., None]) -> Callable[..., None]:
    options = [
        click.option("--lr", type=float, metavar="X", help="Peak learning rate."),
        click.option("--batch-size", type=int, metavar="N", help="Sentences a step."),
        click.option("--weight-decay", type=float, metavar="X", help="AdamW's weight decay."),
        click.option("--dropout", type=float, metavar="X", help="Share of features dropped."),
        click.option("--word-dropout", type=float, metavar="X", help="How often rare words are hidden from the parser."),
        click.option("--word-swap", type=float, metavar="X", help="Chance that an entity or property is replaced by another."),
        click.option("--warmup", type=float, metavar="X", help="Share of the steps over which the rate rises."),
        click.option("--final-lr", type=float, metavar="X", help="The last learning rate, as a share of the peak."),
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


@click.command()
@data_option
@stories_option
@click.option("--preset", metavar="NAME", help="Settings and epochs: tinystories, or a .toml file from `tuner best`; options override it.")
@click.option(
    "--from", "origin", metavar="STUDY[:TRIAL]", help="Settings, seed, epochs and data of a trial (or the best); options override them."
)
@storage_option
@click.option("--epochs", type=click.IntRange(min=1), metavar="N", help="Passes over the train split.  [default: 30]")
@click.option("--hidden-dim", type=int, metavar="N", help="Width of the model.")
@click.option("--num-rules", type=int, metavar="N", help="Reversible rules.")
@_settings_options
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="The trial's seed.  [default: 0]")
@click.option("--split-seed", type=click.IntRange(min=0), metavar="N", help="The split's seed.  [default: 1]")
@click.option("--checkpoint", type=click.Path(path_type=Path), default=Path("runs/checkpoints/train.safetensors"), show_default=True)
@device_option
@json_option
def train(
    data: str | None,
    num_stories: int | None,
    preset: str | None,
    origin: str | None,
    storage: str,
    epochs: int | None,
    seed: int | None,
    split_seed: int | None,
    checkpoint: Path,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Trains one configuration and prints its losses in the original's form, component accuracy beside them.

    Example: tuner train --num-stories 100 --epochs 30 --batch-size 32 --lr 0.0003 --hidden-dim 128 --num-rules 16
    """
    from tuner import training
    from tuner.progress import BarProgress

    if preset and origin:
        raise click.UsageError("--preset and --from both name settings; give one of them")
    base = training.base_of(preset, origin, storage)
    request = base.request(_named_settings(options), data, num_stories, split_seed, epochs, seed, device, checkpoint)
    with BarProgress(Console(stderr=True), "parsing stories") as parsing:
        result = training.train(request, partial(say_aside, err=as_json), parsing)
    show(
        as_json,
        result,
        [
            f"checkpoint: {result['checkpoint']}",
            f"{result['seconds']:.1f} s, {result['sentences_per_second']:.0f} sentences a second",
        ],
    )


def _noting(storage: str, model: Path) -> Callable[[str], None]:
    """What is told on which data the model is scored, and notes it with their studies."""
    from tuner.tested import digest_of, note_evaluation

    return partial(note_evaluation, storage, digest_of(model), model, say_aside)


def _loaded(path: Path, device: str) -> Checkpoint:
    from model.checkpoint import load_checkpoint
    from model.devices import find_device
    from tuner.saving import at_work

    with at_work(device):
        return load_checkpoint(path, find_device(device))


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path), required=False)
@click.option("--checkpoint", "named", type=click.Path(path_type=Path), hidden=True)
@data_option
@stories_option
@click.option("--split", type=click.Choice(["test", "valid", "all"]), default="test", show_default=True, help="Which sentences.")
@click.option("--hidden-dim", type=int, metavar="N", help="Checked against the checkpoint.")
@click.option("--num-rules", type=int, metavar="N", help="Checked against the checkpoint.")
@storage_option
@device_option
@json_option
def evaluate(
    checkpoint: Path | None,
    named: Path | None,
    data: str | None,
    num_stories: int | None,
    split: str,
    storage: str,
    device: str,
    as_json: bool,
    **expected: int | None,
) -> None:
    """Scores a checkpoint on the data it was made for, or on others. Studies of these data note that their test split was used.

    Example: tuner evaluate runs/checkpoints/train.safetensors --split test --json
    """
    from tuner.progress import BarProgress
    from tuner.saving import at_work

    path = checkpoint or named
    if path is None:
        raise click.UsageError("give the CHECKPOINT to evaluate; `tuner best --json` names the best trial's")
    loaded = _loaded(path, device)
    loaded.check(expected)
    scoring = _noting(storage, path) if split != "valid" else lambda _: None
    with BarProgress(Console(stderr=True), "parsing stories") as parsing, at_work(device):
        figures = loaded.evaluate(data, num_stories, split, parsing, say_aside, scoring).as_dict()
    show(as_json, figures, _flat(figures))


def _piped(what: str) -> list[str]:
    """The lines of standard input; a mark of the order of bytes before them is no part of the first."""
    if sys.stdin is None or sys.stdin.isatty():
        raise click.UsageError(f"give {what} as an argument, or lines of them on standard input")
    given = sys.stdin.buffer.read().removeprefix(codecs.BOM_UTF8)
    try:
        lines = [line.strip() for line in given.decode().split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        number = given.count(b"\n", 0, error.start) + 1
        raise click.UsageError(f"line {number} of standard input is not UTF-8 text: {error.reason} at byte {error.start}") from error
    if not lines:
        raise click.UsageError(f"standard input was empty; give {what} as an argument, or one line for each sentence")
    return lines


def _warn_of(unknown: Iterable[tuple[str, ...]]) -> None:
    """One line on stderr for each sentence with unknown words."""
    for words in filter(None, unknown):
        say_aside(f"unknown to this model: {', '.join(words)}")


@click.command()
@checkpoint_argument
@click.argument("text", nargs=-1)
@device_option
@json_option
def parse(checkpoint: Path, text: tuple[str, ...], device: str, as_json: bool) -> None:
    """Prints the propositions of each TEXT (a sentence), or of each line of standard input.

    Example: tuner parse runs/checkpoints/train.safetensors "The little girl found a red needle."
    """
    from model.inference import parse_texts
    from tuner.saving import at_work

    model, sentences = _loaded(checkpoint, device), text or _piped("sentences")
    with at_work(device):
        found = parse_texts(model, sentences)
    _warn_of(parsed.unknown for parsed in found)
    for parsed in found:
        if parsed.beyond:
            say_aside(f"too long: this model reads {len(parsed.tokens)} tokens, {parsed.beyond} more are not read")
    summary = [{"tokens": parsed.tokens, "propositions": parsed.propositions, "unknown": parsed.unknown} for parsed in found]
    show(as_json, {"sentences": summary}, [" ".join(map(",".join, parsed.propositions)) for parsed in found])


@click.command()
@checkpoint_argument
@click.argument("propositions", nargs=-1)
@device_option
@json_option
def generate(checkpoint: Path, propositions: tuple[str, ...], device: str, as_json: bool) -> None:
    """Prints a sentence that states the PROPOSITIONS (entity,relation,value), or one for each line of standard input.

    Example: tuner generate runs/checkpoints/train.safetensors girl,find,needle needle,has_property,red
    """
    from model.inference import generate_texts, read_propositions
    from tuner.saving import at_work

    model = _loaded(checkpoint, device)
    lines = [list(propositions)] if propositions else [line.split() for line in _piped("propositions")]
    groups = [read_propositions(line, model.shape.max_propositions) for line in lines]
    with at_work(device):
        written = generate_texts(model, groups)
    _warn_of(writing.unknown for writing in written)
    summary = [{"text": writing.text, "propositions": writing.propositions, "unknown": writing.unknown} for writing in written]
    show(as_json, {"sentences": summary}, [writing.text for writing in written])


@click.group()
def data() -> None:
    """Looks at data before anything is trained on them.

    Example: tuner data describe stories.jsonl.gz
    """


@data.command()
@click.argument("source", default="synthetic")
@stories_option
@json_option
def describe(source: str, num_stories: int | None, as_json: bool) -> None:
    """Prints how large and how varied the data SOURCE are, and how far the most frequent answer comes.

    Example: tuner data describe stories.jsonl.gz --num-stories 1000
    """
    from model.description import describe_by_size, table
    from model.sources import load_sentences
    from tuner.progress import BarProgress

    with BarProgress(Console(stderr=True), "parsing stories") as parsing:
        name, sentences = load_sentences(source, num_stories, 1, parsing)
    columns = describe_by_size(sentences)
    show(as_json, {"data": name, "columns": columns}, table(columns))
