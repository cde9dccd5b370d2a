"""Counts and gaps are two ways to write one layout."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from model.layout import IGNORED, REACH, Layout, lay_out, places_of_counts, places_of_gaps

TOKENS, PLACES = 12, 5


def layout_of(places: list[int], length: int, tokens: int = TOKENS) -> Layout:
    """The layout of one sentence with these places."""
    position = torch.tensor([[places + [0] * (PLACES - len(places))]])
    filled = torch.tensor([[[True] * len(places) + [False] * (PLACES - len(places))]])
    return lay_out(position, filled, torch.tensor([[length]]), tokens, 8, torch.float64)


def listed(part: Tensor) -> list[int]:
    """The row of the one sentence."""
    return [int(number) for number in part[0, 0].tolist()]


def test_the_example_of_the_docstring() -> None:
    """One proposition at token 1, three at token 6, eight tokens."""
    layout = layout_of([1, 6, 6, 6], 8)
    assert listed(layout.count_KBT) == [0, 1, 0, 0, 0, 0, 3, 0] + [IGNORED] * 4
    assert listed(layout.gap_KBQ) == [2, 5, 0, 0, 2, IGNORED]
    assert listed(layout.inside_KBP) == [1, 3, 9 + 3, 18 + 3, 0]
    assert listed(layout.rows_KBQ2[..., 0]) == [1, 1, 1, 1, 1, 0]
    assert listed(layout.rows_KBQ2[..., 1]) == [0, 0, 0, 0, 1, 0]
    assert listed(layout.before_KBT)[:8] == [REACH + 1, REACH + 2, 1, 2, 3, 4, 5, 1]
    assert listed(layout.after_KBT)[:8] == [1, 0, 4, 3, 2, 1, 0, REACH + 1]
    near = layout.near_KBT2Q[0, 0]
    assert near[2].tolist() == [1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0]
    assert near[7].tolist() == [0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0]


PLACED = st.integers(1, TOKENS).flatmap(
    lambda length: st.tuples(st.lists(st.integers(0, length - 1), max_size=PLACES).map(sorted), st.just(length))
)


@given(PLACED)
def test_counts_and_gaps_tell_the_places(placed: tuple[list[int], int]) -> None:
    """Either gives back the layout it was taken from."""
    places, length = placed
    layout = layout_of(places, length)
    position, filled = places_of_counts(layout.count_KBT, PLACES)
    assert torch.equal(position, layout.position_KBP)
    assert torch.equal(filled, layout.filled_KBP)
    position, lengths = places_of_gaps(layout.gap_KBQ, layout.filled_KBP, TOKENS)
    assert torch.equal(position, layout.position_KBP)
    assert lengths.tolist() == [[length]]


@given(PLACED)
def test_pads_change_nothing(placed: tuple[list[int], int]) -> None:
    """What lies within the sentence is the same however wide it is padded."""
    places, length = placed
    narrow, wide = layout_of(places, length, length), layout_of(places, length)
    for name in ("count_KBT", "before_KBT", "after_KBT", "near_KBT2Q"):
        assert torch.equal(getattr(narrow, name), getattr(wide, name)[:, :, :length])
    assert torch.equal(narrow.gap_KBQ, wide.gap_KBQ)


@given(st.lists(st.integers(0, 20), min_size=PLACES + 1, max_size=PLACES + 1), st.integers(0, PLACES))
def test_any_gaps_make_a_layout(gaps: list[int], number: int) -> None:
    """What an untrained generator says has a length of 1 to `tokens` and places inside it, in order."""
    filled = (torch.arange(PLACES) < number)[None, None]
    position, length = places_of_gaps(torch.tensor([[gaps]]), filled, TOKENS)
    assert 1 <= int(length) <= TOKENS
    inside = listed(position)[:number]
    assert inside == sorted(inside)
    assert all(0 <= place < int(length) for place in inside)
