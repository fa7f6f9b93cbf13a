"""Sliding windows over tensors: `gather` copies them out (im2col), `scatter` adds them back.

The two are adjoint: ⟨gather(image), columns⟩ = ⟨image, scatter(columns)⟩. Images are channels
last inside, so that a window's row is one run of memory.

N batch; C channels; H, W padded image; P, Q rows and columns of the grid; R, S of the kernel;
g groups; n·p·Q = L positions of a block; K = R·S·C/g.
"""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from n2n.errors import InvalidType, ShapeError
from n2n.nn.arguments import Pair
from n2n.nn.geometry import Windows
from n2n.nn.module import scratch

__all__ = [
    "Block",
    "ChannelsLast",
    "block_bytes",
    "blocks",
    "channels_last",
    "column_sums",
    "fill",
    "gather",
    "require_image",
    "scatter",
    "scatter_planes",
    "turn",
    "whole",
]


class ChannelsLast:
    """How a form takes images and grids: with channels last inside."""

    def read_image(self, x: Tensor, weight: Tensor) -> Tensor:
        """(N, C, H, W) as (N, H, W, C), a view."""
        return x.permute(0, 2, 3, 1)

    def read_grid(self, x: Tensor, weight: Tensor) -> Tensor:
        """(N, G, P, Q) as (N, P, Q, G), contiguous; a copy only where memory lies otherwise."""
        return channels_last(x.to(weight.dtype))


class Block(NamedTuple):
    """A part of a grid (N, P, Q): some images, or some rows of one image; and its positions."""

    images: slice
    rows: slice
    positions: slice  # in the grid as (N·P·Q)


# Columns are made for so many bytes at once. On a CPU they stay in the cache between the copy and
# the GEMM; a GPU wants fewer and larger products. A convolution never holds its whole input
# copied nine-fold.
BLOCK_BYTES = 3 * 2**20
BLOCK_BYTES_GPU = 256 * 2**20


def require_image(x: Tensor, channels: int, *, layer: str, like: Tensor | None = None) -> None:
    """ShapeError unless x is (N, channels, H, W) with a pixel, InvalidType unless it is float.

    like: weights whose dtype x must have, if given.
    """
    if not x.is_floating_point():
        raise InvalidType(f"{layer} expects a float tensor, got {x.dtype}")
    if x.dim() != 4 or x.shape[1] != channels or not x.numel():
        raise ShapeError(
            f"{layer} expects (N, {channels}, H, W) with at least one pixel, got {tuple(x.shape)}"
        )
    if like is not None and x.dtype != like.dtype:
        raise InvalidType(f"{layer} expects {like.dtype} like its weights, got {x.dtype}")


def channels_last(x: Tensor) -> Tensor:
    """(N, C, H, W) as contiguous (N, H, W, C); a copy only where the strides need one."""
    return x.permute(0, 2, 3, 1).contiguous()


def block_bytes(x: Tensor) -> int:
    """How many bytes of columns to make at once where x is."""
    return BLOCK_BYTES if x.device.type == "cpu" else BLOCK_BYTES_GPU


def whole(batch: int, grid: Pair) -> Block:
    """All of the grid as one block."""
    return Block(slice(0, batch), slice(0, grid[0]), slice(0, batch * grid[0] * grid[1]))


