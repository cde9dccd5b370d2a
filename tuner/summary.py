"""What a study has found, as one object and as text: the best trial beside each baseline, the most frequent answer and the ceiling."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from model.config import ROLES
from tuner.budget import seconds_of
from tuner.buffer import BufferedStorage
from tuner.choice import choice_of
from tuner.intervals import wilson
from tuner.ownership import OWNER, alive
from tuner.storage import Patience, open_storage, shown
from tuner.study import BASELINE, VERDICT, cause_of, definition_of, epochs_of, find_study, reason_of
from tuner.tables import CurveTable
from tuner.verdict import STOPPED_CAUSES, counted
from tuner.winner import best_by, candidates, standing, told

ENOUGH_AUDITS = 20


@dataclass(frozen=True)
class Report:
    """A study's summary as an object and as lines of text."""

    summary: dict[str, Any]
    lines: list[str]


def summarise(study: optuna.Study, storage_shown: str) -> dict[str, Any]:
    """What `tuner search --json` and `tuner status --json` print."""
    definition, trials = definition_of(study), study.get_trials(deepcopy=False)
    ended = [t for t in trials if t.state.is_finished()]
    under_way = [t for t in trials if t.state == TrialState.RUNNING]
    running = sum(alive(t.user_attrs.get(OWNER)) for t in under_way)
    found = standing(study)
    best = best_by(study, found)
    stopped = [t for t in ended if cause_of(t) in STOPPED_CAUSES]
    saved = sum(definition.budget.epochs - t.user_attrs.get("epochs_run", 0) for t in stopped)
    seconds = seconds_of(study)
    return {
        "study": study.study_name,
        "storage": storage_shown,
        "trials": dict(sorted(Counter(map(cause_of, ended)).items())),
        "running": running,
        "interrupted": len(under_way) - running,
        "epochs_run": sum(map(epochs_of, trials)),
        "epochs_saved": saved,
        "best": None if best is None else choice_of(study, definition, *best).as_dict(),
        "confirmation": found,
        "round_trip_floor": definition.objective.round_trip_floor,
        "baselines": [_baseline(t) for t in trials if t.user_attrs.get(BASELINE)],
        "audit": audit(ended),
        "most_frequent": study.user_attrs["most_frequent"],
        "ceiling": study.user_attrs["ceiling"],
        "seconds": {
            name: round(seconds.get(name, 0.0), 3) for name in ("total", "training", "evaluating", "asking", "storing", "keeping", "gpu")
        },
    }


def audit(ended: list[FrozenTrial]) -> dict[str, Any]:
    """How often stopping would have been wrong: of the stops that were not carried out, those of trials that ended in the best tenth."""
    best = {t.number for t in candidates(ended)[: max(1, round(len(ended) / 10))]}
    spared = [t for t in ended if "audited" in t.user_attrs]
    wrong = sum(t.number in best for t in spared)
    low, high = wilson(wrong, len(spared))
    return {"stops": len(spared), "wrong": wrong, "low": low, "high": high}


def audit_line(found: Mapping[str, Any]) -> str:
    """That in words; "" where every stop was carried out."""
    stops, wrong = found["stops"], found["wrong"]
    if not stops:
        return ""
    line = f"audit: {stops} {'stop' if stops == 1 else 'stops'} not carried out, {wrong} of these trials ended in the best tenth"
    if stops < ENOUGH_AUDITS:
        return f"{line}: too few to tell"
    return f"{line}: stopping is wrong in {100 * found['low']:.0f} to {100 * found['high']:.0f} % of cases (Wilson, 95 %)"


def _baseline(trial: FrozenTrial) -> dict[str, Any]:
    value = trial.value if trial.state == TrialState.COMPLETE else None
    cause = cause_of(trial) if trial.state.is_finished() else None
    left = trial.state == TrialState.RUNNING and not alive(trial.user_attrs.get(OWNER))
    state = "interrupted" if left else trial.state.name.lower()
    return {"name": trial.user_attrs[BASELINE], "trial": trial.number, "value": value, "cause": cause, "state": state}


