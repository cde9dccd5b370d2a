"""Study definitions: what is shipped is sound, and every fault names its key, what was given and what is allowed."""

from pathlib import Path

import pytest

import studies
from tuner.definition import SYMMETRIC, load_definition
from tuner.errors import DefinitionError
from tuner.trainers import OWN

SOUND = """
[budget]
trials = 4
epochs = 3
[search]
lr = { low = 1e-4, high = 1e-2, log = true }
hidden_dim = { choices = [32, 64] }
"""


NO_WEIGHT = "\n".join(
    f'"loss_weights.{name}" = {{ choices = [1.0, 0.0] }}' for name in ("parse", "generate", "cycle_forward", "cycle_backward")
)


def written(tmp_path: Path, text: str) -> str:
    """A definition file."""
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", studies.names())
def test_shipped_studies_are_sound_and_name_the_notes_settings(name: str) -> None:
    """Each has a summary, a floor on the round trip and baselines at weights 1, 1, 0.5, 0.5."""
    definition = load_definition(name)
    assert definition.summary
    assert definition.objective.round_trip_floor > 0
    assert definition.fixed["loss_weights.parse"] == 1.0
    for baseline in definition.baselines:
        shape, hyperparameters = definition.settings(definition.point(baseline), 1)
        assert hyperparameters.loss_weights.cycle_backward == 0.5
        assert shape.proposition_loss == "cross_entropy"


def test_a_file_takes_its_name_from_the_file(tmp_path: Path) -> None:
    """And its defaults are the program's."""
    definition = load_definition(written(tmp_path, SOUND))
    assert definition.name == "mine"
    assert definition.data.source == "synthetic"
    assert definition.trainer == SYMMETRIC == OWN.name
    assert set(definition.distributions()) == {"lr", "hidden_dim"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("trials = 4", "trials = 4\nhours = 3", r"budget\.hours is not known; allowed there: trials, epochs, least_sentences, minutes"),
        ("low = 1e-4, high = 1e-2", "low = 1e-2, high = 1e-4", r"search\.lr: low = 0.01 lies above high = 0.0001"),
        ("low = 1e-4, high = 1e-2", "low = 1e-4, high = 1e-4", r"search\.lr: low = high = 0.0001 leaves nothing to search; .*fixed"),
        ("low = 1e-4, high = 1e-2", "low = 0, high = 1e-2", "log = true needs low > 0"),
        ("low = 1e-4, high = 1e-2", "low = 1e-4, hihg = 1e-2", r"hihg is not known; allowed in a range: low, high, log"),
        ("lr = {", "learning_rate = {", "'learning_rate' is no setting; allowed: hidden_dim"),
        ("[32, 64]", "[]", r"hidden_dim\.choices"),
        ("[32, 64] }", "[32, 64], start = true }", r"start = True is none of the choices; allowed: 32, 64"),
        ("[32, 64] }", "[32, 64], start = 32.0 }", r"start = 32.0 is none of the choices; allowed: 32, 64"),
        ("epochs = 3", "epochs = 3\nminutes = inf", r"budget.minutes: Input should be a finite number \(given: inf\)"),
        ("[32, 64] }", '[32, 64] }\n[[baselines]]\nname = " "\nlr = 1e-3', "each needs a name"),
        ("[32, 64] }", f"[32, 64] }}\n{NO_WEIGHT}", "all four loss_weights can be 0 at once; allowed: at least one that is always above 0"),
        ("[32, 64]", "[32, 50]", "hidden_dim = 50 is not allowed; allowed: a multiple of 16"),
        ("choices = [32, 64]", "low = 32, high = 64", "takes choices, not a range"),
        ("trials = 4", 'trials = "4"', r"budget\.trials.*given: '4'"),
        ("trials = 4", "trials = 0", r"budget\.trials"),
        ("[search]", "[fixed]\nlr = 1.0\n[search]", "stands under"),
        ("[search]", '[[baselines]]\nname = "far"\nlr = 3.0\nhidden_dim = 32\n[search]', "lr = 3.0 cannot be reached"),
        ("[search]", "[[baselines]]\nlr = 1e-3\n[search]", "needs a name"),
        ("[search]", '[[baselines]]\nname = "half"\nhidden_dim = 32.0\n[search]', "baselines: half: hidden_dim = 32.0"),
        ("[search]", '[[enqueue]]\nname = "yes"\nlr = true\nhidden_dim = 32\n[search]', "enqueue: yes: lr"),
        ("[search]", '"loss_weights.parse" = 1\n[search', "is not TOML"),
        ("[search]", "[pruning]\nplateu = {}\n[search]", r"pruning\.plateu is not known; allowed there: plateau"),
        ("[search]", "[pruning]\nhalving = { first = 2.5 }\n[search]", "a share of the epochs below 1, or a whole number"),
        ("[search]", "[pruning]\nhalving = { first = inf }\n[search]", r"halving\.first"),
        ("[search]", "[pruning]\nhalving = { first = true }\n[search]", r"halving\.first"),
        ("trials = 4", "", r"budget\.trials"),
        ("low = 1e-4", 'low = "1e-4"', r"search\.lr\.low: allowed: a finite number \(given: '1e-4'\)"),
        ("low = 1e-4", "low = nan", r"search\.lr\.low: allowed: a finite number \(given: nan\)"),
        ("[search]", "[fixed]\nclip_norm = [1.0]\n[search]", r"fixed\.clip_norm: allowed: a finite number, a word, true or false \(given"),
    ],
)
def test_faults_name_the_key_what_was_given_and_what_is_allowed(tmp_path: Path, old: str, new: str, message: str) -> None:
    """One sentence each."""
    assert old in SOUND
    with pytest.raises(DefinitionError, match=message):
        load_definition(written(tmp_path, SOUND.replace(old, new, 1)))


def test_a_file_that_cannot_be_read_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its owner has it; whoever runs the tests may be allowed everything."""

    def refused(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    path = written(tmp_path, SOUND)
    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(DefinitionError, match=r"\.toml cannot be read \(Permission denied\)"):
        load_definition(path)


def test_an_unknown_study_names_the_shipped_ones() -> None:
    """And that a path is allowed."""
    with pytest.raises(DefinitionError, match=r"there is no study 'quik'; allowed: full, plateau, quick, or the path"):
        load_definition("quik")


def test_the_command_line_changes_a_definition_and_is_checked_too() -> None:
    """None leaves things as they are."""
    definition = load_definition("quick").changed(budget_trials=7, data_source="x.jsonl", seed=None)
    assert (definition.budget.trials, definition.data.source, definition.seed) == (7, "x.jsonl", 0)
    assert definition.identity() == load_definition("quick").identity()
    with pytest.raises(DefinitionError, match=r"budget\.epochs"):
        definition.changed(budget_epochs=0)


def test_few_sentences_get_as_many_epochs_as_they_need() -> None:
    """And never fewer than the definition says."""
    quick = load_definition("quick").changed(budget_epochs=10, budget_least_sentences=36_000)
    assert quick.fitted(920).budget.epochs == 40
    assert quick.fitted(10_000).budget.epochs == 10
    assert quick.fitted(920).identity() != quick.identity()
    assert quick.fitted(920).fitted(10).budget.epochs == 40
