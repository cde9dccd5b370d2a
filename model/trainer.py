"""The fused trainer: K slots of one shape, each training its own trial; knows no trials, studies or verdicts.

load(slot, hyperparameters)   a new model into a slot, its neighbours untouched
train_epoch()                 one pass over the train split for all slots at once
evaluate(split)               component accuracy and the rest, per slot
snapshot(slot), restore(...)  everything a trial needs to go on, here or in another slot or trainer
unload(slot), resize(slots)   empty a slot; keep some slots in a trainer of another width
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.augmentation import WordSwap
from model.config import COMPONENTS, Hyperparameters, ModelShape
from model.corpus import Corpus, LengthClass, Split, length_classes
from model.errors import DeviceError
from model.evaluation import Evaluation, evaluate_split, relation_kinds
from model.layers import rules_in_use
from model.losses import SHORTLIST, Batch, ComponentLosses
from model.network import Conditions, SymmetricNetwork, dropout_masks
from model.noise import generator_for, uniform
from model.optimizer import StepFactors, step_rows
from model.parameters import ParameterStore
from model.vocabulary import PAD


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch of training said of one slot. Losses in nats (squared ids under `mse`), the norm before clipping."""

    epoch: int
    loss: float
    losses: dict[str, float]
    gradient_norm: float


@dataclass(frozen=True)
class Snapshot:
    """One slot's whole state: rows of values and moments, how far it is, and its settings."""

    layout: str
    hyperparameters: Hyperparameters
    epoch: int
    step: int
    rows: tuple[Tensor, Tensor, Tensor]


@dataclass
class _Slot:
    hyperparameters: Hyperparameters
    epoch: int = 0
    step: int = 0


