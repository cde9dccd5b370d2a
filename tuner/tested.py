"""What a study remembers of its test split: every use, by a confirmation or by `tuner evaluate`. From the second one on it is announced."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError

from tuner.errors import NoStorage, StorageError
from tuner.halfway import Key
from tuner.storage import DEFAULT_URL, Patience, in_a_line, open_storage

TEST_USES = "test_uses"
"""The study's attribute that names the uses by confirmations: when, which trials with which seeds, and whether it came to a finding."""
EVALUATED = "evaluated_on_test:"
"""How the attributes begin that each name a model which was evaluated on the test split, and when; its digest follows."""
PATIENCE_SECONDS = 10.0
"""How long an evaluation goes on trying to reach a storage that is away."""

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


def end_use(study: optuna.Study, made: Mapping[int, Container[int]], counted: Mapping[int, Container[int]]) -> int:
    """Notes that the last confirmation has come to its end. Returns how often the test split has been used by now.

    Args:
        made: the seeds of the runs that have been scored, whenever that was, by trial.
        counted: those that the finding counts.
    """
    attributes = study.user_attrs
    if uses := list[Use](attributes.get(TEST_USES, [])):
        last = uses.pop()
        there = [(trial, seed) for trial, seed in last["runs"] if seed in made.get(trial, ())]
        if any(seed in counted.get(trial, ()) for trial, seed in there):
            last = {**last, "concluded": True}
        if there:  # else what was missing could not be trained
            uses.append(last)
        study.set_user_attr(TEST_USES, uses)
    return len(uses_of({**attributes, TEST_USES: uses}))


def digest_of(model: Path) -> str:
    """By which a model is known, whatever its file is called."""
    with model.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def note_evaluation(url: str, digest: str, model: Path, tell: Callable[[str], None], fingerprint: str) -> None:
    """Notes with every study of these data that a model is evaluated on their test split; the same model only once.

    Args:
        digest: see `digest_of`.
        tell: is told that a split is used again, or why nothing could be noted; not where the usual storage has never been made.
        fingerprint: of the data, as studies and checkpoints have it.
    """
    try:
        Patience(tell, PATIENCE_SECONDS)(_note, url, digest, model, tell, fingerprint)
    except NoStorage as error:
        if url != DEFAULT_URL:
            tell(f"the use of the test split is noted nowhere: {error}")
    except (StorageError, StorageInternalError) as error:  # the latter where a server's account may only read
        tell(f"the use of the test split is not noted ({in_a_line(error)}); evaluate again to have it noted")


def _note(url: str, digest: str, model: Path, tell: Callable[[str], None], fingerprint: str) -> None:
    storage, name, use = open_storage(url, create=False), EVALUATED + digest, {"at": _now(), "model": str(model.absolute())}
    for study in storage.get_all_studies():
        data = study.user_attrs.get("data")  # which another program may have called something else so
        if not isinstance(data, dict) or data.get("fingerprint") != fingerprint or name in study.user_attrs:
            continue
        try:
            storage.set_study_user_attr(study._study_id, name, use)
            attributes = storage.get_study_user_attrs(study._study_id)
        except KeyError:  # it is being deleted
            continue
        _announce(study.study_name, uses_of({key: value for key, value in attributes.items() if key != name}), tell)


def _announce(study_name: str, before: Sequence[Use], tell: Callable[[str], None]) -> None:
    if before:
        first = min(str(use["at"]) for use in before)[:10]
        tell(
            f"the test split of {study_name} is used again ({len(before) + 1} times by now, first on {first}): "
            "the more often its figures decide anything, the less they are worth"
        )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()
