"""A search that is killed, interrupted, robbed of its snapshots or left by another process: nothing is lost, and the end is the same."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console

import tuner.snapshots
from model.corpus import load_corpus
from tests.kills import CONTENT, COUNTING, kill_often, outcome, request, search, started
from tests.tuner.scripted import scripted
from tests.tuner.test_failures import SPACE, Listener, Raises, plain
from tests.tuner.test_lanes import START
from tests.tuner.test_memory import Crowded, Small
from tests.tuner.test_search import definition
from tests.vehicle import light
from tuner.artifacts import Artifacts, Folder
from tuner.budget import seconds_of
from tuner.buffer import BufferedStorage
from tuner.climb import ENDLESS
from tuner.definition import validated
from tuner.errors import SnapshotError
from tuner.intake import Intake
from tuner.job import run_search
from tuner.observer import Observer, Several, Watched
from tuner.ownership import OWNER, owner
from tuner.seam import Held
from tuner.search import Search
from tuner.snapshots import Keeper, Seat
from tuner.states import SearchState, SlotState, read_state, write_state
from tuner.storage import open_storage
from tuner.study import find_study, open_study


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that nobody disturbed."""
    folder = tmp_path_factory.mktemp("straight")
    search(folder)
    return folder


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search that was killed when its sixth trial began."""
    folder = tmp_path_factory.mktemp("left") / "runs"
    kill_when(folder, "trial 5 starts")
    return folder


@pytest.fixture
def killed(left: Path, tmp_path: Path) -> Path:
    """A copy of it under the same name, which a storage's snapshots are known by."""
    return Path(shutil.copytree(left, tmp_path / "runs"))


def snapshots(folder: Path) -> list[Path]:
    """The states that lie in a search's folder, the oldest first."""
    return sorted(folder.glob("snapshots/**/seat-0/*.safetensors"))


def until(process: subprocess.Popen[str], text: str) -> None:
    """Reads what a search says up to a line with this text."""
    assert process.stderr is not None
    assert any(text in line for line in process.stderr), f"it never said {text!r}"


def kill_when(folder: Path, text: str) -> None:
    """Begins a search and kills it when it says this."""
    process = started(folder)
    until(process, text)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_killed_at_random_moments_it_comes_to_the_same_end(tmp_path: Path, straight: Path) -> None:
    """Trials, verdicts, curves and models bit for bit; fifty kills are `make soak`."""
    assert kill_often(tmp_path, kills=4, seed=7, within=2.0)["kills"] == 4
    search(tmp_path)
    assert outcome(tmp_path) == outcome(straight)
    assert not snapshots(tmp_path), "an ended search needs none"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_a_snapshot_and_the_usual_status(tmp_path: Path, number: signal.Signals) -> None:
    """The command line in the middle of its trials: what was trained up to the epoch it is in is kept, of the slower lane too.
    Ctrl-C: test_cli."""
    options = ["--num-stories", "30", "--epochs", "200", "--trials", "4", "--width", "4"]
    run = [sys.executable, "-c", COUNTING, "search", light(tmp_path), *options]
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under `nohup` it would not matter
    process = subprocess.Popen(run, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGHUP, before)
    for _ in range(8):
        until(process, "epoch of 4")
    process.send_signal(number)
    assert process.wait() == 128 + number
    newest = max((tmp_path / "runs/snapshots").glob("*/seat-0/*.safetensors"))
    state = read_state(newest)
    assert len(state.slots) == 4
    assert all(len(slot.curve) >= 2 for slot in state.slots.values())


