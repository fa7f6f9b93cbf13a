"""Layers without parameters that change the size of an image.

N batch; C channels; H, W image; P, Q grid; R, S kernel or scale; L positions of a block.
"""

from dataclasses import replace

from torch import Tensor, empty

from n2n.errors import InvalidValue, ShapeError
from n2n.nn.arguments import IntOrPair, require_at_least, to_pair
from n2n.nn.geometry import Span, Windows
from n2n.nn.module import Module
from n2n.nn.windows import as_views, channels_last, gather, require_image, scatter, whole

__all__ = ["MaxPool2d", "NearestUpsample", "PixelShuffle", "PixelUnshuffle"]


class MaxPool2d(Module):
    """y = the largest value under each window; its gradient goes to that value's place.

    x: (N, C, H, W); y: (N, C, P, Q) with P = (H + 2·padding - R) // stride + 1. `stride` is the
    kernel size if None; padding, never chosen, is at most half the kernel. Of equal values the
    first in row order counts. ShapeError for an image smaller than the window.
    """

    def __init__(
        self, kernel_size: IntOrPair, stride: IntOrPair | None = None, padding: IntOrPair = 0
    ) -> None:
        self.windows = Windows.checked(
            kernel_size, kernel_size if stride is None else stride, padding, 1
        )
        for kernel, pad in zip(self.windows.kernel, self.windows.padding, strict=True):
            if 2 * pad > kernel:
                raise InvalidValue(
                    f"padding must be at most half of kernel_size, got {self.windows.padding} "
                    f"for {self.windows.kernel}"
                )

        self._padded = replace(self.windows, padding=(0, 0))  # for images with a border of -inf

    def forward(self, x: Tensor) -> Tensor:
        require_image(x, x.shape[1] if x.dim() == 4 else 1, layer="MaxPool2d")
        size = self.windows.grid_size((x.shape[2], x.shape[3]))
        shape = (len(x), *self.windows.padded_size((x.shape[2], x.shape[3])), x.shape[1])
        padded = empty(shape, dtype=x.dtype, device=x.device).fill_(float("-inf"))
        self._inside(padded).copy_(x.permute(0, 2, 3, 1))
        taps = self.windows.kernel[0] * self.windows.kernel[1]
        positions = len(x) * size[0] * size[1]
        columns = empty((1, positions, taps * x.shape[1]), dtype=x.dtype, device=x.device)
        block = whole(len(x), size)
        gather(padded, self._padded, size, block, as_views(columns, self._padded, size, block))
        values, chosen = columns.view(len(x), *size, taps, x.shape[1]).max(3)  # (N, P, Q, C)
        return self._save((shape, chosen), values.permute(0, 3, 1, 2))

    def backward(self, grad_output: Tensor) -> Tensor:
        shape, chosen = self._take(grad_output)
        batch, rows, across, channels = chosen.shape
        taps = self.windows.kernel[0] * self.windows.kernel[1]
        columns = empty(
            (batch, rows, across, taps, channels),
            dtype=grad_output.dtype,
            device=grad_output.device,
        ).zero_()
        columns.scatter_(3, chosen.unsqueeze(3), channels_last(grad_output).unsqueeze(3))
        padded = empty(shape, dtype=grad_output.dtype, device=grad_output.device)
        block = whole(batch, (rows, across))
        views = as_views(columns.view(1, -1, taps * channels), self._padded, (rows, across), block)
        scatter(views, padded, self._padded, (rows, across), block)
        return self._inside(padded).permute(0, 3, 1, 2)

    def _inside(self, padded: Tensor) -> Tensor:
        """(N, H, W, C) without its border, as a view."""
        top, left = self.windows.padding
        return padded[:, top : padded.shape[1] - top, left : padded.shape[2] - left]

    def input_span(self, span: Span, axis: int) -> Span:
        return self.windows.image_span(span, axis)


