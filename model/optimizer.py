"""AdamW over K slots at once: every slot has its own learning rate, decay, clip norm, step count and schedule.

It also keeps an average of the values over about the last ninth of the steps so far. At any time this stands for what the values would be
if the learning rate were decayed now, so curves of trials with different rates can be compared before they end.

Works on the rows of a `ParameterStore`, so the number of operations does not grow with slots or parameters.
Loshchilov and Hutter 2019, "Decoupled weight decay regularization", algorithm 2; checked against `torch.optim.AdamW` in the tests. The
average: Shamir and Zhang 2013, "Stochastic gradient descent for non-smooth optimization", polynomial-decay averaging with eta = 8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from model.config import Hyperparameters
from model.parameters import ParameterStore

BETA1, BETA2, EPSILON = 0.9, 0.98, 1e-8
AVERAGE_ETA = 8


def learning_rate(hyperparameters: Hyperparameters, step: int, steps_an_epoch: int) -> float:
    """The rate of step 0, 1, ...: a linear rise over the warm-up, then half a cosine down to `final_lr` of the peak."""
    total = hyperparameters.epochs * steps_an_epoch
    rise = max(1.0, hyperparameters.warmup * total)
    if step + 1 < rise:
        return hyperparameters.lr * (step + 1) / rise
    progress = min(1.0, (step + 1 - rise) / max(1.0, total - rise))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return hyperparameters.lr * (hyperparameters.final_lr + (1 - hyperparameters.final_lr) * cosine)


def step_factors(slots: Sequence[tuple[Hyperparameters, int]], steps: int) -> Tensor:
    """What the steps of one epoch need, worked out beforehand for slots of given hyperparameters and steps made so far: `factors_E4K`.

    The rate, the corrections of both moments, and the weight of a step's values in their average; float64, on the CPU.
    """
    rows = range(steps)
    rates = [[learning_rate(hp, done + step, steps) for hp, done in slots] for step in rows]
    first = [[1 / (1 - BETA1 ** (done + step + 1)) for _, done in slots] for step in rows]
    second = [[1 / math.sqrt(1 - BETA2 ** (done + step + 1)) for _, done in slots] for step in rows]
    fresh = [[(AVERAGE_ETA + 1) / (done + step + 1 + AVERAGE_ETA) for _, done in slots] for step in rows]
    return torch.tensor([rates, first, second, fresh], dtype=torch.float64).transpose(0, 1)


def step_rows(store: ParameterStore, factors_4K: Tensor, decay_K: Tensor, clip_K: Tensor) -> Tensor:
    """One optimizer step for all slots from `store.gradient`; returns the gradient norm of each slot before clipping."""
    scratch = store.scratch
    squares_R = torch.mul(store.gradient, store.gradient, out=scratch).sum(1)
    norm_K = squares_R[store.slot_rows_KR].sum(1).sqrt()
    scale_K = (clip_K / norm_K).clamp(max=1.0)
    rate_K, correction1_K, correction2_K, fresh_K = factors_4K
    per_slot = torch.stack((scale_K, rate_K * correction1_K, correction2_K, rate_K * decay_K, fresh_K))
    scale_R1, stride_R1, correction_R1, shrink_R1, fresh_R1 = per_slot[:, store.row_slot_R, None]
    gradient = store.gradient.mul_(scale_R1)
    store.moment1.lerp_(gradient, 1 - BETA1)
    store.moment2.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    denominator = torch.sqrt(store.moment2, out=scratch).mul_(correction_R1).add_(EPSILON)
    store.values.mul_(1 - shrink_R1 * store.decays_R1)
    store.values.sub_(torch.div(store.moment1, denominator, out=denominator).mul_(stride_R1))
    store.averages.lerp_(store.values, fresh_R1)
    return norm_K
