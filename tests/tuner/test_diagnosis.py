"""Studies with exactly one reason for the plateau, with none, and with too little to say."""

import math
import random

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import create_trial

from tuner.diagnosis import Finding, diagnose_study, fisher

SPACE = {"lr": FloatDistribution(1e-5, 1e-1, log=True), "kind": CategoricalDistribution(["mse", "cross_entropy"])}
CHANCE = 0.2


def study_of(number: int, leaves: object, seed: int = 1) -> optuna.Study:
    """Trials with random settings that end at 0.6 where `leaves(lr, kind)` says so, else at chance."""
    chance, study = random.Random(seed), optuna.create_study(direction="maximize")
    for _ in range(number):
        lr, kind = 10 ** chance.uniform(-5, -1), chance.choice(["mse", "cross_entropy"])
        end = 0.6 if leaves(lr, kind) else CHANCE  # type: ignore[operator]
        values = {1: CHANCE, 2: end + chance.uniform(-0.01, 0.01)}
        study.add_trial(create_trial(value=end, params={"lr": lr, "kind": kind}, distributions=SPACE, intermediate_values=values))
    return study


def test_fishers_test_agrees_with_published_values() -> None:
    """Fisher 1935: the lady tasting tea, three of four right; the convicts' twins, 10 of 13 against 2 of 17."""
    assert fisher((3, 1), (4, 4)) == pytest.approx(0.4857, abs=1e-4)
    assert fisher((10, 2), (13, 17)) == pytest.approx(0.000537, abs=1e-6)
    assert fisher((4, 4), (4, 4)) == 1.0
    chance = random.Random(3)
    for _ in range(200):  # and with the sum of whole numbers that defines it
        of = (chance.randint(1, 40), chance.randint(1, 40))
        left = (chance.randint(0, of[0]), chance.randint(0, of[1]))
        ways = {
            k: math.comb(of[0], k) * math.comb(of[1], sum(left) - k) for k in range(max(0, sum(left) - of[1]), min(sum(left), of[0]) + 1)
        }
        exact = sum(n for n in ways.values() if n <= ways[left[0]]) / math.comb(sum(of), sum(left))
        assert fisher(left, of) == pytest.approx(exact, rel=1e-9)


def test_a_study_of_five_thousand_trials_is_cut_in_sixty_four_places_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a search of 4,833 trials did not end within half an hour: every value of every setting was a cut, each of them a sum of large
    numbers."""
    tests: list[tuple[int, int]] = []

    def counted(left: tuple[int, int], of: tuple[int, int]) -> float:
        tests.append(of)
        return fisher(left, of)

    monkeypatch.setattr("tuner.diagnosis.fisher", counted)
    (found,) = diagnose_study(study_of(5000, lambda lr, kind: lr >= 1e-3), CHANCE)
    assert len(tests) <= 66
    assert found.evidence["setting"] == "lr"
    assert found.evidence["left"][0] < 60


def test_the_setting_that_decides_is_named_with_counts_and_no_other() -> None:
    """The rate alone; the loss alone; both sides of the border counted."""
    (found,) = diagnose_study(study_of(60, lambda lr, kind: lr >= 1e-3), CHANCE)
    assert found.kind == "plateau_left"
    assert found.evidence["setting"] == "lr"
    assert found.evidence["left"][0] == 0
    assert "trials with lr < 0.001 stayed on the plateau" in found.finding
    assert found.finding.endswith("with lr >= 0.001 left it")
    (found,) = diagnose_study(study_of(60, lambda lr, kind: kind == "cross_entropy"), CHANCE)
    assert found.evidence["setting"] == "kind"
    assert "trials with kind = mse stayed on the plateau" in found.finding
    assert found.finding.endswith("with kind = cross_entropy left it")


@pytest.mark.parametrize("good", ["alpha", "beta", "gamma"])
def test_of_several_choices_each_is_told_from_the_others(good: str) -> None:
    """The first by name as well as the last."""
    study, space = optuna.create_study(direction="maximize"), {"kind": CategoricalDistribution(["alpha", "beta", "gamma"])}
    for number in range(30):
        kind = ("alpha", "beta", "gamma")[number % 3]
        end = 0.6 if kind == good else CHANCE
        study.add_trial(create_trial(value=end, params={"kind": kind}, distributions=space, intermediate_values={1: CHANCE, 2: end}))
    (found,) = diagnose_study(study, CHANCE)
    assert found.finding.startswith(f"20 of 20 trials with a kind other than {good} stayed on the plateau")
    assert (found.finding.endswith(f"10 of 10 with kind = {good} left it"), found.advice) == (True, f"search kind = {good}")


def test_numbers_of_both_kinds_stand_in_their_order() -> None:
    """Whole ones beside fractions, as `choices = [0, 0.5, 1]`: nothing is learnt without the component."""
    study = optuna.create_study(direction="maximize")
    space = {"loss_weights.generate": CategoricalDistribution([0, 0.5, 1])}
    for number in range(30):
        weight = (0, 0.5, 1)[number % 3]
        end = 0.6 if weight else CHANCE
        values = {1: CHANCE, 2: end}
        given = {"params": {"loss_weights.generate": weight}, "distributions": space, "intermediate_values": values}
        study.add_trial(create_trial(value=end, **given))
    (found,) = diagnose_study(study, CHANCE)
    assert found.finding.startswith("10 of 10 trials with loss_weights.generate < 0.2 stayed on the plateau")
    assert found.evidence["stays"] == [0, 0]


def test_what_was_stopped_for_others_is_told_apart_from_what_stayed() -> None:
    """It lay on the plateau when it was stopped, and may have left it later; what had left it is not told of."""
    study = optuna.create_study(direction="maximize")
    for trial in study_of(60, lambda lr, kind: lr >= 1e-3).trials:
        if trial.number % 3 == 0:
            trial.user_attrs["verdict"] = {"cause": "outpaced", "epoch": 2, "reason": "others were better", "evidence": {}}
        study.add_trial(trial)
    low = [trial for trial in study.trials if trial.params["lr"] < 1e-3]
    outpaced = sum("verdict" in trial.user_attrs for trial in low)
    (found,) = diagnose_study(study, CHANCE)
    assert found.evidence["outpaced"] == [outpaced, 0]
    assert found.finding.startswith(f"{len(low)} of {len(low)} trials with lr < 0.001 stayed on the plateau (up to ")
    assert f"), {outpaced} of them until they were stopped because others did better; " in found.finding


def test_what_cannot_be_said_is_not_said() -> None:
    """Too few; none; all; and chance alone, in at least 19 of 20 studies."""
    kinds = [
        diagnose_study(study_of(9, lambda lr, kind: lr >= 1e-3), CHANCE)[0].kind,
        diagnose_study(study_of(30, lambda lr, kind: False), CHANCE)[0].kind,
        diagnose_study(study_of(30, lambda lr, kind: True), CHANCE)[0].kind,
        diagnose_study(optuna.create_study(), CHANCE)[0].kind,
    ]
    assert kinds == ["too_few_trials", "nowhere_left", "everywhere_left", "too_few_trials"]
    noise = random.Random(7)
    false = sum(
        diagnose_study(study_of(30, lambda lr, kind: noise.random() < 0.5, seed), CHANCE)[0].kind == "plateau_left" for seed in range(60)
    )
    assert false <= 3


def test_a_finding_needs_its_words() -> None:
    """No finding without a reason and something to do."""
    with pytest.raises(ValueError, match="needs its kind"):
        Finding("plateau_left", " ", "do")
