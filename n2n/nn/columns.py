"""The general form of a convolution: windows copied out as columns (im2col), block by block.

    grid = columns · W      image = scatter(grid · Wᵀ)      dW = columnsᵀ · grid

It serves every kernel, stride, padding, dilation and group. Columns are made for a block of
positions at a time, so that they stay in the cache between the copy and the products, and no
convolution holds its whole input copied nine-fold. A backward pass makes them once for both of
its products. What else is to be done to a block, such as the activation that follows, is done
while it is there. Chellapilla et al. 2006.

N batch; C, G channels of image and grid; P, Q grid; R, S kernel; g groups; L positions of a block;
K = R·S·C/g.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor, empty

from n2n.nn.activation import Activation, apply, differentiate
from n2n.nn.arguments import Pair
from n2n.nn.geometry import Windows
from n2n.nn.module import scratch
from n2n.nn.windows import (
    Block,
    ChannelsLast,
    add_column_sums,
    as_views,
    block_bytes,
    blocks,
    fill,
    gather,
    scatter,
    turn,
)

__all__ = ["Columns"]


@dataclass(frozen=True)
class Columns(ChannelsLast):
    """The linear map A from an image to a grid of its windows times weights (G, C/g, R, S).

    image: (N, H, W, C), from `read_image`; grid: (N, P, Q, G), from `read_grid`.
    Weights, image and grid have the dtype of the products; what is returned as (N, ·, ·, ·) is
    channels first, as a view. activation: what follows the map, or, of a backward pass, what
    came before it and gave its input; the gradient is then the one by the activation's input.
    grad_bias (·): is added to.
    """

    windows: Windows
    groups: int

    def correlate(
        self,
        image: Tensor,
        size: Pair,
        weight: Tensor,
        bias: Tensor | None,
        activation: Activation | None = None,
    ) -> Tensor:
        """A · image + bias, (N, G, P, Q) with P, Q = `size`."""
        grid = _new((len(image), *size, len(weight)), weight)
        matrices = self._matrices(weight)
        for block, columns in self._blocks(grid, weight):
            gather(image, self.windows, size, block, as_views(columns, self.windows, size, block))
            rows = grid.view(-1, len(weight))[block.positions]
            fill(rows, bias)
            _multiply(self._parts(rows), columns, matrices)
            apply(activation, rows)
        return grid.permute(0, 3, 1, 2)

    def correlate_backward(
        self,
        image: Tensor,
        grad_grid: Tensor,
        weight: Tensor,
        size: Pair | None,
        grad_bias: Tensor | None = None,
        activation: Activation | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The gradients by the weights, (G, C/g, R, S), and by the image, (N, C, *size).

        size: None leaves the gradient by the image out.
        """
        grid_size = (grad_grid.shape[1], grad_grid.shape[2])
        matrices = self._matrices(weight)
        grad_matrices = _new(matrices.shape, weight).zero_()
        grad_image = None  # of a map that is better spread by itself, or not wanted at all
        if size is not None and self._mirrored() is None:
            grad_image = self._new_image(len(image), size, weight)
        for block, columns in self._blocks(grad_grid, weight):
            rows = grad_grid.view(-1, len(weight))[block.positions]
            views = as_views(columns, self.windows, grid_size, block)
            gather(image, self.windows, grid_size, block, views)
            _multiply(grad_matrices, columns.transpose(1, 2), self._parts(rows))
            add_column_sums(grad_bias, rows)
            if grad_image is not None:
                _multiply(columns, self._parts(rows), matrices.transpose(1, 2), beta=0)
                scatter(views, grad_image, self.windows, grid_size, block)
                if block.rows.stop == grid_size[0]:
                    differentiate(activation, grad_image[block.images], image[block.images])
        by_weight = self._as_weight(grad_matrices)
        if grad_image is not None:
            return by_weight, grad_image.permute(0, 3, 1, 2)
        if size is None:
            return by_weight, None
        by_image = self.spread(grad_grid, weight, None, size)
        differentiate(activation, by_image.permute(0, 2, 3, 1), image)
        return by_weight, by_image

    def spread(
        self,
        grid: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        size: Pair,
        activation: Activation | None = None,
    ) -> Tensor:
        """Aᵀ · grid + bias, (N, C, H, W) with H, W = `size`."""
        mirrored = self._mirrored()
        if mirrored is not None:
            pixels = mirrored.read_image(grid.permute(0, 3, 1, 2), weight)
            return mirrored.correlate(pixels, size, turn(weight), bias, activation)
        grid_size = (grid.shape[1], grid.shape[2])
        image = self._new_image(len(grid), size, weight)
        matrices = self._matrices(weight).transpose(1, 2)
        for block, columns in self._blocks(grid, weight):
            rows = grid.view(-1, len(weight))[block.positions]
            _multiply(columns, self._parts(rows), matrices, beta=0)
            views = as_views(columns, self.windows, grid_size, block)
            scatter(views, image, self.windows, grid_size, block, bias)
            if block.rows.stop == grid_size[0]:
                apply(activation, image[block.images])
        return image.permute(0, 3, 1, 2)

    def spread_backward(
        self,
        grad_image: Tensor,
        grid: Tensor,
        weight: Tensor,
        grad_bias: Tensor | None = None,
        activation: Activation | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The gradients by the weights, (G, C/g, R, S), and by the grid, (N, G, P, Q)."""
        size = (grid.shape[1], grid.shape[2])
        matrices = self._matrices(weight)
        grad_matrices = _new(matrices.shape, weight).zero_()
        grad_grid = _new(grid.shape, weight)
        for block, columns in self._blocks(grid, weight):
            views = as_views(columns, self.windows, size, block)
            gather(grad_image, self.windows, size, block, views)
            rows = grid.view(-1, len(weight))[block.positions]
            grad_rows = grad_grid.view(-1, len(weight))[block.positions]
            _multiply(self._parts(grad_rows), columns, matrices, beta=0)
            _multiply(grad_matrices, columns.transpose(1, 2), self._parts(rows))
            differentiate(activation, grad_rows, rows)
            if block.rows.stop == size[0]:
                add_column_sums(grad_bias, grad_image[block.images])
        return self._as_weight(grad_matrices), grad_grid.permute(0, 3, 1, 2)

    def _mirrored(self) -> "Columns | None":
        """The map that Aᵀ is, where windows can be mirrored: it adds nothing up that overlaps."""
        windows = self.windows.mirrored if self.groups == 1 else None
        return None if windows is None else Columns(windows, 1)

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

    def _parts(self, rows: Tensor) -> list[Tensor]:
        """Rows (L, G) as g views (L, G/g)."""
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
