"""The study definition: a TOML file as a validated object. Nothing in it is executed.

Every error names the key, what was given and what is allowed.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import optuna
from pydantic import BaseModel, Field, ValidationError, model_validator

import studies
from model.config import COMPONENTS, MODEL_VERSION, SETTING_NAMES, SHAPE_NAMES, Hyperparameters, ModelShape, flat_settings, settings_from
from model.errors import ConfigError
from model.files import is_there
from tuner.errors import DefinitionError
from tuner.judges import LEAST_WINDOW, ExplosionRule, FirstRule, HalvingRule, Judge, PlateauRule
from tuner.space import Choices, Numbers, Section, Space, Value

LARGEST_FILE = 1 << 20
MOST_EPOCHS = 100_000


class Data(Section):
    """Which stories, how many of them, and the seed that splits (and, if synthetic, tells) them."""

    source: str = "synthetic"
    stories: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0)] = 1


class Objective(Section):
    """What is judged, and below which round trip a trial is infeasible."""

    metric: Literal["component_accuracy"] = "component_accuracy"
    round_trip_floor: Annotated[float, Field(ge=0, le=1)] = 0.0


class Budget(Section):
    """How many trials in all, of how many epochs; at most how many minutes a run, and epochs and GPU-minutes in all (0: no limit).

    When one of these is used up no trial begins; those that run are finished, or stored for the next start, as `at_budget` says.

    `epochs` is meant for the definition's own data. Where other data would show a trial fewer than `least_sentences` in that time, it
    has as many epochs as that takes: few sentences need more of them.
    """

    trials: Annotated[int, Field(ge=1, le=1_000_000)]
    epochs: Annotated[int, Field(ge=1, le=MOST_EPOCHS)]
    least_sentences: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    minutes: Annotated[float, Field(ge=0)] = 0.0
    total_epochs: Annotated[int, Field(ge=0)] = 0
    gpu_minutes: Annotated[float, Field(ge=0)] = 0.0
    at_budget: Literal["finish", "store"] = "store"

    @property
    def bounded(self) -> bool:
        """Whether it has a bound that no run of the study goes beyond."""
        return bool(self.total_epochs or self.gpu_minutes)


class Plateau(Section):
    """Settings of the plateau rule."""

    window: Annotated[int, Field(ge=LEAST_WINDOW)] = PlateauRule.window
    share: Annotated[float, Field(gt=0, lt=1)] = PlateauRule.share
    near: Annotated[float, Field(ge=0, lt=1)] = PlateauRule.near
    top: Annotated[float, Field(ge=0, lt=1)] = PlateauRule.top
    noise: Annotated[float, Field(ge=0, lt=1)] = PlateauRule.noise


class Explosion(Section):
    """Settings of the explosion rule."""

    factor: Annotated[float, Field(gt=0)] = ExplosionRule.factor
    stay: Annotated[int, Field(ge=1)] = ExplosionRule.stay


class Halving(Section):
    """Settings of the halving rule; `first` is a share of a trial's epochs below 1, a number of epochs from 1 on."""

    first: Annotated[float, Field(gt=0, allow_inf_nan=False)] = HalvingRule.first
    step: Annotated[float, Field(gt=1, allow_inf_nan=False)] = HalvingRule.step
    keep_first: Annotated[float, Field(gt=0, le=1)] = HalvingRule.keep_first
    keep_last: Annotated[float, Field(gt=0, le=1)] = HalvingRule.keep_last
    slack: Annotated[float, Field(ge=0, allow_inf_nan=False)] = HalvingRule.slack
    least: Annotated[int, Field(ge=1)] = HalvingRule.least
    ahead: Annotated[float, Field(ge=0, allow_inf_nan=False)] = HalvingRule.ahead
    back: Annotated[int, Field(ge=1)] = HalvingRule.back

    @model_validator(mode="after")
    def _sound(self) -> Halving:
        if self.first >= 1 and self.first != int(self.first):
            raise ValueError(f"first = {self.first}; allowed: a share of the epochs below 1, or a whole number of epochs")
        if self.keep_last > self.keep_first:
            raise ValueError(f"keep_last = {self.keep_last} lies above keep_first = {self.keep_first}; allowed: keep_last <= keep_first")
        return self


class Pruning(Section):
    """Each rule by name with its settings; absent = off. `audit`: the share of stops not carried out, to measure them."""

    plateau: Plateau | None = None
    explosion: Explosion | None = None
    halving: Halving | None = None
    audit: Annotated[float, Field(ge=0, le=1)] = 0.0

    def rule(self) -> Judge:
        """The rules in force, explosion first."""
        made: list[Judge] = []
        if self.explosion is not None:
            made.append(ExplosionRule(**self.explosion.model_dump()))
        if self.plateau is not None:
            made.append(PlateauRule(**self.plateau.model_dump()))
        if self.halving is not None:
            made.append(HalvingRule(**self.halving.model_dump()))
        return FirstRule(tuple(made))


