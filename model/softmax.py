"""The loss over the symbol table, the network's costliest part, in bounded memory and, where rows fit one chunk, without recomputation.

    scores = states @ table^T + bias;   surprise = -log softmax(scores)[gold];   loss = sum over rows of weight * surprise
    read = table[likeliest], with the gradient of softmax(scores) @ table (straight-through; Bengio et al. 2013)

Rows are processed in chunks through one scratch buffer: with fresh memory for every product, half of a training step on the CPU went into
page faults. Each row's weight in the loss is known in advance, so a chunk's gradient is computed while its scores are still in memory
(as in Hsu et al. 2024, "Liger Kernel", fused linear cross-entropy). Vectors that a later pass reads bring in a gradient that is known only
in the backward pass: for their group the probabilities are kept if one chunk holds them all, else recomputed.

Letters of the axes: K slots, N groups of rows with a loss each, M rows of a group, S symbols, D hidden_dim.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SCRATCH_PER_SLOT = 1 << 20


class Scratch:
    """Memory that is used again and again, by name; what was taken is valid until the next request for that name."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}
        self._taken: dict[str, int] = {}

    def take(self, name: str, like: Tensor, *size: int) -> Tensor:
        """An uninitialised tensor of this size, on the device and of the type of `like`."""
        count, held = int(torch.Size(size).numel()), self._held.get(name)
        if held is None or held.numel() < count or held.dtype != like.dtype or held.device != like.device:
            held = self._held[name] = torch.empty(count, dtype=like.dtype, device=like.device)
        self._taken[name] = self.times(name) + 1
        return held[:count].view(size)

    def times(self, name: str) -> int:
        """How often this name was taken."""
        return self._taken.get(name, 0)

    def last(self, name: str, *size: int) -> Tensor:
        """What was last taken under this name, with what has been put there."""
        return self._held[name][: int(torch.Size(size).numel())].view(size)


