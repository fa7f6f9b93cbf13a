"""A convolution of stride 1 seen from its other side: image and grid exchanged.

Moved by one pixel at a time, a window and its kernel turned around do the same: what a pixel of
the grid gathers from the image, a pixel of the image spreads over the grid. So

    A = A'ᵀ      w' = w turned by 180° and transposed, (C, G, R, S)      padding' = R - 1 - padding

and each form of A' is one of A. It pays where the grid has few channels: its side is then the one
whose windows are copied, which would otherwise be the side with many.
"""

from dataclasses import dataclass

from torch import Tensor

from n2n.nn.activation import Activation, differentiate
from n2n.nn.arguments import Pair
from n2n.nn.planes import Planes
from n2n.nn.windows import add_column_sums, turn

__all__ = ["Mirrored"]


@dataclass(frozen=True)
class Mirrored:
    """As `Columns`, for one group. other: the map A', whose image is the grid of A."""

    other: Planes

    def read_image(self, x: Tensor, weight: Tensor) -> Tensor:
        """(N, C, H, W) as (N, H, W, C), contiguous; a copy only where memory lies otherwise."""
        return self.other.read_grid(x, weight)

    def read_grid(self, x: Tensor, weight: Tensor) -> Tensor:
        """(N, G, P, Q) as (N, P, Q, G), a view."""
        return self.other.read_image(x, weight)

    def correlate(
        self,
        image: Tensor,
        size: Pair,
        weight: Tensor,
        bias: Tensor | None,
        activation: Activation | None = None,
    ) -> Tensor:
        """A · image + bias, (N, G, P, Q) with P, Q = `size`."""
        return self.other.spread(image, turn(weight), bias, size, activation)

    def correlate_backward(
        self,
        image: Tensor,
        grad_grid: Tensor,
        weight: Tensor,
        size: Pair | None,
        grad_bias: Tensor | None = None,
        activation: Activation | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The gradients by the weights, (G, C, R, S), and by the image, (N, C, *size)."""
        by_weight, by_image = self.other.spread_backward(
            grad_grid, image, turn(weight), grad_bias, activation
        )
        return turn(by_weight), by_image

    def spread(
        self,
        grid: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        size: Pair,
        activation: Activation | None = None,
    ) -> Tensor:
        """Aᵀ · grid + bias, (N, C, H, W) with H, W = `size`."""
        return self.other.correlate(grid, size, turn(weight), bias, activation)

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
        turned = turn(weight)
        by_weight, _ = self.other.correlate_backward(grid, grad_image, turned, None)
        by_grid = self.other.spread(grad_image, turned, None, (grid.shape[1], grid.shape[2]))
        differentiate(activation, by_grid.permute(0, 2, 3, 1), grid)
        return turn(by_weight), by_grid
