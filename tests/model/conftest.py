"""What the tests of the model have in common."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def alone(one_thread: None) -> None:
    """No search runs here."""
