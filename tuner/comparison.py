"""How sure a mean over seeds and stories is, and whether one configuration is better than another.

Runs of a configuration differ by their seed, stories by how hard they are; both are samples. A share that S seeds score on N
stories has the variance of a two-way layout with both effects random (Searle, Casella and McCulloch 1992, chapter 4), estimated
from the mean squares of the linearised ratio, so that stories with many propositions count as much as they do in the share.
Two configurations have the stories in common but no seeds (Welch 1947): their difference is paired by story, and the scatter of each
one's seeds counts by itself. Student's t, with Satterthwaite's (1946) degrees of freedom. What the intervals cover is measured on studies
whose truth is known (`benchmarks.winner_noise`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from tuner.intervals import wilson_share

Numbers = NDArray[np.float64]
LEVEL = 0.05
ZERO = 1e-24
"""A variance that is none: what is left of it is rounding."""


@dataclass(frozen=True)
class Estimate:
    """A mean, the variance of that mean, and the degrees of freedom this variance is known with."""

    mean: float
    variance: float
    freedom: float

    def quantile(self, level: float) -> float:
        """How many standard errors a two-sided interval reaches that misses the truth in the share `level` of cases."""
        return float(stdtrit(self.freedom, 1 - level / 2))

    @property
    def chance(self) -> float:
        """The chance of a mean at least so far from zero if the truth is zero (two-sided)."""
        if self.variance == 0.0:
            return 1.0  # nothing is known of the noise
        return float(2 * stdtr(self.freedom, -abs(self.mean) / math.sqrt(self.variance)))


@dataclass(frozen=True)
class Interval:
    """A mean and where the truth may lie."""

    mean: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """As JSON says it."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class _Layout:
    """What S seeds score on N stories, taken apart.

    Args:
        story_N: how far each story is off the mean share, over all seeds.
        seed, rest: the part of the variance of the mean that the seeds' scatter makes, and that of seeds and stories together; both with
            what the rest makes in them.
    """

    mean: float
    seeds: int
    story_N: Numbers
    seed: float
    rest: float

    @classmethod
    def of(cls, right_SN: Numbers, of_N: Numbers) -> _Layout | None:
        """None with fewer than two seeds or two stories."""
        seeds, stories = right_SN.shape
        if seeds < 2 or stories < 2:
            return None
        mean = _mean(right_SN, of_N)
        off_SN = (right_SN - mean * of_N) * (stories / of_N.sum())
        seed_S, story_N = off_SN.mean(1), off_SN.mean(0)
        rest_SN = off_SN - seed_S[:, None] - story_N
        within = float((rest_SN**2).sum()) / ((seeds - 1) * (stories - 1))
        return cls(mean, seeds, story_N, _of_mean(seed_S), within / (seeds * stories))

    @property
    def story(self) -> float:
        """The part that the stories' scatter makes."""
        return _of_mean(self.story_N)


def _of_mean(off: Numbers) -> float:
    """The variance of a mean, from how far each is off it."""
    return float((off**2).sum()) / (len(off) - 1) / len(off)


def estimate(ours_SN: Numbers, other_SN: Numbers, of_N: Numbers) -> Estimate | None:
    """How far one configuration's share lies above another's on the same stories; None with fewer than two seeds of either or two stories.

    Args:
        ours_SN, other_SN: how many seed s has right on story n; seeds may be of any number, and are no pairs.
        of_N: how many there are on story n.
    """
    ours, other = _Layout.of(ours_SN, of_N), _Layout.of(other_SN, of_N)
    if ours is None or other is None:
        return None
    mean, both, stories = ours.mean - other.mean, (ours, other), len(of_N)
    seed, story, rest = sum(one.seed for one in both), _of_mean(ours.story_N - other.story_N), sum(one.rest for one in both)
    total = max(seed + story - rest, seed, story)
    if total <= ZERO:
        return Estimate(mean, 0.0, float(min(one.seeds for one in both) - 1))
    spread = story**2 / (stories - 1) + sum((one.seed**2 + one.rest**2 / (stories - 1)) / (one.seeds - 1) for one in both)
    return Estimate(mean, total, total**2 / spread)


def interval_of_share(right_SN: Numbers, of_N: Numbers, level: float = LEVEL) -> Interval:
    """The interval for a share: Wilson's, with the size of a simple sample that would be as sure (Korn and Graubard 1998).

    Near 0 and 1 it stays within them and has a width even where nothing was wrong. With one seed it is the whole of [0, 1]. What two or
    three seeds say of their scatter is uncertain, and where they scatter most they make a mean look as sure as the many stories would:
    so each part of the variance has a quantile of its own (docs/DECISIONS.md, 2026-11-30).
    """
    mean, found = _mean(right_SN, of_N), _Layout.of(right_SN, of_N)
    if found is None:
        return Interval(mean, 0.0, 1.0)
    own, story, stories = max(0.0, found.seed - found.rest), found.story, len(of_N)
    of_seeds, of_stories = (float(stdtrit(count - 1, 1 - level / 2)) for count in (found.seeds, stories))
    size, variance, quantile = float(of_N.sum()), max(own + story, found.seed), of_seeds
    if variance > ZERO:
        size = min(len(right_SN) * size, mean * (1 - mean) / variance)
        quantile = math.sqrt((own * of_seeds**2 + story * of_stories**2) / (own + story)) if own + story > 0 else of_seeds
    return Interval(mean, *wilson_share(mean, size, quantile)) if size > 0 else Interval(mean, 0.0, 1.0)


def differences(ours_SN: Numbers, others: Sequence[Numbers], of_N: Numbers, level: float = LEVEL) -> list[Interval]:
    """What ours scores above each of the others, story by story; intervals at the levels of Holm's (1979) steps.

    An interval lies above or below zero exactly where Holm's procedure finds the difference at `level` for all of them together. Where
    nothing is known of the noise it is the whole of [-1, 1].
    """
    mean = _mean(ours_SN, of_N)
    found = [estimate(ours_SN, other_SN, of_N) or Estimate(mean - _mean(other_SN, of_N), 0.0, 1.0) for other_SN in others]
    intervals: dict[int, Interval] = {}
    going, step = True, level
    for rank, place in enumerate(sorted(range(len(found)), key=lambda place: found[place].chance)):
        step = level / (len(found) - rank) if going else step
        going = going and found[place].chance <= step
        intervals[place] = _around(found[place], step)
    return [intervals[place] for place in range(len(found))]


def _mean(right_SN: Numbers, of_N: Numbers) -> float:
    return float(right_SN.sum() / (len(right_SN) * of_N.sum()))


def _around(found: Estimate, level: float) -> Interval:
    if found.variance == 0.0:
        return Interval(found.mean, -1.0, 1.0)
    half = found.quantile(level) * math.sqrt(found.variance)
    return Interval(found.mean, max(-1.0, found.mean - half), min(1.0, found.mean + half))