def test_a_signal_that_comes_in_a_finaliser_ends_it_too() -> None:
    """What is raised there goes no further: a search that was told to end went on once in a while."""
    code = (
        "import signal, threading; from tuner.signals import Signals; s = Signals()\n"
        "class Last:\n    def __del__(self):\n        signal.raise_signal(signal.SIGTERM)\n"
        "try:\n    Last()\n    Last()\n    threading.Event().wait()\nfinally:\n    print('left', flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (143, "left\n", "")


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """Whatever it is doing."""
    code = (
        "import sys, signal; from tuner.signals import Signals; s = Signals()\n"
        "try:\n    signal.raise_signal(signal.SIGTERM)\nfinally:\n    signal.raise_signal(signal.SIGTERM)\n    print('still here')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (143, "")


def test_a_damaged_snapshot_is_told_of_and_the_older_one_serves(killed: Path, straight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut short, or of another version."""
    *_, newest = snapshots(killed)
    newest.write_bytes(newest.read_bytes()[:-100])
    said = io.StringIO()
    monkeypatch.setattr(tuner.snapshots, "KEEP_SECONDS", 0.0)
    run_search(request(killed, validated(CONTENT, "the test")), Console(file=said, width=500))
    assert f"{newest} cannot be read" in said.getvalue()
    assert "goes on after epoch" in said.getvalue()
    assert outcome(killed) == outcome(straight)


def test_without_any_snapshot_running_trials_begin_again_and_ended_ones_stay(killed: Path) -> None:
    """Nothing ended is lost, doubled or changed."""
    assert snapshots(killed)
    for path in snapshots(killed):
        path.unlink()
    study = find_study(open_storage(f"sqlite:///{killed}/tuner.db"), "killed")
    before = [t for t in study.get_trials() if t.state.is_finished()]
    assert before
    search(killed)
    after = study.get_trials()
    assert len(after) == CONTENT["budget"]["trials"]
    assert all(t.state.is_finished() for t in after)
    assert [after[t.number] for t in before] == before


def held(value: float) -> Held:
    """A slot's state."""
    return Held({"values": torch.full((3, 2), value)}, {"epoch": 2})


FIRST, SECOND = SlotState(1, ({"epoch": 1, "loss": float("nan")},), 0.5, held(1)), SlotState(3, (), 0.0, held(2))
STATE = SearchState("mark", 7, (0, 2), ((FIRST, SECOND),), (SlotState(4, (), 0.0, held(3)),), {}, (4, 6), (1,), (30, 20), (0,))


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Numbers, curves (NaN too) and the order of slots."""
    write_state(tmp_path / "s.safetensors", STATE)
    found = read_state(tmp_path / "s.safetensors")
    assert (found.study, found.epoch, found.past) == ("mark", 7, (0, 2))
    assert (found.width, found.lanes, found.clocks, found.under_way) == ((4, 6), (1,), (30, 20), (0,))
    assert [slot.trial for slot in found.arrays[0]] == [1, 3]
    assert [slot.trial for slot in found.waiting] == [4]
    assert repr(found.slots[1].curve) == repr(STATE.slots[1].curve)
    assert torch.equal(found.slots[3].held.tensors["values"], torch.full((3, 2), 2.0))


@pytest.mark.parametrize("content", [b"", b"\x80\x02pickle", b"{}", b"\xff" * 100])
def test_what_is_no_state_is_refused(tmp_path: Path, content: bytes) -> None:
    """With the file's name."""
    path = tmp_path / "s.safetensors"
    path.write_bytes(content)
    with pytest.raises(SnapshotError, match=r"s\.safetensors"):
        read_state(path)


def test_a_full_disk_leaves_the_older_state_and_is_told_of(tmp_path: Path) -> None:
    """The kernel refuses to write on (a limit on the size of files, which comes to the same); nothing half-written has a good name."""
    seat, said = Seat(tmp_path), []
    keeper = Keeper(seat, clock=lambda: 0.0, tell=said.append)
    keeper.hold(STATE)
    seat.wait()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        keeper.hold(SearchState("mark", 8, (), STATE.arrays))
        keeper.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert said
    assert "a snapshot could not be written" in said[0]
    seat.close()
    assert [path.name for path in (tmp_path / "seat-0").iterdir() if path.name != "lock"] == ["000007.safetensors"]


def test_seats_are_taken_once_and_free_after_a_death(tmp_path: Path) -> None:
    """Two in one process have two seats; what a seat left is found by the others when it is free."""
    one, other = Seat(tmp_path), Seat(tmp_path)
    assert (one.number, other.number) == (0, 1)
    other.write(STATE)
    other.wait()
    assert one.left_behind("mark") == {}
    other.close()
    assert sorted(one.left_behind("mark")) == [1, 3, 4]
    assert one.left_behind("another study") == {}
    one.close()


def leave(seat: Seat, state: SearchState) -> None:
    """Writes a state in a seat and gives it up."""
    seat.write(state)
    seat.wait()
    seat.close()


def test_of_what_two_seats_have_of_a_trial_the_later_is_gone_on_from(tmp_path: Path) -> None:
    """It was taken over once before: where its first owner left it still lies in his seat, whatever their numbers."""
    slot = STATE.arrays[0][0]
    for seats in ((5, 50), (50, 5)):
        folder = tmp_path / str(seats[0])
        first, *held = (Seat(folder) for _ in range(3))
        for seat, epochs in zip(held, seats, strict=True):
            curve = tuple({"epoch": epoch} for epoch in range(1, epochs + 1))
            leave(seat, SearchState("mark", 1, (), ((dataclasses.replace(slot, curve=curve),),)))
        assert len(first.left_behind("mark")[slot.trial].curve) == 50
        first.close()


def test_where_hosts_share_a_folder_a_seat_that_another_took_is_gone_on_from_the_artifacts(tmp_path: Path) -> None:
    """After both were ended they came back in another order: what the one had been training lies where the other writes now."""
    artifacts = Artifacts(Folder(tmp_path / "artifacts"), "mark")
    leave(Seat(tmp_path / "seats", artifacts), STATE)
    other = Seat(tmp_path / "seats", None)
    other.write(SearchState("mark", 99, (), ()))
    other.wait()
    again = Seat(tmp_path / "seats", artifacts)
    assert (other.number, again.number) == (0, 1)
    assert again.left_behind("mark", {(socket.gethostname(), 0)}).keys() == STATE.slots.keys()
    for seat in (other, again):
        seat.close()


def test_a_container_that_is_replaced_by_one_of_its_name_goes_on_from_the_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has none of its files. A folder of this machine is not asked: who removes the snapshots begins again."""
    artifacts = Artifacts(Folder(tmp_path / "artifacts"), "mark")
    leave(Seat(tmp_path / "first", artifacts), STATE)
    again = Seat(tmp_path / "second", artifacts)
    assert again.newest("mark") is None
    assert again.elsewhere("mark") is None
    monkeypatch.setattr(Artifacts, "remote", True)
    found = again.elsewhere("mark")
    assert found is not None
    assert found.slots.keys() == STATE.slots.keys()
    assert again.elsewhere("another study") is None
    again.close()


def test_seconds_are_counted_once_though_the_host_has_another_name_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a container has: what it noted before, and what its snapshot says, is the same."""
    monkeypatch.setattr(tuner.snapshots, "KEEP_SECONDS", 0.0)
    made = plain(budget={"trials": 8, "epochs": 3}, enqueue=[])
    for number in range(4):
        monkeypatch.setattr(socket, "gethostname", lambda number=number: f"container-{number}")
        with contextlib.suppress(KeyboardInterrupt):
            now = itertools.count()
            study, _, _ = scripted(tmp_path, made, 2, observer=Crash(2), clock=lambda now=now: float(next(now)))
    study = find_study(open_storage(f"sqlite:///{tmp_path}/tuner.db"), made.name)
    noted = [value for key, value in study.user_attrs.items() if key.startswith("seconds ")]
    assert len(noted) == 1
    assert seconds_of(study)["total"] == noted[0]["total"]


def test_a_trial_is_taken_over_once(tmp_path: Path) -> None:
    """Two processes that find the same dead one's trial: one gets it."""
    url = f"sqlite:///{tmp_path}/t.db"
    dead, *heirs = (BufferedStorage(open_storage(url)) for _ in range(3))
    study = optuna.create_study(storage=dead, study_name="s")
    number = study.ask().number
    dead.set_trial_user_attr(study.trials[0]._trial_id, "owner", {"pid": 1})
    dead.flush()
    seen = [optuna.load_study(study_name="s", storage=heir).get_trials()[number] for heir in heirs]
    assert heirs[0].take_over(seen[0], "owner", {"pid": 2})
    assert not heirs[1].take_over(seen[1], "owner", {"pid": 3})
    assert heirs[0].take_over(seen[0], "owner", {"pid": 2}), "it is asked again where the answer was lost"
    assert heirs[0].owns(seen[0]._trial_id)
    assert not heirs[1].owns(seen[0]._trial_id)
    heirs[0].set_trial_state_values(seen[0]._trial_id, TrialState.PRUNED)
    ended = optuna.load_study(study_name="s", storage=heirs[1]).get_trials()[number]
    assert ended.user_attrs["owner"] == {"pid": 2}
    assert not heirs[1].take_over(ended, "owner", {"pid": 4})


def test_states_of_another_study_of_the_name_do_not_crowd_out_new_ones(tmp_path: Path) -> None:
    """Higher numbers than the new search has come to: they go, its own stay."""
    seat = Seat(tmp_path)
    write_state(tmp_path / "seat-0" / "000500.safetensors", STATE)
    (tmp_path / "seat-0" / "000501.safetensors").write_bytes(b"of an older version")
    for epoch in range(3):
        seat.write(SearchState("new", epoch, (), ()))
        seat.wait()
    assert sorted(path.name for path in tmp_path.glob("seat-0/*.safetensors")) == ["000001.safetensors", "000002.safetensors"]
    seat.close()


@pytest.fixture
def every_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each state is written, and waited for: how many there are to lose does not depend on the disk, which need not have got them."""
    monkeypatch.setattr("model.files.os.fsync", lambda _: None)
    monkeypatch.setattr(tuner.snapshots, "KEEP_SECONDS", 0.0)
    monkeypatch.setattr(tuner.snapshots, "KEEP_SHARE", float("inf"))
    monkeypatch.setattr(Seat, "writing", False)


class Crash(Observer):
    """Ends the process's search after so many epochs, by an exception that nobody expects."""

    def __init__(self, epochs: int) -> None:
        self.to_go = epochs

    def epoch(self, search: Watched) -> None:
        """Counts down."""
        self.to_go -= 1
        if self.to_go == 0:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("every_state")
@pytest.mark.parametrize("lost", [0, 1])
def test_what_failed_fails_again_at_the_same_epoch(tmp_path: Path, lost: int) -> None:
    """Broken off after every epoch in turn, with the newest snapshot or without it: the same trials, the same ends."""
    made = plain(budget={"trials": 10, "epochs": 3}, search={"lr": SPACE["lr"], "hidden_dim": {"choices": [16]}})
    (tmp_path / "straight").mkdir()
    expected = [ending(t) for t in scripted(tmp_path / "straight", made, 3, Raises)[0].get_trials()]
    for epochs in range(1, 9):
        folder = tmp_path / str(epochs)
        folder.mkdir()
        with pytest.raises(KeyboardInterrupt):
            scripted(folder, made, 3, Raises, Crash(epochs))
        for path in sorted(folder.glob("snapshots/seat-0/*.safetensors"), reverse=True)[:lost]:
            path.unlink()
        assert [ending(t) for t in scripted(folder, made, 3, Raises)[0].get_trials()] == expected, epochs


class Order(Crash):
    """Which trials have made which epoch, one lane's after the other's; never ends it where it is told 0."""

    def __init__(self, epochs: int) -> None:
        super().__init__(epochs)
        self.seen: list[list[tuple[int, int]]] = []

    def epoch(self, search: Watched) -> None:
        """Notes them."""
        self.seen.append([(running.number, len(running.curve)) for running in search.advanced])
        super().epoch(search)


LANES = definition(
    search={"lr": {"low": 1e-3, "high": 2e-2, "log": True}, "hidden_dim": {"choices": [64, 32], "start": 32}},
    fixed={},
    budget={"trials": 26, "epochs": 5},
    seed=5,
    baselines=[{"name": "a", "lr": 1e-3, "hidden_dim": 64}],
)
"""Cheap first trials, steps, stops, and a baseline at the end."""


@pytest.mark.usefixtures("every_state")
@pytest.mark.parametrize("lost", [1, 3])
def test_lanes_come_to_the_same_end_without_the_newest_snapshots(tmp_path: Path, lost: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them, broken off three times over at every sixth epoch."""
    monkeypatch.setattr(tuner.snapshots, "KEPT", 8)
    straight = Order(0)
    (tmp_path / "straight").mkdir()
    expected = [ending(t) for t in scripted(tmp_path / "straight", LANES, 4, observer=straight, lanes=2)[0].get_trials()]
    for epochs in range(1 + lost, len(straight.seen), 6):
        folder = tmp_path / str(epochs)
        folder.mkdir()
        for _ in range(3):
            with contextlib.suppress(KeyboardInterrupt):
                scripted(folder, LANES, 4, observer=Crash(epochs), lanes=2)
            for path in sorted(folder.glob("snapshots/seat-0/*.safetensors"), reverse=True)[:lost]:
                path.unlink()
        assert [ending(t) for t in scripted(folder, LANES, 4, lanes=2)[0].get_trials()] == expected, epochs


@pytest.mark.parametrize("many", [2, 4])
@pytest.mark.usefixtures("every_state")
def test_lanes_go_on_in_the_same_order(tmp_path: Path, many: int) -> None:
    """Broken off after every epoch in turn: what comes then is what would have come, also while one lane is empty or under way."""
    made = LANES.model_copy(update={"budget": LANES.budget.model_copy(update={"trials": 14})})
    straight = Order(0)
    (tmp_path / "straight").mkdir()
    scripted(tmp_path / "straight", made, 6, observer=straight, lanes=many)
    for epochs in range(1, len(straight.seen) + 1):
        folder = tmp_path / str(epochs)
        folder.mkdir()
        with pytest.raises(KeyboardInterrupt):
            scripted(folder, made, 6, observer=Order(epochs), lanes=many)
        after = Order(0)
        scripted(folder, made, 6, observer=after, lanes=many)
        assert after.seen == straight.seen[epochs - 1 :], epochs


def test_a_search_that_had_to_be_narrow_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken off and gone on with: the width that there was room for is not tried out anew; what another width asks for is."""
    monkeypatch.setattr(tuner.snapshots, "KEEP_SECONDS", 0.0)
    made = plain(budget={"trials": 20, "epochs": 3}, search={"lr": SPACE["lr"], "hidden_dim": {"choices": [16]}}, enqueue=[])
    with pytest.raises(KeyboardInterrupt):
        scripted(tmp_path, made, 8, Small, Crash(2))
    listener = Listener()
    with pytest.raises(KeyboardInterrupt):
        scripted(tmp_path, made, 8, Small, Several(listener, Crash(2)))
    assert not [line for line in listener.told if "no room" in line]
    scripted(tmp_path, made, 16, Small, listener)
    assert [line for line in listener.told if "no room" in line]


def test_trials_that_have_no_room_when_they_are_gone_on_with_wait_where_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight train, and another program takes most of the device: two go on, six wait; none begins again."""
    monkeypatch.setattr(tuner.snapshots, "KEEP_SECONDS", 0.0)
    made = plain(budget={"trials": 8, "epochs": 3}, search={"lr": SPACE["lr"], "hidden_dim": {"choices": [16]}}, enqueue=[])
    with pytest.raises(KeyboardInterrupt):
        scripted(tmp_path, made, 8, observer=Crash(2))
    listener = Listener()
    study, trainers, curves = scripted(tmp_path, made, 8, Crowded, listener)
    assert "no room for 6 of the trials that go on; from now on 2 at once, the others wait" in listener.told
    assert {t.state for t in study.get_trials()} == {TrialState.COMPLETE}
    assert [len(curve) for curve in curves.read().values()] == [3] * 8
    assert [trainer.loads for trainer in trainers if trainer.loads] == [], "all are resumed"


@pytest.mark.usefixtures("every_state")
def test_from_long_before_the_first_trials_end_as_they_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots were free while none of them had ended; where it goes on from there some have, and they are filled as they were."""
    monkeypatch.setattr(tuner.snapshots, "KEPT", 1000)
    made = definition(**START, seed=5, budget={"trials": 30, "epochs": 8})
    straight = Order(0)
    (tmp_path / "straight").mkdir()
    expected = [ending(t) for t in scripted(tmp_path / "straight", made, 6, observer=straight, lanes=2)[0].get_trials()]
    for epochs in range(4, len(straight.seen), 4):
        folder = tmp_path / str(epochs)
        folder.mkdir()
        with pytest.raises(KeyboardInterrupt):
            scripted(folder, made, 6, observer=Crash(epochs), lanes=2)
        for path in sorted(folder.glob("snapshots/seat-0/*.safetensors"))[2:]:
            path.unlink()
        after = Order(0)
        found = [ending(t) for t in scripted(folder, made, 6, observer=after, lanes=2)[0].get_trials()]
        assert (found, after.seen[-1]) == (expected, straight.seen[-1]), epochs


def test_one_who_has_nothing_to_train_leaves_the_states_of_others(tmp_path: Path) -> None:
    """A trial of the study is under way with somebody else when the minutes are over: what lies in his seat is what he goes on from."""
    made = plain(budget={"trials": 1, "epochs": 3, "minutes": 1}, enqueue=[])
    storage = BufferedStorage(open_storage(f"sqlite:///{tmp_path}/tuner.db"))
    study = open_study(storage, made, load_corpus("synthetic", 30, 1))
    begin_elsewhere(study, 1)
    first = Seat(tmp_path / "snapshots")
    seat = Seat(tmp_path / "snapshots")
    seat.write(SearchState(study.user_attrs["mark"], 1, (), ()))
    seat.wait()
    seat.close()
    first.close()
    now = iter((0.0, *[100.0] * 1000))
    scripted(tmp_path, made, 2, clock=lambda: next(now))
    assert len(list(tmp_path.glob("snapshots/seat-1/*.safetensors"))) == 1


def test_who_dies_between_two_looks_leaves_no_trial_to_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alive when trials without a process were looked for, dead when it is asked whether others still train: it is looked for again."""
    made, lives, keep = plain(budget={"trials": 1, "epochs": 3}, enqueue=[]), [True], Search._keep
    begin_elsewhere(open_study(BufferedStorage(open_storage(f"sqlite:///{tmp_path}/tuner.db")), made, load_corpus("synthetic", 30, 1)), 1)

    def dies(search: Search) -> None:
        keep(search)
        lives.clear()

    monkeypatch.setattr(Search, "_keep", dies)
    monkeypatch.setattr("tuner.intake.alive", lambda *_: bool(lives))
    monkeypatch.setattr("tuner.search.POLL_SECONDS", 0.0)
    study, _, _ = scripted(tmp_path, made, 2)
    assert [t.state for t in study.get_trials()] == [TrialState.COMPLETE]


def test_a_seat_is_given_up_after_its_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever took it in between would overwrite the states of trials that he cannot take over yet."""
    mark, newcomers = BufferedStorage.mark_own, list[int]()

    def marked(self: BufferedStorage, *arguments: Any, **options: Any) -> None:
        with contextlib.closing(Seat(tmp_path / "snapshots")) as seat:
            newcomers.append(seat.number)
        mark(self, *arguments, **options)

    monkeypatch.setattr(BufferedStorage, "mark_own", marked)
    with pytest.raises(KeyboardInterrupt):
        scripted(tmp_path, plain(), 2, observer=Order(1))
    assert newcomers == [1]


def begin_elsewhere(study: optuna.Study, count: int) -> None:
    """So many trials that somebody on another machine trains."""
    storage = study._storage
    assert isinstance(storage, BufferedStorage)
    for _ in range(count):
        number = study.ask().number
        elsewhere = {"host": "elsewhere", "pid": 1, "started": "1", "seat": 1, "seen": time.time()}
        assert storage.take_over(study.get_trials()[number], OWNER, elsewhere)


@pytest.mark.parametrize(("begun", "width"), [(0, 10), (6, 4), (10, 2)])
def test_of_the_first_trials_a_second_worker_begins_those_that_are_left(tmp_path: Path, begun: int, width: int) -> None:
    """Then no more than it is wide."""
    made = definition(**START, budget={"trials": 40, "epochs": 3})
    storage = BufferedStorage(open_storage(f"sqlite:///{tmp_path}/tuner.db"))
    begin_elsewhere(open_study(storage, made, load_corpus("synthetic", 30, 1)), begun)
    order = Order(1)
    with pytest.raises(KeyboardInterrupt):
        scripted(tmp_path, made, 2, observer=order)
    assert [len(trials) for trials in order.seen] == [width]


def test_an_interruption_while_a_search_is_taken_up_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not hidden by what the end of a search needs and has not got yet."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Seat, "newest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scripted(tmp_path, plain(), 2)


def test_what_a_killed_run_spent_is_counted(killed: Path) -> None:
    """Up to its newest snapshot, and once, however often it is gone on with."""
    spent = read_state(snapshots(killed)[-1]).seconds
    assert spent["total"] > spent["training"] > 0
    study = find_study(open_storage(f"sqlite:///{killed}/tuner.db"), "killed")
    assert seconds_of(study) == {}
    search(killed)
    total = seconds_of(study)["total"]
    assert total > spent["total"]
    search(killed)
    assert total < seconds_of(study)["total"] < 2 * total


def test_what_was_taken_from_us_is_not_written_to_any_more(tmp_path: Path) -> None:
    """A process that slept for long: its reports and its end come too late, and the heir's stay."""
    url = f"sqlite:///{tmp_path}/t.db"
    slow, heir = (BufferedStorage(open_storage(url)) for _ in range(2))
    slow.fence = heir.fence = "owner"
    study = optuna.create_study(storage=slow, study_name="s")
    trial = study.ask()
    assert slow.take_over(study.get_trials()[0], "owner", {"pid": 1})
    trial.report(0.5, 1)
    assert slow.flush() == []
    (seen,) = optuna.load_study(study_name="s", storage=heir).get_trials()
    assert heir.take_over(seen, "owner", {"pid": 2})
    heir.set_trial_intermediate_value(seen._trial_id, 2, 0.25)
    assert heir.flush() == []
    trial.report(9.0, 2)
    with pytest.raises(UpdateFinishedTrialError, match="taken over by somebody else"):
        study.tell(trial.number, 9.0)
    assert not slow.owns(trial._trial_id)
    heir.set_trial_state_values(seen._trial_id, TrialState.COMPLETE, [0.125])
    (found,) = optuna.load_study(study_name="s", storage=BufferedStorage(open_storage(url))).get_trials()
    assert (found.value, found.intermediate_values) == (0.125, {1: 0.5, 2: 0.25})


def ending(trial: FrozenTrial) -> tuple[object, ...]:
    """What must be the same."""
    return trial.number, trial.params, trial.state, trial.values, trial.user_attrs["verdict"], trial.intermediate_values


def test_states_are_in_the_order_of_their_epochs_beyond_a_million(tmp_path: Path) -> None:
    """Their names have more digits then."""
    seat = Seat(tmp_path)
    for epoch in (999_998, 999_999, 1_000_000, 1_000_001):
        seat.write(SearchState("new", epoch, (), ()))
        seat.wait()
    newest = seat.newest("new")
    assert newest is not None
    assert newest.epoch == 1_000_001
    assert sorted(path.name for path in tmp_path.glob("seat-0/*.safetensors")) == ["1000000.safetensors", "1000001.safetensors"]
    seat.close()


def test_what_another_took_up_meanwhile_is_left_to_him(tmp_path: Path) -> None:
    """Between who looks for what the dead have left, and who has looked into their snapshots, which takes long."""
    url, made = f"sqlite:///{tmp_path}/t.db", definition(budget={"trials": 1, "epochs": 3}, baselines=[])
    here, there = (BufferedStorage(open_storage(url)) for _ in range(2))
    study = open_study(here, made, load_corpus("synthetic", 30, 1))
    dead = {"host": socket.gethostname(), "pid": 1, "started": "0", "seat": 7, "seen": 0.0}
    plain_storage = open_storage(url)  # with which nobody owns anything
    optuna.load_study(study_name=study.study_name, storage=plain_storage).add_trial(
        create_trial(state=TrialState.RUNNING, user_attrs={OWNER: dead})
    )
    other = optuna.load_study(study_name=study.study_name, storage=there)
    seat, elsewhere = Seat(tmp_path / "snapshots"), {**owner(3), "host": "elsewhere"}
    look = seat.left_behind

    def slowly(*asked: Any) -> Any:
        (trial,) = other.get_trials()
        assert there.take_over(trial, OWNER, elsewhere)
        return look(*asked)

    seat.left_behind = slowly  # type: ignore[method-assign]
    intake = Intake(study, here, made, seat, "cpu", steps=1, room=ENDLESS)
    assert intake.next(True, lambda *_: True) is None
    (trial,) = other.get_trials()
    assert trial.user_attrs[OWNER] == elsewhere
    assert not here.owns(trial._trial_id)
    seat.close()


def test_under_nohup_a_terminal_that_is_closed_ends_nothing() -> None:
    """Somebody has said that it is not to matter."""
    code = (
        "import signal; from tuner.signals import Signals\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); Signals(); signal.raise_signal(signal.SIGHUP); print('goes on')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "goes on\n", "")


def test_fewer_slots_than_before_are_enough_to_go_on(tmp_path: Path) -> None:
    """Where a machine has less memory than the one before; the trials that have to wait keep what they have learnt."""
    made = plain(search={"lr": SPACE["lr"]}, enqueue=[])
    with pytest.raises(KeyboardInterrupt):
        scripted(tmp_path, made, 6, observer=Order(2))
    study, trainers, _ = scripted(tmp_path, made, 2)
    assert {len(trainer.slots) for trainer in trainers} <= {0, 1, 2}
    assert max(width for trainer in trainers for width in trainer.widths) == 2
    assert [epoch for trainer in trainers for epoch in trainer.resumed] == [1] * 6
    assert all(trial.state == TrialState.COMPLETE for trial in study.get_trials())


def test_the_curves_of_a_state_may_be_longer_than_a_header(tmp_path: Path) -> None:
    """One of safetensors has room for a hundred million bytes."""
    curve = tuple({"epoch": epoch, "told": "x" * 10_000_000} for epoch in range(11))
    slot = SlotState(3, curve, 1.5, Held({"values": torch.ones(2)}, {"step": 7}))
    write_state(tmp_path / "s.safetensors", SearchState("mark", 7, (0, 1), ((slot,),), lanes=(0,)))
    found = read_state(tmp_path / "s.safetensors").slots[3]
    assert found.curve == curve
    assert found.held.notes == {"step": 7}
