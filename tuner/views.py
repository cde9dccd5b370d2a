"""A study as those see it who look on: dashboard and report. What is stored, gathered once, with the words that stand beside it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from tuner.definition import StudyDefinition
from tuner.diagnosis import Finding, diagnose_study
from tuner.ownership import OWNER, alive
from tuner.study import BASELINE, cause_of, chance_of, definition_of, reason_of
from tuner.summary import audit_line, summarise
from tuner.tables import CurveTable

RUNNING, INTERRUPTED = "running", "interrupted"
CAUSES = ("finished", "outpaced", "plateaued", "exploded", "out_of_memory", "failed", INTERRUPTED, RUNNING)
"""The order in which they are drawn and listed."""
FEW = 8
"""With fewer finished trials no importance is said."""


@dataclass(frozen=True)
class TrialView:
    """A trial that has begun.

    Args:
        curve: one point an epoch, as stored.
        reason: of its verdict; "" while it runs.
        seconds: its share of the time that its array trained; None while it runs.
        device: where it began.
    """

    number: int
    cause: str
    baseline: str | None
    settings: Mapping[str, Any]
    value: float | None
    curve: tuple[Mapping[str, Any], ...]
    reason: str
    seconds: float | None = None
    device: str = "cpu"

    @property
    def label(self) -> str:
        """How it is called in charts and tables."""
        return self.baseline or f"trial {self.number}"

    @property
    def reached(self) -> float | None:
        """The last objective that is a number."""
        return next((p["objective"] for p in reversed(self.curve) if math.isfinite(p["objective"])), None)


@dataclass(frozen=True)
class StudyView:
    """A study.

    Args:
        summary: as `tuner status --json` prints it.
        findings: where the plateau is left.
        importance: of each hyperparameter for the result, shares of one (PED-ANOVA); empty where too few trials have finished.
    """

    name: str
    definition: StudyDefinition
    summary: Mapping[str, Any]
    trials: tuple[TrialView, ...]
    findings: tuple[Finding, ...]
    importance: Mapping[str, float]
    attributes: Mapping[str, Any]

    @property
    def best(self) -> int | None:
        """The best trial's number."""
        found = self.summary["best"]
        return None if found is None else int(found["trial"])

    @property
    def saved(self) -> int:
        """The epochs that stopping saved."""
        return int(self.summary["epochs_saved"])

    @property
    def epochs(self) -> Mapping[str, int]:
        """How many epochs were run, by how their trials ended."""
        return Counter(trial.cause for trial in self.trials for _ in trial.curve)

    @property
    def plateau(self) -> tuple[float, float] | None:
        """The learning rates between which trials stay on the plateau, if that is what tells them apart."""
        for found in self.findings:
            if found.evidence.get("setting") == "lr" and found.evidence.get("stays"):
                low, high = found.evidence["stays"]
                return float(low), float(high)
        return None


def view(study: optuna.Study, curves: CurveTable, storage_shown: str) -> StudyView:
    """All of a study that is looked at."""
    summary = summarise(study, storage_shown)
    definition, trials = definition_of(study), study.get_trials(deepcopy=False)  # after: all that the summary names are there
    recorded = curves.read()  # last: what has ended has its whole curve
    begun = tuple(_trial(definition, t, tuple(recorded.get(t.number, ()))) for t in trials if t.state != TrialState.WAITING)
    findings = diagnose_study(study, chance_of(study))
    return StudyView(study.study_name, definition, summary, begun, tuple(findings), _importance(study), dict(study.user_attrs))


def _trial(definition: StudyDefinition, trial: FrozenTrial, curve: tuple[dict[str, Any], ...]) -> TrialView:
    under_way = RUNNING if alive(trial.user_attrs.get(OWNER)) else INTERRUPTED
    return TrialView(
        number=trial.number,
        cause=cause_of(trial) if trial.state.is_finished() else under_way,
        baseline=trial.user_attrs.get(BASELINE),
        settings=definition.filled(trial.params),
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        curve=curve,
        reason=reason_of(trial),
        seconds=trial.user_attrs.get("train_seconds"),
        device=trial.user_attrs.get("device", "cpu"),
    )


def _importance(study: optuna.Study) -> dict[str, float]:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < FEW or len({t.value for t in complete}) < 2:
        return {}
    # Here, for with it comes scikit-learn, which takes two seconds.
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return {name: float(share) for name, share in found.items()}


def sentences(seen: StudyView) -> list[str]:
    """The finding in three sentences: the best beside the baselines, what is trivial and what can be had; what was stopped and what
    that saved; where the plateau is left."""
    return [_best(seen), _stopped(seen), _left(seen)]


def _best(seen: StudyView) -> str:
    summary, best = seen.summary, seen.summary["best"]
    frequent, ceiling = summary["most_frequent"]["component_accuracy"], summary["ceiling"]["component_accuracy"]
    where = "on validation, " if best and best["confirmed"] else ""
    bounds = f"{where}always giving the most frequent answer comes to {frequent:.3f}, and {ceiling:.3f} can be had without copying"
    if best is None:
        again = " that stays so with fresh seeds" if summary["confirmation"] else ""
        sound = " with a sound round trip" if again or summary["round_trip_floor"] else ""
        return f"No trial has finished{sound}{again} yet; {bounds}."
    called = f" ({best['suggested']})" if best["suggested"] else ""
    return f"Trial {best['trial']}{called} comes to a component accuracy of {_reached(summary)}; {bounds}."


def _reached(summary: Mapping[str, Any]) -> str:
    """The best trial's figure beside that of the best baseline: with fresh seeds on the test split once it is confirmed."""
    best = summary["best"]
    if best["confirmed"]:
        figure = best["confirmed"]["component_accuracy"]
        entries = summary["confirmation"]["confirmed"]
        baselines = [entry["component_accuracy"]["mean"] for entry in entries if entry["baseline"]]
        within = f"95 % interval {figure['low']:.3f} to {figure['high']:.3f}"
        said = f"{figure['mean']:.3f} on the test split with fresh seeds ({within}; {best['value']:.3f} in the search, on validation)"
    else:
        baselines, said = [b["value"] for b in summary["baselines"] if b["value"] is not None], f"{best['value']:.3f} on validation"
    if baselines:
        return f"{said}, the best of {len(baselines)} baselines to {max(baselines):.3f}"
    return said if best["confirmed"] or not summary["baselines"] else f"{said}, no baseline has finished"


def _stopped(seen: StudyView) -> str:
    counts = ", ".join(f"{number} {cause.replace('_', ' ')}" for cause, number in seen.summary["trials"].items()) or "none"
    run, saved = seen.summary["epochs_run"], seen.summary["epochs_saved"]
    share = f", {100 * saved / (run + saved):.0f} % of what they would have taken" if saved else ""
    audit = audit_line(seen.summary["audit"])
    audited = f" {audit[:1].upper()}{audit[1:]}." if audit else ""
    return f"Of {len(seen.trials)} trials begun, {counts} have ended; stopping saved {saved} epochs{share}.{audited}"


def _left(seen: StudyView) -> str:
    first = seen.findings[0]
    return f"{first.finding[:1].upper()}{first.finding[1:]}: {first.advice}."
