"""The general form of a convolution: windows copied out as columns (im2col), block by block.

    grid = columns · W      image = scatter(grid · Wᵀ)      dW = columnsᵀ · grid

It serves every kernel, stride, padding, dilation and group. Columns are made for a block of
positions at a time, so that they stay in the cache between the copy and the products, and no
convolution holds its whole input copied nine-fold. A backward pass makes them once for both of
its products. Chellapilla et al. 2006.

N batch; C, G channels of image and grid; P, Q grid; R, S kernel; g groups; L positions of a block;
K = R·S·C/g.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor, empty

from n2n.nn.arguments import Pair
from n2n.nn.geometry import Windows
from n2n.nn.module import scratch
from n2n.nn.windows import (
    Block,
    ChannelsLast,
    block_bytes,
    blocks,
    fill,
    gather,
    scatter,
    scatter_planes,
    turn,
)

__all__ = ["Columns"]

FEW_CHANNELS = 4


@dataclass(frozen=True)
class Columns(ChannelsLast):
    """The linear map A from an image to a grid of its windows times weights (G, C/g, R, S).

    image: (N, H, W, C), from `read_image`; grid: (N, P, Q, G), from `read_grid`.
    Weights, image and grid have the dtype of the products; what is returned as (N, ·, ·, ·) is
    channels first, as a view.
    """

    windows: Windows
    groups: int

    def correlate(self, image: Tensor, size: Pair, weight: Tensor, bias: Tensor | None) -> Tensor:
        """A · image + bias, (N, G, P, Q) with P, Q = `size`."""
        grid = _new((len(image), *size, len(weight)), weight)
        matrices = self._matrices(weight)
        for block, columns in self._blocks(grid, weight):
            gather(image, self.windows, size, block, columns)
            fill(grid.view(-1, len(weight))[block.positions], bias)
            _multiply(self._rows(grid, block), columns, matrices)
        return grid.permute(0, 3, 1, 2)

    def correlate_backward(
        self, image: Tensor, grad_grid: Tensor, weight: Tensor, size: Pair | None
    ) -> tuple[Tensor, Tensor | None]:
        """The gradients by the weights, (G, C/g, R, S), and by the image, (N, C, *size).

        size: None leaves the gradient by the image out.
        """
        grid_size = (grad_grid.shape[1], grad_grid.shape[2])
        matrices = self._matrices(weight)
        grad_matrices = _new(matrices.shape, weight).zero_()
        grad_image = None  # of a map that is better spread by itself, or not wanted at all
        if size is not None and not self._few(weight) and self._mirrored() is None:
            grad_image = self._new_image(len(image), size, weight)
        for block, columns in self._blocks(grad_grid, weight):
            rows = self._rows(grad_grid, block)
            gather(image, self.windows, grid_size, block, columns)
            _multiply(grad_matrices, columns.transpose(1, 2), rows)
            if grad_image is not None:
                _multiply(columns, rows, matrices.transpose(1, 2), beta=0)
                scatter(columns, grad_image, self.windows, grid_size, block)
        by_weight = self._as_weight(grad_matrices)
        if grad_image is not None:
            return by_weight, grad_image.permute(0, 3, 1, 2)
        by_image = None if size is None else self.spread(grad_grid, weight, None, size)
        return by_weight, by_image

    def spread(self, grid: Tensor, weight: Tensor, bias: Tensor | None, size: Pair) -> Tensor:
        """Aᵀ · grid + bias, (N, C, H, W) with H, W = `size`."""
        if self._few(weight):
            return self._spread_planes(grid, weight, bias, size)
        mirrored = self._mirrored()
        if mirrored is not None:
            pixels = mirrored.read_image(grid.permute(0, 3, 1, 2), weight)
            return mirrored.correlate(pixels, size, turn(weight), bias)
        grid_size = (grid.shape[1], grid.shape[2])
        image = self._new_image(len(grid), size, weight)
        matrices = self._matrices(weight).transpose(1, 2)
        for block, columns in self._blocks(grid, weight):
            _multiply(columns, self._rows(grid, block), matrices, beta=0)
            scatter(columns, image, self.windows, grid_size, block, bias)
        return image.permute(0, 3, 1, 2)

    def spread_backward(
        self, grad_image: Tensor, grid: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The gradients by the weights, (G, C/g, R, S), and by the grid, (N, G, P, Q)."""
        size = (grid.shape[1], grid.shape[2])
        matrices = self._matrices(weight)
        grad_matrices = _new(matrices.shape, weight).zero_()
        grad_grid = _new(grid.shape, weight)
        for block, columns in self._blocks(grid, weight):
            gather(grad_image, self.windows, size, block, columns)
            _multiply(self._rows(grad_grid, block), columns, matrices, beta=0)
            _multiply(grad_matrices, columns.transpose(1, 2), self._rows(grid, block))
        return self._as_weight(grad_matrices), grad_grid.permute(0, 3, 1, 2)

    def _mirrored(self) -> "Columns | None":
        """The map that Aᵀ is, where windows can be mirrored: it adds nothing up that overlaps."""
        windows = self.windows.mirrored if self.groups == 1 else None
        return None if windows is None else Columns(windows, 1)

    def _few(self, weight: Tensor) -> bool:
        """Whether an image has so few channels that planes are faster to add up than pixels."""
        return self.groups == 1 and weight.shape[1] <= FEW_CHANNELS

    def _spread_planes(
        self, grid: Tensor, weight: Tensor, bias: Tensor | None, size: Pair
    ) -> Tensor:
        """`spread` with every tap of all windows in one run of memory, into (N, C, H, W)."""
        image = _new((len(grid), weight.shape[1], *size), weight)
        pixels = image.permute(0, 2, 3, 1)
        grid_size = (grid.shape[1], grid.shape[2])
        matrix = weight.flatten(1).t()  # (C·R·S, G)
        for block, columns in self._blocks(grid, weight):
            (rows,) = self._rows(grid, block)
            planes = columns.view(len(matrix), -1)
            planes.addmm_(matrix, rows.t(), beta=0)
            scatter_planes(planes, pixels, self.windows, grid_size, block, bias)
        return image

    def _new_image(self, batch: int, size: Pair, weight: Tensor) -> Tensor:
        channels = self.groups * weight.shape[1]
        return _new((batch, *size, channels), weight)

    def _blocks(self, grid: Tensor, weight: Tensor) -> Iterator[tuple[Block, Tensor]]:
        """Blocks of (N, P, Q, G), each with a buffer for its columns (g, L, K)."""
        taps = weight[0].numel()
        bytes_per_position = (self.groups * taps + grid.shape[3]) * grid.element_size()
        size = (grid.shape[1], grid.shape[2])
        for block in blocks(len(grid), size, bytes_per_position, block_bytes(grid)):
            count = block.positions.stop - block.positions.start
            yield block, scratch().empty("columns", (self.groups, count, taps), grid)

    def _rows(self, grid: Tensor, block: Block) -> list[Tensor]:
        """A block of (N, P, Q, G) as g views (L, G/g)."""
        rows = grid.view(-1, grid.shape[3])[block.positions]
        return list(rows.chunk(self.groups, dim=1)) if self.groups > 1 else [rows]

    def _matrices(self, weight: Tensor) -> Tensor:
        """(G, C/g, R, S) as (g, K, G/g), contiguous."""
        parts = weight.unflatten(0, (self.groups, -1)).permute(0, 3, 4, 2, 1)
        return _new(parts.shape, weight).copy_(parts).flatten(1, 3)

    def _as_weight(self, matrices: Tensor) -> Tensor:
        """(g, K, G/g) as (G, C/g, R, S)."""
        taps: Tensor = matrices.unflatten(1, (*self.windows.kernel, -1))
        return taps.permute(0, 4, 3, 1, 2).flatten(0, 1)


def _multiply(
    out: Iterable[Tensor], left: Iterable[Tensor], right: Iterable[Tensor], beta: int = 1
) -> None:
    """out ← beta · out + left @ right, for each group."""
    for total, first, second in zip(out, left, right, strict=True):
        total.addmm_(first, second, beta=beta)


def _new(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return empty(shape, dtype=like.dtype, device=like.device)
