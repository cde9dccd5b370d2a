"""Layers over K models at once: each weight has a leading slot axis, each product is one batched product for all slots.

Letters of the axes: K slots, B sentences, T tokens, P places for propositions, R rules, D hidden_dim, H half of it, I/O in and out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model.parameters import ParameterSpec

Parameters = Mapping[str, Tensor]
EPSILON = 1e-5
ABSENT = -1e30  # added to a score it makes the softmax exactly 0; finite, so that a row of absent ones is no NaN


def linear(x: Tensor, weight_KIO: Tensor, bias_KO: Tensor | None = None) -> Tensor:
    """`x_K...I` times each slot's weight: `y_K...O`."""
    slots, *middle, width = x.shape
    rows = x.reshape(slots, -1, width)
    y = torch.bmm(rows, weight_KIO) if bias_KO is None else torch.baddbmm(bias_KO[:, None, :], rows, weight_KIO)
    return y.view(slots, *middle, -1)


def normalise(x: Tensor) -> Tensor:
    """Layer normalisation without gain or bias: the next weight absorbs both."""
    return functional.layer_norm(x, x.shape[-1:])


def weight(name: str, fan_in: int, fan_out: int, gain: float = 1.0) -> ParameterSpec:
    """A matrix whose output has about the variance `gain` squared for inputs of variance one."""
    return ParameterSpec(name, (fan_in, fan_out), std=gain / math.sqrt(fan_in))


def offset(name: str, *size: int, mean: float | tuple[float, ...] = 0.0) -> ParameterSpec:
    """A parameter that starts at given values and does not decay."""
    return ParameterSpec(name, size, mean=mean, decays=False)


def convolution_specs(name: str, dim: int, reach: int = 1) -> list[ParameterSpec]:
    """The parameters of `convolve` over each place and `reach` places to each side."""
    width = 2 * reach + 1
    return [weight(f"{name}.in", width * dim, dim), offset(f"{name}.in_bias", dim), weight(f"{name}.out", dim, dim, 0.5)]


