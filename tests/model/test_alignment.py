"""What the alignment asks of a parser's reads and counts."""

import math

import pytest
import torch
from torch import Tensor

from model.alignment import alignment_loss
from model.network import Parsed

TOKENS = torch.tensor([[[5, 6, 7, 5, 0]]])
"""A sentence of four words; the second (6) is inflected of 9, the fourth is the first again."""
BASES = torch.tensor([[[0, 9, 0, 0, 0]]])
PROPOSITIONS = torch.tensor([[[[9, 2, 9], [7, 3, 5], [0, 0, 0]]]])
"""9 is read from the second token, 7 from the third, 5 from the first or fourth; relations 2 and 3 stand nowhere."""


def parsed(looks: Tensor, counts: list[float]) -> Parsed:
    """A parse with these reads (three places, four reads, five tokens)."""
    return Parsed(torch.zeros(1, 1, 3, 3, 2), torch.zeros(1, 1, 3), looks, torch.tensor([[counts]]))


def loss_of(looks: Tensor, counts: list[float]) -> float:
    """The loss of these reads and counts."""
    return float(alignment_loss(parsed(looks, counts), TOKENS, BASES, PROPOSITIONS))


def pointing(*tokens: tuple[int, int, int]) -> Tensor:
    """Reads that are sure of (place, read, token) and undecided elsewhere."""
    looks = torch.zeros(1, 1, 3, 4, 5)
    for place, read, token in tokens:
        looks[0, 0, place, read, token] = 50.0
    return looks


RIGHT = [(0, 0, 1), (0, 1, 1), (0, 3, 1), (1, 0, 2), (1, 1, 2), (1, 3, 3)]


def test_reads_at_the_right_tokens_and_true_counts_cost_nothing() -> None:
    """Base forms count as the word; of two equal tokens either will do; what stands nowhere and empty places say nothing."""
    assert loss_of(pointing(*RIGHT), [0.0, 1.0, 1.0, 0.0, 0.0]) == pytest.approx(0.0, abs=1e-5)
    other = [*RIGHT[:-1], (1, 3, 0)]
    assert loss_of(pointing(*other, (0, 2, 4), (2, 0, 4)), [0.0, 1.0, 1.0, 0.0, 0.0]) == pytest.approx(0.0, abs=1e-5)


def test_undecided_reads_cost_their_surprise_and_wrong_counts_their_square() -> None:
    """Five reads at one token of five, one at two of five; a count of 3 for 1 over four words."""
    undecided = (5 * math.log(5) + math.log(5 / 2)) / 6
    assert loss_of(torch.zeros(1, 1, 3, 4, 5), [0.0, 1.0, 1.0, 0.0, 0.0]) == pytest.approx(undecided, rel=1e-5)
    assert loss_of(pointing(*RIGHT), [0.0, 3.0, 1.0, 0.0, 9.0]) == pytest.approx(4 / 4, rel=1e-4)


def test_counts_are_not_judged_where_an_entity_has_no_token() -> None:
    """Nobody knows then which token carries it."""
    lost = torch.tensor([[[[8, 2, 8], [7, 3, 5], [0, 0, 0]]]])
    alone = alignment_loss(parsed(pointing(*RIGHT[3:]), [9.0, 9.0, 9.0, 9.0, 9.0]), TOKENS, BASES, lost)
    assert float(alone) == pytest.approx(0.0, abs=1e-5)
