"""Modules made of modules."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, cat

from n2n.errors import InvalidType, InvalidValue, ShapeError
from n2n.nn.activation import Activation
from n2n.nn.geometry import Span
from n2n.nn.memory import fills_its_memory, share_memory
from n2n.nn.module import Module

__all__ = ["Residual", "Sequential", "Skip"]


class Sequential(Module):
    """y = fₙ(… f₂(f₁(x))); backward runs the chain rule from the last module to the first.

    A convolution applies the activation after it to each part of its output while that is in the
    cache, and takes its gradient through the activation before it in the same way.

    Takes modules in order, or one mapping of names to modules. Parameters are named as torch
    names them: "0.weight", or "name.weight". An index gives a module, a slice a Sequential that
    shares its modules and their names.
    """

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        named = modules[0] if len(modules) == 1 and isinstance(modules[0], Mapping) else None
        if named is None:
            named = {str(index): module for index, module in enumerate(modules)}  # type: ignore[misc]  # checked below
        for name, module in named.items():
            if not isinstance(module, Module):
                raise InvalidType(f"Sequential expects modules, got {module!r} as {name}")
        self._children = dict(named)
        parts = list(self.modules())
        if len({id(part) for part in parts}) < len(parts):
            raise InvalidValue(
                "Sequential expects every module once, since it keeps one forward for backward; "
                "make a second module"
            )
        self._forwards = _with_activations(list(self))
        self._backwards = _with_activations(list(self)[::-1])

    def children(self) -> dict[str, Module]:
        return self._children

    def __iter__(self) -> Iterator[Module]:
        return iter(self._children.values())

    def __len__(self) -> int:
        return len(self._children)

    def __getitem__(self, index: int | slice) -> "Module | Sequential":
        if isinstance(index, slice):
            return Sequential(dict(list(self._children.items())[index]))
        return list(self)[index]

    @property
    def keeps_output(self) -> bool:  # type: ignore[override]  # of its last module
        modules = list(self)
        return bool(modules) and modules[-1].keeps_output

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(x, ours=False)

    def forward_(self, x: Tensor) -> Tensor:
        return self._forward(x, ours=True)

    def _forward(self, x: Tensor, *, ours: bool) -> Tensor:
        """Nobody else needs what lies between two modules: the second may overwrite it.

        Unless it is still the caller's x, or the first module keeps it for backward.
        """
        for module, activation in self._forwards:
            if activation is not None:
                y = module.forward_into(x, activation)
            else:
                y = module.forward_(x) if ours else module.forward(x)
            kept = module.keeps_output if activation is None else activation.keeps_output
            ours = not kept and (ours or not share_memory(x, y))
            x = y
        return x

    def backward(self, grad_output: Tensor) -> Tensor:
        return self._backward(grad_output, ours=False)

    def backward_(self, grad_output: Tensor) -> Tensor:
        return self._backward(grad_output, ours=True)

    def _backward(self, grad_output: Tensor, *, ours: bool) -> Tensor:
        for module, activation in self._backwards:
            if activation is not None:
                grad = module.backward_through(grad_output, activation)
            else:
                grad = module.backward_(grad_output) if ours else module.backward(grad_output)
            ours = ours or not share_memory(grad_output, grad)
            grad_output = grad
        return grad_output

    def skip_input_gradient(self, skip: bool = True) -> None:
        for module in list(self)[:1]:
            module.skip_input_gradient(skip)

    def input_span(self, span: Span, axis: int) -> Span:
        for module in reversed(list(self)):
            span = module.input_span(span, axis)
        return span


def _with_activations(modules: list[Module]) -> list[tuple[Any, Activation | None]]:
    """Modules in order, each with the activation next in order if it can take it along."""
    found: list[tuple[Any, Activation | None]] = []
    for module in modules:
        last, taken = found[-1] if found else (None, None)
        if (
            isinstance(module, Activation)
            and module.told_by_output
            and last is not None
            and last.takes_activations
            and taken is None
        ):
            found[-1] = (last, module)
        else:
            found.append((module, None))
    return found


class _Branch(Module):
    """A module beside the identity."""

    def __init__(self, inner: Module) -> None:
        if not isinstance(inner, Module):
            raise InvalidType(f"{type(self).__name__} expects a module, got {inner!r}")
        self.inner = inner
        self._wants_input_gradient = True

    def skip_input_gradient(self, skip: bool = True) -> None:
        self._wants_input_gradient = not skip
        self.inner.skip_input_gradient(skip)

    def input_span(self, span: Span, axis: int) -> Span:
        first, last = self.inner.input_span(span, axis)
        return min(first, span[0]), max(last, span[1])


class Residual(_Branch):
    """y = x + f(x).   dx = dy + df(dy).   f keeps the shape. He et al. 2016, equation 1."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner.forward(x)
        if y.shape != x.shape:
            raise ShapeError(
                f"Residual expects a module that keeps the shape, got {tuple(y.shape)} "
                f"from {tuple(x.shape)}"
            )
        return y + x if self.inner.keeps_output else _add(y, x)

    def backward(self, grad_output: Tensor) -> Tensor:
        through = self.inner.backward(grad_output)
        return _add(through, grad_output) if self._wants_input_gradient else through


class Skip(_Branch):
    """y = [x, f(x)] along the channels, the skip connection of a U-Net.

    x: (N, C, H, W); f(x): (N, D, H, W); y: (N, C + D, H, W). Ronneberger et al. 2015, figure 1.
    """

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner.forward(x)
        if y.dim() != 4 or (y.shape[0], *y.shape[2:]) != (x.shape[0], *x.shape[2:]):
            raise ShapeError(
                f"Skip expects a module that keeps (N, ·, H, W), got {tuple(y.shape)} "
                f"from {tuple(x.shape)}"
            )
        return self._save(x.shape[1], cat([x, y], 1))

    def backward(self, grad_output: Tensor) -> Tensor:
        channels: int = self._take(grad_output)
        beside, through = grad_output[:, :channels], grad_output[:, channels:]
        through = self.inner.backward(through)
        return _add(through, beside) if self._wants_input_gradient else through


def _add(ours: Tensor, other: Tensor) -> Tensor:
    """ours + other, in the memory of `ours` where that is fit to hold the sum."""
    if ours.dtype != other.dtype or share_memory(ours, other) or not fills_its_memory(ours):
        return ours + other
    return ours.add_(other)
