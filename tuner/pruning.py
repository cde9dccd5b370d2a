"""When to stop a trial: pure functions from a `History` to a `Verdict` or None, and Optuna pruners over them.

    ExplosionRule   not finite, or far above its own best loss and staying there
    PlateauRule     no progress beyond noise, in the objective and in the loss, and no prospect of mattering
    HalvingRule     at its rungs, worse than the best part of all that were there

A trial is oriented so that a higher objective is better; epochs count from 1.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState

from tuner.verdict import Verdict

Curve = tuple[float, ...]


@dataclass(frozen=True)
class History:
    """What is known of a trial at the end of an epoch.

    Args:
        objective: by epoch; higher is better.
        loss: the training loss by epoch; may be empty where nobody reports it.
        epochs: how many epochs the trial may run.
        chance: the objective of a constant answer, if known.
        peers: the other trials' objectives by epoch, ended ones included.
        losses, gradient_norm: by epoch, for the evidence.
    """

    objective: Curve
    loss: Curve = ()
    epochs: int = 0
    chance: float | None = None
    peers: tuple[Curve, ...] = ()
    losses: dict[str, Curve] = field(default_factory=dict)
    gradient_norm: Curve = ()

    @property
    def epoch(self) -> int:
        """The last epoch."""
        return len(self.objective)


class Judge(Protocol):
    """A rule with its settings."""

    def __call__(self, history: History) -> Verdict | None:
        """The end of the trial, or None to let it run."""


def theil_sen(curve: Sequence[float]) -> float:
    """The median slope over all pairs of points (Sen 1968): a robust trend per epoch."""
    return statistics.median((curve[j] - curve[i]) / (j - i) for i, j in combinations(range(len(curve)), 2))


def slope_with_error(curve: Sequence[float]) -> tuple[float, float]:
    """The Theil-Sen slope and its standard error, from the residuals' median absolute deviation times 1.4826."""
    slope = theil_sen(curve)
    residuals = [value - slope * i for i, value in enumerate(curve)]
    middle = statistics.median(residuals)
    noise = 1.4826 * statistics.median(abs(r - middle) for r in residuals)
    count = len(curve)
    return slope, noise * math.sqrt(12 / (count * (count * count - 1)))


@dataclass(frozen=True)
class ExplosionRule:
    """Not finite: at once. Else: the loss above `factor` times its running minimum's distance for `stay` epochs in a row.

    The distance is measured from the running minimum in units of how far the loss had fallen (at least a tenth of its size), so early
    transients and noise around a low loss do not count.
    """

    factor: float = 2.0
    stay: int = 2

    def __call__(self, history: History) -> Verdict | None:
        epoch, loss = history.epoch, history.loss
        bad = [
            ("loss", loss),
            ("objective", history.objective),
            ("gradient norm", history.gradient_norm),
            *history.losses.items(),
        ]
        for name, curve in bad:
            if curve and not math.isfinite(curve[-1]):
                before = next((value for value in reversed(curve) if math.isfinite(value)), math.nan)
                reason = f"the {name} is {curve[-1]} in epoch {epoch} (last finite value: {before:.4g})"
                return Verdict("exploded", epoch, reason, {"last_finite": before})
        if len(loss) <= self.stay + 1:
            return None
        best = min(loss[: -self.stay])
        fallen = max(loss[0] - best, 0.1 * abs(loss[0]))
        limit = best + self.factor * fallen
        if min(loss[-self.stay :]) <= limit:
            return None
        reason = f"the loss rose from {best:.4g} to {loss[-1]:.4g} and has stayed above {limit:.4g} for {self.stay} epochs"
        return Verdict("exploded", epoch, reason, {"best_loss": best, "loss": loss[-1], "limit": limit})


@dataclass(frozen=True)
class PlateauRule:
    """No progress beyond noise in the last `window` epochs, in the objective and in the loss, with no prospect of mattering.

    The loss makes no progress when it fell by less than `share` of its whole range in the window. The objective has no prospect when its
    Theil-Sen slope plus two standard errors, over the epochs that remain, does not come near the best of its peers (within the share
    `near` of the way up from chance): what has converged up there has finished. A trial that lies
    at the level of chance waits for as long as its peers took to leave that level, half of its epochs where none has left it.
    """

    window: int = 5
    share: float = 0.05
    near: float = 0.15

    def __call__(self, history: History) -> Verdict | None:
        epoch = history.epoch
        if epoch < self.window or epoch >= history.epochs:
            return None
        recent, loss = history.objective[-self.window :], history.loss[-self.window :]
        fallen, span = self._fall(loss), max(history.loss, default=0.0) - min(history.loss, default=0.0)
        if history.loss and span > 0 and fallen >= self.share * span:
            return None
        slope, error = slope_with_error(recent)
        level, reach = statistics.median(recent), recent[-1] + max(0.0, slope + 2 * error) * (history.epochs - epoch)
        best = max((max(peer) for peer in history.peers if peer), default=math.inf)
        target = best - self.near * (best - (history.chance if history.chance is not None else level))
        if reach >= target or epoch < self._patience(history, level):
            return None
        flat = f"; the loss fell by {fallen:.3g} of {span:.3g}" if history.loss else ""
        where = self._where(history, level)
        noise = error * math.sqrt((self.window * (self.window**2 - 1)) / 12)
        reason = f"no progress beyond noise in {self.window} epochs: objective {level:.3f} +- {noise:.3f}{where}{flat}"
        return Verdict("plateaued", epoch, reason, {"level": level, "slope": slope, "slope_error": error, "loss_fall": fallen})

    @staticmethod
    def _fall(loss: Sequence[float]) -> float:
        return max(-theil_sen(loss) * (len(loss) - 1), loss[0] - loss[-1]) if len(loss) > 1 else 0.0

    @staticmethod
    def _where(history: History, level: float) -> str:
        """How the level stands to that of the most frequent answer, where it is about that or lower."""
        if history.chance is None or level > history.chance + 0.05:
            return ""
        return f", {'below' if level < history.chance - 0.05 else 'at'} the level of the most frequent answer ({history.chance:.3f})"

    def _patience(self, history: History, level: float) -> float:
        """Up to which epoch a trial at this level may wait for its fall."""
        best = max((max(peer) for peer in history.peers if peer), default=level)
        left = level + 0.25 * (best - level)
        times = sorted(next(e for e, value in enumerate(peer, 1) if value > left) for peer in history.peers if peer and max(peer) > left)
        if best - level < 0.02 or len(times) < 3:
            return max(self.window, history.epochs / 2)
        return max(self.window, 1.5 * times[int(0.9 * (len(times) - 1))])


