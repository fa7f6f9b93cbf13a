"""What a report's sections are made of, but for charts and pictures."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from n2n.report.page import Block

__all__ = ["Absent", "Cell", "Column", "Columns", "Command", "Facts", "Table", "Text"]

Cell: TypeAlias = str | int | float | None


@dataclass(frozen=True)
class Text(Block):
    """A paragraph of plain text."""

    text: str
    template: ClassVar[str] = "text.html.jinja"


@dataclass(frozen=True)
class Absent(Block):
    """What is not shown, why, and how to get it."""

    what: str
    why: str
    template: ClassVar[str] = "absent.html.jinja"


@dataclass(frozen=True)
class Command(Block):
    """A command to copy, and what it does."""

    caption: str
    text: str
    template: ClassVar[str] = "command.html.jinja"


@dataclass(frozen=True)
class Facts(Block):
    """Names and their values."""

    facts: Sequence[tuple[str, Cell]]
    template: ClassVar[str] = "facts.html.jinja"

    def shown(self) -> list[tuple[str, str]]:
        return [(name, show(value)) for name, value in self.facts]


@dataclass(frozen=True)
class Column:
    """A table's column. form: how its numbers are written, as `str.format` takes it."""

    name: str
    form: str = "{:,}"


@dataclass(frozen=True)
class Table(Block):
    """A table with a caption, whose first column names its rows.

    columns: a text stands for Column(text).
    """

    caption: str
    columns: Sequence[Column | str]
    rows: Sequence[Sequence[Cell]]
    template: ClassVar[str] = "table.html.jinja"

    def names(self) -> list[tuple[str, bool]]:
        """Of every column: its name, and whether it holds numbers."""
        return list(zip([item.name for item in self._columns()], self._numeric(), strict=True))

    def shown(self) -> list[list[tuple[str, bool]]]:
        """Of every cell: its text, and whether its column holds numbers."""
        columns = list(zip(self._columns(), self._numeric(), strict=True))
        return [
            [
                (show(cell, column.form), is_numeric)
                for cell, (column, is_numeric) in zip(row, columns, strict=True)
            ]
            for row in self.rows
        ]

    def _numeric(self) -> list[bool]:
        """Of every column: whether nothing but numbers and gaps stand in it."""
        cells = list(zip(*self.rows, strict=True)) or [()] * len(self.columns)
        return [
            any(cell is not None for cell in column)
            and all(cell is None or isinstance(cell, int | float) for cell in column)
            for column in cells
        ]

    def _columns(self) -> list[Column]:
        return [Column(item) if isinstance(item, str) else item for item in self.columns]


@dataclass(frozen=True)
class Columns(Block):
    """Blocks beside each other, where the screen is wide enough."""

    blocks: Sequence[Block]
    template: ClassVar[str] = "columns.html.jinja"

    def inner(self) -> Iterator[Block]:
        yield from self.blocks


def show(cell: Cell, form: str = "{:,}") -> str:
    """A cell's text; a dash for what is not there."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "—"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return cell if isinstance(cell, str) else form.format(cell)
