"""Word swap: consistent in text and propositions, and nothing else changes."""

import torch

from model.augmentation import WordSwap
from model.corpus import Corpus
from model.vocabulary import PAD


def test_words_are_swapped_in_text_and_propositions_alike(small_corpus: Corpus) -> None:
    """Same places filled, relations kept, other words kept, a swapped word standing in the text where the old one stood."""
    train = small_corpus.splits["train"]
    tokens, propositions = train.tokens_NT[None], train.propositions_NQ3[None, :, :8]
    swap = WordSwap(small_corpus, torch.device("cpu"))
    seed, step, rate = torch.tensor([3]), torch.tensor([0]), torch.tensor([1.0])
    new_tokens, new = swap.swap(tokens, propositions, seed, step, rate, 3)
    assert torch.equal(new[..., 0] != PAD, propositions[..., 0] != PAD)
    assert torch.equal(new[..., 1], propositions[..., 1])
    stated = propositions[..., 1] == swap.property
    assert float((new[..., 2] != propositions[..., 2])[stated].float().mean()) > 0.5
    same = propositions[..., 0] == propositions[..., 2]
    assert torch.equal((new[..., 0] == new[..., 2])[same], torch.ones(int(same.sum()), dtype=torch.bool))
    assert float((new_tokens != tokens).float().sum()) > 0.5 * len(train)
    for sentence in range(100):
        mapping = {
            old: changed
            for before, after in zip(propositions[0, sentence].tolist(), new[0, sentence].tolist(), strict=True)
            for role, (old, changed) in enumerate(zip(before, after, strict=True))
            if role == 0 or (role == 2 and before[1] == swap.property)
        }
        for old, changed in zip(tokens[0, sentence].tolist(), new_tokens[0, sentence].tolist(), strict=True):
            assert changed == (mapping.get(old, old) if old != PAD else PAD)


def test_a_rate_of_zero_changes_nothing_and_neighbours_do_not_matter(small_corpus: Corpus) -> None:
    """What is drawn depends on (trial seed, epoch, place in it, word) alone."""
    train = small_corpus.splits["train"]
    tokens, propositions = (x[None].expand(2, *(-1,) * x.dim()) for x in (train.tokens_NT, train.propositions_NQ3[:, :8]))
    swap = WordSwap(small_corpus, torch.device("cpu"))
    both = swap.swap(tokens, propositions, torch.tensor([1, 2]), torch.tensor([5, 0]), torch.tensor([0.0, 0.5]), 3)
    alone = swap.swap(tokens[1:], propositions[1:], torch.tensor([2]), torch.tensor([0]), torch.tensor([0.5]), 3)
    assert torch.equal(both[0][0], tokens[0])
    assert torch.equal(both[1][0], propositions[0])
    assert torch.equal(both[0][1], alone[0][0])
