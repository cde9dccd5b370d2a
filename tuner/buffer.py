"""A storage in front of Optuna's own: what this process is working on is served from memory and written in batches.

    own trials        created, claimed or adopted here and still running: read from memory, written by `flush` in one transaction
    everybody else's  read from the database, and only what may have changed since: what is new, and what had not ended yet

Optuna's cache reads every unfinished trial with all its reports again whenever a sampler or pruner looks at the study: with 64 running
trials of 200 reports each, one `ask` takes a second. Here it takes a query for what is new.

What is promised: a trial's end, and all that was said of it before, is durable when `set_trial_state_values` returns; what is said of a
running trial is durable after the next `flush`. Knows nothing of SQL.
"""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from tuner.errors import StorageAway
from tuner.patient import PatientStorage
from tuner.storage import Patience
from tuner.tables import (
    Fence,
    Row,
    Unfinished,
    count_begun,
    read_ended,
    read_trials,
    read_unfinished,
    take_over,
    write_rows,
)


@dataclass
class _Seen:
    """What is known of a study."""

    trials: dict[int, FrozenTrial] = field(default_factory=dict)
    """By id; those that have not ended and are not our own may be out of date."""
    unfinished: set[int] = field(default_factory=set)
    """The ids of those."""
    newest: int = -1
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)

    def add(self, trials: Iterable[FrozenTrial]) -> None:
        """Trials as they are now."""
        for trial in trials:
            self.trials[trial._trial_id] = trial
            self.newest = max(self.newest, trial._trial_id)
            if trial.state.is_finished():
                self.unfinished.discard(trial._trial_id)
            else:
                self.unfinished.add(trial._trial_id)
            for name, distribution in trial.distributions.items():
                self.distributions.setdefault(name, distribution)


