"""`tuner` as it would be if slots were filled anew only when all of them are empty: to see what refilling brings.

python -m benchmarks.race.without_refill search STUDY ...
"""

from __future__ import annotations

from typing import Any

from tuner.cli import entry
from tuner.intake import Intake
from tuner.search import Search
from tuner.slots import Place, Running

PLACE, NEXT = Search._place, Intake.next
FILLING = {"now": True}


def place(self: Search, ended: list[tuple[Place, int]]) -> None:
    """Fills slots if none is taken."""
    FILLING["now"] = len(self.running) == len(ended)
    PLACE(self, ended)


def next_trial(self: Intake, *arguments: Any, **named: Any) -> Running | None:
    """A trial only then."""
    return NEXT(self, *arguments, **named) if FILLING["now"] else None


if __name__ == "__main__":
    Search._place, Intake.next = place, next_trial  # type: ignore[method-assign]
    entry()
