"""Reading, splitting, symbols, ceilings and length classes."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.corpus import Corpus, ceiling, length_classes, load_corpus, nameable, split_stories, too_long
from model.errors import DataError
from model.noise import generator_for
from model.sources import load_sentences, read_jsonl
from model.stories import Sentence, tell_stories
from model.vocabulary import Unknowns, Vocabulary, singular

GOOD = {"story_id": "a", "tokens": ["a", "cat", "."], "propositions": [["cat", "type", "cat"]]}


def write(path: Path, *lines: object) -> Path:
    """A data file of these lines."""
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return path


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"{", "not JSON"),
        (b'"a"', "it is a str"),
        (b"\xff\xfe", "not UTF-8"),
        ({**GOOD, "propositions": [["cat", "type"]]}, "proposition 1 is"),
        ({**GOOD, "propositions": [["cat", "type", 3]]}, "proposition 1 is"),
        ({**GOOD, "propositions": [["cat", "type", "cat"]] * 1001}, "1,001 propositions; allowed: up to 1,000"),
        ({**GOOD, "propositions": [["cat", "type", ""]]}, "proposition 1: part 3 is empty; allowed: words of 1 to 256 characters"),
        ({**GOOD, "tokens": []}, "tokens"),
        ({**GOOD, "tokens": ["a", ""]}, "token 2 is empty; allowed: words of 1 to 256"),
        ({**GOOD, "tokens": ["a" * 300]}, "token 1 has 300 characters"),
        ({**GOOD, "tokens": ["a", None]}, "token 2 is null, not a word"),
        (b" ", "an empty line; leave it out"),
        ({**GOOD, "tokens": "a cat"}, "tokens"),
        ({**GOOD, "story_id": 1}, "story_id"),
        ({"tokens": ["a"]}, "story_id"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_line_not_of_the_form_names_file_line_and_fault(tmp_path: Path, line: object, fault: str) -> None:
    """Nothing is guessed and nothing is skipped."""
    path = write(tmp_path / "data.jsonl", GOOD, line)
    with pytest.raises(DataError, match=r"data\.jsonl, line 2: .*" + fault):
        read_jsonl(path)


def test_the_mark_that_some_editors_begin_a_file_with_is_no_part_of_it(tmp_path: Path) -> None:
    """Nor does it stand within."""
    line = b"\xef\xbb\xbf" + json.dumps(GOOD).encode()
    assert read_jsonl(write(tmp_path / "data.jsonl", line, GOOD)) == read_jsonl(write(tmp_path / "plain.jsonl", GOOD, GOOD))
    with pytest.raises(DataError, match="line 2: not JSON"):
        read_jsonl(write(tmp_path / "data.jsonl", GOOD, line))


def test_sentences_longer_than_the_model_reads_are_told_of() -> None:
    """And what they name beyond that cannot be copied."""
    short = [Sentence(f"s{n}", ("the", f"cat{n}"), ((f"cat{n}", "type", f"cat{n}"),)) for n in range(40)]
    corpus = Corpus("short", short, 1)
    assert corpus.too_long == ""
    long = Sentence("long", (*["the"] * 70, "zyzzyva"), (("zyzzyva", "type", "zyzzyva"),))
    assert too_long([*short * 3, long], 64) == ""
    assert too_long([*short, long], 64).startswith("1 of 41 sentences have more than 64 tokens: the rest of them is not read")
    assert nameable([long], corpus.vocabulary, 8, 64)["entity"] == 0
    assert nameable([long], corpus.vocabulary, 8, 71)["entity"] == 1


def test_missing_empty_and_cut_files_are_named(tmp_path: Path) -> None:
    """Each says which file and what is allowed."""
    with pytest.raises(DataError, match="no data file"):
        read_jsonl(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="is empty"):
        read_jsonl(write(tmp_path / "empty.jsonl"))
    whole = gzip.compress(json.dumps(GOOD).encode() * 50)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-12])
    with pytest.raises(DataError, match="cannot be read"):
        read_jsonl(tmp_path / "cut.jsonl.gz")
    with pytest.raises(DataError, match="is not known"):
        load_sentences("stories.csv", None, 1)


def test_data_from_which_nothing_can_be_learnt_are_refused_with_the_reason() -> None:
    """No propositions at all; or the same sentence over and over, which is left out of all splits but train."""
    empty = [Sentence(f"s{n}", ("the", "end", str(n)), ()) for n in range(60)]
    with pytest.raises(DataError, match="none of its 60 sentences has propositions"):
        Corpus("empty", empty, 1)
    repeats = [Sentence(f"s{n}", ("the", "cat"), (("cat", "type", "cat"),)) for n in range(40)]
    with pytest.raises(DataError, match=r"40 stories leave a split without propositions \(\d+ sentences are left out as repeats of train"):
        Corpus("repeats", repeats, 1)


def test_fewer_stories_are_the_first_ones(tmp_path: Path) -> None:
    """`--num-stories N` takes the first N story ids."""
    path = write(tmp_path / "data.jsonl", *({**GOOD, "story_id": story} for story in "abcab"))
    assert {s.story_id for s in read_jsonl(path, 2)} == {"a", "b"}
    assert len(read_jsonl(path, 2)) == 4


@given(st.integers(10, 300), st.integers(0, 5))
def test_splits_are_80_10_10_by_story_and_repeat(count: int, seed: int) -> None:
    """Whatever the order of the stories."""
    ids = [f"s{number}" for number in range(count)]
    split = split_stories(ids, seed)
    assert split == split_stories(reversed(ids), seed)
    shares = [sum(where == part for where in split.values()) for part in ("train", "valid", "test")]
    assert shares[0] == round(0.8 * count)
    assert abs(shares[1] - shares[2]) <= 1


def test_validation_sentences_seen_in_train_are_left_out_and_counted(small_corpus: Corpus) -> None:
    """Word for word."""
    trained = {s.tokens for s in small_corpus.sentences["train"]}
    assert all(s.tokens not in trained for split in ("valid", "test") for s in small_corpus.sentences[split])
    sentences = tell_stories(30, 1)
    seen = sentences[0]
    copies = [Sentence(s.story_id, seen.tokens, seen.propositions) if number % 3 == 0 else s for number, s in enumerate(sentences)]
    assert Corpus("copies", copies, 1).left_out["valid"] > 0


def test_the_vocabulary_comes_from_train_alone(small_corpus: Corpus) -> None:
    """Words of other splits are unknown, lower the ceiling, and are read by their ending."""
    vocabulary = small_corpus.vocabulary
    train = {w for s in small_corpus.sentences["train"] for w in (*s.tokens, *(w for p in s.propositions for w in p))}
    other = {w for s in small_corpus.sentences["valid"] for w in s.tokens} - train
    assert other
    assert all(word in vocabulary for word in train)
    assert all(word not in vocabulary for word in other)
    assert all(vocabulary.input_id(word) == vocabulary.base(word) or vocabulary.input_id(word) >= len(vocabulary) for word in other)
    assert "<pad>" not in vocabulary
    assert small_corpus.ceiling("valid", 8)["entity"] < 1
    assert small_corpus.ceiling("train", 99)["entity"] == 1


def test_the_ceiling_counts_unknown_words_and_places() -> None:
    """By hand: one of two entities known; a third proposition has no place."""
    vocabulary = Vocabulary(["<pad>", "<unknown>", "cat", "type"], [""])
    sentences = [Sentence("a", ("x",), (("cat", "type", "cat"), ("dog", "type", "dog"), ("cat", "type", "cat")))]
    found = ceiling(sentences, vocabulary, 2)
    assert found["entity"] == found["exact"] == pytest.approx(1 / 3)
    assert found["relation"] == pytest.approx(2 / 3)
    assert nameable(sentences, vocabulary, 2, 64) == found
    copied = [Sentence("a", ("dogs",), sentences[0].propositions)]
    assert nameable(copied, vocabulary, 2, 64)["entity"] == nameable(copied, vocabulary, 2, 64)["exact"] == pytest.approx(2 / 3)


def test_most_frequent_answers_score_what_they_score(small_corpus: Corpus) -> None:
    """`type` is the most frequent relation; the share is counted over all propositions."""
    gold = [p for s in small_corpus.sentences["valid"] for p in s.propositions]
    assert small_corpus.answers[1] == "type"
    assert small_corpus.most_frequent("valid")["relation"] == pytest.approx(sum(p[1] == "type" for p in gold) / len(gold))


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(0, 3))
def test_every_trial_sees_every_sentence_once_within_the_bounds(small_corpus: Corpus, batch_size: int, seed: int) -> None:
    """Whoever draws: the classes' widths and the number of propositions of a batch hold."""
    split = small_corpus.splits["train"]
    seen = []
    for length_class in length_classes(split, batch_size, 8):
        rows = length_class.draw(torch.rand(1, len(length_class.sentences), generator=generator_for(seed), dtype=torch.float64))[0]
        seen += rows.tolist()
        assert int(split.token_counts_N[rows].max()) == length_class.tokens
        assert max(length_class.batches) <= batch_size
        for batch in torch.split(rows, list(length_class.batches)):
            assert int(split.proposition_counts_N[batch].clamp(max=8).sum()) <= length_class.facts
    assert sorted(seen) == list(range(len(split)))


