"""How an image is cut into tiles whose results, put together, are those of the whole image.

A tile is read with a margin: what the network itself says its output depends on (`input_span`),
rounded up to its strides. No image is padded as a whole; a tile reads the rows and columns that
the padded image would hold there.

A range of rows or columns (first, last) includes both ends, a slice excludes the last, as
everywhere in Python.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from n2n.errors import InvalidValue
from n2n.models import Network

__all__ = ["Grid", "Range", "Tile"]


@dataclass(frozen=True)
class Range:
    """One axis of a tile: rows or columns of the padded image."""

    read: slice  # of the padded image: what enters the network
    keep: slice  # of what the network returns
    write: slice  # of the padded image: what is kept


@dataclass(frozen=True)
class Tile:
    rows: Range
    columns: Range

    @property
    def input_pixels(self) -> int:
        return _length(self.rows.read) * _length(self.columns.read)


@dataclass(frozen=True)
class _Axis:
    """Rows or columns of the image, continued by reflection to the network's multiple."""

    size: int
    padded: int
    multiple: int
    margin: tuple[int, int]  # before and after an aligned tile, as multiples

    def range(self, first: int, stop: int) -> Range:
        """A margin ends where the image does: there the network pads, as in the whole image."""
        read = slice(max(0, first - self.margin[0]), min(self.padded, stop + self.margin[1]))
        return Range(read, slice(first - read.start, stop - read.start), slice(first, stop))

    def cut(self, step: int) -> Iterator[Range]:
        for first in range(0, self.padded, step):
            yield self.range(first, min(first + step, self.padded))

    def halve(self, part: Range) -> tuple[Range, ...]:
        """Two aligned halves, or the part itself where it is one multiple long."""
        first, stop = part.write.start, part.write.stop
        middle = first + _round_up((stop - first) / 2, self.multiple)
        if middle >= stop:
            return (part,)
        return self.range(first, middle), self.range(middle, stop)

    def indices(self, part: slice) -> NDArray[np.int64]:
        """Which row of the image each row of the padded one is: 0 1 2 3 2 1 … for size 4."""
        period = max(1, 2 * (self.size - 1))
        place = np.arange(part.start, part.stop) % period
        return np.minimum(place, period - place) if self.size > 1 else np.zeros_like(place)


class Grid:
    """Tiles of an image (height, width) for a network.

    symmetric: margins that also do for the image flipped and turned.
    """

    def __init__(
        self, network: Network, height: int, width: int, *, symmetric: bool = False
    ) -> None:
        multiple = network.multiple
        margins = [_margin(network, axis) for axis in (0, 1)]
        if symmetric:
            most = max(max(margin) for margin in margins)
            margins = [(most, most)] * 2
        self.rows, self.columns = (
            _Axis(size, _round_up(size, multiple), multiple, margin)
            for size, margin in zip((height, width), margins, strict=True)
        )

    def tiles(self, max_pixels: int) -> list[Tile]:
        """Tiles that write every pixel of the padded image once and make the network compute least.

        At most `max_pixels` enter the network with a tile, or the smallest tile if that is more.
        """
        if max_pixels < 1:
            raise InvalidValue("max_pixels: at least one for each channel expected, got less")
        return self._cut(*self._best_size(max_pixels))

    def tiles_of(self, side: int) -> list[Tile]:
        """Tiles that write `side` rows and columns, rounded up to the multiple."""
        if side < 1:
            raise InvalidValue(f"tile: at least 1 expected, got {side}")
        side = _round_up(side, self.rows.multiple)
        return self._cut(side, side)

    def halve(self, tile: Tile) -> tuple[Tile, ...]:
        """Two tiles that write what this one does, or this one where it is the smallest."""
        if _length(tile.rows.write) >= _length(tile.columns.write):
            return tuple(Tile(part, tile.columns) for part in self.rows.halve(tile.rows))
        return tuple(Tile(tile.rows, part) for part in self.columns.halve(tile.columns))

    def _cut(self, rows: int, columns: int) -> list[Tile]:
        across = list(self.columns.cut(columns))
        return [Tile(row, column) for row in self.rows.cut(rows) for column in across]

    def _best_size(self, max_pixels: int) -> tuple[int, int]:
        """Rows and columns of a tile without its margins."""
        multiple, height, width = self.rows.multiple, self.rows.padded, self.columns.padded
        row_margin, column_margin = sum(self.rows.margin), sum(self.columns.margin)
        best = (float("inf"), multiple, multiple)  # where no tile fits: the smallest there is
        for across in range(1, width // multiple + 1):
            columns = _round_up(width / across, multiple)
            read_columns = min(width, columns + column_margin)
            most = max_pixels // read_columns
            if most < height:
                most = (most - row_margin) // multiple * multiple
            if most < multiple:
                continue
            down = ceil(height / most)
            rows = _round_up(height / down, multiple)
            cost = down * across * min(height, rows + row_margin) * read_columns
            best = min(best, (cost, rows, columns))
            if down == 1:  # narrower tiles only repeat more
                break
        return best[1], best[2]


def _margin(network: Network, axis: int) -> tuple[int, int]:
    """Rows or columns needed before and after an aligned output tile, as multiples."""
    multiple = network.multiple
    first, last = network.input_span((0, multiple - 1), axis)
    before, after = max(0, -first), max(0, last - multiple + 1)
    return _round_up(before, multiple), _round_up(after, multiple)


def _length(part: slice) -> int:
    return int(part.stop - part.start)


def _round_up(value: float, multiple: int) -> int:
    return ceil(value / multiple) * multiple
