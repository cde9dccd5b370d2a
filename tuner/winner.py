"""Who has won: the leaders and baselines of a study under fresh seeds, with intervals, and whether the best is beyond the noise.

What a search calls best was chosen among many noisy trials of one seed each on one validation split, so its value is partly luck. The
leaders and all baselines are trained with seeds the search has not seen (`confirm`). The best leader is chosen by its mean on
the validation split; figures and differences are those of the test split, which chose nothing. It has won if it is better than every
baseline beyond the noise of seeds and stories.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from model.config import ROLES
from tuner.comparison import LEVEL, Interval, Numbers, differences, interval_of_share
from tuner.definition import StudyDefinition
from tuner.study import BASELINE, FIXED, feasible, reason_of

CONFIRMED = "confirmed"
FIGURES = (*ROLES, "exact")
LEAST_KNOWN = 2
"""Seeds, and stories, from which on something is known of the noise (`comparison.estimate`)."""


def candidates(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The feasible trials that are no baselines, the best first."""
    return [t for t in feasible(trials) if not t.user_attrs.get(BASELINE)]


def leaders(study: optuna.Study, definition: StudyDefinition) -> list[FrozenTrial]:
    """The best few that are no baselines."""
    return candidates(study.get_trials(deepcopy=False))[: definition.confirm.top]


def baselines(study: optuna.Study) -> list[FrozenTrial]:
    """All that the search has not found impossible to train, with their settings: also those that it had no time for."""
    there = (TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING)
    return [_with_settings(t) for t in study.get_trials(deepcopy=False, states=there) if t.user_attrs.get(BASELINE)]


def impossible(study: optuna.Study) -> dict[str, str]:
    """The baselines that ended without a value (they failed, or there was no room for them), each with the reason."""
    ended = study.get_trials(deepcopy=False, states=(TrialState.FAIL, TrialState.PRUNED))
    reasons = {t.user_attrs.get(BASELINE): reason_of(t) for t in ended}
    return {str(name): reason for name, reason in reasons.items() if name}


def _with_settings(trial: FrozenTrial) -> FrozenTrial:
    """A trial that has not begun with the settings that it was put in with."""
    if trial.params:
        return trial
    known = copy.copy(trial)
    known.params = dict(trial.system_attrs[FIXED])
    return known


def standing(study: optuna.Study) -> dict[str, Any] | None:
    """What was confirmed last; None if nothing was, or once a trial that was not confirmed is among the best (as many as were)."""
    found: dict[str, Any] = study.user_attrs.get(CONFIRMED, {"confirmed": []})
    ours = {entry["trial"] for entry in found["confirmed"] if not entry["baseline"]}
    ahead = candidates(study.get_trials(deepcopy=False))[: len(ours)]
    return found if ours and all(t.number in ours for t in ahead) else None


def best_of(study: optuna.Study) -> tuple[FrozenTrial, dict[str, Any] | None] | None:
    """The leader with the best mean over fresh seeds, and its figures; the best trial of the search while a leader waits to be confirmed.

    None if no trial has finished above the floor on the round trip, or no leader stays above it with fresh seeds.
    """
    return best_by(study, standing(study))


def best_by(study: optuna.Study, found: Mapping[str, Any] | None) -> tuple[FrozenTrial, dict[str, Any] | None] | None:
    """The same by a finding that stands, or by none."""
    trials = study.get_trials(deepcopy=False)
    if found is None:
        best = feasible(trials)
        return (best[0], None) if best else None
    entries = {entry["trial"]: entry for entry in found["confirmed"]}
    return next(((t, entries[t.number]) for t in trials if t.number == found["chosen"]), None)


