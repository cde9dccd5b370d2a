"""Trainers in processes of their own: on a CPU small models need the interpreter as long as their products take, and threads share it.

A process knows the data but no trials: each request brings the states that it needs, and the new states go back. So any process may train
any array, and nothing is lost with one that dies or is ended because it hangs: the next one begins from the same states.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, NamedTuple

import torch

from model.config import Hyperparameters, ModelShape
from model.corpus import Corpus
from model.sources import DataSource
from tuner.errors import SearchError
from tuner.failures import Elsewhere
from tuner.seam import Held, Scored
from tuner.wire import LOOK_SECONDS, Evaluated, Message, Recorded, Tallied, Wire, held, held_from, pack, scored

LEAVE_SECONDS = 5.0
"""So long a process has to end that has hung up."""


class Occupied(NamedTuple):
    """A slot in use."""

    hyperparameters: Hyperparameters
    held: Held


class RemoteTrainer:
    """A trainer whose work is done by another process; the states of its slots are here."""

    def __init__(self, processes: Processes, shape: ModelShape, slots: int) -> None:
        self._processes, self._shape = processes, shape
        self._slots: list[Occupied | None] = [None] * slots
        self._scores: list[Evaluated | None] = []
        self._seconds = Counter({"training": 0.0, "evaluating": 0.0})

    @property
    def seconds(self) -> Mapping[str, float]:
        """Those of the process."""
        return self._seconds

    @property
    def steps_an_epoch(self) -> int:
        """As the trainer counts them."""
        return int(self._ask("count", []).body["steps"])

    def _ask(self, call: str, slots: Sequence[Occupied | None], **more: Any) -> Message:
        notes, tensors = held({number: slot.held for number, slot in enumerate(slots) if slot is not None})
        settings = [None if slot is None else dataclasses.asdict(slot.hyperparameters) for slot in slots]
        return self._asked({"call": call, "slots": settings, "notes": notes, **more}, tensors)

    def _surely(self, call: str, slots: Sequence[Occupied | None], **more: Any) -> Message:
        """Asks, and asks again if the process died, for it need not have died of this.

        Raises:
            SearchError: another one died too.
        """
        for _ in range(2):
            try:
                return self._ask(call, slots, **more)
            except Killed as error:
                died: Exception = error
            except Elsewhere as error:
                if error.kind != "died":
                    raise
                died = error
        raise SearchError(f"{died}, twice, where nothing was trained; run it again to go on") from died

    def _asked(self, body: dict[str, Any], tensors: Mapping[str, torch.Tensor]) -> Message:
        here = {"shape": dataclasses.asdict(self._shape), "threads": torch.get_num_threads()}
        answer = self._processes.ask({**body, **here}, tensors)
        if "error" in answer.body:
            told, kind = answer.body["error"], answer.body["kind"]
            raise MemoryError(told) if kind == "no_room" else Elsewhere(told, kind)
        self._seconds.update(answer.body["seconds"])
        return answer

    def load(self, slot: int, hyperparameters: Hyperparameters) -> None:
        """Puts a new model into a slot."""
        answer = self._asked({"call": "hold", "slots": [dataclasses.asdict(hyperparameters)], "notes": {}}, {})
        self._slots[slot] = Occupied(hyperparameters, held_from(answer.body["notes"], answer.tensors)[0])

    def held(self, slot: int) -> Held:
        """The slot's whole state."""
        return self._occupied(slot).held

    def resume(self, slot: int, hyperparameters: Hyperparameters, held: Held) -> None:
        """Puts such a state into a slot; ValueError where the trainer does not go on from there."""
        try:
            self._surely("hold", [Occupied(hyperparameters, held)])
        except Elsewhere as error:
            if error.kind != "died":
                raise ValueError(str(error)) from error
            raise
        self._slots[slot] = Occupied(hyperparameters, held)

    def resize(self, keep: Sequence[int], slots: int) -> None:
        """Makes `slots` slots."""
        kept = [self._slots[slot] for slot in keep]
        self._slots = [*kept, *[None] * (slots - len(kept))]

    def train_epoch(self) -> list[Recorded | None]:
        """One epoch for all slots, and its evaluation, which is kept until it is asked for."""
        answer = self._ask("epoch", self._slots)
        for slot, state in held_from(answer.body["notes"], answer.tensors).items():
            self._slots[slot] = self._occupied(slot)._replace(held=state)
        self._scores = [one and Evaluated(**one) for one in answer.body["scores"]]
        return [one and Recorded(**one) for one in answer.body["records"]]

    def evaluate(self) -> list[Evaluated | None]:
        """The validation figures of the epoch before."""
        return self._scores

    def rehearse(self, steps: int) -> float:
        """Seconds a step of all slots."""
        return float(self._ask("rehearse", self._slots, steps=steps).body["seconds_a_step"])

    def tally(self) -> list[Tallied | None]:
        """What all slots get right on the test split."""
        return [one and Tallied(**one) for one in self._ask("tally", self._slots).body["tallies"]]

    def save(self, slot: int, path: Path, evaluation: Scored) -> None:
        """Writes the slot's model to a file; OSError where it cannot be written."""
        try:
            self._surely("save", [self._occupied(slot)], path=str(path.absolute()), evaluation=scored(evaluation))
        except Elsewhere as error:
            if error.kind == "os":
                raise OSError(str(error)) from error
            raise

    def _occupied(self, slot: int) -> Occupied:
        found = self._slots[slot]
        if found is None:
            raise ValueError(f"slot {slot} is free")
        return found


