"""The three promises of fused training: as alone, neighbours untouched by NaN, neighbours untouched by loading and restoring."""

import dataclasses

import pytest
import torch

from benchmarks.trainer_speed import operations_per_step
from model.config import Hyperparameters, LossWeights, ModelShape
from model.corpus import Corpus
from model.network import Conditions
from model.optimizer import BETA1, BETA2, EPSILON, learning_rate
from model.trainer import FusedTrainer

SHAPE = ModelShape(hidden_dim=32, batch_size=8, max_rules=8)
EPOCHS = 4
TRIALS = [
    Hyperparameters(lr=1e-3, num_rules=8, seed=1, epochs=EPOCHS, dropout=0.1),
    Hyperparameters(lr=5e-3, num_rules=4, seed=2, epochs=EPOCHS, dropout=0.3, loss_weights=LossWeights(1, 0.3, 2.0, 0.1)),
    Hyperparameters(lr=2e-4, num_rules=2, seed=3, epochs=EPOCHS, dropout=0.0, weight_decay=0.5, clip_norm=0.1),
    Hyperparameters(lr=3e-3, num_rules=8, seed=4, epochs=EPOCHS, dropout=0.2, word_dropout=3.0, word_swap=0.7, warmup=0.3),
]


def curve(trainer: FusedTrainer, slot: int, epochs: int) -> list[dict[str, float]]:
    """The losses and the gradient norm of one slot over some epochs."""
    records = [trainer.train_epoch()[slot] for _ in range(epochs)]
    return [{**record.losses, "norm": record.gradient_norm} for record in records if record is not None]


def assert_close(one: list[dict[str, float]], other: list[dict[str, float]], tolerance: float) -> None:
    """Every figure of two curves agrees within a relative tolerance."""
    assert len(one) == len(other) > 0
    for ours, theirs in zip(one, other, strict=True):
        assert ours == pytest.approx(theirs, rel=tolerance)


@pytest.mark.parametrize(
    ("dtype", "tolerance", "shortlist"), [(torch.float32, 1e-4, 1024), (torch.float64, 1e-9, 1024), (torch.float64, 1e-9, 60)]
)
def test_four_slots_train_as_four_single_trainers(small_corpus: Corpus, dtype: torch.dtype, tolerance: float, shortlist: int) -> None:
    """Each slot has the losses it has alone, with the whole symbol table and with a shortlist of it.

    Different rates, weights, rules and dropout, one trial loaded three epochs late.
    """
    fused = FusedTrainer(SHAPE, small_corpus, 4, dtype=dtype, shortlist=shortlist)
    assert fused.steps_an_epoch >= 20
    for slot in (0, 1, 3):
        fused.load(slot, TRIALS[slot])
    curves: dict[int, list[dict[str, float]]] = {slot: [] for slot in range(4)}
    for epoch in range(EPOCHS):
        if epoch == 3:
            fused.load(2, TRIALS[2])
        for slot, record in enumerate(fused.train_epoch()):
            if record is not None:
                curves[slot].append({**record.losses, "norm": record.gradient_norm})
    for slot, trial in enumerate(TRIALS):
        shape = dataclasses.replace(SHAPE, max_rules=trial.num_rules if slot == 1 else 8)
        alone = FusedTrainer(shape, small_corpus, 1, dtype=dtype, shortlist=shortlist)
        alone.load(0, trial)
        epochs = 1 if dtype == torch.float32 else len(curves[slot])  # rounding grows over steps in float32
        assert_close(curves[slot][:epochs], curve(alone, 0, epochs), tolerance)


def test_a_slot_driven_to_nan_leaves_its_neighbours_bit_identical(small_corpus: Corpus) -> None:
    """A neighbour that explodes changes no bit of the others."""
    explosive = Hyperparameters(lr=1e6, seed=9, epochs=EPOCHS, clip_norm=1e12, num_rules=8)
    calm, wild = FusedTrainer(SHAPE, small_corpus, 3), FusedTrainer(SHAPE, small_corpus, 3)
    for trainer, middle in ((calm, TRIALS[1]), (wild, explosive)):
        for slot, trial in enumerate((TRIALS[0], middle, TRIALS[3])):
            trainer.load(slot, trial)
    for _ in range(2):
        records = [trainer.train_epoch() for trainer in (calm, wild)]
        with torch.no_grad():
            wild.store.values[wild.store.slot_rows_KR[1]] = float("nan")
    assert not torch.isfinite(torch.tensor(records[1][1].loss))
    for slot in (0, 2):
        assert records[0][slot] == records[1][slot]
        for ours, theirs in zip(calm.store.read(slot), wild.store.read(slot), strict=True):
            assert torch.equal(ours, theirs)


def test_loading_unloading_and_restoring_leave_neighbours_unchanged(small_corpus: Corpus) -> None:
    """Nothing that happens to a slot changes a bit of another."""
    trainer = FusedTrainer(SHAPE, small_corpus, 3)
    for slot in range(3):
        trainer.load(slot, TRIALS[slot])
    trainer.train_epoch()
    before = [rows.clone() for rows in trainer.store.read(0)]
    saved = trainer.snapshot(1)
    trainer.unload(1)
    trainer.load(2, TRIALS[3])
    trainer.restore(1, saved)
    trainer.resize([0, 1], 5)
    for old, new in zip(before, trainer.store.read(0), strict=True):
        assert torch.equal(old, new)
    assert trainer.evaluate()[4] is None


