"""No ending without a reason."""

import pytest

from tuner.verdict import Verdict


@pytest.mark.parametrize("arguments", [("bored", 1, "x"), ("finished", 1, "  "), ("finished", -1, "x")])
def test_a_verdict_needs_a_known_cause_a_reason_and_an_epoch(arguments: tuple) -> None:
    """Anything less cannot be made."""
    with pytest.raises(ValueError, match=r"cause|reason|epoch"):
        Verdict(*arguments)


def test_a_verdict_survives_storage_with_nan_and_infinity() -> None:
    """JSON has neither, so they travel as words."""
    verdict = Verdict("exploded", 3, "the loss is nan", {"loss": float("inf"), "before": 2.5})
    assert Verdict.from_dict(verdict.as_dict()) == verdict
