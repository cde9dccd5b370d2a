"""A trained model looked into: what each loss component weighs and pulls, what has moved, what it answers. Numbers only, no judgement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.config import COMPONENTS, ROLES, LossWeights
from model.corpus import Split
from model.evaluation import evaluate_split, parse_ids
from model.layers import Parameters
from model.losses import Batch, ComponentLosses
from model.network import NO_DROPOUT
from model.vocabulary import PAD

MOST_SENTENCES = 2000
PROBED_BATCHES = 8


class Answered(NamedTuple):
    """The most frequent answer, its share of all answers, and the share of the most frequent gold word."""

    word: str
    share: float
    gold: float


@dataclass(frozen=True)
class Probe:
    """One model at one moment. Losses in nats (squared ids under `mse`), weighted as they were trained; figures as fractions."""

    losses: Mapping[str, float]
    """Each component times its weight."""
    gradients: Mapping[str, float]
    """The norm of each weighted component's mean gradient over some batches of train."""
    moved: Mapping[str, float]
    """By part of the network: how far its numbers lie from where they started, relative to their own size there."""
    train: Mapping[str, Any]
    """Figures on at most `MOST_SENTENCES` sentences of train."""
    valid: Mapping[str, Any]
    answers: Mapping[str, Answered]
    """By role, on the validation split."""


def pulls(
    losses: ComponentLosses, leaves: Mapping[str, Tensor], batches: Sequence[Batch], weights: LossWeights, slot: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Each component's weighted loss and the norm of its mean gradient for one slot, without dropout."""
    sums = dict.fromkeys(COMPONENTS, 0.0)
    totals: dict[str, list[Tensor]] = {}
    names = list(leaves)
    for batch in batches:
        components_4K = losses(losses.network.with_tables(leaves), batch, NO_DROPOUT)
        for number, component in enumerate(COMPONENTS):
            weighted = components_4K[number, slot] * getattr(weights, component)
            sums[component] += float(weighted.detach()) / len(batches)
            found = _gradients(weighted, [leaves[name] for name in names])
            held = totals.get(component)
            totals[component] = [g[slot] for g in found] if held is None else [a + g[slot] for a, g in zip(held, found, strict=True)]
    norms = {name: float(torch.stack([g.square().sum() for g in totals[name]]).sum().sqrt()) / len(batches) for name in COMPONENTS}
    return sums, norms


def _gradients(loss: Tensor, leaves: list[Tensor]) -> Sequence[Tensor]:
    if not loss.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return torch.autograd.grad(loss, leaves, retain_graph=True, materialize_grads=True, allow_unused=True)


def moved(start: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> dict[str, float]:
    """By part of the network (`symbols`, `parse.first`, ...), for all parts that did not start at zero."""
    squares: dict[str, list[float]] = {}
    for name, value in start.items():
        part = squares.setdefault(".".join(name.split(".")[:2]), [0.0, 0.0])
        part[0] += float((now[name] - value).square().sum())
        part[1] += float(value.square().sum())
    return {name: (change / size) ** 0.5 for name, (change, size) in squares.items() if size > 0}


def answered(losses: ComponentLosses, p: Parameters, split: Split, slot: int) -> dict[str, Answered]:
    """What one slot answers most often on a split, by role."""
    said: list[Counter[int]] = [Counter() for _ in ROLES]
    for rows in torch.split(torch.arange(len(split), device=split.tokens_NT.device), 256):
        tokens = split.tokens_NT[rows, : losses.network.max_tokens].expand(p["table"].shape[0], -1, -1)
        answer = parse_ids(losses.network, p, tokens, split.unknowns)
        for role, count in enumerate(said):
            count.update(answer.propositions_KBP3[slot, ..., role][answer.filled_KBP[slot]].tolist())
    filled = split.propositions_NQ3[..., 0] != PAD
    found = {}
    for role, (name, count) in enumerate(zip(ROLES, said, strict=True)):
        gold = split.propositions_NQ3[..., role][filled]
        most, times = count.most_common(1)[0] if count else (PAD, 0)
        share = times / max(1, sum(count.values()))
        found[name] = Answered(split.unknowns.word(most), share, float(gold.bincount().max()) / max(1, len(gold)))
    return found


def figures(losses: ComponentLosses, p: Parameters, split: Split, kinds: Mapping[str, int], slot: int) -> dict[str, Any]:
    """One slot's figures on a split."""
    return evaluate_split(losses.network, p, split, kinds)[slot].figures
