"""Random numbers that depend on who asks, never on a shared stream.

A fused slot must train exactly as the same trial alone, so nothing here knows K, the slot's index or what was drawn before:
initial values come from (trial seed, parameter name), sentence orders from (trial seed, epoch), dropout masks from a counter-based hash
of (trial seed, step, element), in the manner of Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_MULTIPLIERS = (-0x00AE502812AA7333, -0x3B314601E57A13AD)  # MurmurHash3's 64-bit finalizer, as signed numbers
_GOLDEN = -0x61C8864680B583EB
_BITS = 24


def derived_seed(*parts: object) -> int:
    """A 63-bit seed from any parts that have a stable `str`."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(*parts: object) -> torch.Generator:
    """A CPU generator of its own for these parts."""
    return torch.Generator().manual_seed(derived_seed(*parts))


def _mix(x: Tensor) -> Tensor:
    """Scrambles 64-bit integers; every output bit depends on every input bit (Appleby, MurmurHash3 fmix64)."""
    for multiplier in _MULTIPLIERS:
        x = (x ^ ((x >> 33) & 0x7FFFFFFF)) * multiplier
    return x ^ ((x >> 33) & 0x7FFFFFFF)


def uniform(seed_K: Tensor, step_K: Tensor, count: int, stream: int) -> Tensor:
    """Numbers in [0, 1) that depend on (trial seed, step, element) alone: `chances_KN` for N = `count` elements.

    Args:
        seed_K: the trials' seeds (int64).
        step_K: how many steps, or epochs, each trial has made (int64).
        stream: a number that separates independent uses: 1 what a step draws, from 16 on what an epoch draws for its length classes.
    """
    key_K = _mix(_mix(seed_K + stream) ^ (step_K * _GOLDEN))
    counter_N = torch.arange(count, device=seed_K.device, dtype=torch.int64) * _GOLDEN
    bits_KN = (_mix(key_K[:, None] + counter_N) >> (64 - _BITS)) & ((1 << _BITS) - 1)
    return bits_KN.to(torch.float32) * 2.0**-_BITS
