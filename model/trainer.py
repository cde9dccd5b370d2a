"""The fused trainer: K slots of one shape, each training its own trial; knows no trials, studies or verdicts.

load(slot, hyperparameters)   a new model into a slot, its neighbours untouched
train_epoch()                 one pass over the train split for all slots at once
evaluate(split)               component accuracy and the rest, per slot
snapshot(slot), restore(...)  everything a trial needs to go on, here or in another slot or trainer
unload(slot), resize(slots)   empty a slot; keep some slots in a trainer of another width
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.batches import Batches, Draw
from model.config import COMPONENTS, MODEL_VERSION, Hyperparameters, ModelShape
from model.corpus import Corpus, Split
from model.errors import DeviceError
from model.evaluation import Evaluation, evaluate_split, relation_kinds
from model.losses import Batch, ComponentLosses
from model.network import MASKED_SITES, Conditions, SymmetricNetwork, dropout_masks
from model.noise import uniform
from model.optimizer import StepFactors, step_rows
from model.parameters import ParameterStore
from model.probe import PROBED_BATCHES, Probe, answered, figures, moved, pulls
from model.shortlist import SHORTLIST
from model.tally import StoryTally, tally_split

AHEAD = 8
"""For so many steps random numbers are drawn at once."""


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch of training said of one slot. Losses in nats (squared ids under `mse`), the norm before clipping."""

    epoch: int
    loss: float
    losses: dict[str, float]
    gradient_norm: float


@dataclass(frozen=True)
class Snapshot:
    """One slot's whole state: rows of values, moments and averages, how far it is, and its settings."""

    layout: str
    hyperparameters: Hyperparameters
    epoch: int
    step: int
    rows: tuple[Tensor, ...]


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
        shortlist: int = SHORTLIST,
    ) -> None:
        """K free slots.

        Args:
            shortlist: about how many symbols a step's softmax looks at where the table has more than four times as many.
        """
        self.shape, self.corpus = shape, corpus
        self.device = find_device(device) if isinstance(device, str) else device
        self.network = SymmetricNetwork(shape, corpus.vocabulary, corpus.max_tokens, self.device)
        self.store = ParameterStore(self.network.specs(), slots, self.device, dtype, MODEL_VERSION)
        self.losses = ComponentLosses(self.network, shape.proposition_loss, shortlist)
        self.seconds = {"training": 0.0, "evaluating": 0.0}
        self._slots: list[_Slot | None] = [None] * slots
        self._splits: dict[str, Split] = {}
        self._batches = Batches(corpus, self._split("train"), shape.batch_size, shape.max_propositions, self.network, dtype)
        self._kinds = relation_kinds(corpus.vocabulary)
        self._shortens = len(corpus.vocabulary) > 4 * shortlist and shape.proposition_loss != "mse"

    @property
    def slots(self) -> int:
        """How many slots there are, free ones included."""
        return len(self._slots)

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
        self._slots[slot] = _Slot(hyperparameters)

    def unload(self, slot: int) -> None:
        """Empties a slot."""
        self.store.write(slot, torch.zeros_like(self.store.read(slot)[0]))
        self._slots[slot] = None

    def snapshot(self, slot: int) -> Snapshot:
        """The slot's whole state, on the CPU."""
        state = self._state(slot)
        rows = tuple(rows.cpu() for rows in self.store.read(slot))
        return Snapshot(self.store.layout, state.hyperparameters, state.epoch, state.step, rows)

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
        self.store = ParameterStore(self.network.specs(), slots, self.device, self.store.dtype, MODEL_VERSION)
        self._slots = [None] * slots
        for new, (state, rows) in enumerate(kept):
            self.store.write(new, *rows)
            self._slots[new] = state

    def parameters(self, slot: int) -> dict[str, Tensor]:
        """The slot's averaged parameters by name, on the CPU."""
        return {name: value.cpu() for name, value in self.store.named(self.store.read(slot)[-1]).items()}

    def train_epoch(self) -> list[EpochRecord | None]:
        """Trains all slots for one epoch; None for a free slot. Reads the device once, at the end."""
        started = time.perf_counter()
        rows = self._steps(None).cpu().tolist()
        self.seconds["training"] += time.perf_counter() - started
        return [self._record(slot, [row[slot] for row in rows]) for slot in range(self.slots)]

    def rehearse(self, steps: int) -> float:
        """Seconds a step of an epoch's longest, after one that is not timed; the slots' numbers are worth nothing afterwards."""
        self._steps(1).cpu()
        started = time.perf_counter()
        self._steps(steps).cpu()
        return (time.perf_counter() - started) / steps

    def _steps(self, count: int | None) -> Tensor:
        """The steps of an epoch, or so many of its longest; sums of what each gives, `sums_5K`."""
        states = [state or _Slot(Hyperparameters()) for state in self._slots]
        settings = _SlotTensors(states, self.store)
        factors = StepFactors.of([(state.hyperparameters, state.step) for state in states], self.steps_an_epoch, self.store)
        cycles = bool((settings.weights_4K[2:] != 0).any())
        sums_5K = torch.zeros(5, self.slots, device=self.device, dtype=self.store.dtype)
        batches = self._batches.epoch(settings.draw)
        if count is not None:
            batches = sorted(batches, key=lambda batch: -batch.tokens_KBT.shape[2])[:count]
        for step, batch in enumerate(batches):
            sums_5K += self._step(step, batch, settings, factors, cycles)
        return sums_5K

    def _step(self, step: int, batch: Batch, settings: _SlotTensors, factors: StepFactors, cycles: bool) -> Tensor:
        """One optimizer step of all slots; the losses times the batch's size and the gradient norms, `sums_5K`."""
        size = batch.tokens_KBT.shape[1]
        conditions, sampled_KS = settings.chances(step, size, self.shape, self.network.symbols if self._shortens else 0)
        batch = dataclasses.replace(batch, chances_KS=sampled_KS)
        p = self.network.with_tables(self.store.views, train=True)
        losses_4K = torch.where(settings.asked_4K, self.losses(p, batch, conditions, cycles, self.store.again), settings.none)
        self._backward((losses_4K * settings.weights_4K).sum())
        norm_K = step_rows(self.store, factors, step, settings.decay_K, settings.clip_K)
        return torch.cat((losses_4K.detach() * size, norm_K[None]))

    def probe(self, slot: int) -> Probe:
        """Looks into one slot's averaged parameters; changes nothing."""
        state = self._state(slot)
        leaves = {name: value.detach().clone().requires_grad_() for name, value in self.store.average_views.items()}
        draw = _SlotTensors([each or _Slot(Hyperparameters()) for each in self._slots], self.store).draw
        batches = self._batches.epoch(draw)[:PROBED_BATCHES]
        weighted, norms = pulls(self.losses, leaves, batches, state.hyperparameters.loss_weights, slot)
        with torch.no_grad():
            p = self.network.with_tables(leaves)
            train, valid = (figures(self.losses, p, self._split(name), self._kinds, slot) for name in ("train", "valid"))
            answers = answered(self.losses, p, self._split("valid"), slot)
        start = self.store.named(self.store.initial_rows(state.hyperparameters.seed, state.hyperparameters.num_rules))
        return Probe(weighted, norms, moved(start, self.store.named(self.store.read(slot)[-1])), train, valid, answers)

    def evaluate(self, split: str = "valid") -> list[Evaluation | None]:
        """Evaluates the averaged parameters of all slots on a split; None for a free slot."""
        started = time.perf_counter()
        parameters = self.network.with_tables(self.store.average_views)
        evaluations = evaluate_split(self.network, parameters, self._split(split), self._kinds)
        self.seconds["evaluating"] += time.perf_counter() - started
        return [evaluation if state else None for evaluation, state in zip(evaluations, self._slots, strict=True)]

    def tally(self, split: str = "test") -> list[StoryTally | None]:
        """What the averaged parameters of all slots get right on a split, story by story; None for a free slot."""
        started = time.perf_counter()
        tallies = tally_split(self.network, self.network.with_tables(self.store.average_views), self._split(split))
        self.seconds["evaluating"] += time.perf_counter() - started
        return [tally if state else None for tally, state in zip(tallies, self._slots, strict=True)]

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

    def _backward(self, loss: Tensor) -> None:
        """The gradient of the leaves and, added to it, that of what was computed a second time from leaves of its own."""
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
        sentences = sum(size for _, _, size in self._batches.schedule)
        losses = {name: total / sentences for name, total in zip(COMPONENTS, sums[:4], strict=True)}
        weights = state.hyperparameters.loss_weights
        loss = sum(getattr(weights, name) * value for name, value in losses.items() if getattr(weights, name))
        return EpochRecord(state.epoch, loss, losses, sums[4] / self.steps_an_epoch)


