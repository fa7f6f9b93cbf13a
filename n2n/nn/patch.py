"""A residual block over patches, computed patch by patch in one go.

N batch; C channels; H, W image; k side of a patch; P, Q rows and columns of patches; G hidden
channels; L patches of a block; K = k·k·C.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor, empty

from n2n.errors import ShapeError
from n2n.nn.activation import Activation, LeakyReLU, ReLU
from n2n.nn.arguments import Pair, require_at_least, require_not_negative
from n2n.nn.conv import Conv2d, ConvTranspose2d
from n2n.nn.geometry import Span
from n2n.nn.module import Module, scratch
from n2n.nn.windows import Block, block_bytes, blocks, column_sums

if TYPE_CHECKING:
    from torch import Generator, device, dtype

__all__ = ["PatchBlock"]


class PatchBlock(Module):
    """y = x + up(act(down(x))): each patch of pixels through a layer of hidden channels and back.

    down is a Conv2d and up a ConvTranspose2d, both of kernel and stride `patch`, so that patches
    overlap nowhere; act is a LeakyReLU of slope `negative_slope`, or a ReLU if that is 0. The
    patches begin `shift` pixels inside of the image; a border so wide stays as it is. With X the
    patches as rows, (N·P·Q, K),

        H = act(X W₁ + b₁)            Y = X + H W₂ + b₂
        dH = dY W₂ᵀ · act'(H)         dX = dY + dH W₁ᵀ    dW₁ = Xᵀ dH    dW₂ = Hᵀ dY

    x, y: (N, channels, H, W), H - 2·shift and W - 2·shift multiples of patch, else ShapeError.
    The parameters are those of down and up. Without a shift it is a Residual of the three layers,
    but a part of the batch goes through all of them while it is in the cache, and the sum costs
    nothing: it is what the last product starts from.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        patch: int = 2,
        shift: int = 0,
        negative_slope: float = 0.0,
        *,
        generator: Generator | None = None,
        device: device | str | None = None,
        dtype: dtype | None = None,
    ) -> None:
        self.patch = require_at_least(patch, 1, name="patch")
        self.shift = require_at_least(shift, 0, name="shift")
        self.negative_slope = require_not_negative(negative_slope, name="negative_slope")
        self.down = Conv2d(
            channels, hidden, patch, patch, generator=generator, device=device, dtype=dtype
        )
        self.up = ConvTranspose2d(
            hidden, channels, patch, patch, generator=generator, device=device, dtype=dtype
        )

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(x, in_place=False)

    def forward_(self, x: Tensor) -> Tensor:
        return self._forward(x, in_place=not self.training)  # training keeps x for backward

    def _forward(self, x: Tensor, *, in_place: bool) -> Tensor:
        self._saved = None
        self.down.require(x, layer="PatchBlock")
        if any((side - 2 * self.shift) % self.patch for side in x.shape[2:]):
            raise ShapeError(
                f"PatchBlock expects H and W that without a border of {self.shift} are multiples "
                f"of {self.patch}, got {x.shape[2]}x{x.shape[3]}"
            )
        into, bias_into = self._operands(self.down)
        back, bias_back = self._operands(self.up)
        y = self._result(x, into, in_place=in_place)
        positions = len(x) * self._count(x)[0] * self._count(x)[1] if self.training else 0
        kept = empty((positions, len(into)), dtype=into.dtype, device=x.device)
        for block in self._blocks(x, into):
            rows = self._cut(x, block, into, "patches")  # (L, K)
            inner = kept[block.positions] if self.training else self._inner(rows, into)
            inner.copy_(bias_into).addmm_(rows, into.t())  # (L, G)
            self._activation.apply_(inner)
            rows.add_(bias_back.repeat(self.patch**2)).addmm_(inner, back)
            self._paste(rows, block, y)
            self._keep_border(x, y, block)
        return self._save((x, kept), y)

    def backward(self, grad_output: Tensor) -> Tensor:
        return self._backward(grad_output, in_place=False)

    def backward_(self, grad_output: Tensor) -> Tensor:
        return self._backward(grad_output, in_place=True)

    def _backward(self, grad_output: Tensor, *, in_place: bool) -> Tensor:
        x, kept = self._take(grad_output)
        (into, _), (back, _) = self._operands(self.down), self._operands(self.up)
        grad_x = self._result(grad_output, into, in_place=in_place)
        grad_into, grad_back = _Gradient(self.down), _Gradient(self.up)
        for block in self._blocks(x, into):
            inner = kept[block.positions]  # (L, G)
            rows = self._cut(grad_output, block, into, "patches")  # (L, K)
            grad_back.add(rows, inner, rows)
            grad_inner = self._inner(rows, into)
            grad_inner.addmm_(rows, back.t(), beta=0)
            self._activation.differentiate_(grad_inner, inner)
            grad_into.add(self._cut(x, block, into, "before"), grad_inner, grad_inner)
            self._paste(rows.addmm_(grad_inner, into), block, grad_x)
            self._keep_border(grad_output, grad_x, block)
        for gradient in (grad_into, grad_back):
            gradient.finish()
        return grad_x

    def input_span(self, span: Span, axis: int) -> Span:
        first, last = ((edge - self.shift) // self.patch for edge in span)
        return first * self.patch + self.shift, (last + 1) * self.patch + self.shift - 1

    @property
    def _activation(self) -> Activation:
        return LeakyReLU(self.negative_slope) if self.negative_slope else ReLU()

    def _count(self, x: Tensor) -> Pair:
        """P and Q for (N, C, H, W)."""
        rows, columns = (max(0, side - 2 * self.shift) // self.patch for side in x.shape[2:])
        return rows, columns

    def _result(self, x: Tensor, matrix: Tensor, *, in_place: bool) -> Tensor:
        """Room for an image like x, (N, C, H, W): x itself if it may be overwritten.

        A block of patches is read before it is written, and touches no other.
        """
        if in_place and x.dtype == matrix.dtype:
            return x
        shape = (len(x), *x.shape[2:], x.shape[1])
        result = empty(shape, dtype=matrix.dtype, device=x.device).permute(0, 3, 1, 2)
        if 0 in self._count(x):
            result.copy_(x)  # it is all border
        return result

    def _keep_border(self, x: Tensor, result: Tensor, block: Block) -> None:
        """Copy what no patch covers, of a block's images, once their last patch is in place."""
        if self.shift == 0 or x is result or block.rows.stop < self._count(x)[0]:
            return
        for axis in (2, 3):
            for start in (0, x.shape[axis] - self.shift):
                border = result[block.images].narrow(axis, start, self.shift)
                border.copy_(x[block.images].narrow(axis, start, self.shift))

    def _blocks(self, x: Tensor, matrix: Tensor) -> Iterator[Block]:
        if 0 in self._count(x):
            return iter(())
        bytes_per_patch = matrix.element_size() * matrix.shape[1]
        return blocks(len(x), self._count(x), bytes_per_patch, block_bytes(x))

    def _operands(self, layer: Conv2d | ConvTranspose2d) -> tuple[Tensor, Tensor]:
        """Weights as (G, K) and the bias, in the dtype of the products."""
        weight, bias = layer.operands()
        taps = weight.permute(0, 2, 3, 1)
        matrix = empty(taps.shape, dtype=weight.dtype, device=weight.device).copy_(taps).flatten(1)
        return matrix, bias if bias is not None else matrix.new_empty(0)

    def _inner(self, rows: Tensor, matrix: Tensor) -> Tensor:
        """A buffer (L, G) for the hidden channels of rows (L, K)."""
        return scratch().empty("inner", (len(rows), len(matrix)), rows)

    def _cut(self, image: Tensor, block: Block, matrix: Tensor, name: str) -> Tensor:
        """The patches of a block of (N, C, H, W) as rows (L, K)."""
        count = block.positions.stop - block.positions.start
        rows = scratch().empty(name, (count, matrix.shape[1]), matrix)
        tiles = self._tiles(image, block)
        rows.view(tiles.shape).copy_(tiles)
        return rows

    def _paste(self, rows: Tensor, block: Block, image: Tensor) -> None:
        """The inverse of `_cut`: rows (L, K) to their places in (N, C, H, W)."""
        tiles = self._tiles(image, block)
        tiles.copy_(rows.view(tiles.shape))

    def _tiles(self, image: Tensor, block: Block) -> Tensor:
        """The patches of a block of (N, C, H, W), in place: a view (n, p, Q, k, k, C)."""
        first, last = (self.shift + row * self.patch for row in (block.rows.start, block.rows.stop))
        right = image.shape[3] - self.shift
        part = image[block.images, :, first:last, self.shift : right].permute(0, 2, 3, 1)
        tiles: Tensor = part.unflatten(2, (-1, self.patch)).unflatten(1, (-1, self.patch))
        return tiles.permute(0, 1, 3, 2, 4, 5)


class _Gradient:
    """The gradients of a layer's weights, as a matrix (K, G), and of its bias, part by part."""

    def __init__(self, layer: Conv2d | ConvTranspose2d) -> None:
        self.layer = layer
        self.taps = layer.weight.grad.permute(2, 3, 1, 0)  # (k, k, C, G)
        self.matrix = self.taps.new_zeros(self.taps.shape).flatten(0, 2)

    def add(self, patches: Tensor, inner: Tensor, grad: Tensor) -> None:
        """Patches (L, K) and hidden channels (L, G); grad is the one of them that is a gradient."""
        if self.matrix.dtype == patches.dtype:
            self.matrix.addmm_(patches.t(), inner)
        else:
            self.matrix.add_(patches.t() @ inner)
        if self.layer.bias is not None:
            total = self.layer.bias.grad
            total.add_(column_sums(grad).view(-1, len(total)).sum(0))

    def finish(self) -> None:
        self.taps.add_(self.matrix.view(self.taps.shape))
