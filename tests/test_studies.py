"""Every shipped study and preset can be used as it stands."""

import pytest

import studies
from model.config import settings_from
from tuner.definition import load_definition
from tuner.errors import DefinitionError
from tuner.training import base_of


@pytest.mark.parametrize("name", studies.names())
def test_shipped_studies_are_sound(name: str) -> None:
    """With a summary, a floor on the round trip and something to confirm."""
    definition = load_definition(name)
    assert definition.summary
    assert definition.objective.round_trip_floor > 0
    assert definition.confirm.seeds >= 1


@pytest.mark.parametrize("name", studies.presets())
def test_shipped_presets_are_sound(name: str) -> None:
    """They name settings that exist, within their bounds."""
    base = base_of(name, None, "")
    settings, epochs = base.settings, base.epochs
    shape, hyperparameters = settings_from(settings, epochs=epochs, seed=0)
    assert (shape.hidden_dim, hyperparameters.lr, hyperparameters.epochs) == (settings["hidden_dim"], settings["lr"], epochs)


def test_an_unknown_preset_names_those_there_are() -> None:
    """Like an unknown study."""
    with pytest.raises(DefinitionError, match="there is no preset 'tiny'; allowed: tinystories"):
        base_of("tiny", None, "")