def find_device(name: str) -> torch.device:
    """`auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        DeviceError: the device does not exist here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()) or name.endswith(":") or (kind == "cpu" and number):
        raise DeviceError(f"device {name!r} is not known; allowed: auto, cpu, cuda, cuda:N")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise DeviceError(f"device {name!r} is not here: torch {torch.__version__} sees {count} CUDA devices; use --device cpu or auto")
    return torch.device(name)


class FusedTrainer:
    """K slots over one corpus on one device."""

    def __init__(
        self,
        shape: ModelShape,
        corpus: Corpus,
        slots: int,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.shape, self.corpus = shape, corpus
        self.device = find_device(device) if isinstance(device, str) else device
        self.network = SymmetricNetwork(shape, corpus.vocabulary, corpus.max_tokens, self.device)
        self.store = ParameterStore(self.network.specs(), slots, self.device, dtype)
        self.losses = ComponentLosses(self.network, shape.proposition_loss)
        self.seconds = {"training": 0.0, "evaluating": 0.0}
        self._slots: list[_Slot | None] = [None] * slots
        self._splits: dict[str, Split] = {}
        self._classes = length_classes(corpus.splits["train"], shape.batch_size, shape.max_propositions)
        self._schedule = _fixed_schedule(self._classes)
        counts = torch.tensor(corpus.symbol_counts()["text"], dtype=dtype)
        counts[PAD] = math.inf
        self._word_counts_S = counts.to(self.device)
        self._swap = WordSwap(corpus, self.device)
        self._kinds = relation_kinds(corpus.vocabulary)
        self._shortens = len(corpus.vocabulary) > 2 * SHORTLIST and shape.proposition_loss != "mse"

    @property
    def slots(self) -> int:
        """How many slots there are, free ones included."""
        return len(self._slots)

    @property
    def steps_an_epoch(self) -> int:
        """Optimizer steps of one epoch."""
        return len(self._schedule)

    def load(self, slot: int, hyperparameters: Hyperparameters) -> None:
        """Puts a new model into a slot."""
        self.store.write(slot, self.store.initial_rows(hyperparameters.seed))
        self._slots[slot] = _Slot(hyperparameters)

    def unload(self, slot: int) -> None:
        """Empties a slot."""
        self.store.write(slot, torch.zeros_like(self.store.read(slot)[0]))
        self._slots[slot] = None

    def snapshot(self, slot: int) -> Snapshot:
        """The slot's whole state, on the CPU."""
        state = self._state(slot)
        values, moment1, moment2 = (rows.cpu() for rows in self.store.read(slot))
        return Snapshot(self.store.layout, state.hyperparameters, state.epoch, state.step, (values, moment1, moment2))

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        """Puts a snapshot into a slot, from where its training goes on as if never interrupted.

        Raises:
            ValueError: the snapshot is of another shape, vocabulary or version.
        """
        if snapshot.layout != self.store.layout:
            raise ValueError(f"the snapshot's layout {snapshot.layout} is not this trainer's {self.store.layout}")
        self.store.write(slot, *snapshot.rows)
        self._slots[slot] = _Slot(snapshot.hyperparameters, snapshot.epoch, snapshot.step)

    def resize(self, keep: Sequence[int], slots: int) -> None:
        """Makes `slots` slots of which the first hold the old slots `keep`, in that order."""
        kept = [(self._slots[old], self.store.read(old)) for old in keep]
        self.store = ParameterStore(self.network.specs(), slots, self.device, self.store.dtype)
        self._slots = [None] * slots
        for new, (state, rows) in enumerate(kept):
            self.store.write(new, *rows)
            self._slots[new] = state

    def parameters(self, slot: int) -> dict[str, Tensor]:
        """The slot's parameters by name, on the CPU."""
        return {name: value.cpu() for name, value in self.store.named(self.store.read(slot)[0]).items()}

    def train_epoch(self) -> list[EpochRecord | None]:
        """Trains all slots for one epoch; None for a free slot. Reads the device once, at the end."""
        started = time.perf_counter()
        states = [state or _Slot(Hyperparameters()) for state in self._slots]
        settings = _SlotTensors(states, self.store, self.shape.max_rules)
        factors = StepFactors.of([(state.hyperparameters, state.step) for state in states], len(self._schedule), self.store)
        order_KN = self._order(states)
        cycles = bool((settings.weights_4K[2:] != 0).any())
        sums_5K = torch.zeros(5, self.slots, device=self.device, dtype=self.store.dtype)
        for step, (length_class, start, size) in enumerate(self._schedule):
            batch = self._batch(length_class, order_KN[:, start : start + size], settings, step)
            sums_5K += self._step(step, batch, settings, factors, cycles)
        rows = sums_5K.cpu().tolist()
        self.seconds["training"] += time.perf_counter() - started
        return [self._record(slot, [row[slot] for row in rows]) for slot in range(self.slots)]

    def _step(self, step: int, batch: Batch, settings: _SlotTensors, factors: StepFactors, cycles: bool) -> Tensor:
        """One optimizer step of all slots; the losses times the batch's size and the gradient norms, `sums_5K`."""
        size = batch.tokens_KBT.shape[1]
        conditions = settings.conditions(step, size, self.shape.hidden_dim)
        losses_4K = self.losses(self.network.with_tables(self.store.views), batch, conditions, cycles)
        asked_4K = settings.weights_4K != 0  # what is not asked for does not count, though a neighbour may have it computed
        losses_4K = torch.where(asked_4K, losses_4K, 0.0)
        self._backward((losses_4K * settings.weights_4K).sum())
        norm_K = step_rows(self.store, factors, step, settings.decay_K, settings.clip_K)
        return torch.cat((losses_4K.detach() * size, norm_K[None]))

    def evaluate(self, split: str = "valid") -> list[Evaluation | None]:
        """Evaluates all slots on a split; None for a free slot."""
        started = time.perf_counter()
        states = [state or _Slot(Hyperparameters()) for state in self._slots]
        conditions = Conditions(_SlotTensors(states, self.store, self.shape.max_rules).rules_KR)
        evaluations = evaluate_split(self.network, self.network.with_tables(self.store.views), conditions, self._split(split), self._kinds)
        self.seconds["evaluating"] += time.perf_counter() - started
        return [evaluation if state else None for evaluation, state in zip(evaluations, self._slots, strict=True)]

    def _split(self, name: str) -> Split:
        """A split on the device, brought there once."""
        if name not in self._splits:
            self._splits[name] = self.corpus.splits[name].to(self.device)
        return self._splits[name]

    def _state(self, slot: int) -> _Slot:
        state = self._slots[slot]
        if state is None:
            raise ValueError(f"slot {slot} is free: load or restore a trial first")
        return state

    def _order(self, states: list[_Slot]) -> Tensor:
        """Which sentence each slot sees where in this epoch, `order_KN`, the length classes one after the other."""
        rows = []
        for state in states:
            generator = generator_for("order", state.hyperparameters.seed, state.epoch)
            rows.append(torch.cat([length_class.draw(generator) for length_class in self._classes]))
        return torch.stack(rows).to(self.device)

    def _batch(self, length_class: LengthClass, rows_KB: Tensor, settings: _SlotTensors, step: int) -> Batch:
        train = self._split("train")
        tokens = train.tokens_NT[:, : length_class.tokens][rows_KB]
        propositions = train.propositions_NQ3[:, : length_class.propositions][rows_KB]
        steps_K = settings.step_K + step
        if settings.swaps:
            tokens, propositions = self._swap.swap(tokens, propositions, settings.seed_K, steps_K, settings.word_swap_K)
        seen = tokens
        if settings.drops_words:
            chances = uniform(settings.seed_K, steps_K, tokens[0].numel(), stream=2).view(tokens.shape)
            strength = settings.word_dropout_K[:, None, None]
            hidden = chances * (self._word_counts_S[tokens] + strength) < strength
            seen = torch.where(hidden, self.network.hide(tokens), tokens)
        sampled = uniform(settings.seed_K, steps_K, self.network.symbols, stream=4) if self._shortens else None
        return Batch(tokens, propositions, seen, length_class.facts, sampled)

    def _backward(self, loss: Tensor) -> None:
        names = list(self.store.views)
        gradients = torch.autograd.grad(loss, [self.store.views[name] for name in names], materialize_grads=True, allow_unused=True)
        with torch.no_grad():
            torch._foreach_copy_([self.store.gradient_views[name] for name in names], list(gradients))

    def _record(self, slot: int, sums: list[float]) -> EpochRecord | None:
        state = self._slots[slot]
        if state is None:
            return None
        state.epoch += 1
        state.step += len(self._schedule)
        sentences = sum(size for _, _, size in self._schedule)
        losses = {name: total / sentences for name, total in zip(COMPONENTS, sums[:4], strict=True)}
        weights = state.hyperparameters.loss_weights
        loss = sum(getattr(weights, name) * value for name, value in losses.items() if getattr(weights, name))
        return EpochRecord(state.epoch, loss, losses, sums[4] / len(self._schedule))


