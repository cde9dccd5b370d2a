"""A study remembers who has looked at its test split: confirmations, and whoever evaluated a model on it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from model.config import Hyperparameters, ModelShape
from model.corpus import load_corpus
from model.sources import DataSource
from tests.conftest import Called
from tests.tuner.test_storage import only_read
from tuner.buffer import BufferedStorage
from tuner.definition import StudyDefinition, validated
from tuner.saving import SavingTrainer
from tuner.storage import open_storage
from tuner.study import open_study
from tuner.tested import TEST_USES, begin_use, end_use, evaluations, uses_of


def definition(stories: int) -> StudyDefinition:
    """A study of so many synthetic stories."""
    data = {"source": "synthetic", "stories": stories, "seed": 1}
    space, budget = {"lr": {"low": 1e-3, "high": 1e-2}}, {"trials": 2, "epochs": 1}
    return validated({"name": "tiny", "data": data, "search": space, "budget": budget}, "the test")


@pytest.fixture
def studies(tmp_path: Path) -> tuple[optuna.Study, optuna.Study]:
    """Two studies in the storage that the commands take in the folder, of 30 and of 20 stories."""
    storage = BufferedStorage(open_storage(f"sqlite:///{tmp_path}/runs/tuner.db"))
    few, fewer = (open_study(storage, definition(stories), load_corpus("synthetic", stories, 1)) for stories in (30, 20))
    return few, fewer


def models_of(study: optuna.Study) -> list[str]:
    """The names of those that it knows to have been evaluated."""
    return [Path(use["model"]).name for use in evaluations(study.user_attrs)]


@pytest.fixture
def models(tmp_path: Path) -> tuple[str, str]:
    """Two models that were trained on the thirty stories, not for long."""
    corpus, source = load_corpus("synthetic", 30, 1), DataSource("synthetic", 30, 1)
    trainer = SavingTrainer(ModelShape(hidden_dim=16, batch_size=16, max_rules=2), corpus, 2, "cpu", source)
    for slot in range(2):
        trainer.load(slot, Hyperparameters(epochs=1, num_rules=2, seed=slot))
    for slot, scored in enumerate(trainer.evaluate()):
        assert scored is not None
        trainer.save(slot, tmp_path / f"{slot}.safetensors", scored)
    return "0.safetensors", "1.safetensors"


def test_an_evaluation_on_the_test_split_is_noted_with_every_study_of_these_data(
    studies: tuple[optuna.Study, optuna.Study], models: tuple[str, str], here: Callable[..., Called], tmp_path: Path
) -> None:
    """The second model is announced, the same one again is no use, nor is another split; the data count, not what it was trained on."""
    few, fewer = studies
    first = here(tmp_path, "evaluate", models[0], "--json")
    assert (first.status, first.stderr) == (0, "")
    for again in (models[0], str(tmp_path / models[0])):
        assert here(tmp_path, "evaluate", again, "--json") == first
    assert here(tmp_path, "evaluate", models[1], "--split", "valid").status == 0
    assert models_of(few) == [models[0]]
    second = here(tmp_path, "evaluate", models[1], "--json")
    assert second.status == 0
    assert f"the test split of {few.study_name} is used again (2 times by now" in second.stderr
    assert json.loads(second.stdout)["sentences"] == json.loads(first.stdout)["sentences"]
    assert (models_of(few), models_of(fewer)) == (list(models), [])
    assert here(tmp_path, "evaluate", models[0], "--num-stories", "20").status == 0
    assert (models_of(few), models_of(fewer)) == (list(models), [models[0]])
    another = optuna.create_study(study_name="another", storage=few._storage)
    another.set_user_attr("data", "mnist")  # of some other program
    fresh = open_study(few._storage, definition(30), load_corpus("synthetic", 30, 1), fresh=True)
    assert here(tmp_path, "evaluate", models[0], "--split", "all").status == 0
    assert (models_of(few), models_of(fresh), models_of(another)) == (list(models), [models[0]], [])


def test_where_nothing_can_be_noted_the_figures_are_printed_all_the_same(
    models: tuple[str, str], here: Callable[..., Called], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No storage, of which no word is lost and none is made; one by another name; one that cannot be reached; one that may only be read."""
    monkeypatch.setattr("tuner.tested.PATIENCE_SECONDS", 0.0)
    alone = here(tmp_path, "evaluate", models[0], "--json")
    assert (alone.status, alone.stderr, (tmp_path / "runs").exists()) == (0, "", False)
    missed = here(tmp_path, "evaluate", models[0], "--json", "--storage", "sqlite:///elsewhere.db")
    assert (missed.status, missed.stdout) == (0, alone.stdout)
    assert "is noted nowhere: there is no storage elsewhere.db" in missed.stderr, "somebody thought that there was one"
    closed = here(tmp_path, "evaluate", models[0], "--json", "--storage", "postgresql+psycopg://user:secret@127.0.0.1:1/name")
    assert (closed.status, closed.stdout) == (0, alone.stdout)
    assert re.search(r"the use of the test split is not noted \(.*refused.*\); evaluate again", closed.stderr)
    assert "secret" not in closed.stderr
    storage = BufferedStorage(open_storage(f"sqlite:///{tmp_path}/runs/tuner.db"))
    study = open_study(storage, definition(30), load_corpus("synthetic", 30, 1))
    monkeypatch.setattr("tuner.storage._tune_sqlite", only_read)
    kept = here(tmp_path, "evaluate", models[0], "--json")
    assert (kept.status, kept.stdout) == (0, alone.stdout)
    assert "is not noted (attempt to write a readonly database); evaluate again" in kept.stderr
    assert evaluations(study.user_attrs) == []


