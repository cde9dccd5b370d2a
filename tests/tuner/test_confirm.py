"""The winner is chosen by fresh seeds, not by the luck of the search, and judged on text that chose nothing."""

import contextlib
import io
import json
import math
import shlex
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar

import numpy as np
import optuna
import pytest
from click.testing import CliRunner
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from rich.console import Console

from model.config import Hyperparameters, ModelShape
from model.tally import StoryTally
from tuner import halfway as kept
from tuner.buffer import BufferedStorage
from tuner.choice import best_choice
from tuner.cli import cli
from tuner.confirm import confirm
from tuner.definition import StudyDefinition, validated
from tuner.errors import SearchError, StudyError, TrainerUnmade, TunerError
from tuner.preparation import again
from tuner.seam import Held
from tuner.storage import DEFAULT_URL, open_storage
from tuner.study import find_study
from tuner.summary import audit, audit_line, finding, summarise
from tuner.tables import RunTable
from tuner.tested import EVALUATED, TEST_USES
from tuner.winner import TWO_SEEDS, best_of, leaders, standing, told

SPACE = FloatDistribution(1e-4, 1e-1)
TRUTH = {1e-3: 0.6, 2e-3: 0.7, 3e-3: 0.65, 4e-3: 0.8, 5e-2: 0.4}


DATA = {"source": "synthetic", "stories": 30, "seed": 1}


def definition(top: int = 3, seeds: int = 2) -> StudyDefinition:
    """Three are confirmed with two seeds."""
    content: dict[str, Any] = {
        "name": "luck",
        "budget": {"trials": 4, "epochs": 5},
        "search": {"lr": {"low": 1e-4, "high": 1e-1}},
        "objective": {"round_trip_floor": 0.1},
        "confirm": {"top": top, "seeds": seeds},
    }
    return validated(content, "the test")


@dataclass
class Record:
    """What the trainer below says of an epoch."""

    epoch: int
    loss: float = 1.0
    gradient_norm: float = 1.0
    losses: dict[str, float] = field(default_factory=dict)


@dataclass
class Scored:
    """What the trainer below finds."""

    objective: float
    round_trip: float = 1.0
    figures: dict[str, object] = field(default_factory=dict)


class TruthfulTrainer:
    """Every rate scores its true value and a little more by the seed; 4e-3 loses its round trip. So many slots have room as `room` says."""

    def __init__(self, made: list[list[tuple[float, int]]], slots: int, room: int = 100) -> None:
        self.held: list[Hyperparameters] = [Hyperparameters()] * slots
        self.seconds, self.epochs, self.made, self.room = {"training": 0.0}, 0, made, room

    def load(self, slot: int, hyperparameters: Hyperparameters) -> None:
        """Takes a run."""
        self.held[slot] = hyperparameters

    def train_epoch(self) -> list[Record]:
        """Counts."""
        if len(self.held) > self.room:
            raise MemoryError("too many")
        self.epochs += 1
        return [Record(self.epochs)] * len(self.held)

    def evaluate(self) -> list[Scored]:
        """Notes what has run all its epochs."""
        assert self.epochs <= 5
        if self.epochs == 5:
            self.made.append([(hp.lr, hp.seed) for hp in self.held])
        return [Scored(TRUTH[hp.lr] + hp.seed % 7 / 1000, 0.0 if hp.lr == 4e-3 else 1.0) for hp in self.held]

    def tally(self) -> list[StoryTally]:
        """Twenty stories, every second of them a little easier."""
        stated = (100,) * 20
        names = ("entity", "relation", "value", "exact")
        rights = [tuple(round(100 * TRUTH[hp.lr] + hp.seed % 5 + story % 2) for story in range(20)) for hp in self.held]
        return [StoryTally(stated, dict.fromkeys(names, right)) for right in rights]


class Confirming:
    """A study in a real storage whose trials had these rates and values, a baseline after them; what is confirmed goes there too."""

    def __init__(self, folder: Path, values: dict[float, float]) -> None:
        storage = open_storage(f"sqlite:///{folder}/t.db")
        self.study = optuna.create_study(study_name="luck@test", direction="maximize", storage=BufferedStorage(storage))
        self.study.set_user_attr("mark", "ours")
        for lr, value in values.items():
            self.study.add_trial(create_trial(value=value, params={"lr": lr}, distributions={"lr": SPACE}))
        marks = {"baseline": "notes"}
        self.study.add_trial(create_trial(value=0.99, params={"lr": 5e-2}, distributions={"lr": SPACE}, user_attrs=marks))
        self.study.add_trial(create_trial(state=TrialState.PRUNED, params={"lr": 0.06}, distributions={"lr": SPACE}))
        self.runs = RunTable(storage, self.study._study_id)
        self.made: list[list[tuple[float, int]]] = []
        self.asked: list[tuple[int, int]] = []
        self.told: list[str] = []
        self.patience = math.inf
        """After so many entries of `made` it is interrupted."""

    def __call__(
        self, made: StudyDefinition, width: int = 4, room: int = 100, lanes: int = 1, kind: Any = None, halfway: Path | None = None
    ) -> dict[str, Any]:
        def trainer(shape: ModelShape, slots: int) -> Any:
            return (kind or TruthfulTrainer)(self.made, slots, room)

        def progress(done: int, total: int) -> None:
            self.asked.append((done, total))
            if len(self.made) >= self.patience:
                raise KeyboardInterrupt

        return confirm(self.study, made, self.runs, trainer, width, progress, self.told.append, lanes, halfway)

    def rates(self, arrays: Sequence[list[tuple[float, int]]]) -> list[float]:
        """The rates that were trained, in order."""
        return [lr for array in arrays for lr, seed in array]


