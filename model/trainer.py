"""The fused trainer: K slots of one shape, each training a model of its own; it knows no Optuna trials, studies or verdicts.

load(slot, hyperparameters)   a new model into a slot, its neighbours untouched
train_epoch()                 one pass over the train split for all slots at once
evaluate(split), tally(split) component accuracy and the rest, per slot; right answers story by story
snapshot(slot), restore(...)  everything a trial needs to go on, here or in another slot or trainer
unload(slot), resize(...)     empty a slot; keep some slots in a trainer of another width
rehearse(steps), probe(slot)  how long a step takes; what a model has learnt, and from what
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from model.batches import Batches
from model.config import COMPONENTS, MODEL_VERSION, Hyperparameters, ModelShape
from model.corpus import Corpus, Split
from model.devices import find_device, settle
from model.evaluation import Evaluation, evaluate_split, relation_kinds
from model.layers import Parameters
from model.losses import Batch, ComponentLosses
from model.network import Conditions, SymmetricNetwork
from model.optimizer import step_rows
from model.parameters import ParameterStore
from model.probe import MOST_SENTENCES, PROBED_BATCHES, Probe, answered, figures, moved, pulls
from model.replay import Inputs, Recorder, Replayed, Result, recorder_for
from model.settings import EpochSettings, Occupant, StepKind, StepNumbers
from model.shortlist import SHORTLIST
from model.softmax import Scratch
from model.tally import StoryTally, tally_split

Found = TypeVar("Found")


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch of training said of one slot. Losses in nats (squared ids under `mse`), the norm before clipping."""

    epoch: int
    loss: float
    losses: dict[str, float]
    gradient_norm: float


@dataclass(frozen=True)
class Snapshot:
    """One slot's whole state: rows of values, moments and averages (values alone begin the rest anew), how far it is, its settings."""

    layout: str
    hyperparameters: Hyperparameters
    epoch: int
    step: int
    rows: tuple[Tensor, ...]