def test_what_could_not_be_scored_is_no_use(
    studies: tuple[optuna.Study, optuna.Study], models: tuple[str, str], here: Callable[..., Called], tmp_path: Path
) -> None:
    """A split with nothing in it; a model that is none."""
    assert here(tmp_path, "evaluate", models[0], "--num-stories", "1").status == 2
    (tmp_path / "none.safetensors").write_bytes(b"nothing")
    assert here(tmp_path, "evaluate", "none.safetensors").status == 2
    assert [models_of(study) for study in studies] == [[], []]


def test_confirmations_and_evaluations_are_counted_together(
    studies: tuple[optuna.Study, optuna.Study], models: tuple[str, str], here: Callable[..., Called], tmp_path: Path
) -> None:
    """A confirmation after an evaluation is the second use; where it goes on, what was evaluated meanwhile counts too."""
    study, told = studies[0], list[str]()
    begin_use(study, [], told.append)
    assert TEST_USES not in study.user_attrs
    assert here(tmp_path, "evaluate", models[0]).status == 0
    begin_use(study, [(0, 11), (0, 12)], told.append)
    assert "is used again (2 times by now" in told[0]
    begin_use(study, [(0, 12), (1, 13)], told.append)
    assert len(told) == 1, "it was announced"
    assert "is used again (2 times by now" in here(tmp_path, "evaluate", models[1]).stderr, "a confirmation under way has decided nothing"
    begin_use(study, [(1, 14)], told.append)
    assert "is used again (3 times by now" in told[1]
    attributes = study.user_attrs
    (use,) = attributes[TEST_USES]
    assert (sorted(use["runs"]), use["concluded"]) == ([[0, 11], [0, 12], [1, 13], [1, 14]], False)
    assert len(uses_of(attributes)) == 2
    assert end_use(study, {1: [13]}, {}) == 2, "what was scored is no part of the finding"
    assert end_use(study, {1: [13]}, {1: [13]}) == 3
    assert [use["concluded"] for use in study.user_attrs[TEST_USES]] == [True]
    begin_use(study, [(2, 15)], told.append)
    assert "is used again (4 times by now" in told[2]
    assert end_use(study, {1: [13]}, {1: [13]}) == 3, "what was missing could not be trained: the split was not used"
    assert len(study.user_attrs[TEST_USES]) == 1
