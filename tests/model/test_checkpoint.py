"""Checkpoints name everything they need, and what is none is refused."""

import json
from pathlib import Path

import pytest
import torch

from model.checkpoint import load_checkpoint, save_checkpoint
from model.config import Hyperparameters, ModelShape
from model.corpus import Corpus, load_corpus, split_sentences
from model.errors import CheckpointError
from model.files import read_numbers, save_numbers
from model.sources import DataSource, load_sentences
from model.trainer import FusedTrainer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def saved(small_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FusedTrainer]:
    """A checkpoint of the second of two slots, with fewer rules than its array has places for."""
    trainer = FusedTrainer(ModelShape(hidden_dim=32, batch_size=8, max_rules=8), small_corpus, 2)
    for slot in range(2):
        trainer.load(slot, Hyperparameters(lr=5e-3, epochs=2, num_rules=4, seed=slot))
    trainer.train_epoch()
    path = tmp_path_factory.mktemp("checkpoints") / "model.safetensors"
    save_checkpoint(path, trainer, 1, DataSource("synthetic", 30, 1), None)
    return path, trainer


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_loaded_model_scores_as_the_one_that_was_saved(saved: tuple[Path, FusedTrainer], split: str) -> None:
    """Shape, vocabulary, data and split come from the file alone."""
    path, trainer = saved
    expected = trainer.evaluate(split)[1]
    assert expected is not None
    found = load_checkpoint(path, CPU).evaluate(None, None, split)
    assert found.figures == expected.figures
    assert found.references["ceiling"] == trainer.corpus.ceiling(split, 8)
    assert found.references["most_frequent"] == trainer.corpus.most_frequent(split)


def test_no_partial_file_stays_and_the_original_flags_are_checked(saved: tuple[Path, FusedTrainer]) -> None:
    """A flag that agrees is fine, one that does not is an error naming both."""
    path, _ = saved
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]
    checkpoint = load_checkpoint(path, CPU)
    checkpoint.check({"hidden_dim": 32, "num_rules": None})
    with pytest.raises(CheckpointError, match="num_rules = 4, not 16"):
        checkpoint.check({"hidden_dim": 32, "num_rules": 16})


