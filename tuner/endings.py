"""What is stored when a trial ends: its model, its figures, its verdict and its state, in this order."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from model.errors import DeviceError
from tuner.artifacts import MODEL, PICTURE, Artifacts, curve_name
from tuner.buffer import BufferedStorage
from tuner.definition import StudyDefinition
from tuner.errors import SearchError
from tuner.failures import device_failures, in_words
from tuner.observer import Observer
from tuner.seam import Scored
from tuner.slots import Running
from tuner.study import VERDICT, feasible
from tuner.verdict import Verdict
from tuner.winner import candidates

FAILURES_IN_A_ROW = 5
"""So many failed trials with no other ending between them stop the search."""


class Endings:
    """Ends a study's trials.

    Args:
        keep: how many finished trials' models stay on disk, the best; None for all. As many as are confirmed stay in any case.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: BufferedStorage,
        definition: StudyDefinition,
        checkpoints: Path,
        artifacts: Artifacts,
        keep: int | None,
        observer: Observer,
    ) -> None:
        self._study, self._storage, self._definition = study, storage, definition
        self._checkpoints, self._artifacts, self._keep, self._observer = checkpoints, artifacts, keep, observer
        self._failures, self._trimmed = 0, set[int]()

    def store(self, running: Running, verdict: Verdict, save: Callable[[Path, Scored], None]) -> Verdict:
        """Stores the ending of a trial.

        Args:
            save: writes its model.

        Returns:
            The verdict as it is stored: one whose model cannot be saved has failed.

        Raises:
            SearchError: its model cannot be written, or too many trials have failed one after the other.
        """
        if isinstance(running.trial, FrozenTrial):
            raise ValueError(f"trial {running.number} had ended before")
        value, saved = running.objective[-1] if verdict.cause == "finished" else None, dict[str, Any]()
        try:
            if value is not None:
                saved = self._saved(running, save)
        except (SearchError, DeviceError):
            raise
        except Exception as error:  # noqa: BLE001  whatever a trainer raises is stored with the trial whose fault it is
            told = f"its model could not be saved: {in_words(error)}"
            verdict, value = Verdict("failed", len(running.curve), told), None
        try:
            self._say(running.trial, saved, running, verdict)
            state = {"failed": TrialState.FAIL, "finished": None}.get(verdict.cause, TrialState.PRUNED)
            self._study.tell(running.number, value, state=state)
        except UpdateFinishedTrialError:
            self._observer.noticed(f"trial {running.number} was ended by somebody else")
            self._observer.left(running)
            return verdict
        counts = value is not None and running.above(self._definition.objective.round_trip_floor)
        self._observer.ended(running, verdict, value if counts else None)
        if self._keep is not None and value is not None:
            self._trimmed |= trim(
                self._study,
                self._definition,
                self._checkpoints,
                self._artifacts,
                self._keep,
                self._observer.noticed,
                self._trimmed,
            )
        self._failures = self._failures + 1 if verdict.cause == "failed" else 0
        if self._failures >= FAILURES_IN_A_ROW:
            raise SearchError(f"{self._failures} trials failed one after the other, the last: {verdict.reason}; fix that and run it again")
        return verdict

    def _saved(self, running: Running, save: Callable[[Path, Scored], None]) -> dict[str, Any]:
        """Saves a finished trial's model; where."""
        if running.scored is None:
            raise ValueError(f"trial {running.number} was never evaluated")
        path = model_of(self._checkpoints, running.number)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with device_failures():
                save(path, running.scored)
        except OSError as error:
            raise SearchError(f"the model of trial {running.number} cannot be written ({error}); make room and run it again") from error
        try:
            self._artifacts.put(path.name, path)
        except OSError as error:
            self._observer.noticed(f"the model of trial {running.number} could not be put among the artifacts ({error}); it is in {path}")
        return {"checkpoint": str(path)}

    def _say(self, trial: Trial, saved: dict[str, Any], running: Running, verdict: Verdict) -> None:
        """All that can only be said of a trial before it has ended."""
        if saved and running.scored is not None:
            self._constrain(trial, "round_trip", self._definition.objective.round_trip_floor - running.scored.round_trip)
        if verdict.cause == "out_of_memory":
            self._constrain(trial, "memory", 1.0)  # the sampler keeps away from what cannot be trained
        figures = {"epochs_run": len(running.curve), "train_seconds": round(running.seconds, 3)}
        words = {"ended": f"{verdict.cause.replace('_', ' ')} after {len(running.curve)} epochs: {verdict.reason}"}
        for key, content in {**words, **figures, **saved, VERDICT: verdict.as_dict()}.items():
            trial.set_user_attr(key, content)
        models = [(Path(path).name, MODEL) for path in saved.values()]
        pictures = [(curve_name(trial.number), PICTURE)] if running.curve else []  # it is drawn later, beside the training
        for name, kind in (*models, *pictures):
            self._storage.set_trial_system_attr(trial._trial_id, *self._artifacts.attribute(name, kind))

    def _constrain(self, trial: Trial, name: str, value: float) -> None:
        """Sets a constraint, unless it was set before a kill."""
        if name not in self._storage.get_trial(trial._trial_id).constraints:
            trial.set_constraint(name, value)


def model_of(checkpoints: Path, number: int) -> Path:
    """Where a trial's model is."""
    return checkpoints / f"trial-{number}.safetensors"


def trim(
    study: optuna.Study,
    definition: StudyDefinition,
    checkpoints: Path,
    artifacts: Artifacts,
    keep: int,
    tell: Callable[[str], None],
    trimmed: Collection[int] = (),
) -> set[int]:
    """Removes the models of all but the best finished trials.

    Args:
        checkpoints: the study's folder of them: no other file is removed, whatever a row of the database says of where a model is.
        keep: how many stay; as many as are confirmed do in any case.
        trimmed: trials whose model is gone.

    Returns:
        Those of which it is gone now.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    best, removed = {trial.number for trial in (*feasible(trials)[:keep], *candidates(trials)[: definition.confirm.top])}, set[int]()
    for trial in trials:
        if trial.number not in best and trial.number not in trimmed and "checkpoint" in trial.user_attrs:
            path = model_of(checkpoints, trial.number)
            try:
                path.unlink(missing_ok=True)
                artifacts.remove(path.name)
                removed.add(trial.number)
            except OSError as error:
                tell(f"the model of trial {trial.number} could not be removed ({error})")
    return removed