class _SlotTensors:
    """The slots' settings as tensors of length K."""

    def __init__(self, states: list[_Slot], store: ParameterStore, max_rules: int) -> None:
        hps = [state.hyperparameters for state in states]

        def tensor(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64).to(store.device, store.dtype)

        self.dtype = store.dtype
        self.weights_4K = torch.stack([tensor([getattr(hp.loss_weights, name) for hp in hps]) for name in COMPONENTS])
        self.decay_K, self.clip_K = tensor([hp.weight_decay for hp in hps]), tensor([hp.clip_norm for hp in hps])
        self.dropout_K, self.word_dropout_K = tensor([hp.dropout for hp in hps]), tensor([hp.word_dropout for hp in hps])
        self.word_swap_K, self.swaps = tensor([hp.word_swap for hp in hps]), any(hp.word_swap for hp in hps)
        self.drops, self.drops_words = any(hp.dropout for hp in hps), any(hp.word_dropout for hp in hps)
        self.seed_K = torch.tensor([hp.seed for hp in hps], device=store.device)
        self.step_K = torch.tensor([state.step for state in states], device=store.device)
        self.rules_KR = rules_in_use(torch.tensor([hp.num_rules for hp in hps], device=store.device), max_rules, store.dtype)

    def conditions(self, step: int, sentences: int, dim: int) -> Conditions:
        """The rules in use and the dropout masks of one step."""
        if not self.drops:
            return Conditions(self.rules_KR)
        return Conditions(self.rules_KR, dropout_masks(self.seed_K, self.step_K + step, self.dropout_K, sentences, dim, self.dtype))


def _fixed_schedule(classes: list[LengthClass]) -> list[tuple[LengthClass, int, int]]:
    """All batches of an epoch as (class, start, size), in one order for all slots and epochs, the classes well mixed."""
    batches, first = [], 0
    for length_class in classes:
        starts = itertools.accumulate(length_class.batches, initial=first)
        batches += [(length_class, start, size) for start, size in zip(starts, length_class.batches, strict=False)]
        first += len(length_class.sentences)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator_for("schedule")).tolist()]
