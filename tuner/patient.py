"""Optuna's storage over a database that may be away for a while: each call is repeated until it is back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from tuner.storage import Patience, asking
from tuner.tables import forget_records


class PatientStorage(BaseStorage):
    """Hands calls on to the database, for as long as its patience lasts; making trials and reading all of them is up to who inherits.

    Args:
        backend: the database.
        patience: what repeats a call while the database is away.
    """

    def __init__(self, backend: RDBStorage, patience: Patience | None = None) -> None:
        self.backend = backend
        self.patience = patience or Patience()

    def asking(self, study_id: int) -> AbstractContextManager[None]:
        """One process at a time, wherever it runs; see `storage.asking`."""
        return asking(self.backend, study_id, self.patience)

    # ---- studies

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """DuplicatedStudyError if there is one of the name."""
        study_id = self.patience(self.backend.create_new_study, directions, study_name)
        self.patience(forget_records, self.backend, study_id)
        return study_id

    def delete_study(self, study_id: int) -> None:
        """KeyError if there is none."""
        self.patience(self.backend.delete_study, study_id)
        self.patience(forget_records, self.backend, study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """KeyError if there is no such study."""
        self.patience(self.backend.set_study_user_attr, study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """KeyError if there is no such study."""
        self.patience(self.backend.set_study_system_attr, study_id, key, value)

    def get_study_id_from_name(self, study_name: str) -> int:
        """KeyError if there is none."""
        return self.patience(self.backend.get_study_id_from_name, study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        """KeyError if there is none."""
        return self.patience(self.backend.get_study_name_from_id, study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """KeyError if there is none."""
        return self.patience(self.backend.get_study_directions, study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """KeyError if there is none."""
        return self.patience(self.backend.get_study_user_attrs, study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """KeyError if there is none."""
        return self.patience(self.backend.get_study_system_attrs, study_id)

    def get_all_studies(self) -> list[FrozenStudy]:
        """All there are."""
        return self.patience(self.backend.get_all_studies)

    # ---- trials

    def set_trial_param(self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution) -> None:
        """A parameter, compatible with what it was in the study's other trials."""
        self.patience(self.backend.set_trial_param, trial_id, param_name, param_value_internal, distribution)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """A report."""
        self.patience(self.backend.set_trial_intermediate_value, trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """An attribute of the user's."""
        self.patience(self.backend.set_trial_user_attr, trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """An attribute of Optuna's."""
        self.patience(self.backend.set_trial_system_attr, trial_id, key, value)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Its beginning or its end; False if somebody else was faster to begin it."""
        return self.patience(self.backend.set_trial_state_values, trial_id, state, values)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """KeyError if there is none."""
        return self.patience(self.backend.get_trial, trial_id)

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """KeyError if there is none."""
        return self.patience(self.backend.get_trial_id_from_study_id_trial_number, study_id, trial_number)

    def remove_session(self) -> None:
        """Gives the connection back."""
        self.backend.remove_session()
