"""Each kind of fault is found in a run that has exactly it, and a healthy run has none."""

import dataclasses
import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from model.config import Hyperparameters, LossWeights, ModelShape, flat_settings
from model.corpus import Corpus, load_corpus
from model.losses import ComponentLosses
from model.stories import Sentence
from model.trainer import FusedTrainer
from tuner.faults import Run, diagnose_run
from tuner.inspection import unlearnable

pytestmark = pytest.mark.usefixtures("one_thread")

USUAL = Hyperparameters(lr=5e-3, num_rules=4, epochs=12, dropout=0.1, loss_weights=LossWeights(1.0, 0.3, 0.1, 0.1))
SHAPE = ModelShape(hidden_dim=32, batch_size=16, max_rules=4)
Trained = tuple[FusedTrainer, list[dict[str, Any]]]
OUT_OF_PLACE = {0.05: "rate_too_large", 1.0: "rate_too_large", 2e-4: "rate_too_small"}
SIDE_BY_SIDE = {
    "healthy": USUAL,
    "drowned": dataclasses.replace(USUAL, loss_weights=LossWeights(1.0, 0.3, 0.1, 1e-4)),
    "frozen": dataclasses.replace(USUAL, weight_decay=0.0),
    "slow": dataclasses.replace(USUAL, lr=1e-7),
    **{f"rate {lr}": dataclasses.replace(USUAL, lr=lr, final_lr=1.0) for lr in OUT_OF_PLACE},
}
"""Runs of one shape and length: slots of one trainer, which takes two thirds of the time of one after the other."""


def trained(corpus: Corpus, hyperparameters: Hyperparameters = USUAL, shape: ModelShape = SHAPE, epochs: int | None = None) -> Trained:
    """A trainer whose one slot has been trained to its end, and the curve."""
    trainer = FusedTrainer(shape, corpus, 1)
    trainer.load(0, hyperparameters)
    (curve,) = train_on(trainer, epochs or hyperparameters.epochs)
    return trainer, curve


def train_on(trainer: FusedTrainer, epochs: int) -> list[list[dict[str, Any]]]:
    """So many epochs more of all slots, as a curve each."""
    curves: list[list[dict[str, Any]]] = [[] for _ in range(trainer.slots)]
    for _ in range(epochs):
        for curve, record, evaluation in zip(curves, trainer.train_epoch(), trainer.evaluate(), strict=True):
            assert record is not None
            assert evaluation is not None
            curve.append({**dataclasses.asdict(record), "objective": evaluation.objective, **evaluation.figures})
    return curves


def run_of(trainer: FusedTrainer, curve: Sequence[dict[str, Any]], hyperparameters: Hyperparameters = USUAL) -> Run:
    """The run as `tuner diagnose` sees it."""
    corpus = trainer.corpus
    bound = corpus.nameable("valid", 8)["component_accuracy"]
    settings = flat_settings(trainer.shape, hyperparameters)
    return Run(settings, curve, trainer.probe(0), corpus.most_frequent("valid"), bound, *unlearnable(corpus))


def kinds(run: Run) -> set[str]:
    """The kinds of all findings."""
    return {finding.kind for finding in diagnose_run(run)}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """A hundred synthetic stories."""
    return load_corpus("synthetic", 100, 1)


@pytest.fixture(scope="module")
def runs(corpus: Corpus) -> dict[str, Trained]:
    """Those, each with a trainer of its own at its end and its curve; of the frozen one a part's gradient is held at zero."""
    together = FusedTrainer(SHAPE, corpus, len(SIDE_BY_SIDE))
    for slot, hyperparameters in enumerate(SIDE_BY_SIDE.values()):
        together.load(slot, hyperparameters)
    backward, frozen = together._backward, list(SIDE_BY_SIDE).index("frozen")

    def held(loss: torch.Tensor) -> None:
        backward(loss)
        for name, gradient in together.store.gradient_views.items():
            if name.startswith("parse.second."):
                gradient[frozen].zero_()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(together, "_backward", held)
        curves = train_on(together, USUAL.epochs)
    found = {}
    for slot, (name, curve) in enumerate(zip(SIDE_BY_SIDE, curves, strict=True)):
        alone = FusedTrainer(SHAPE, corpus, 1)
        alone.restore(0, together.snapshot(slot))
        found[name] = alone, curve
    return found