@pytest.fixture
def lucky(tmp_path: Path) -> Confirming:
    """The search's first was lucky."""
    return Confirming(tmp_path, {1e-3: 0.9, 2e-3: 0.8, 3e-3: 0.7, 4e-3: 0.75})


def test_the_best_mean_over_fresh_seeds_is_chosen_and_beats_the_baseline(lucky: Confirming) -> None:
    """The lucky first of the search is not chosen; a leader below the floor is not either; the baseline is no candidate but is compared."""
    assert [t.number for t in leaders(lucky.study, definition())] == [0, 1, 3]
    found = lucky(definition())
    assert lucky.asked == [(4 * epoch, 40) for epoch in range(1, 11)]
    assert lucky.rates(lucky.made) == [1e-3, 1e-3, 2e-3, 2e-3, 4e-3, 4e-3, 5e-2, 5e-2]
    assert len({seed for array in lucky.made for _, seed in array}) == 8
    assert (found["chosen"], found["winner"], found["smallest"]) == (1, "trial 1", "trial 1")
    entries = {entry["name"]: entry for entry in found["confirmed"]}
    assert list(entries) == ["trial 0", "trial 1", "trial 3", "notes"]
    for name, lr in (("trial 0", 1e-3), ("notes", 5e-2)):
        seeds = [seed for array in lucky.made for rate, seed in array if rate == lr]
        assert sorted(entries[name]["values"]) == sorted(TRUTH[lr] + seed % 7 / 1000 for seed in seeds)
        assert entries[name]["component_accuracy"]["mean"] == pytest.approx(TRUTH[lr] + sum(s % 5 for s in seeds) / 200 + 0.005)
        assert entries[name]["entity"]["low"] < entries[name]["entity"]["mean"] < entries[name]["entity"]["high"]
    assert found["announced"] == "trial 0"
    assert found["too_high"] == pytest.approx(0.9 - entries["trial 0"]["mean"]), "the search said it of its best, not of what is chosen"
    (gap,) = found["differences"]
    assert gap["against"] == "notes"
    assert 0 < gap["low"] < gap["mean"] < gap["high"]
    squares = [(value - mean(entry["values"])) ** 2 for entry in entries.values() for value in entry["values"]]
    assert found["seed_noise"]["component_accuracy"] == pytest.approx(math.sqrt(sum(squares) / 4)), "two seeds of each of four"
    text = "\n".join(told(found))
    assert "winner: trial 1, better than every baseline" in text
    assert "the search's own figure of trial 0, the best searched, was" in text
    assert "points too high" in text
    assert "smallest model" not in text
    chosen = best_of(lucky.study)
    assert chosen is not None
    assert (chosen[0].number, chosen[1]) == (1, entries["trial 1"])


def test_nothing_is_trained_twice_and_every_use_of_the_test_split_is_announced(lucky: Confirming) -> None:
    """Again: nothing to do, no use. One more leader: its runs only, a second use, told of. More seeds for fewer: the missing ones."""
    first = lucky(definition())
    assert lucky.told == ["confirming 4 trials, baselines among them, with fresh seeds: 8 runs of 5 epochs"]
    assert lucky(definition()) == first
    assert len(lucky.made) == 2
    assert len(lucky.told) == 1
    assert lucky(definition(top=1, seeds=1)) == first, "what there is says more"
    assert TEST_USES in lucky.study.user_attrs
    wider = lucky(definition(top=4))
    assert lucky.rates(lucky.made[2:]) == [3e-3, 3e-3]
    assert wider["test_uses"] == 2
    assert "is used again (2 times by now" in lucky.told[1]
    assert "used 2 times" in told(wider)[0]
    more = lucky(definition(top=1, seeds=3))
    assert lucky.rates(lucky.made[3:]) == [1e-3, 5e-2]
    assert more["confirmed"][0]["name"] == first["confirmed"][0]["name"]
    before, after = (dict(zip(one["confirmed"][0]["seeds"], one["confirmed"][0]["values"], strict=True)) for one in (first, more))
    assert before.items() < after.items()
    assert len(lucky.study.user_attrs[TEST_USES]) == 3 == more["test_uses"]


