"""The loss over the symbol table against the plain computation, in values and gradients."""

import pytest
import torch
from torch import Tensor

from model import softmax
from model.softmax import Scratch, loss_over_table


def plain(states: Tensor, table: Tensor, bias: Tensor, gold: Tensor, weights: Tensor, regress: bool) -> tuple[Tensor, Tensor]:
    """The same with everything kept: the losses, and the first group's mean vectors."""
    logs = torch.log_softmax(states @ table.transpose(1, 2)[:, None] + bias[:, None, None], -1)
    means = logs[:, 0].exp() @ table.detach()
    if regress:
        return (((logs.exp() @ torch.arange(table.shape[1], dtype=logs.dtype)) - gold).square() * weights).sum(2), means
    return -(logs.gather(3, gold[..., None]).squeeze(3) * weights).sum(2), means


@pytest.mark.parametrize("read", ["", "read"])
@pytest.mark.parametrize("regress", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("scratch_numbers", [1 << 24, 64])
def test_values_and_gradients_equal_the_plain_computation(
    monkeypatch: pytest.MonkeyPatch, scratch_numbers: int, groups: int, regress: bool, read: str
) -> None:
    """In one chunk and in many, for one loss and for two of the same table, each pulled by its own gradient; read on or not."""
    monkeypatch.setattr(softmax, "SCRATCH_PER_SLOT", scratch_numbers)
    torch.manual_seed(0)
    size = {"states": (3, groups, 7, 5), "table": (3, 11, 5), "bias": (3, 11)}
    numbers = {name: torch.randn(shape, dtype=torch.float64) for name, shape in size.items()}
    gold, weights = torch.randint(11, (3, groups, 7)), torch.rand(3, groups, 7, dtype=torch.float64)
    weights[0, 0, 2:] = 0.0
    pull, results = (torch.randn(3, groups, dtype=torch.float64), torch.randn(3, 7, 5, dtype=torch.float64)), []
    for ours in (False, True):
        leaves = {name: value.clone().requires_grad_() for name, value in numbers.items()}
        arguments = (*leaves.values(), gold, weights)
        loss, vectors = loss_over_table(*arguments, Scratch(), regress=regress, read=read) if ours else plain(*arguments, regress)
        total = (loss * pull[0]).sum()
        total = total + (vectors * pull[1]).sum() if read and vectors is not None else total
        total.backward()
        results.append([loss, *(leaf.grad for leaf in leaves.values())])
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


def test_gradients_hold_though_the_memory_was_used_again_before_them() -> None:
    """A second pass before the first one's gradient."""
    torch.manual_seed(0)
    states, table, bias = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 1, 4, 3), (2, 6, 3), (2, 6)))
    gold, weights, scratch = torch.randint(6, (2, 1, 4)), torch.rand(2, 1, 4, dtype=torch.float64), Scratch()
    wanted = torch.autograd.grad(loss_over_table(states, table, bias, gold, weights, Scratch(), read="a")[0].sum(), (states, table, bias))
    loss, _ = loss_over_table(states, table, bias, gold, weights, scratch, read="a")
    loss_over_table(states * 2, table, bias, gold, weights, scratch, read="a")
    for one, other in zip(torch.autograd.grad(loss.sum(), (states, table, bias)), wanted, strict=True):
        assert torch.allclose(one, other)


def test_what_is_read_is_the_likeliest_without_what_the_bias_was_raised_by() -> None:
    """Of the first group alone."""
    torch.manual_seed(0)
    states, table, bias = (torch.randn(s, dtype=torch.float64) for s in ((2, 2, 4, 3), (2, 6, 3), (2, 6)))
    gold, raised = torch.randint(6, (2, 2, 4)), 5 * torch.rand(2, 6, dtype=torch.float64)
    weights = torch.ones(2, 2, 4, dtype=torch.float64)
    scores = states[:, 0] @ table.transpose(1, 2) + bias[:, None]
    for lowered in (None, raised):
        _, vectors = loss_over_table(states, table, bias, gold, weights, Scratch(), lowered, read="read")
        likeliest = (scores if lowered is None else scores - lowered[:, None]).argmax(2)
        assert vectors is not None
        assert torch.equal(vectors, torch.stack([table[k][likeliest[k]] for k in range(2)]))