def test_a_healthy_run_has_no_finding(runs: dict[str, Trained]) -> None:
    """Nothing is wrong with it, and looking into it changes nothing."""
    trainer, curve = runs["healthy"]
    before = trainer.store.values.clone()
    assert diagnose_run(run_of(trainer, curve)) == []
    assert torch.equal(trainer.store.values, before)


def test_a_component_without_gradient_is_dead(runs: dict[str, Trained]) -> None:
    """A loss that is cut off from the parameters, as the original's parse loss by its argmax."""

    class Cut(ComponentLosses):
        def __call__(self, *arguments: Any, **options: Any) -> torch.Tensor:
            parse, *others = super().__call__(*arguments, **options)
            return torch.stack((parse.detach(), *others))

    trainer, curve = runs["healthy"]
    whole, trainer.losses = trainer.losses, Cut(trainer.network, "cross_entropy")
    try:
        (finding,) = diagnose_run(run_of(trainer, curve))
    finally:
        trainer.losses = whole
    assert finding.kind == "dead_component"
    assert finding.evidence["component"] == "parse"


def test_a_component_that_others_leave_nothing_is_drowned(runs: dict[str, Trained]) -> None:
    """By its weight."""
    (finding,) = diagnose_run(run_of(*runs["drowned"], SIDE_BY_SIDE["drowned"]))
    assert finding.kind == "drowned_component"
    assert "cycle_backward" in finding.advice


def test_a_part_that_is_not_trained_is_frozen(runs: dict[str, Trained]) -> None:
    """Its gradient is held at zero."""
    run = run_of(*runs["frozen"], SIDE_BY_SIDE["frozen"])
    (finding,) = [finding for finding in diagnose_run(run) if finding.kind == "frozen_part"]
    assert finding.evidence["moved"] == {"parse.second": 0.0}


def test_one_answer_for_everything_is_constant(runs: dict[str, Trained]) -> None:
    """A model that says one entity whatever it reads."""
    trainer, curve = runs["healthy"]
    bias = trainer.store.average_views["role_bias"]
    before = bias[0, 7].clone()
    with torch.no_grad():
        bias[0, 7] = 100.0
    try:
        found = kinds(run_of(trainer, curve))
    finally:
        with torch.no_grad():
            bias[0, 7] = before
    assert "constant_answer" in found


def test_a_run_that_has_not_begun_to_learn_is_at_chance(runs: dict[str, Trained]) -> None:
    """A learning rate far too small."""
    assert "at_chance" in kinds(run_of(*runs["slow"], SIDE_BY_SIDE["slow"]))


@pytest.mark.parametrize(("reached", "stuck"), [(0.0, True), (0.21, True), (math.nan, True), (0.23, False)])
def test_without_a_model_the_curve_says_that_nothing_was_learnt(reached: float, stuck: bool) -> None:
    """As of a trial that was stopped on the plateau, whose model was not kept."""
    point = {"epoch": 1, "loss": 1.0, "objective": reached, "gradient_norm": 1.0}
    assert ("at_chance" in kinds(Run({}, [point], None, {"component_accuracy": 0.2}))) is stuck


def test_a_large_model_on_few_stories_overfits(small_corpus: Corpus) -> None:
    """Without anything that holds it back, on sentences whose labels are noise."""
    chance = random.Random(1)
    words = sorted({p[0] for s in small_corpus.sentences["train"] for p in s.propositions})
    noisy = [
        dataclasses.replace(s, propositions=tuple((e, r, chance.choice(words)) for e, r, _ in s.propositions)) for s in _all(small_corpus)
    ]
    free = Hyperparameters(lr=5e-3, num_rules=4, epochs=22, dropout=0.0, word_swap=0.0, word_dropout=0.0, weight_decay=0.0)
    trainer, curve = trained(Corpus("noisy", noisy, 1), free, ModelShape(hidden_dim=64, batch_size=16, max_rules=4))
    run = run_of(trainer, curve, free)
    assert "overfitting" in kinds(run)


