"""The storage that a search writes to: held to Optuna's own suite, on SQLite, and to what it promises beyond."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.testing.pytest_storages import StorageTestCase
from optuna.trial import TrialState
from sqlalchemy import event

import tuner.buffer
from tuner.buffer import BufferedStorage
from tuner.errors import StorageAway
from tuner.storage import open_storage
from tuner.tables import CurveTable, RunTable, read_trials, take_over

UNIFORM = optuna.distributions.FloatDistribution(0, 1)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[BaseStorage]:
    """A new one over a file."""
    buffered = BufferedStorage(open_storage(f"sqlite:///{tmp_path}/t.db"))
    yield buffered
    buffered.backend.engine.dispose()


class TestOptunasOwnSuite(StorageTestCase):
    """Every promise of Optuna's storages."""


def reading(storage: BufferedStorage) -> BufferedStorage:
    """What another process sees of the same database."""
    return BufferedStorage(open_storage(storage.backend.url))


def test_reports_are_read_at_once_and_written_by_flush(storage: BufferedStorage) -> None:
    """Nobody else sees them before; one transaction has all of them."""
    study = optuna.create_study(storage=storage, direction="maximize")
    trials = [study.ask({"x": UNIFORM}) for _ in range(3)]
    statements: list[str] = []
    event.listen(storage.backend.engine, "commit", lambda connection: statements.append("commit"))
    for trial in trials:
        for step in range(4):
            trial.report(0.1 * step, step)
        trial.set_user_attr("note", "here")
    assert not statements
    assert [len(t.intermediate_values) for t in study.get_trials(deepcopy=False)] == [4, 4, 4]
    assert [len(t.intermediate_values) for t in reading(storage).get_all_trials(study._study_id)] == [0, 0, 0]
    statements.clear()
    assert storage.flush() == []
    assert statements == ["commit"]
    for theirs, ours in zip(reading(storage).get_all_trials(study._study_id), study.get_trials(), strict=True):
        assert theirs == ours


def test_an_ended_trial_is_durable_at_once_with_all_that_was_said_of_it(storage: BufferedStorage) -> None:
    """Its last report and its attributes with its state."""
    study = optuna.create_study(storage=storage)
    trial = study.ask({"x": UNIFORM})
    trial.report(float("nan"), 3)
    trial.set_user_attr("verdict", {"cause": "exploded"})
    study.tell(trial, state=TrialState.PRUNED)
    found = reading(storage).get_all_trials(study._study_id)[0]
    assert found.state == TrialState.PRUNED
    assert found.user_attrs == {"verdict": {"cause": "exploded"}}
    assert list(found.intermediate_values) == [3]
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_user_attr(found._trial_id, "more", 1)


def test_what_others_create_and_end_is_seen(storage: BufferedStorage) -> None:
    """Also what they created before one of ours, whose id is larger."""
    study = optuna.create_study(storage=storage)
    mine = study.ask({"x": UNIFORM})
    theirs = optuna.load_study(study_name=study.study_name, storage=reading(storage))
    other = theirs.ask({"x": UNIFORM})
    later = study.ask({"x": UNIFORM})
    theirs.tell(other, 0.5)
    assert [t.state.name for t in study.get_trials()] == ["RUNNING", "COMPLETE", "RUNNING"]
    assert [t.number for t in study.get_trials()] == [mine.number, other.number, later.number]


def test_a_trial_that_somebody_else_ended_is_let_go(storage: BufferedStorage) -> None:
    """What we still say of it is not written, and we are told."""
    study = optuna.create_study(storage=storage)
    trial, kept = study.ask({"x": UNIFORM}), study.ask({"x": UNIFORM})
    other = reading(storage)
    other.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    trial.report(1.0, 1)
    kept.report(1.0, 1)
    assert storage.flush() == [trial._trial_id]
    assert [len(t.intermediate_values) for t in study.get_trials()] == [0, 1]
    assert study.get_trials()[0].state == TrialState.FAIL


def test_an_adopted_trial_goes_on_as_it_was_left(storage: BufferedStorage) -> None:
    """With its parameters and reports; from then on it is served from memory."""
    study = optuna.create_study(storage=storage)
    trial = study.ask({"x": UNIFORM})
    trial.report(0.5, 1)
    storage.flush()
    after = reading(storage)
    frozen = after.adopt(trial._trial_id)
    assert frozen.params == trial.params
    taken = optuna.trial.Trial(optuna.load_study(study_name=study.study_name, storage=after), trial._trial_id)
    taken.report(0.6, 2)
    assert after.get_trial(trial._trial_id).intermediate_values == {1: 0.5, 2: 0.6}
    assert reading(storage).get_trial(trial._trial_id).intermediate_values == {1: 0.5}


