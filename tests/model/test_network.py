"""The rules are reversible, and every component's gradient reaches the parameters it should."""

import json
from pathlib import Path

import pytest
import torch

from model.alignment import alignments
from model.config import COMPONENTS, Hyperparameters, ModelShape
from model.corpus import Corpus, load_corpus
from model.layers import apply_rules, invert_rules
from model.layout import lay_out
from model.losses import Batch
from model.network import Conditions
from model.trainer import FusedTrainer

SHAPE = ModelShape(hidden_dim=32, batch_size=8, max_rules=4)


def loaded(corpus: Corpus, kind: str = "cross_entropy") -> FusedTrainer:
    """A trainer with two trials."""
    trainer = FusedTrainer(ModelShape(hidden_dim=32, batch_size=8, max_rules=4, proposition_loss=kind), corpus, 2, dtype=torch.float64)
    for slot in range(2):
        trainer.load(slot, Hyperparameters(num_rules=4, seed=slot))
    return trainer


def batch_of(corpus: Corpus, rows: range) -> Batch:
    """The same sentences for both slots."""
    train, chosen = corpus.splits["train"], list(rows)
    aligned_NP3 = alignments([corpus.sentences["train"][row] for row in chosen], 8, corpus.max_tokens)
    parts = train.tokens_NT[chosen], train.propositions_NQ3[chosen, :8], aligned_NP3, train.token_counts_N[chosen]
    tokens, propositions, aligned, length = (part.expand(2, *(-1,) * part.dim()) for part in parts)
    layout = lay_out(aligned[..., 0], propositions[..., 0] != 0, length, tokens.shape[2], 8, torch.float64)
    return Batch(tokens, propositions, tokens, aligned, layout, facts=len(rows) * 8)


def test_rules_are_undone_by_their_inverse(small_corpus: Corpus) -> None:
    """Generate undoes with the same parameters what parse does."""
    trainer = loaded(small_corpus)
    x = torch.randn(2, 3, 5, 32, dtype=torch.float64)
    meaning = apply_rules(trainer.store.views, "rules", x)
    assert not torch.allclose(meaning, x, atol=0.1)
    assert torch.allclose(invert_rules(trainer.store.views, "rules", meaning), x)


@pytest.mark.parametrize("kind", ["cross_entropy", "mse"])
@pytest.mark.parametrize(("component", "reached", "not_reached"), [
    ("parse", "parse.read", "generate.of_text"),
    ("generate", "generate.of_text", "parse.read"),
    ("cycle_forward", "parse.read", None),
    ("cycle_backward", "generate.of_text", None),
])  # fmt: skip
def test_every_component_is_differentiable_end_to_end(
    small_corpus: Corpus, kind: str, component: str, reached: str, not_reached: str | None
) -> None:
    """The cycles train both directions; each direction's own loss trains only that one; all train the symbol table and the rules."""
    trainer = loaded(small_corpus, kind)
    tables = trainer.network.with_tables(trainer.store.views)
    losses = trainer.losses(tables, batch_of(small_corpus, range(6)), Conditions())
    loss = losses[COMPONENTS.index(component)].sum()
    names = [reached, "symbols", "rules.first.up", *([not_reached] if not_reached else [])]
    gradients = torch.autograd.grad(loss, [trainer.store.views[name] for name in names], materialize_grads=True, allow_unused=True)
    norms = dict(zip(names, (float(gradient.norm()) for gradient in gradients), strict=True))
    assert all(norms[name] > 1e-8 for name in names if name != not_reached)
    assert not_reached is None or norms[not_reached] == 0


def test_padding_changes_nothing(small_corpus: Corpus) -> None:
    """A sentence has the same losses however wide its batch is padded."""
    trainer = loaded(small_corpus)
    tables, conditions = trainer.network.with_tables(trainer.store.views), Conditions()
    batch = batch_of(small_corpus, range(6))
    length = (batch.tokens_KBT != 0).sum(-1)
    width, tokens = int(length.max()), batch.tokens_KBT[:, :, : int(length.max())]
    layout = lay_out(batch.aligned_KBP3[..., 0], batch.propositions_KBP3[..., 0] != 0, length, width, 8, torch.float64)
    narrow = Batch(tokens, batch.propositions_KBP3, tokens, batch.aligned_KBP3, layout, batch.facts)
    assert width < batch.tokens_KBT.shape[2]
    assert torch.allclose(trainer.losses(tables, batch, conditions), trainer.losses(tables, narrow, conditions), rtol=1e-9)


def test_sentences_that_state_nothing_do_not_outweigh_the_others(tmp_path: Path) -> None:
    """Exclamations are short, so batches are full of them; what they carry is counted for each sentence, not for each proposition."""
    said = [{"story_id": f"{n}", "tokens": ["oh", "no", "!"], "propositions": []} for n in range(400)]
    names = [f"w{n}" for n in range(40)]
    stated = [
        {"story_id": f"s{n}", "tokens": ["the", "cat", "saw", "the", name, "."], "propositions": [["cat", "see", name]]}
        for n, name in enumerate(names)
    ]
    path = tmp_path / "some.jsonl"
    path.write_text("\n".join(map(json.dumps, [*said, *stated])))
    trainer = FusedTrainer(ModelShape(hidden_dim=16, batch_size=32), load_corpus(str(path), None, 1), 1)
    trainer.load(0, Hyperparameters(lr=1e-4, num_rules=2, epochs=2))
    (record,) = trainer.train_epoch()
    assert record is not None
    assert record.losses["parse"] < 40
