"""How many floating-point operations a training step does by the book: real tokens and propositions, nothing recomputed, no pads."""

from __future__ import annotations

from model.config import ModelShape


def _rules(dim: int, rules: int) -> int:
    half, rank = dim // 2, max(2, dim // 8)
    return 2 * (half * rules + 2 * half * rules * rank)


def step_flops(shape: ModelShape, symbols: int, tokens: int, facts: int, mean_tokens: float, mean_facts: float) -> int:
    """Multiplications and additions of one slot's forward and backward pass (twice the forward) over a batch.

    Args:
        tokens: real tokens of the batch.
        facts: real propositions of the batch.
        mean_tokens: tokens a sentence, for attention.
        mean_facts: propositions a sentence.
    """
    square, dim = shape.hidden_dim**2, shape.hidden_dim
    parse_token = (4 + 4 + 4 + 3) * square + _rules(dim, shape.max_rules) + 2 * mean_tokens * dim
    parse_fact = (4 + 2 + 3 + 3 + 3) * square + 3 * mean_tokens * 3 * dim
    generate_token = (
        (1 + 4 + 4 + 4 + 1 + 1) * square + _rules(dim, shape.max_rules) + (2 * mean_tokens + 2 * mean_facts + 6 * mean_facts) * dim
    )
    generate_fact = (6 + 2 + 4 + 2 + 3) * square
    one_pass = tokens * (parse_token + generate_token) + facts * (parse_fact + generate_fact)
    table = dim * symbols * (3 * tokens + 3 * 3 * facts)
    return round(2 * 3 * (2 * one_pass + table))
