"""The bench that judges every trial after every epoch: the rules in force, the exemption of baselines, the audit."""

from __future__ import annotations

from collections.abc import Mapping, Set

from optuna.trial import Trial

from model.noise import derived_seed
from tuner.definition import StudyDefinition
from tuner.judges import Curve, History, Peer, StartRule
from tuner.slots import Running
from tuner.verdict import Verdict

BEYOND = ("failed", "out_of_memory")
"""Causes that come in the epoch after the one that the verdict names."""


class Bench:
    """Judges trials by a study's rules.

    Args:
        chance: the objective of always answering the most frequent value.
    """

    def __init__(self, definition: StudyDefinition, chance: float) -> None:
        self._definition, self._chance, self._rule = definition, chance, definition.pruning.rule()
        self.starters, self._rung, self._going_on = range(0), 0, 1
        """The first trials, the epoch at which they are compared, and how many of them go on (`compare`)."""

    def compare(self, starters: range, rung: int, going_on: int) -> None:
        """From now on these trials are compared at this epoch, from which so many of them go on."""
        self.starters, self._rung, self._going_on = starters, rung, going_on

    def verdict(self, running: Running, everyone: Mapping[int, Peer], over: Set[int] = frozenset()) -> Verdict | None:
        """Why a trial ends now, or None: it goes on. A stop that is audited is noted with the trial and not carried out.

        Args:
            everyone: what can be compared, by number.
            over: all that have ended, failed ones too.
        """
        epoch, epochs = len(running.curve), self._definition.budget.epochs
        if running.error is not None:
            return Verdict("failed", epoch, running.error)
        if running.no_room is not None:
            return Verdict("out_of_memory", epoch, f"the device has no room for this trial alone: {running.no_room}")
        if epoch == 0:
            return None  # it had to wait for room
        if (known := running.ended) is not None:
            return known if epoch >= known.epoch + (known.cause in BEYOND) else None
        if epoch >= running.reached and not running.baseline and (verdict := self._stop(running, everyone, over)) is not None:
            return verdict
        if epoch < epochs:
            return None
        evidence = {"objective": running.objective[-1], "loss": running.curve[-1]["loss"]}
        return Verdict("finished", epoch, f"ran its {epochs} epochs: component accuracy {running.objective[-1]:.3f}", evidence)

    def _stop(self, running: Running, everyone: Mapping[int, Peer], over: Set[int]) -> Verdict | None:
        """Why a trial is stopped early, or None. Explosions are never audited, nor are stops in a start of which only the best goes on:
        they are for lack of time."""
        verdict = self._rule(self._history(running, everyone))
        if verdict is not None and verdict.cause == "exploded":
            return verdict
        if (early := self._of_start(running, everyone, over)) is not None:
            return early
        if verdict is None or not self._audited(running.number):
            return verdict
        if isinstance(running.trial, Trial) and "audited" not in running.trial.user_attrs:
            running.trial.set_user_attr("audited", verdict.as_dict())
        return None

    def _of_start(self, running: Running, everyone: Mapping[int, Peer], over: Set[int]) -> Verdict | None:
        """Judges a trial among those that began with it. Failed ones are no peers and not waited for; those that others train are both."""
        if running.number not in self.starters:
            return None
        peers = {number: peer for number, peer in everyone.items() if number in self.starters}
        count = sum(number in peers or number not in over for number in self.starters)
        return StartRule(count, self._rung, self._going_on)(self._history(running, peers))

    def _history(self, running: Running, everyone: Mapping[int, Peer]) -> History:
        return History(
            objective=running.objective,
            loss=tuple(point["loss"] for point in running.curve),
            epochs=self._definition.budget.epochs,
            chance=self._chance,
            peers=tuple(peer for number, peer in everyone.items() if number != running.number),
            losses=_losses(running),
            gradient_norm=tuple(point["gradient_norm"] for point in running.curve),
        )

    def _audited(self, number: int) -> bool:
        """Whether this trial's stops are not carried out, so that they can be measured; repeats with the study's seed."""
        return derived_seed(self._definition.seed, "audit", number) / 2**63 < self._definition.pruning.audit


def _losses(running: Running) -> dict[str, Curve]:
    """By component; of one that its trainer does not give in every epoch nothing is said."""
    points = [point["losses"] for point in running.curve]
    names = [name for name in points[-1] if all(name in point for point in points)]
    return {name: tuple(point[name] for point in points) for name in names}
