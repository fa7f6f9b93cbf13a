"""What a parameter of a sweep may be: some values, or a range.

>>> parse_domain("log:1e-4..5")
LogUniform(low=0.0001, high=5.0)
>>> parse_domain("sgd,adamw")
Choice(values=('sgd', 'adamw'))
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from n2n.errors import InvalidType, InvalidValue

__all__ = ["Choice", "Domain", "Integer", "LogUniform", "Scalar", "Uniform", "parse_domain"]

Scalar = bool | int | float | str


@dataclass(frozen=True)
class Choice:
    """One of some values, all as likely. InvalidValue for none, or for one that is there twice."""

    values: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise InvalidValue("a choice needs at least one value, found none")
        for value in self.values:
            if not isinstance(value, bool | int | float | str):
                raise InvalidType(f"a choice is of numbers, texts and truth values, got {value!r}")
        if len({repr(value) for value in self.values}) < len(self.values):
            raise InvalidValue(f"a choice names each value once, got {_listed(self.values)}")

    @property
    def finite(self) -> bool:
        return True

    def sample(self, rng: np.random.Generator) -> Scalar:
        return self.values[int(rng.integers(len(self.values)))]

    def all(self) -> Iterator[Scalar]:
        """The values, in order."""
        yield from self.values

    def ends(self) -> tuple[Scalar, ...]:
        """The values that all others lie between: here all."""
        return self.values

    def as_dict(self) -> dict[str, Any]:
        """As the YAML of a space says it."""
        return {"choice": list(self.values)}

    def __str__(self) -> str:
        return _listed(self.values)


@dataclass(frozen=True)
class Uniform:
    """A number from low to high. InvalidValue for an empty range, or an endless one."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _require_range(self, "uniform")
        _as_floats(self)

    @property
    def finite(self) -> bool:
        return False

    def sample(self, rng: np.random.Generator) -> float:
        return float(rng.uniform(self.low, self.high))

    def ends(self) -> tuple[float, float]:
        return self.low, self.high

    def as_dict(self) -> dict[str, Any]:
        return {"uniform": [self.low, self.high]}

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}"


@dataclass(frozen=True)
class LogUniform:
    """A number from low to high, its logarithm uniform; low is above 0."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _require_range(self, "log", above_zero=True)
        _as_floats(self)

    @property
    def finite(self) -> bool:
        return False

    def sample(self, rng: np.random.Generator) -> float:
        value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return min(max(value, self.low), self.high)

    def ends(self) -> tuple[float, float]:
        return self.low, self.high

    def as_dict(self) -> dict[str, Any]:
        return {"log": [self.low, self.high]}

    def __str__(self) -> str:
        return f"log:{self.low:g}..{self.high:g}"


@dataclass(frozen=True)
class Integer:
    """A whole number from low to high, both among them: low, low + step, low + 2·step, …

    log: small numbers as likely as large ones of the same ratio; low is then above 0, step is 1.
    """

    low: int
    high: int
    step: int = 1
    log: bool = False

    def __post_init__(self) -> None:
        for name in ("low", "high", "step"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise InvalidType(f"int: whole numbers expected, got {name} {value!r}")
        _require_range(self, "int", above_zero=self.log)
        if self.step < 1:
            raise InvalidValue(f"int: step must be at least 1, got {self.step}")
        if self.log and self.step != 1:
            raise InvalidValue(f"int: step and log exclude each other, got step {self.step}")

    @property
    def finite(self) -> bool:
        return True

    def sample(self, rng: np.random.Generator) -> int:
        if self.log:  # from half below to half above, so that both ends are as likely as others
            exponent = rng.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5))
            return min(max(round(math.exp(exponent)), self.low), self.high)
        return self.low + self.step * int(rng.integers((self.high - self.low) // self.step + 1))

    def all(self) -> Iterator[int]:
        """The numbers, in order."""
        yield from range(self.low, self.high + 1, self.step)

    def ends(self) -> tuple[int, int]:
        return self.low, self.high

    def as_dict(self) -> dict[str, Any]:
        extra: dict[str, Any] = {"log": True} if self.log else {}
        return {"int": [self.low, self.high], **({"step": self.step} if self.step > 1 else extra)}

    def __str__(self) -> str:
        step = f":{self.step}" if self.step > 1 else ""
        return f"{'logint' if self.log else 'int'}:{self.low}..{self.high}{step}"


Domain = Choice | Uniform | LogUniform | Integer


def parse_domain(text: str) -> Domain:
    """A domain as `--set` has it.

    a,b,c: a choice (of one value, too). LOW..HIGH: uniform. log:LOW..HIGH: log-uniform.
    int:LOW..HIGH and int:LOW..HIGH:STEP: whole numbers; logint:LOW..HIGH: log-uniform ones.
    InvalidValue for anything else.
    """
    kind, colon, rest = text.partition(":")
    if not colon:
        kind, rest = "", text
    if ".." not in rest:
        if colon and kind in ("log", "int", "logint"):
            raise InvalidValue(f"a range LOW..HIGH expected after {kind}:, got {rest!r}")
        return Choice(tuple(_scalar(part.strip()) for part in text.split(",")))
    bounds, _, step = rest.partition(":")
    low, _, high = bounds.partition("..")
    if kind in ("int", "logint"):
        steps = {"step": _integer(step)} if step else {}
        return Integer(_integer(low), _integer(high), log=kind == "logint", **steps)
    if kind not in ("", "log") or step:
        raise InvalidValue(
            f"a,b,c or LOW..HIGH or log:LOW..HIGH or int:LOW..HIGH[:STEP] expected, got {text!r}"
        )
    return (LogUniform if kind == "log" else Uniform)(_number(low), _number(high))


def _scalar(text: str) -> Scalar:
    if not text:
        raise InvalidValue("a value expected, got an empty text")
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InvalidValue(f"a number expected, got {text.strip()!r}") from error


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise InvalidValue(f"a whole number expected, got {text.strip()!r}") from error


def _require_range(
    domain: "Uniform | LogUniform | Integer", kind: str, *, above_zero: bool = False
) -> None:
    low, high = domain.low, domain.high
    for value in (low, high):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidType(f"{kind}: numbers expected, got {value!r}")
        if not math.isfinite(value):
            raise InvalidValue(f"{kind}: finite numbers expected, got {value}")
    if low >= high:
        raise InvalidValue(f"{kind}: the range from {low:g} to {high:g} is empty; low below high")
    if above_zero and low <= 0:
        raise InvalidValue(f"{kind}: low must be above 0, got {low:g}")


def _as_floats(domain: Uniform | LogUniform) -> None:
    """0 and 0.0 are one bound, also as texts."""
    object.__setattr__(domain, "low", float(domain.low))
    object.__setattr__(domain, "high", float(domain.high))


def _listed(values: tuple[Scalar, ...]) -> str:
    return ",".join(
        str(value).lower() if isinstance(value, bool) else f"{value}" for value in values
    )
