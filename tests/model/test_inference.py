"""A saved model at work: what it says is what its evaluation counts, and it says what it does not know."""

import pytest
import torch

from model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from model.config import Hyperparameters, ModelShape
from model.corpus import Corpus
from model.errors import DataError
from model.inference import generate_texts, in_its_case, parse_texts, read_propositions, tokenize
from model.sources import DataSource
from model.trainer import FusedTrainer
from model.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def trained(small_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A small model after six epochs."""
    trainer = FusedTrainer(ModelShape(hidden_dim=32, batch_size=8, max_rules=4), small_corpus, 1)
    trainer.load(0, Hyperparameters(num_rules=4, epochs=6))
    for _ in range(6):
        trainer.train_epoch()
    path = tmp_path_factory.mktemp("inference") / "model.safetensors"
    save_checkpoint(path, trainer, 0, DataSource("synthetic", 30, 1), None)
    return load_checkpoint(path, torch.device("cpu"))


def test_texts_become_the_tokens_of_the_stories() -> None:
    """Punctuation and contractions apart; in lower case."""
    expected = ("he", "said", ",", '"', "i", "did", "n't", "see", "lily", "'s", "cat", "!", '"')
    stories = Vocabulary(["<pad>", "<unknown>", "he", "lily"], [""])
    assert in_its_case(stories, tokenize("He said, \"I didn't see Lily's cat!\"")) == expected
    assert in_its_case(stories, tokenize("We CAN\u2019T.")) == ("we", "ca", "n't", ".")


def test_a_text_is_cut_as_the_stories_were() -> None:
    """By spaCy: abbreviations, three dots, `cannot`."""
    spacy = pytest.importorskip("spacy", reason="needs spaCy: pip install '.[stories]'")
    cut = spacy.blank("en")
    for text in (
        "Mr. Fox cannot come... it's 5 o'clock, isn't it?",
        "Mrs. Lee said, \"I'm sad.\" She'll go.",
        "St. Nick won't stop; can't he? We've gone to Dr. Ann's..",
    ):
        assert tokenize(text) == tuple(token.text for token in cut(text))


def test_where_the_data_have_capitals_a_text_keeps_its_own() -> None:
    """But for a word that is known in lower case alone, as the first of a sentence; what is not known at all stays as it is given."""
    cased = Vocabulary(["<pad>", "<unknown>", "Lily", "the", "The", "cat"], [""])
    assert in_its_case(cased, tokenize("The Cat saw Lily and the Zed.")) == ("The", "cat", "saw", "Lily", "and", "the", "Zed", ".")
    assert not Vocabulary(["<pad>", "<unknown>", "cat"], [""]).cased


def test_parsing_agrees_with_the_evaluation(trained: Checkpoint, small_corpus: Corpus) -> None:
    """The share of right components over the validation split is the figure that `evaluate` gives."""
    sentences = small_corpus.sentences["valid"]
    parses = parse_texts(trained, [" ".join(s.tokens) for s in sentences])
    assert all(parse.tokens == s.tokens[: trained.max_tokens] for parse, s in zip(parses, sentences, strict=True))
    right = total = 0
    for parse, sentence in zip(parses, sentences, strict=True):
        said = [*parse.propositions, *[("", "", "")] * 20]
        for place, gold in enumerate(sentence.propositions):
            total += 3
            right += sum(a == b for a, b in zip(said[place], gold, strict=True))
    figures = trained.evaluate("synthetic", 30, "valid").figures
    assert right / total == pytest.approx(figures["component_accuracy"])
    assert right > 0


def test_generating_gives_words_of_the_table_and_names_unknown_ones(trained: Checkpoint) -> None:
    """One sentence for each group; the same groups in another order give the same sentences."""
    groups = [read_propositions(["girl,find,box", "box,type,box"], 8), read_propositions(["zebra,type,zebra"], 8)]
    first, second = generate_texts(trained, groups)
    assert first.text
    assert first.unknown == ()
    assert second.unknown == ("zebra",)
    assert [w.text for w in generate_texts(trained, groups[::-1])] == [second.text, first.text]


def test_words_of_which_nothing_is_known_are_copied_both_ways(trained: Checkpoint) -> None:
    """A noun that train never saw is an entity where it stands, without its plural, and is written as it is given."""
    (writing,) = generate_texts(trained, [read_propositions(["zebra,type,zebra"], 8)])
    assert "zebra" in writing.text
    (parse,) = parse_texts(trained, ["the little wombats found a box ."])
    assert parse.unknown == ("wombats",)
    assert "wombat" in {entity for entity, _, _ in parse.propositions}


@pytest.mark.parametrize(
    ("given", "fault"),
    [(["girl,find"], "three parts"), (["girl,,box"], "three parts"), ([], "1 to 8"), (["a,b,c"] * 9, "9 propositions")],
)
def test_propositions_of_another_form_are_refused(given: list[str], fault: str) -> None:
    """With what was given and what is allowed."""
    with pytest.raises(DataError, match=fault):
        read_propositions(given, 8)


def test_a_sentence_is_read_as_far_as_the_model_goes(trained: Checkpoint) -> None:
    """And what lies beyond is told of: it is neither among the tokens nor among the unknown words."""
    (short,), (long,) = (parse_texts(trained, [" ".join(["the"] * count + ["zyzzyva"])]) for count in (2, trained.max_tokens))
    assert (short.tokens, short.unknown, short.beyond) == (("the", "the", "zyzzyva"), ("zyzzyva",), 0)
    assert (long.tokens, long.unknown, long.beyond) == (("the",) * trained.max_tokens, (), 1)


def test_a_text_without_words_is_refused(trained: Checkpoint) -> None:
    """Naming the text."""
    with pytest.raises(DataError, match="holds no word"):
        parse_texts(trained, ["the cat sat .", "  "])
