"""The shortlist: holds what is needed, stands for the rest, and is the whole table where that is small."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.shortlist import shortlist, whole_table


def table(slots: int, symbols: int, dim: int = 4) -> dict[str, torch.Tensor]:
    """Random parameters of a symbol table."""
    generator = torch.Generator().manual_seed(slots * 1000 + symbols)
    shapes = {"table": (slots, symbols, dim), "word_bias": (slots, symbols), "role_bias": (slots, symbols)}
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


@given(seed=st.integers(0, 10_000), size=st.integers(1, 60), needed=st.lists(st.integers(0, 49), min_size=1, max_size=30))
@settings(max_examples=100)
def test_what_is_needed_is_there_and_the_rest_is_a_sample(seed: int, size: int, needed: list[int]) -> None:
    """Places and symbols are inverse, vectors and biases are those of the symbols, each slot by itself."""
    p, generator = table(2, 50), torch.Generator().manual_seed(seed)
    ids = torch.tensor([needed, needed[::-1]])
    among = shortlist(p, ids, torch.rand(2, 50, generator=generator), size)
    places = among.places(ids)
    assert torch.equal(among.symbols(places), ids)
    for slot in range(2):
        assert torch.equal(among.table_KCD[slot, places[slot]], p["table"][slot, ids[slot]])
        assert torch.equal(among.word_bias_KC[slot, places[slot]], p["word_bias"][slot, ids[slot]])
        if among.symbols_KC is not None and among.raised_KC is not None:
            unraised = among.word_bias_KC[slot] - among.raised_KC[slot]
            assert torch.allclose(unraised, p["word_bias"][slot, among.symbols_KC[slot]], atol=1e-12)
    if among.symbols_KC is not None:
        assert all(len(set(row)) == len(row) for row in among.symbols_KC.tolist())


def test_the_normaliser_is_right_in_the_mean() -> None:
    """Over many samples the sum of exponentials is that of the whole table."""
    p, draws = table(1, 400), []
    state = torch.randn(1, 1, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for seed in range(400):
        chances = torch.rand(1, 400, generator=torch.Generator().manual_seed(seed))
        among = shortlist(p, torch.tensor([[3, 5, 7]]), chances, 50)
        draws.append((state @ among.table_KCD.transpose(1, 2) + among.word_bias_KC[:, None]).exp().sum())
    everything = whole_table(p)
    exact = (state @ everything.table_KCD.transpose(1, 2) + everything.word_bias_KC[:, None]).exp().sum()
    assert float(torch.stack(draws).mean()) == pytest.approx(float(exact), rel=0.05)


def test_a_slot_draws_alike_whoever_is_beside_it() -> None:
    """The sample of one slot does not depend on the others."""
    p = table(3, 100)
    chances = torch.rand(3, 100, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[1, 2], [3, 4], [5, 6]])
    together = shortlist(p, ids, chances, 20)
    alone = shortlist({name: value[1:2] for name, value in p.items()}, ids[1:2], chances[1:2], 20)
    assert together.symbols_KC is not None
    assert alone.symbols_KC is not None
    assert torch.equal(together.symbols_KC[1], alone.symbols_KC[0])