def _chunks(rows: int, symbols: int) -> list[slice]:
    step = max(1, min(rows, SCRATCH_PER_SLOT // symbols))  # the number of chunks must not grow with the slots
    return [slice(start, min(rows, start + step)) for start in range(0, rows, step)]


class _LossOverTable(torch.autograd.Function):
    """The groups' gradients are worked out at once, save the first's where it is read."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        table: Tensor,
        bias: Tensor,
        gold: Tensor,
        weights: Tensor,
        scratch: Scratch,
        lowered: Tensor | None,
        regress: bool,
        read: str,
    ) -> tuple[Tensor, Tensor | None]:
        slots, groups, rows, _ = states.shape
        chunks, losses, choices = _chunks(rows, table.shape[1]), [], []
        ctx.gradients = [_Gradients(table) for _ in range(groups)]
        for group, at in ((group, at) for group in range(groups) for at in chunks):
            later = bool(read) and group == 0
            here, weight, wanted = states[:, group, at], weights[:, group, at, None], gold[:, group, at, None]
            memory = scratch.take(read if later else "scores", here, slots, here.shape[1], table.shape[1])
            scores = torch.baddbmm(bias, here, table.transpose(1, 2), out=memory)
            if later:
                choices.append((scores if lowered is None else scores - lowered).argmax(2))
            logs = torch.log_softmax(scores, dim=-1, out=memory)
            loss, d_scores = (_regressed if regress else _surprise)(logs, wanted, weight, later)
            losses.append(loss)
            if not later:
                ctx.gradients[group].add(d_scores, here)
        total = losses if len(chunks) == 1 else [torch.stack(losses[g * len(chunks) :][: len(chunks)]).sum(0) for g in range(groups)]
        ctx.scratch, ctx.read, ctx.taken, ctx.regress = scratch, read, scratch.times(read), regress
        ctx.save_for_backward(states, table, bias, gold, weights)
        vectors = None
        if read:
            chosen = (choices[0] if len(choices) == 1 else torch.cat(choices, 1))[..., None]
            vectors = table.gather(1, chosen.expand(-1, -1, table.shape[2]))
        return torch.stack(total, 1), vectors

    @staticmethod
    def backward(ctx: Any, d_losses: Tensor, d_vectors: Tensor | None) -> tuple[Tensor | None, ...]:
        states, table, bias, gold, weights = ctx.saved_tensors
        found = []
        for group, gradients in enumerate(ctx.gradients):
            lift = d_losses[:, group, None, None]
            if group == 0 and ctx.read:
                d_vectors = torch.zeros_like(states[:, 0]) if d_vectors is None else d_vectors
                found.append(_read_on(ctx, states[:, 0], table, bias, gold[:, 0], weights[:, 0, :, None] * lift, d_vectors))
            else:
                found.append(tuple(each * lift for each in gradients.all()))
        d_states, d_table, d_bias = zip(*found, strict=True)
        stacked = d_states[0][:, None] if len(found) == 1 else torch.stack(d_states, 1)
        return stacked, _sum(d_table), _sum(d_bias), *(None,) * 6


def _sum(parts: tuple[Tensor, ...]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


class _Gradients:
    """The gradients of one group, added up chunk by chunk."""

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.d_states: list[Tensor] = []
        self.d_table: Tensor | None = None
        self.d_bias: Tensor | None = None

    def add(self, d_scores: Tensor, states: Tensor) -> None:
        """One chunk's."""
        self.d_states.append(torch.bmm(d_scores, self.table))
        turned = d_scores.transpose(1, 2)
        if self.d_table is None or self.d_bias is None:
            self.d_table, self.d_bias = torch.bmm(turned, states), d_scores.sum(1, keepdim=True)
        else:
            torch.baddbmm(self.d_table, turned, states, out=self.d_table)
            self.d_bias += d_scores.sum(1, keepdim=True)

    def all(self) -> tuple[Tensor, Tensor, Tensor]:
        """By the states, the table and the bias."""
        if self.d_table is None or self.d_bias is None:
            raise RuntimeError("gradients were asked for of no rows")
        d_states = self.d_states[0] if len(self.d_states) == 1 else torch.cat(self.d_states, 1)
        return d_states, self.d_table, self.d_bias


def _surprise(logs: Tensor, gold: Tensor, weight: Tensor, later: bool) -> tuple[Tensor, Tensor]:
    """The weighted surprise per slot, and its gradient with respect to the scores in place of `logs` (if `later`, only probabilities)."""
    minus = -weight
    loss = (logs.gather(2, gold) * minus).sum((1, 2))
    chances = logs.exp_()
    return loss, chances if later else chances.mul_(weight).scatter_add_(2, gold, minus)


def _regressed(logs: Tensor, gold: Tensor, weight: Tensor, later: bool) -> tuple[Tensor, Tensor]:
    """The weighted squared error of the expected id in place of the surprise."""
    chances = logs.exp_()
    ids, error = _error(chances, gold)
    loss = (error.square() * weight).sum((1, 2))
    return loss, chances if later else chances.mul_((ids - (error + gold)).mul_(2 * error * weight))


def _error(chances: Tensor, gold: Tensor) -> tuple[Tensor, Tensor]:
    ids = torch.arange(chances.shape[2], device=chances.device, dtype=chances.dtype)
    return ids, (chances @ ids)[..., None] - gold


def _read_on(
    ctx: Any, states: Tensor, table: Tensor, bias: Tensor, gold: Tensor, weight: Tensor, d_vectors: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the group that is read: those of its loss, each row weighted by `weight`, and those through `d_vectors`."""
    slots, rows, _ = states.shape
    gradients, chunks, scratch = _Gradients(table), _chunks(rows, table.shape[1]), ctx.scratch
    kept = len(chunks) == 1 and scratch.times(ctx.read) == ctx.taken
    for at in chunks:
        size = slots, states[:, at].shape[1], table.shape[1]
        chances = scratch.last(ctx.read, *size) if kept else torch.baddbmm(bias, states[:, at], table.transpose(1, 2)).softmax(2)
        wanted, heavy = gold[:, at, None], weight[:, at]
        pull = torch.bmm(d_vectors[:, at], table.transpose(1, 2), out=scratch.take("scores", states, *size))
        middle = torch.mul(pull, chances, out=scratch.take("pulled", states, *size)).sum(2, keepdim=True)
        if ctx.regress:
            ids, error = _error(chances, wanted)
            d_scores = pull.sub_(middle).add_((ids - (error + wanted)).mul_(2 * error * heavy)).mul_(chances)
        else:
            d_scores = pull.sub_(middle - heavy).mul_(chances).scatter_add_(2, wanted, -heavy)
        gradients.add(d_scores, states[:, at])
    return gradients.all()


def loss_over_table(
    states_KNMD: Tensor,
    table_KSD: Tensor,
    bias_KS: Tensor,
    gold_KNM: Tensor,
    weights_KNM: Tensor,
    scratch: Scratch,
    lowered_KS: Tensor | None = None,
    regress: bool = False,
    read: str = "",
) -> tuple[Tensor, Tensor | None]:
    """Each group's weighted sum of surprise at its gold symbols, `loss_KN` (nats), and the vectors of the first's likeliest, `vectors_KMD`.

    Args:
        weights_KNM: each row's weight; gets no gradient.
        lowered_KS: the part of the bias that is taken off again before the likeliest symbol is chosen.
        regress: takes the squared error of the expected symbol number instead of the surprise.
        read: the name of the scratch buffer to keep where a later pass reads the first group's likeliest vectors; if empty, these are None.
    """
    lowered = None if lowered_KS is None else lowered_KS[:, None]
    result: tuple[Tensor, Tensor | None] = _LossOverTable.apply(  # type: ignore[no-untyped-call]
        states_KNMD, table_KSD, bias_KS[:, None], gold_KNM, weights_KNM, scratch, lowered, regress, read
    )
    return result