class _Convolve(torch.autograd.Function):
    """Written out by hand: half the operations that autograd would take."""

    @staticmethod
    def forward(
        ctx: Any,
        x_KBTD: Tensor,
        mask_KBT1: Tensor,
        keep_KB1D: Tensor | None,
        weight_in: Tensor,
        bias_in: Tensor,
        weight_out: Tensor,
        turned: Tensor | None,
    ) -> Tensor:
        dim = x_KBTD.shape[3]
        u, mean, rstd = torch.native_layer_norm(x_KBTD, (dim,), None, None, EPSILON)
        windows = _windows(u.mul_(mask_KBT1), weight_in.shape[1] // dim)
        before = torch.baddbmm(bias_in[:, None], windows, weight_in)
        hidden = functional.gelu(before)
        if keep_KB1D is not None:
            hidden.view(x_KBTD.shape).mul_(keep_KB1D)
        ctx.save_for_backward(x_KBTD, mask_KBT1, keep_KB1D, weight_in, weight_out, turned, mean, rstd, windows, before, hidden)
        return torch.baddbmm(x_KBTD.reshape(hidden.shape), hidden, weight_out).view(x_KBTD.shape)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        x, mask, keep, weight_in, weight_out, turned, mean, rstd, windows, before, hidden = ctx.saved_tensors
        slots, sentences, places, dim = x.shape
        d_out = d_y.reshape(slots, sentences * places, dim)
        d_hidden = torch.bmm(d_out, weight_out.transpose(1, 2))
        if keep is not None:
            d_hidden.view(x.shape).mul_(keep)
        d_before = torch.ops.aten.gelu_backward(d_hidden, before)
        d_weight_out = torch.bmm(hidden.transpose(1, 2), d_out)
        d_weight_in = torch.bmm(windows.transpose(1, 2), d_before)
        width = weight_in.shape[1] // dim
        turned = turn(weight_in) if turned is None else turned
        d_u = torch.bmm(_windows(d_before.view(x.shape), width), turned).view(x.shape).mul_(mask)
        d_x, _, _ = torch.ops.aten.native_layer_norm_backward(d_u, x, [dim], mean, rstd, None, None, [True, False, False])
        return d_x.add_(d_y), None, None, d_weight_in, d_before.sum(1), d_weight_out, None


def turn(weight_KWO: Tensor) -> Tensor:
    """A convolution's weight as its backward pass takes it: the other way round along the sentence and from out to in."""
    slots, width, dim = weight_KWO.shape
    return weight_KWO.view(slots, width // dim, dim, dim).flip(1).transpose(2, 3).contiguous().view(slots, width, dim)


def _windows(u_KBTD: Tensor, width: int) -> Tensor:
    """Each place with its neighbours, zeros beyond the ends: `windows_KM(WD)`, M = BT."""
    slots, sentences, places, dim = u_KBTD.shape
    reach = width // 2
    padded = functional.pad(u_KBTD, (0, 0, reach, reach))
    windows = padded.as_strided((slots, sentences, places, width * dim), (*padded.stride()[:3], 1))
    return windows.contiguous().view(slots, sentences * places, width * dim)


def convolve(p: Parameters, name: str, x_KBTD: Tensor, mask_KBT1: Tensor, keep_KB1D: Tensor | None) -> Tensor:
    """A residual convolution over each place and its neighbours, of which the masked are 0: one product for all places."""
    weights = p[f"{name}.in"], p[f"{name}.in_bias"], p[f"{name}.out"], p.get(f"{name}.turned")
    y: Tensor = _Convolve.apply(x_KBTD, mask_KBT1, keep_KB1D, *weights)  # type: ignore[no-untyped-call]
    return y


def rule_specs(name: str, dim: int, rules: int) -> list[ParameterSpec]:
    """The parameters of the reversible rules: for each half, what a rule looks for in the other and what it then adds, of rank dim / 8."""
    half, rank = dim // 2, max(2, dim // 8)
    specs = []
    for side in ("first", "second"):
        specs += [
            ParameterSpec(f"{name}.{side}.down", (half, rules, rank), std=1 / math.sqrt(half), rule_axis=1),
            ParameterSpec(f"{name}.{side}.up", (rules, rank, half), std=0.125 / math.sqrt(rank), rule_axis=0),
        ]
    return specs


def _fire(p: Parameters, name: str, half_KMH: Tensor, other_KMH: Tensor, sign: int) -> Tensor:
    """One half with what the rules add to it or take from it, having read the other. A rule of zeros is none and is never changed."""
    down, up = p[f"{name}.down"], p[f"{name}.up"]
    slots, width, rules, rank = down.shape
    hidden = functional.gelu(torch.bmm(normalise(other_KMH), down.view(slots, width, rules * rank)))
    return torch.baddbmm(half_KMH, hidden, up.view(slots, rules * rank, width), alpha=sign)


def apply_rules(p: Parameters, name: str, x: Tensor) -> Tensor:
    """From text to meaning: additive couplings (Dinh et al. 2015, NICE, eq. 4), each half changed by rules that read the other."""
    first, second = x.reshape(x.shape[0], -1, x.shape[-1]).chunk(2, dim=-1)
    first = _fire(p, f"{name}.first", first, second, -1)
    second = _fire(p, f"{name}.second", second, first, -1)
    return torch.cat((first, second), -1).view(x.shape)


def invert_rules(p: Parameters, name: str, x: Tensor) -> Tensor:
    """From meaning to text: exactly undoes `apply_rules` with the same parameters."""
    first, second = x.reshape(x.shape[0], -1, x.shape[-1]).chunk(2, dim=-1)
    second = _fire(p, f"{name}.second", second, first, 1)
    first = _fire(p, f"{name}.first", first, second, 1)
    return torch.cat((first, second), -1).view(x.shape)


def lookup(table_KND: Tensor, rows: Tensor) -> Tensor:
    """Rows of the slots' tables, numbered through over the slots: `rows_K...` to vectors `K...D`."""
    return functional.embedding(rows, table_KND.reshape(-1, table_KND.shape[2]))


def read_from(scores: Tensor, values: Tensor) -> Tensor:
    """Attention that was scored by hand: `scores_KBQT` and `values_KBTD` give `read_KBQD`."""
    slots, sentences, queries, places = scores.shape
    weights = torch.softmax(scores, dim=-1).view(slots * sentences, queries, places)
    return torch.bmm(weights, values.contiguous().view(slots * sentences, places, -1)).view(slots, sentences, queries, -1)


def match(queries_KBQD: Tensor, keys_KBTD: Tensor, offset_KBQT: Tensor) -> Tensor:
    """Scaled products of queries with keys and what is added to them: `scores_KBQT`."""
    slots, sentences, queries, dim = queries_KBQD.shape
    places = keys_KBTD.shape[2]
    keys = keys_KBTD.reshape(slots * sentences, places, dim).transpose(1, 2)
    offset = offset_KBQT.view(slots * sentences, -1, places)
    scores = torch.baddbmm(offset, queries_KBQD.reshape(slots * sentences, queries, dim), keys, alpha=dim**-0.5)
    return scores.view(slots, sentences, queries, places)


def absent(there_x: Tensor) -> Tensor:
    """What is added to a score: 0 where there is something (1), ABSENT where there is nothing (0)."""
    return torch.rsub(there_x, ABSENT, alpha=ABSENT)
