"""The figures, against small cases counted by hand and against a slow count in words."""

import pytest
import torch

from model import evaluation
from model.config import Hyperparameters, ModelShape
from model.corpus import Corpus, encode_sentences
from model.evaluation import Answer, Counts, parse_ids
from model.network import SymmetricNetwork
from model.parameters import ParameterStore
from model.stories import Sentence
from model.trainer import FusedTrainer
from model.vocabulary import Vocabulary

KINDS = {"type": 2, "has_property": 3}


def figures(said: list[list[list[int]]], gold: list[list[list[int]]]) -> dict:
    """Figures of one slot."""
    counter = Counts(KINDS)
    answer, wanted = Answer(torch.tensor([said])), torch.tensor([gold])
    counter.parsing(answer, wanted)
    counter.generating(torch.ones(1, len(gold), 1, dtype=torch.int64), torch.ones(1, len(gold), 1, dtype=torch.int64), answer, wanted)
    return counter.figures(len(gold))[0]


def test_positions_orders_and_kinds_are_counted_as_defined() -> None:
    """Two sentences: one shifted by a place, one right; a spurious proposition; a gold one beyond the places."""
    shifted = [[7, 2, 7], [8, 2, 8]], [[8, 2, 8], [8, 3, 9], [7, 2, 7]]
    right = [[5, 6, 8], [9, 2, 9]], [[5, 6, 8], [0, 0, 0], [0, 0, 0]]
    found = figures([shifted[0], right[0]], [shifted[1], right[1]])
    assert found["entity"] == pytest.approx(2 / 4)
    assert found["relation"] == pytest.approx(2 / 4)
    assert found["exact"] == pytest.approx(1 / 4)
    assert found["first"]["exact"] == pytest.approx(1 / 2)
    assert found["spurious"] == pytest.approx(1 / 4)
    assert found["triple_precision"] == pytest.approx(3 / 4)
    assert found["triple_recall"] == pytest.approx(3 / 4)
    assert found["f1"] == {"type": pytest.approx(2 * 2 / 5), "has_property": 0.0, "verb": 1.0}


def test_a_repeated_answer_finds_one_gold_proposition_once() -> None:
    """And a round trip is one of the whole sentence."""
    found = figures([[[4, 2, 7], [5, 2, 5]], [[5, 2, 5], [5, 2, 5]]], [[[4, 2, 7], [5, 2, 5]], [[6, 2, 6], [5, 2, 5]]])
    assert found["entity"] == pytest.approx(3 / 4)
    assert found["triple_precision"] == pytest.approx(3 / 4)
    assert found["round_trip"] == pytest.approx(1 / 2)


def test_evaluation_agrees_with_a_slow_count_in_words(small_corpus: Corpus) -> None:
    """A trained model's figures, counted sentence by sentence."""
    trainer = FusedTrainer(ModelShape(hidden_dim=32, batch_size=8), small_corpus, 1)
    trainer.load(0, Hyperparameters(lr=5e-3, epochs=4))
    for _ in range(4):
        trainer.train_epoch()
    found = trainer.evaluate("valid")[0]
    assert found is not None
    split, unknowns = small_corpus.splits["valid"], small_corpus.splits["valid"].unknowns
    parameters = trainer.network.with_tables(trainer.store.average_views)
    answer = parse_ids(trainer.network, parameters, split.tokens_NT[None], unknowns)
    gold = right = hits = copied = 0
    for sentence, places in zip(small_corpus.sentences["valid"], answer.propositions_KBP3[0].tolist(), strict=True):
        words = [tuple(unknowns.word(i) for i in ids) if ids[0] else None for ids in places]
        copied += sum(word is not None and word[0] not in small_corpus.vocabulary for word in words)
        for place, proposition in enumerate(sentence.propositions):
            gold += 1
            right += place < len(words) and words[place] is not None and words[place][0] == proposition[0]
        rest = list(sentence.propositions)
        for answer in filter(None, words):
            if answer in rest:
                rest.remove(answer)
                hits += 1
    assert right > 0
    assert copied > 0
    assert found.figures["entity"] == pytest.approx(right / gold)
    assert found.figures["triple_recall"] == pytest.approx(hits / gold)


def test_what_is_written_word_by_word_is_read_as_the_sentence_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a word that train knows by its base form alone, as which a reader takes it."""
    told = Sentence("a", ("the", "teach", "ran"), (("teach", "type", "teach"), ("teach", "ran", "teach")))
    asked = Sentence("b", ("the", "teaching", "ran"), (("teaching", "type", "teaching"),))
    vocabulary = Vocabulary.of([told])
    split = encode_sentences([asked], vocabulary, 8)
    network = SymmetricNetwork(ModelShape(hidden_dim=16, batch_size=8), vocabulary, 8, torch.device("cpu"))
    store = ParameterStore(network.specs(), 1, torch.device("cpu"), torch.float32)
    read: list[torch.Tensor] = []

    def parse(network: SymmetricNetwork, p: object, tokens_KBT: torch.Tensor, unknowns: object) -> Answer:
        read.append(tokens_KBT)
        return Answer(torch.zeros(1, 1, 8, 3, dtype=torch.int64))

    monkeypatch.setattr(evaluation, "parse_ids", parse)
    monkeypatch.setattr(evaluation, "generate_ids", lambda *_: split.gold_tokens_NT[None])
    evaluation.evaluate_split(network, network.with_tables(store.views), split, {"type": 2, "has_property": 3})
    assert torch.equal(*read)
    assert vocabulary.id("teach") in read[1]