def module(name: str, *words: str) -> tuple[list[str], dict[str, str]]:
    """The command that runs a module of ours in a process of its own, and its environment.

    It finds modules where this process does: by itself `-m` looks first in the folder that it is started in, where a `model.py` may lie.
    """
    return [sys.executable, "-P", "-m", name, *words], {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}


class Killed(MemoryError):
    """A process was killed, as is done where memory runs short."""


class Process:
    """One process, which ends with this one, however that ends.

    Raises:
        SearchError: it cannot be started.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command, environment = module("tuner.remote_end", str(theirs.fileno()))
            try:
                self._process = subprocess.Popen(
                    command,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=sys.__stderr__,  # standard output is for what the command prints
                    env=environment,
                    start_new_session=True,  # ctrl-C is for this process, which then ends that one
                )
            except OSError as error:
                ours.close()
                raise SearchError(f"a process that trains cannot be started: {error}; run it again to go on") from error
        self._wire, self.setup = Wire(ours.detach()), list[bytes]()
        self._introduced = self._ready = self._asked = False

    def introduce(self) -> None:
        """Says what it will work with, if that has not been said."""
        if not self._introduced:
            self._say(self.setup)
            self._introduced = True  # not before: one that knows half of it waits for the rest for ever

    def begin(self) -> None:
        """Waits until it can train."""
        if not self._ready:
            self.introduce()
            self._hear()
            self._ready = True

    def ask(self, body: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Message:
        """Asks and waits for the answer. If anything comes between it is not used again, for it would answer the wrong question."""
        self.begin()
        self._say(pack(body, tensors))
        return self._hear()

    def _say(self, packed: Sequence[bytes]) -> None:
        self._asked = True
        try:
            self._wire.send(packed)
        except OSError as error:
            raise self._died() from error

    def _hear(self) -> Message:
        try:
            answer = self._wire.receive()
        except (EOFError, OSError) as error:
            raise self._died() from error
        self._asked = False
        return answer

    @property
    def alive(self) -> bool:
        """Whether it can be asked: it lives, and owes no answer but that it is ready."""
        return (not self._asked or (self._introduced and not self._ready)) and self._process.poll() is None

    def _died(self) -> Exception:
        self._wire.close()
        try:
            status = self._process.wait(LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            return Elsewhere("the process that trained it no longer answers", "died")
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        if not self._ready:
            return SearchError(f"a process that trains could not be started ({how}); what it said stands above; run it again to go on")
        if status == -signal.SIGKILL:
            return Killed("the process that trained it was killed, as is done where memory runs short")
        return Elsewhere(f"the process that trained it ended with {how}", "died")

    def end(self) -> None:
        """Ends it and what it has started, whatever they do."""
        self._wire.close()
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextlib.contextmanager
def ahead(number: int) -> Iterator[list[Process]]:
    """So many processes for `Processes` that begin before there are data; those that nobody has used end with the context."""
    begun: list[Process] = []
    try:
        for _ in range(number):
            begun.append(Process())
        yield begun
    finally:
        for process in begun:
            process.end()


class Processes:
    """Processes that train for a search, and do so until it leaves the context.

    Args:
        number: how many.
        trainer: the name of what trains.
        begun: some that have begun; what is used is taken from there.
    """

    def __init__(
        self, number: int, trainer: str, corpus: Corpus, device: str, data: DataSource, begun: list[Process] | None = None
    ) -> None:
        self._begun = [] if begun is None else begun
        self._setup = pack({"trainer": trainer, "corpus": corpus.content(), "device": device, "data": dataclasses.asdict(data)})
        self._number, self._all, self._free = number, set[Process](), SimpleQueue[Process]()

    def __enter__(self) -> Processes:
        try:
            for process in [self._started() for _ in range(self._number)]:
                process.introduce()
                self._free.put(process)
            for process in tuple(self._all):
                process.begin()
        except BaseException:
            self._end()
            raise
        return self

    def _started(self) -> Process:
        process = self._begun.pop() if self._begun else Process()
        if not process.alive:
            process.end()
            process = Process()
        self._all.add(process)
        process.setup = self._setup
        return process

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        for process in tuple(self._all):
            process.end()

    def make_trainer(self, shape: ModelShape, slots: int) -> RemoteTrainer:
        """A trainer with so many free slots."""
        return RemoteTrainer(self, shape, slots)

    def ask(self, body: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Message:
        """Has one of them answer; if all are busy, as soon as one is free. One that is dead by now has another in its place.

        Raises:
            MemoryError: it was killed.
            Elsewhere: it died otherwise.
            SearchError: none can be started.
        """
        process = self._next()
        try:
            if not process.alive:
                process = self._instead(process)
            return process.ask(body, tensors)
        finally:
            self._free.put(process)  # one step, which nothing can come between: see `_Thread.leave`

    def _next(self) -> Process:
        while True:
            with contextlib.suppress(Empty):
                return self._free.get(timeout=LOOK_SECONDS)

    def _instead(self, dead: Process) -> Process:
        dead.end()
        self._all.discard(dead)
        return self._started()
