"""What a network consists of, read from its modules: shapes, parameters, work, receptive field.

The modules are run, one after the other, on an empty image; nothing is known of architectures.
Legend: C channels, H rows, W columns; k side of a patch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

from n2n.models import Network
from n2n.nn import (
    Conv2d,
    ConvTranspose2d,
    MaxPool2d,
    Module,
    PatchBlock,
    Residual,
    Sequential,
    Skip,
)

__all__ = ["Bridge", "Layer", "Structure", "describe"]

Shape = tuple[int, ...]
Span = tuple[int, int]
Reach = Callable[[Span], Span]  # from positions of a layer's output to those of the network's input
FAR = 1 << 20  # from every border


@dataclass(frozen=True)
class Layer:
    """A layer: where it is, what it does, and at what price.

    input, output: (C, H, W). multiply_adds: of one image, those with padding and borders
    included, biases and activations not. receptive_field: the side of the square of the network's
    input that a pixel of the output depends on, at most.
    """

    name: str
    kind: str
    detail: str
    input: Shape
    output: Shape
    parameters: int
    multiply_adds: int
    receptive_field: int


@dataclass(frozen=True)
class Bridge:
    """A connection past layers `first` to `last`, by their numbers: "sum" or "concatenation"."""

    first: int
    last: int
    kind: str


@dataclass
class Structure:
    """A network's layers in order, and the connections past them; shape: of its input (C, H, W)."""

    shape: Shape
    layers: list[Layer] = field(default_factory=list)
    bridges: list[Bridge] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def receptive_field(self) -> int:
        return self.layers[-1].receptive_field if self.layers else 1

    @property
    def stages(self) -> list[Layer]:
        """The layers that have parameters."""
        return [layer for layer in self.layers if layer.parameters]


def describe(network: Network, size: tuple[int, int]) -> Structure:
    """The structure of a network for images (H, W) of that size, multiples of network.multiple."""
    x = torch.zeros(1, network.channels, *size, device=network.param()[0][0].device)
    structure = Structure(tuple(x.shape[1:]))
    walker = _Walker(structure, network.multiple)
    network.eval()
    walker.walk(network, x, "", lambda span: span)
    network.release()
    return structure


class _Walker:
    """Follows a tensor through modules, and notes every layer that it meets."""

    def __init__(self, structure: Structure, period: int) -> None:
        self._structure = structure
        self._period = period

    def walk(self, module: Module, x: Tensor, name: str, reach: Reach) -> tuple[Tensor, Reach]:
        """The module's output, and the reach of its positions. reach: of those of x."""
        layers = self._structure.layers
        first = len(layers)
        if isinstance(module, Residual | Skip):
            y, _ = self.walk(module.inner, x, f"{name}.inner", reach)
            y = y + x if isinstance(module, Residual) else torch.cat([x, y], 1)
            kind = "sum" if isinstance(module, Residual) else "concatenation"
            self._structure.bridges.append(Bridge(first, len(layers) - 1, kind))
        elif isinstance(module, Sequential):
            y, inner = x, reach
            for key, child in module.children().items():
                y, inner = self.walk(child, y, f"{name}.{key}".lstrip("."), inner)
            return y, inner
        else:
            y = module.forward(x)
            layers.append(self._note(module, x, y, name, _through(module, reach)))
        return y, _through(module, reach)

    def _note(self, module: Module, x: Tensor, y: Tensor, name: str, reach: Reach) -> Layer:
        spans = [reach((row, row)) for row in range(FAR, FAR + self._period)]
        return Layer(
            name=name,
            kind=type(module).__name__,
            detail=_detail(module),
            input=tuple(x.shape[1:]),
            output=tuple(y.shape[1:]),
            parameters=sum(value.numel() for value, _ in module.param()),
            multiply_adds=_multiply_adds(module, tuple(x.shape), tuple(y.shape)),
            receptive_field=max(last - first + 1 for first, last in spans),
        )


def _through(module: Module, reach: Reach) -> Reach:
    return lambda span: reach(module.input_span(span, 0))


def _multiply_adds(module: Module, x: Shape, y: Shape) -> int:
    """Each weight is used once at each position of the convolution's grid."""
    if isinstance(module, PatchBlock):
        patches = prod((side - 2 * module.shift) // module.patch for side in x[2:])
        return patches * sum(layer.weight.value.numel() for layer in (module.down, module.up))
    if isinstance(module, Conv2d | ConvTranspose2d):
        grid = y if isinstance(module, Conv2d) else x
        return module.weight.value.numel() * prod(grid[2:])
    return 0


def _detail(module: Module) -> str:
    """A layer's geometry, in a few words."""
    if isinstance(module, PatchBlock):
        shift = f", shifted by {module.shift}" if module.shift else ""
        hidden = module.down.out_channels
        return f"patches of {module.patch}×{module.patch}{shift}, {hidden} hidden channels"
    if isinstance(module, Conv2d | ConvTranspose2d | MaxPool2d):
        return ", ".join(_words(module.windows))
    return ""


def _words(windows: Any) -> Iterator[str]:
    yield "×".join(map(str, windows.kernel))
    for name, usual in (("stride", (1, 1)), ("padding", (0, 0)), ("dilation", (1, 1))):
        value = tuple(getattr(windows, name))
        if value != usual:
            yield f"{name} {value[0] if value[0] == value[1] else '×'.join(map(str, value))}"
