"""The form of a convolution whose image has few channels: a plane for each of a window's values.

    planes = the windows, (K, L)      grid = planesᵀ · W      image = scatter(W · gridᵀ)

As columns of `n2n.nn.columns`, but turned: a tap of all windows is one run of memory, where a row
of three channels would be too short to be copied well. A last plane of ones takes the bias
through the same product, forward and backward.

N batch; C, G channels of image and grid; P, Q grid; R, S kernel; L positions of a block;
K = C·R·S.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, cat, empty

from n2n.nn.activation import Activation, apply, differentiate
from n2n.nn.arguments import Pair
from n2n.nn.geometry import Windows
from n2n.nn.module import scratch
from n2n.nn.windows import (
    Block,
    ChannelsLast,
    add_column_sums,
    block_bytes,
    blocks,
    gather,
    scatter,
)

__all__ = ["FEW_CHANNELS", "Planes"]

FEW_CHANNELS = 4  # of an image: the most for which this form was measured to be faster


@dataclass(frozen=True)
class Planes(ChannelsLast):
    """As `Columns`, for one group: an image of any strides, as (N, H, W, C)."""

    windows: Windows

    def correlate(
        self,
        image: Tensor,
        size: Pair,
        weight: Tensor,
        bias: Tensor | None,
        activation: Activation | None = None,
    ) -> Tensor:
        """A · image + bias, (N, G, P, Q) with P, Q = `size`."""
        grid = empty((len(image), *size, len(weight)), dtype=weight.dtype, device=weight.device)
        matrix = weight.flatten(1) if bias is None else cat([weight.flatten(1), bias[:, None]], 1)
        for block, planes in self._blocks(grid, matrix):
            self._gather(image, size, block, planes, ones=bias is not None)
            rows = grid.view(-1, len(weight))[block.positions]
            rows.addmm_(planes.t(), matrix.t(), beta=0)
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
        """The gradients by the weights, (G, C, R, S), and by the image, (N, C, *size).

        size: None leaves the gradient by the image out.
        """
        ones = grad_bias is not None
        total = weight.new_zeros(weight[0].numel() + ones, len(weight))  # (K or K + 1, G)
        grid_size = (grad_grid.shape[1], grad_grid.shape[2])
        for block, planes in self._blocks(grad_grid, total.t()):
            self._gather(image, grid_size, block, planes, ones=ones)
            total.addmm_(planes, grad_grid.view(-1, len(weight))[block.positions])
        if grad_bias is not None:
            grad_bias.add_(total[-1])
            total = total[:-1]
        by_weight = total.t().reshape(weight.shape)
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
        """Aᵀ · grid + bias, (N, C, H, W) with H, W = `size`, contiguous."""
        image = empty((len(grid), weight.shape[1], *size), dtype=weight.dtype, device=weight.device)
        pixels = image.permute(0, 2, 3, 1)
        grid_size = (grid.shape[1], grid.shape[2])
        matrix = weight.flatten(1)  # (G, K)
        for block, planes in self._blocks(grid, matrix):
            rows = grid.view(-1, len(weight))[block.positions]
            planes.addmm_(matrix.t(), rows.t(), beta=0)
            views = self._views(planes, grid_size, block)
            scatter(views, pixels, self.windows, grid_size, block, bias, singly=True)
            if block.rows.stop == grid_size[0]:
                apply(activation, image[block.images])
        return image

    def spread_backward(
        self,
        grad_image: Tensor,
        grid: Tensor,
        weight: Tensor,
        grad_bias: Tensor | None = None,
        activation: Activation | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The gradients by the weights, (G, C, R, S), and by the grid, (N, G, P, Q)."""
        add_column_sums(grad_bias, grad_image)
        size = (grid.shape[1], grid.shape[2])
        grad_grid = empty(grid.shape, dtype=weight.dtype, device=weight.device)
        matrix = weight.flatten(1)
        total = weight.new_zeros(matrix.t().shape)  # (K, G)
        for block, planes in self._blocks(grid, matrix):
            self._gather(grad_image, size, block, planes)
            rows = grid.view(-1, len(weight))[block.positions]
            grad_rows = grad_grid.view(-1, len(weight))[block.positions]
            total.addmm_(planes, rows)
            grad_rows.addmm_(planes.t(), matrix.t(), beta=0)
            differentiate(activation, grad_rows, rows)
        return total.t().reshape(weight.shape), grad_grid.permute(0, 3, 1, 2)

    def _blocks(self, grid: Tensor, matrix: Tensor) -> Iterator[tuple[Block, Tensor]]:
        """Blocks of (N, P, Q, G), each with a buffer for planes (K, L), a matrix's (G, K) rows."""
        bytes_per_position = (matrix.shape[1] + grid.shape[3]) * grid.element_size()
        size = (grid.shape[1], grid.shape[2])
        for block in blocks(len(grid), size, bytes_per_position, block_bytes(grid)):
            count = block.positions.stop - block.positions.start
            yield block, scratch().empty("columns", (matrix.shape[1], count), matrix)

    def _gather(
        self, image: Tensor, size: Pair, block: Block, planes: Tensor, *, ones: bool = False
    ) -> None:
        """Copy a block's windows to planes, the last of which may be ones."""
        if ones:
            planes[-1].fill_(1)
            planes = planes[:-1]
        gather(image, self.windows, size, block, self._views(planes, size, block))

    def _views(self, planes: Tensor, size: Pair, block: Block) -> Tensor:
        """Planes (K, L) as windows (1, n, p, Q, R, S, C)."""
        images = block.images.stop - block.images.start
        shape = (*self.windows.kernel, images, block.rows.stop - block.rows.start, size[1])
        return planes.view(-1, *shape).permute(3, 4, 5, 1, 2, 0)[None]