def test_the_shared_stories_are_what_their_note_says(real_stories: Path) -> None:
    """Sentences, entities and relations of the first hundred stories, as in the data's README."""
    sentences = read_jsonl(real_stories, 100)
    assert len(sentences) == 1166
    assert len({p[0] for s in sentences for p in s.propositions}) == 462
    corpus = load_corpus(str(real_stories), 100, 1)
    assert 0.65 <= corpus.ceiling("valid", 8)["entity"] <= 0.76


def test_an_inflected_word_leans_on_its_base_form() -> None:
    """By spelling alone, and only where the table holds the base; an unknown word is read as its base."""
    known = ("needle", "story", "stop", "bake", "big", "wish", "try", "fly", "the", "see", "needles")
    vocabulary = Vocabulary(["<pad>", "<unknown>", *known], ["", "es"])
    expected = {
        **{"stories": "story", "stopped": "stop", "baking": "bake", "bigger": "big", "wishes": "wish", "seeing": "see"},
        **{"needles": "needle", "tried": "try", "flies": "fly", "tree": "<pad>", "thing": "<pad>", "seed": "<pad>"},
    }
    assert {word: vocabulary.symbols[vocabulary.base(word)] for word in expected} == expected
    assert vocabulary.input_id("needles") == vocabulary.id("needles")
    assert vocabulary.input_id("stories") == vocabulary.id("story")
    assert vocabulary.input_id("trees") == len(vocabulary) + 1
    assert vocabulary.symbol_bases()[vocabulary.id("needles")] == vocabulary.id("needle")