@dataclass(frozen=True, eq=False)
class Confirmed:
    """One trial's settings under fresh seeds.

    Args:
        size: of its model: smaller ones sort before larger ones. Batches are no part of it.
        search_value: None for a baseline that the search did not end.
        valid, round_trips: by seed, on the validation split.
        right_SN: by figure, what seed s has right on test story n; `component_accuracy` is the mean of its parts.
    """

    name: str
    trial: int
    baseline: bool
    size: tuple[int, ...]
    search_value: float | None
    seeds: tuple[int, ...]
    valid: tuple[dict[str, float], ...]
    round_trips: tuple[float, ...]
    right_SN: Mapping[str, Numbers]
    of_N: Numbers

    @property
    def mean(self) -> float:
        """The mean objective on the validation split."""
        return fmean(one["component_accuracy"] for one in self.valid)

    @property
    def round_trip(self) -> float:
        """The mean round trip there."""
        return fmean(self.round_trips)

    def entry(self) -> dict[str, Any]:
        """As `tuner confirm --json` shows it: test figures, and the validation figures that chose."""
        figures = {name: interval_of_share(right_SN, self.of_N).as_dict() for name, right_SN in self.right_SN.items()}
        values = [one["component_accuracy"] for one in self.valid]
        own = {"name": self.name, "trial": self.trial, "baseline": self.baseline, "seeds": list(self.seeds)}
        return {**own, **figures, "search_value": self.search_value, "mean": self.mean, "values": values, "round_trip": self.round_trip}


def confirmed_of(definition: StudyDefinition, trial: FrozenTrial, runs: Mapping[int, Mapping[str, Any]]) -> Confirmed:
    """A trial with its stored runs by seed."""
    seeds = tuple(sorted(runs))
    shape, hyperparameters = definition.settings(trial.params, seeds[0])
    right = {name: np.array([runs[seed]["test"]["right"][name] for seed in seeds], dtype=np.float64) for name in FIGURES}
    whole = np.mean([right[role] for role in ROLES], axis=0)
    return Confirmed(
        name=str(trial.user_attrs.get(BASELINE) or f"trial {trial.number}"),
        trial=trial.number,
        baseline=bool(trial.user_attrs.get(BASELINE)),
        size=(shape.hidden_dim, hyperparameters.num_rules),
        search_value=trial.value,
        seeds=seeds,
        valid=tuple(runs[seed]["valid"] for seed in seeds),
        round_trips=tuple(runs[seed]["round_trip"] for seed in seeds),
        right_SN={"component_accuracy": whole, **right},
        of_N=np.array(runs[seeds[0]]["test"]["stated"], dtype=np.float64),
    )


def finding_of(found: Sequence[Confirmed], floor: float, uses: int, left_out: Mapping[str, str]) -> dict[str, Any]:
    """What the fresh runs say, as `tuner confirm --json` prints it.

    Whoever is not compared because of its round trip has had its chance to be lucky too, so it counts among the leaders.

    Args:
        floor: on the round trip; a leader whose mean lies below it is not chosen.
        uses: how often the test split has been used for this study.
        left_out: the baselines that cannot be trained, each with the reason.
    """
    sound, ours = [one for one in found if one.round_trip >= floor], [one for one in found if not one.baseline]
    chosen = max((one for one in ours if one in sound), key=lambda one: (one.mean, one.round_trip, -one.trial), default=None)
    against, level = [one for one in found if one.baseline], LEVEL * min(1.0, 2 / max(1, len(ours)))
    gaps = [] if chosen is None else _gaps(chosen, against, level)
    won = chosen is not None and bool(gaps) and all(gap.low > 0 for gap in gaps)
    return {
        "confirmed": [one.entry() for one in found],
        "chosen": chosen.trial if chosen else None,
        "winner": chosen.name if chosen and won else None,
        "differences": [{"against": one.name, **gap.as_dict()} for one, gap in zip(against, gaps, strict=False)],
        "smallest": one.name if chosen and (one := smallest(chosen, sound, dict(zip(against, gaps, strict=False)), level)) else None,
        **_announced(ours),
        "seed_noise": seed_noise(found),
        "floor": floor,
        "stories": len(found[0].of_N) if found else 0,
        "test_uses": uses,
        "left_out": dict(left_out),
    }


