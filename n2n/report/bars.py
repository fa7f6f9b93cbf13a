"""Bars that are a table: a name, a length, a number; without a script."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from n2n.report.page import Block

__all__ = ["Bar", "Bars"]


@dataclass(frozen=True)
class Bar:
    """length: from 0 to 1. mark: where a line crosses, on the same scale."""

    name: str
    length: float
    value: str
    mark: float | None = None


@dataclass(frozen=True)
class Bars(Block):
    """columns: what the names are, and what the values are."""

    caption: str
    columns: tuple[str, str]
    bars: Sequence[Bar]
    note: str = ""
    template: ClassVar[str] = "bars.html.jinja"
    styles: ClassVar[tuple[str, ...]] = ("bars.css",)
