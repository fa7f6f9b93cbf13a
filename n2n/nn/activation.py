"""Elementwise non-linearities."""

from collections.abc import Callable

from torch import Tensor

from n2n.nn.arguments import require_finite
from n2n.nn.memory import fills_its_memory
from n2n.nn.module import Module

__all__ = ["Activation", "LeakyReLU", "ReLU", "Sigmoid", "apply", "differentiate"]

CACHED_BYTES = 2**20


class Activation(Module):
    """y = f(x), element by element, whose derivative can be told from y.

    The layer before it can apply it to each part of its output, and the one after it multiply
    each part of its gradient by the derivative, while that part is in the cache (`Sequential`).
    """

    keeps_output = True

    @property
    def told_by_output(self) -> bool:
        """Whether f'(x) follows from y."""
        return True

    def apply_(self, x: Tensor) -> None:
        """x ← f(x)."""
        raise NotImplementedError(f"{type(self).__name__} has no apply_")

    def differentiate_(self, grad: Tensor, y: Tensor) -> None:
        """grad ← grad · f'(x), for y = f(x)."""
        raise NotImplementedError(f"{type(self).__name__} has no differentiate_")

    def keep(self, y: Tensor) -> Tensor:
        """Save y for `backward` as if `forward` had computed it here, and return it."""
        return self._save(y, y)


def apply(activation: Activation | None, x: Tensor) -> None:
    """x ← f(x), where there is an activation."""
    if activation is not None:
        activation.apply_(x)


def differentiate(activation: Activation | None, grad: Tensor, y: Tensor) -> None:
    """grad ← grad · f'(x) for y = f(x), where there is an activation."""
    if activation is not None:
        activation.differentiate_(grad, y)


class ReLU(Activation):
    """y = max(x, 0).   dx = dy where y > 0, else 0.   Any shape."""

    def forward(self, x: Tensor) -> Tensor:
        return self.keep(x.clamp(min=0))

    def forward_(self, x: Tensor) -> Tensor:
        return self.keep(x.clamp_(min=0)) if fills_its_memory(x) else self.forward(x)

    def backward(self, grad_output: Tensor) -> Tensor:
        y: Tensor = self._take(grad_output)
        return y.sign().mul_(grad_output)  # y is never negative: its sign is 0 or 1

    def backward_(self, grad_output: Tensor) -> Tensor:
        if not fills_its_memory(grad_output):
            return self.backward(grad_output)
        self.differentiate_(grad_output, self._take(grad_output))
        return grad_output

    def apply_(self, x: Tensor) -> None:
        x.clamp_(min=0)

    def differentiate_(self, grad: Tensor, y: Tensor) -> None:
        _multiply(grad, Tensor.sign, y)


class LeakyReLU(Activation):
    """y = x where x > 0, else slope · x.   dx = dy, or slope · dy.   Any shape.

    `negative_slope` is a finite number. Maas et al. 2013.
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = require_finite(negative_slope, name="negative_slope")

    @property
    def told_by_output(self) -> bool:
        """Without a negative slope, y has the sign of x."""
        return self.negative_slope >= 0

    def forward(self, x: Tensor) -> Tensor:
        y = self._slope(x).mul_(x)
        return self._save(y if self.told_by_output else x, y)

    def forward_(self, x: Tensor) -> Tensor:
        if not self.told_by_output or not fills_its_memory(x):
            return self.forward(x)
        self.apply_(x)
        return self.keep(x)

    def backward(self, grad_output: Tensor) -> Tensor:
        return self._slope(self._take(grad_output)).mul_(grad_output)

    def backward_(self, grad_output: Tensor) -> Tensor:
        if not fills_its_memory(grad_output):
            return self.backward(grad_output)
        self.differentiate_(grad_output, self._take(grad_output))
        return grad_output

    def apply_(self, x: Tensor) -> None:
        _multiply(x, self._slope, x)

    def differentiate_(self, grad: Tensor, y: Tensor) -> None:
        _multiply(grad, self._slope, y)

    def _slope(self, x: Tensor) -> Tensor:
        """1 where x > 0, else the slope."""
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


def _multiply(x: Tensor, factor: Callable[[Tensor], Tensor], of: Tensor) -> None:
    """x ← x · factor(of), in parts whose factors stay in the cache."""
    parts = x.numel() * x.element_size() // CACHED_BYTES
    if parts < 2:
        x.mul_(factor(of))
        return
    for part, source in zip(x.chunk(parts), of.chunk(parts), strict=True):
        part.mul_(factor(source))
