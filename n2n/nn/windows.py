"""Sliding windows over tensors: `gather` copies them out (im2col), `scatter` adds them back.

The two are adjoint: ⟨gather(image), columns⟩ = ⟨image, scatter(columns)⟩. Images are channels
last inside, so that a window's row is one run of memory.

N batch; C channels; H, W padded image; P, Q rows and columns of the grid; R, S of the kernel;
g groups; n·p·Q = L positions of a block; K = R·S·C/g.
"""

from collections.abc import Iterator

from torch import Tensor

from n2n.errors import InvalidType, ShapeError
from n2n.nn.arguments import Pair
from n2n.nn.geometry import Windows

__all__ = ["Block", "blocks", "channels_last", "gather", "interior", "require_image", "scatter"]

Block = tuple[slice, slice]  # images, rows of the grid

# Columns are made for so many bytes at once: they stay in the cache between the copy and the
# GEMM, and a nine-fold copy of the whole image is never in memory.
BLOCK_BYTES = 2 * 2**20


def require_image(x: Tensor, channels: int, *, layer: str) -> None:
    """ShapeError unless x is (N, channels, H, W) with a pixel, InvalidType unless it is float."""
    if not x.is_floating_point():
        raise InvalidType(f"{layer} expects a float tensor, got {x.dtype}")
    if x.dim() != 4 or x.shape[1] != channels or not x.numel():
        raise ShapeError(
            f"{layer} expects (N, {channels}, H, W) with at least one pixel, got {tuple(x.shape)}"
        )


def channels_last(x: Tensor) -> Tensor:
    """(N, C, H, W) as contiguous (N, H, W, C); a copy only where the strides need one."""
    return x.permute(0, 2, 3, 1).contiguous()


def interior(padded: Tensor, windows: Windows) -> Tensor:
    """(N, H, W, C) without its padding, as a view."""
    top, left = windows.padding
    return padded[:, top : padded.shape[1] - top, left : padded.shape[2] - left]


def blocks(batch: int, rows: int, bytes_per_row: int) -> Iterator[Block]:
    """Parts of the grid whose columns take about BLOCK_BYTES: whole images, or rows of one."""
    at_once = max(1, BLOCK_BYTES // bytes_per_row)
    images = max(1, at_once // rows)
    for image in range(0, batch, images):
        some = slice(image, min(image + images, batch))
        for row in range(0, rows, at_once):
            yield some, slice(row, min(row + at_once, rows))


def gather(padded: Tensor, windows: Windows, grid: Pair, block: Block, columns: Tensor) -> None:
    """Copy a block's windows out of (N, H, W, C) into `columns`, (g, L, K)."""
    view = _view(padded, windows, grid, block, groups=len(columns))
    columns.view(view.shape).copy_(view)


def scatter(columns: Tensor, padded: Tensor, windows: Windows, grid: Pair, block: Block) -> None:
    """Add a block's windows, `columns` (g, L, K), to the pixels that they cover in `padded`.

    Windows overlap, but the pixels under one of their taps do not, nor do those under as many
    neighbouring taps as the stride is long; so many are added at once.
    """
    target = _view(padded, windows, grid, block, groups=len(columns))
    source = columns.view(target.shape)
    down, across = (
        stride if dilation == 1 else 1
        for stride, dilation in zip(windows.stride, windows.dilation, strict=True)
    )
    for row in range(0, windows.kernel[0], down):
        for column in range(0, windows.kernel[1], across):
            taps = (..., slice(row, row + down), slice(column, column + across), slice(None))
            target[taps].add_(source[taps])


def _view(padded: Tensor, windows: Windows, grid: Pair, block: Block, groups: int) -> Tensor:
    """All windows of a block as a view (g, n, p, Q, R, S, C/g) of (N, H, W, C)."""
    images, rows = block
    channels = padded.shape[3] // groups
    by_image, by_row, by_column, by_channel = padded.stride()
    (down, across), (dilate_down, dilate_across) = windows.stride, windows.dilation
    return padded.as_strided(
        (
            groups,
            images.stop - images.start,
            rows.stop - rows.start,
            grid[1],
            *windows.kernel,
            channels,
        ),
        (
            channels * by_channel,
            by_image,
            by_row * down,
            by_column * across,
            by_row * dilate_down,
            by_column * dilate_across,
            by_channel,
        ),
        padded.storage_offset() + images.start * by_image + rows.start * down * by_row,
    )