def blocks(batch: int, grid: Pair, bytes_per_position: int, limit: int) -> Iterator[Block]:
    """Parts of the grid whose columns take about `limit` bytes: some images, or rows of one."""
    per_row = bytes_per_position * grid[1]
    at_once = max(1, limit // (per_row * grid[0]))
    for images in _even_parts(batch, at_once):
        for rows in _even_parts(grid[0], max(1, limit // per_row)):
            first = (images.start * grid[0] + rows.start) * grid[1]
            count = (images.stop - images.start) * (rows.stop - rows.start) * grid[1]
            yield Block(images, rows, slice(first, first + count))


def _even_parts(count: int, at_most: int) -> Iterator[slice]:
    """0 to count in as few slices as `at_most` allows, of about equal length."""
    parts = -(-count // at_most)
    for part in range(parts):
        yield slice(part * count // parts, (part + 1) * count // parts)


def gather(image: Tensor, windows: Windows, grid: Pair, block: Block, columns: Tensor) -> None:
    """Copy a block's windows out of (N, H, W, C) into `columns`, (g, L, K), and its dtype.

    What the block needs of the image gets its border in a buffer that stays in the cache.
    """
    rows = _seen(windows, block.rows, image.shape[1], axis=0)
    across = _seen(windows, slice(0, grid[1]), image.shape[2], axis=1)
    plane = image[block.images, rows.inside, across.inside]
    size = (rows.length, across.length)
    if plane.shape[1:3] != size or image.dtype != columns.dtype:
        shape = (plane.shape[0], *size, image.shape[3])
        at = (rows.offset, plane.shape[1], across.offset, plane.shape[2])
        bordered = scratch().bordered("plane", shape, columns, inside=at)
        bordered[:, at[0] : at[0] + at[1], at[2] : at[2] + at[3]].copy_(plane)
        plane = bordered
    size = (block.rows.stop - block.rows.start, grid[1])
    view = _view(plane, windows, size, groups=columns.shape[0])
    columns.view(view.shape).copy_(view)


def scatter(
    columns: Tensor,
    image: Tensor,
    windows: Windows,
    grid: Pair,
    block: Block,
    bias: Tensor | None = None,
) -> None:
    """Add a block's windows, `columns` (g, L, K), to the pixels of (N, H, W, C) that they cover.

    Blocks come in order: the first of an image overwrites what it held with the bias, or zero,
    and they meet with its border in a buffer that stays in the cache until the last is added.
    Windows overlap, but the pixels under one of their taps do not, nor do those under as many
    neighbouring taps as the stride is long; so many are added at once. The first of them tile the
    plane and can be copied.
    """
    canvas = _canvas(image, windows, grid, block, columns)
    target = _part(canvas, windows, grid, block, groups=columns.shape[0])
    source = columns.view(target.shape)
    down, across = (
        stride if dilation == 1 else 1
        for stride, dilation in zip(windows.stride, windows.dilation, strict=True)
    )
    tiled = bias is None and block.rows == slice(0, grid[0]) and _tile(windows)
    if tiled:
        canvas[:, grid[0] * down :].zero_()
        canvas[:, :, grid[1] * across :].zero_()
    elif block.rows.start == 0:
        fill(canvas, bias)
    for row in range(0, windows.kernel[0], down):
        for column in range(0, windows.kernel[1], across):
            taps = (..., slice(row, row + down), slice(column, column + across), slice(None))
            if tiled and row == column == 0:
                target[taps].copy_(source[taps])
            else:
                target[taps].add_(source[taps])
    _finish(canvas, image, windows, grid, block)


def scatter_planes(
    planes: Tensor,
    image: Tensor,
    windows: Windows,
    grid: Pair,
    block: Block,
    bias: Tensor | None,
) -> None:
    """As `scatter`, from planes (C·R·S, L), one a tap, to an image that is in planes itself."""
    canvas = _canvas(image, windows, grid, block, planes)
    target = _part(canvas, windows, grid, block, groups=1)[0]  # (n, p, Q, R, S, C)
    _, rows, columns, *kernel, channels = target.shape
    source = planes.view(channels, *kernel, -1, rows, columns).permute(3, 4, 5, 1, 2, 0)
    if block.rows.start == 0:
        fill(canvas, bias)
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            target[:, :, :, row, column].add_(source[:, :, :, row, column])
    _finish(canvas, image, windows, grid, block)


def turn(weight: Tensor) -> Tensor:
    """(G, C, R, S) as (C, G, R, S), turned by 180°, for mirrored windows: its own inverse."""
    return weight.flip(2, 3).transpose(0, 1)


def fill(out: Tensor, bias: Tensor | None) -> None:
    """out (…, C) ← the bias (C,), or zero."""
    if bias is None:
        out.zero_()
    else:
        out.copy_(bias)


def column_sums(x: Tensor) -> Tensor:
    """(…, C) summed to (C,); in 16 bits as a product, which is ten times as fast as a sum."""
    if x.element_size() > 2:
        return x.flatten(0, -2).sum(0) if x.is_contiguous() else x.sum(tuple(range(x.dim() - 1)))
    rows = x.reshape(-1, x.shape[-1])
    return (rows.new_ones(1, len(rows)) @ rows).view(-1)


def _tile(windows: Windows) -> bool:
    """Whether the first taps of all windows, `stride` in number, cover a plane once each."""
    return windows.dilation == (1, 1) and all(
        kernel >= stride for kernel, stride in zip(windows.kernel, windows.stride, strict=True)
    )


class _Seen(NamedTuple):
    """What windows see of the rows or the columns of an image."""

    inside: slice  # of the image
    offset: int  # rows of border before those
    length: int  # with border


def _seen(windows: Windows, positions: slice, size: int, axis: int) -> _Seen:
    first, last = windows.image_span((positions.start, positions.stop - 1), axis)
    start = min(max(first, 0), size)
    inside = slice(start, max(start, min(last + 1, size)))
    return _Seen(inside, min(start - first, last + 1 - first), last + 1 - first)


def _canvas(image: Tensor, windows: Windows, grid: Pair, block: Block, like: Tensor) -> Tensor:
    """Room for a block's images (N, H, W, C) and their borders, in the memory order of `image`.

    It is the images themselves if windows do not reach beyond them.
    """
    part = image[block.images]
    batch, height, width, channels = part.shape
    spans = [windows.image_span((0, grid[axis] - 1), axis) for axis in (0, 1)]
    height, width = (
        max(size + 2 * padding, last + 1 + padding)
        for size, padding, (_, last) in zip((height, width), windows.padding, spans, strict=True)
    )
    if (height, width) == part.shape[1:3]:
        return part
    if image.stride(3) == 1:
        return scratch().empty("canvas", (batch, height, width, channels), like)
    planes = scratch().empty("canvas", (batch, channels, height, width), like)
    return planes.permute(0, 2, 3, 1)


def _finish(canvas: Tensor, image: Tensor, windows: Windows, grid: Pair, block: Block) -> None:
    """Copy the canvas, without its border, to the images after the last of their blocks."""
    if block.rows.stop == grid[0] and canvas.shape[1:3] != image.shape[1:3]:
        (top, left), (height, width) = windows.padding, image.shape[1:3]
        image[block.images].copy_(canvas[:, top : top + height, left : left + width])


def _part(canvas: Tensor, windows: Windows, grid: Pair, block: Block, groups: int) -> Tensor:
    """The windows of a block on the canvas of its images."""
    rows = block.rows.stop - block.rows.start
    below = canvas[:, block.rows.start * windows.stride[0] :]
    return _view(below, windows, (rows, grid[1]), groups)


def _view(padded: Tensor, windows: Windows, grid: Pair, groups: int) -> Tensor:
    """Windows at all positions of a grid from the first pixel of (N, H, W, C) on.

    A view (g, N, P, Q, R, S, C/g).
    """
    channels = padded.shape[3] // groups
    by_image, by_row, by_column, by_channel = padded.stride()
    (down, across), (dilate_down, dilate_across) = windows.stride, windows.dilation
    return padded.as_strided(
        (groups, padded.shape[0], *grid, *windows.kernel, channels),
        (
            channels * by_channel,
            by_image,
            by_row * down,
            by_column * across,
            by_row * dilate_down,
            by_column * dilate_across,
            by_channel,
        ),
        padded.storage_offset(),
    )
