"""Versions of Ray: the installed one, those that n2n takes, and those that a cluster file names."""

import re
from functools import cache
from importlib.metadata import requires, version

__all__ = ["installed", "required", "same_release", "within"]


@cache
def installed() -> str:
    """Of the Ray beside n2n."""
    return version("ray")


@cache
def required() -> str:
    """Which Rays n2n takes: ">=2.60,<2.64"."""
    found = (re.match(r"ray(?:\[.*?\])?(?=[<>=])(.*)", line) for line in requires("n2n") or [])
    limits = next(match[1] for match in found if match)
    return ",".join(sorted(limits.replace(" ", "").split(","), reverse=True))


def same_release(named: str, other: str | None = None) -> bool:
    """Whether two versions are one, or the first is the start of the other: 2.60 and 2.60.0.

    other: None stands for the installed one.
    """
    parts, there = _parts(named), _parts(other or installed())
    number = min(3, len(parts), len(there))
    return number > 1 and parts[:number] == there[:number]


def within(named: str) -> bool:
    """Whether n2n takes that version of Ray."""
    parts = _parts(named)
    lowest, beyond = (_parts(limit) for limit in required().split(","))
    return len(parts) > 1 and lowest <= parts < beyond


def _parts(named: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d{1,9}", named)]
