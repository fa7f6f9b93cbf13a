"""The two convolutions: one linear map and its adjoint, each the other's backward.

Let A map an image to a grid: gather its windows as the rows of a matrix, multiply by the weights.

    Conv2d            y = A x  + b      dx = Aᵀ dy      image → grid
    ConvTranspose2d   y = Aᵀ x + b      dx = A dy       grid → image

In torch's layout the weights of both are (G, C/g, R, S), and so is their gradient, the product of
the image's windows with the grid. The base class holds all of this; a subclass says which way.

N batch; C, G channels of image and grid; P, Q rows and columns of the grid; R, S of the kernel;
g groups; L positions of a block; K = R·S·C/g.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import sqrt
from typing import TYPE_CHECKING

from torch import Tensor, empty

from n2n.errors import InvalidType, InvalidValue
from n2n.nn.arguments import IntOrPair, require_at_least, to_pair
from n2n.nn.geometry import Span, Windows
from n2n.nn.module import Module, Parameter, scratch
from n2n.nn.windows import (
    Block,
    block_bytes,
    blocks,
    channels_last,
    fill,
    gather,
    interior,
    require_image,
    scatter,
)

if TYPE_CHECKING:
    from torch import Generator, device, dtype

__all__ = ["Conv2d", "ConvTranspose2d"]


def add_products(
    out: Iterable[Tensor], left: Iterable[Tensor], right: Iterable[Tensor], beta: int = 1
) -> None:
    """out ← beta · out + left @ right, for each group."""
    for total, first, second in zip(out, left, right, strict=True):
        total.addmm_(first, second, beta=beta)


class _Convolution(Module):
    """Weights over sliding windows: A, Aᵀ and the gradient of the weights, block by block.

    Weights and bias are drawn uniformly from ±1/√(C/g·R·S), torch's default for both layers
    (He et al. 2015, with a = √5), from `generator`, or from torch's own if it is None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        windows: Windows,
        groups: int,
        *,
        transposed: bool,
    ) -> None:
        self._wants_input_gradient = True
        self.in_channels = require_at_least(in_channels, 1, name="in_channels")
        self.out_channels = require_at_least(out_channels, 1, name="out_channels")
        self.groups = require_at_least(groups, 1, name="groups")
        if in_channels % groups or out_channels % groups:
            raise InvalidValue(
                f"groups must divide in_channels and out_channels, got groups={groups} "
                f"for {in_channels} and {out_channels}"
            )
        self.windows = windows
        self._image_channels = out_channels if transposed else in_channels
        self._grid_channels = in_channels if transposed else out_channels

    def _initialise(
        self,
        bias: bool,
        generator: Generator | None,
        device: device | str | None,
        dtype: dtype | None,
    ) -> None:
        shape = (self._grid_channels, self._image_channels // self.groups, *self.windows.kernel)
        bound = 1 / sqrt(shape[1] * shape[2] * shape[3])
        weight = empty(shape, device=device, dtype=dtype)
        self.weight = Parameter(weight.uniform_(-bound, bound, generator=generator))
        self.bias: Parameter | None = None
        if bias:
            values = empty(self.out_channels, device=device, dtype=dtype)
            self.bias = Parameter(values.uniform_(-bound, bound, generator=generator))

    def _require(self, x: Tensor) -> None:
        require_image(x, self.in_channels, layer=type(self).__name__)
        if x.dtype != self.weight.value.dtype:
            raise InvalidType(
                f"{type(self).__name__} expects {self.weight.value.dtype} like its weights, "
                f"got {x.dtype}"
            )

    def _new(self, shape: tuple[int, ...]) -> Tensor:
        like = self.weight.value
        return empty(shape, dtype=like.dtype, device=like.device)

    def _pad(self, image: Tensor) -> Tensor:
        """(N, C, H, W) as a zero-padded buffer (N, H, W, C)."""
        size = self.windows.padded_size((image.shape[2], image.shape[3]))
        shape = (len(image), *size, image.shape[1])
        if self.training:
            padded = self._workspace.bordered("padded", shape, like=self.weight.value)
        else:
            padded = self._new(shape).zero_()
        interior(padded, self.windows).copy_(image.permute(0, 2, 3, 1))
        return padded

    def _blocks(self, grid: Tensor) -> Iterator[tuple[Block, Tensor]]:
        """Blocks of (N, P, Q, G), each with a buffer for its columns (g, L, K)."""
        taps = self.weight.value[0].numel()
        bytes_per_position = self.groups * taps * grid.element_size()
        workspace = scratch() if self._wants_input_gradient else self._workspace
        size = (grid.shape[1], grid.shape[2])
        for block in blocks(len(grid), size, bytes_per_position, block_bytes(grid)):
            count = block.positions.stop - block.positions.start
            yield block, workspace.empty("columns", (self.groups, count, taps), grid)

    def _rows(self, grid: Tensor, block: Block) -> list[Tensor]:
        """A block of (N, P, Q, G) as g views (L, G/g)."""
        rows = grid.view(-1, self._grid_channels)[block.positions]
        return list(rows.chunk(self.groups, dim=1)) if self.groups > 1 else [rows]

    def _matrices(self) -> Tensor:
        """The weights as (g, K, G/g)."""
        weight: Tensor = self.weight.value.unflatten(0, (self.groups, -1))
        weight = weight.permute(0, 3, 4, 2, 1)  # (g, R, S, C/g, G/g)
        return self._new(weight.shape).copy_(weight).flatten(1, 3)

    def _add_weight_gradient(self, total: Tensor) -> None:
        """Add Σ columnsᵀ · rows, (g, K, G/g), to the gradient in torch's layout."""
        gradient = total.unflatten(1, (*self.windows.kernel, -1))  # (g, R, S, C/g, G/g)
        self.weight.grad.add_(gradient.permute(0, 4, 3, 1, 2).flatten(0, 1))

    def _add_bias_gradient(self, grad_output: Tensor) -> None:
        if self.bias is not None:
            self.bias.grad.add_(grad_output.sum((0, 2, 3)))


class Conv2d(_Convolution):
    """Cross-correlation with a bank of kernels.

    y[n, o, p, q] = b[o] + Σ w[o, c, r, s] · x[n, c, p·stride + r·dilation - padding, …]

    x: (N, in_channels, H, W); y: (N, out_channels, P, Q) with
    P = (H + 2·padding - dilation·(R - 1) - 1) // stride + 1, and Q likewise.
    weight: (out_channels, in_channels / groups, R, S); bias: (out_channels,).

    Sizes are integers or (vertical, horizontal) pairs; padding is with zeros. Raises InvalidValue
    or InvalidType for arguments, ShapeError for inputs, that do not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: IntOrPair = 0,
        dilation: IntOrPair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        generator: Generator | None = None,
        device: device | str | None = None,
        dtype: dtype | None = None,
    ) -> None:
        windows = Windows.checked(kernel_size, stride, padding, dilation)
        super().__init__(in_channels, out_channels, windows, groups, transposed=False)
        self._initialise(bias, generator, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        self._saved = None
        self._require(x)
        size = self.windows.grid_size((x.shape[2], x.shape[3]))
        padded = self._pad(x)
        y = self._new((len(x), *size, self.out_channels))  # (N, P, Q, G)
        matrices, bias = self._matrices(), None if self.bias is None else self.bias.value
        for block, columns in self._blocks(y):
            gather(padded, self.windows, size, block, columns)
            fill(y.view(-1, self.out_channels)[block.positions], bias)
            add_products(self._rows(y, block), columns, matrices)
        # A first layer needs its buffer for nothing else: windows of one block stay for backward.
        one_block = columns.shape[1] == y[..., 0].numel()
        gathered = self.training and one_block and not self._wants_input_gradient
        return self._save((padded, matrices, gathered), y.permute(0, 3, 1, 2))

    def backward(self, grad_output: Tensor) -> Tensor:
        padded, matrices, gathered = self._take(grad_output)
        grad_grid = channels_last(grad_output)  # (N, P, Q, G)
        size = (grad_grid.shape[1], grad_grid.shape[2])
        grad_weight = self._new(matrices.shape).zero_()
        wanted = self._wants_input_gradient
        grad_padded = self._new(padded.shape) if wanted else None
        for block, columns in self._blocks(grad_grid):
            rows = self._rows(grad_grid, block)
            if not gathered:
                gather(padded, self.windows, size, block, columns)
            add_products(grad_weight, columns.transpose(1, 2), rows)
            if grad_padded is not None:
                add_products(columns, rows, matrices.transpose(1, 2), beta=0)
                scatter(columns, grad_padded, self.windows, size, block)
        self._add_weight_gradient(grad_weight)
        self._add_bias_gradient(grad_output)
        if grad_padded is None:
            return grad_output.new_empty(0)
        return interior(grad_padded, self.windows).permute(0, 3, 1, 2)

    def skip_input_gradient(self, skip: bool = True) -> None:
        self._saved = None
        self._wants_input_gradient = not skip

    def input_span(self, span: Span, axis: int) -> Span:
        return self.windows.image_span(span, axis)


class ConvTranspose2d(_Convolution):
    """The adjoint of `Conv2d` as a layer: every input pixel adds its kernel to the output.

    y[n, o, p·stride + r·dilation - padding, …] += x[n, c, p, q] · w[c, o, r, s], and b[o]

    x: (N, in_channels, P, Q); y: (N, out_channels, H, W) with
    H = (P - 1)·stride - 2·padding + dilation·(R - 1) + output_padding + 1, and W likewise.
    weight: (in_channels, out_channels / groups, R, S); bias: (out_channels,).

    Sizes are integers or (vertical, horizontal) pairs; output_padding must be smaller than stride
    or dilation. Raises InvalidValue or InvalidType for arguments, ShapeError for inputs, that do
    not fit. Dumoulin & Visin 2016, section 4.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: IntOrPair = 0,
        output_padding: IntOrPair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntOrPair = 1,
        *,
        generator: Generator | None = None,
        device: device | str | None = None,
        dtype: dtype | None = None,
    ) -> None:
        windows = Windows.checked(kernel_size, stride, padding, dilation)
        super().__init__(in_channels, out_channels, windows, groups, transposed=True)
        self.output_padding = to_pair(output_padding, name="output_padding", minimum=0)
        for extra, step, gap in zip(
            self.output_padding, windows.stride, windows.dilation, strict=True
        ):
            if extra >= max(step, gap):
                raise InvalidValue(
                    "output_padding must be smaller than stride or dilation, got "
                    f"{self.output_padding} for {windows.stride} and {windows.dilation}"
                )
        self._initialise(bias, generator, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        self._saved = None
        self._require(x)
        image_size = self.windows.image_size((x.shape[2], x.shape[3]), self.output_padding)
        grid = channels_last(x)  # (N, P, Q, G)
        size = (grid.shape[1], grid.shape[2])
        shape = (len(x), *self.windows.padded_size(image_size), self.out_channels)
        padded = self._new(shape)
        matrices, bias = self._matrices(), None if self.bias is None else self.bias.value
        for block, columns in self._blocks(grid):
            add_products(columns, self._rows(grid, block), matrices.transpose(1, 2), beta=0)
            scatter(columns, padded, self.windows, size, block, bias)
        return self._save((grid, matrices), interior(padded, self.windows).permute(0, 3, 1, 2))

    def backward(self, grad_output: Tensor) -> Tensor:
        grid, matrices = self._take(grad_output)
        size = (grid.shape[1], grid.shape[2])
        padded = self._pad(grad_output)
        grad_grid = empty(grid.shape, dtype=grid.dtype, device=grid.device)
        grad_weight = self._new(matrices.shape).zero_()
        for block, columns in self._blocks(grid):
            gather(padded, self.windows, size, block, columns)
            add_products(self._rows(grad_grid, block), columns, matrices, beta=0)
            add_products(grad_weight, columns.transpose(1, 2), self._rows(grid, block))
        self._add_weight_gradient(grad_weight)
        self._add_bias_gradient(grad_output)
        return grad_grid.permute(0, 3, 1, 2)

    def input_span(self, span: Span, axis: int) -> Span:
        return self.windows.grid_span(span, axis)
