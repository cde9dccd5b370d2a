"""The softmax over the symbol table against the plain computation, in values and gradients."""

import pytest
import torch

from model import softmax
from model.softmax import Scratch, softmax_over_table


def plain(states, table, bias, gold, values):
    """The same with everything kept."""
    logs = torch.log_softmax(states @ table.transpose(1, 2) + bias[:, None], -1)
    return -logs.gather(2, gold[..., None]).squeeze(2), logs.exp() @ values


@pytest.mark.parametrize("scratch_numbers", [1 << 24, 64])
def test_values_and_gradients_equal_the_plain_computation(monkeypatch: pytest.MonkeyPatch, scratch_numbers: int) -> None:
    """In one chunk and in many, with the table also serving as values."""
    monkeypatch.setattr(softmax, "SCRATCH_PER_SLOT", scratch_numbers)
    torch.manual_seed(0)
    size = {"states": (3, 7, 5), "table": (3, 11, 5), "bias": (3, 11)}
    results = []
    numbers = {name: torch.randn(shape, dtype=torch.float64) for name, shape in size.items()}
    gold, pulls = torch.randint(11, (3, 7)), (torch.randn(3, 7, dtype=torch.float64), torch.randn(3, 7, 5, dtype=torch.float64))
    for compute in (plain, lambda *a: softmax_over_table(*a, Scratch())):
        leaves = {name: value.clone().requires_grad_() for name, value in numbers.items()}
        surprise, means = compute(leaves["states"], leaves["table"], leaves["bias"], gold, leaves["table"])
        (surprise * pulls[0]).sum().add((means * pulls[1]).sum()).backward()
        results.append([surprise, means, *(leaf.grad for leaf in leaves.values())])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_without_values_only_the_surprise_is_computed() -> None:
    """No means where none are asked for, and the gradients still agree."""
    torch.manual_seed(0)
    states, table, bias = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 4, 3), (2, 6, 3), (2, 6)))
    gold = torch.randint(6, (2, 4))
    surprise, means = softmax_over_table(states, table, bias, gold, None, Scratch())
    assert means is None
    ours = torch.autograd.grad(surprise.sum(), (states, table, bias))
    theirs = torch.autograd.grad(plain(states, table, bias, gold, table)[0].sum(), (states, table, bias))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other)


def test_hard_values_are_those_of_the_likeliest_with_the_gradient_of_the_mean() -> None:
    """What a bias was raised by does not count for the choice."""
    torch.manual_seed(0)
    states, table, bias = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 4, 3), (2, 6, 3), (2, 6)))
    gold, raised, pull = torch.randint(6, (2, 4)), 5 * torch.rand(2, 6, dtype=torch.float64), torch.randn(2, 4, 3, dtype=torch.float64)
    _, means = softmax_over_table(states, table, bias, gold, table, Scratch())
    _, hard = softmax_over_table(states, table, bias, gold, table, Scratch(), raised, hard=True)
    assert means is not None
    assert hard is not None
    likeliest = (states @ table.transpose(1, 2) + (bias - raised)[:, None]).argmax(2)
    assert torch.equal(hard, torch.stack([table[k][likeliest[k]] for k in range(2)]))
    expected = torch.autograd.grad((means * pull).sum(), (states, table, bias))
    for one, other in zip(torch.autograd.grad((hard * pull).sum(), (states, table, bias)), expected, strict=True):
        assert torch.allclose(one, other)