def test_what_is_no_checkpoint_is_refused_with_the_reason(saved: tuple[Path, FusedTrainer], tmp_path: Path) -> None:
    """Missing, empty, cut, a pickle, another safetensors file, a damaged header."""
    whole = saved[0].read_bytes()
    torch.save({"a": torch.ones(1)}, tmp_path / "best_model.pt")
    cases = {"none": None, "empty": b"", "cut": whole[: len(whole) // 2], "text": b"hello, world, this is no checkpoint"}
    cases["damaged"] = whole.replace(b"max_tokens", b"max_tokans", 1)
    for name, content in cases.items():
        path = tmp_path / f"{name}.safetensors"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            load_checkpoint(path, CPU)
    with pytest.raises(CheckpointError, match="pickle"):
        load_checkpoint(tmp_path / "best_model.pt", CPU)


def test_whatever_is_wrong_in_a_header_is_damage(saved: tuple[Path, FusedTrainer], tmp_path: Path) -> None:
    """Values of another type or size, as somebody's hand or a bad disk leaves them."""
    header, tensors = read_numbers(saved[0])
    damages: list[dict[str, object]] = [
        {"symbols": list(range(len(header["symbols"])))},
        {"symbols": []},
        {"verbs": {header["symbols"][-1]: ["x"]}},
        {"max_tokens": float("inf")},
        {"most_frequent": []},
        {"data": {**header["data"], "seed": None}},
        {"data": None},
        {"settings": None},
    ]
    for damage in damages:
        save_numbers(tmp_path / "damaged.safetensors", tensors, {**header, **damage})
        with pytest.raises(CheckpointError, match="has a damaged header"):
            load_checkpoint(tmp_path / "damaged.safetensors", CPU)


def test_data_that_have_changed_since_are_not_taken_for_those_it_was_trained_on(small_corpus: Corpus, tmp_path: Path) -> None:
    """The stories of a test split may be others then, seen in training; whether they are named or not."""
    path = tmp_path / "stories.jsonl"
    lines = [
        json.dumps({"story_id": s.story_id, "tokens": s.tokens, "propositions": s.propositions})
        for split in small_corpus.sentences.values()
        for s in split
    ]
    path.write_text("\n".join(lines))
    corpus = load_corpus(str(path), None, 1)
    trainer = FusedTrainer(ModelShape(hidden_dim=16, batch_size=8), corpus, 1)
    trainer.load(0, Hyperparameters(epochs=1, num_rules=2))
    save_checkpoint(tmp_path / "model.safetensors", trainer, 0, DataSource(str(path), None, 1), None)
    checkpoint = load_checkpoint(tmp_path / "model.safetensors", CPU)
    expected = checkpoint.evaluate(None, None, "test").figures
    with pytest.raises(CheckpointError, match="the test split of 20 stories has nothing that it was not trained on"):
        checkpoint.evaluate(None, 20, "test")
    path.write_text("\n".join(lines[3:]))
    with pytest.raises(CheckpointError, match="was trained on other data than"):
        checkpoint.evaluate(None, None, "test")
    with pytest.raises(CheckpointError, match="was trained on other data than"):
        checkpoint.evaluate(str(path), None, "test")
    assert checkpoint.evaluate(str(path), None, "all").figures.keys() == expected.keys()


def test_what_states_nothing_cannot_be_scored_and_what_is_too_long_is_told_of(saved: tuple[Path, FusedTrainer], tmp_path: Path) -> None:
    """Zeroes would look like a model that failed."""
    checkpoint, said = load_checkpoint(saved[0], CPU), list[str]()
    sentence: dict[str, object] = {"story_id": "a", "tokens": ["the"] * 100, "propositions": []}
    (tmp_path / "own.jsonl").write_text(json.dumps(sentence))
    with pytest.raises(CheckpointError, match="none of the 1 sentences of the all split has propositions"):
        checkpoint.evaluate(str(tmp_path / "own.jsonl"), None, "all")
    (tmp_path / "own.jsonl").write_text(json.dumps({**sentence, "propositions": [["cat", "type", "cat"]]}))
    checkpoint.evaluate(str(tmp_path / "own.jsonl"), None, "all", tell=said.append)
    (told,) = said
    assert told.startswith(f"1 of 1 sentences have more than {checkpoint.max_tokens} tokens: the rest of them is not read")


def test_what_it_was_trained_on_is_no_test_of_it_with_more_stories_either(tmp_path: Path) -> None:
    """Trained on twenty, tested with thirty: some sentences of their test split stand word for word in its own train split."""
    few, more = load_corpus("synthetic", 20, 1), split_sentences(load_sentences("synthetic", 30, 1)[1], 1)[0]
    trainer = FusedTrainer(ModelShape(hidden_dim=16, batch_size=8), few, 1)
    trainer.load(0, Hyperparameters(epochs=1, num_rules=2))
    save_checkpoint(tmp_path / "model.safetensors", trainer, 0, DataSource("synthetic", 20, 1), None)
    trained = {sentence.tokens for sentence in few.sentences["train"]}
    for split in ("valid", "test"):
        unseen = [sentence for sentence in more[split] if sentence.tokens not in trained]
        for source in (None, "synthetic"):
            figures = load_checkpoint(tmp_path / "model.safetensors", CPU).evaluate(source, 30, split).figures
            assert figures["sentences"] == len(unseen) > 0


def test_what_it_was_trained_on_is_no_test_of_it_under_another_name_either(tmp_path: Path) -> None:
    """Twenty of the stories in a file where they have other names, and so other splits; then all thirty in another. How many sentences are
    left out is told, or that nobody knows."""
    sentences = load_sentences("synthetic", 30, 1)[1]
    first = list(dict.fromkeys(sentence.story_id for sentence in sentences))[:20]
    for name, kept in (("few", [s for s in sentences if s.story_id in first]), ("all", sentences)):
        ids = [f"{name} {s.story_id}" if name == "few" else s.story_id for s in kept]
        lines = [
            json.dumps({"story_id": id_, "tokens": s.tokens, "propositions": s.propositions}) for id_, s in zip(ids, kept, strict=True)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    few, everything = load_corpus(str(tmp_path / "few.jsonl"), None, 1), split_sentences(sentences, 1)[0]
    trainer = FusedTrainer(ModelShape(hidden_dim=16, batch_size=8), few, 1)
    trainer.load(0, Hyperparameters(epochs=1, num_rules=2))
    save_checkpoint(tmp_path / "model.safetensors", trainer, 0, DataSource(str(tmp_path / "few.jsonl"), None, 1), None)
    checkpoint, said = load_checkpoint(tmp_path / "model.safetensors", CPU), list[str]()
    trained = {sentence.tokens for sentence in few.sentences["train"]}
    unseen = [sentence for sentence in everything["test"] if sentence.tokens not in trained]
    figures = checkpoint.evaluate(str(tmp_path / "all.jsonl"), None, "test", tell=said.append).figures
    assert 0 < figures["sentences"] == len(unseen) < len(everything["test"])
    count = len(everything["test"])
    assert said == [f"{count - len(unseen)} of {count} sentences are left out: the model was trained on them"]
    (tmp_path / "few.jsonl").unlink()
    assert checkpoint.evaluate(str(tmp_path / "all.jsonl"), None, "test", tell=said.append).figures["sentences"] == len(everything["test"])
    assert said[1].startswith("whether the model was trained on some of these sentences cannot be said: ")
