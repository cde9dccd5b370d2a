"""Steps that are recorded and replayed, on the CPU: a tape that does again, operation by operation, what was done once.

Like a recording on a GPU it knows tensors by where they lie and numbers by what they were: whatever a step reads that is not among its
inputs, or that has moved since, shows as another result.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.config import Hyperparameters, LossWeights, ModelShape
from model.corpus import Corpus
from model.devices import settle
from model.replay import Inputs, Recorder, Replayed, Result, _own_workspaces
from model.trainer import FusedTrainer

SHAPE = ModelShape(hidden_dim=16, batch_size=8, max_rules=4)
PLAIN, WORDY = Hyperparameters(lr=3e-3, seed=1, epochs=8, num_rules=4), Hyperparameters(lr=1e-3, seed=2, epochs=8, num_rules=4, dropout=0.3)
PARSING = Hyperparameters(lr=1e-3, seed=3, epochs=8, num_rules=4, loss_weights=LossWeights(1.0, 0.5, 0.0, 0.0), clip_norm=0.1)


class Tape(TorchDispatchMode):
    """Operations as they are done, to be done again in the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.done.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def play(self) -> None:
        for func, args, kwargs, out in self.done:
            new = func(*args, **kwargs)
            if not func._schema.is_mutable:
                for old, fresh in zip(tree_leaves(out), tree_leaves(new), strict=True):
                    if isinstance(old, Tensor):
                        old.copy_(fresh)


class TapeRecorder:
    """Records by doing, and undoes what that did to a trainer's numbers."""

    def __init__(self) -> None:
        self.trainer: FusedTrainer | None = None
        self.recorded = self.played = 0

    def __call__(self, work: Callable[[], Result]) -> tuple[Callable[[], object], Result]:
        if self.trainer is None:
            raise RuntimeError("whose steps?")
        before = [buffer.clone() for buffer in self.trainer.store._state]
        tape = Tape()
        with tape:
            result = work()
        for buffer, was in zip(self.trainer.store._state, before, strict=True):
            buffer.copy_(was)
        self.recorded += 1

        def again() -> None:
            self.played += 1
            tape.play()

        return again, result


def refusing(_: torch.device) -> Recorder:
    """Has no room for any recording: all is done as it stands, in as many slots as where steps are recorded."""

    def refuse(work: Callable[[], Result]) -> tuple[Callable[[], object], Result]:
        raise torch.OutOfMemoryError("no room")

    return refuse


CHANGES: dict[int, Callable[[FusedTrainer], None]] = {
    0: lambda trainer: trainer.load(0, PARSING),
    2: lambda trainer: trainer.load(1, PLAIN),
    3: lambda trainer: trainer.load(0, WORDY),
    5: lambda trainer: trainer.resize([1], 1),
    6: lambda trainer: trainer.resize([0], 3),
}
"""What becomes of a trainer before some epochs: a refill, dropout and cycles that come and go, fewer slots in place, more elsewhere."""


@pytest.mark.parametrize("shortlist", [1024, 60])
def test_replayed_epochs_are_those_of_steps_as_they_stand(small_corpus: Corpus, shortlist: int) -> None:
    """Bit for bit; most steps are replays."""
    recorder = TapeRecorder()
    replaying = FusedTrainer(SHAPE, small_corpus, 2, shortlist=shortlist, recorder=lambda _: recorder)
    plain = FusedTrainer(SHAPE, small_corpus, 2, shortlist=shortlist, recorder=refusing)
    recorder.trainer = replaying
    for epoch in range(8):
        records = []
        for trainer in (replaying, plain):
            CHANGES.get(epoch, lambda _: None)(trainer)
            records.append(trainer.train_epoch())
        assert records[0] == records[1], epoch
        assert torch.equal(replaying.store.values, plain.store.values), epoch
        assert [each and each.figures for each in replaying.evaluate()] == [each and each.figures for each in plain.evaluate()]
        assert len(records[0]) == replaying.slots == plain.slots
    assert recorder.recorded > 3
    assert recorder.played > 4 * plain.steps_an_epoch


