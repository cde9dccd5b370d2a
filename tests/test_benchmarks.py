"""What the benchmarks compute besides time: agreement of labels, operations by the book."""

import pytest

from benchmarks.flops import step_flops
from benchmarks.label_noise import agreement
from model.config import ModelShape


def test_agreement_is_counted_by_position_and_in_any_order() -> None:
    """One triple missing at the front shifts all later ones, which any order forgives; a spurious verb costs its kind alone."""
    dog, red, cat, see = ("dog", "type", "dog"), ("dog", "has_property", "red"), ("cat", "type", "cat"), ("cat", "see", "dog")
    found = agreement([[red, cat], [cat, see]], [[dog, red, cat], [cat]])
    assert found["entity"] == pytest.approx(2 / 4)
    assert found["relation"] == pytest.approx(1 / 4)
    assert found["exact"] == pytest.approx(1 / 4)
    assert found["triple_f1"] == pytest.approx(2 * 3 / (4 + 4))
    assert found["f1"] == {"type": pytest.approx(2 * 2 / 5), "has_property": 1.0, "verb": 0.0}


def test_operations_by_the_book_grow_with_what_is_real() -> None:
    """Twice the sentences cost twice as much; pads and slots are no part of it; a larger table costs its products alone."""
    shape = ModelShape(hidden_dim=64)
    once, twice = step_flops(shape, 1000, 400, 80, 12, 2.5), step_flops(shape, 1000, 800, 160, 12, 2.5)
    assert twice == pytest.approx(2 * once, rel=1e-6)
    more = step_flops(shape, 2000, 400, 80, 12, 2.5)
    assert more - once == pytest.approx(6 * 64 * 1000 * (3 * 400 + 9 * 80), rel=1e-6)
