"""CUDA graphs for work that is repeated on tensors of a few shapes: captured once for each, then replayed with a single launch.

A step of a small model is a thousand small operations, and a GPU waits for the interpreter to launch each: a replay is one launch. It reads
its inputs at the addresses they had when it was recorded, so each recording has input memory of its own. On a CPU nothing is recorded.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from model.devices import out_of_room

Kind = TypeVar("Kind", bound=Hashable)
Result = TypeVar("Result")
Inputs = Sequence[Tensor]
AGAIN = 64
"""After so many times a recording for which there was no room is tried again."""


class Recorder(Protocol):
    """Records work; its recordings may share memory, for one is replayed after the other."""

    def __call__(self, work: Callable[[], Result]) -> tuple[Callable[[], object], Result]:
        """A function that does the work again, and where its result will then be. The work need not run for that.

        Raises:
            RuntimeError: there is no room for a recording; see `out_of_room`.
        """


class CudaRecorder:
    """Records on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = torch.device("cuda", device.index or 0)
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], Result]) -> tuple[Callable[[], object], Result]:
        """As a recorder does."""
        graph = torch.cuda.CUDAGraph()
        with (
            _nothing_collected(),
            _own_workspaces(),
            torch.cuda.stream(torch.cuda.current_stream(self._device)),  # whence we go on, also where recording breaks off
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            result = work()
        return graph.replay, result


@contextmanager
def _own_workspaces() -> Iterator[None]:
    """cuBLAS gets its workspaces anew, in the recording's own memory: torch keeps one for each stream, streams repeat, and what lies in the
    memory of another trainer's recordings is gone with those (as `torch._inductor.cudagraph_trees` does)."""
    torch._C._cuda_clearCublasWorkspaces()
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """No garbage is collected: a recording that is given up while another is made spoils it."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def recorder_for(device: torch.device) -> Recorder | None:
    """What records there; None on a CPU, which waits for nobody."""
    return CudaRecorder(device) if device.type == "cuda" else None


@dataclass(frozen=True)
class _Recording(Generic[Result]):
    """One recording and the memory of its inputs."""

    inputs: tuple[Tensor, ...]
    again: Callable[[], object]
    result: Result

    def __call__(self, inputs: Inputs) -> Result:
        for dtype in dict.fromkeys(held.dtype for held in self.inputs):  # tensors of one type are copied at once
            alike = [pair for pair in zip(self.inputs, inputs, strict=True) if pair[0].dtype == dtype]
            torch._foreach_copy_([held for held, _ in alike], [given for _, given in alike])
        self.again()
        return self.result


class Replayed(Generic[Kind, Result]):
    """Does work; where there is a recorder, from the second time for inputs of a kind and their sizes on as a replay.

    A result is valid until the next.
    """

    def __init__(self, make_recorder: Callable[[], Recorder | None]) -> None:
        """Nothing is recorded yet; `make_recorder` gives what records, or None."""
        self._make_recorder = make_recorder
        self._recorder = make_recorder()
        self._eager = Counter[Hashable]()
        self._recordings: dict[Hashable, _Recording[Result]] = {}

    @property
    def records(self) -> bool:
        """Whether anything ever is a replay."""
        return self._recorder is not None

    @property
    def before(self) -> int:
        """How many times go before one that is as quick as all later ones."""
        return 1 if self._recorder is None else 2

    def __call__(self, work: Callable[[Inputs, Kind], Result], inputs: Inputs, kind: Kind) -> Result:
        """The result of `work`. The first time it runs eagerly, so that what is created on first use is not created during a recording.

        Args:
            work: the same at every call. Whatever it reads or writes besides its inputs must stay at its address until `forget`.
        """
        if self._recorder is None:
            return work(inputs, kind)
        key = (kind, tuple((given.shape, given.dtype) for given in inputs))
        recording = self._recordings.get(key)
        if recording is None and _due(self._eager[key]):
            recording = _recorded(self._recorder, work, inputs, kind)
            if recording is not None:
                self._recordings[key] = recording
        if recording is not None:
            return recording(inputs)
        self._eager[key] += 1
        return work(inputs, kind)

    def forget(self) -> None:
        """Gives up all recordings: what they work with is elsewhere now."""
        self._eager.clear()
        self._recordings.clear()
        self._recorder = self._make_recorder()  # the memory that recordings shared is gone with the last of them


def _recorded(recorder: Recorder, work: Callable[[Inputs, Kind], Result], inputs: Inputs, kind: Kind) -> _Recording[Result] | None:
    try:
        held = tuple(given.clone() for given in inputs)
        return _Recording(held, *recorder(lambda: work(held, kind)))
    except RuntimeError as error:
        if not out_of_room(error):
            raise
        return None


def _due(times: int) -> bool:
    """Whether what has been done so many times is to be recorded: at once, and where there was no room less and less often."""
    return times == 1 or (times >= AGAIN and times.bit_count() == 1)
