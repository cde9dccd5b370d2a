"""Layers written out by hand have the gradients that they should."""

import pytest
import torch
from torch.nn import functional

from model.layers import convolve

NAMES = ("near.in", "near.in_bias", "near.out")


def plain(x: torch.Tensor, mask: torch.Tensor, keep: torch.Tensor | None, width: int, *weights: torch.Tensor) -> torch.Tensor:
    """One slot's convolution as autograd would have it."""
    weight_in, bias_in, weight_out = weights
    u = functional.layer_norm(x, x.shape[-1:]) * mask
    padded = functional.pad(u, (0, 0, width // 2, width // 2))
    windows = torch.cat([padded[:, start : start + x.shape[1]] for start in range(width)], dim=-1)
    hidden = functional.gelu(windows @ weight_in + bias_in)
    return x + (hidden if keep is None else hidden * keep) @ weight_out


@pytest.mark.parametrize(("width", "drops"), [(3, True), (5, False), (5, True)])
def test_convolution_equals_its_definition(width: int, drops: bool) -> None:
    """Values and all gradients, for each of two slots by itself."""
    torch.manual_seed(1)
    slots, sentences, places, dim = 2, 3, 4, 6
    sizes = ((slots, sentences, places, dim), (slots, width * dim, dim), (slots, dim), (slots, dim, dim))
    inputs = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes]
    mask = (torch.rand(slots, sentences, places, 1) > 0.3).double()
    keep = (torch.rand(slots, sentences, 1, dim) > 0.3).double() if drops else None
    fused = convolve(dict(zip(NAMES, inputs[1:], strict=True)), "near", inputs[0], mask, keep)
    alone = [plain(inputs[0][k], mask[k], None if keep is None else keep[k], width, *(w[k] for w in inputs[1:])) for k in range(slots)]
    assert torch.allclose(fused, torch.stack(alone), rtol=1e-12, atol=1e-12)
    pull = torch.randn_like(fused)
    expected = torch.autograd.grad((torch.stack(alone) * pull).sum(), inputs)
    for found, wanted in zip(torch.autograd.grad((fused * pull).sum(), inputs), expected, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-12)
