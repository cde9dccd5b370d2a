"""What a trial is compared with: what has ended, in whichever process, and what trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from optuna.trial import TrialState

from tuner.intake import Intake, Past, curve_of
from tuner.judges import Peer
from tuner.slots import Running

ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
LEARN_SECONDS = 2.0
"""So often it is asked what has ended in other processes."""


class Peers:
    """The curves of all that can be compared.

    Args:
        intake: knows what other processes have.
        past: what has ended; what is learnt is added to it.
        clock: seconds.
    """

    def __init__(self, intake: Intake, past: Past, clock: Callable[[], float]) -> None:
        self._intake, self._past, self._clock = intake, past, clock
        self._learnt = -math.inf

    @property
    def due(self) -> bool:
        """Whether it is time to learn."""
        return self._clock() - self._learnt >= LEARN_SECONDS

    def learn(self, running: Sequence[Running]) -> None:
        """Adds what has ended in other processes."""
        self._learnt = self._clock()
        known = self._past.over | {one.number for one in running} | self._intake.coming
        for frozen in self._intake.elsewhere(known, *ENDED):
            self._past.add(frozen.number, curve_of(frozen), frozen.state == TrialState.FAIL)

    def everyone(self, running: Sequence[Running], starters: range) -> dict[int, Peer]:
        """All, by number. While any of the first trials, of which only the best goes on, trains here, also those of them that train in
        other processes, as the storage has them."""
        known = {**self._past.peers, **{one.number: Peer(one.objective) for one in running}}
        if any(one.number in starters for one in running):
            known |= self._beginning_elsewhere(known, starters)
        return known

    def _beginning_elsewhere(self, known: Mapping[int, Peer], starters: range) -> dict[int, Peer]:
        if self._past.over.union(known).issuperset(starters):
            return {}
        found = self._intake.elsewhere({*known, *self._intake.coming}, TrialState.RUNNING)
        return {frozen.number: Peer(curve_of(frozen)) for frozen in found if frozen.number in starters}
