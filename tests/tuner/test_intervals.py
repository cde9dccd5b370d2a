"""The Wilson interval against a published example and its laws."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.intervals import wilson


def test_published_examples() -> None:
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3."""
    for hits, tries, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)):
        assert wilson(hits, tries) == pytest.approx((low, high), abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 hits of 2"):
        wilson(3, 2)


@given(st.integers(0, 200), st.integers(1, 200))
def test_it_holds_the_share_and_is_symmetric(hits: int, tries: int) -> None:
    """Within [0, 1]; misses mirror hits."""
    hits = min(hits, tries)
    low, high = wilson(hits, tries)
    assert 0 <= low <= hits / tries + 1e-12
    assert hits / tries - 1e-12 <= high <= 1
    assert (1 - high, 1 - low) == pytest.approx(wilson(tries - hits, tries))


def test_it_covers_the_truth_in_about_95_of_100_cases() -> None:
    """Twenty thousand draws of forty."""
    chance, covered = random.Random(1), 0
    for _ in range(20_000):
        truth = chance.uniform(0.02, 0.98)
        low, high = wilson(sum(chance.random() < truth for _ in range(40)), 40)
        covered += low <= truth <= high
    assert 0.94 < covered / 20_000 < 0.96
