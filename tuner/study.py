"""Studies in a storage: naming, beginning, continuing, finding. A study remembers what it was defined as and on which data.

A name is definition@data (`quick@synthetic-300`); `--fresh` appends a number and leaves the older study where it is.
"""

from __future__ import annotations

import importlib.metadata
import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from model.sources import DataSource
from tuner.buffer import BufferedStorage
from tuner.definition import StudyDefinition, validated
from tuner.errors import DefinitionError, StudyError

if TYPE_CHECKING:
    from model.corpus import Corpus

PLACES = 8
BASELINE = "baseline"
"""The attribute of a trial that names the baseline it is."""
VERDICT = "verdict"
"""The attribute of an ended trial that says why it ended."""
FIXED = "fixed_params"
"""Optuna's own attribute of a trial whose parameters somebody has said."""
OPTIONS = (
    "`tuner search STUDY` goes on with it as it is; else name the same options (--epochs, --seed) again, "
    "begin another study with --name NAME, or begin this one anew with --fresh (the old one stays)"
)
CHANGED = (
    "put it back as it was, use the version of tuner that began it, begin another study with --name NAME, "
    "or begin this one anew with --fresh (the old one stays)"
)
"""What to do where a study and what was asked for differ by an option, and where what a study was begun with has changed since."""


def _generations(storage: BaseStorage, base: str) -> list[str]:
    """The studies of a name, `base` and those that `--fresh` made, as they were begun; some may have been deleted."""
    found = [name for name in optuna.get_all_study_names(storage) if _generation(name, base) is not None]
    return sorted(found, key=storage.get_study_id_from_name)


def _generation(name: str, base: str) -> int | None:
    """Which one of its name a study is: `base` the first, `base.2` the second; None: it has another name."""
    above, _, number = name.rpartition(".")
    if name == base:
        return 1
    return int(number) if above == base and number.isdecimal() else None


def source_of(definition: StudyDefinition) -> DataSource:
    """Where a study's data come from, as trainers and checkpoints name it."""
    return DataSource(definition.data.source, definition.data.stories, definition.data.seed)


def open_study(
    storage: BufferedStorage, definition: StudyDefinition, corpus: Corpus, name: str | None = None, fresh: bool = False
) -> optuna.Study:
    """Begins the study, or continues the latest of its name.

    Raises:
        StudyError: a study of that name exists with another space, epochs, seed or data; or a new one cannot have this name.
    """
    base = f"{name or definition.name}@{corpus.name}"
    generations = _generations(storage, base)
    if generations and not fresh:
        study = optuna.load_study(study_name=generations[-1], storage=storage)
    else:
        if wrong := sorted(set("@:/").intersection(name or definition.name)):
            raise StudyError(f"a study cannot be called {name or definition.name!r}: {wrong[0]} is not allowed; name another with --name")
        last = max((_generation(name, base) or 0 for name in generations), default=0)
        chosen = base if not generations else f"{base}.{last + 1}"
        study = optuna.create_study(study_name=chosen, storage=storage, direction="maximize", load_if_exists=True)
    if not study.user_attrs.get("ready"):
        with storage.asking(study._study_id):  # somebody else may be setting it up, or have been killed at it
            if not study.user_attrs.get("ready"):
                _set_up(study, definition, corpus)
    check_same(study, definition, corpus)
    study.set_user_attr("definition", definition.model_dump(mode="json"))
    return study


def installed(package: str) -> str:
    """The version of a package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _set_up(study: optuna.Study, definition: StudyDefinition, corpus: Corpus) -> None:
    """Writes what a study must know of itself; `ready` comes last, so that a half-made one is made up for."""
    data = source_of(definition)
    attributes: dict[str, Any] = {
        "definition": definition.model_dump(mode="json"),
        "identity": definition.identity(),
        "data": {**vars(data), "name": corpus.name, "fingerprint": corpus.fingerprint},
        "most_frequent": corpus.most_frequent("valid"),
        "ceiling": corpus.ceiling("valid", PLACES),
        "mark": uuid.uuid4().hex,
        "tuner_version": installed("tuner"),
    }
    for key, value in attributes.items():
        study.set_user_attr(key, value)
    there = {trial.user_attrs.get("enqueued") for trial in study.get_trials(deepcopy=False)}
    for kind, trials in (("baseline", definition.baselines), ("enqueue", definition.enqueue)):
        for number, trial in enumerate(trials):
            label = f"{kind} {number}"
            marks = {"enqueued": label, **({BASELINE: trial["name"]} if kind == "baseline" else {"suggested": trial["name"]})}
            if label not in there:
                study.enqueue_trial(definition.point(trial), user_attrs=marks)
    study.set_user_attr("ready", True)


def check_data(study: optuna.Study, definition: StudyDefinition, corpus: Corpus, advice: str | None = None) -> None:
    """Whether a study was begun on these data.

    Args:
        advice: what to do if not; None: whatever helps `tuner search`.

    Raises:
        StudyError: it was not.
    """
    if study.user_attrs["data"]["fingerprint"] != corpus.fingerprint:
        own, asked = study.user_attrs["data"], vars(source_of(definition))
        changed = all(own[name] == asked[name] for name in asked)
        raise StudyError(f"the study {study.study_name} was begun on other data than these; {advice or _advice(study, changed)}")


def check_same(study: optuna.Study, definition: StudyDefinition, corpus: Corpus, advice: str | None = None) -> None:
    """Whether a study was begun on these data with this space, and with the model as it is.

    Args:
        advice: what to do if not; None: whatever helps `tuner search`.

    Raises:
        StudyError: it was not.
    """
    check_data(study, definition, corpus, advice)
    old, new = study.user_attrs["identity"], definition.identity()
    for section in new:
        if old.get(section) != new[section]:
            changed = definition_of(study).identity()[section] == new[section]
            raise StudyError(
                f"the study {study.study_name} exists with another {section}: {json.dumps(old.get(section))[:200]}, "
                f"not {json.dumps(new[section])[:200]}; {advice or _advice(study, changed)}"
            )


def _advice(study: optuna.Study, changed: bool) -> str:
    return CHANGED if changed else OPTIONS.replace("STUDY", study.study_name)


def feasible(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The complete trials whose constraints hold, the best first: by value, then by round trip, then the earlier."""
    sound = [t for t in trials if t.state == TrialState.COMPLETE and all(value <= 0 for value in t.constraints.values())]
    return sorted(sound, key=lambda t: (-(t.value or 0.0), t.constraints.get("round_trip", 0.0), t.number))


