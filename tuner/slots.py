"""Trials in the slots of arrays: what is known of each, and how slots are filled, refilled, given up and held for later."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, Trial

from model.config import Hyperparameters, ModelShape
from model.errors import DeviceError
from tuner.errors import SearchError, SnapshotError
from tuner.failures import Outcome, advance, as_json, device_failures, in_words
from tuner.seam import Held, Record, Scored, Trainer
from tuner.states import SlotState
from tuner.study import BASELINE, VERDICT
from tuner.verdict import Verdict

KEPT_FIGURES = (
    *("entity", "relation", "value", "at_least_one", "two_of_three", "exact", "triple_precision", "triple_recall", "triple_f1"),
    *("round_trip", "token_accuracy", "spurious", "first", "f1"),
)


@dataclass
class Running:
    """A trial in a slot.

    Args:
        trial: frozen if it had ended already and is only trained again, because its neighbours resume from a state before that.
        held: the state from which it continues; None: from its beginning.
        reached: the last epoch that was stored of it before an interruption; rules judge it again only from that epoch on.
    """

    trial: Trial | FrozenTrial
    hyperparameters: Hyperparameters
    held: Held | None = None
    curve: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    reached: int = 0
    scored: Scored | None = None
    error: str | None = None
    """What went wrong in its last epoch."""
    no_room: str | None = None
    """What the device said when it had no room for this trial alone."""

    def go_on(self, state: SlotState) -> None:
        """Takes up where a state left it."""
        self.held, self.curve, self.seconds = state.held, list(state.curve), state.seconds

    @property
    def number(self) -> int:
        """The trial's number."""
        return self.trial.number

    @property
    def ended(self) -> Verdict | None:
        """How it ended, if it had ended before."""
        return Verdict.from_dict(self.trial.user_attrs[VERDICT]) if isinstance(self.trial, FrozenTrial) else None

    @property
    def baseline(self) -> str | None:
        """The baseline's name, if it is one."""
        name = self.trial.user_attrs.get(BASELINE)
        return None if name is None else str(name)

    def above(self, floor: float) -> bool:
        """Whether its round trip was not below this when it was last evaluated."""
        return self.scored is not None and self.scored.round_trip >= floor

    @property
    def objective(self) -> tuple[float, ...]:
        """The curve of the objective."""
        return tuple(point["objective"] for point in self.curve)

    def advanced(self, record: Record, scored: Scored, seconds: float) -> dict[str, Any]:
        """One more epoch; returns its point of the curve."""
        figures = {name: scored.figures[name] for name in KEPT_FIGURES if name in scored.figures}
        losses = {"loss": record.loss, "losses": record.losses, "gradient_norm": record.gradient_norm}
        own = {"epoch": record.epoch, "objective": scored.objective, "round_trip": scored.round_trip}
        point: dict[str, Any] = as_json({**own, **losses, **figures})
        self.curve.append(point)
        self.scored, self.seconds = scored, self.seconds + seconds
        return point


def lost_room(error: MemoryError) -> SearchError:
    """The device has no room for trials that it had room for: nothing of them is at fault."""
    return SearchError(f"the device has no room for what it had room for ({error}); run it again to go on")


class Place(NamedTuple):
    """Where an array is: what its trials share, and its lane (see `lanes`)."""

    shape: ModelShape
    lane: int


