"""Why a trial ended: a cause, the epoch, one sentence of reason and the figures behind it. No ending without a reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CAUSES = ("finished", "plateaued", "exploded", "outpaced", "out_of_memory", "failed", "interrupted")
STOPPED_CAUSES = ("plateaued", "exploded", "outpaced")
"""Those of trials that the rules stop; what these would have trained is saved."""


@dataclass(frozen=True)
class Verdict:
    """The end of a trial.

    Raises:
        ValueError: an unknown cause, an empty reason or an epoch below zero.
    """

    cause: str
    epoch: int
    reason: str
    evidence: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cause not in CAUSES:
            raise ValueError(f"cause {self.cause!r} is not known; allowed: {', '.join(CAUSES)}")
        if not self.reason.strip():
            raise ValueError(f"a verdict ({self.cause}, epoch {self.epoch}) needs a reason")
        if self.epoch < 0:
            raise ValueError(f"epoch {self.epoch} is below zero")

    def as_dict(self) -> dict[str, Any]:
        """As it is stored: JSON has no NaN or infinity, so these become words."""
        evidence = {name: value if math.isfinite(value) else str(value) for name, value in self.evidence.items()}
        return {"cause": self.cause, "epoch": self.epoch, "reason": self.reason, "evidence": evidence}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Verdict:
        """The inverse of `as_dict`."""
        evidence = {name: float(value) for name, value in stored["evidence"].items()}
        return cls(stored["cause"], stored["epoch"], stored["reason"], evidence)


def ending(number: int, cause: str, reason: str) -> str:
    """How a trial ended, in one line."""
    return f"trial {number} {cause}: {reason}"


def counted(causes: Mapping[str, int]) -> str:
    """How many trials ended in which way."""
    return ", ".join(f"{count} {cause}" for cause, count in causes.items()) or "none ended"