class _SlotTensors:
    """The slots' settings as tensors of length K."""

    def __init__(self, states: list[_Slot], store: ParameterStore) -> None:
        hps = [state.hyperparameters for state in states]

        def tensor(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64).to(store.device, store.dtype)

        self.weights_4K = torch.stack([tensor([getattr(hp.loss_weights, name) for hp in hps]) for name in COMPONENTS])
        self.asked_4K = self.weights_4K != 0  # what is not asked for does not count, though a neighbour may have it computed
        self.none = self.weights_4K.new_zeros(())
        self.decay_K, self.clip_K = tensor([hp.weight_decay for hp in hps]), tensor([hp.clip_norm for hp in hps])
        self.dropout_K = tensor([hp.dropout for hp in hps])
        seeds, epochs = tuple(hp.seed for hp in hps), tuple(state.epoch for state in states)
        self.draw = Draw(seeds, epochs, tuple(hp.word_swap for hp in hps), tuple(hp.word_dropout for hp in hps))
        self.drops = any(hp.dropout for hp in hps)
        self.seed_K = torch.tensor([hp.seed for hp in hps], device=store.device)
        self.step_K = torch.tensor([state.step for state in states], device=store.device)
        self._sampled_AKS, self._keep_AKSBD = torch.zeros(0), torch.zeros(0)

    def chances(self, step: int, sentences: int, shape: ModelShape, symbols: int) -> tuple[Conditions, Tensor | None]:
        """The dropout masks of one step and what its shortlist samples by (None without `symbols`); drawn for `AHEAD` steps at a time."""
        if step % AHEAD == 0:
            self._draw_ahead(step, shape, symbols)
        keep_KSBD = self._keep_AKSBD[step % AHEAD, :, :, :sentences] if self.drops else None
        return Conditions(keep_KSBD), self._sampled_AKS[step % AHEAD] if symbols else None

    def _draw_ahead(self, step: int, shape: ModelShape, symbols: int) -> None:
        slots, masked = len(self.seed_K), (MASKED_SITES, shape.batch_size, shape.hidden_dim)
        count = symbols + (math.prod(masked) if self.drops else 0)  # the symbols stand first, for neighbours decide whether masks are drawn
        steps_AK = self.step_K + torch.arange(step, step + AHEAD, device=self.step_K.device)[:, None]
        drawn_AKN = uniform(self.seed_K.repeat(AHEAD), steps_AK.flatten(), count, stream=1).view(AHEAD, slots, count)
        self._sampled_AKS, chances_AKN = drawn_AKN[..., :symbols], drawn_AKN[..., symbols:]
        if self.drops:
            self._keep_AKSBD = dropout_masks(chances_AKN, self.dropout_K).view(AHEAD, slots, *masked)
