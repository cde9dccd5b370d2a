"""Optuna pruners over the rules of `judges`, for anybody's `study.optimize`: each stops what its rule has a verdict on.

    pruner = FirstOf(ExplosionPruner(epochs=30), PlateauPruner(epochs=30), HalvingPruner(epochs=30))
    study = optuna.create_study(direction="maximize", pruner=pruner)

A trial reports its steps from 1 (or any other start) upwards, one an epoch. One that begins later than the others, as after a checkpoint,
or leaves steps out is compared with them step by step; the epoch of a verdict is how many values it has reported. One that is complete
before the last of them stands with its last value; one that is complete and has reported nothing is nobody's peer.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ValidationError

from tuner.definition import Explosion, Halving, Plateau, explained
from tuner.errors import DefinitionError
from tuner.judges import Curve, ExplosionRule, FirstRule, HalvingRule, History, Judge, Peer, PlateauRule
from tuner.verdict import Verdict


class RulePruner(optuna.pruners.BasePruner):
    """An Optuna pruner over a rule, for any `study.optimize`: `prune` is `judge(...) is not None`.

    Args:
        rule: what judges a trial's history.
        epochs: how many steps a trial reports when nothing stops it, counted from 1.

    Raises:
        DefinitionError: there is nothing to judge by: no steps, settings that a study definition would not take, no pruners or unlike ones.
    """

    def __init__(self, rule: Judge, epochs: int) -> None:
        if epochs < 1:
            raise DefinitionError(f"epochs = {epochs} is not allowed; allowed: whole numbers from 1 on")
        self.rule, self.epochs = rule, epochs
        # by study and trial: the values it was made of, and where it begins
        self._peers: dict[tuple[int, int], tuple[dict[int, float], Peer, int | None]] = {}

    def judge(self, study: optuna.Study, trial: FrozenTrial) -> Verdict | None:
        """The verdict on what Optuna knows: this trial's values and its peers', turned so that higher is better."""
        if not trial.intermediate_values:
            return None
        sign = 1.0 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1.0
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        there = study.get_trials(deepcopy=False, states=states)
        others = [one for one in there if one.number != trial.number and (one.intermediate_values or one.state != TrialState.COMPLETE)]
        peers, starts = zip(*(self._peer(study._study_id, other, sign) for other in others), strict=True) if others else ((), ())
        begins = {_begins(trial), *starts} - {None}
        if len(begins) > 1 or SPARSE in begins:
            return self.rule(self._by_step(trial, others, sign))
        return self.rule(History(_curve(trial, sign), epochs=self.epochs, peers=peers, sign=sign))

    def _by_step(self, trial: FrozenTrial, others: list[FrozenTrial], sign: float) -> History:
        """The trial's own values one after the other, beside what its peers had at the same steps."""
        own = sorted(trial.intermediate_values)
        later = sorted({step for other in others for step in other.intermediate_values if step > own[-1]})
        missed = statistics.median_low([sum(step < own[0] for step in other.intermediate_values) for other in others] or [0])
        epochs = max(len(own), self.epochs - missed)
        peers = tuple(Peer(self._to_its_end(other, _at(other, [*own, *later], sign), epochs), _over(other)) for other in others)
        return History(_curve(trial, sign), epochs=epochs, peers=peers, sign=sign)

    def _peer(self, study_id: int, other: FrozenTrial, sign: float) -> tuple[Peer, int | None]:
        """With where it begins; made anew only where its values are."""
        key, over = (study_id, other.number), _over(other)
        values, peer, begins = self._peers.get(key, (None, None, None))
        if peer is None or values is not other.intermediate_values or peer.over != over:
            peer, begins = Peer(self._to_its_end(other, _curve(other, sign), self.epochs), over), _begins(other)
            self._peers[key] = other.intermediate_values, peer, begins
        return peer, begins

    @staticmethod
    def _to_its_end(other: FrozenTrial, curve: Curve, epochs: int) -> Curve:
        """One that is complete ended by itself, and stands where it ended."""
        return curve + curve[-1:] * (epochs - len(curve)) if other.state == TrialState.COMPLETE else curve

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the rule has a verdict."""
        return self.judge(study, trial) is not None


SPARSE = -1
"""In the place of its first step: a trial leaves steps out."""


def _begins(trial: FrozenTrial) -> int | None:
    """Its first step; None where it has none."""
    steps = trial.intermediate_values
    if not steps:
        return None
    first = min(steps)
    return first if max(steps) - first + 1 == len(steps) else SPARSE


def _over(trial: FrozenTrial) -> bool:
    return trial.state != TrialState.RUNNING


def _curve(trial: FrozenTrial, sign: float) -> Curve:
    return tuple(sign * trial.intermediate_values[step] for step in sorted(trial.intermediate_values))


def _at(trial: FrozenTrial, steps: Sequence[int], sign: float) -> Curve:
    """Its value at each step: the last reported up to there, NaN before its first. Steps after its last are left out unless it is
    complete."""
    known, complete = sorted(trial.intermediate_values), trial.state == TrialState.COMPLETE
    places = [bisect_right(known, step) for step in steps if known and (complete or step <= known[-1])]
    return tuple(sign * trial.intermediate_values[known[place - 1]] if place else math.nan for place in places)


def _checked(kind: type[BaseModel], settings: dict[str, Any]) -> dict[str, Any]:
    """A rule's settings, as a study definition would take them."""
    try:
        return kind.model_validate(settings).model_dump()
    except ValidationError as error:
        raise DefinitionError(explained(error).removeprefix("the definition: ")) from error


