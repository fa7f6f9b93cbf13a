"""Checks of a layer's or an optimiser's arguments; an error names the argument and its value."""

from collections.abc import Sequence
from math import isfinite

from n2n.errors import InvalidType, InvalidValue

__all__ = [
    "IntOrPair",
    "Pair",
    "require_at_least",
    "require_finite",
    "require_not_negative",
    "require_positive",
    "to_pair",
]

Pair = tuple[int, int]
IntOrPair = int | Sequence[int]


def require_at_least(value: object, minimum: int, *, name: str) -> int:
    """The integer `value`, if it is one and not below `minimum`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidType(f"{name} must be an integer, got {value!r}")
    if value < minimum:
        raise InvalidValue(f"{name} must be at least {minimum}, got {value}")
    return value


def to_pair(value: IntOrPair, *, name: str, minimum: int) -> Pair:
    """(vertical, horizontal) from one integer for both or a pair of integers."""
    if isinstance(value, int):
        value = (value, value)
    if not isinstance(value, list | tuple):
        raise InvalidType(f"{name} must be an integer or a pair of integers, got {value!r}")
    if len(value) != 2:
        raise InvalidValue(f"{name} must be an integer or a pair of integers, got {value!r}")
    first, second = (require_at_least(number, minimum, name=name) for number in value)
    return first, second


def require_finite(value: object, *, name: str) -> float:
    """The number `value` as a float, if it is one and finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidType(f"{name} must be a number, got {value!r}")
    if not isfinite(value):
        raise InvalidValue(f"{name} must be finite, got {value}")
    return float(value)


def require_not_negative(value: object, *, name: str) -> float:
    """The finite number `value` as a float, if it is not below zero."""
    number = require_finite(value, name=name)
    if number < 0:
        raise InvalidValue(f"{name} must not be negative, got {value}")
    return number


def require_positive(value: object, *, name: str) -> float:
    """The finite number `value` as a float, if it is above zero."""
    number = require_finite(value, name=name)
    if number <= 0:
        raise InvalidValue(f"{name} must be above 0, got {value}")
    return number