def test_a_model_that_was_evaluated_on_the_test_split_counts_as_a_use(lucky: Confirming) -> None:
    """So what is confirmed after that is no longer fully independent, and says so."""
    lucky.study.set_user_attr(f"{EVALUATED}0123456789abcdef", {"at": "2026-11-30T12:00:00+00:00", "model": "/a/model"})
    found = lucky(definition())
    assert "is used again (2 times by now, first on 2026-11-30)" in lucky.told[0]
    assert found["test_uses"] == 2
    assert "the test split was used 2 times" in told(found)[0]
    assert told(found)[-1] == TWO_SEEDS
    assert TWO_SEEDS not in told(lucky(definition(seeds=3)))


def test_what_was_confirmed_stands_until_another_trial_is_among_the_best(lucky: Confirming) -> None:
    """Whatever is asked for next, a confirmation of fewer that is broken off, too; a better trial waits to be confirmed."""
    found = lucky(definition())
    with pytest.raises(KeyboardInterrupt):
        lucky(definition(top=1, seeds=9), kind=Interrupted)
    assert standing(lucky.study) == found
    chosen = best_of(lucky.study)
    assert chosen is not None
    assert chosen[0].number == found["chosen"] == 1
    lucky.study.add_trial(create_trial(value=0.6, params={"lr": 3e-3}, distributions={"lr": SPACE}))
    assert standing(lucky.study) == found
    lucky.study.add_trial(create_trial(value=0.85, params={"lr": 3e-3}, distributions={"lr": SPACE}))
    assert standing(lucky.study) is None
    assert best_of(lucky.study) == (lucky.study.trials[4], None), "the best of the search, a baseline"


class Interrupted(TruthfulTrainer):
    """Somebody presses Ctrl-C in the first epoch."""

    def train_epoch(self) -> list[Record]:
        """Not one."""
        raise KeyboardInterrupt


def test_where_no_leader_keeps_its_round_trip_what_was_confirmed_is_shown(tmp_path: Path) -> None:
    """The search saw it above the floor, fresh seeds do not: neither a best nor `none has finished`."""
    lost = Confirming(tmp_path, {4e-3: 0.9})
    for name, value in (
        ("definition", definition().model_dump(mode="json")),
        ("most_frequent", NOTHING),
        ("ceiling", NOTHING),
        ("data", DATA),
    ):
        lost.study.set_user_attr(name, value)
    found = lost(definition())
    assert (found["chosen"], found["winner"], found["smallest"]) == (None, None, None)
    assert best_of(lost.study) is None
    summary = summarise(lost.study, "memory")
    assert (summary["best"], summary["confirmation"]) == (None, found)
    text = "\n".join(finding(summary, {}))
    assert "no winner: no leader keeps its round trip above the floor with fresh seeds" in text
    assert "no trial has finished" not in text
    advice = "none stays above the floor on round_trip with fresh seeds; `tuner confirm luck --top 5` .*, `tuner train --from luck:TRIAL`"
    with pytest.raises(TunerError, match=advice):
        best_choice(f"sqlite:///{tmp_path}/t.db", "luck")


NOTHING = {"component_accuracy": 0.1}


def test_a_confirmation_that_was_interrupted_is_one_use(lucky: Confirming, monkeypatch: pytest.MonkeyPatch) -> None:
    """Array by array; what was stored is not trained again."""
    kept, calls = TruthfulTrainer.tally, []

    def dies(self: TruthfulTrainer) -> list[StoryTally]:
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return kept(self)

    monkeypatch.setattr(TruthfulTrainer, "tally", dies)
    with pytest.raises(KeyboardInterrupt):
        lucky(definition())
    assert "confirmed" not in lucky.study.user_attrs
    found = lucky(definition())
    assert lucky.rates(lucky.made[2:]) == [4e-3, 4e-3, 5e-2, 5e-2]
    assert found["test_uses"] == 1
    assert not [line for line in lucky.told if "again" in line]


def test_a_use_of_the_test_split_is_one_that_came_to_a_finding(lucky: Confirming) -> None:
    """Five seeds are asked for and broken off; then two, three and five are looked at: three uses."""
    with pytest.raises(KeyboardInterrupt):
        lucky(definition(top=1, seeds=5), kind=Interrupted)
    for uses, seeds in enumerate((2, 3, 5), 1):
        assert lucky(definition(top=3, seeds=seeds))["test_uses"] == uses
    assert sum("is used again" in line for line in lucky.told) == 2


