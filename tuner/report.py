"""A study as one file, for somebody who has nothing installed: HTML that asks for nothing else, Markdown, or a table of its trials."""

from __future__ import annotations

import csv
import html
import io
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tuner.charts import charts
from tuner.choice import settings_command, settings_toml
from tuner.definition import SYMMETRIC
from tuner.errors import TunerError
from tuner.study import installed
from tuner.views import StudyView, sentences
from tuner.winner import FIGURES, heading, ranked, verdict_lines

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; } th, td { padding: .25rem .6rem; border-bottom: 1px solid #e3e6ea; text-align: left; }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
pre { background: #f5f6f8; padding: .7rem; overflow-x: auto; white-space: pre-wrap; word-break: break-word; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem; }
svg { width: 100%; height: auto; } figure { margin: 0; } .wide { overflow-x: auto; } .bar { background: #2e6fb7; height: .7rem; }
"""


def render(seen: StudyView, kind: str) -> str:
    """The report as `html`, `md` or `csv`.

    Raises:
        TunerError: another kind.
    """
    kinds: dict[str, Callable[[StudyView], str]] = {"html": page, "md": markdown, "csv": table}
    if kind not in kinds:
        raise TunerError(f"a report is written as {', '.join(f'.{name}' for name in kinds)}, not as {kind or 'a file with no suffix'!r}")
    return kinds[kind](seen)


def compared(seen: StudyView) -> list[list[str]]:
    """The rows best, baselines, most frequent, ceiling: objective, and each component's accuracy on the validation split."""
    summary, trials = seen.summary, {t.number: t for t in seen.trials}
    rows = [_row("ceiling without copying", summary["ceiling"]["component_accuracy"], summary["ceiling"])]
    if (best := summary["best"]) is not None:
        last = trials[best["trial"]].curve[-1:] or ({},)
        called = f" ({best['suggested']})" if best["suggested"] else ""
        rows.append(_row(f"best: trial {best['trial']}{called}", best["value"], last[0]))
    for baseline in summary["baselines"]:
        found = trials.get(baseline["trial"])
        ended = "" if baseline["value"] is not None else f" ({(baseline['cause'] or baseline['state']).replace('_', ' ')})"
        rows.append(_row(f"{baseline['name']}{ended}", baseline["value"], (found.curve[-1:] or ({},))[0] if found else {}))
    rows.append(_row("always the most frequent answer", summary["most_frequent"]["component_accuracy"], summary["most_frequent"]))
    return rows


def confirmed(seen: StudyView) -> list[list[str]]:
    """What fresh seeds score on the test split, the best first: objective and each component's accuracy with their intervals."""
    found = seen.summary["confirmation"]
    entries = ranked(found) if found else []
    return [[entry["name"], *(_between(entry[name]) for name in ("component_accuracy", *FIGURES))] for entry in entries]


def _between(figure: Mapping[str, float]) -> str:
    return f"{figure['mean']:.3f} ({figure['low']:.3f}\N{EN DASH}{figure['high']:.3f})"


def _row(name: str, value: float | None, figures: Any) -> list[str]:
    return [name, _share(value), *(_share(figures.get(role)) for role in FIGURES)]


def _share(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}"


COLUMNS = ("", "component accuracy", *FIGURES)
SEARCHED = "In the search, on the validation split"
CONFIRMED = "With fresh seeds, on the test split (mean, 95 % interval)"


def verdicts(seen: StudyView) -> list[list[str]]:
    """Every ended trial: number, cause, epochs, component accuracy, reason."""
    ended = [t for t in seen.trials if t.reason]
    return [[str(t.number), t.cause.replace("_", " "), str(len(t.curve)), _share(t.reached), t.reason] for t in ended]


def cost(seen: StudyView) -> list[list[str]]:
    """Epochs and seconds by cause, what stopping saved, seconds by what they were spent on."""
    rows = [[f"epochs of trials {cause.replace('_', ' ')}", f"{count:,}"] for cause, count in sorted(seen.epochs.items())]
    rows.append(["epochs saved by stopping", f"{seen.saved:,}"])
    seconds: dict[str, float] = {}
    for trial in seen.trials:
        if trial.seconds is not None:
            name = f"{'GPU-seconds' if trial.device.startswith('cuda') else 'seconds'} of trials {trial.cause.replace('_', ' ')}"
            seconds[name] = seconds.get(name, 0.0) + trial.seconds
    rows += [[name, f"{value:,.1f}"] for name, value in sorted(seconds.items())]
    return rows + [[f"seconds, {name}", f"{value:,.1f}"] for name, value in seen.summary["seconds"].items()]


def origin(seen: StudyView) -> list[list[str]]:
    """Versions, seed, data."""
    data = seen.attributes["data"]
    versions = {name: installed(name) for name in ("tuner", "torch", "optuna")}
    return [
        ["study", seen.name],
        ["seed", str(seen.definition.seed)],
        ["data", f"{data['name']}, fingerprint {data['fingerprint']}"],
        ["begun with", f"tuner {seen.attributes['tuner_version']}"],
        ["written with", ", ".join(f"{name} {version}" for name, version in versions.items()) + f", Python {platform.python_version()}"],
    ]


def _settings(seen: StudyView) -> tuple[str, str] | None:
    best = seen.summary["best"]
    if best is None:
        return None
    settings, epochs = best["hyperparameters"], seen.definition.budget.epochs
    if seen.definition.trainer != SYMMETRIC:
        return "\n".join(f"{name} = {value}" for name, value in settings.items()), settings_toml(settings, epochs)
    return settings_command(settings, epochs, seen.attributes["data"]), settings_toml(settings, epochs)


# ---- Markdown


def markdown(seen: StudyView) -> str:
    """The finding, the table, what was stopped, the plateau, the settings."""
    parts = [f"# {seen.name}", " ".join(sentences(seen)), f"## {SEARCHED}", _piped(COLUMNS, compared(seen))]
    if rows := confirmed(seen):
        found = seen.summary["confirmation"]
        parts += [f"## {CONFIRMED}", _piped(COLUMNS, rows), *(f"- {line}" for line in (heading(found), *verdict_lines(found)))]
    if (found := _settings(seen)) is not None:
        parts += ["## The best settings", f"```\n{found[0]}\n```"]
    parts += ["## Where the plateau is left", *(f"- {one.finding}: {one.advice}" for one in seen.findings)]
    stopped = [row for row in verdicts(seen) if row[1] != "finished"]
    parts += ["## What was stopped, and why", *(f"- trial {row[0]} {row[1]}: {row[4]}" for row in stopped[-20:])]
    if len(stopped) > 20:
        parts.append(f"and {len(stopped) - 20} before these")
    return "\n\n".join(parts).replace("\n\n- ", "\n- ") + "\n"


def _piped(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


# ---- CSV


def table(seen: StudyView) -> str:
    """One line a trial: how it ended, its figures, its settings."""
    names = sorted({name for t in seen.trials for name in t.settings})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "baseline", "cause", "epochs", "value", "last_component_accuracy", *names, "reason"])
    for t in seen.trials:
        figures = ["" if figure is None else f"{figure:.6g}" for figure in (t.value, t.reached)]
        settings = [_safe(str(t.settings.get(name, ""))) for name in names]
        writer.writerow([t.number, _safe(t.baseline or ""), t.cause, len(t.curve), *figures, *settings, _safe(t.reason)])
    return text.getvalue()


def _safe(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


# ---- HTML


def page(seen: StudyView) -> str:
    """One file without scripts, that asks for nothing else."""
    from tuner.pictures import svg

    parts = [f"<h1>{html.escape(seen.name)}</h1>", *(f"<p>{html.escape(sentence)}</p>" for sentence in sentences(seen))]
    parts += [f"<h2>{SEARCHED}</h2>", _cells(COLUMNS, compared(seen))]
    if rows := confirmed(seen):
        again = seen.summary["confirmation"]
        lines = [f"<li>{html.escape(line)}</li>" for line in (heading(again), *verdict_lines(again))]
        parts += [f"<h2>{CONFIRMED}</h2>", _cells(COLUMNS, rows), "<ul>", *lines, "</ul>"]
    if (found := _settings(seen)) is not None:
        parts += ["<h2>The best settings</h2>", *(f"<pre>{html.escape(text)}</pre>" for text in found)]
    parts += ["<h2>Where the plateau is left</h2>", "<ul>"]
    parts += [f"<li>{html.escape(one.finding)}: {html.escape(one.advice)}</li>" for one in seen.findings]
    parts += ["</ul>", "<h2>Curves</h2>", '<div class="charts">', *(f"<figure>{svg(chart)}</figure>" for chart in charts(seen)), "</div>"]
    parts += ["<h2>Importance of each hyperparameter (PED-ANOVA)</h2>", _importance(seen)]
    parts += ["<h2>Verdicts</h2>", _cells(("trial", "cause", "epochs", "component accuracy", "reason"), verdicts(seen), words=(1, 4))]
    parts += [
        "<h2>What it cost</h2>",
        _cells(("", ""), cost(seen)),
        "<h2>Where it comes from</h2>",
        _cells(("", ""), origin(seen), words=(1,)),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(seen.name)}</title>'
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _importance(seen: StudyView) -> str:
    if not seen.importance:
        return "<p>Too few trials have finished to say.</p>"
    most = max(seen.importance.values()) or 1.0
    rows = [
        f'<tr><td>{html.escape(name)}</td><td class="number">{share:.2f}</td>'
        f'<td style="width:60%"><div class="bar" style="width:{100 * share / most:.0f}%"></div></td></tr>'
        for name, share in seen.importance.items()
    ]
    return "<table>" + "".join(rows) + "</table>"


def _cells(columns: Sequence[str], rows: Iterable[Sequence[str]], words: Sequence[int] = ()) -> str:
    """A table whose first column and `words` are text, and the others numbers."""

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = ["" if place == 0 or place in words else ' class="number"' for place in range(len(cells))]
        return "<tr>" + "".join(f"<{tag}{kind}>{html.escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True)) + "</tr>"

    head = line(columns, "th") if any(columns) else ""
    return f'<div class="wide"><table>{head}{"".join(line(row, "td") for row in rows)}</table></div>'