@dataclass
class Array:
    """Trials of one shape, slot by slot."""

    trainer: Trainer
    slots: list[Running] = field(default_factory=list)
    bare: bool = False
    """Whether the trainer has no slots any more: it gave them back and there was no room for the last of them, which is to end."""

    def fill(self, slot: int, running: Running) -> None:
        """Puts a trial into a slot; one that the trainer will not load has its error."""
        running.error = None
        if running.held is None:
            try:
                with device_failures():
                    self.trainer.load(slot, running.hyperparameters)
            except (MemoryError, SearchError, DeviceError):
                raise
            except Exception as error:  # noqa: BLE001  it is stored with this trial
                running.error = in_words(error)
        else:
            try:
                with device_failures():
                    self.trainer.resume(slot, running.hyperparameters, running.held)
            except (ValueError, KeyError, RuntimeError) as error:  # the last is what torch's `load_state_dict` raises
                raise SnapshotError(
                    f"trial {running.number} cannot go on from its snapshot ({error}); remove the study's folder in runs/snapshots, "
                    "and what was running begins again"
                ) from error

    def replace(self, ended: list[int], fresh: list[Running]) -> list[Running]:
        """Puts new trials into the slots of ended ones; what is left over of either shrinks or widens the array.

        Returns:
            The new trials if there was no room for them: then the ended ones are gone and the others as they were.
        """
        try:
            self._replace(ended, fresh)
        except MemoryError:
            new = {running.number for running in fresh}
            keep = [slot for slot, running in enumerate(self.slots) if slot not in ended and running.number not in new]
            self.trainer.resize(keep, len(keep))
            self.slots = [self.slots[slot] for slot in keep]
            return fresh
        for running in fresh:
            running.held = None
        return []

    def _replace(self, ended: list[int], fresh: list[Running]) -> None:
        if self.bare:
            self.slots, ended, self.bare = [], [], False
        for slot, running in zip(ended, fresh, strict=False):
            self.fill(slot, running)
            self.slots[slot] = running
        if spare := set(ended[len(fresh) :]):
            keep = [slot for slot in range(len(self.slots)) if slot not in spare]
            self.trainer.resize(keep, len(keep))
            self.slots = [self.slots[slot] for slot in keep]
        if more := fresh[len(ended) :]:
            first = len(self.slots)
            self.trainer.resize(range(first), first + len(more))
            for slot, running in enumerate(more, first):
                self.fill(slot, running)
            self.slots += more

    def restore(self, trainer: Trainer, held: Sequence[Held]) -> None:
        """All slots anew in another trainer, each from where it was held."""
        self.trainer = trainer
        trainer.resize((), len(self.slots))
        for slot, (running, state) in enumerate(zip(self.slots, held, strict=True)):
            trainer.resume(slot, running.hyperparameters, state)

    def restart(self, held: Sequence[Held]) -> None:
        """All slots anew, each from where it was held, once the trainer has given back what memory it had."""
        self.trainer.resize((), 0)
        self.restore(self.trainer, held)

    def give_back(self) -> None:
        """Gives back what memory the trainer has, as far as it can after an error: its trials are to begin elsewhere."""
        with contextlib.suppress(Exception):  # it has failed before, and is not asked for anything any more
            self.trainer.resize((), 0)

    def one_by_one(self, make_trainer: Callable[[], Trainer], held: list[Held], seconds: float) -> list[Outcome]:
        """Trains an epoch from the held states, each trial alone, so that one's error does not cost the others. Then together again.

        Raises:
            DeviceError: the device has failed; no trial is to blame.
            SearchError: nothing can be trained here, or there is no room for what there was room for.
        """
        outcomes = []
        try:
            with device_failures():
                for slot, running in enumerate(self.slots):
                    outcomes.append(self._alone(make_trainer(), running, slot, held, seconds))
                self.restore(make_trainer(), held)
        except MemoryError as error:
            raise lost_room(error) from error
        return outcomes

    @staticmethod
    def _alone(trainer: Trainer, running: Running, slot: int, held: list[Held], seconds: float) -> Outcome:
        """Trains one trial alone for an epoch and puts its new state into `held`. One without room even alone is not at fault, but ends."""
        alone = Array(trainer, [running])
        try:
            with device_failures():
                alone.restore(trainer, [held[slot]])
                (outcome,) = advance(trainer, 1, seconds)
                held[slot] = trainer.held(0)
        except (SearchError, DeviceError):
            raise  # nothing can be trained here
        except MemoryError as error:
            running.no_room = str(error) or "out of memory"
            return Outcome(None, None)
        except Exception as error:  # noqa: BLE001  it is stored with this trial
            return Outcome(None, None, in_words(error))
        return outcome

    def states(self) -> tuple[SlotState, ...]:
        """All slots, to go on from later."""
        return tuple(SlotState(r.number, tuple(r.curve), r.seconds, self.trainer.held(slot)) for slot, r in enumerate(self.slots))