class Confirm(Section):
    """How many of the best are trained again beside the baselines, with how many fresh seeds each."""

    top: Annotated[int, Field(ge=1)] = 3
    seeds: Annotated[int, Field(ge=1)] = 5


SYMMETRIC = "symmetric"
"""The trainer of our own model, the only one that `tuner train` has."""


class StudyDefinition(Section):
    """A whole study. `trainer` names what trains its models (see `trainers`), `sampler` what proposes their settings.

    `baselines` are never stopped, `enqueue` is tried first but judged like any other trial.
    """

    name: str
    summary: str = ""
    trainer: str = SYMMETRIC
    sampler: Literal["tpe", "random"] = "tpe"
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    data: Data = Data()
    objective: Objective = Objective()
    budget: Budget
    search: dict[str, Space]
    fixed: dict[str, Value] = Field(default_factory=dict)
    pruning: Pruning = Pruning()
    baselines: list[dict[str, Value]] = Field(default_factory=list)
    enqueue: list[dict[str, Value]] = Field(default_factory=list)
    confirm: Confirm = Confirm()

    @model_validator(mode="after")
    def _reachable(self) -> StudyDefinition:
        if not self.search:
            raise ValueError("[search] is empty; name at least one setting to search")
        for name in (*self.search, *self.fixed):
            if name not in SETTING_NAMES:
                raise ValueError(f"{name!r} is no setting; allowed: {', '.join(SETTING_NAMES)}")
            if name in self.search and name in self.fixed:
                raise ValueError(f"{name!r} stands under [search] and under [fixed]; keep one")
        for name, space in self.search.items():
            if name in SHAPE_NAMES and isinstance(space, Numbers):
                raise ValueError(f"search.{name} fixes tensor sizes and takes choices, not a range: {name} = {{ choices = [...] }}")
            for value in space.corners():
                if (fault := self.fault({name: value})) is not None:
                    raise ValueError(f"search.{name}: {fault}")
        for kind, trials in (("baselines", self.baselines), ("enqueue", self.enqueue)):
            for trial in trials:
                self._check_trial(kind, trial)
        return self

    def _corner(self) -> dict[str, Value]:
        return {**{name: space.corners()[0] for name, space in self.search.items()}, **self.fixed}

    def corners(self, name: str) -> list[Value]:
        """What a setting can be, of a range its ends; nothing where it is not named."""
        return self.search[name].corners() if name in self.search else [self.fixed[name]] if name in self.fixed else []

    def _check_trial(self, kind: str, trial: dict[str, Value]) -> None:
        label = f"{kind}: {trial.get('name', '(without a name)')}"
        if not isinstance(name := trial.get("name"), str) or not name.strip():
            raise ValueError(f"{label}: each needs a name")
        given = {name: value for name, value in trial.items() if name != "name"}
        if (fault := self.fault({**self.point(trial), **given})) is not None:
            raise ValueError(f"{label}: {fault}")

    def fault(self, settings: Mapping[str, Any]) -> str | None:
        """What is wrong with some settings as those of a trial, and what is allowed; None if nothing is."""
        for name, value in settings.items():
            if (space := self.search.get(name)) is None:
                if name in self.fixed and self.fixed[name] == value:
                    continue
                return f"{name!r} is not searched; allowed: {', '.join(self.search)}"
            if not space.holds(value):
                allowed = ", ".join(f"{key} = {bound}" for key, bound in space.model_dump(exclude={"start"}).items())
                return f"{name} = {value!r} cannot be reached; allowed: {allowed}"
        try:  # 128.0 is one of [64, 128], and no number of dimensions
            settings_from({**self._corner(), **settings}, epochs=self.budget.epochs, seed=0)
        except ConfigError as error:
            return str(error)
        return None

    def reachable(self, trial: dict[str, Value]) -> dict[str, Value]:
        """A trial of somebody's own as a point of the space.

        Raises:
            DefinitionError: it names what is not searched or lies outside; says what is allowed.
        """
        try:
            self._check_trial("enqueue", {"name": "by hand", **trial})
        except ValueError as error:
            raise DefinitionError(str(error)) from error
        return self.point(trial)

    def point(self, trial: dict[str, Value]) -> dict[str, Value]:
        """A named trial as a full point of the space: what it does not name has the model's default."""
        defaults = flat_settings(ModelShape(), Hyperparameters())
        return {name: trial.get(name, defaults[name]) for name in self.search}

    def distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """The space as Optuna's distributions."""
        return {name: space.distribution(whole=name == "num_rules") for name, space in self.search.items()}

    @property
    def usual(self) -> dict[str, Value]:
        """A point of the space: the model's defaults where the space has them, elsewhere its first value."""
        return {name: value if self.search[name].holds(value) else self.corners(name)[0] for name, value in self.point({}).items()}

    def filled(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """A trial's settings, fixed ones included."""
        return {**self.fixed, **params}

    def settings(self, params: dict[str, Any], seed: int) -> tuple[ModelShape, Hyperparameters]:
        """What a trial with these parameters is trained with, ready for an array with room for the largest `num_rules`."""
        rules = self.search.get("num_rules")
        most = max((int(value) for value in rules.corners()), default=0) if rules else 0
        return settings_from(self.filled(params), epochs=self.budget.epochs, seed=seed, max_rules=most)

    def identity(self) -> dict[str, Any]:
        """What must not change when a study is continued: all but its size, time and words."""
        content = self.model_dump(mode="json", exclude={"summary", "name", "confirm"})
        content["budget"] = {"epochs": self.budget.epochs}
        content["data"] = {"seed": self.data.seed}
        content["model"] = {"version": MODEL_VERSION, **flat_settings(ModelShape(), Hyperparameters())}  # what is not named takes these
        return content

    def fitted(self, sentences: int) -> StudyDefinition:
        """The same with the epochs that its data of so many sentences to train on need."""
        needed = math.ceil(self.budget.least_sentences / max(1, sentences))
        return self.changed(budget_epochs=max(self.budget.epochs, min(needed, MOST_EPOCHS)), budget_least_sentences=0)

    def changed(self, **changes: Any) -> StudyDefinition:
        """The same with some of data.source, data.stories, budget.trials, ... replaced, where not None; keys use `_` for the dot."""
        content = self.model_dump()
        for key, value in changes.items():
            if value is not None:
                owner, _, leaf = key.partition("_")
                (content[owner] if leaf else content)[leaf or owner] = value
        return validated(content, "the command line")


def validated(content: dict[str, Any], where: str) -> StudyDefinition:
    """Checks a definition.

    Raises:
        DefinitionError: names the first key that is wrong, what was given and what is allowed.
    """
    try:
        return StudyDefinition.model_validate(content)
    except ValidationError as error:
        raise DefinitionError(f"{where}: {explained(error)}") from error


KINDS = ("bool", "int", "float", "str")
"""As pydantic names the kinds of a value that may have several."""


def explained(error: ValidationError) -> str:
    """The most telling of pydantic's findings, as one sentence."""
    first = max(error.errors(), key=lambda found: (found["type"] in ("extra_forbidden", "value_error"), len(found["loc"])))
    loc = [str(part) for part in first["loc"] if part not in ("Numbers", "Choices")]
    if loc[1:] and loc[-1] in KINDS:  # one of several kinds that it may have, and has not
        allowed = "a finite number" if loc[-2] in ("low", "high") else "a finite number, a word, true or false"
        return f"{'.'.join(loc[:-1])}: allowed: {allowed} (given: {first['input']!r})"
    place = ".".join(loc) or "the definition"
    if first["type"] == "extra_forbidden":
        return f"{place} is not known; allowed {_allowed(first['loc'])}"
    message = first["msg"].removeprefix("Value error, ")
    given = "" if first["type"] in ("value_error", "missing") else f" (given: {first['input']!r})"
    return f"{place}: {message}{given}"


def _allowed(loc: tuple[int | str, ...]) -> str:
    sections: dict[str, type[BaseModel]] = {
        **{"data": Data, "objective": Objective, "budget": Budget, "pruning": Pruning, "confirm": Confirm, "plateau": Plateau},
        **{"explosion": Explosion, "halving": Halving, "Numbers": Numbers, "Choices": Choices},
    }
    if "search" in loc[:1]:
        return "in a range: low, high, log; in a choice: choices, start"
    section = next((sections[str(part)] for part in reversed(loc[:-1]) if str(part) in sections), StudyDefinition)
    return f"there: {', '.join(name for name in section.model_fields if name != 'name')}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DefinitionError(f"{path} cannot be read ({error.strerror})") from error


def load_definition(study: str) -> StudyDefinition:
    """A shipped study by name, or a TOML file by path.

    Raises:
        DefinitionError: there is no such study, or it cannot be used.
    """
    path = Path(study)
    if path.suffix == ".toml" or is_there(path, DefinitionError):
        if not is_there(path, DefinitionError):
            raise DefinitionError(f"there is no study definition {path}")
        if path.stat().st_size > LARGEST_FILE:
            raise DefinitionError(f"{path} has {path.stat().st_size:,} bytes; a study definition has at most {LARGEST_FILE:,}")
        text, name = _read(path), path.stem
    elif study in studies.names():
        text, name = studies.read(study), study
    else:
        raise DefinitionError(f"there is no study {study!r}; allowed: {', '.join(studies.names())}, or the path of a .toml file")
    try:
        content = tomllib.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DefinitionError(f"{study} is not TOML: {error}") from error
    if "name" in content:
        raise DefinitionError(f"{study}: name is not known there; a study has the name of its file (or of --name)")
    made = validated({**content, "name": name}, study)
    if all(0 in made.corners(f"loss_weights.{component}") for component in COMPONENTS):
        raise DefinitionError(f"{study}: search: all four loss_weights can be 0 at once; allowed: at least one that is always above 0")
    return made
