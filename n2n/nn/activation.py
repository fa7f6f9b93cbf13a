"""Elementwise non-linearities."""

from collections.abc import Callable

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
        if not fills_its_memory(grad_output):
            return self.backward(grad_output)
        return _multiply(grad_output, Tensor.sign, self._take(grad_output))


class LeakyReLU(Module):
    """y = x where x > 0, else slope · x.   dx = dy, or slope · dy.   Any shape.

    `negative_slope` is a finite number. Maas et al. 2013.
    """

    keeps_output = True

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = require_finite(negative_slope, name="negative_slope")

    def forward(self, x: Tensor) -> Tensor:
        y = self._slope(x).mul_(x)
        return self._save(x if self.negative_slope < 0 else y, y)

    def forward_(self, x: Tensor) -> Tensor:
        if self.negative_slope < 0 or not fills_its_memory(x):
            return self.forward(x)
        y = _multiply(x, self._slope, x)
        return self._save(y, y)

    def backward(self, grad_output: Tensor) -> Tensor:
        return self._slope(self._take(grad_output)).mul_(grad_output)

    def backward_(self, grad_output: Tensor) -> Tensor:
        if not fills_its_memory(grad_output):
            return self.backward(grad_output)
        return _multiply(grad_output, self._slope, self._take(grad_output))

    def _slope(self, x: Tensor) -> Tensor:
        """1 where x > 0, else the slope. Without a negative slope, y has the sign of x."""
        if 0 <= self.negative_slope <= 1:
            return x.sign().clamp_(min=self.negative_slope)
        positive = x.gt(0)
        return positive.to(x.dtype).masked_fill_(positive.logical_not_(), self.negative_slope)


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


def _multiply(x: Tensor, factor: Callable[[Tensor], Tensor], of: Tensor) -> Tensor:
    """x ← x · factor(of), in parts whose factors stay in the cache."""
    parts = x.numel() * x.element_size() // CACHED_BYTES
    if parts < 2:
        return x.mul_(factor(of))
    for part, source in zip(x.chunk(parts), of.chunk(parts), strict=True):
        part.mul_(factor(source))
    return x
