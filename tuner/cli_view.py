"""Commands for those who look on: status, dashboard, report, and the doctor."""

from __future__ import annotations

import re
from pathlib import Path

import click
from rich.console import Console

from tuner.errors import TunerError
from tuner.health import PULSE
from tuner.options import artifacts_option, json_option, show, storage_option, study_argument

DASHBOARD_SECONDS = 5.0
"""So long a page of the dashboard waits for a storage that is away."""


@click.command()
@study_argument
@storage_option
@click.option("--watch", is_flag=True, help="Show the running search, as its own terminal does, until it ends.")
@json_option
def status(study: str, storage: str, watch: bool, as_json: bool) -> None:
    """Says how far a study is, what it has found and why trials were stopped.

    Example: tuner status quick --watch
    """
    from tuner.summary import report

    if watch:
        from tuner.watch import watch as follow

        follow(storage, study, Console(stderr=True))
    found = report(storage, study)
    show(as_json, found.summary, found.lines)


@click.command()
@click.argument("study", required=False)
@storage_option
@artifacts_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to serve on; on any but loopback everybody logs in.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes any free port.")
@click.option("--allow-host", "names", multiple=True, metavar="NAME", help="A further name under which it may be reached.")
@click.option("--read-only", is_flag=True, help="Refuse whatever changes a study.")
@click.option("--open", "opened", is_flag=True, help="Open it in the browser.")
def dashboard(
    study: str | None, storage: str, artifacts: str, host: str, port: int, names: tuple[str, ...], read_only: bool, opened: bool
) -> None:
    """Serves optuna-dashboard over the storage: on this machine only, unless --host says otherwise.

    On another address, and where the storage is a server with a password, everybody must log in with a token: TUNER_DASHBOARD_TOKEN, the
    file that TUNER_DASHBOARD_TOKEN_FILE names, or one that is made and printed at the first start.

    Example: tuner dashboard quick --port 8080
    """
    from tuner.artifacts import open_artifacts
    from tuner.buffer import BufferedStorage
    from tuner.dashboard import serve
    from tuner.storage import Patience, open_storage
    from tuner.study import find_study

    served = BufferedStorage(open_storage(storage, create=False), Patience(seconds=DASHBOARD_SECONDS))
    number = None if study is None else find_study(served, study)._study_id
    serve(
        served,
        open_artifacts(artifacts),
        lambda line: click.echo(line, err=True),
        host=host,
        port=port,
        open_here=served.backend.engine.dialect.name == "sqlite",
        names=names,
        read_only=read_only,
        study=number,
        show=opened,
    )


@click.command()
@study_argument
@storage_option
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="FILE.html, FILE.md or FILE.csv.  [default: STUDY.html]"
)
def report(study: str, storage: str, output: Path | None) -> None:
    """Writes a study into one file, to send to somebody who has nothing installed.

    Example: tuner report quick -o quick.html
    """
    from model.files import whole
    from tuner.report import render
    from tuner.storage import open_storage, shown
    from tuner.study import find_study
    from tuner.tables import CurveTable
    from tuner.views import view

    opened = open_storage(storage, create=False)
    found = find_study(opened, study)
    path = output or Path(re.sub(r"[^\w@. -]", "_", found.study_name) + ".html")  # here, whatever others call their studies
    text = render(view(found, CurveTable(opened, found._study_id), shown(storage)), path.suffix.removeprefix("."))
    try:
        with whole(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TunerError(f"{path} cannot be written ({error.strerror}); name another file with -o") from error
    click.echo(str(path))


@click.command()
@storage_option
@json_option
def doctor(storage: str, as_json: bool) -> None:
    """Says what this machine has and what to install for what is missing.

    Example: tuner doctor
    """
    from tuner.doctor import examine

    checks = examine(storage)
    show(as_json, {"checks": [check.as_dict() for check in checks]}, [check.line for check in checks])
    if any(check.state == "bad" for check in checks):
        raise SystemExit(1)


@click.command()
@click.option("--pulse", type=click.Path(path_type=Path), envvar=PULSE, metavar="FILE", help="What the search writes after each epoch.")
@json_option
def health(pulse: Path | None, as_json: bool) -> None:
    """Says whether a search of this container makes progress; status 1 if it hangs.

    Example: tuner health --pulse /dev/shm/tuner-pulse
    """
    import time

    from tuner.health import health as examined

    if pulse is None:
        raise click.UsageError("nothing says where the search writes its pulse: set TUNER_PULSE for both, or name it with --pulse")
    found = examined(pulse, time.time())
    show(as_json, {"well": found.well, "reason": found.reason}, [found.reason])
    if not found.well:
        raise SystemExit(1)