def subject_of(text: str) -> tuple[str, int | None]:
    """A `STUDY:TRIAL` taken apart; a `STUDY` names no trial."""
    name, colon, number = text.rpartition(":")
    return (name, int(number)) if colon and number.isdecimal() else (text, None)


def trial_of(study: optuna.Study, number: int) -> FrozenTrial:
    """The trial of this number.

    Raises:
        StudyError: there is none.
    """
    trials = study.get_trials(deepcopy=False)
    found = next((trial for trial in trials if trial.number == number), None)
    if found is None:
        raise StudyError(f"study {study.study_name} has no trial {number}; it has {len(trials)}, from 0 on")
    return found


def attributes_of(study: optuna.Study, mark: str | None) -> dict[str, Any]:
    """What a study knows of itself, which was opened when it had this mark.

    Raises:
        StudyError: it has been deleted since. SQLite gives its number to the next one.
    """
    try:
        attributes = study.user_attrs
    except KeyError:
        attributes = {"mark": "of none"}
    if attributes.get("mark") != mark:
        raise StudyError("the study has been deleted while it was searched; its models are still among the checkpoints")
    return attributes


def chance_of(study: optuna.Study) -> float:
    """The objective of always giving the most frequent answer."""
    return float(study.user_attrs["most_frequent"]["component_accuracy"])


def cause_of(trial: FrozenTrial) -> str:
    """The cause of an ended trial's verdict."""
    return str(trial.user_attrs.get(VERDICT, {}).get("cause", "failed"))


def reason_of(trial: FrozenTrial) -> str:
    """The reason of an ended trial's verdict, which it has none of where somebody else has ended it; empty for one that has not ended."""
    return str(trial.user_attrs.get(VERDICT, {}).get("reason", "nobody has said why" if trial.state.is_finished() else ""))


def epochs_of(trial: FrozenTrial) -> int:
    """How many epochs a trial has run, ended or not."""
    return max(int(trial.user_attrs.get("epochs_run", 0)), max(trial.intermediate_values, default=0))


def complete(study: optuna.Study, definition: StudyDefinition) -> bool:
    """Whether as many trials have ended as the budget has."""
    ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    return len(ended) >= definition.budget.trials


def find_study(storage: BaseStorage, name: str) -> optuna.Study:
    """The study of this full name, or the latest whose definition has this name, or is this file (a study has its file's name).

    Raises:
        StudyError: there is none.
    """
    names = optuna.get_all_study_names(storage)
    name = Path(name).stem if name.endswith(".toml") and name not in names else name
    ours = _called(names, name)
    if not ours:
        known = ", ".join(sorted(names)) or "none yet; `tuner search` begins one"
        above, _, trial = name.rpartition(":")
        hint = f"; for one trial: tuner diagnose {name}" if trial.isdecimal() and _called(names, above) else ""
        raise StudyError(f"there is no study {name!r} in the storage; there are: {known}{hint}")
    latest = name if name in names else max(ours, key=storage.get_study_id_from_name)
    return optuna.load_study(study_name=latest, storage=storage)


def gone_on_with(storage: BaseStorage, full_name: str) -> tuple[StudyDefinition, str]:
    """The definition of an existing study that is to be continued, by its full name (`quick@synthetic-300`); and its own name (`quick`).

    Raises:
        StudyError: there is none, or a newer one of its name is what would be continued.
    """
    study = find_study(storage, full_name)
    for base in (full_name, full_name.rpartition(".")[0]):
        if full_name in (generations := _generations(storage, base))[:-1]:
            raise StudyError(f"the study {full_name} is not the newest of its name; only {generations[-1]} can be continued")
    return definition_of(study), study.study_name.rpartition(f"@{study.user_attrs['data']['name']}")[0]


def _called(names: Sequence[str], name: str) -> list[str]:
    """The studies of this full name, or whose definitions have it."""
    return [found for found in names if found == name or found.startswith(f"{name}@")]


def definition_of(study: optuna.Study) -> StudyDefinition:
    """The definition a study was begun with.

    Raises:
        StudyError: the study was not made by this program, or not yet made whole.
    """
    attributes = study.user_attrs
    if "definition" not in attributes:
        raise StudyError(f"the study {study.study_name} was not begun by `tuner search`")
    if not {"data", "most_frequent", "ceiling", "mark"} <= attributes.keys():
        again = f"`tuner search {study.study_name.partition('@')[0]}` makes it whole"
        raise StudyError(f"the study {study.study_name} is just being made, or its making was interrupted: {again}")
    try:
        return validated(attributes["definition"], study.study_name)
    except DefinitionError as error:
        raise StudyError(
            f"the study {study.study_name} was begun by another version of this program, which this one cannot read ({error}); "
            "look at it with `tuner dashboard`, or begin anew with `tuner search --fresh`"
        ) from error
