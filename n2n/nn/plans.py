"""What `gather` and `scatter` copy, as strides and offsets: integers only, no tensors.

Windows at the border of an image see beyond it. So they are taken in pieces: neighbouring
positions and neighbouring taps that all lie inside. A plan holds each piece twice, as a view of
the image and as a view of the windows' values; it is made once for each shape.

g groups; n images; p, Q rows and columns of a block of the grid; R, S kernel; C channels.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby, product
from typing import NamedTuple

from n2n.nn.arguments import Pair
from n2n.nn.geometry import Windows

__all__ = ["Layout", "Piece", "by_position", "by_tap", "plan_gather", "plan_scatter"]

Ints = tuple[int, ...]


class Layout(NamedTuple):
    """Where the elements of a tensor lie, from its first."""

    shape: Ints
    strides: Ints


class View(NamedTuple):
    """A part of a tensor, of a shape given elsewhere, from the tensor's first element."""

    strides: Ints
    offset: int


class Copy(NamedTuple):
    """The same values in an image and in its windows, (g, n, p, Q, R, S, C/g)."""

    shape: Ints
    pixels: View
    values: View


@lru_cache(maxsize=4096)
def plan_gather(
    windows: Windows, grid: Pair, first_row: int, plane: Layout, views: Layout
) -> tuple[list[tuple[Ints, Ints, int]], list[Copy]]:
    """What of `views` is beyond the image and zero, (shape, strides, offset), and what to copy.

    plane: (n, H, W, C); views: (g, n, p, Q, R, S, C/g), from row `first_row` of the grid on.
    """
    rows, across = (
        by_position(windows, start, stop, plane.shape[1 + axis], axis)
        for axis, (start, stop) in enumerate(_positions(grid, first_row, views))
    )
    beyond = [*_beyond(views, rows, axis=0), *_beyond(views, across, axis=1)]
    pairs = product(rows, across)
    return beyond, [_copy(windows, plane, views, down, over) for down, over in pairs]


@lru_cache(maxsize=4096)
def plan_scatter(
    windows: Windows,
    grid: Pair,
    first_row: int,
    plane: Layout,
    views: Layout,
    *,
    singly: bool = False,
) -> tuple[list[Copy], list[Copy]]:
    """What covers every pixel of the image once, if anything does, and what is added to it.

    plane: (n, H, W, C); views: (g, n, p, Q, R, S, C/g), from row `first_row` of the grid on.
    singly: one tap at a time.
    """
    positions = _positions(grid, first_row, views)
    rows, across = (
        by_tap(windows, start, stop, plane.shape[1 + axis], axis, singly=singly)
        for axis, (start, stop) in enumerate(positions)
    )
    down, over = (windows.tile(grid[axis], plane.shape[1 + axis], axis) for axis in (0, 1))
    if positions[0] != (0, grid[0]) and down.stop != windows.kernel[0]:
        down = range(0)  # later taps of this block would reach what the next one overwrites
    tiles: list[Copy] = []
    sums: list[Copy] = []
    for pair in product(rows, across):
        tiled = pair[0].taps.start in down and pair[1].taps.start in over
        (tiles if tiled else sums).append(_copy(windows, plane, views, *pair))
    return tiles, sums


class Piece(NamedTuple):
    """Neighbouring positions of windows, and neighbouring taps, that all lie inside of an image."""

    positions: slice  # of those asked for
    taps: slice  # of the kernel
    first: int  # row or column of the image under the first of the taps at the first position


def by_position(windows: Windows, start: int, stop: int, size: int, axis: int) -> list[Piece]:
    """Positions `start` to `stop`, each once, with all of its taps inside of an image of `size`.

    Those that see no pixel are left out.
    """
    stride, padding, dilation = windows.along(axis)
    kernel = range(windows.kernel[axis])
    pieces = []
    for taps, run in groupby(
        range(start, stop), lambda i: _inside(i * stride - padding, dilation, size, kernel)
    ):
        positions = _as_range(run)
        if taps:
            pieces.append(_piece(windows, axis, start, positions, taps))
    return pieces


