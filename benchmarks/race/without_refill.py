"""`tuner` as it would be if slots were filled anew only when all of a lane are empty: to see what refilling brings.

python -m benchmarks.race.without_refill search STUDY ...
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuner.arrays import Slot
from tuner.cli import entry
from tuner.intake import Intake
from tuner.search import Search
from tuner.slots import Running

PLACE, NEXT = Search._place, Intake.next
FILLING = {"now": True}


def place(self: Search, ended: Sequence[Slot]) -> None:
    """Fills the slots of a lane if none is taken."""
    lanes = [slot.place.lane for slot in ended]
    FILLING["now"] = not self.running or any(len(self._arrays.of_lane(lane)) == lanes.count(lane) for lane in lanes)
    PLACE(self, ended)


def next_trial(self: Intake, *arguments: Any, **named: Any) -> Running | None:
    """A trial only then."""
    return NEXT(self, *arguments, **named) if FILLING["now"] else None


if __name__ == "__main__":
    Search._place, Intake.next = place, next_trial  # type: ignore[method-assign]
    entry()
