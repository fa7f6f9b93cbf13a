"""Architectures: from a name and its configuration to a network.

Every network maps (N, channels, H, W) in [0, 1] to the same shape, where H and W are multiples of
`network.multiple`; `n2n.denoiser` takes images of any size to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, ClassVar

from n2n.errors import InvalidValue, ShapeError
from n2n.nn import (
    Conv2d,
    ConvTranspose2d,
    LeakyReLU,
    Module,
    PatchBlock,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Skip,
)
from n2n.nn.arguments import require_at_least

if TYPE_CHECKING:
    from torch import Generator, Tensor

__all__ = ["Network", "architectures", "create", "size_multiple", "with_earlier"]

# Settings that networks made by earlier versions do not name, and what these were.
EARLIER: dict[str, dict[str, int]] = {"n2n": {"leak": 0, "overlap": 0}}
# Settings of which a network may have more than the one whose weights it begins with.
GROWING: dict[str, str] = {"n2n": "overlap"}
MAY_BE_ZERO = ("leak", "overlap")


class Network(Sequential):
    """A Sequential that knows what it was made from.

    name, config: give the same network to `create` again. channels: of input and output.
    multiple: H and W of the input must be multiples of it (ShapeError).
    """

    def __init__(
        self, modules: Sequential, *, name: str, config: dict[str, int], multiple: int
    ) -> None:
        super().__init__(modules.children())
        self.name = name
        self.config = config
        self.channels = config["channels"]
        self.multiple = multiple

    def forward(self, x: Tensor) -> Tensor:
        if (
            x.dim() != 4
            or x.shape[1] != self.channels
            or any(size % self.multiple or not size for size in x.shape[2:])
        ):
            raise ShapeError(
                f"{self.name} expects (N, {self.channels}, H, W) with H and W multiples of "
                f"{self.multiple}, got {tuple(x.shape)}"
            )
        y: Tensor = super().forward(x)
        return y.to(x.dtype)

    def backward(self, grad_output: Tensor) -> Tensor:
        return super().backward(grad_output).to(grad_output.dtype)

    def completed(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parameters of a network that has fewer blocks which may grow, with those it lacks.

        They begin as the identity: as they were drawn, but for the last layer of their residual,
        which is 0. So the larger network does what the smaller did (Chen et al. 2016, Net2Net).
        """
        if self.name not in GROWING:
            return state
        kind = f".{GROWING[self.name]}"
        new = {name: value for name, value in self.state_dict().items() if kind in name}
        for name, value in new.items():
            if ".second." in name:
                value.zero_()
        return {**new, **state}


@dataclass(frozen=True)
class _Seed:
    """The published network: two strided convolutions and two transposed ones, 48 channels."""

    channels: int = 3
    width: int = 48
    multiple: ClassVar[int] = 4

    def build(self, generator: Generator | None) -> Sequential:
        outer, inner = self.channels, self.width
        return Sequential(
            Conv2d(outer, inner, 3, stride=2, padding=1, generator=generator),
            ReLU(),
            Conv2d(inner, inner, 3, stride=2, padding=1, generator=generator),
            ReLU(),
            ConvTranspose2d(
                inner, inner, 3, stride=2, padding=1, output_padding=1, generator=generator
            ),
            ReLU(),
            ConvTranspose2d(
                inner, outer, 3, stride=2, padding=1, output_padding=1, generator=generator
            ),
            Sigmoid(),
        )


@dataclass(frozen=True)
class _UNet:
    """A residual U-Net: `depth` halvings of the resolution, each doubling `width` channels.

    Halving and doubling are 2x2 (transposed) convolutions of stride 2, which overlap nowhere.
    Ronneberger et al. 2015, figure 1, with the residual of Zhang et al. 2017 (DnCNN).
    """

    channels: int = 3
    width: int = 32
    depth: int = 2

    @property
    def multiple(self) -> int:
        return 1 << self.depth

    def build(self, generator: Generator | None) -> Sequential:
        body = self._level(self.depth, self.width, generator)
        modules: dict[str, Module] = {
            "enter": _conv(self.channels, self.width, generator),
            "activation": LeakyReLU(0.1),
            "body": body,
            "leave": _conv(self.width, self.channels, generator),
        }
        return Sequential({"residual": Residual(Sequential(modules))})

    def _level(self, depth: int, width: int, generator: Generator | None) -> Sequential:
        """width channels in and out; at depth 0 a convolution, else one around a lower level."""
        if depth == 0:
            return Sequential({"conv": _conv(width, width, generator), "act": LeakyReLU(0.1)})
        lower: dict[str, Module] = {
            "down": Conv2d(width, 2 * width, 2, stride=2, generator=generator),
            "act_down": LeakyReLU(0.1),
            "level": self._level(depth - 1, 2 * width, generator),
            "up": ConvTranspose2d(2 * width, width, 2, stride=2, generator=generator),
            "act_up": LeakyReLU(0.1),
        }
        return Sequential(
            {
                "conv": _conv(width, width, generator),
                "act": LeakyReLU(0.1),
                "skip": Skip(Sequential(lower)),
                "merge": _conv(2 * width, width, generator),
                "act_merge": LeakyReLU(0.1),
            }
        )