def test_exact_match_can_hide_that_the_model_learns(small_corpus: Corpus) -> None:
    """Values that nobody can know leave no triple right, while entities and relations are learnt."""
    lost = [
        dataclasses.replace(s, propositions=tuple((e, r, f"v{hash_of(s, place)}") for place, (e, r, _) in enumerate(s.propositions)))
        for s in _all(small_corpus)
    ]
    trainer, curve = trained(Corpus("lost", lost, 1))
    assert "hiding_metric" in kinds(run_of(trainer, curve))


def test_relations_that_train_hardly_shows_cannot_be_learnt(small_corpus: Corpus) -> None:
    """Every sentence's verbs are its own."""
    own = [
        dataclasses.replace(
            s, propositions=tuple((e, r if r == "type" else f"r{hash_of(s, place)}", v) for place, (e, r, v) in enumerate(s.propositions))
        )
        for s in _all(small_corpus)
    ]
    trainer, curve = trained(Corpus("own", own, 1), epochs=2)
    assert {"unlearnable_relation", "unknown_words"} <= kinds(run_of(trainer, curve))


@pytest.mark.parametrize(("lr", "kind"), OUT_OF_PLACE.items())
def test_learning_rates_out_of_place_are_told_from_the_curve(lr: float, kind: str, corpus: Corpus, runs: dict[str, Trained]) -> None:
    """Too large: the loss goes up and down; too small: it still rises at the end, far from done."""
    name = f"rate {lr}"
    settings = flat_settings(SHAPE, SIDE_BY_SIDE[name])
    assert kind in kinds(Run(settings, runs[name][1], None, corpus.most_frequent("valid")))


def test_a_model_too_small_is_flat_and_low_on_train_too(corpus: Corpus) -> None:
    """Sixteen dimensions under strong dropout."""
    small = Hyperparameters(lr=5e-3, num_rules=1, epochs=18, dropout=0.8, weight_decay=1.0, loss_weights=USUAL.loss_weights)
    trainer, curve = trained(corpus, small, ModelShape(hidden_dim=16, batch_size=16, max_rules=1))
    assert "underfitting" in kinds(run_of(trainer, curve, small))


def _all(corpus: Corpus) -> list[Sentence]:
    return [s for split in corpus.sentences.values() for s in split]


def hash_of(sentence: Sentence, place: int) -> int:
    """A number that no other proposition has, the same in every run."""
    return random.Random(f"{sentence.story_id} {' '.join(sentence.tokens)} {place}").randrange(10**9)


def test_regressed_ids_are_named_before_what_follows_from_them(corpus: Corpus) -> None:
    """The original's loss: its plateau is found with its cause, whatever else is said of it."""
    trainer, curve = trained(corpus, shape=dataclasses.replace(SHAPE, proposition_loss="mse"), epochs=2)
    found = diagnose_run(run_of(trainer, curve))
    assert found[0].kind == "regressed_ids"
    assert f"{curve[-1]['objective']:.3f} is reached" in found[0].finding


def test_a_run_at_chance_is_not_told_that_it_learns() -> None:
    """One role above its most frequent answer is not enough where all together are not above theirs."""
    chance = {"component_accuracy": 0.4, "entity": 0.1, "relation": 0.6, "value": 0.5}
    point = {"objective": 0.3, "loss": 1.0, "gradient_norm": 1.0, "exact": 0.0, "entity": 0.3, "relation": 0.3, "value": 0.3}
    assert kinds(Run({}, [point], None, chance)) == {"at_chance"}
    assert "hiding_metric" in kinds(Run({}, [{**point, "objective": 0.5}], None, chance))
    nameless = {name: point[name] for name in ("loss", "gradient_norm", "exact")}
    assert "hiding_metric" not in kinds(Run({}, [{**nameless, "objective": 0.5}], None, chance)), "of a trainer that names no roles"
