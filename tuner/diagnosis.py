"""What a whole study says about where the plateau is left: by setting, with counts, and with an honest "too few to say".

A trial has left the plateau if its last objective lies above chance by more than a quarter of the way to the best of the study. Trials that
never reported are not counted. Of those that stayed it is said how many were stopped because others did better: they might have left it
later. For each setting the cut that separates best is tested with Fisher's exact test (Fisher 1935), corrected for all cuts and settings
tried (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial
from scipy.special import gammaln

from tuner.study import cause_of

Numbers = NDArray[Any]
LEFT_SHARE, LEAST_RISE, FEWEST, SURE = 0.25, 0.03, 10, 0.05
MOST_LEFT = 0.75
MOST_CUTS = 64
"""A setting with more values is cut between no more than so many of them, evenly spread."""


@dataclass(frozen=True)
class Finding:
    """One thing found: what, the figures behind it, and what to do about it.

    Raises:
        ValueError: one of the texts is empty.
    """

    kind: str
    finding: str
    advice: str
    evidence: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.kind.strip() and self.finding.strip() and self.advice.strip()):
            raise ValueError("a finding needs its kind, what was found and what to do about it")

    def as_dict(self) -> dict[str, Any]:
        """As `--json` shows it."""
        return {"kind": self.kind, "finding": self.finding, "advice": self.advice, "evidence": self.evidence}


@dataclass(frozen=True)
class Cut:
    """Two groups of trials told apart by one setting, and how many of each left the plateau."""

    setting: str
    low: str
    high: str
    left: tuple[int, int]
    of: tuple[int, int]
    outpaced: tuple[int, int]
    """How many were stopped on the plateau because others did better."""
    chance: float
    """How likely a split as uneven is by chance alone, corrected for all that were tried."""
    ranges: tuple[tuple[float, float], tuple[float, float]] | None = None
    """The values of both groups, from the lowest to the highest, where they are numbers."""


def fisher(left: tuple[int, int], of: tuple[int, int]) -> float:
    """The two-sided exact probability of counts as uneven as these or more, the totals given."""
    hits = sum(left)
    first = np.arange(max(0, hits - of[1]), min(hits, of[0]) + 1)
    ways = _choose(of[0], first) + _choose(of[1], hits - first)
    chances = np.exp(ways - _choose(sum(of), np.array(hits)))
    seen = chances[left[0] - first[0]]
    return min(1.0, float(chances[chances <= seen * (1 + 1e-7)].sum()))  # equals may differ in their last digits


def _choose(count: int, taken: Numbers) -> Numbers:
    """The logarithm of the number of ways to take so many of `count`."""
    return np.asarray(gammaln(count + 1) - gammaln(taken + 1) - gammaln(count - taken + 1), dtype=np.float64)


def diagnose_study(study: optuna.Study, chance: float) -> list[Finding]:
    """Where the plateau is left, by setting; `chance` is the objective of always giving the most frequent answer."""
    trials = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished() and _last(t) is not None]
    best = max((_last(t) or 0.0 for t in trials), default=chance)
    level = chance + LEFT_SHARE * (best - chance)
    left = {t.number: (_last(t) or 0.0) > level for t in trials}
    away = sum(left.values())
    evidence = {"trials": len(trials), "left": away, "level": level, "best": best, "chance": chance}
    if len(trials) < FEWEST:
        finding = f"{len(trials)} trials have ended after an epoch or more: too few to say where the plateau is left (from {FEWEST} on)"
        return [Finding("too_few_trials", finding, f"run more trials: tuner search {study.study_name} --trials N", evidence)]
    if best - chance < LEAST_RISE:
        finding = f"none of {len(trials)} trials left the level of the most frequent answer ({chance:.3f}); the best reached {best:.3f}"
        return [Finding("nowhere_left", finding, "widen the ranges, the learning rate's first, or give trials more epochs", evidence)]
    if away == len(trials):
        finding = f"all {len(trials)} trials left the level of the most frequent answer ({chance:.3f})"
        return [Finding("everywhere_left", finding, "nothing to do: no setting searched holds a trial on the plateau", evidence)]
    cuts = sorted((cut for cut in _best_cuts(trials, left) if cut.chance < SURE), key=lambda cut: cut.chance)
    if not cuts:
        finding = f"{away} of {len(trials)} trials left the plateau (above {level:.3f}); no setting tells them apart beyond chance"
        most = away >= MOST_LEFT * len(trials)
        advice = "nothing to do: most trials leave it" if most else "run more trials, or look at the curves in the dashboard"
        return [Finding("left_by_no_setting", finding, advice, evidence)]
    return [_finding(cut, level) for cut in cuts]


def _last(trial: FrozenTrial) -> float | None:
    values = [value for _, value in sorted(trial.intermediate_values.items()) if math.isfinite(value)]
    return values[-1] if values else None


def _finding(cut: Cut, level: float) -> Finding:
    better = int(cut.left[1] * cut.of[0] > cut.left[0] * cut.of[1])
    worse, names = 1 - better, (cut.low, cut.high)
    stopped = f", {cut.outpaced[worse]} of them until they were stopped because others did better" if cut.outpaced[worse] else ""
    stayed = f"{cut.of[worse] - cut.left[worse]} of {cut.of[worse]} trials with {names[worse]}"
    finding = (
        f"{stayed} stayed on the plateau (up to {level:.3f}){stopped}; {cut.left[better]} of {cut.of[better]} with {names[better]} left it"
    )
    counts = {"left": list(cut.left), "of": list(cut.of), "outpaced": list(cut.outpaced)}
    evidence: dict[str, Any] = {"setting": cut.setting, **counts, "p": cut.chance}
    if cut.ranges is not None:
        evidence["stays"] = list(cut.ranges[worse])
    return Finding("plateau_left", finding, f"search {names[better]}", evidence)


def _best_cuts(trials: Sequence[FrozenTrial], left: dict[int, bool]) -> list[Cut]:
    """The most telling cut of each setting."""
    tried = {name: _cuts(name, trials, left) for name in sorted({name for t in trials for name in t.params})}
    number = sum(map(len, tried.values()))
    best = [min(cuts, key=lambda cut: cut.chance) for cuts in tried.values() if cuts]
    return [replace(c, chance=min(1.0, c.chance * number)) for c in best]


class _Split(NamedTuple):
    """Two groups of a setting's values: the second, what both are called, and from where to where they go if they are numbers."""

    second: frozenset[Any]
    names: tuple[str, str]
    ranges: tuple[tuple[float, float], tuple[float, float]] | None = None