@dataclass(frozen=True)
class _N2N:
    """The default: residual blocks of 2x2 patches at half the resolution, every other one shifted.

    A block takes patches of 2x2 pixels, which overlap nowhere, to `hidden` channels and back:
    two matrix products and no pixel copied twice. Alternate blocks shift the patches by one
    pixel, so that what a pixel sees grows from block to block, as with the shifted windows of
    Liu et al. 2021 (Swin), section 3.2. The residual is that of Zhang et al. 2017 (DnCNN). Hidden
    channels below 0 leak (Maas et al. 2013): behind a ReLU, a third to a half of them came to
    answer to nothing in training.

    With more `levels`, a lower one stands in the middle of the blocks, and is added to what goes
    around it: as many blocks again, at half the resolution with twice the channels. That is four
    times the products at a quarter of the positions: every level takes the same time, and each
    sees twice as far as the one above.

    What a block answers depends on where its patches lie; the mean over shifted images is 0.1 to
    0.2 dB better. `overlap` blocks of the upper level are each followed by a residual block of
    two 3x3 convolutions (He et al. 2016), whose windows overlap: slower, and worth it where a
    network is trained for long.
    """

    channels: int = 3
    width: int = 64
    hidden: int = 128
    blocks: int = 8
    levels: int = 1
    leak: int = 10  # percent
    overlap: int = 0

    def __post_init__(self) -> None:
        if self.overlap > self.blocks:
            raise InvalidValue(
                f"overlap must be at most the blocks of a level ({self.blocks}), got {self.overlap}"
            )

    @property
    def multiple(self) -> int:
        return 2 << self.levels

    def build(self, generator: Generator | None) -> Sequential:
        modules: dict[str, Module] = {
            "enter": Conv2d(self.channels, self.width, 3, 2, 1, generator=generator),
            "activation": ReLU(),
            **self._level(0, generator),
            "leave": ConvTranspose2d(self.width, self.channels, 3, 2, 1, 1, generator=generator),
        }
        return Sequential({"residual": Residual(Sequential(modules))})

    def _level(self, level: int, generator: Generator | None) -> dict[str, Module]:
        """The blocks of a level, (N, width · 2^level, H, W) to the same, and the lower ones."""
        width, hidden = self.width << level, self.hidden << level
        modules: dict[str, Module] = {}
        for number in range(self.blocks):
            if level + 1 < self.levels and number == self.blocks // 2:
                lower: dict[str, Module] = {
                    "down": Conv2d(width, 2 * width, 2, stride=2, generator=generator),
                    **self._level(level + 1, generator),
                    "up": ConvTranspose2d(2 * width, width, 2, stride=2, generator=generator),
                }
                modules["lower"] = Residual(Sequential(lower))
            modules[f"block{number}"] = PatchBlock(
                width,
                hidden,
                patch=2,
                shift=number % 2,
                negative_slope=self.leak / 100,
                generator=generator,
            )
            if level == 0 and number < self.overlap:
                modules[f"overlap{number}"] = Residual(self._overlapping(width, generator))
        return modules

    def _overlapping(self, width: int, generator: Generator | None) -> Sequential:
        return Sequential(
            {
                "first": _conv(width, width, generator),
                "act": LeakyReLU(self.leak / 100) if self.leak else ReLU(),
                "second": _conv(width, width, generator),
            }
        )


def _conv(inputs: int, outputs: int, generator: Generator | None) -> Conv2d:
    return Conv2d(inputs, outputs, 3, padding=1, generator=generator)


Architecture = _Seed | _UNet | _N2N
ARCHITECTURES: dict[str, type[Architecture]] = {"n2n": _N2N, "seed": _Seed, "unet": _UNet}


def architectures() -> list[str]:
    """The names that `create` knows."""
    return list(ARCHITECTURES)


def create(name: str, *, generator: Generator | None = None, **config: int) -> Network:
    """A new network with weights drawn from `generator`, or from torch's own if it is None.

    n2n: channels (3), width (64), hidden (128), blocks (8), levels (1), leak (10), overlap (0).
    seed: channels (3), width (48). unet: channels (3), width (32), depth (2). Every setting is an
    integer of at least 1, but of at least 0 for leak, the percentage of what is below 0 that hidden
    channels let through, and overlap. InvalidValue for a name or a setting that does not exist.
    """
    chosen = _configure(name, config)
    return Network(
        chosen.build(generator), name=name, config=asdict(chosen), multiple=chosen.multiple
    )


def with_earlier(name: str, config: Mapping[str, int]) -> dict[str, int]:
    """The configuration that a file holds, with what files of earlier versions leave out."""
    return {**EARLIER.get(name, {}), **config}


def size_multiple(name: str, **config: int) -> int:
    """What H and W of a network's input must be multiples of, without making the network."""
    return _configure(name, config).multiple


def _configure(name: str, config: dict[str, int]) -> Architecture:
    if name not in ARCHITECTURES:
        raise InvalidValue(
            f"expected an architecture among {', '.join(ARCHITECTURES)}, got {name!r}"
        )
    architecture = ARCHITECTURES[name]
    known = [field.name for field in fields(architecture)]
    for key, value in config.items():
        if key not in known:
            raise InvalidValue(f"{name} has the settings {', '.join(known)}, got {key!r}")
        require_at_least(value, 0 if key in MAY_BE_ZERO else 1, name=key)
    return architecture(**config)
