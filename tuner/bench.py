"""The bench before which every trial stands after every epoch: the rules in force, the baselines' privilege, the audit."""

from __future__ import annotations

from collections.abc import Mapping

from optuna.trial import Trial

from model.noise import derived_seed
from tuner.definition import StudyDefinition
from tuner.judges import History, Peer
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

    def verdict(self, running: Running, everyone: Mapping[int, Peer]) -> Verdict | None:
        """Why a trial ends now, or None: it goes on. A stop that is audited is noted with the trial and not carried out."""
        epoch, epochs = len(running.curve), self._definition.budget.epochs
        if running.error is not None:
            return Verdict("failed", epoch, running.error)
        if running.no_room is not None:
            return Verdict("out_of_memory", epoch, f"the device has no room for this trial alone: {running.no_room}")
        if epoch == 0:
            return None  # it had to wait for room
        if (known := running.ended) is not None:
            return known if epoch >= known.epoch + (known.cause in BEYOND) else None
        if epoch >= running.reached and not running.baseline and (verdict := self._rule(self._history(running, everyone))) is not None:
            if verdict.cause == "exploded" or not self._audited(running.number):
                return verdict
            if isinstance(running.trial, Trial) and "audited" not in running.trial.user_attrs:
                running.trial.set_user_attr("audited", verdict.as_dict())
        if epoch < epochs:
            return None
        evidence = {"objective": running.objective[-1], "loss": running.curve[-1]["loss"]}
        return Verdict("finished", epoch, f"ran its {epochs} epochs: component accuracy {running.objective[-1]:.3f}", evidence)

    def _history(self, running: Running, everyone: Mapping[int, Peer]) -> History:
        return History(
            objective=running.objective,
            loss=tuple(point["loss"] for point in running.curve),
            epochs=self._definition.budget.epochs,
            chance=self._chance,
            peers=tuple(peer for number, peer in everyone.items() if number != running.number),
            losses={name: tuple(point["losses"][name] for point in running.curve) for name in running.curve[-1]["losses"]},
            gradient_norm=tuple(point["gradient_norm"] for point in running.curve),
        )

    def _audited(self, number: int) -> bool:
        """Whether this trial's stops are not carried out, so that they can be measured; repeats with the study's seed."""
        return derived_seed(self._definition.seed, "audit", number) / 2**63 < self._definition.pruning.audit
