"""The search: a real one on synthetic stories, its endings, its continuation, and its loop with a trainer that follows a script."""

import dataclasses
import io
import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from rich.console import Console

from model.checkpoint import load_checkpoint
from model.devices import find_device
from tests.tuner.scripted import ScriptedTrainer, Step, scripted
from tuner.definition import StudyDefinition, validated
from tuner.errors import StudyError
from tuner.job import run_search
from tuner.observer import Observer, Watched
from tuner.preparation import SearchRequest
from tuner.starters import decided
from tuner.storage import open_storage
from tuner.study import find_study
from tuner.summary import report
from tuner.warm import remembered

CONTENT: dict[str, Any] = {
    "name": "tiny",
    "data": {"source": "synthetic", "stories": 30, "seed": 1},
    "budget": {"trials": 6, "epochs": 3},
    "search": {"lr": {"low": 1e-4, "high": 1e-2, "log": True}, "hidden_dim": {"choices": [16, 32]}, "num_rules": {"choices": [2, 4]}},
    "fixed": {"batch_size": 16, "loss_weights.parse": 1.0},
    "pruning": {"explosion": {}, "plateau": {}, "halving": {"first": 1, "slack": 0.0, "least": 3}},
    "baselines": [{"name": "slow", "lr": 1e-4, "hidden_dim": 16, "num_rules": 2}],
    "confirm": {"top": 1, "seeds": 2},
}


def definition(**changes: Any) -> StudyDefinition:
    """A study of seconds."""
    return validated({**CONTENT, **changes}, "the test")


def request(tmp_path: Path, made: StudyDefinition, **changes: Any) -> SearchRequest:
    """A search in a folder of its own."""
    base = SearchRequest(made, f"sqlite:///{tmp_path}/tuner.db", 3, "cpu", None, False, tmp_path)
    return dataclasses.replace(base, **changes)


def quiet() -> Console:
    """A console that nobody reads."""
    return Console(file=open(os.devnull, "w"), force_terminal=False)


def ended(study: optuna.Study) -> list[tuple[Any, ...]]:
    """What must repeat: parameters, states, values, verdicts and curves."""
    trials = study.get_trials()
    return [(t.number, t.params, t.state, t.value, t.user_attrs["verdict"], t.intermediate_values) for t in trials]


