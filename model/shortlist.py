"""The part of the symbol table that a training step looks at: what the batch holds, and a random sample of the rest.

Over thousands of symbols the softmax is most of a step. The sampled symbols stand for all that were left out: their scores are raised by
the logarithm of how many each stands for, so the normaliser is right in expectation (Bengio and Senecal 2008, importance
sampling). Evaluation always takes the whole table.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from model.layers import Parameters
from model.vocabulary import PAD

SHORTLIST = 512


@dataclass(frozen=True)
class Candidates:
    """The symbols among which a step's softmax decides, C of them (all S where nothing is left out)."""

    table_KCD: Tensor
    word_bias_KC: Tensor
    role_bias_KC: Tensor
    symbols_KC: Tensor | None = None
    raised_KC: Tensor | None = None
    """By how much the biases were raised, to be taken off again where the likeliest symbol is asked for."""
    place_KS: Tensor | None = None

    def places(self, ids_KM: Tensor) -> Tensor:
        """Where these symbols stand among the candidates."""
        return ids_KM if self.place_KS is None else self.place_KS.gather(1, ids_KM)

    def symbols(self, places_KM: Tensor) -> Tensor:
        """The inverse of `places`."""
        return places_KM if self.symbols_KC is None else self.symbols_KC.gather(1, places_KM)


def whole_table(p: Parameters) -> Candidates:
    """Nothing left out."""
    return Candidates(p["table"], p["word_bias"], p["role_bias"])


def shortlist_size(size: int, needed: int, symbols: int) -> int:
    """How many of `symbols` are looked at: `size`, more where so many may be needed (and the pad)."""
    return min(symbols, max(size, needed + 1))


def shortlist(p: Parameters, needed_KN: Tensor, chances_KS: Tensor, size: int) -> Candidates:
    """All of `needed_KN` and a sample of the rest, `size` symbols in all, more where the batch may hold more.

    Args:
        needed_KN: ids of symbols that must be there, repeats allowed.
        chances_KS: numbers in [0, 1) that decide who is sampled.
    """
    slots, symbols = chances_KS.shape
    size = shortlist_size(size, needed_KN.shape[1], symbols)
    if size == symbols:
        return whole_table(p)
    needed_KS = torch.zeros_like(chances_KS).scatter_(1, needed_KN, 1.0)
    needed_KS[:, PAD] = 1.0
    chosen_KC = (chances_KS + needed_KS).topk(size, dim=1).indices.sort(dim=1).values
    order_KC = torch.arange(size, device=chosen_KC.device).expand(slots, size)
    place_KS = torch.zeros(slots, symbols, dtype=torch.int64, device=chosen_KC.device).scatter_(1, chosen_KC, order_KC)
    number_K1 = needed_KS.sum(1, keepdim=True)
    stands_for_K1 = ((symbols - number_K1) / (size - number_K1)).log().to(p["table"].dtype)
    raise_KC = torch.where(needed_KS.gather(1, chosen_KC) > 0, 0.0, stands_for_K1)
    rows_KC = chosen_KC + torch.arange(slots, device=chosen_KC.device)[:, None] * symbols
    table_KCD = functional.embedding(rows_KC, p["table"].view(slots * symbols, -1))
    word_bias_KC, role_bias_KC = (p[name].gather(1, chosen_KC) + raise_KC for name in ("word_bias", "role_bias"))
    return Candidates(table_KCD, word_bias_KC, role_bias_KC, chosen_KC, raise_KC, place_KS)
