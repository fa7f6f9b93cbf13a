"""Versions of Ray: the installed one, and those that a cluster file names."""

import re
from functools import cache
from importlib.metadata import version

__all__ = ["installed", "same_release"]


@cache
def installed() -> str:
    """Of the Ray beside n2n."""
    return version("ray")


def same_release(named: str) -> bool:
    """Whether a version is the installed one: 2.60.0, or the start of it: 2.60."""
    parts, here = re.findall(r"\d+", named), re.findall(r"\d+", installed())
    return len(parts) > 1 and parts[:3] == here[: len(parts[:3])]