class FusedTrainer:
    """K slots over one corpus on one device."""

    def __init__(
        self,
        shape: ModelShape,
        corpus: Corpus,
        slots: int,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        shortlist: int = SHORTLIST,
        recorder: Callable[[torch.device], Recorder | None] = recorder_for,
    ) -> None:
        """K free slots.

        Args:
            shortlist: about how many symbols a step's softmax covers where the table has more than four times as many (not under `mse`).
            recorder: makes the recorder that captures a device's steps for replay; where it gives None, steps run eagerly (see `replay`).
        """
        self.shape, self.corpus = shape, corpus
        self.device = find_device(device) if isinstance(device, str) else device
        settle(self.device)
        self.network = SymmetricNetwork(shape, corpus.vocabulary, corpus.max_tokens, self.device)
        self.dtype = dtype
        self.losses = ComponentLosses(self.network, shape.proposition_loss, shortlist)
        device, losses = self.device, self.losses  # a recorder must not hold the trainer, whose memory is to go when it goes
        self._replayed: Replayed[StepKind, Tensor] = Replayed(lambda: _with_own_scratch(losses, recorder(device)))
        self.seconds = {"training": 0.0, "evaluating": 0.0}
        self.slots = slots  # as many as were asked for, free ones included; the store may have room for more, after these
        self.store = self._new_store(slots)
        self._slots: list[Occupant | None] = [None] * self.store.slots
        self._splits: dict[str, Split] = {}
        self._batches = Batches(corpus, self._split("train"), self.network, dtype, recorder)
        self._kinds = relation_kinds(corpus.vocabulary)
        self._shortens = len(corpus.vocabulary) > 4 * shortlist and shape.proposition_loss != "mse"

    @property
    def steps_an_epoch(self) -> int:
        """Optimizer steps of one epoch."""
        return len(self._batches.schedule)

    @property
    def symbols_a_step(self) -> int:
        """How many symbols of the table a step looks at, on average."""
        return self._batches.symbols_a_step(self.losses.shortlist if self._shortens else len(self.corpus.vocabulary))

    def load(self, slot: int, hyperparameters: Hyperparameters) -> None:
        """Puts a new model into a slot."""
        self.store.write(slot, self.store.initial_rows(hyperparameters.seed, hyperparameters.num_rules))
        self._slots[slot] = Occupant(hyperparameters)

    def unload(self, slot: int) -> None:
        """Empties a slot."""
        self.store.write(slot, torch.zeros_like(self.store.read(slot)[0]))
        self._slots[slot] = None

    def snapshot(self, slot: int) -> Snapshot:
        """The slot's whole state, on the CPU."""
        state = self.state(slot)
        rows = tuple(rows.cpu() for rows in self.store.read(slot))
        return Snapshot(self.store.layout, state.hyperparameters, state.epoch, state.step, rows)

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        """Puts a snapshot into a slot, from where its training goes on as if never interrupted.

        Raises:
            ValueError: the snapshot's parameters have other names or sizes, or are of another version.
        """
        if snapshot.layout != self.store.layout:
            raise ValueError(f"the snapshot's layout {snapshot.layout} is not this trainer's {self.store.layout}")
        self.store.write(slot, *snapshot.rows)
        self._slots[slot] = Occupant(snapshot.hyperparameters, snapshot.epoch, snapshot.step)

    def resize(self, keep: Sequence[int], slots: int) -> None:
        """Makes `slots` slots of which the first hold the old slots `keep`, in that order."""
        kept = [(self._slots[old], self.store.read(old)) for old in keep]
        if not self._has_room(slots):
            self._replayed.forget()
            self._batches.forget()
            self.losses.scratch = Scratch()
            self.store = self._new_store(slots)
        self.slots, self._slots = slots, [None] * self.store.slots
        for new, (state, rows) in enumerate(kept):
            self.store.write(new, *rows)
            self._slots[new] = state

    def _has_room(self, slots: int) -> bool:
        """Whether the present store has the room that `slots` need or, where steps are recorded, up to twice as much."""
        there, room = self.store.slots, self._room(slots)
        return room == there or (slots > 0 and self._replayed.records and there // 2 <= room < there)

    def _room(self, slots: int) -> int:
        """How many slots a store for `slots` has; a power of two where steps are recorded, as each number needs recordings of its own."""
        return 1 << (slots - 1).bit_length() if slots and self._replayed.records else slots

    def _new_store(self, slots: int) -> ParameterStore:
        return ParameterStore(self.network.specs(), self._room(slots), self.device, self.dtype, MODEL_VERSION)

    def parameters(self, slot: int) -> dict[str, Tensor]:
        """The slot's averaged parameters by name, on the CPU."""
        return {name: value.cpu() for name, value in self.store.named(self.store.read(slot)[-1]).items()}

    def train_epoch(self) -> list[EpochRecord | None]:
        """Trains all slots for one epoch; None for a free slot. Reads the device once, at the end."""
        started = time.perf_counter()
        settings = self._settings()
        rows = self._steps(settings, self._batches.epoch(settings.draw)).cpu().tolist()
        self.seconds["training"] += time.perf_counter() - started
        return [self._record(slot, [row[slot] for row in rows]) for slot in range(self.slots)]

    def rehearse(self, steps: int) -> float:
        """Seconds per step on an epoch's longest batch, at full speed (replayed, on a GPU); the parameters are worthless afterwards."""
        settings = self._settings()
        longest = max(self._batches.epoch(settings.draw), key=lambda batch: batch.tokens_KBT.shape[2])
        self._steps(settings, [longest] * self._replayed.before).cpu()
        started = time.perf_counter()
        self._steps(settings, [longest] * steps).cpu()
        return (time.perf_counter() - started) / steps

    def _steps(self, settings: EpochSettings, batches: Sequence[Batch]) -> Tensor:
        """One step with each batch; sums of what each gives, `sums_5K`."""
        symbols = self.network.symbols if self._shortens else 0
        sums_5K = torch.zeros(5, self.store.slots, device=self.device, dtype=self.store.dtype)
        for number, batch in enumerate(batches):
            sums_5K += self._replayed(self._step, *settings.step(number % self.steps_an_epoch, batch, self.shape, symbols))
        return sums_5K

    def _settings(self) -> EpochSettings:
        spare = next(filter(None, self._slots), Occupant(Hyperparameters()))  # a free slot asks for nothing that the others do not
        return EpochSettings([state or spare for state in self._slots], self.steps_an_epoch, self.store)

    def _step(self, inputs: Inputs, kind: StepKind) -> Tensor:
        """One optimizer step of all slots; the losses times the batch's size and the gradient norms, `sums_5K`."""
        numbers_VK, *tensors = inputs
        numbers, sampled_KS = StepNumbers.of(numbers_VK), tensors.pop() if kind.shortens else None
        keep_KSBD = tensors.pop() if kind.drops else None
        batch = Batch.of(tensors, kind.facts, sampled_KS)
        p = self.network.with_tables(self.store.views, train=True)
        losses_4K = self.losses(p, batch, Conditions(keep_KSBD), kind.cycles, self.store.again)
        asked_4K = numbers.weights_4K != 0  # what is not asked for does not count, though a neighbour may have it computed
        losses_4K = torch.where(asked_4K, losses_4K, 0.0)
        self._backward((losses_4K * numbers.weights_4K).sum())
        norm_K = step_rows(self.store, numbers.factors_4K, numbers.decay_K, numbers.clip_K)
        return torch.cat((losses_4K.detach() * batch.tokens_KBT.shape[1], norm_K[None]))

    def probe(self, slot: int) -> Probe:
        """Looks into one slot's averaged parameters; changes nothing."""
        state = self.state(slot)
        leaves = {name: value.detach().clone().requires_grad_() for name, value in self.store.average_views.items()}
        batches = self._batches.epoch(self._settings().draw)[:PROBED_BATCHES]
        weighted, norms = pulls(self.losses, leaves, batches, state.hyperparameters.loss_weights, slot)
        with torch.no_grad():
            p = self.network.with_tables(leaves)
            splits = self._split("train").first(MOST_SENTENCES), self._split("valid")
            train, valid = (figures(self.losses, p, split, self._kinds, slot) for split in splits)
            answers = answered(self.losses, p, self._split("valid"), slot)
        start = self.store.named(self.store.initial_rows(state.hyperparameters.seed, state.hyperparameters.num_rules))
        return Probe(weighted, norms, moved(start, self.store.named(self.store.read(slot)[-1])), train, valid, answers)

    def evaluate(self, split: str = "valid") -> list[Evaluation | None]:
        """Evaluates the averaged parameters of all slots on a split; None for a free slot."""
        return self._each(lambda parameters: evaluate_split(self.network, parameters, self._split(split), self._kinds))

    def tally(self, split: str = "test") -> list[StoryTally | None]:
        """What the averaged parameters of all slots get right on a split, story by story; None for a free slot."""
        return self._each(lambda parameters: tally_split(self.network, parameters, self._split(split)))

    def _each(self, judge: Callable[[Parameters], Sequence[Found]]) -> list[Found | None]:
        """What the averaged parameters of all slots come to; None for a free slot. Its seconds are counted."""
        started = time.perf_counter()
        found = judge(self.network.with_tables(self.store.average_views))
        self.seconds["evaluating"] += time.perf_counter() - started
        return [one if state else None for one, state in zip(found, self._slots, strict=True)][: self.slots]

    def _split(self, name: str) -> Split:
        """A split on the device, brought there once."""
        if name not in self._splits:
            self._splits[name] = self.corpus.splits[name].to(self.device)
        return self._splits[name]

    def state(self, slot: int) -> Occupant:
        """What is in a slot.

        Raises:
            ValueError: the slot is free.
        """
        state = self._slots[slot]
        if state is None:
            raise ValueError(f"slot {slot} is free: load or restore a trial first")
        return state

    def _backward(self, loss: Tensor) -> None:
        """Writes the gradients of all parameters to the store, those of the second set of leaves (`store.again`) added in."""
        store = self.store
        found = torch.autograd.grad(loss, [*store.views.values(), *store.again.values()], allow_unused=True)
        once = zip(store.views, found[: len(store.views)], strict=True)
        twice = [(name, more) for name, more in zip(store.again, found[len(store.views) :], strict=True) if more is not None]
        with torch.no_grad():
            whole = [torch.zeros_like(store.views[name]) if gradient is None else gradient for name, gradient in once]
            torch._foreach_copy_(list(store.gradient_views.values()), whole)
            if twice:
                torch._foreach_add_([store.gradient_views[name] for name, _ in twice], [more for _, more in twice])

    def _record(self, slot: int, sums: list[float]) -> EpochRecord | None:
        state = self._slots[slot]
        if state is None:
            return None
        state.epoch += 1
        state.step += self.steps_an_epoch
        sentences = sum(turn.size for turn in self._batches.schedule)
        losses = {name: total / sentences for name, total in zip(COMPONENTS, sums[:4], strict=True)}
        weights = state.hyperparameters.loss_weights
        loss = sum(getattr(weights, name) * value for name, value in losses.items() if getattr(weights, name))
        return EpochRecord(state.epoch, loss, losses, sums[4] / self.steps_an_epoch)


def _with_own_scratch(losses: ComponentLosses, recorder: Recorder | None) -> Recorder | None:
    """Gives each recording scratch memory of its own: that of the steps run between recordings may grow and so be reallocated."""
    if recorder is None:
        return None
    record = recorder

    def apart(work: Callable[[], Result]) -> tuple[Callable[[], object], Result]:
        usual, losses.scratch = losses.scratch, Scratch()
        try:
            return record(work)
        finally:
            losses.scratch = usual

    return apart
