"""What a model is (`ModelShape`) and how it is trained (`Hyperparameters`): frozen, validated, nameable.

Settings travel through the project under flat dotted names (`lr`, `loss_weights.generate`): in study definitions,
on the command line, in the storage and in checkpoints. `settings_from` is the one place that turns them into objects.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from model.errors import ConfigError

COMPONENTS = ("parse", "generate", "cycle_forward", "cycle_backward")
ROLES = ("entity", "relation", "value")
PROPOSITION_LOSSES = ("cross_entropy", "mse")
MODEL_VERSION = 9
"""Raised when the same numbers mean another model; checkpoints, snapshots and studies of other versions are refused."""


def _require(condition: bool, name: str, given: object, allowed: str) -> None:
    if not condition:
        raise ConfigError(f"{name} = {given!r} is not allowed; allowed: {allowed}")


def _whole(name: str, value: object, low: int, high: int) -> None:
    good = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    _require(good, name, value, f"a whole number from {low} to {high}")


def _number(name: str, value: object, low: float, high: float) -> None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    _require(good and low <= float(value) <= high, name, value, f"a number from {low:g} to {high:g}")  # type: ignore[arg-type]


@dataclass(frozen=True)
class ModelShape:
    """What fused neighbours must share, because it fixes tensor sizes or the graph.

    `max_rules` is the number of places for rules; a slot uses the first `num_rules` of them and masks the others,
    so trials of different `num_rules` train side by side.
    """

    hidden_dim: int = 128
    batch_size: int = 32
    max_rules: int = 16
    max_propositions: int = 8
    proposition_loss: str = "cross_entropy"

    def __post_init__(self) -> None:
        _whole("hidden_dim", self.hidden_dim, 16, 4096)
        _require(self.hidden_dim % 16 == 0, "hidden_dim", self.hidden_dim, "a multiple of 16")
        _whole("batch_size", self.batch_size, 1, 4096)
        _whole("max_rules", self.max_rules, 1, 256)
        _whole("max_propositions", self.max_propositions, 1, 64)
        _require(
            self.proposition_loss in PROPOSITION_LOSSES,
            "proposition_loss",
            self.proposition_loss,
            " or ".join(PROPOSITION_LOSSES),
        )


@dataclass(frozen=True)
class LossWeights:
    """How much each component counts in the loss."""

    parse: float = 1.0
    generate: float = 1.0
    cycle_forward: float = 0.5
    cycle_backward: float = 0.5

    def __post_init__(self) -> None:
        for component in COMPONENTS:
            _number(f"loss_weights.{component}", getattr(self, component), 0.0, 1e6)
        _require(sum(dataclasses.astuple(self)) > 0, "loss_weights", dataclasses.astuple(self), "at least one above 0")


@dataclass(frozen=True)
class Hyperparameters:
    """What may differ from slot to slot.

    `warmup` is the share of all steps over which the learning rate rises from zero; after it the rate falls on half a
    cosine to `final_lr` times its peak at the last of `epochs`. `dropout` zeroes features of a whole sentence (Gal and
    Ghahramani 2016). `word_dropout` = a hides a token from the parser with chance a / (a + its count in train), so that it
    learns what an unknown word may be (Kiperwasser and Goldberg 2016). `word_swap` is the chance that an
    entity or property is replaced by another one, in a sentence and its propositions alike (Jia and Liang 2016, "Data recombination").
    `clip_norm` bounds a slot's gradient norm.
    """

    lr: float = 5e-3
    num_rules: int = 16
    loss_weights: LossWeights = field(default_factory=LossWeights)
    weight_decay: float = 1.0
    dropout: float = 0.3
    word_dropout: float = 1.0
    word_swap: float = 0.3
    clip_norm: float = 1.0
    warmup: float = 0.05
    final_lr: float = 0.05
    epochs: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        _number("lr", self.lr, 1e-12, 1e6)
        _whole("num_rules", self.num_rules, 1, 256)
        _number("weight_decay", self.weight_decay, 0.0, 1e3)
        _number("dropout", self.dropout, 0.0, 0.95)
        _number("word_dropout", self.word_dropout, 0.0, 1e6)
        _number("word_swap", self.word_swap, 0.0, 1.0)
        _number("clip_norm", self.clip_norm, 1e-9, 1e12)
        _number("warmup", self.warmup, 0.0, 1.0)
        _number("final_lr", self.final_lr, 0.0, 1.0)
        _whole("epochs", self.epochs, 1, 1_000_000)
        _whole("seed", self.seed, 0, 2**63 - 1)


SHAPE_NAMES = ("hidden_dim", "batch_size", "proposition_loss")
SLOT_NAMES = (
    "lr",
    "num_rules",
    *(f"loss_weights.{component}" for component in COMPONENTS),
    *("weight_decay", "dropout", "word_dropout", "word_swap", "clip_norm", "warmup", "final_lr"),
)
SETTING_NAMES = SHAPE_NAMES + SLOT_NAMES


def settings_from(settings: Mapping[str, Any], *, epochs: int, seed: int, max_rules: int = 0) -> tuple[ModelShape, Hyperparameters]:
    """Turns flat named settings into a shape and hyperparameters; what is not named keeps its default.

    `max_rules` is the number of rule places of the array the trial will join (0: as many as the trial itself uses).

    Raises:
        ConfigError: a name that does not exist or a value out of range.
    """
    for name in settings:
        _require(name in SETTING_NAMES, "setting", name, ", ".join(SETTING_NAMES))
    weights = {name.split(".")[1]: settings[name] for name in settings if name.startswith("loss_weights.")}
    plain = {name: settings[name] for name in SLOT_NAMES if name in settings and "." not in name}
    hyperparameters = Hyperparameters(loss_weights=LossWeights(**weights), epochs=epochs, seed=seed, **plain)
    shape_settings = {name: settings[name] for name in SHAPE_NAMES if name in settings}
    places = max(max_rules, hyperparameters.num_rules)
    return ModelShape(max_rules=places, **shape_settings), hyperparameters


def flat_settings(shape: ModelShape, hyperparameters: Hyperparameters) -> dict[str, Any]:
    """The inverse of `settings_from`: every setting under its flat name."""
    flat: dict[str, Any] = {name: getattr(shape, name) for name in SHAPE_NAMES}
    for name in SLOT_NAMES:
        owner, _, leaf = name.rpartition(".")
        flat[name] = getattr(hyperparameters.loss_weights if owner else hyperparameters, leaf)
    return flat