def by_tap(
    windows: Windows, start: int, stop: int, size: int, axis: int, *, singly: bool = False
) -> list[Piece]:
    """Taps of the kernel, each once, with all positions `start` to `stop` where it is inside.

    Taps go together, as many as the stride, whose pixels do not overlap; or `singly`.
    """
    stride, padding, dilation = windows.along(axis)
    together = stride if dilation == 1 and not singly else 1
    pieces = []
    for (positions, _), run in groupby(
        range(windows.kernel[axis]),
        lambda tap: (
            _inside(tap * dilation - padding, stride, size, range(start, stop)),
            (tap - padding) // together,
        ),
    ):
        taps = _as_range(run)
        if positions:
            pieces.append(_piece(windows, axis, start, positions, taps))
    return pieces


def _inside(first: int, step: int, size: int, among: range) -> range:
    """Those i for which 0 ≤ first + i · step < size."""
    start = max(among.start, -(first // step))
    return range(start, max(start, min(among.stop, (size - 1 - first) // step + 1)))


def _as_range(run: Iterable[int]) -> range:
    items = list(run)
    return range(items[0], items[-1] + 1)


def _piece(windows: Windows, axis: int, start: int, positions: range, taps: range) -> Piece:
    stride, padding, dilation = windows.along(axis)
    return Piece(
        slice(positions.start - start, positions.stop - start),
        slice(taps.start, taps.stop),
        positions.start * stride - padding + taps.start * dilation,
    )


def _positions(grid: Pair, first_row: int, views: Layout) -> tuple[Pair, Pair]:
    """Rows and columns of the grid that a block has: first, and after the last."""
    return (first_row, first_row + views.shape[2]), (0, grid[1])


def _copy(windows: Windows, plane: Layout, views: Layout, down: Piece, over: Piece) -> Copy:
    """Two pieces, down and across, as views of the image and of the windows' values."""
    groups, batch, *_, channels = views.shape
    by_image, by_row, by_column, by_channel = plane.strides
    chosen = (down.positions, over.positions, down.taps, over.taps)
    pixels = (
        channels * by_channel,
        by_image,
        by_row * windows.stride[0],
        by_column * windows.stride[1],
        by_row * windows.dilation[0],
        by_column * windows.dilation[1],
        by_channel,
    )
    starts = zip(chosen, views.strides[2:6], strict=True)
    return Copy(
        (groups, batch, *(part.stop - part.start for part in chosen), channels),
        View(pixels, down.first * by_row + over.first * by_column),
        View(views.strides, sum(part.start * step for part, step in starts)),
    )


def _beyond(views: Layout, pieces: Sequence[Piece], axis: int) -> Iterator[tuple[Ints, Ints, int]]:
    """What windows see beyond the image along one axis: (shape, strides, offset)."""
    everywhere = slice(0, views.shape[2 + axis])
    all_taps = slice(0, views.shape[4 + axis])
    done = 0
    for piece in pieces:
        yield from _region(views, axis, slice(done, piece.positions.start), all_taps)
        for taps in (slice(0, piece.taps.start), slice(piece.taps.stop, all_taps.stop)):
            yield from _region(views, axis, piece.positions, taps)
        done = piece.positions.stop
    yield from _region(views, axis, slice(done, everywhere.stop), all_taps)


def _region(
    views: Layout, axis: int, positions: slice, taps: slice
) -> Iterator[tuple[Ints, Ints, int]]:
    """Those positions and taps along one axis, if there are any, with all along the other."""
    shape, strides = list(views.shape), views.strides
    shape[2 + axis] = positions.stop - positions.start
    shape[4 + axis] = taps.stop - taps.start
    if shape[2 + axis] > 0 and shape[4 + axis] > 0:
        offset = positions.start * strides[2 + axis] + taps.start * strides[4 + axis]
        yield tuple(shape), strides, offset
