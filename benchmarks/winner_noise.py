"""Whether the intervals of a confirmation hold what they say, and how often pure noise announces a winner: on studies whose truth is known.

python -m benchmarks.winner_noise [--studies 2000] [--seed 0] [--json]

A run's share of right answers is made of its level, how hard each story is, how lucky the seed is, and how well the configuration and the
run suit each story (normal, in log odds); the answers themselves are drawn. The truth is the mean over all seeds and stories.

    shares        how many 95 % intervals for a share hold the truth, by seeds, stories and how far seeds scatter
    differences   the same for the difference of two configurations; `half` is half the mean width, in points
    winners       how many studies in which all configurations are alike announce a winner, by leaders, baselines and seeds
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from benchmarks.command import command, tell
from tuner.comparison import Interval, Numbers, differences, interval_of_share
from tuner.winner import Confirmed, finding_of

HARD, DRAWS = 0.7, 1_000_000
PARTS = ("component_accuracy", "entity", "relation", "value", "exact")


class Spread(NamedTuple):
    """Standard deviations in log odds: of seeds, of a run on a story, of a configuration on a story."""

    seed: float
    run: float
    configuration: float


SHARES = [(seeds, stories, Spread(luck, 0.1, 0.0)) for seeds in (2, 3, 5) for stories in (30, 100) for luck in (0.15, 0.4, 0.8)]
SPREADS = (Spread(0.05, 0.1, 0.3), Spread(0.15, 0.3, 0.0), Spread(0.4, 0.1, 0.0), Spread(0.4, 0.1, 0.3))
DIFFERENCES = [(seeds, stories, spread) for seeds in (2, 3, 5) for stories in (30, 100) for spread in SPREADS]
WINNERS = [(1, 1, 3), (1, 1, 5), (1, 4, 3), (3, 1, 3), (3, 1, 5), (3, 4, 3), (10, 1, 5)]


def runs(chance: np.random.Generator, level: float, seeds: int, of_N: Numbers, story_N: Numbers, spread: Spread) -> Numbers:
    """What runs of one configuration get right, `right_SN`."""
    stories = len(of_N)
    suits = chance.normal(0, spread.configuration, stories) + chance.normal(0, spread.run, (seeds, stories))
    return chance.binomial(of_N.astype(int), expit(level + story_N + suits + chance.normal(0, spread.seed, (seeds, 1)))).astype(float)


def study(chance: np.random.Generator, stories: int) -> tuple[Numbers, Numbers]:
    """How many propositions each story has, and how easy it is."""
    return chance.integers(4, 40, stories).astype(float), chance.normal(0, HARD, stories)


def truth(level: float, spread: Spread) -> float:
    """The mean share over all seeds and stories."""
    return float(expit(level + np.random.default_rng(0).normal(0, math.hypot(HARD, *spread), DRAWS)).mean())


def held(intervals: list[Interval], true: float) -> dict[str, float]:
    """How many hold the truth, and half their mean width."""
    share = sum(one.low <= true <= one.high for one in intervals) / len(intervals)
    return {"held": round(share, 4), "half": round(50 * sum(one.high - one.low for one in intervals) / len(intervals), 2)}


def of_shares(chance: np.random.Generator, studies: int, seeds: int, stories: int, spread: Spread) -> dict[str, float]:
    """Of the intervals for a share."""
    found = []
    for _ in range(studies):
        of_N, story_N = study(chance, stories)
        found.append(interval_of_share(runs(chance, 1.5, seeds, of_N, story_N, spread), of_N))
    return held(found, truth(1.5, spread))


def of_differences(chance: np.random.Generator, studies: int, seeds: int, stories: int, spread: Spread) -> dict[str, float]:
    """Of the intervals for a difference, 0.2 apart in log odds."""
    found = []
    for _ in range(studies):
        of_N, story_N = study(chance, stories)
        ours, other = (runs(chance, level, seeds, of_N, story_N, spread) for level in (1.7, 1.5))
        found += differences(ours, [other], of_N)
    return held(found, truth(1.7, spread) - truth(1.5, spread))


def noise(chance: np.random.Generator, leaders: int, baselines: int, seeds: int, stories: int = 60) -> list[Confirmed]:
    """Configurations that are all alike; a lucky seed is lucky on validation too, where the leader is chosen."""
    of_N, story_N = study(chance, stories)
    found = []
    for trial in range(leaders + baselines):
        luck_S1 = chance.normal(0, 0.4, (seeds, 1))
        valid = expit(1.5 + luck_S1[:, 0] + chance.normal(0, 0.05, seeds))
        right_SN = chance.binomial(of_N.astype(int), expit(1.5 + luck_S1 + story_N)).astype(float)
        parts = tuple(dict.fromkeys(PARTS[:4], float(one)) for one in valid)
        rounds, ours = (1.0,) * seeds, dict.fromkeys(PARTS, right_SN)
        found.append(Confirmed(f"trial {trial}", trial, trial >= leaders, (trial,), 0.9, tuple(range(seeds)), parts, rounds, ours, of_N))
    return found


def of_noise(chance: np.random.Generator, studies: int, leaders: int, baselines: int, seeds: int) -> float:
    """The share of such studies that announce a winner."""
    announced = sum(finding_of(noise(chance, leaders, baselines, seeds), 0.0, 1, {})["winner"] is not None for _ in range(studies))
    return round(announced / studies, 4)


def measured(studies: int, seed: int) -> dict[str, Any]:
    """All of it."""
    chance = np.random.default_rng(seed)

    def case(seeds: int, stories: int, spread: Spread) -> dict[str, Any]:
        return {"seeds": seeds, "stories": stories, **spread._asdict()}

    return {
        "studies": studies,
        "shares": [{**case(*one), **of_shares(chance, studies, *one)} for one in SHARES],
        "differences": [{**case(*one), **of_differences(chance, studies, *one)} for one in DIFFERENCES],
        "winners": [
            {"leaders": leaders, "baselines": baselines, "seeds": seeds, "announced": of_noise(chance, studies, leaders, baselines, seeds)}
            for leaders, baselines, seeds in WINNERS
        ],
    }


def main() -> None:
    """The command."""
    parser = command(__doc__)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tell(measured(options.studies, options.seed), as_json=options.json)


if __name__ == "__main__":
    main()