def _cuts(name: str, trials: Sequence[FrozenTrial], left: dict[int, bool]) -> list[Cut]:
    """The ways to tell the trials apart by one setting: between two of its values, or one choice from the others."""
    points = [(t.params[name], left[t.number], _outpaced(t) and not left[t.number]) for t in trials if name in t.params]
    known = {value for value, _, _ in points}
    ordered = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known)
    cuts = []
    for split in _borders(name, sorted(known)) if ordered else _choices(name, sorted(known, key=lambda value: (str(type(value)), value))):
        groups = [value in split.second for value, _, _ in points]
        of = (groups.count(False), groups.count(True))
        away, outpaced = _counts(groups, [out for _, out, _ in points]), _counts(groups, [short for _, _, short in points])
        cuts.append(Cut(name, *split.names, away, of, outpaced, fisher(away, of), split.ranges))
    return cuts


def _borders(name: str, values: Sequence[float]) -> Iterator[_Split]:
    """Between each number and the next, or between so many of them."""
    places = range(1, len(values))
    for place in places[:: math.ceil(len(places) / MOST_CUTS) or 1]:
        low, high = values[place - 1 : place + 1]
        border = f"{_between(low, high):.3g}"
        ranges = (values[0], low), (high, values[-1])
        yield _Split(frozenset(values[place:]), (f"{name} < {border}", f"{name} >= {border}"), ranges)


def _choices(name: str, values: Sequence[Any]) -> Iterator[_Split]:
    """Each from all others; of two, one from the other."""
    if len(values) == 2:
        yield _Split(frozenset(values[1:]), (f"{name} = {values[0]}", f"{name} = {values[1]}"))
    elif len(values) > 2:
        for value in values[:: math.ceil(len(values) / MOST_CUTS)]:
            yield _Split(frozenset([value]), (f"a {name} other than {value}", f"{name} = {value}"))


def _counts(groups: Sequence[bool], of: Sequence[bool]) -> tuple[int, int]:
    """How many of each group, that which is not meant first."""
    true = sum(one for group, one in zip(groups, of, strict=True) if group)
    return sum(of) - true, true


def _outpaced(trial: FrozenTrial) -> bool:
    return cause_of(trial) == "outpaced"


def _between(low: float, high: float) -> float:
    """A border between two values that is short to say."""
    middle = math.sqrt(low * high) if low > 0 else (low + high) / 2
    for digits in range(1, 4):
        rounded = float(f"{middle:.{digits}g}")
        if low < rounded <= high:
            return rounded
    return high