class PlateauPruner(RulePruner):
    """Stops what makes no progress beyond its own noise; see `PlateauRule`."""

    def __init__(
        self,
        epochs: int,
        window: int = PlateauRule.window,
        share: float = PlateauRule.share,
        near: float = PlateauRule.near,
        top: float = PlateauRule.top,
        noise: float = PlateauRule.noise,
    ) -> None:
        if not 0 <= noise < math.inf:
            raise DefinitionError(f"noise = {noise} is not allowed; allowed: numbers from 0 on, in the objective's own unit")
        settings = _checked(Plateau, {"window": window, "share": share, "near": near, "top": top})
        super().__init__(PlateauRule(**{**settings, "noise": noise}), epochs)


class ExplosionPruner(RulePruner):
    """Stops what is not finite or stays far below its best; see `ExplosionRule`."""

    def __init__(self, epochs: int, factor: float = ExplosionRule.factor, stay: int = ExplosionRule.stay) -> None:
        super().__init__(ExplosionRule(**_checked(Explosion, {"factor": factor, "stay": stay})), epochs)


class HalvingPruner(RulePruner):
    """Stops what is behind its peers at the rungs; see `HalvingRule`."""

    def __init__(
        self,
        epochs: int,
        first: float = HalvingRule.first,
        step: float = HalvingRule.step,
        keep_first: float = HalvingRule.keep_first,
        keep_last: float = HalvingRule.keep_last,
        slack: float = HalvingRule.slack,
        least: int = HalvingRule.least,
        ahead: float = HalvingRule.ahead,
        back: int = HalvingRule.back,
    ) -> None:
        shares = {"first": first, "step": step, "keep_first": keep_first, "keep_last": keep_last}
        super().__init__(HalvingRule(**_checked(Halving, {**shares, "slack": slack, "least": least, "ahead": ahead, "back": back})), epochs)


class FirstOf(RulePruner):
    """Stops as the first of several pruners would, with its reason."""

    def __init__(self, *pruners: RulePruner) -> None:
        if len(lengths := {pruner.epochs for pruner in pruners}) != 1:
            raise DefinitionError(f"FirstOf takes one or more pruners for trials of one length, not for {sorted(lengths) or 'none'}")
        super().__init__(FirstRule(tuple(pruner.rule for pruner in pruners)), max(pruner.epochs for pruner in pruners))