@dataclass(frozen=True)
class HalvingRule:
    """At epochs `first`, `first * eta`, ...: below the best `1 / eta` of all trials' values at that epoch.

    A `first` below 1 is a share of a trial's epochs, so that longer trials are judged later.

    Successive halving (Jamieson and Talwalkar 2016) in its asynchronous form (Li et al. 2020): peers that are judged together see each
    other's values of the same epoch, so the order of their slots does not matter. Needs `least` peers.
    """

    first: float = 0.3
    eta: int = 3
    least: int = 4

    def __call__(self, history: History) -> Verdict | None:
        epoch = history.epoch
        rung = max(1, round(self.first * history.epochs)) if self.first < 1 else round(self.first)
        while rung < epoch:
            rung *= self.eta
        if rung != epoch or epoch >= history.epochs:
            return None
        own = history.objective[-1]
        there = sorted((peer[epoch - 1] for peer in history.peers if len(peer) >= epoch), reverse=True)
        if len(there) < self.least:
            return None
        kept = math.ceil((len(there) + 1) / self.eta)
        better = sum(value > own for value in there)
        if better < kept:
            return None
        ahead = f"{better} of {len(there)} others were better, the best {kept} go on (from {there[kept - 1]:.3f})"
        reason = f"objective {own:.3f} in epoch {epoch}: {ahead}"
        return Verdict("outpaced", epoch, reason, {"objective": own, "better": better, "peers": len(there)})


@dataclass(frozen=True)
class FirstRule:
    """The verdict of the first rule that has one."""

    rules: tuple[Judge, ...]

    def __call__(self, history: History) -> Verdict | None:
        return next((verdict for rule in self.rules if (verdict := rule(history)) is not None), None)


class RulePruner(optuna.pruners.BasePruner):
    """An Optuna pruner over a rule, for any `study.optimize`: `prune` is `judge(...) is not None`.

    Args:
        rule: what judges a trial's history.
        epochs: how many steps a trial reports when nothing stops it, counted from 1.
    """

    def __init__(self, rule: Judge, epochs: int) -> None:
        self.rule, self.epochs = rule, epochs

    def judge(self, study: optuna.Study, trial: FrozenTrial) -> Verdict | None:
        """The verdict on what Optuna knows: this trial's values and its peers', turned so that higher is better."""
        if not trial.intermediate_values:
            return None
        sign = 1.0 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1.0
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        others = (other for other in study.get_trials(deepcopy=False, states=states) if other.number != trial.number)
        peers = tuple(_curve(other, sign) for other in others)
        return self.rule(History(_curve(trial, sign), epochs=self.epochs, peers=peers))

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the rule has a verdict."""
        return self.judge(study, trial) is not None


def _curve(trial: FrozenTrial, sign: float) -> Curve:
    return tuple(sign * trial.intermediate_values[step] for step in sorted(trial.intermediate_values))


class PlateauPruner(RulePruner):
    """Stops what makes no progress beyond its own noise; see `PlateauRule`."""

    def __init__(self, epochs: int, window: int = 5, share: float = 0.05, near: float = 0.15) -> None:
        super().__init__(PlateauRule(window, share, near), epochs)


class ExplosionPruner(RulePruner):
    """Stops what is not finite; see `ExplosionRule`."""

    def __init__(self, epochs: int, factor: float = 2.0, stay: int = 2) -> None:
        super().__init__(ExplosionRule(factor, stay), epochs)


class HalvingPruner(RulePruner):
    """Stops what is behind its peers at the rungs; see `HalvingRule`."""

    def __init__(self, epochs: int, first: float = 0.3, eta: int = 3, least: int = 4) -> None:
        super().__init__(HalvingRule(first, eta, least), epochs)


class FirstOf(RulePruner):
    """Stops as the first of several pruners would, with its reason."""

    def __init__(self, *pruners: RulePruner) -> None:
        super().__init__(FirstRule(tuple(pruner.rule for pruner in pruners)), max(pruner.epochs for pruner in pruners))
