"""The two convolutions: one linear map and its adjoint, each the other's backward.

Let A map an image to a grid: the windows of the image times the weights.

    Conv2d            y = A x  + b      dx = Aᵀ dy      image → grid
    ConvTranspose2d   y = Aᵀ x + b      dx = A dy       grid → image

In torch's layout the weights of both are (G, C/g, R, S), and so is their gradient, the product of
the image's windows with the grid. The base class holds all of this; a subclass says which way.
How A and Aᵀ are computed is a form's business (`n2n.nn.columns`, `n2n.nn.winograd`).

N batch; C, G channels of image and grid; P, Q rows and columns of the grid; R, S of the kernel;
g groups.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

from torch import Tensor, empty

from n2n.errors import InvalidValue
from n2n.nn.activation import Activation
from n2n.nn.arguments import IntOrPair, require_at_least, to_pair
from n2n.nn.forms import Form, choose_form
from n2n.nn.geometry import Span, Windows
from n2n.nn.module import Module, Parameter
from n2n.nn.windows import require_image

if TYPE_CHECKING:
    from torch import Generator, device, dtype

__all__ = ["Conv2d", "ConvTranspose2d"]


class _Convolution(Module):
    """Weights over sliding windows: what both layers share.

    A subclass writes `_forward` and `_backward`, with the activation that follows it, or came
    before it, or None.

    Weights and bias are drawn uniformly from ±1/√(C/g·R·S), torch's default for both layers
    (He et al. 2015, with a = √5), from `generator`, or from torch's own if it is None.
    """

    takes_activations = True

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

    def require(self, x: Tensor, *, layer: str) -> None:
        """An error in the name of `layer` for an x that it cannot take."""
        like = self.weight.value if self.compute_dtype is None else None
        require_image(x, self.in_channels, layer=layer, like=like)

    def operands(self) -> tuple[Tensor, Tensor | None]:
        """Weights and bias in the dtype of the products."""
        weight, bias = self.weight.value, None if self.bias is None else self.bias.value
        dtype = self.compute_dtype or weight.dtype
        return weight.to(dtype), None if bias is None else bias.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(x, None)

    def forward_into(self, x: Tensor, activation: Activation) -> Tensor:
        return activation.keep(self._forward(x, activation))

    def backward(self, grad_output: Tensor) -> Tensor:
        return self._backward(grad_output, None)

    def backward_through(self, grad_output: Tensor, activation: Activation) -> Tensor:
        return self._backward(grad_output, activation)

    def _forward(self, x: Tensor, activation: Activation | None) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no _forward")

    def _backward(self, grad_output: Tensor, activation: Activation | None) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no _backward")

    def _bias_gradient(self) -> Tensor | None:
        return None if self.bias is None else self.bias.grad


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

    def _forward(self, x: Tensor, activation: Activation | None) -> Tensor:
        self._saved = None
        self.require(x, layer=type(self).__name__)
        size = self.windows.grid_size((x.shape[2], x.shape[3]))
        weight, bias = self.operands()
        form = choose_form(self.windows, self.groups, weight, (len(x), *size))
        image = form.read_image(x, weight)
        y = form.correlate(image, size, weight, bias, activation)
        return self._save((form, image, (x.shape[2], x.shape[3])), y)

    def _backward(self, grad_output: Tensor, activation: Activation | None) -> Tensor:
        form: Form
        form, image, size = self._take(grad_output)
        weight, _ = self.operands()
        grad_weight, grad_image = form.correlate_backward(
            image,
            form.read_grid(grad_output, weight),
            weight,
            size if self._wants_input_gradient else None,
            self._bias_gradient(),
            activation,
        )
        self.weight.grad.add_(grad_weight)
        return grad_output.new_empty(0) if grad_image is None else grad_image

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

    def _forward(self, x: Tensor, activation: Activation | None) -> Tensor:
        self._saved = None
        self.require(x, layer=type(self).__name__)
        size = self.windows.image_size((x.shape[2], x.shape[3]), self.output_padding)
        weight, bias = self.operands()
        batch, _, rows, columns = x.shape
        form = choose_form(self.windows, self.groups, weight, (batch, rows, columns))
        grid = form.read_grid(x, weight)
        return self._save((form, grid), form.spread(grid, weight, bias, size, activation))

    def _backward(self, grad_output: Tensor, activation: Activation | None) -> Tensor:
        form: Form
        form, grid = self._take(grad_output)
        weight, _ = self.operands()
        grad_weight, grad_grid = form.spread_backward(
            form.read_image(grad_output, weight), grid, weight, self._bias_gradient(), activation
        )
        self.weight.grad.add_(grad_weight)
        return grad_grid

    def input_span(self, span: Span, axis: int) -> Span:
        return self.windows.grid_span(span, axis)
