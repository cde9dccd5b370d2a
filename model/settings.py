"""What K slots ask of an epoch: their settings side by side, worked out on the CPU and sent to the device before the first step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from model.batches import Draw
from model.config import COMPONENTS, Hyperparameters, ModelShape
from model.devices import sent
from model.losses import Batch
from model.network import MASKED_SITES, dropout_masks
from model.noise import uniform
from model.optimizer import step_factors
from model.parameters import ParameterStore

AHEAD = 8
"""For so many steps random numbers are drawn at once."""


@dataclass
class Occupant:
    """What is in a slot: whose settings, and how far it is."""

    hyperparameters: Hyperparameters
    epoch: int = 0
    step: int = 0


class StepKind(NamedTuple):
    """What a step depends on beside its inputs."""

    facts: int
    """So many propositions a batch may have."""
    cycles: bool
    drops: bool
    """Whether there are dropout masks."""
    shortens: bool
    """Whether its softmax looks at a shortlist of the symbols."""


class StepNumbers(NamedTuple):
    """A step's numbers, K of each: the components' weights (4, K), decay, clip norm, and the optimizer's `step_factors` (4, K)."""

    weights_4K: Tensor
    decay_K: Tensor
    clip_K: Tensor
    factors_4K: Tensor

    @classmethod
    def of(cls, numbers_VK: Tensor) -> StepNumbers:
        """Taken apart."""
        return cls(numbers_VK[:4], numbers_VK[4], numbers_VK[5], numbers_VK[6:])


class EpochSettings:
    """The settings of K slots for the steps of one epoch."""

    def __init__(self, states: Sequence[Occupant], steps: int, store: ParameterStore) -> None:
        hps = [state.hyperparameters for state in states]
        rows = [[getattr(hp.loss_weights, name) for hp in hps] for name in COMPONENTS]
        rows += [[hp.weight_decay for hp in hps], [hp.clip_norm for hp in hps]]
        own_EVK = torch.tensor(rows, dtype=torch.float64).expand(steps, -1, -1)
        factors_E4K = step_factors([(state.hyperparameters, state.step) for state in states], steps)
        self._numbers_EVK = sent(torch.cat((own_EVK, factors_E4K), dim=1).to(store.dtype), store.device)
        self.cycles = any(hp.loss_weights.cycle_forward or hp.loss_weights.cycle_backward for hp in hps)
        self.drops = any(hp.dropout for hp in hps)
        self._dropout_K = sent(torch.tensor([hp.dropout for hp in hps], dtype=store.dtype), store.device)
        counted = [[hp.seed for hp in hps], [state.step for state in states], [state.epoch for state in states]]
        self._seed_K, self._step_K, epoch_K = sent(torch.tensor(counted), store.device)
        self.draw = Draw(
            self._seed_K,
            epoch_K,
            tuple((hp.seed, state.epoch) for hp, state in zip(hps, states, strict=True)),
            tuple(hp.word_swap for hp in hps),
            tuple(hp.word_dropout for hp in hps),
        )
        self._sampled_AKS, self._keep_AKSBD = torch.zeros(0), torch.zeros(0)

    def step(self, number: int, batch: Batch, shape: ModelShape, symbols: int) -> tuple[list[Tensor], StepKind]:
        """The tensors of one step (numbers, batch, dropout masks, for a shortlist a random number for each of `symbols`), and its kind."""
        if number % AHEAD == 0:
            self._draw_ahead(number, shape, symbols)
        keep_KSBD = [self._keep_AKSBD[number % AHEAD, :, :, : batch.tokens_KBT.shape[1]]] if self.drops else []
        sampled_KS = [self._sampled_AKS[number % AHEAD]] if symbols else []
        kind = StepKind(batch.facts, self.cycles, self.drops, symbols > 0)
        return [self._numbers_EVK[number], *batch.tensors(), *keep_KSBD, *sampled_KS], kind

    def _draw_ahead(self, step: int, shape: ModelShape, symbols: int) -> None:
        slots, masked = len(self._seed_K), (MASKED_SITES, shape.batch_size, shape.hidden_dim)
        count = symbols + (math.prod(masked) if self.drops else 0)  # the symbols stand first, for neighbours decide whether masks are drawn
        steps_AK = self._step_K + torch.arange(step, step + AHEAD, device=self._step_K.device)[:, None]
        drawn_AKN = uniform(self._seed_K.repeat(AHEAD), steps_AK.flatten(), count, stream=1).view(AHEAD, slots, count)
        self._sampled_AKS, chances_AKN = drawn_AKN[..., :symbols], drawn_AKN[..., symbols:]
        if self.drops:
            self._keep_AKSBD = dropout_masks(chances_AKN, self._dropout_K).view(AHEAD, slots, *masked)