def test_without_room_an_array_is_halved(lucky: Confirming) -> None:
    """The same runs, the same finding; a run that does not fit alone is an error that says so."""
    found = lucky(definition(), width=8, room=3)
    assert [len(array) for array in lucky.made] == [2, 2, 2, 2]
    assert found["winner"] == "trial 1"

    class Late(TruthfulTrainer):
        def load(self, slot: int, hyperparameters: Hyperparameters) -> None:
            if slot > 1:
                raise MemoryError("too many to begin")
            super().load(slot, hyperparameters)

        def tally(self) -> list[StoryTally]:
            if len(self.held) > 1:
                raise MemoryError("too many to score")
            return super().tally()

    for lanes in (1, 2):
        again = lucky(definition(seeds=3 + lanes), kind=Late, lanes=lanes)
        assert lucky.asked[-1][0] == lucky.asked[-1][1]
        assert again["winner"] == "trial 1"
    with pytest.raises(SearchError, match=r"no room to confirm trial \d"):
        lucky(definition(seeds=6), room=0)


def test_arrays_train_at_the_same_time_where_there_are_lanes(lucky: Confirming) -> None:
    """All of them begin at once, and one that is halved begins again beside them; the finding is the same."""
    meeting = threading.Barrier(2)

    class Meeting(TruthfulTrainer):
        def train_epoch(self) -> list[Record]:
            meeting.wait(60)
            return super().train_epoch()

    found = lucky(definition(), lanes=2, kind=Meeting)
    assert lucky.asked == [(8 * epoch, 40) for epoch in range(1, 6)]
    assert sorted(lucky.rates(lucky.made)) == [1e-3, 1e-3, 2e-3, 2e-3, 4e-3, 4e-3, 5e-2, 5e-2]
    assert (found["chosen"], found["winner"], found["smallest"]) == (1, "trial 1", "trial 1")
    more = lucky(definition(seeds=3), width=4, room=2, lanes=2)
    assert sorted(map(len, lucky.made[2:])) == [2, 2]
    assert more["winner"] == "trial 1"
    assert lucky.asked[-1] == (20, 20)


def test_a_trainer_that_fails_is_an_error_that_names_its_trials(lucky: Confirming) -> None:
    """Nothing of it is stored; and what says nothing fails too."""

    class Failing(TruthfulTrainer):
        def train_epoch(self) -> list[Record]:
            raise ValueError("no such word")

    class Silent(TruthfulTrainer):
        def evaluate(self) -> list[Any]:
            return [None] * len(self.held)

    for kind, said in ((Failing, "ValueError: no such word"), (Silent, "returned nothing")):
        with pytest.raises(SearchError, match=rf"trial 0, 1 cannot be confirmed: .*{said}.*; run `tuner confirm STUDY` again to go on"):
            lucky(definition(), kind=kind)
    assert lucky.runs.by_key() == {}


def test_figures_of_any_kind_of_number_are_stored_and_of_what_is_missing_no_noise_is_told(lucky: Confirming) -> None:
    """A trainer of somebody else counts in NumPy; and gives the entity alone."""

    class Counting(TruthfulTrainer):
        def evaluate(self) -> list[Any]:
            return [Scored(np.float32(one.objective), np.float32(1.0), {"entity": np.float32(0.5)}) for one in super().evaluate()]

        def tally(self) -> list[Any]:
            counted = [(np.array(one.stated), one.right) for one in super().tally()]
            return [StoryTally(stated, {name: np.array(counts) for name, counts in right.items()}) for stated, right in counted]

    found = lucky(definition(), kind=Counting)
    assert set(found["seed_noise"]) == {"component_accuracy", "entity"}
    assert found["seed_noise"]["entity"] == 0
    assert found["confirmed"][0]["component_accuracy"]["mean"] > 0.5


def test_a_tally_that_cannot_be_is_its_trainers_fault(lucky: Confirming) -> None:
    """More right than there is, or of fewer stories."""
    for given in ([101] * 20, [1] * 19):

        class Boasting(TruthfulTrainer):
            def tally(self, given: Any = given) -> list[Any]:
                return [StoryTally(one.stated, {**one.right, "value": given}) for one in super().tally()]

        with pytest.raises(SearchError, match="cannot be confirmed: TrainerNonsense: the trainer's tally has more value right"):
            lucky(definition(), kind=Boasting)


def test_inside_the_noise_there_is_no_winner(tmp_path: Path) -> None:
    """A leader no better than the baseline; one seed; no baseline at all: said in words, with the smallest that is not worse."""
    alike = Confirming(tmp_path, {5e-2: 0.9})
    found = alike(definition(seeds=4))
    assert (found["winner"], found["chosen"]) == (None, 0)
    assert found["differences"][0]["low"] < 0 < found["differences"][0]["high"]
    assert any(line.startswith("no winner: trial 0 is not better than every baseline beyond the noise") for line in told(found))
    assert f"the smallest model that is not worse beyond the noise: {found['smallest']}" in told(found)
    (tmp_path / "single").mkdir()
    single = Confirming(tmp_path / "single", {5e-2: 0.9})(definition(seeds=1))
    assert single["winner"] is None
    assert any("one fresh seed says nothing of the noise" in line for line in told(single))
    assert single["seed_noise"] is None
    assert single["smallest"] is None
    assert not any("smallest model" in line for line in told(single))


