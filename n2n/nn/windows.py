"""Sliding windows over tensors: `gather` copies them out (im2col), `scatter` adds them back.

The two are adjoint: ⟨gather(image), columns⟩ = ⟨image, scatter(columns)⟩. Images are channels
last inside, so that a window's row is one run of memory.

N batch; C channels; H, W image; P, Q rows and columns of the grid; R, S of the kernel; g groups;
n images and p rows of a block, n·p·Q = L its positions; K = R·S·C/g.
"""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from n2n.errors import InvalidType, ShapeError
from n2n.nn.arguments import Pair
from n2n.nn.geometry import Windows
from n2n.nn.plans import Layout, plan_gather, plan_scatter

__all__ = [
    "Block",
    "ChannelsLast",
    "add_column_sums",
    "as_views",
    "block_bytes",
    "blocks",
    "channels_last",
    "column_sums",
    "fill",
    "gather",
    "require_image",
    "scatter",
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
BLOCK_BYTES = 4 * 2**20
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


def as_views(columns: Tensor, windows: Windows, grid: Pair, block: Block) -> Tensor:
    """Columns of a block (g, L, K) as its windows (g, n, p, Q, R, S, C/g), one memory."""
    images = block.images.stop - block.images.start
    rows = block.rows.stop - block.rows.start
    return columns.view(len(columns), images, rows, grid[1], *windows.kernel, -1)


def gather(image: Tensor, windows: Windows, grid: Pair, block: Block, views: Tensor) -> None:
    """Copy a block's windows out of (N, H, W, C) into `views`, (g, n, p, Q, R, S, C/g).

    Windows inside of the image go in one copy; those at its border in others, with zeros for what
    they see beyond it. So no image is copied to give it a border.
    """
    plane = image[block.images]
    beyond, copies = plan_gather(windows, grid, block.rows.start, _like(plane), _like(views))
    first, place = plane.storage_offset(), views.storage_offset()
    for shape, strides, offset in beyond:
        views.as_strided(shape, strides, place + offset).zero_()
    for shape, pixels, values in copies:
        source = plane.as_strided(shape, pixels.strides, first + pixels.offset)
        views.as_strided(shape, values.strides, place + values.offset).copy_(source)


def scatter(
    views: Tensor,
    image: Tensor,
    windows: Windows,
    grid: Pair,
    block: Block,
    bias: Tensor | None = None,
    *,
    singly: bool = False,
) -> None:
    """Add a block's windows, (g, n, p, Q, R, S, C/g), to the pixels of (N, H, W, C) they cover.

    Blocks come in order: the first of an image overwrites what it held with the bias, or zero.
    Windows overlap, but the pixels under one of their taps do not, nor do those under as many
    neighbouring taps as the stride is long; so many are added at once, or `singly`, which is
    faster where memory is in planes. Taps that tile the image come first and need no sum.
    """
    plane = image[block.images]
    tiles, sums = plan_scatter(
        windows, grid, block.rows.start, _like(plane), _like(views), singly=singly
    )
    first, place = plane.storage_offset(), views.storage_offset()
    if not tiles and block.rows.start == 0:
        fill(plane, bias)
    for shape, pixels, values in tiles:
        target = plane.as_strided(shape, pixels.strides, first + pixels.offset)
        target.copy_(views.as_strided(shape, values.strides, place + values.offset))
        if bias is not None:
            target.add_(bias.view(shape[0], 1, 1, 1, 1, 1, -1))
    for shape, pixels, values in sums:
        source = views.as_strided(shape, values.strides, place + values.offset)
        plane.as_strided(shape, pixels.strides, first + pixels.offset).add_(source)


def turn(weight: Tensor) -> Tensor:
    """(G, C, R, S) as (C, G, R, S), turned by 180°, for mirrored windows: its own inverse."""
    return weight.flip(2, 3).transpose(0, 1)


def fill(out: Tensor, bias: Tensor | None) -> None:
    """out (…, C) ← the bias (C,), or zero."""
    if bias is None:
        out.zero_()
    else:
        out.copy_(bias)


def add_column_sums(total: Tensor | None, x: Tensor) -> None:
    """total (C,) += the sums of (…, C), where they are wanted: the gradient of a bias."""
    if total is not None:
        total.add_(column_sums(x))


def column_sums(x: Tensor) -> Tensor:
    """(…, C) summed to (C,); in 16 bits as a product, which is ten times as fast as a sum."""
    if x.element_size() > 2:
        return x.flatten(0, -2).sum(0) if x.is_contiguous() else x.sum(tuple(range(x.dim() - 1)))
    rows = x.reshape(-1, x.shape[-1])
    return (rows.new_ones(1, len(rows)) @ rows).view(-1)


def _like(x: Tensor) -> Layout:
    return Layout(tuple(x.shape), x.stride())
