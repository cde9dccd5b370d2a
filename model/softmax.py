"""The softmax over the symbol table, the most expensive place of the network, without ever keeping what is as large as the table.

    scores = states @ table^T + bias;   surprise = -log softmax(scores)[gold];   mean = softmax(scores) @ values

Rows are worked off in chunks through one scratch memory; the backward pass computes the scores again instead of keeping them
(as in Wijmans et al. 2025, "Cut your losses in large-vocabulary language models"). With fresh memory for every product, half of a
training step on the CPU went into page faults.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

SCRATCH_PER_SLOT = 1 << 20


class Scratch:
    """Memory that is used again and again; two pieces at a time, each valid until the next request for it."""

    def __init__(self) -> None:
        self._pieces: dict[int, Tensor] = {}

    def take(self, piece: int, like: Tensor, *size: int) -> Tensor:
        """An uninitialised tensor of this size, on the device and of the type of `like`."""
        count = int(torch.Size(size).numel())
        held = self._pieces.get(piece)
        if held is None or held.numel() < count or held.dtype != like.dtype or held.device != like.device:
            held = self._pieces[piece] = torch.empty(count, dtype=like.dtype, device=like.device)
        return held[:count].view(size)


def _chunks(states_KMD: Tensor, symbols: int) -> Iterator[slice]:
    rows = states_KMD.shape[1]
    step = max(1, min(rows, SCRATCH_PER_SLOT // symbols))  # the number of chunks must not grow with the slots
    return (slice(start, min(rows, start + step)) for start in range(0, rows, step))


def _log_softmax(states: Tensor, table_KSD: Tensor, bias: Tensor, scratch: Scratch) -> Tensor:
    slots, rows, _ = states.shape
    scores = scratch.take(0, states, slots, rows, table_KSD.shape[1])
    torch.baddbmm(bias, states, table_KSD.transpose(1, 2), out=scores)
    return torch.log_softmax(scores, dim=-1, out=scores)


class _SoftmaxOverTable(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        table: Tensor,
        bias: Tensor,
        gold: Tensor,
        values: Tensor | None,
        scratch: Scratch,
        raised: Tensor | None,
        hard: bool,
    ) -> tuple[Tensor, Tensor | None]:
        surprise = torch.empty(gold.shape, dtype=states.dtype, device=states.device)
        means = None if values is None else states.new_empty(*gold.shape, values.shape[2])
        choices = torch.empty_like(gold) if hard else None
        for rows in _chunks(states, table.shape[1]):
            logs = _log_softmax(states[:, rows], table, bias, scratch)
            torch.gather(logs, 2, gold[:, rows, None], out=surprise[:, rows, None])
            if choices is not None:
                torch.argmax(logs if raised is None else logs - raised[:, None], 2, out=choices[:, rows])
            if values is not None and means is not None:
                torch.bmm(logs.exp_(), values, out=means[:, rows])
        ctx.scratch = scratch
        ctx.save_for_backward(states, table, bias, gold, values, means)
        if values is None or choices is None:
            return surprise.neg_(), means
        return surprise.neg_(), values.gather(1, choices[..., None].expand(-1, -1, values.shape[2]))

    @staticmethod
    def backward(ctx: Any, d_surprise: Tensor, d_means: Tensor | None) -> tuple[Tensor | None, ...]:
        states, table, bias, gold, values, means = ctx.saved_tensors
        values = None if d_means is None else values
        d_states, d_table = torch.empty_like(states), torch.zeros_like(table)
        d_bias = torch.zeros_like(bias)
        d_values = None if values is None or not ctx.needs_input_grad[4] else torch.zeros_like(values)
        for rows in _chunks(states, table.shape[1]):
            chances = _log_softmax(states[:, rows], table, bias, ctx.scratch).exp_()
            if d_values is not None and d_means is not None:
                torch.baddbmm(d_values, chances.transpose(1, 2), d_means[:, rows], out=d_values)
            lift = d_surprise[:, rows, None]
            if values is not None and d_means is not None:
                expected = (d_means[:, rows] * means[:, rows]).sum(2, keepdim=True)
                pull = ctx.scratch.take(1, states, *chances.shape)
                torch.bmm(d_means[:, rows], values.transpose(1, 2), out=pull)
                d_scores = chances.mul_(pull.add_(lift - expected))
            else:
                d_scores = chances.mul_(lift)
            d_scores.scatter_add_(2, gold[:, rows, None], -lift)
            d_states[:, rows] = torch.bmm(d_scores, table)
            torch.baddbmm(d_table, d_scores.transpose(1, 2), states[:, rows], out=d_table)
            d_bias += d_scores.sum(1, keepdim=True)
        return d_states, d_table, d_bias, None, d_values, None, None, None


def softmax_over_table(
    states_KMD: Tensor,
    table_KSD: Tensor,
    bias_KS: Tensor,
    gold_KM: Tensor,
    values_KSV: Tensor | None,
    scratch: Scratch,
    raised_KS: Tensor | None = None,
    hard: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The surprise at the gold symbols (`surprise_KM`, nats) and, where there are values, their mean (`means_KMV`).

    With `hard` the value of the likeliest symbol stands in the mean's place; its gradient is the mean's (the straight-through estimator,
    Bengio et al. 2013). `raised_KS` is what in `bias_KS` does not count for which is the likeliest.
    """
    result: tuple[Tensor, Tensor | None] = _SoftmaxOverTable.apply(  # type: ignore[no-untyped-call]
        states_KMD, table_KSD, bias_KS[:, None], gold_KM, values_KSV, scratch, raised_KS, hard
    )
    return result
