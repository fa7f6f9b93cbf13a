"""Elementwise non-linearities."""

from torch import Tensor

from n2n.nn.arguments import require_finite
from n2n.nn.memory import fills_its_memory
from n2n.nn.module import Module

__all__ = ["LeakyReLU", "ReLU", "Sigmoid"]

CACHED_BYTES = 2**20


class ReLU(Module):
    """y = max(x, 0).   dx = dy where y > 0, else 0.   Any shape."""

    keeps_output = True

    def forward(self, x: Tensor) -> Tensor:
        y = x.clamp(min=0)
        return self._save(y, y)

    def forward_(self, x: Tensor) -> Tensor:
        if not fills_its_memory(x):
            return self.forward(x)
        y = x.clamp_(min=0)
        return self._save(y, y)

    def backward(self, grad_output: Tensor) -> Tensor:
        y: Tensor = self._take(grad_output)
        return y.sign().mul_(grad_output)  # y is never negative: its sign is 0 or 1

    def backward_(self, grad_output: Tensor) -> Tensor:
        y: Tensor = self._take(grad_output)
        if not fills_its_memory(grad_output):
            return self.backward(grad_output)
        parts = -(-y.numel() * y.element_size() // CACHED_BYTES)
        for grad, part in zip(grad_output.chunk(parts), y.chunk(parts), strict=True):
            grad.mul_(part.sign())
        return grad_output


class LeakyReLU(Module):
    """y = x where x > 0, else slope · x.   dx = dy, or slope · dy.   Any shape.

    `negative_slope` is a finite number. Maas et al. 2013.
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = require_finite(negative_slope, name="negative_slope")

    def forward(self, x: Tensor) -> Tensor:
        if 0 <= self.negative_slope <= 1:
            slope = x.sign().clamp_(min=self.negative_slope)  # of 1, 0 and -1
        else:
            positive = x.gt(0)
            slope = positive.to(x.dtype).masked_fill_(positive.logical_not_(), self.negative_slope)
        return self._save(slope, slope * x)

    def backward(self, grad_output: Tensor) -> Tensor:
        slope: Tensor = self._take(grad_output)
        return slope * grad_output


class Sigmoid(Module):
    """y = 1 / (1 + exp(-x)).   dx = dy · y · (1 - y).   Any shape; y in [0, 1].

    A 16-bit x gives y in float32: a network's last layer.
    """

    keeps_output = True

    def forward(self, x: Tensor) -> Tensor:
        y = (x.float() if x.element_size() < 4 else x).sigmoid()
        return self._save(y, y)

    def backward(self, grad_output: Tensor) -> Tensor:
        y: Tensor = self._take(grad_output)
        return (1 - y).mul_(y).mul_(grad_output)
