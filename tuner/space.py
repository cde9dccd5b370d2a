"""What a setting can be: a range or a few choices."""

from __future__ import annotations

from typing import Annotated, Any

import optuna
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

Value = bool | int | float | str


class Section(BaseModel):
    """A part of a study definition: it knows all that may stand in it, and nothing in it changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Numbers(Section):
    """A range to search."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _sound(self) -> Numbers:
        if self.low > self.high:
            raise ValueError(f"low = {self.low} lies above high = {self.high}; allowed: low < high")
        if self.low == self.high:
            raise ValueError(f"low = high = {self.low} leaves nothing to search; put the value under [fixed]")
        if self.log and self.low <= 0:
            raise ValueError(f"log = true needs low > 0, not {self.low}")
        return self

    def distribution(self, whole: bool) -> optuna.distributions.BaseDistribution:
        """As Optuna's distribution, of whole numbers or of any."""
        if whole:
            return optuna.distributions.IntDistribution(int(self.low), int(self.high), log=self.log)
        return optuna.distributions.FloatDistribution(float(self.low), float(self.high), log=self.log)

    def at(self, share: float) -> float:
        """The value that lies this share of the range above its low end, by its logarithm where it is searched so."""
        value = self.low * (self.high / self.low) ** share if self.log else self.low + share * (self.high - self.low)
        return self.within(value)

    def within(self, value: float) -> float:
        """The value, or the end of the range that it lies beyond."""
        return min(float(self.high), max(float(self.low), value))

    def near(self, value: float, other: float, parts: int) -> float:
        """The value, moved toward another one if it is further from it than one of so many equal parts of the range is wide (by the
        logarithm where it is searched so)."""
        if self.log:
            width: float = (self.high / self.low) ** (1 / parts)
            return min(max(value, other / width), other * width)
        width = (self.high - self.low) / parts
        return min(max(value, other - width), other + width)

    def holds(self, value: Value) -> bool:
        """Whether it lies in the range."""
        return isinstance(value, (int, float)) and self.low <= value <= self.high

    def corners(self) -> list[Value]:
        """The values that must be valid for the whole range to be."""
        return [self.low, self.high]


class Choices(Section):
    """A few values to search."""

    choices: Annotated[list[Value], Field(min_length=1)]
    start: Value | None = None
    """The first trials' value: a cheap one shows, at little cost, which other settings are good. On a GPU a size begins in the middle."""

    @model_validator(mode="after")
    def _sound(self) -> Choices:
        if len(set(map(repr, self.choices))) != len(self.choices):
            raise ValueError(f"choices = {self.choices} names a value twice")
        if self.start is not None and not any(_stands_for(self.start, choice) for choice in self.choices):
            raise ValueError(f"start = {self.start!r} is none of the choices; allowed: {', '.join(map(repr, self.choices))}")
        return self

    def distribution(self, whole: bool) -> optuna.distributions.BaseDistribution:  # noqa: ARG002  the same call for both kinds
        """As Optuna's distribution."""
        return optuna.distributions.CategoricalDistribution(tuple(self.choices))

    def holds(self, value: Value) -> bool:
        """Whether it is one of them."""
        return value in self.choices

    def corners(self) -> list[Value]:
        """The values that must be valid."""
        return list(self.choices)


def _stands_for(value: Value, choice: Value) -> bool:
    """Whether they are the same to a trainer: 1 is 1.0, but 32.0 is no number of dimensions, nor is true."""
    alike = isinstance(value, bool) == isinstance(choice, bool) and not (isinstance(value, float) and isinstance(choice, int))
    return value == choice and alike


def _kind(space: Any) -> str:
    """Which of the two a space is meant to be, so that its faults are told in its own words."""
    return "Choices" if isinstance(space, Choices) or (isinstance(space, dict) and "choices" in space) else "Numbers"


Space = Annotated[Annotated[Numbers, Tag("Numbers")] | Annotated[Choices, Tag("Choices")], Discriminator(_kind)]
