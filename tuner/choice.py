"""A trial as something that can be run: its settings as options of `tuner train`, as a preset's file, as JSON."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna

from tuner.definition import SYMMETRIC, StudyDefinition
from tuner.errors import StudyError, TunerError
from tuner.storage import open_storage
from tuner.study import BASELINE, definition_of, find_study, reason_of, subject_of, trial_of
from tuner.winner import beaten_by, below_floor, best_of, standing

LINE = 100


@dataclass(frozen=True)
class Choice:
    """A trial of a study.

    Args:
        data: as the study has it: source, stories, seed.
        confirmed: its figures with fresh seeds, if it has been confirmed.
        suggested: what it was called by whoever put it in, a baseline's name too; None: it was searched.
        beaten_by: the number of a baseline that is better beyond the noise with fresh seeds, and what is said of it.
    """

    study: str
    trial: int
    value: float | None
    settings: Mapping[str, Any]
    seed: int
    epochs: int
    data: Mapping[str, Any]
    checkpoint: str | None
    confirmed: Mapping[str, Any] | None = None
    suggested: str | None = None
    trainer: str = SYMMETRIC
    beaten_by: tuple[int, str] | None = None

    def check_own(self) -> None:
        """Whether `tuner train` can train it.

        Raises:
            TunerError: the study has a trainer of its own.
        """
        if self.trainer != SYMMETRIC:
            raise TunerError(f"{self.study} is trained by {self.trainer!r}; tuner train trains the symmetric model alone")

    def as_dict(self) -> dict[str, Any]:
        """As `tuner best --json` prints it."""
        own = {"trial": self.trial, "value": self.value, "hyperparameters": dict(self.settings), "seed": self.seed, "epochs": self.epochs}
        data = {name: self.data[name] for name in ("source", "stories", "seed")}
        beaten_by = None if self.beaten_by is None else self.beaten_by[0]
        more = {"confirmed": self.confirmed, "suggested": self.suggested, "beaten_by": beaten_by}
        return {**own, "data": data, "checkpoint": self.checkpoint, **more}

    def said(self, form: str | None) -> list[str]:
        """As lines: `cli` (options of `tuner train`), `toml` (a preset's file), else in words.

        Raises:
            TunerError: of these the first two are asked for, and the study has a trainer of its own.
        """
        if form in ("cli", "toml"):
            self.check_own()
        if form == "cli":
            return [" ".join(options(self.settings, self.epochs, self.data, self.seed))]
        if form == "toml":
            return [settings_toml(self.settings, self.epochs)]
        again = "" if self.confirmed is None else f", {self.confirmed['component_accuracy']['mean']:.4f} on test with fresh seeds"
        lines = [f"trial {self.trial}: component accuracy {self.value or 0.0:.4f}{again}", f"checkpoint: {self.checkpoint}"]
        if self.beaten_by is not None:
            lines.append(self.beaten_by[1])
        return [*lines, *(f"{name} = {value}" for name, value in self.settings.items())]


def best_choice(storage_url: str, name: str) -> Choice:
    """The best trial of a study.

    Raises:
        TunerError: none has finished above the floor on the round trip, or none stays there with fresh seeds.
    """
    study = find_study(open_storage(storage_url, create=False), name)
    definition, found = definition_of(study), best_of(study)
    if found is None and standing(study) is not None:
        more = definition.confirm.top + 2
        advice = f"`tuner confirm {name} --top {more}` tries more of them, `tuner train --from {name}:TRIAL` trains one"
        raise TunerError(f"of those of {name} that were confirmed none stays above the floor on round_trip with fresh seeds; {advice}")
    if found is None:
        floor = definition.objective.round_trip_floor
        above = f" above round_trip_floor = {floor:g}" if floor else ""
        raise TunerError(f"no trial of {name} has finished{above} yet; `tuner status {name}` says how far it is")
    return choice_of(study, definition, *found)


def _beaten_by(study: optuna.Study) -> tuple[int, str] | None:
    """The baseline that is better than the confirmed best beyond the noise, if one is."""
    found = standing(study)
    if found is None or (gap := beaten_by(found)) is None:
        return None
    name = gap["against"]
    number = next(entry["trial"] for entry in found["confirmed"] if entry["baseline"] and entry["name"] == name)
    return number, f"the baseline {name!r} (trial {number}) is better beyond the noise{below_floor(found, name)}"


def choose(storage_url: str, subject: str) -> Choice:
    """A `STUDY:TRIAL`, or the best of a `STUDY`.

    Raises:
        StudyError: there is no such study or trial.
        TunerError: there is no best; see `best_choice`.
    """
    name, number = subject_of(subject)
    if number is None:
        return best_choice(storage_url, subject)
    study = find_study(open_storage(storage_url, create=False), name)
    trial = trial_of(study, number)
    if not trial.params and trial.state.is_finished():
        raise StudyError(f"trial {number} of {study.study_name} ended before it had settings: {reason_of(trial)}; name another trial")
    if not trial.params:
        raise StudyError(f"trial {number} of {study.study_name} waits and has not begun; run `tuner search {study.study_name}` to begin it")
    return choice_of(study, definition_of(study), trial, None)


def choice_of(
    study: optuna.Study, definition: StudyDefinition, trial: optuna.trial.FrozenTrial, confirmed: Mapping[str, Any] | None
) -> Choice:
    """A trial of a study, with its figures under fresh seeds where it has been confirmed."""
    return Choice(
        study=study.study_name,
        trial=trial.number,
        value=trial.value if trial.state == optuna.trial.TrialState.COMPLETE else None,
        settings=definition.filled(trial.params),
        seed=int(trial.user_attrs.get("seed", 0)),
        epochs=definition.budget.epochs,
        data=study.user_attrs["data"],
        checkpoint=trial.user_attrs.get("checkpoint"),
        confirmed=confirmed,
        suggested=trial.user_attrs.get("suggested") or trial.user_attrs.get(BASELINE),
        trainer=definition.trainer,
        beaten_by=None if confirmed is None else _beaten_by(study),
    )


def settings_toml(settings: Mapping[str, Any], epochs: int) -> str:
    """Settings as a preset's file has them."""
    lines = [f"epochs = {epochs}", "", "[settings]"]
    return "\n".join([*lines, *(f'"{name}" = {json.dumps(value)}' for name, value in settings.items())])


def options(settings: Mapping[str, Any], epochs: int, data: Mapping[str, Any], seed: int | None = None) -> list[str]:
    """The options with which `tuner train` trains these settings on the study's data."""
    stories = [] if data["stories"] is None else [f"--num-stories {_quoted(data['stories'])}"]
    own = [] if seed is None else [f"--seed {seed}"]
    flags = [f"{_quoted(_flag(name))} {_quoted(value)}" for name, value in settings.items()]
    return [f"--data {_quoted(data['source'])}", *stories, f"--split-seed {_quoted(data['seed'])}", *own, f"--epochs {epochs}", *flags]


def settings_command(settings: Mapping[str, Any], epochs: int, data: Mapping[str, Any]) -> str:
    """The same as a command line that can be read; numbers as short as they can be said."""
    lines = ["tuner train"]
    for part in options({name: _short(value) for name, value in settings.items()}, epochs, data):
        if len(lines[-1]) + len(part) < LINE:
            lines[-1] += f" {part}"
        else:
            lines.append(f"  {part}")
    return " \\\n".join(lines)


def _quoted(value: Any) -> str:
    """As one word of a shell, whatever a row of the database holds."""
    return shlex.quote(str(value))


def _flag(name: str) -> str:
    return "--" + name.replace("loss_weights.", "weight_").replace("_", "-")


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