@pytest.mark.parametrize(("lr", "writes"), [(2e-3, True), (4e-3, False)])
def test_a_baseline_that_is_better_beyond_the_noise_is_named(lr: float, writes: bool, tmp_path: Path) -> None:
    """Also to whoever asks for the best; and whether it keeps its round trip, without which it could not have been chosen itself."""
    worse = Confirming(tmp_path, {1e-3: 0.9})
    worse.study.enqueue_trial({"lr": lr}, user_attrs={"baseline": "later"})
    known = {"definition": definition().model_dump(mode="json"), "most_frequent": NOTHING, "ceiling": NOTHING, "data": DATA}
    for name, value in known.items():
        worse.study.set_user_attr(name, value)
    found = worse(definition(seeds=3))
    assert (found["winner"], found["chosen"]) == (None, 0)
    (line,) = [line for line in told(found) if line.startswith("no winner: ")]
    assert line.startswith("no winner: later is better than trial 0 beyond the noise; -")
    assert line.endswith("against later" if writes else "against later, whose round trip is below the floor")
    assert not any("smallest model" in line for line in told(found)), "that would be no smaller than what is better"
    choice, writing = best_choice(f"sqlite:///{tmp_path}/t.db", "luck"), "" if writes else ", whose round trip is below the floor"
    assert choice.as_dict()["beaten_by"] == summarise(worse.study, "memory")["best"]["beaten_by"] == 3
    assert f"the baseline 'later' (trial 3) is better beyond the noise{writing}" in choice.said(None)


def test_what_an_earlier_version_concluded_is_concluded_anew(lucky: Confirming) -> None:
    """From the runs that there are, without another use of the test split; but not where more was asked for then."""
    found = lucky(definition())
    old = {name: value for name, value in found.items() if name != "announced"}
    lucky.study.set_user_attr("confirmed", {**old, "smallest": "nonsense"})
    assert lucky(definition(seeds=1))["smallest"] == "nonsense"
    lucky.patience = len(lucky.made) + 1
    with pytest.raises(KeyboardInterrupt):
        lucky(definition(seeds=4))
    lucky.patience, made, uses = math.inf, len(lucky.made), lucky.study.user_attrs[TEST_USES]
    assert lucky(definition()) == found
    assert (len(lucky.made), lucky.study.user_attrs[TEST_USES]) == (made, uses), "one that is under way is no part of it"
    lucky(definition(seeds=4))
    assert [use["concluded"] for use in lucky.study.user_attrs[TEST_USES]] == [True, True]


def test_a_baseline_that_the_search_had_no_time_for_is_confirmed_too(lucky: Confirming) -> None:
    """With the settings that it was put in with; it has no figure of the search."""
    lucky.study.enqueue_trial({"lr": 3e-3}, user_attrs={"baseline": "later"})
    found = lucky(definition())
    assert lucky.rates(lucky.made).count(3e-3) == 2
    entries = {entry["name"]: entry for entry in found["confirmed"]}
    assert (entries["notes"]["search_value"], entries["later"]["search_value"]) == (0.99, None)
    assert [gap["against"] for gap in found["differences"]] == ["notes", "later"]
    assert any(line.startswith("later  ") for line in told(found))
    assert lucky.study.trials[-1].state == TrialState.WAITING


def test_such_a_baseline_that_cannot_be_trained_is_left_out(lucky: Confirming) -> None:
    """It is told of, and holds nobody up; one that the search has ended would."""

    class Picky(TruthfulTrainer):
        def load(self, slot: int, hyperparameters: Hyperparameters) -> None:
            if hyperparameters.lr == 3e-3:
                raise ValueError("no such rate")
            super().load(slot, hyperparameters)

    lucky.study.enqueue_trial({"lr": 3e-3}, user_attrs={"baseline": "later"})
    found = lucky(definition(), kind=Picky)
    assert [entry["name"] for entry in found["confirmed"]] == ["trial 0", "trial 1", "trial 3", "notes"]
    assert found["winner"] == "trial 1"
    assert any(line.startswith("a baseline that the search has not ended is left out: trial 6 cannot") for line in lucky.told)
    assert found["left_out"].keys() == {"later"}
    assert found["left_out"]["later"].startswith("ValueError: no such rate (")
    text = "\n".join(told(found))
    assert "winner: trial 1, better than every baseline that can be trained; " in text
    assert "not compared with later: ValueError: no such rate" in text
    again = lucky(definition(), kind=Picky)
    assert (found["test_uses"], again["test_uses"]) == (1, 1), "nothing was scored the second time"