def test_a_restored_trial_goes_on_as_if_never_interrupted(small_corpus: Corpus) -> None:
    """A snapshot taken up in another slot of another trainer gives the same further losses."""
    straight, first, second = (FusedTrainer(SHAPE, small_corpus, slots, dtype=torch.float64) for slots in (1, 1, 3))
    straight.load(0, TRIALS[1])
    first.load(0, TRIALS[1])
    first.train_epoch()
    second.load(0, TRIALS[0])
    second.restore(2, first.snapshot(0))
    assert_close(curve(straight, 0, 3)[1:], curve(second, 2, 2), 1e-9)


def test_a_snapshot_of_another_shape_is_refused(small_corpus: Corpus) -> None:
    """A snapshot goes only where its layout fits."""
    small, large = FusedTrainer(SHAPE, small_corpus, 1), FusedTrainer(dataclasses.replace(SHAPE, hidden_dim=48), small_corpus, 1)
    small.load(0, TRIALS[0])
    with pytest.raises(ValueError, match="layout"):
        large.restore(0, small.snapshot(0))


def test_the_same_seed_gives_the_same_numbers_bit_for_bit(small_corpus: Corpus) -> None:
    """Two runs of one trial are equal, and another seed is not."""
    results = []
    for seed in (1, 1, 2):
        trainer = FusedTrainer(SHAPE, small_corpus, 1)
        trainer.load(0, dataclasses.replace(TRIALS[0], seed=seed))
        results.append(trainer.train_epoch()[0])
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_the_number_of_operations_does_not_grow_with_slots(small_corpus: Corpus) -> None:
    """The steps of sixteen slots dispatch as many operations as those of two; one slot alone saves a few copies, no more."""
    counts = []
    for slots in (1, 2, 16):
        trainer = FusedTrainer(SHAPE, small_corpus, slots)
        for slot in range(slots):
            trainer.load(slot, dataclasses.replace(TRIALS[0], seed=slot))
        counts.append(operations_per_step(trainer))
    assert counts[1] == counts[2] == pytest.approx(counts[0], rel=0.05)


def test_a_step_follows_the_gradient_of_the_weighted_losses(small_corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each slot with its own weights; both generating passes count; then as torch's own AdamW with the slot's rate, decay and clip norm."""
    weights = [(1.0, 0.3, 2.0, 0.1), (0.5, 1.0, 0.0, 0.7)]
    usual = {"num_rules": 4, "epochs": 2, "dropout": 0.0}
    trials = [Hyperparameters(seed=slot, loss_weights=LossWeights(*own), **usual) for slot, own in enumerate(weights)]
    trials[1] = dataclasses.replace(trials[1], lr=5e-3, weight_decay=0.5, clip_norm=0.05)
    trainer = FusedTrainer(dataclasses.replace(SHAPE, max_rules=4), small_corpus, 2, dtype=torch.float64)
    for slot, trial in enumerate(trials):
        trainer.load(slot, trial)
    settings = trainer._settings()
    batch, found = trainer._batches.epoch(settings.draw)[0], dict[str, torch.Tensor]()
    leaves = {name: value.detach().clone().requires_grad_() for name, value in trainer.store.views.items()}
    losses_4K = trainer.losses(trainer.network.with_tables(leaves, train=True), batch, Conditions())
    (losses_4K * torch.tensor(weights, dtype=torch.float64).T).sum().backward()
    backward = trainer._backward

    def noted(loss: torch.Tensor) -> None:
        backward(loss)
        found.update({name: gradient.clone() for name, gradient in trainer.store.gradient_views.items()})

    monkeypatch.setattr(trainer, "_backward", noted)
    rows = [trainer.store.read(slot)[0].clone() for slot in range(2)]
    trainer._step(*settings.step(0, batch, trainer.shape, 0))
    assert found.keys() == leaves.keys()
    for name, leaf in leaves.items():
        wanted = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        assert torch.allclose(found[name], wanted, rtol=1e-9, atol=1e-12), name
    for slot, trial in enumerate(trials):
        values = {name: value.clone().requires_grad_() for name, value in trainer.store.named(rows[slot]).items()}
        for name, value in values.items():
            value.grad = found[name][slot].clone()
        torch.nn.utils.clip_grad_norm_(values.values(), trial.clip_norm)
        decays = {spec.name: trial.weight_decay if spec.decays else 0.0 for spec in trainer.store.specs}
        groups = [{"params": [value], "weight_decay": decays[name]} for name, value in values.items()]
        rate = learning_rate(trial, 0, trainer.steps_an_epoch)
        torch.optim.AdamW(groups, lr=rate, betas=(BETA1, BETA2), eps=EPSILON).step()
        ours = trainer.store.named(trainer.store.read(slot)[0])
        assert all(torch.allclose(ours[name], value, rtol=1e-6, atol=1e-9) for name, value in values.items())