def test_slots_to_spare_change_no_number(small_corpus: Corpus) -> None:
    """Where steps are recorded there is room for a power of two: the losses are as without, to 1e-9 in float64."""
    trainers = [FusedTrainer(SHAPE, small_corpus, 3, dtype=torch.float64, recorder=recorder) for recorder in (refusing, lambda _: None)]
    assert [trainer.store.slots for trainer in trainers] == [4, 3]
    for trainer in trainers:
        trainer.load(1, WORDY)
        trainer.load(2, PARSING)
    for _ in range(2):
        for padded, plain in zip(*(trainer.train_epoch() for trainer in trainers), strict=True):
            assert (padded is None) == (plain is None)
            if padded is not None and plain is not None:
                assert padded.losses == pytest.approx(plain.losses, rel=1e-9)
                assert padded.gradient_norm == pytest.approx(plain.gradient_norm, rel=1e-9)


@pytest.mark.parametrize("slots", [1, 3])
def test_who_gives_all_slots_back_has_nothing_left(small_corpus: Corpus, slots: int) -> None:
    """Also of one: somebody else is to have the room."""
    trainer = FusedTrainer(SHAPE, small_corpus, slots, recorder=refusing)
    trainer.resize((), 0)
    assert trainer.store.slots == 0


def test_a_step_for_whose_recording_there_is_no_room_is_done_as_it_stands() -> None:
    """It is asked for again, less and less often; the results are the same."""
    asked, done = [], []

    def refuse(work: Callable[[], Result]) -> tuple[Callable[[], object], Result]:
        asked.append(work)
        raise torch.OutOfMemoryError("no room")

    def double(inputs: Any, kind: str) -> Tensor:
        done.append(kind)
        doubled: Tensor = 2 * inputs[0]
        return doubled

    replayed = Replayed[str, Tensor](lambda: refuse)
    for number in range(129):
        assert replayed(double, [torch.tensor(number)], "a").item() == 2 * number
    assert (len(asked), done) == (3, ["a"] * 129), "after 1, 64 and 128"
    replayed.forget()
    for number in range(3):
        assert replayed(double, [torch.tensor(number)], "a").item() == 2 * number
    assert len(asked) == 4


@pytest.mark.parametrize("said", ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"])
def test_no_room_is_understood_in_all_ways_that_torch_has_of_saying_it(said: str) -> None:
    """Such work is done without a recording; what else goes wrong is raised as it is. Of a trainer's methods: tests/tuner/test_memory."""

    def refuse(work: Callable[[], Result]) -> tuple[Callable[[], object], Result]:
        raise RuntimeError(said)

    replayed = Replayed[str, Tensor](lambda: refuse)
    assert [replayed(lambda inputs, kind: inputs[0], [torch.ones(1)], "a").item() for _ in range(2)] == [1.0, 1.0]
    said = "index out of range"
    assert replayed(lambda inputs, kind: inputs[0], [torch.ones(1)], "b").item() == 1.0
    with pytest.raises(RuntimeError, match=said):
        replayed(lambda inputs, kind: inputs[0], [torch.ones(1)], "b")


def test_recordings_have_workspaces_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuBLAS forgets its own before and after, also where a recording breaks off: another trainer's lies in that one's memory."""
    happened = list[str]()
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: happened.append("cleared"), raising=False)

    def broken() -> None:
        with _own_workspaces():
            happened.append("recorded")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert happened == ["cleared", "recorded", "cleared"]


def test_a_gpu_that_is_named_by_its_number_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no other."""
    chosen = list[torch.device]()
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name in ("cpu", "cuda", "cuda:1"):
        settle(torch.device(name))
    assert chosen == [torch.device("cuda:1")]


def test_each_kind_and_size_has_a_recording_of_its_own() -> None:
    """One call goes before the first replay of each; a replay reads the inputs of its call."""
    played: list[tuple[int, ...]] = []
    sizes: list[tuple[int, ...]] = []

    def record(work: Callable[[], Result]) -> tuple[Callable[[], object], Result]:
        result, size = work(), sizes[-1]

        def again() -> None:
            played.append(size)
            assert isinstance(result, Tensor)
            result.copy_(work())

        return again, result

    def total(inputs: Inputs, kind: int) -> Tensor:
        return inputs[0].sum() + inputs[1].sum() * kind

    replayed = Replayed[int, Tensor](lambda: record)
    for number in range(4):
        for size, kind in (((2,), 1), ((3,), 1), ((3,), 2)):
            sizes.append(size)
            given = [torch.full(size, float(number)), torch.tensor(number)]
            assert replayed(total, given, kind).item() == size[0] * number + number * kind
    assert sorted(played) == [(2,)] * 3 + [(3,)] * 6