def test_words_of_which_nothing_is_known_have_numbers_of_their_own() -> None:
    """Known words keep their symbol, those of a known base form are read as it; others are told apart and called singular."""
    vocabulary = Vocabulary(["<pad>", "<unknown>", "needle", "ran"], ["", "ts"])
    unknowns = Unknowns(vocabulary)
    numbers = [unknowns.token_id(word) for word in ("ran", "needles", "wombats", "wombat", "glass")]
    assert numbers[:2] == [3, 2]
    assert len({*numbers, unknowns.id("needles")}) == 6
    ready, ids = unknowns.to(torch.device("cpu")), torch.tensor(numbers)
    assert ready.readable(ids).tolist() == [3, 2, 4 + 1, 4 + 0, 4 + 0]
    copies, called = ready.copied(ids)
    assert copies.tolist() == [False, False, True, True, True]
    assert [ready.word(number) for number in called[2:].tolist()] == ["wombat", "wombat", "glass"]
    written = torch.tensor([unknowns.id(word) for word in ("ran", "needles", "wombats", "wombat", "glass")])
    assert ready.tokens(written).tolist() == numbers, "what is written is read as any text"


@pytest.mark.parametrize(("word", "called"), [
    ("hedges", "hedge"), ("berries", "berry"), ("boxes", "box"), ("glass", "glass"), ("bus", "bus"), ("ties", "tie"), ("gas", "gas"),
])  # fmt: skip
def test_a_plural_loses_its_ending(word: str, called: str) -> None:
    """By English spelling alone; what may be none is left as it is."""
    assert singular(word) == called
