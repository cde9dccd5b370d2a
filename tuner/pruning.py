"""Optuna pruners over the rules of `judges`, for anybody's `study.optimize`: each stops what its rule has a verdict on.

    pruner = FirstOf(ExplosionPruner(epochs=30), PlateauPruner(epochs=30), HalvingPruner(epochs=30))
    study = optuna.create_study(direction="maximize", pruner=pruner)

A trial reports its steps from 1 (or any other start) upwards, one an epoch. One that is complete before the last of them stands with its
last value; one that is complete and has reported nothing is nobody's peer.
"""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, TrialState

from tuner.errors import DefinitionError
from tuner.judges import LEAST_WINDOW, Curve, ExplosionRule, FirstRule, HalvingRule, History, Judge, Peer, PlateauRule
from tuner.verdict import Verdict


class RulePruner(optuna.pruners.BasePruner):
    """An Optuna pruner over a rule, for any `study.optimize`: `prune` is `judge(...) is not None`.

    Args:
        rule: what judges a trial's history.
        epochs: how many steps a trial reports when nothing stops it, counted from 1.

    Raises:
        DefinitionError: there is nothing to judge by: no steps, a window that shows no progress, no pruners or unlike ones.
    """

    def __init__(self, rule: Judge, epochs: int) -> None:
        if epochs < 1:
            raise DefinitionError(f"epochs = {epochs} is not allowed; allowed: whole numbers from 1 on")
        self.rule, self.epochs = rule, epochs
        self._peers: dict[tuple[int, int], tuple[dict[int, float], Peer]] = {}  # by study and trial, with the values they were made of

    def judge(self, study: optuna.Study, trial: FrozenTrial) -> Verdict | None:
        """The verdict on what Optuna knows: this trial's values and its peers', turned so that higher is better."""
        if not trial.intermediate_values:
            return None
        sign = 1.0 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1.0
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        others = study.get_trials(deepcopy=False, states=states)
        told = [other for other in others if other.intermediate_values or other.state != TrialState.COMPLETE]
        peers = tuple(self._peer(study._study_id, other, sign) for other in told if other.number != trial.number)
        return self.rule(History(_curve(trial, sign), epochs=self.epochs, peers=peers))

    def _peer(self, study_id: int, other: FrozenTrial, sign: float) -> Peer:
        """Made anew only where its values are."""
        key, over = (study_id, other.number), other.state != TrialState.RUNNING
        values, peer = self._peers.get(key, (None, None))
        if peer is None or values is not other.intermediate_values or peer.over != over:
            curve = _curve(other, sign)
            if other.state == TrialState.COMPLETE:  # it ended by itself, and stands where it ended
                curve += curve[-1:] * (self.epochs - len(curve))
            peer = Peer(curve, over)
            self._peers[key] = other.intermediate_values, peer
        return peer

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the rule has a verdict."""
        return self.judge(study, trial) is not None


def _curve(trial: FrozenTrial, sign: float) -> Curve:
    return tuple(sign * trial.intermediate_values[step] for step in sorted(trial.intermediate_values))


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
        if window < LEAST_WINDOW:
            raise DefinitionError(f"window = {window} is not allowed; allowed: whole numbers from {LEAST_WINDOW} on")
        super().__init__(PlateauRule(window, share, near, top, noise), epochs)


class ExplosionPruner(RulePruner):
    """Stops what is not finite; see `ExplosionRule`."""

    def __init__(self, epochs: int, factor: float = ExplosionRule.factor, stay: int = ExplosionRule.stay) -> None:
        super().__init__(ExplosionRule(factor, stay), epochs)


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
        super().__init__(HalvingRule(first, step, keep_first, keep_last, slack, least, ahead, back), epochs)


class FirstOf(RulePruner):
    """Stops as the first of several pruners would, with its reason."""

    def __init__(self, *pruners: RulePruner) -> None:
        if len(lengths := {pruner.epochs for pruner in pruners}) != 1:
            raise DefinitionError(f"FirstOf takes one or more pruners for trials of one length, not for {sorted(lengths) or 'none'}")
        super().__init__(FirstRule(tuple(pruner.rule for pruner in pruners)), max(pruner.epochs for pruner in pruners))
