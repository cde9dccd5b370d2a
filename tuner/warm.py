"""A sampler that also learns from the ended trials of an earlier study of the same space."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from tuner.errors import StudyError
from tuner.study import find_study

WARM = "warm_start"
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def remember(study: optuna.Study, storage: BaseStorage, earlier: str, distributions: dict[str, BaseDistribution]) -> None:
    """Notes in a study that is new which trials of an earlier one its sampler learns from.

    Raises:
        StudyError: there is none, it has another space, or the study has trials of its own already.
    """
    known = study.user_attrs.get(WARM)
    source = find_study(storage, earlier)
    if known is not None and source.study_name in (known["study"], study.study_name):
        return  # it goes on; by its name it is itself the newest that was named
    if any(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False)):
        raise StudyError(f"{study.study_name} has begun already; --warm-start is for a new study (--fresh begins one)")
    trials = [trial for trial in source.get_trials(deepcopy=False) if trial.state in ENDED]
    if not trials or any(trial.distributions != distributions for trial in trials):
        raise StudyError(f"{source.study_name} has another space than {study.study_name}, or no ended trials: there is nothing to learn")
    marked = {"study": source.study_name, "mark": source.user_attrs.get("mark"), "trials": [trial.number for trial in trials]}
    study.set_user_attr(WARM, marked)


def remembered(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that were noted.

    Raises:
        StudyError: their study is gone.
    """
    known: dict[str, Any] | None = study.user_attrs.get(WARM)
    if known is None:
        return []
    if known["study"] not in optuna.get_all_study_names(study._storage):
        raise StudyError(f"{study.study_name} learns from {known['study']}, which has been deleted; begin anew with --fresh")
    source = optuna.load_study(study_name=known["study"], storage=study._storage)
    if known.get("mark") not in (None, source.user_attrs.get("mark")):
        raise StudyError(f"{study.study_name} learns from a {known['study']} that has been deleted, not from this one; begin with --fresh")
    numbers = set(known["trials"])
    found = [trial for trial in source.get_trials() if trial.number in numbers]
    newest = max(numbers)
    for trial in found:
        # a sampler leaves out the trial that it samples for, which it knows by its number; and the older ones weigh less
        trial.number -= newest + 1
    return found


def sampler_for(kind: str, seed: int, earlier: Sequence[FrozenTrial], distributions: dict[str, BaseDistribution]) -> BaseSampler:
    """A sampler with this seed; TPE learns from these trials as if they were the study's own."""
    if kind == "random":
        return RandomSampler(seed=seed)
    return Remembering(seed, earlier, distributions) if earlier else TPESampler(seed=seed)


class Remembering(TPESampler):
    """TPE over the study's trials and some of an earlier one."""

    def __init__(self, seed: int, earlier: Sequence[FrozenTrial], distributions: dict[str, BaseDistribution]) -> None:
        super().__init__(seed=seed)
        self._earlier, self._distributions = list(earlier), distributions

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        """The whole space: the earlier trials have it."""
        return dict(self._distributions)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """As TPE does, from all of them."""
        both: Any = _Both(study, self._earlier)
        return super().sample_relative(both, trial, search_space)


class _Both:
    """A study as a sampler sees it, with trials of another before its own."""

    def __init__(self, study: optuna.Study, earlier: list[FrozenTrial]) -> None:
        self._study, self._earlier = study, earlier

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False) -> list[FrozenTrial]:
        own = self._study._get_trials(deepcopy=deepcopy, states=states, use_cache=use_cache)
        return [*(trial for trial in self._earlier if states is None or trial.state in states), *own]