def test_a_real_search_finds_stops_explains_and_repeats(tmp_path: Path) -> None:
    """Baselines first and in full, every ending with its verdict, the best trial's checkpoint loadable; twice the same, bit for bit."""
    studies = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made = request(tmp_path / name, definition())
        found = run_search(made, quiet())
        studies.append(find_study(open_storage(made.storage), "tiny"))
    trials = studies[0].get_trials()
    assert len(trials) == 6
    assert trials[0].user_attrs["baseline"] == "slow"
    assert trials[0].user_attrs["epochs_run"] == 3
    assert {t.state for t in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in trials:
        assert trial.user_attrs["verdict"]["reason"]
        assert len(trial.intermediate_values) == trial.user_attrs["epochs_run"]
    assert found.summary["epochs_run"] + found.summary["epochs_saved"] == 18
    assert found.summary["best"]["value"] == max(t.value for t in trials[1:] if t.state == TrialState.COMPLETE)
    confirmed = found.summary["best"]["confirmed"]
    assert len(set(confirmed["values"])) == 2 == len(set(confirmed["seeds"]) - {trial.user_attrs["seed"] for trial in trials})
    figures = load_checkpoint(Path(found.summary["best"]["checkpoint"]), find_device("cpu")).evaluate(None, None, "valid").figures
    assert figures["component_accuracy"] == found.summary["best"]["value"]
    assert ended(studies[0]) == ended(studies[1])


def test_a_finished_search_is_continued_by_a_larger_budget_only(tmp_path: Path) -> None:
    """The budget is the total; with another space it is another study; --fresh keeps the old one."""
    run_search(request(tmp_path, definition(budget={"trials": 2, "epochs": 1}), confirm=False), quiet())
    again = run_search(request(tmp_path, definition(budget={"trials": 2, "epochs": 1}), confirm=False), quiet())
    assert sum(again.summary["trials"].values()) == 2
    more = run_search(request(tmp_path, definition(budget={"trials": 4, "epochs": 1}), confirm=False), quiet())
    assert sum(more.summary["trials"].values()) == 4
    other = {**CONTENT["search"], "lr": {"low": 1e-4, "high": 1e-1, "log": True}}
    with pytest.raises(StudyError, match=r"another search: .*--name NAME.*--fresh"):
        run_search(request(tmp_path, definition(search=other, budget={"trials": 4, "epochs": 1}), confirm=False), quiet())
    with pytest.raises(StudyError, match="another budget"):
        run_search(request(tmp_path, definition(budget={"trials": 4, "epochs": 2}), confirm=False), quiet())
    fresh = run_search(request(tmp_path, definition(search=other, budget={"trials": 2, "epochs": 1}), fresh=True, confirm=False), quiet())
    assert fresh.summary["study"] == "tiny@synthetic-30.2"
    url = f"sqlite:///{tmp_path}/tuner.db"
    assert report(url, "tiny").summary["study"] == "tiny@synthetic-30.2"
    assert sum(report(url, "tiny@synthetic-30").summary["trials"].values()) == 4


def test_a_trial_below_the_floor_on_the_round_trip_is_never_best(tmp_path: Path) -> None:
    """It is complete but infeasible."""
    made = definition(budget={"trials": 2, "epochs": 1}, objective={"metric": "component_accuracy", "round_trip_floor": 1.0})
    found = run_search(request(tmp_path, made), quiet())
    assert found.summary["trials"] == {"finished": 2}
    assert found.summary["best"] is None
    study = find_study(open_storage(request(tmp_path, made).storage), found.summary["study"])
    ends = {trial.number: trial.intermediate_values[1] for trial in study.get_trials()}
    highest = max(ends, key=lambda number: (ends[number], -number))
    assert f"the highest so far is trial {highest}: component accuracy {100 * ends[highest]:.2f}%, round trip" in "\n".join(found.lines)
    assert found.lines[-1].startswith("next: tuner diagnose ")


def test_where_it_is_asked_for_the_best_is_confirmed_when_a_limit_ends_the_search(tmp_path: Path) -> None:
    """Some of eight trials have ended; but not where somebody stopped it."""
    made, said, stops = definition(budget={"trials": 8, "epochs": 1, "total_epochs": 2}), io.StringIO(), itertools.count()
    found = run_search(request(tmp_path, made, confirm_early=True), Console(file=said, force_terminal=False, width=200))
    assert sum(found.summary["trials"].values()) < 8
    assert found.summary["confirmation"]["chosen"] == found.summary["best"]["trial"]
    assert "not confirmed yet" not in said.getvalue()

    class Stopped(Console):
        def print(self, *what: Any, **how: Any) -> None:
            study = find_study(open_storage(request(tmp_path, made).storage), "tiny")
            study.set_user_attr("stop", str(next(stops)))
            super().print(*what, **how)

    stopped = io.StringIO()
    run_search(request(tmp_path, made, confirm_early=True), Stopped(file=stopped, force_terminal=False, width=200))
    assert "not confirmed yet" in stopped.getvalue()


def test_confirmation_can_be_left_out_and_waits_for_the_last_trial(tmp_path: Path) -> None:
    """--no-confirm; a search out of time says that the best is not confirmed; running it again confirms without training a trial."""
    said = io.StringIO()
    out_of_time = definition(budget={"trials": 2, "epochs": 1, "minutes": 1e-9})
    run_search(request(tmp_path, out_of_time), Console(file=said, force_terminal=False, width=200))
    assert "not confirmed yet" in said.getvalue()
    made = definition(budget={"trials": 2, "epochs": 1})
    found = run_search(request(tmp_path, made, confirm=False), quiet())
    assert found.summary["best"]["confirmed"] is None
    again = run_search(request(tmp_path, made), quiet())
    assert len(again.summary["best"]["confirmed"]["values"]) == 2
    assert again.summary["epochs_run"] == found.summary["epochs_run"] == 2
    assert any(line.startswith("confirmed with 2 fresh seeds, on") for line in again.lines)


def test_slots_are_refilled_in_place_and_arrays_never_idle(tmp_path: Path) -> None:
    """All slots are full until the budget is spent; an exploding trial frees its slot at once, with the reason."""
    made = definition(
        budget={"trials": 20, "epochs": 3}, search={"lr": {"low": 1e-4, "high": 1e-2}}, baselines=[], pruning={"explosion": {}}
    )
    study, (trainer,), curves = scripted(tmp_path, made, 4)
    trials = study.get_trials()
    assert len(trials) == 20
    for trial in trials:
        exploded = trial.params["lr"] > 5e-3
        assert trial.user_attrs["verdict"]["cause"] == ("exploded" if exploded else "finished")
        assert trial.state == (TrialState.PRUNED if exploded else TrialState.COMPLETE)
        assert len(curves.read(trial.number)[trial.number]) == trial.user_attrs["epochs_run"] == (2 if exploded else 3)
    assert {t.state for t in trials} == {TrialState.PRUNED, TrialState.COMPLETE}
    assert set(trainer.widths[: 20 * 2 // 4 - 1]) == {4}
    assert trainer.widths == sorted(trainer.widths, reverse=True)
    assert {slot for slot, _ in trainer.loads} == {0, 1, 2, 3}


def test_shapes_train_in_arrays_of_their_own(tmp_path: Path) -> None:
    """One trainer a shape; `num_rules` shares an array, with room for the largest."""
    study, trainers, _ = scripted(tmp_path, definition(pruning={}), 6)
    assert {trainer.shape.hidden_dim for trainer in trainers} == {t.params["hidden_dim"] for t in study.get_trials()}
    assert {trainer.shape.max_rules for trainer in trainers} == {4}


def test_an_audited_trial_runs_on_and_remembers_the_stop(tmp_path: Path) -> None:
    """With audit = 1 no stop but an explosion is carried out."""
    rules = {"halving": {"first": 1, "slack": 0.0, "least": 1}, "audit": 1.0}
    study, _, _ = scripted(tmp_path, definition(pruning=rules, search={"lr": {"low": 1e-4, "high": 4e-3}}, baselines=[]), 6)
    trials = study.get_trials()
    assert {t.state for t in trials} == {TrialState.COMPLETE}
    assert any("audited" in t.user_attrs for t in trials)


def test_the_sampler_learns_from_an_earlier_study(tmp_path: Path) -> None:
    """Higher rates score better with the scripted trainer: where an earlier study ended the next begins; another space is refused."""
    space = {"lr": {"low": 1e-4, "high": 4e-3}}
    plain = {"search": space, "baselines": [], "pruning": {}, "budget": {"trials": 6, "epochs": 1}}
    scripted(tmp_path, definition(**{**plain, "name": "earlier", "budget": {"trials": 30, "epochs": 1}}), 4)
    cold, _, _ = scripted(tmp_path, definition(**plain, name="cold", seed=5), 2)
    warm, _, _ = scripted(tmp_path, definition(**plain, name="warm", seed=5), 2, warm_start="earlier")
    means = [sum(t.params["lr"] for t in study.get_trials()) / 6 for study in (cold, warm)]
    assert means[1] > 3e-3 > means[0]
    assert len(warm.get_trials()) == 6
    other = definition(**{**plain, "search": {"lr": {"low": 1e-4, "high": 5e-3}}}, name="other")
    with pytest.raises(StudyError, match="another space"):
        scripted(tmp_path, other, 2, warm_start="earlier")
    with pytest.raises(StudyError, match="has begun already"):
        scripted(tmp_path, definition(**plain, name="cold", seed=5), 2, warm_start="earlier")


def test_what_learns_from_nothing_is_not_told_to(tmp_path: Path) -> None:
    """Random sampling learns from no earlier study; and of a budget that what is put in takes up it is said that nothing is searched."""
    first = {"name": "first", "lr": 1e-3, "hidden_dim": 16, "num_rules": 2}
    made = definition(budget={"trials": 1, "epochs": 1, "gpu_minutes": 5}, baselines=[], enqueue=[first])
    said = io.StringIO()
    run_search(request(tmp_path, made, confirm=False), Console(file=said, width=200))
    assert "1 trials are all for the 1 that the study puts in" in said.getvalue()
    assert "time on a CPU does not count towards gpu_minutes; --timeout limits it" in said.getvalue()
    with pytest.raises(StudyError, match='has sampler = "random", which learns from nothing; leave --warm-start out'):
        run_search(request(tmp_path, definition(sampler="random"), confirm=False, fresh=True, warm_start="tiny"), quiet())
    assert [name.partition("@")[0] for name in optuna.get_all_study_names(request(tmp_path, made).storage)] == ["tiny"]


def test_more_trials_make_none_that_has_begun_one_of_the_first(tmp_path: Path) -> None:
    """A quarter of twelve took what is cheap; that stays so with forty. But where only baselines had begun the first are still to come."""
    space = {"lr": {"low": 1e-4, "high": 4e-3}, "hidden_dim": {"choices": [16, 32], "start": 16}}
    notes = [{"name": f"notes {number}", "lr": 1e-3, "hidden_dim": 16} for number in range(3)]
    for folder, budgets, baselines in (("more", {12: 3, 40: 3}, []), ("one", {1: 0, 40: 0}, []), ("notes", {3: 0, 12: 3, 40: 3}, notes)):
        for trials, starters in budgets.items():
            made = definition(search=space, baselines=baselines, pruning={}, budget={"trials": trials, "epochs": 1})
            study, _, _ = scripted(tmp_path / folder, made, 2)
            assert len(study.get_trials()) == trials
            assert decided(made, study.user_attrs) == starters


def test_a_new_study_of_the_same_name_learns_from_the_one_before(tmp_path: Path) -> None:
    """It is looked for before the new one is begun; of its trials the older ones count as older."""
    made = definition(budget={"trials": 2, "epochs": 1})
    run_search(request(tmp_path, made, confirm=False), quiet())
    found = run_search(request(tmp_path, made, confirm=False, fresh=True, warm_start="tiny"), quiet())
    study = find_study(open_storage(request(tmp_path, made).storage), found.summary["study"])
    assert study.user_attrs["warm_start"].items() >= {"study": "tiny@synthetic-30", "trials": [0, 1]}.items()
    assert [trial.number for trial in remembered(study)] == [-2, -1]
    more = definition(budget={"trials": 3, "epochs": 1})
    again = run_search(request(tmp_path, more, confirm=False, warm_start="tiny"), quiet())
    assert (again.summary["study"], again.summary["trials"]) == (found.summary["study"], {"finished": 3})


class Joined(ScriptedTrainer):
    """While its first trial trains ten others end in another process, near the top."""

    study: ClassVar[Callable[[], optuna.Study]]

    def train_epoch(self) -> list[Step | None]:
        """And then its epoch."""
        study = Joined.study()
        if len(study.get_trials()) == 1:
            place = {"owner": {"host": "elsewhere", "pid": 1, "started": "1", "seat": 0, "seen": 0.0}}
            ended = {"intermediate_values": dict.fromkeys(range(1, 5), 0.9), "user_attrs": place, "value": 0.9}
            space = study.get_trials()[0].distributions
            study.add_trials([create_trial(params={"lr": 1e-4 + n * 1e-6}, distributions=space, **ended) for n in range(10)])
        return super().train_epoch()


def test_a_trial_is_compared_with_what_has_ended_in_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the next trial on: the first had none to be compared with."""
    monkeypatch.setattr(Joined, "study", lambda: find_study(open_storage(f"sqlite:///{tmp_path}/tuner.db"), "tiny"), raising=False)
    rules = {"halving": {"first": 1, "slack": 0.0}}
    plain = {"search": {"lr": {"low": 1e-4, "high": 2e-4}}, "baselines": [], "fixed": {"hidden_dim": 16, "num_rules": 2}}
    study, _, _ = scripted(tmp_path, definition(**plain, pruning=rules, budget={"trials": 13, "epochs": 4}), 1, Joined)
    own = [trial for trial in study.get_trials() if "verdict" in trial.user_attrs]
    assert [trial.state for trial in own] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED]
    assert re.search("1[01] of 11 others were better", own[1].user_attrs["verdict"]["reason"])


class Growing(ScriptedTrainer):
    """Its losses have a name more from the second epoch on."""

    def train_epoch(self) -> list[Step | None]:
        """The same epoch."""
        steps = super().train_epoch()
        for step in steps:
            step.losses = {"parse": 1.0, **({"cycle": 0.5} if step.epoch > 1 else {})}
        return steps


def test_a_component_that_is_not_given_in_every_epoch_ends_no_search(tmp_path: Path) -> None:
    """A trainer of somebody's own; the rules say nothing of it."""
    study, _, _ = scripted(tmp_path, definition(budget={"trials": 4, "epochs": 3}, pruning={"plateau": {"window": 3}}), 4, Growing)
    assert {trial.state for trial in study.get_trials()} == {TrialState.COMPLETE}


def test_grouping_does_not_bend_what_is_proposed(tmp_path: Path) -> None:
    """Drawn at random, the proposals are the same one at a time and eight at once, over two shapes."""
    drawn = []
    for width in (1, 8):
        folder = tmp_path / str(width)
        folder.mkdir()
        study, _, _ = scripted(folder, definition(sampler="random", baselines=[], budget={"trials": 20, "epochs": 2}), width)
        drawn.append([t.params for t in study.get_trials()])
    assert drawn[0] == drawn[1]
    assert len({params["hidden_dim"] for params in drawn[0]}) == 2


def test_no_more_is_asked_for_than_there_is_room(tmp_path: Path) -> None:
    """A sampler never proposes for more than the width ahead of what it has been told."""
    ahead: list[int] = []

    class Counting(Observer):
        def epoch(self, search: Watched) -> None:
            states = [t.state for t in search.study.get_trials(deepcopy=False)]
            ahead.append(sum(state == TrialState.RUNNING for state in states))

    scripted(tmp_path, definition(baselines=[], budget={"trials": 20, "epochs": 2}), 4, observer=Counting())
    assert max(ahead) <= 4


def test_what_learnt_from_a_study_that_is_gone_says_so(tmp_path: Path) -> None:
    """Also where another of its name has been begun since."""
    plain = {"search": {"lr": {"low": 1e-4, "high": 4e-3}}, "baselines": [], "pruning": {}}
    first = definition(**plain, name="earlier", budget={"trials": 4, "epochs": 1})
    study, _, _ = scripted(tmp_path, first, 2)
    more = definition(**plain, name="warm", budget={"trials": 4, "epochs": 1})
    warm, _, _ = scripted(tmp_path, definition(**plain, name="warm", budget={"trials": 2, "epochs": 1}), 2, warm_start="earlier")
    optuna.delete_study(study_name=study.study_name, storage=warm._storage)
    with pytest.raises(StudyError, match="learns from earlier@synthetic-30, which has been deleted; begin anew with --fresh"):
        scripted(tmp_path, more, 2)
    scripted(tmp_path, first, 2)
    with pytest.raises(StudyError, match="that has been deleted, not from this one"):
        scripted(tmp_path, more, 2)
