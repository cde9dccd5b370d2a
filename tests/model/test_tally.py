"""Right answers by story add up to the evaluation's figures."""

import pytest
import torch

from model.config import ROLES, Hyperparameters, ModelShape
from model.corpus import load_corpus
from model.tally import tally_by_story
from model.trainer import FusedTrainer


@pytest.mark.parametrize("split", ["valid", "test"])
def test_tallies_add_up_to_the_figures_of_the_split(split: str) -> None:
    """Each slot by itself; every story that states something, in the split's order."""
    corpus = load_corpus("synthetic", 60, 1)
    trainer = FusedTrainer(ModelShape(hidden_dim=16, batch_size=16, max_rules=2), corpus, 3)
    for slot in (0, 2):
        trainer.load(slot, Hyperparameters(lr=1e-2, num_rules=2, epochs=3, seed=slot))
    for _ in range(3):
        trainer.train_epoch()
    stories = list(dict.fromkeys(s.story_id for s in corpus.sentences[split] if s.propositions))
    wanted = [sum(len(s.propositions) for s in corpus.sentences[split] if s.story_id == story) for story in stories]
    tallies, figures = trainer.tally(split), trainer.evaluate(split)
    assert trainer.tally() == trainer.tally("test") != trainer.tally("valid"), "what is confirmed is scored on the test split"
    assert tallies[1] is None
    assert tallies[0] != tallies[2]
    for slot in (0, 2):
        tally, evaluation = tallies[slot], figures[slot]
        assert tally is not None
        assert evaluation is not None
        assert list(tally.stated) == wanted
        for name in (*ROLES, "exact"):
            assert sum(tally.right[name]) / sum(tally.stated) == pytest.approx(evaluation.figures[name], abs=1e-12)
            assert all(0 <= right <= stated for right, stated in zip(tally.right[name], tally.stated, strict=True))


def test_sentences_of_one_story_are_added_wherever_they_stand() -> None:
    """Stories need not be in one piece; one that states nothing is left out."""
    found = tally_by_story(["b", "a", "b", "c"], torch.tensor([2, 1, 3, 0]), {"entity": torch.tensor([1, 1, 2, 0])})
    assert found.stated == (5, 1)
    assert found.right == {"entity": (3, 1)}
