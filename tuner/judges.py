"""When to stop a trial: pure functions from a `History` to a `Verdict` or None.

    ExplosionRule   not finite, or far above its own best loss and staying there
    PlateauRule     no progress beyond noise, in the objective and in the loss, and no prospect of mattering
    HalvingRule     at its rungs, behind too many of its peers in level and in prospect
    StartRule       began with others, of which only the best goes on, or none but in a larger model

A trial is oriented so that a higher objective is better; epochs count from 1.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Protocol

from tuner.verdict import Verdict

Curve = tuple[float, ...]
LEAST_WINDOW = 3
"""In fewer epochs progress and noise cannot be told apart."""


@dataclass(frozen=True)
class Peer:
    """Another trial: its objective by epoch, and whether it has ended."""

    objective: Curve
    over: bool = False

    @cached_property
    def best(self) -> float:
        """The best it has reached; minus infinity where nothing was finite."""
        return max((value for value in self.objective if math.isfinite(value)), default=-math.inf)


@dataclass(frozen=True)
class History:
    """What is known of a trial at the end of an epoch.

    Args:
        objective: by epoch; higher is better.
        loss: the training loss by epoch; may be empty where nobody reports it.
        epochs: how many epochs the trial may run.
        chance: the objective of a constant answer, if known.
        peers: the other trials, ended ones included.
        losses, gradient_norm: by epoch, for the evidence.
        sign: -1 if the objective is to be minimised and is negated here; verdicts show it as it was reported.
    """

    objective: Curve
    loss: Curve = ()
    epochs: int = 0
    chance: float | None = None
    peers: tuple[Peer, ...] = ()
    losses: dict[str, Curve] = field(default_factory=dict)
    gradient_norm: Curve = ()
    sign: float = 1.0

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
    """Any figure not finite in any epoch: at once. Else: for `stay` epochs in a row the loss lies above its best by more than `factor`
    times how far it had fallen.

    The fall counts as at least half the size of the first loss, so early transients and noise around a low loss do not matter. If no loss
    is reported, the negated objective stands in for it, and the fall also counts as at least half of how far its peers usually rise.
    """

    factor: float = 2.0
    stay: int = 2

    def __call__(self, history: History) -> Verdict | None:
        return self._not_finite(history) or self._risen(history)

    def _not_finite(self, history: History) -> Verdict | None:
        curves = [
            ("loss", history.loss),
            ("objective", history.objective),
            ("gradient norm", history.gradient_norm),
            *history.losses.items(),
        ]
        for name, curve in curves:
            first = next((place for place, value in enumerate(curve) if not math.isfinite(value)), None)
            if first is not None:
                sign = history.sign if name == "objective" else 1.0
                before = {"last_finite": sign * curve[first - 1]} if first else {}
                known = f"last finite value: {before['last_finite']:.4g}" if before else "it was never finite"
                reason = f"the {name} is {sign * curve[first]} in epoch {first + 1} ({known})"
                return Verdict("exploded", history.epoch, reason, before)
        return None

    def _risen(self, history: History) -> Verdict | None:
        if history.loss:
            loss, usual = history.loss, 0.0
        else:  # the objective stands in, which may begin at nothing: that is no size
            loss, usual = tuple(-value for value in history.objective), 0.5 * _usual_rise(history)
        if len(loss) <= self.stay + 1:
            return None
        best = min(loss[: -self.stay])
        fallen = max(loss[0] - best, 0.5 * abs(loss[0]), usual)
        if fallen == 0:
            return None
        limit = best + self.factor * fallen
        if min(loss[-self.stay :]) <= limit:
            return None
        what, was, sign = ("loss", "best_loss", 1.0) if history.loss else ("objective", "best", -history.sign)
        best, last, limit = sign * best, sign * loss[-1], sign * limit  # as they were reported
        moved, beyond = ("rose", "above") if sign > 0 else ("fell", "below")
        reason = f"the {what} {moved} from {best:.4g} to {last:.4g} and has stayed {beyond} {limit:.4g} for {self.stay} epochs"
        return Verdict("exploded", history.epoch, reason, {was: best, what: last, "limit": limit})


@dataclass(frozen=True)
class PlateauRule:
    """No progress beyond noise in the last `window` epochs, in the objective and in the loss, with no prospect of mattering.

    The loss makes no progress if it fell by less than `share` of its whole range in the window. The objective has no prospect if its
    Theil-Sen slope plus two standard errors, over the epochs that remain, reaches neither the best fifth of its peers nor the level that
    lies the share `near` of the way down from the best to chance (if chance is not known, to where its peers usually begin). A trial that
    has converged among the best fifth is never stopped, nor is one in the best share `top` of all and above their median. If fewer than a
    fifth have left a plateau, its level is not taken for that of the best fifth. A flat trial may wait 1.5 times as long as nine in ten of
    the peers that left its level took for that, or half of its epochs if fewer than three have left it.

    `noise` is how far runs of one configuration scatter (the standard deviation that `tuner confirm` prints): a prospect may fall short
    by so much, and a level lie higher by so much, without it meaning anything. A curve's own scatter says nothing about other seeds.
    """

    window: int = 5
    share: float = 0.05
    near: float = 0.15
    top: float = 0.15
    noise: float = 0.0

    def __call__(self, history: History) -> Verdict | None:
        epoch = history.epoch
        if epoch < self.window or epoch >= history.epochs:
            return None
        recent, loss = history.objective[-self.window :], history.loss[-self.window :]
        fallen, span = self._fall(loss), max(history.loss, default=0.0) - min(history.loss, default=0.0)
        if history.loss and span > 0 and fallen >= self.share * span:
            return None
        slope, error = slope_with_error(recent)
        level, reach = statistics.median(recent), recent[-1] + max(0.0, slope + 2 * error) * (history.epochs - epoch) + self.noise
        noise = max(self.noise, error * math.sqrt((self.window * (self.window**2 - 1)) / 12))
        if self._matters(history, level, reach) or epoch < self._patience(history, level, noise):
            return None
        moved = f"fell by {fallen:.3g} of" if fallen >= 0 else f"rose by {-fallen:.3g}, its range being"
        flat = f"; the loss {moved} {span:.3g}" if history.loss else ""
        where, parts = self._where(history, level), ", ".join(self._parts(history))
        reason = f"no progress beyond noise in {self.window} epochs: objective {history.sign * level:.3f} +- {noise:.3f}{where}{flat}"
        reason += f"; {parts}" if parts else ""
        told = {"level": history.sign * level, "slope": history.sign * slope, "slope_error": error, "loss_fall": fallen}
        return Verdict("plateaued", epoch, reason, told)

    @staticmethod
    def _fall(loss: Sequence[float]) -> float:
        return max(-theil_sen(loss) * (len(loss) - 1), loss[0] - loss[-1]) if len(loss) > 1 else 0.0

    def _parts(self, history: History) -> list[str]:
        """The components whose loss did not fall by more than `share` of its range in the window, without those that are not computed: it
        rose where its slope less two standard errors says so, else it lay flat."""
        found = []
        for name, curve in history.losses.items():
            recent, least = curve[-self.window :], self.share * (max(curve) - min(curve))
            if len(recent) < 2 or not any(curve) or self._fall(recent) > least:
                continue
            slope, error = slope_with_error(recent)
            rose = (slope - 2 * error) * (len(recent) - 1) > least
            found.append(f"{name} loss " + (f"rose by {recent[-1] - recent[0]:.3g} to" if rose else "flat at") + f" {recent[-1]:.3g}")
        return found

    @staticmethod
    def _where(history: History, level: float) -> str:
        """How the level stands to that of the most frequent answer, where it is about that or lower."""
        if history.chance is None or level > history.chance + 0.05:
            return ""
        return f", {'below' if level < history.chance - 0.05 else 'at'} the level of the most frequent answer ({history.chance:.3f})"

    def _matters(self, history: History, level: float, reach: float) -> bool:
        """Whether it stands out among its peers, or will come as far as the best fifth, or near the best of all."""
        tops = sorted(_tops(history), reverse=True)
        if not tops:
            return True
        best, fifth, middle = tops[0], tops[len(tops) // 5], tops[len(tops) // 2]
        among_the_best = level >= tops[int(self.top * len(tops))] and level > middle + 0.1 * (best - middle)
        if among_the_best or level > fifth + 0.1 * (best - fifth):
            return True
        floor = history.chance if history.chance is not None else min(level, best - _usual_rise(history))
        return reach >= min(best - self.near * (best - floor), max(fifth, level + 0.25 * (best - level)))

    def _patience(self, history: History, level: float, noise: float) -> float:
        """The epoch up to which a trial at this level may wait to leave it."""
        best = max(_tops(history), default=level)
        left = level + max(0.25 * (best - level), 3 * noise)
        leavers = (peer.objective for peer in history.peers if peer.best > left)
        times = sorted(next(epoch for epoch, value in enumerate(curve, 1) if value > left) for curve in leavers)
        if len(times) < 3:
            return max(self.window, history.epochs / 2)
        return max(self.window, 1.5 * times[int(0.9 * (len(times) - 1))])


def _usual_rise(history: History) -> float:
    """How far the best of a trial and its peers lies above where they usually begin."""
    curves = [history.objective, *(peer.objective for peer in history.peers)]
    firsts, tops = [curve[0] for curve in curves if curve and math.isfinite(curve[0])], _tops(history)
    return max(tops) - statistics.median(firsts) if firsts and tops else 0.0


def _tops(history: History) -> list[float]:
    """The best that each peer has reached."""
    return [peer.best for peer in history.peers if peer.best > -math.inf]


@dataclass(frozen=True)
class HalvingRule:
    """At its rungs, behind too many of its peers both in level and in prospect.

    The rungs stand at `first` (a share of a trial's epochs if below 1, else an epoch), then each `step` times the one before. At
    epoch e the best

        share(e) = keep_last + (keep_first - keep_last) * first / e

    of all trials go on, and `slack` binomial standard deviations of that number more, so that little is decided among few. "All" are those
    that have reached the rung, and those that ended earlier, which count as behind. The prospect is the level to which the slope of the
    last `back` epochs leads `ahead` epochs later: it saves what has just left a plateau; alone it would mistake noise for promise. No
    trial is stopped before it has `least` peers.

    Successive halving (Jamieson and Talwalkar 2016; asynchronously, Li et al. 2020) keeps 1 / eta at each rung and so one in 27 after
    three of them, fewer than are worth keeping: here the share falls towards `keep_last`. Peers that are judged together see each
    other's values of the same epoch, so the order of their slots does not matter.
    """

    first: float = 0.06
    step: float = 1.45
    keep_first: float = 0.2
    keep_last: float = 0.05
    slack: float = 0.6
    least: int = 4
    ahead: float = 4.0
    back: int = 4

    def __call__(self, history: History) -> Verdict | None:
        epoch, rungs = history.epoch, self.rungs(history.epochs)
        if epoch not in rungs or epoch >= history.epochs:
            return None
        there = [peer.objective for peer in history.peers if len(peer.objective) >= epoch]
        number = len(there) + sum(peer.over for peer in history.peers if len(peer.objective) < epoch)
        if number < self.least:
            return None
        share = self.keep_last + (self.keep_first - self.keep_last) * rungs[0] / epoch
        kept = max(1.0, share * (number + 1) + self.slack * math.sqrt(share * (1 - share) * (number + 1)))
        level, prospect = _level(history.objective, epoch), self._prospect(history.objective, epoch)
        better = sum(_level(peer, epoch) > level for peer in there)
        promising = sum(self._prospect(peer, epoch) > prospect for peer in there)
        if min(better, promising) < kept:
            return None
        reason = (
            f"objective {history.sign * level:.3f} in epoch {epoch}: {better} of {number} others were better and {promising} had better "
            f"prospects, the best {math.ceil(kept)} go on"
        )
        told = {"objective": history.sign * level, "better": better, "promising": promising, "peers": number}
        return Verdict("outpaced", epoch, reason, told)

    def rungs(self, epochs: int) -> list[int]:
        """The epochs at which trials of so many epochs are judged."""
        rung = self.first * epochs if self.first < 1 else self.first
        rung, found = max(1.0, rung), []
        while round(rung) < epochs:
            found.append(round(rung))
            rung = max(rung * self.step, rung + 1)
        return found

    def _prospect(self, curve: Curve, epoch: int) -> float:
        """Where the slope of the last epochs leads."""
        back = min(self.back, epoch - 1)
        level, before = _level(curve, epoch), _level(curve, epoch - back)
        return level + self.ahead / back * (level - before) if back and math.isfinite(level) and math.isfinite(before) else level


def _level(curve: Curve, epoch: int) -> float:
    value = curve[epoch - 1]
    return -math.inf if math.isnan(value) else value


@dataclass(frozen=True)
class StartRule:
    """Of trials that began together, those behind the best, once all of them have reached the same epoch or ended.

    It is for when there is no time to let several end. A trial that has trained on meanwhile is judged by its level at that epoch.

    Args:
        count: how many began.
        rung: the epoch at which they are compared.
        going_on: how many go on, and as many as are as good; 0 where only what is learnt from them does.
    """

    count: int
    rung: int
    going_on: int = 1

    def __call__(self, history: History) -> Verdict | None:
        rung = self.rung
        if not rung <= history.epoch < history.epochs or len(history.peers) + 1 < self.count:
            return None
        if any(len(peer.objective) < rung and not peer.over for peer in history.peers):
            return None
        level = _level(history.objective, rung)
        better = sum(len(peer.objective) >= rung and _level(peer.objective, rung) > level for peer in history.peers)
        if better < self.going_on:
            return None
        rest = "only the best goes on" if self.going_on else "the best go on in a larger model"
        reason = f"objective {level:.3f} in epoch {rung}: {better} of {self.count} that began together were better, {rest}"
        return Verdict("outpaced", history.epoch, reason, {"objective": level, "better": better, "peers": len(history.peers)})


@dataclass(frozen=True)
class FirstRule:
    """The verdict of the first rule that has one."""

    rules: tuple[Judge, ...]

    def __call__(self, history: History) -> Verdict | None:
        return next((verdict for rule in self.rules if (verdict := rule(history)) is not None), None)
