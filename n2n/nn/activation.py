"""Elementwise non-linearities."""

from torch import Tensor

from n2n.errors import InvalidValue
from n2n.nn.module import Module

__all__ = ["LeakyReLU", "ReLU", "Sigmoid"]


class ReLU(Module):
    """y = max(x, 0).   dx = dy where y > 0, else 0.   Any shape."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.clamp(min=0)
        self._save(y)
        return y

    def backward(self, grad_output: Tensor) -> Tensor:
        y: Tensor = self._take()
        return y.sign().mul_(grad_output)  # y is never negative: its sign is 0 or 1


class LeakyReLU(Module):
    """y = x where x > 0, else slope · x.   dx = dy, or slope · dy.   Any shape.

    `negative_slope` is a finite number; Maas et al. 2013.
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        if not abs(negative_slope) < float("inf"):
            raise InvalidValue(f"negative_slope must be finite, got {negative_slope}")
        self.negative_slope = float(negative_slope)

    def forward(self, x: Tensor) -> Tensor:
        slope = self._slope(x)
        self._save(slope)
        return slope * x

    def backward(self, grad_output: Tensor) -> Tensor:
        slope: Tensor = self._take()
        return slope * grad_output

    def _slope(self, x: Tensor) -> Tensor:
        """1 where x > 0, `negative_slope` elsewhere."""
        positive = x.gt(0).to(x.dtype)
        return positive.mul_(1 - self.negative_slope).add_(self.negative_slope)


class Sigmoid(Module):
    """y = 1 / (1 + exp(-x)).   dx = dy · y · (1 - y).   Any shape; y in [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.sigmoid()
        self._save(y)
        return y

    def backward(self, grad_output: Tensor) -> Tensor:
        y: Tensor = self._take()
        return (1 - y).mul_(y).mul_(grad_output)
