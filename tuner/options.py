"""What the commands have in common: shared options, and how results are printed."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

from tuner.errors import TunerError

Command = TypeVar("Command", bound=Callable[..., Any])
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
device_option = click.option("--device", metavar="D", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
data_option = click.option(
    "--data",
    metavar="D",
    help="synthetic, tinystories, or a file: .jsonl[.gz] of sentences, .txt[.gz] of stories.  "
    "[default: what the study, --from or the checkpoint names, else synthetic]",
)
stories_option = click.option(
    "--num-stories",
    type=click.IntRange(min=1),
    metavar="N",
    help="Use the first N stories only.  [default: as many as the study says, or as --from or the checkpoint unless --data names others; "
    "synthetic: 300; else all]",
)
study_argument = click.argument("study", default="quick")
storage_option = click.option(
    "--storage",
    metavar="URL",
    envvar="TUNER_STORAGE",
    default="sqlite:///runs/tuner.db",
    show_default=True,
    help="Where studies are kept.",
)
artifacts_option = click.option(
    "--artifacts",
    metavar="PLACE",
    envvar="TUNER_ARTIFACTS",
    default="runs/artifacts",
    show_default=True,
    help="Where other machines and the dashboard find models and snapshots: a folder, or s3://BUCKET/PREFIX.",
)
width_option = click.option(
    "--width",
    metavar="N|auto",
    default="auto",
    show_default=True,
    help="Trials trained at once, after the first, cheap ones (confirming on a CPU: on each core); auto measures or counts it.",
)


def telling_options(command: Command) -> Command:
    """How much is said on stderr, and in which form: `words` and `log_format`."""
    for option in (
        click.option(
            "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Format of the messages on stderr."
        ),
        click.option("-v", "words", flag_value=1, type=int, help="Also print one line per epoch."),
        click.option("-q", "words", flag_value=-1, type=int, help="Print only problems."),
    ):
        command = option(command)
    return command


def metrics_options(command: Command) -> Command:
    """Where figures are served: `metrics_port` and `metrics_host`."""
    port = click.option(
        "--metrics-port",
        type=click.IntRange(0, 65535),
        metavar="PORT",
        help="Serve figures of this process for Prometheus; 0: any port.",
    )
    host = click.option("--metrics-host", metavar="HOST", default="127.0.0.1", show_default=True, help="The address to serve them on.")
    return port(host(command))


def width_of(width: str) -> int | None:
    """A width as a number, None for `auto`.

    Raises:
        click.BadParameter: it is neither.
    """
    if width == "auto":
        return None
    if not width.isdecimal() or not 1 <= int(width) <= 4096:
        raise click.BadParameter(f"{width!r} is not allowed; allowed: auto or a whole number from 1 to 4096", param_hint="--width")
    return int(width)


def with_nulls(value: Any) -> Any:
    """The value as JSON can say it: what is not finite becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: with_nulls(entry) for key, entry in value.items()}
    return [with_nulls(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def show(as_json: bool, summary: dict[str, Any], lines: list[str]) -> None:
    """One JSON object, or the lines.

    Raises:
        TunerError: they cannot be written.
    """
    try:
        click.echo(json.dumps(with_nulls(summary), allow_nan=False) if as_json else printable("\n".join(lines)))
    except BrokenPipeError:
        raise  # who reads them has read enough
    except OSError as error:
        raise TunerError(f"what was found cannot be written to standard output ({error.strerror})") from error


def say_aside(text: str, err: bool = True) -> None:
    """Says something on stderr, or beside other lines; where it cannot be said, for a log on a disk that is full, nothing else is lost."""
    with contextlib.suppress(OSError):
        click.echo(printable(text), err=err)


def printable(text: str) -> str:
    """Text of a database or a file, without what a terminal would obey and what is no text; lines stay lines."""
    return text.translate(CONTROLS).encode("utf-8", "backslashreplace").decode()
