"""How many floating-point operations a training step does by the book: real tokens and propositions, nothing recomputed, no pads."""

from __future__ import annotations

from model.config import ModelShape
from model.network import CONVOLUTIONS, WINDOW


def _rules(dim: int, rules: int) -> int:
    half, rank = dim // 2, max(2, dim // 8)
    return 2 * 2 * half * rules * rank


def step_flops(shape: ModelShape, symbols: int, tokens: int, facts: int, mean_tokens: float, mean_facts: float) -> float:
    """Multiplications and additions of one slot's forward and backward pass over a batch.

    Args:
        symbols: of the table a step looks at.
        tokens: real tokens of the batch.
        facts: real propositions of the batch.
        mean_tokens: tokens a sentence, for what looks at all of them.
        mean_facts: propositions a sentence.
    """
    square, dim = shape.hidden_dim**2, shape.hidden_dim
    parse_token = len(CONVOLUTIONS) * (5 + 1) * square + _rules(dim, shape.max_rules) + (shape.max_propositions + 1) * dim
    parse_fact = (1 + 3 + 3 + 3) * square + 3 * (WINDOW + mean_tokens + 2 * mean_tokens) * dim
    generate_token = (
        len(CONVOLUTIONS) * (3 + 1) * square + 2 * square + _rules(dim, shape.max_rules) + (2 * (mean_facts + 1) + 6 * mean_facts) * dim
    )
    generate_fact = (6 + 2 + 4 + 2) * square + mean_tokens * dim
    one_pass = tokens * (parse_token + generate_token) + facts * (parse_fact + generate_fact)
    table = dim * symbols * (3 + 4) * (tokens + 3 * facts)  # both ways twice: once read on (scores and three gradients), once not (two)
    return 2 * (3 * 2 * one_pass + table)
