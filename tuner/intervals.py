"""Intervals: how far a figure may be from the truth."""

from __future__ import annotations

import math

Z95 = 1.959963984540054


def wilson(hits: int, tries: int) -> tuple[float, float]:
    """The 95 % interval for a share seen as `hits` of `tries` (Wilson 1927); the whole of [0, 1] without a try.

    Raises:
        ValueError: more hits than tries, or a number below zero.
    """
    if not 0 <= hits <= tries:
        raise ValueError(f"{hits} hits of {tries} tries is not possible")
    return wilson_share(hits / tries, tries, Z95) if tries else (0.0, 1.0)


def wilson_share(share: float, size: float, z: float) -> tuple[float, float]:
    """The same for a share seen in a sample as sure as a simple one of this size, above zero, which need not be a whole number."""
    extra = z * z / size
    middle = (share + extra / 2) / (1 + extra)
    half = z / (1 + extra) * math.sqrt(share * (1 - share) / size + extra / size / 4)
    return max(0.0, middle - half), min(1.0, middle + half)