def test_a_baseline_whose_trainer_cannot_be_made_is_left_out_too(lucky: Confirming) -> None:
    """As what cannot be loaded is; where a leader's cannot, the error names the trial."""

    class Unmade(TruthfulTrainer):
        def __init__(self, made: list[list[tuple[float, int]]], slots: int, room: int = 100) -> None:
            if slots == 1:
                raise TrainerUnmade("no such size")
            super().__init__(made, slots, room)

    lucky.study.enqueue_trial({"lr": 3e-3}, user_attrs={"baseline": "later"})
    found = lucky(definition(seeds=1), width=4, kind=Unmade)
    assert found["left_out"] == {"later": "no such size"}
    with pytest.raises(SearchError, match="trial 0 cannot be confirmed: no such size; run `tuner confirm STUDY` again"):
        lucky(definition(seeds=2), width=1, kind=Unmade)


def test_a_baseline_that_cannot_be_trained_is_no_fault_of_those_beside_it(lucky: Confirming) -> None:
    """Two wait, of one shape, and one of them fails in its epoch: the other is compared. One that failed in the search is named, too."""

    class Picky(TruthfulTrainer):
        def train_epoch(self) -> list[Record]:
            if any(hp.lr == 3e-3 for hp in self.held):
                raise ValueError("no such rate")
            return super().train_epoch()

    marks: dict[str, Any] = {"baseline": "broken", "verdict": {"cause": "failed", "epoch": 1, "reason": "ValueError: once more"}}
    lucky.study.add_trial(create_trial(state=TrialState.FAIL, params={"lr": 0.07}, distributions={"lr": SPACE}, user_attrs=marks))
    lucky.study.enqueue_trial({"lr": 3e-3}, user_attrs={"baseline": "later"})
    lucky.study.enqueue_trial({"lr": 1e-3}, user_attrs={"baseline": "sound"})
    found = lucky(definition(), kind=Picky)
    assert [entry["name"] for entry in found["confirmed"]] == ["trial 0", "trial 1", "trial 3", "notes", "sound"]
    assert [(name, reason.partition(" (")[0]) for name, reason in found["left_out"].items()] == [
        ("broken", "ValueError: once more"),
        ("later", "ValueError: no such rate"),
    ]


def test_a_study_that_is_deleted_meanwhile_is_not_confirmed(lucky: Confirming) -> None:
    """SQLite gives its number to the next one, which must not have its runs."""

    class Deleted(TruthfulTrainer):
        def train_epoch(self) -> list[Record]:
            with contextlib.suppress(KeyError):  # by the array beside this one
                lucky.study._storage.delete_study(lucky.study._study_id)
            return super().train_epoch()

    with pytest.raises(StudyError, match="the study has been deleted while it was searched"):
        lucky(definition(), kind=Deleted)


def test_what_is_no_baselines_fault_leaves_none_out(lucky: Confirming) -> None:
    """A process that cannot be started is an error; the study has no finding."""

    class Gone(TruthfulTrainer):
        def load(self, slot: int, hyperparameters: Hyperparameters) -> None:
            if hyperparameters.lr == 3e-3:
                raise SearchError("a process that trains cannot be started")
            super().load(slot, hyperparameters)

    lucky.study.enqueue_trial({"lr": 3e-3}, user_attrs={"baseline": "later"})
    with pytest.raises(SearchError, match="cannot be started"):
        lucky(definition(), kind=Gone)
    assert standing(lucky.study) is None


def test_batches_are_no_part_of_a_models_size(tmp_path: Path) -> None:
    """Of two that are alike, with models of one size, the chosen one is the smallest, though the other has smaller batches."""
    alike = Confirming(tmp_path, {})
    lr, sizes = FloatDistribution(1e-4, 1e-1), CategoricalDistribution([8, 32])
    for value, batch in ((0.9, 32), (0.8, 8)):
        params = {"lr": 2e-3, "batch_size": batch}
        alike.study.add_trial(create_trial(value=value, params=params, distributions={"lr": lr, "batch_size": sizes}))
    made = definition(seeds=3).changed(search={"lr": {"low": 1e-4, "high": 1e-1}, "batch_size": {"choices": [8, 32]}})
    found = alike(made)
    assert found["smallest"] == f"trial {found['chosen']}"


def test_without_a_leader_nothing_is_confirmed(tmp_path: Path) -> None:
    """No baseline is trained either, and the test split is not used."""
    alone = Confirming(tmp_path, {})
    found = alone(definition())
    assert (found["confirmed"], alone.made, alone.told) == ([], [], [])
    assert TEST_USES not in alone.study.user_attrs
    assert told(found) == ["nothing was confirmed: no trial has finished above the floor on the round trip, baselines not counted"]


def test_before_anything_is_confirmed_the_best_trial_stands_in(tmp_path: Path) -> None:
    """Also a baseline; the summary says that nothing was confirmed."""
    study = Confirming(tmp_path, {1e-3: 0.9}).study
    chosen = best_of(study)
    assert chosen is not None
    assert (chosen[0].number, chosen[1]) == (1, None)
    for name, value in (("definition", definition().model_dump(mode="json")), ("most_frequent", {}), ("ceiling", {}), ("data", DATA)):
        study.set_user_attr(name, value)
    summary = summarise(study, "memory")
    assert summary["best"]["confirmed"] is None
    assert summary["confirmation"] is None
    assert best_of(optuna.create_study(direction="maximize")) is None