class BufferedStorage(PatientStorage):
    """One process's view of a database that others may read and write too."""

    def __init__(self, backend: RDBStorage, patience: Patience | None = None) -> None:
        super().__init__(backend, patience)
        self.fence: str | None = None
        """An attribute of our own trials that others change only to take a trial from us; then we write nothing more to that trial."""
        self._seen: dict[int, _Seen] = {}
        self._own: dict[int, int] = {}  # trial id -> study id
        self._lost: set[int] = set()
        """The trials that were our own and somebody else has ended or taken: nothing is written of them any more."""
        self._attempted: dict[int, tuple[str, Any]] = {}
        """Attributes of our own trials that may have been set: the storage went away before it answered."""
        self._queue: list[Row] = []
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        self.flush()
        return {"backend": self.backend}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["backend"])  # type: ignore[misc]

    # ---- what is ours

    def owns(self, trial_id: int) -> bool:
        """Whether this running trial is our own."""
        return trial_id in self._own

    def take_over(self, trial: FrozenTrial, key: str, value: Any) -> bool:
        """Makes a running trial our own, and sets its attribute `key` to `value`, if that has not changed since the trial was read."""
        with self._lock:
            if not self.patience(take_over, self.backend, trial._trial_id, key, trial.user_attrs.get(key), value):
                self._let_go(trial._trial_id)
                return False
            self.adopt(trial._trial_id)
            return True

    def adopt(self, trial_id: int) -> FrozenTrial:
        """Makes a running trial our own, as somebody left it."""
        with self._lock:
            study_id = self._study_of(trial_id)
            seen = self._refresh(study_id)
            seen.add([super().get_trial(trial_id)])
            self._claim(study_id, trial_id)
            return seen.trials[trial_id]

    def flush(self, patience: Patience | None = None) -> list[int]:
        """Writes what is waiting, in one transaction; returns the trials that somebody else has ended or taken: of these nothing is.

        Args:
            patience: another than the storage's.
        """
        patience = patience or self.patience
        with self._lock:
            self._recall(patience)
            waiting, self._queue = self._queue, []
            if not waiting:
                return []
            try:
                lost = patience(write_rows, self.backend, waiting, self._fenced(waiting))
            except BaseException:
                self._queue = waiting + self._queue  # nothing was written: it waits on
                raise
            for trial_id in lost:
                self._let_go(trial_id)
            return lost

    def _fenced(self, rows: Sequence[Row]) -> Fence | None:
        """What the fence's attribute must be for these rows to be written, where it is known to be in the database."""
        if self.fence is None:
            return None
        changed = {row.trial_id for row in rows if row.kind == "user_attr" and row.key == self.fence}
        ids = {row.trial_id for row in rows if row.trial_id in self._own} - changed
        known = {trial_id: self._seen[self._own[trial_id]].trials[trial_id].user_attrs.get(self.fence) for trial_id in ids}
        return Fence(self.fence, {trial_id: value for trial_id, value in known.items() if value is not None})

    @property
    def waiting(self) -> int:
        """How many rows the next `flush` would write."""
        return len(self._queue)

    def begun(self, study_id: int) -> int:
        """How many trials of a study run or have ended, as it is now."""
        return self.patience(count_begun, self.backend, study_id)

    def unfinished(self, study_id: int, key: str) -> list[Unfinished]:
        """The trials of a study that run or wait, with an attribute of each, as the database has them now."""
        return self.patience(read_unfinished, self.backend, study_id, key)

    def as_now(self, study_id: int, trial_ids: Iterable[int]) -> list[FrozenTrial]:
        """These trials of others, and all that are new, read from the database; these in the order of their numbers."""
        with self._lock:
            wanted = set(trial_ids)
            seen = self._read(study_id, wanted)
            return sorted((seen.trials[trial_id] for trial_id in wanted), key=lambda trial: trial.number)

    def mark_own(self, key: str, value: Any, wait: bool = True) -> None:
        """Sets an attribute of all trials that are our own, if it is what we know; one whose is not has been taken from us.

        Args:
            wait: whether a storage that is away is waited for: meanwhile nobody else can use this one.
        """
        patience = self.patience if wait else Patience(seconds=0)
        with self._lock:
            try:
                self.flush(patience)
                for trial_id in list(self._own):
                    self._mark(trial_id, key, value, patience)
            except StorageAway:
                self.patience.back = time.time()  # nobody could be seen until now
                raise

    def _mark(self, trial_id: int, key: str, value: Any, patience: Patience) -> None:
        was = self._seen[self._own[trial_id]].trials[trial_id].user_attrs.get(key)
        self._attempted[trial_id] = key, value
        taken = patience(take_over, self.backend, trial_id, key, was, value)
        del self._attempted[trial_id]
        if taken:
            self._renew(trial_id, user_attrs={key: value})
        else:
            self._let_go(trial_id)

    def _recall(self, patience: Patience) -> None:
        """Looks whether attributes were set though no answer came: else our own would seem to be somebody else's."""
        for trial_id, (key, value) in list(self._attempted.items()):
            if trial_id in self._own and patience(self.backend.get_trial, trial_id).user_attrs.get(key) == value:
                self._renew(trial_id, user_attrs={key: value})
            del self._attempted[trial_id]

    @contextlib.contextmanager
    def together(self, trial_id: int) -> Iterator[None]:
        """What is said of a trial meanwhile is written as a whole, or, where this is interrupted, not at all."""
        with self._lock:
            try:
                yield
            except BaseException:
                self._queue = [row for row in self._queue if row.trial_id != trial_id]
                raise

    def _ours(self, trial_id: int) -> bool:
        """Whether this running trial is our own; UpdateFinishedTrialError for one that was and is somebody else's."""
        if trial_id in self._lost:
            raise UpdateFinishedTrialError(f"trial {trial_id} was ended or taken over by somebody else")
        return trial_id in self._own

    def _claim(self, study_id: int, trial_id: int) -> None:
        self._own[trial_id] = study_id
        self._lost.discard(trial_id)
        self._seen[study_id].unfinished.discard(trial_id)

    def _let_go(self, trial_id: int) -> None:
        study_id = self._own.pop(trial_id, None)
        self._queue = [row for row in self._queue if row.trial_id != trial_id]
        if study_id is not None:
            self._lost.add(trial_id)
            self._seen[study_id].unfinished.add(trial_id)

    def _study_of(self, trial_id: int) -> int:
        """The study of a trial; KeyError if there is no such trial."""
        for study_id, seen in self._seen.items():
            if trial_id in seen.trials:
                return study_id
        number = super().get_trial(trial_id).number
        found = (s._study_id for s in self.get_all_studies() if self._has(s._study_id, number, trial_id))
        return next(found)

    def _has(self, study_id: int, number: int, trial_id: int) -> bool:
        try:
            return self.get_trial_id_from_study_id_trial_number(study_id, number) == trial_id
        except KeyError:
            return False

    def _known(self, study_id: int) -> _Seen:
        return self._seen.setdefault(study_id, _Seen())

    def _refresh(self, study_id: int) -> _Seen:
        """Reads what is new and what had not ended; of our own nothing."""
        return self._read(study_id, self._known(study_id).unfinished)

    def _catch_up(self, study_id: int) -> _Seen:
        """Reads what is new and what has ended since; what others are still running may be out of date then."""
        unfinished = self._known(study_id).unfinished
        return self._read(study_id, self.patience(read_ended, self.backend, unfinished) if unfinished else set())

    def _read(self, study_id: int, trial_ids: set[int]) -> _Seen:
        """Reads these trials and all that are new."""
        seen = self._known(study_id)
        seen.add(self.patience(read_trials, self.backend, study_id, trial_ids, seen.newest))
        return seen

    def _change(self, trial_id: int, row: Row, **changes: Any) -> None:
        """A new version of one of our own trials, which waits to be written."""
        self._renew(trial_id, **changes)
        self._queue.append(row)

    def _renew(self, trial_id: int, **changes: Any) -> None:
        """A new version of one of our own trials; the old one may be in somebody's hands."""
        trials = self._seen[self._own[trial_id]].trials
        changed = copy.copy(trials[trial_id])
        for name, value in changes.items():
            setattr(changed, name, {**getattr(changed, name), **value})
        trials[trial_id] = changed

    # ---- trials, as Optuna asks for them

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """A new trial; our own if it runs at once."""
        with self._lock:
            trial = self.patience(self.backend._create_new_trial, study_id, template_trial)
            if trial.number != len(self._known(study_id).trials):
                self._catch_up(study_id)  # others have created some before: they are read before this one is the newest we know of
            self._known(study_id).add([trial])
            if trial.state == TrialState.RUNNING:
                self._claim(study_id, trial._trial_id)
            return trial._trial_id

    def set_trial_param(self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution) -> None:
        """A parameter, compatible with what it was in the study's other trials."""
        with self._lock:
            if not self._ours(trial_id):
                super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
                return
            seen = self._seen[self._own[trial_id]]
            known = seen.distributions.get(param_name) or self._refresh(self._own[trial_id]).distributions.get(param_name)
            if known is not None:
                check_distribution_compatibility(known, distribution)
            seen.distributions.setdefault(param_name, distribution)
            row = Row("param", trial_id, param_name, param_value_internal, distribution)
            value = distribution.to_external_repr(param_value_internal)
            self._change(trial_id, row, params={param_name: value}, _distributions={param_name: distribution})

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """A report."""
        with self._lock:
            if self._ours(trial_id):
                row = Row("report", trial_id, step, intermediate_value)
                self._change(trial_id, row, intermediate_values={step: intermediate_value})
            else:
                super().set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """An attribute of the user's."""
        with self._lock:
            if self._ours(trial_id):
                self._change(trial_id, Row("user_attr", trial_id, key, value), user_attrs={key: value})
            else:
                super().set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """An attribute of Optuna's."""
        with self._lock:
            if self._ours(trial_id):
                self._change(trial_id, Row("system_attr", trial_id, key, value), system_attrs={key: value})
            else:
                super().set_trial_system_attr(trial_id, key, value)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """The end of a trial, durable with all that was said of it; or its beginning, which makes it our own if nobody was faster."""
        with self._lock:
            if self._ours(trial_id):
                self.flush()
                self._ours(trial_id)  # raises if the flush has found that it is not any more
                done = self.patience(self._end, trial_id, state, values)
                study_id = self._own.pop(trial_id) if state.is_finished() else self._own[trial_id]
                self._known(study_id).add([self._ended(study_id, trial_id, state, values)])
                return done
            began = super().set_trial_state_values(trial_id, state, values)
            if began and state == TrialState.RUNNING:
                self.adopt(trial_id)
            return began

    def _end(self, trial_id: int, state: TrialState, values: Sequence[float] | None) -> bool:
        """Ends a trial of our own; it may have come through when the answer to an earlier attempt was lost."""
        try:
            return self.backend.set_trial_state_values(trial_id, state, values)
        except UpdateFinishedTrialError:
            found = self.backend.get_trial(trial_id)
            if found.state == state and found.values == (None if values is None else list(values)):
                return True
            raise

    def _ended(self, study_id: int, trial_id: int, state: TrialState, values: Sequence[float] | None) -> FrozenTrial:
        ended = copy.copy(self._seen[study_id].trials[trial_id])
        ended.values = ended.values if values is None else list(values)
        if state.is_finished():
            ended.state, ended.datetime_complete = state, datetime.now()
        return ended

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """From memory if it is our own or has ended."""
        with self._lock:
            if trial_id in self._own:
                return self._seen[self._own[trial_id]].trials[trial_id]
            known = (seen.trials[trial_id] for seen in self._seen.values() if trial_id in seen.trials)
            trial = next(known, None)
            return trial if trial is not None and trial.state.is_finished() else super().get_trial(trial_id)

    def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        """By number; asks the database for what may have changed, and of trials that run only where they are asked for."""
        with self._lock:
            ended_only = states is not None and TrialState.RUNNING not in states and TrialState.WAITING not in states
            seen = self._catch_up(study_id) if ended_only else self._refresh(study_id)
            trials = sorted(seen.trials.values(), key=lambda trial: trial.number)
            if states is not None:
                trials = [trial for trial in trials if trial.state in states]
            return copy.deepcopy(trials) if deepcopy else trials

    # ---- what else there is

    def delete_study(self, study_id: int) -> None:
        """KeyError if there is none."""
        with self._lock:
            for trial_id in [trial_id for trial_id, owner in self._own.items() if owner == study_id]:
                self._let_go(trial_id)
            self._seen.pop(study_id, None)
            super().delete_study(study_id)

    def remove_session(self) -> None:
        """Writes what is waiting and gives the connection back."""
        self.flush()
        super().remove_session()