def _gaps(ours: Confirmed, others: Sequence[Confirmed], level: float = LEVEL) -> list[Interval]:
    """How far ours scores above each of the others.

    The runs that choose among L leaders are also those that are compared, so luck is chosen too: an interval lies above zero by luck alone
    in up to L times half of `level` of cases. With `level` at 2 / L of the level that is meant, that stays within the latter (Bonferroni).
    """
    whole = [one.right_SN["component_accuracy"] for one in (ours, *others)]
    return differences(whole[0], whole[1:], ours.of_N, level)


def _announced(ours: Sequence[Confirmed]) -> dict[str, Any]:
    """Which trial the search called the best, baselines not counted, and by how much its figure was too high: what it has with fresh seeds
    chose nothing."""
    best = max((one for one in ours if one.search_value is not None), key=lambda one: one.search_value or 0.0, default=None)
    return {"announced": best and best.name, "too_high": (best.search_value or 0.0) - best.mean if best else None}


def smallest(chosen: Confirmed, found: Sequence[Confirmed], gaps: Mapping[Confirmed, Interval], level: float) -> Confirmed | None:
    """The smallest model that is not worse than the chosen one beyond the noise; None where nothing is known of the noise.

    Args:
        gaps: how far the chosen one is above each baseline: one by which it has not won is not worse.
        level: at which the other leaders are compared, chosen from among them as it is.
    """
    if min(chosen.right_SN["component_accuracy"].shape) < LEAST_KNOWN:
        return None
    others = [one for one in found if one is not chosen]
    alike = [one for one in others if (gaps[one] if one in gaps else _gaps(chosen, [one], level)[0]).low <= 0]
    return min((chosen, *alike), key=lambda one: (one.size, one is not chosen))


def seed_noise(found: Sequence[Confirmed]) -> dict[str, float] | None:
    """How far runs of one configuration scatter on the validation split: the standard deviation over seeds, pooled over all of them.

    Components that a trainer does not give there are left out."""
    several = [one for one in found if len(one.seeds) > 1]
    if not several:
        return None
    free = sum(len(one.seeds) - 1 for one in several)
    names = [name for name in ("component_accuracy", *ROLES) if all(name in run for one in several for run in one.valid)]
    sums = {name: sum((len(one.seeds) - 1) * variance(run[name] for run in one.valid) for one in several) for name in names}
    return {name: math.sqrt(total / free) for name, total in sums.items()}


# ---- in words

TWO_SEEDS = "with two seeds the interval of each holds in 92 to 95 % of cases; `tuner confirm STUDY --seeds 3` adds a third"
"""As `python -m benchmarks.winner_noise` has it."""


def told(finding: Mapping[str, Any]) -> list[str]:
    """The finding as lines of text."""
    entries = ranked(finding)
    if not entries:
        return ["nothing was confirmed: no trial has finished above the floor on the round trip, baselines not counted"]
    lines = [heading(finding), f"{'mean of the test split, 95 % interval':44} {'objective':>22} {'entity':>7} {'relation':>8} {'value':>7}"]
    return [*lines, *map(_row, entries), *verdict_lines(finding)]


def heading(finding: Mapping[str, Any]) -> str:
    """With how many seeds and on how many stories something was confirmed, and how often the test split has been used."""
    seeds, uses = _seeds(finding), finding["test_uses"]
    again = "" if uses < 2 else f"; the test split was used {uses} times, so it is no longer fully independent"
    return f"confirmed with {seeds} fresh {'seed' if seeds == 1 else 'seeds'}, on {finding['stories']} test stories{again}"


def _seeds(finding: Mapping[str, Any]) -> int:
    """With how many seeds something was confirmed."""
    return max((len(entry["seeds"]) for entry in finding["confirmed"]), default=0)