def test_a_real_study_is_confirmed_again_chosen_from_and_trained_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tuner search`, `tuner confirm --json`, `tuner best --format`, `tuner train --from`: one study through all of them."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        done = CliRunner().invoke(cli, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    (tmp_path / "tiny.toml").write_text(TINY)
    searched = json.loads(run("search", "tiny.toml", "--width", "4", "--json"))
    assert [entry["name"] for entry in searched["confirmation"]["confirmed"]][-1] == "slow"
    assert searched["best"]["confirmed"] in searched["confirmation"]["confirmed"]
    found = json.loads(run("confirm", "tiny", "--top", "2", "--seeds", "3", "--width", "4", "--json"))
    assert {len(entry["seeds"]) for entry in found["confirmed"]} == {3}
    assert len(found["confirmed"]) == 3
    assert found["test_uses"] == 2
    for entry in found["confirmed"]:
        for name in ("component_accuracy", "entity", "relation", "value", "exact"):
            assert 0 <= entry[name]["low"] <= entry[name]["mean"] <= entry[name]["high"] <= 1
        mean = sum(entry[role]["mean"] for role in ("entity", "relation", "value")) / 3
        assert entry["component_accuracy"]["mean"] == pytest.approx(mean)
    assert json.loads(run("status", "tiny", "--json"))["confirmation"] == found
    assert run("status", "tiny").count("test stories") == 1

    best = json.loads(run("best", "tiny", "--json"))
    assert best["trial"] == found["chosen"]
    assert json.loads(run("best", "tiny", "--format", "json")) == best
    settings = run("best", "tiny", "--format", "toml")
    assert f'"lr" = {best["hyperparameters"]["lr"]!r}' in settings
    printed = run("best", "tiny", "--format", "cli")
    by_options = json.loads(run("train", *shlex.split(printed), "--json"))
    by_study = json.loads(run("train", "--from", "tiny", "--json", "--checkpoint", "again.safetensors"))
    assert by_options["curve"] == by_study["curve"]
    assert by_study["evaluation"]["component_accuracy"] == best["value"], "the very run of the search"
    longer = json.loads(run("train", "--from", f"tiny:{best['trial']}", "--epochs", "3", "--num-stories", "40", "--json"))
    assert longer["epochs"] == 3
    refused = CliRunner().invoke(cli, ["train", "--from", "tiny", "--preset", "tinystories"])
    assert "give one of them" in str(refused.exception) + refused.output

    study = find_study(open_storage(DEFAULT_URL), "tiny")
    identity = study.user_attrs["identity"]
    study.set_user_attr("identity", {**identity, "model": {**identity["model"], "version": 0}})
    with pytest.raises(StudyError, match="exists with another model"):
        again("tiny", DEFAULT_URL, "cpu", None, Console(file=io.StringIO()), None)


TINY = """
[data]
source = "synthetic"
stories = 30
[budget]
trials = 4
epochs = 2
[search]
lr = { low = 1e-3, high = 1e-2, log = true }
[fixed]
hidden_dim = 16
batch_size = 16
num_rules = 2
[[baselines]]
name = "slow"
lr = 1e-3
[confirm]
top = 1
seeds = 2
"""


def test_the_audit_counts_stops_that_would_have_cost_a_good_trial() -> None:
    """Two of the best three of 30 were to be stopped and ran on; below twenty stops nothing is claimed."""
    study = optuna.create_study(direction="maximize")
    for number in range(30):
        marks: dict[str, Any] = {"audited": {"cause": "outpaced"}} if number >= 28 or number < 10 else {}
        study.add_trial(create_trial(value=number / 30, params={"lr": 1e-3}, distributions={"lr": SPACE}, user_attrs=marks))
    exploded = {"audited": {"cause": "outpaced"}}
    study.add_trial(create_trial(state=TrialState.PRUNED, params={"lr": 1e-3}, distributions={"lr": SPACE}, user_attrs=exploded))
    for value in (2.0, 3.0, 4.0):
        notes = {"baseline": "notes"}
        study.add_trial(create_trial(value=value, params={"lr": 1e-3}, distributions={"lr": SPACE}, user_attrs=notes))
    found = audit(study.get_trials())
    assert (found["stops"], found["wrong"]) == (13, 2)
    assert "too few to tell" in audit_line(found)
    assert "stopping is wrong in 3 to 18 % of cases" in audit_line({"stops": 40, "wrong": 3, "low": 0.0258, "high": 0.1789})


class Resumable:
    """A trainer whose runs are worth what they have learnt in so many epochs; notes how many each array has made by then."""

    def __init__(self, made: list[int], slots: int, room: int) -> None:
        self.slots: list[Hyperparameters] = [Hyperparameters()] * slots
        self.made, self.epochs, self.seconds, self.form = made, [0] * slots, {"training": 0.0}, "epoch"

    def load(self, slot: int, hyperparameters: Hyperparameters) -> None:
        """Takes a run."""
        self.slots[slot] = hyperparameters

    def held(self, slot: int) -> Held:
        """How many epochs it has made."""
        return Held({}, {self.form: self.epochs[slot]})

    def resume(self, slot: int, hyperparameters: Hyperparameters, held: Held) -> None:
        """Goes on from there."""
        self.slots[slot], self.epochs[slot] = hyperparameters, held.notes[self.form]

    def train_epoch(self) -> list[Record]:
        """One more of each."""
        self.epochs = [epoch + 1 for epoch in self.epochs]
        assert len(set(self.epochs)) == 1
        self.made.append(self.epochs[0])
        return [Record(epoch) for epoch in self.epochs]

    def evaluate(self) -> list[Scored]:
        """The more the longer it has trained."""
        pairs = zip(self.slots, self.epochs, strict=True)
        return [Scored(TRUTH[hp.lr] * epoch / 5 + hp.seed % 7 / 1000) for hp, epoch in pairs]

    def tally(self) -> list[StoryTally]:
        """As the truthful one."""
        truthful = TruthfulTrainer([], len(self.slots))
        truthful.held = self.slots
        return truthful.tally()


class Changed(Resumable):
    """One that cannot read what the version before has held."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.form = "step"


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_confirmation_that_is_broken_off_goes_on_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lanes: int) -> None:
    """To the same finding; nothing is left lying about. What cannot be read begins anew."""
    monkeypatch.setattr(kept, "KEEP_SECONDS", 0.0)
    monkeypatch.setattr(kept, "KEEP_SHARE", float("inf"))
    whole, held = sorted([*range(1, 6)] * 2), tmp_path / "held.safetensors"

    def begun(name: str) -> Confirming:
        (tmp_path / name).mkdir()
        return Confirming(tmp_path / name, {1e-3: 0.8, 2e-3: 0.75, 3e-3: 0.5})

    def broken_off(name: str) -> Confirming:
        one = begun(name)
        one.patience = 3 * lanes
        with pytest.raises(KeyboardInterrupt):
            one(definition(), lanes=lanes, kind=Resumable, halfway=held)
        assert sorted(one.made) == sorted([1, 2, 3] * lanes)
        one.made.clear()
        one.patience = math.inf
        return one

    straight = begun("straight")
    expected = straight(definition(), lanes=lanes, kind=Resumable)
    assert sorted(straight.made) == whole
    one = broken_off("one")
    assert one(definition(), lanes=lanes, kind=Resumable, halfway=held) == expected
    assert sorted(one.made) == sorted([3, 4, 5, *(range(1, 6) if lanes == 1 else (3, 4, 5))])
    assert not held.exists()
    changed = broken_off("changed")
    assert changed(definition(), lanes=lanes, kind=Changed, halfway=held) == expected
    assert sorted(changed.made) == whole
    damaged = broken_off("damaged")
    held.write_bytes(b"damaged")
    assert damaged(definition(), lanes=lanes, kind=Resumable, halfway=held) == expected
    assert sorted(damaged.made) == whole
    assert "cannot be gone on from" in "".join(damaged.told)
    wider = broken_off("wider")
    found = wider(definition(), width=8, lanes=lanes, kind=Resumable, halfway=held)
    assert found == expected, "side by side are those that are as far"
    assert sorted(wider.made) == sorted([3, 4, 5, *(range(1, 6) if lanes == 1 else ())])


class Breaking(Resumable):
    """Breaks once, after it has trained its third epoch."""

    broken: ClassVar[list[int]] = []

    def evaluate(self) -> list[Scored]:
        """Breaks."""
        if self.epochs[0] == 3 and not Breaking.broken:
            Breaking.broken.append(3)
            raise ValueError("no figures")
        return super().evaluate()


def test_what_failed_in_the_middle_of_an_epoch_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be gone on from as if that epoch had not been trained yet."""
    monkeypatch.setattr(kept, "KEEP_SECONDS", 0.0)
    monkeypatch.setattr(kept, "KEEP_SHARE", float("inf"))
    monkeypatch.setattr(Breaking, "broken", [])
    one, held = Confirming(tmp_path, {1e-3: 0.8, 2e-3: 0.75, 3e-3: 0.5}), tmp_path / "held.safetensors"
    with pytest.raises(SearchError, match="no figures"):
        one(definition(), width=8, kind=Breaking, halfway=held)
    one(definition(), width=8, kind=Breaking, halfway=held)
    assert one.made == [1, 2, 3, 3, 4, 5]
