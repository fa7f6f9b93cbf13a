"""Sizes and positions of sliding windows: integers only, no tensors.

One picture serves both convolutions. Windows slide over an *image*; each stands at one position
of a *grid*. A convolution maps image to grid, a transposed convolution grid to image, and both
are described by the same `Windows`. A span (first, last) is a range of rows or columns, both
ends included; it may reach beyond the image, into its padding.
"""

from dataclasses import dataclass, replace

from n2n.errors import ShapeError
from n2n.nn.arguments import IntOrPair, Pair, to_pair

__all__ = ["Span", "Windows"]

Span = tuple[int, int]


@dataclass(frozen=True)
class Windows:
    """Windows of `kernel` taps, `dilation` apart, moved by `stride` over a zero-padded image."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    @classmethod
    def checked(
        cls, kernel: IntOrPair, stride: IntOrPair, padding: IntOrPair, dilation: IntOrPair
    ) -> "Windows":
        """From a layer's arguments, each an integer or a pair; errors name the argument."""
        return cls(
            to_pair(kernel, name="kernel_size", minimum=1),
            to_pair(stride, name="stride", minimum=1),
            to_pair(padding, name="padding", minimum=0),
            to_pair(dilation, name="dilation", minimum=1),
        )

    def along(self, axis: int) -> tuple[int, int, int]:
        """Stride, padding and dilation of one axis."""
        return self.stride[axis], self.padding[axis], self.dilation[axis]

    def tile(self, grid: int, size: int, axis: int) -> range:
        """The taps that lie on every pixel of an image of `size` once: `stride` in number, or none.

        grid: positions along the axis.
        """
        stride, padding, dilation = self.along(axis)
        stop = padding + stride
        fits = dilation == 1 and stop <= self.kernel[axis] and grid * stride >= size
        return range(padding, stop) if fits else range(0)

    @property
    def reach(self) -> Pair:
        """Distance from a window's first tap to its last, in pixels."""
        return (
            self.dilation[0] * (self.kernel[0] - 1),
            self.dilation[1] * (self.kernel[1] - 1),
        )

    @property
    def mirrored(self) -> "Windows | None":
        """The windows that a pixel of the image lies in, for stride 1: image and grid exchanged.

        The same kernel, turned around, over the grid with a border of reach - padding. None for
        another stride, or a border beyond the kernel's reach.
        """
        (down, across), (top, left) = self.reach, self.padding
        if self.stride != (1, 1) or top > down or left > across:
            return None
        return replace(self, padding=(down - top, across - left))

    def padded_size(self, image: Pair) -> Pair:
        return image[0] + 2 * self.padding[0], image[1] + 2 * self.padding[1]

    def grid_size(self, image: Pair) -> Pair:
        """Positions that a window has on an image of that size; ShapeError if none."""
        padded, reach = self.padded_size(image), self.reach
        if padded[0] <= reach[0] or padded[1] <= reach[1]:
            raise ShapeError(
                f"expected a padded image of at least {reach[0] + 1}x{reach[1] + 1} pixels for "
                f"kernel {self.kernel} with dilation {self.dilation}, got {padded[0]}x{padded[1]}"
            )
        return (
            (padded[0] - reach[0] - 1) // self.stride[0] + 1,
            (padded[1] - reach[1] - 1) // self.stride[1] + 1,
        )

    def image_size(self, grid: Pair, extra: Pair = (0, 0)) -> Pair:
        """Smallest image with that grid, `extra` rows and columns added; ShapeError if empty."""
        height, width = (
            (grid[axis] - 1) * self.stride[axis]
            + self.reach[axis]
            + 1
            + extra[axis]
            - 2 * self.padding[axis]
            for axis in (0, 1)
        )
        if height < 1 or width < 1:
            raise ShapeError(
                f"expected a result of at least 1x1 pixels, got {height}x{width} from an input of "
                f"{grid[0]}x{grid[1]} with padding {self.padding}; use less padding"
            )
        return height, width

    def image_span(self, grid: Span, axis: int) -> Span:
        """Rows (axis 0) or columns (axis 1) of the image under those positions of the grid."""
        stride, padding = self.stride[axis], self.padding[axis]
        return grid[0] * stride - padding, grid[1] * stride - padding + self.reach[axis]

    def grid_span(self, image: Span, axis: int) -> Span:
        """Positions of the grid whose windows may touch those rows or columns of the image."""
        stride, padding = self.stride[axis], self.padding[axis]
        first = -((self.reach[axis] - image[0] - padding) // stride)  # rounded up
        return first, (image[1] + padding) // stride