def _percent(share: float | None) -> str:
    return "      -" if share is None else f"{100 * share:6.2f}%"


def finding(summary: dict[str, Any], latest: Mapping[int, dict[str, Any]]) -> list[str]:
    """The table best / baselines / most frequent / ceiling, one line each.

    Args:
        latest: the last point of each trial's curve.
    """
    best = summary["best"]
    lines = [f"study {summary['study']}", f"{'':44} objective  entity relation   value round trip"]

    def row(label: str, value: float | None, figures: dict[str, Any]) -> str:
        parts = " ".join(f"{_percent(figures.get(role)):>7}" for role in ROLES)
        return f"{label[:44]:44} {_percent(value):>9} {parts} {_percent(figures.get('round_trip')):>10}"

    ceiling, frequent = summary["ceiling"], summary["most_frequent"]
    lines.append(row("ceiling without copying (words, places)", ceiling["component_accuracy"], ceiling))
    if best is not None:
        named = "" if best["suggested"] is None else f" ({best['suggested']})"
        lines.append(row(f"best: trial {best['trial']}{named}", best["value"], latest.get(best["trial"], {})))
    lines += [row(b["name"], b["value"], latest.get(b["trial"], {})) for b in summary["baselines"]]
    lines.append(row("always the most frequent answer", frequent["component_accuracy"], frequent))
    if summary["confirmation"] is not None:
        lines += told(summary["confirmation"])
    elif best is None:
        lines += _none_sound(latest, summary["round_trip_floor"])
    if best is not None:
        lines += [f"settings: {json.dumps(best['hyperparameters'])}", f"checkpoint: {best['checkpoint']}"]
    epochs = f"{summary['epochs_run']} epochs run, {summary['epochs_saved']} saved by stopping"
    left = f", {summary['interrupted']} interrupted (tuner search {summary['study']} goes on with them)" if summary["interrupted"] else ""
    lines.append(f"trials: {counted(summary['trials'])}; {summary['running']} running{left}; {epochs}")
    return [*lines, *filter(None, [audit_line(summary["audit"])])]


def _none_sound(latest: Mapping[int, dict[str, Any]], floor: float) -> list[str]:
    """What is said where no trial is a candidate: how far the highest has come, and why that does not count."""
    least = f"{100 * floor:g} % of the sentences are to state the same when written and read again"
    lines = [f"no trial has finished above the floor on round_trip yet: {least}" if floor else "no trial has finished yet"]
    reached = {number: point for number, point in latest.items() if point["objective"] > 0}
    if reached:
        number, last = max(reached.items(), key=lambda one: (one[1]["objective"], -one[0]))
        figures = f"component accuracy {100 * last['objective']:.2f}%, round trip {100 * last.get('round_trip', 0.0):.2f}%"
        lines.append(f"the highest so far is trial {number}: {figures}")
        if floor:
            lines[-1] += "; more epochs or more stories usually raise the round trip"
            lines.append("if they cannot be had, lower [objective] round_trip_floor in a copy of the study's TOML file")
    return lines


def verdicts(study: optuna.Study) -> list[str]:
    """Why each stopped trial was stopped, one line each."""
    stopped = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished() and cause_of(t) != "finished"]
    epochs = (t.user_attrs.get(VERDICT, {}).get("epoch", epochs_of(t)) for t in stopped)
    return [f"trial {t.number} {cause_of(t)} in epoch {epoch}: {reason_of(t)}" for t, epoch in zip(stopped, epochs, strict=True)]


def report(storage_url: str, study_name: str, patience: Patience | None = None) -> Report:
    """The state of a study, running or ended.

    Args:
        patience: waits for a storage that is away; None: it is said at once.
    """
    storage = open_storage(storage_url, create=False) if patience is None else patience(open_storage, storage_url, create=False)
    patience = patience or Patience(seconds=0.0)
    study = find_study(BufferedStorage(storage, patience), study_name)
    summary = summarise(study, shown(storage_url))
    lines = finding(summary, CurveTable(storage, study._study_id, patience).latest())
    return Report(summary, [*lines, *verdicts(study)])