class NearestUpsample(Module):
    """y[n, c, i, j] = x[n, c, i // R, j // S].   dx = the sum over each R × S block of dy.

    x: (N, C, H, W); y: (N, C, H·R, W·S); `scale_factor` an integer or a pair.
    """

    def __init__(self, scale_factor: IntOrPair) -> None:
        self.scale = to_pair(scale_factor, name="scale_factor", minimum=1)

    def forward(self, x: Tensor) -> Tensor:
        require_image(x, x.shape[1] if x.dim() == 4 else 1, layer="NearestUpsample")
        batch, height, width, channels = x.permute(0, 2, 3, 1).shape
        down, across = self.scale
        blocks = channels_last(x).view(batch, height, 1, width, 1, channels)
        y = blocks.expand(-1, -1, down, -1, across, -1).clone()
        y = y.reshape(batch, height * down, width * across, channels)
        return self._save(x.shape, y.permute(0, 3, 1, 2))

    def backward(self, grad_output: Tensor) -> Tensor:
        self._take(grad_output)
        down, across = self.scale
        parts: Tensor = grad_output.unflatten(3, (-1, across)).unflatten(2, (-1, down))
        return parts.sum((3, 5))  # (N, C, H, R, W, S)

    def input_span(self, span: Span, axis: int) -> Span:
        return span[0] // self.scale[axis], span[1] // self.scale[axis]


class PixelShuffle(Module):
    """y[n, c, h·r + i, w·r + j] = x[n, c·r² + i·r + j, h, w]: channels become resolution.

    x: (N, C·r², H, W); y: (N, C, H·r, W·r). Shi et al. 2016, equation 4. `PixelUnshuffle` is the
    inverse, and the backward.
    """

    def __init__(self, upscale_factor: int) -> None:
        self.factor = require_at_least(upscale_factor, 1, name="upscale_factor")

    def forward(self, x: Tensor) -> Tensor:
        _require_multiple(x, (1, self.factor**2), "PixelShuffle", "channels")
        return self._save(x.shape, shuffle(x, self.factor))

    def backward(self, grad_output: Tensor) -> Tensor:
        self._take(grad_output)
        return unshuffle(grad_output, self.factor)

    def input_span(self, span: Span, axis: int) -> Span:
        return span[0] // self.factor, span[1] // self.factor


class PixelUnshuffle(Module):
    """y[n, c·r² + i·r + j, h, w] = x[n, c, h·r + i, w·r + j]: resolution becomes channels.

    x: (N, C, H·r, W·r); y: (N, C·r², H, W).
    """

    def __init__(self, downscale_factor: int) -> None:
        self.factor = require_at_least(downscale_factor, 1, name="downscale_factor")

    def forward(self, x: Tensor) -> Tensor:
        _require_multiple(x, (2, self.factor), "PixelUnshuffle", "rows")
        _require_multiple(x, (3, self.factor), "PixelUnshuffle", "columns")
        return self._save(x.shape, unshuffle(x, self.factor))

    def backward(self, grad_output: Tensor) -> Tensor:
        self._take(grad_output)
        return shuffle(grad_output, self.factor)

    def input_span(self, span: Span, axis: int) -> Span:
        return span[0] * self.factor, span[1] * self.factor + self.factor - 1


def shuffle(x: Tensor, factor: int) -> Tensor:
    """(N, C·r², H, W) to (N, C, H·r, W·r), a copy."""
    parts = x.unflatten(1, (-1, factor, factor)).permute(0, 4, 2, 5, 3, 1)
    y = empty(parts.shape, dtype=x.dtype, device=x.device).copy_(parts)  # (N, H, r, W, r, C)
    return y.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def unshuffle(x: Tensor, factor: int) -> Tensor:
    """(N, C, H·r, W·r) to (N, C·r², H, W), a copy."""
    parts = x.unflatten(3, (-1, factor)).unflatten(2, (-1, factor)).permute(0, 2, 4, 1, 3, 5)
    y = empty(parts.shape, dtype=x.dtype, device=x.device).copy_(parts)  # (N, H, W, C, r, r)
    return y.flatten(3, 5).permute(0, 3, 1, 2)


def _require_multiple(x: Tensor, divisor: tuple[int, int], layer: str, what: str) -> None:
    axis, factor = divisor
    if x.dim() != 4 or x.shape[axis] % factor or not x.numel():
        raise ShapeError(
            f"{layer} expects (N, C, H, W) with a multiple of {factor} {what}, got {tuple(x.shape)}"
        )
