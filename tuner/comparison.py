"""How sure a mean over seeds and stories is, and whether one configuration is better than another.

Runs of a configuration differ by their seed, stories by how hard they are; both are samples. A share that S seeds score on N
stories has the variance of a two-way layout with both effects random (Searle, Casella and McCulloch 1992, chapter 4), estimated
from the mean squares of the linearised ratio, so that stories with many propositions count as much as they do in the share.
Student's t, with Satterthwaite's (1946) degrees of freedom. What the intervals cover is tested on studies whose truth is known.
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


def estimate(right_SN: Numbers, of_N: Numbers) -> Estimate | None:
    """The mean share, or mean difference of shares, with its variance; None with fewer than two seeds or two stories.

    Args:
        right_SN: what seed s scores on story n: a count, or a difference of counts.
        of_N: what there is to score on story n.
    """
    seeds, stories = right_SN.shape
    if seeds < 2 or stories < 2:
        return None
    mean = _mean(right_SN, of_N)
    off_SN = (right_SN - mean * of_N) * (stories / of_N.sum())
    seed_S, story_N = off_SN.mean(1), off_SN.mean(0)
    rest_SN = off_SN - seed_S[:, None] - story_N
    free = np.array([seeds - 1, stories - 1, (seeds - 1) * (stories - 1)], dtype=np.float64)
    squares = np.array([stories * (seed_S**2).sum(), seeds * (story_N**2).sum(), (rest_SN**2).sum()]) / free
    total = max(squares[0] + squares[1] - squares[2], squares[0], squares[1])
    if total <= 1e-24:
        return Estimate(mean, 0.0, float(free[0]))
    return Estimate(mean, float(total / (seeds * stories)), float(total**2 / (squares**2 / free).sum()))


def interval_of_share(right_SN: Numbers, of_N: Numbers, level: float = LEVEL) -> Interval:
    """The interval for a share: Wilson's, with the size of a simple sample that would be as sure (Korn and Graubard 1998).

    Near 0 and 1 it stays within them and has a width even where nothing was wrong. With one seed it is the whole of [0, 1].
    """
    mean, found = _mean(right_SN, of_N), estimate(right_SN, of_N)
    if found is None:
        return Interval(mean, 0.0, 1.0)
    size, quantile = float(of_N.sum()), found.quantile(level)
    if found.variance > 0:
        size = min(len(right_SN) * size, mean * (1 - mean) / found.variance)
    return Interval(mean, *wilson_share(mean, size, quantile)) if size > 0 else Interval(mean, 0.0, 1.0)


def differences(ours_SN: Numbers, others: Sequence[Numbers], of_N: Numbers, level: float = LEVEL) -> list[Interval]:
    """What ours scores above each of the others, story by story; intervals at the levels of Holm's (1979) steps.

    An interval lies above or below zero exactly where Holm's procedure finds the difference at `level` for all of them together. Where
    nothing is known of the noise it is the whole of [-1, 1].
    """
    found = [estimate(ours_SN - other_SN, of_N) or Estimate(_mean(ours_SN - other_SN, of_N), 0.0, 1.0) for other_SN in others]
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
