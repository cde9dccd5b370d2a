"""What a study remembers of its test split: every use, by a confirmation or by `tuner evaluate`. From the second one on it is announced."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError

from tuner.errors import NoStorage, StorageError
from tuner.halfway import Key
from tuner.storage import Patience, open_storage

TEST_USES = "test_uses"
"""The study's attribute that names the uses by confirmations: when, which trials with which seeds, and whether it came to a finding."""
EVALUATED = "evaluated_on_test:"
"""How the attributes begin that each name a model which was evaluated on the test split, and when; its digest follows."""
PATIENCE_SECONDS = 10.0
"""How long an evaluation waits for a storage that is away."""

Use = Mapping[str, Any]


def evaluations(attributes: Mapping[str, Any]) -> list[Use]:
    """The models that were evaluated on the test split of the study with these attributes, the first one first."""
    return sorted((use for name, use in attributes.items() if name.startswith(EVALUATED)), key=lambda use: str(use["at"]))


def uses_of(attributes: Mapping[str, Any]) -> list[Use]:
    """What counts as a use of it: evaluations, and confirmations that came to a finding. One under way has decided nothing yet."""
    return [*(use for use in attributes.get(TEST_USES, []) if use.get("concluded", True)), *evaluations(attributes)]


def begin_use(study: optuna.Study, runs: Sequence[Key], tell: Callable[[str], None]) -> None:
    """Notes that runs are about to be scored on the test split; none are no use.

    One that was interrupted has come to no finding and decided nothing: it goes on as this one, and is announced again only where models
    were evaluated since.
    """
    if not runs:
        return
    attributes = study.user_attrs
    uses, names, since = list[Use](attributes.get(TEST_USES, [])), list(map(list, runs)), ""
    earlier = uses_of(attributes)
    if uses and not uses[-1].get("concluded", True):
        interrupted = uses.pop()
        names += [name for name in interrupted["runs"] if name not in names]
        since = str(interrupted["at"])
    if any(use["at"] > since for use in earlier):
        _announce(study.study_name, earlier, tell)
    study.set_user_attr(TEST_USES, [*uses, {"at": _now(), "runs": names, "concluded": False}])


def after_use(attributes: Mapping[str, Any], made: Mapping[int, Container[int]], counted: Mapping[int, Container[int]]) -> list[Use]:
    """The uses by confirmations when the last one has come to its end.

    Args:
        made: the seeds of the runs that have been scored, whenever that was, by trial.
        counted: those that the finding counts.
    """
    uses = list[Use](attributes.get(TEST_USES, []))
    there = [(trial, seed) for trial, seed in uses[-1]["runs"] if seed in made.get(trial, ())] if uses else []
    if not there:
        return uses[:-1]  # what was missing could not be trained
    if any(seed in counted.get(trial, ()) for trial, seed in there):
        uses[-1] = {**uses[-1], "concluded": True}
    return uses


def note_evaluation(url: str, fingerprint: str, model: Path, tell: Callable[[str], None]) -> None:
    """Notes with every study of these data that a model is evaluated on their test split; the same model only once.

    Args:
        fingerprint: of the data, as studies and checkpoints have it.
        tell: is told that a split is used again, or why nothing could be noted; without a storage there is nothing to note it in.
    """
    try:
        Patience(seconds=PATIENCE_SECONDS)(_note, url, fingerprint, model, tell)
    except NoStorage:
        return
    except StorageError as error:
        tell(f"the use of the test split could not be noted: {error}")
    except StorageInternalError as error:  # as where a server's account may only read
        tell(f"the use of the test split could not be noted: {str(error.__cause__ or error).strip().partition(chr(10))[0]}")


def _note(url: str, fingerprint: str, model: Path, tell: Callable[[str], None]) -> None:
    storage, use = open_storage(url, create=False), {"at": _now(), "model": str(model.absolute())}
    with model.open("rb") as file:
        name = EVALUATED + hashlib.file_digest(file, "sha256").hexdigest()[:16]
    for study in storage.get_all_studies():
        attributes, data = study.user_attrs, study.user_attrs.get("data")  # which another program may have called something else so
        if not isinstance(data, dict) or data.get("fingerprint") != fingerprint or name in attributes:
            continue
        with contextlib.suppress(KeyError):  # it is being deleted
            storage.set_study_user_attr(study._study_id, name, use)
            _announce(study.study_name, uses_of(attributes), tell)


def _announce(study_name: str, before: Sequence[Use], tell: Callable[[str], None]) -> None:
    if before:
        first = min(str(use["at"]) for use in before)[:10]
        tell(
            f"the test split of {study_name} is used again ({len(before) + 1} times by now, first on {first}): "
            "the more often its figures decide anything, the less they are worth"
        )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()