def test_an_ask_does_not_read_our_own_trials_again(storage: BufferedStorage) -> None:
    """The statements of an `ask` do not grow with the reports of running trials."""
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.TPESampler(seed=1))
    rows: list[int] = []
    event.listen(storage.backend.engine, "before_cursor_execute", lambda *arguments: rows.append(1))
    counts = []
    for reports in (1, 50):
        for _ in range(4):
            trial = study.ask({"x": UNIFORM})
            for step in range(reports):
                trial.report(step, step)
        rows.clear()
        study.ask({"x": UNIFORM})
        counts.append(len(rows))
    assert counts[0] == counts[1]


def test_of_a_trial_that_was_taken_from_us_nothing_is_written_any_more(storage: BufferedStorage) -> None:
    """However it is said, also after we have heard of it; should it come back to us, it is ours again."""
    storage.fence = "owner"
    study = optuna.create_study(storage=storage)
    number = study.ask({"x": UNIFORM}).number
    ours, heir = study.get_trials()[number], reading(storage)
    assert storage.take_over(ours, "owner", {"pid": 1})
    assert heir.take_over(heir.get_trial(ours._trial_id), "owner", {"pid": 2})
    storage.mark_own("owner", {"pid": 1, "seen": 2})
    trial_id = ours._trial_id
    for late in (
        lambda: storage.set_trial_user_attr(trial_id, "verdict", "late"),
        lambda: storage.set_trial_system_attr(trial_id, "late", 1),
        lambda: storage.set_trial_intermediate_value(trial_id, 1, 0.5),
        lambda: storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5]),
    ):
        with pytest.raises(UpdateFinishedTrialError):
            late()
    (there,) = reading(storage).get_all_trials(study._study_id)
    assert (there.state, there.user_attrs, there.intermediate_values) == (TrialState.RUNNING, {"owner": {"pid": 2}}, {})
    assert storage.take_over(there, "owner", {"pid": 1})
    storage.set_trial_user_attr(trial_id, "verdict", "in time")
    assert storage.flush() == []


def test_what_lay_under_a_deleted_study_is_not_the_next_ones(storage: BufferedStorage) -> None:
    """SQLite gives its id to the next study; whoever deletes it."""
    for by in (storage, storage.backend):
        study = optuna.create_study(study_name="first", storage=storage)
        curves, runs = CurveTable(storage.backend, study._study_id), RunTable(storage.backend, study._study_id)
        assert (curves.read(), runs.by_key()) == ({}, {})
        curves.add([(0, {"epoch": 1, "objective": 0.5})])
        runs.write([(0, 17, {"valid": {}})])
        by.delete_study(study._study_id)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
def test_trials_are_read_as_optuna_reads_them(storage: BufferedStorage, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of trial and value, all of them or those that may have changed."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    study = optuna.create_study(storage=storage)
    space = {
        "x": UNIFORM,
        "n": optuna.distributions.IntDistribution(1, 9),
        "c": optuna.distributions.CategoricalDistribution(("a", None, 2.5)),
    }
    for number in range(6):
        trial = study.ask(space if number else {})
        for step, value in enumerate((0.5, float("nan"), float("inf"), float("-inf"))):
            trial.report(value, step)
        trial.set_user_attr("note", {"deep": [number, None]})
        trial.set_constraint("c", 0.5)
        if number in (1, 2):
            study.tell(trial, float("inf") if number == 1 else 0.25)
        elif number == 3:
            study.tell(trial, state=TrialState.PRUNED)
    study.enqueue_trial({"x": 0.5})
    storage.flush()
    backend, number = storage.backend, study._study_id
    for among, beyond in ((set(), -1), ({1, 3, 6}, 4)):
        ours, theirs = read_trials(backend, number, among, beyond), backend._get_trials(number, None, among, beyond)
        assert [repr(trial) for trial in ours] == [repr(trial) for trial in theirs]  # a NaN equals nothing
    with pytest.raises(KeyError):
        read_trials(backend, 99, set(), -1)
    monkeypatch.undo()
    time.tzset()


def test_an_attribute_whose_answer_was_lost_is_not_somebody_elses(storage: BufferedStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The storage went away after it had written: what the next heart beat, or the next report, finds there is our own."""
    study = optuna.create_study(storage=storage)
    storage.fence = "owner"
    for after in ("beat", "report"):
        trial = study.ask()
        storage.mark_own("owner", {"seen": 1})

        def lost(*arguments: Any) -> bool:
            take_over(*arguments)
            raise sqlalchemy.exc.OperationalError("", {}, Exception("the server closed the connection"))

        with monkeypatch.context() as patch:
            patch.setattr(tuner.buffer, "take_over", lost)
            with pytest.raises(StorageAway):
                storage.mark_own("owner", {"seen": 2}, wait=False)
        if after == "beat":
            storage.mark_own("owner", {"seen": 3})
        trial.report(0.5, 1)
        assert storage.flush() == []
        assert storage.owns(trial._trial_id)
        study.tell(trial, 0.5)
        assert study.get_trials()[trial.number].user_attrs["owner"] == {"seen": 3 if after == "beat" else 2}
