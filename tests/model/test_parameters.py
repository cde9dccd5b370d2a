"""Initial values and where they lie."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from model.network import MASKED_SITES, dropout_masks
from model.noise import uniform
from model.parameters import ParameterSpec, ParameterStore


def test_fewer_rules_have_the_first_rules_of_more() -> None:
    """Each rule is drawn by itself and those not in use are zeros, so a wider place holds the same smaller model."""
    many, few, placed = (
        ParameterSpec("up", (places, 3, 4), std=1.0, rule_axis=0).draw(7, count) for places, count in ((16, 16), (5, 5), (16, 5))
    )
    assert torch.equal(many[:5], few)
    assert torch.equal(placed[:5], few)
    assert not placed[5:].any()


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 4))
def test_what_is_written_to_a_slot_is_read_back_and_nowhere_else(sizes: list[int], slots: int) -> None:
    """Slots do not overlap, and named parameters survive the way into rows and back."""
    specs = [ParameterSpec(f"p{number}", (size,), std=1.0) for number, size in enumerate(sizes)]
    store = ParameterStore(specs, slots, torch.device("cpu"), torch.float64)
    rows = [store.initial_rows(seed, 4) for seed in range(slots)]
    for slot in range(slots):
        store.write(slot, rows[slot])
    for slot in range(slots):
        assert torch.equal(store.read(slot)[0], rows[slot])
        assert torch.equal(store.rows_of(store.named(rows[slot])), rows[slot])
        for name, view in store.views.items():
            assert torch.equal(view[slot], store.named(rows[slot])[name])


def test_dropout_masks_know_only_trial_and_step() -> None:
    """Neither the slot nor the neighbours matter, the step does, and the share dropped is the rate."""
    seeds, steps, rates = torch.tensor([5, 6]), torch.tensor([10, 0]), torch.tensor([0.3, 0.0])
    count = MASKED_SITES * 50 * 50

    def masks(slots: slice, later: int = 0) -> torch.Tensor:
        return dropout_masks(uniform(seeds[slots], steps[slots] + later, count, stream=1), rates[slots])

    both, alone, later = masks(slice(None)), masks(slice(1)), masks(slice(1), later=1)
    assert torch.equal(both[0], alone[0])
    assert not torch.equal(both[0], later[0])
    assert abs(float((both[0] == 0).double().mean()) - 0.3) < 0.02
    assert torch.equal(both[1], torch.ones(count))