def ranked(finding: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What was confirmed, the best on the test split first."""
    return sorted(finding["confirmed"], key=lambda entry: -entry["component_accuracy"]["mean"])


def verdict_lines(finding: Mapping[str, Any]) -> list[str]:
    """Who has won, by how much the search's figure was off, the noise, and that two seeds are few."""
    missing = [f"not compared with {name}: {reason}" for name, reason in finding.get("left_out", {}).items()]
    few = [TWO_SEEDS] if _seeds(finding) == 2 else []
    return [*_verdict(finding, {entry["trial"]: entry for entry in finding["confirmed"]}), *missing, *_noise(finding), *few]


def _row(entry: Mapping[str, Any]) -> str:
    means = " ".join(f"{100 * entry[role]['mean']:{width}.2f}%" for role, width in zip(ROLES, (6, 7, 6), strict=True))
    return f"{entry['name'][:44]:44} {percent(entry['component_accuracy']):>22} {means}"


def percent(figure: Mapping[str, float]) -> str:
    """A share with its interval."""
    return f"{100 * figure['mean']:.2f}% ({100 * figure['low']:.1f} to {100 * figure['high']:.1f})"


def _verdict(finding: Mapping[str, Any], entries: Mapping[int, Mapping[str, Any]]) -> list[str]:
    if finding["chosen"] is None:
        return ["no winner: no leader keeps its round trip above the floor with fresh seeds"]
    chosen, gaps, better = entries[finding["chosen"]], finding["differences"], beaten_by(finding)
    least = min(gaps, key=lambda gap: gap["low"], default=None)
    if least is None:
        lines = [f"no winner: there is no baseline to compare {chosen['name']} with, the best of what was searched"]
    elif finding["winner"] is not None:
        every = "every baseline that can be trained" if finding.get("left_out") else "every baseline"
        lines = [f"winner: {chosen['name']}, better than {every}; {_gap(least, finding)}"]
    elif len(chosen["seeds"]) < 2:
        lines = [f"no winner: one fresh seed says nothing of the noise; run `tuner confirm STUDY --seeds 3`; {_gap(least, finding)}"]
    elif better is not None:
        lines = [f"no winner: {better['against']} is better than {chosen['name']} beyond the noise; {_gap(better, finding)}"]
    else:
        lines = [f"no winner: {chosen['name']} is not better than every baseline beyond the noise; {_gap(least, finding)}"]
    if finding["smallest"] and better is None and (finding["winner"] is None or finding["smallest"] != chosen["name"]):
        lines.append(f"the smallest model that is not worse beyond the noise: {finding['smallest']}")
    return lines


def beaten_by(finding: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The difference to the baseline that is furthest above the chosen one, if one is beyond the noise."""
    return min((gap for gap in finding["differences"] if gap["high"] < 0), key=lambda gap: float(gap["mean"]), default=None)


def _gap(gap: Mapping[str, Any], finding: Mapping[str, Any]) -> str:
    points = f"{100 * gap['mean']:+.2f} points ({100 * gap['low']:.1f} to {100 * gap['high']:.1f})"
    return f"{points} against {gap['against']}{below_floor(finding, gap['against'])}"


def below_floor(finding: Mapping[str, Any], baseline: str) -> str:
    """What is said of a baseline that could not have been chosen itself; nothing of others."""
    entry = next(entry for entry in finding["confirmed"] if entry["baseline"] and entry["name"] == baseline)
    return ", whose round trip is below the floor" if entry.get("round_trip", math.inf) < finding.get("floor", 0.0) else ""


def _noise(finding: Mapping[str, Any]) -> list[str]:
    if finding["chosen"] is None:
        return []
    side, names = "high" if finding["too_high"] >= 0 else "low", {entry["trial"]: entry["name"] for entry in finding["confirmed"]}
    whose = "" if finding.get("announced") in (None, names[finding["chosen"]]) else f" of {finding['announced']}, the best searched,"
    figure = f"{100 * abs(finding['too_high']):.2f} points too {side}"
    lines = [f"the search's own figure{whose} was {figure} (validation, its seed against fresh ones)"]
    if (noise := finding["seed_noise"]) is not None:
        parts = ", ".join(f"{name.replace('_', ' ')} {100 * value:.2f}" for name, value in noise.items())
        lines.append(f"runs of one configuration scatter by (standard deviation over seeds, points): {parts}")
    return lines
