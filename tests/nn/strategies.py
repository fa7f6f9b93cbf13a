"""Geometries drawn by hypothesis: a layer's options and an input that fits them.

case = Case({"kernel_size": (1, 3), "stride": 2}, shape=(2, 3, 5, 4), …)
layer, x = Conv2d(**case.options), case.input()
"""

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st

from .check import LAYOUTS, random_tensor, seeded

seeds = st.integers(0, 2**16)
layouts = st.sampled_from(LAYOUTS)
dtypes = st.sampled_from([torch.float64, torch.float32])


@dataclass(frozen=True)
class Case:
    """A layer's options, and the input to give it."""

    options: dict[str, Any]
    shape: tuple[int, int, int, int]
    dtype: torch.dtype
    layout: str
    cotangent_layout: str
    seed: int

    def input(self, levels: int | None = None) -> torch.Tensor:
        return random_tensor(
            self.shape, self.seed, dtype=self.dtype, layout=self.layout, levels=levels
        )

    def parametrised(self) -> dict[str, Any]:
        """The options of a layer with parameters."""
        return self.options | {"generator": seeded(self.seed + 1), "dtype": self.dtype}

    def how(self) -> dict[str, Any]:
        """What check_layer has to know."""
        return {"seed": self.seed + 2, "cotangent_layout": self.cotangent_layout}


def sizes(low: int, high: int) -> st.SearchStrategy[int | tuple[int, int]]:
    """An int for both axes, or a pair."""
    return st.integers(low, high) | st.tuples(st.integers(low, high), st.integers(low, high))


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


@st.composite
def cases(
    draw: st.DrawFn,
    options: dict[str, Any] | None = None,
    *,
    channels: int | None = None,
    least: tuple[int, int] = (1, 1),
    more: int = 6,
) -> Case:
    """Any input of at least `least` rows and columns."""
    shape = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, 4)) if channels is None else channels,
        least[0] + draw(st.integers(0, more)),
        least[1] + draw(st.integers(0, more)),
    )
    return Case(options or {}, shape, draw(dtypes), draw(layouts), draw(layouts), draw(seeds))


@st.composite
def convolutions(draw: st.DrawFn) -> Case:
    """Conv2d. Non-square and 1x1 kernels, strides that skip pixels, padding beyond the kernel."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    options = {
        "in_channels": groups * draw(st.integers(1, 3)),
        "out_channels": groups * draw(st.integers(1, 3)),
        "kernel_size": draw(sizes(1, 4)),
        "stride": draw(sizes(1, 3)),
        "padding": draw(sizes(0, 3)),
        "dilation": draw(sizes(1, 3)),
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    kernel, padding, dilation = (pair(options[k]) for k in ("kernel_size", "padding", "dilation"))
    reach = [d * (k - 1) + 1 - 2 * p for k, p, d in zip(kernel, padding, dilation, strict=True)]
    least = (max(1, reach[0]), max(1, reach[1]))
    return draw(cases(options, channels=options["in_channels"], least=least))


@st.composite
def transposed_convolutions(draw: st.DrawFn) -> Case:
    """ConvTranspose2d. Output padding up to what torch allows: below stride or dilation."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    stride, dilation = draw(sizes(1, 3)), draw(sizes(1, 3))
    top = [max(s, d) - 1 for s, d in zip(pair(stride), pair(dilation), strict=True)]
    options = {
        "in_channels": groups * draw(st.integers(1, 3)),
        "out_channels": groups * draw(st.integers(1, 3)),
        "kernel_size": draw(sizes(1, 4)),
        "stride": stride,
        "padding": draw(sizes(0, 3)),
        "output_padding": draw(st.tuples(*(st.integers(0, most) for most in top))),
        "groups": groups,
        "bias": draw(st.booleans()),
        "dilation": dilation,
    }
    least = [1, 1]
    for axis in (0, 1):
        kernel, padding = pair(options["kernel_size"])[axis], pair(options["padding"])[axis]
        of_one = pair(dilation)[axis] * (kernel - 1) + 1 + options["output_padding"][axis]
        missing = 1 - (of_one - 2 * padding)  # to an output of one row
        least[axis] = 1 + max(0, -(-missing // pair(stride)[axis]))
    return draw(cases(options, channels=options["in_channels"], least=(least[0], least[1]), more=4))


@st.composite
def poolings(draw: st.DrawFn) -> Case:
    """MaxPool2d. Padding at most half of the kernel, as torch has it."""
    kernel = draw(sizes(1, 4))
    stride = draw(st.none() | sizes(1, 3))
    padding = draw(st.tuples(*(st.integers(0, size // 2) for size in pair(kernel))))
    reach = [k - 2 * p for k, p in zip(pair(kernel), padding, strict=True)]
    options = {"kernel_size": kernel, "stride": stride, "padding": padding}
    return draw(cases(options, least=(max(1, reach[0]), max(1, reach[1]))))


@st.composite
def unshuffles(draw: st.DrawFn) -> Case:
    """PixelUnshuffle: sides that are multiples of r."""
    r = draw(st.integers(1, 3))
    case = draw(cases({"downscale_factor": r}, more=3))
    images, channels, rows, columns = case.shape
    shape = (images, channels, rows * r, columns * r)
    return Case(case.options, shape, case.dtype, case.layout, case.cotangent_layout, case.seed)


@st.composite
def shuffles(draw: st.DrawFn) -> Case:
    """PixelShuffle: channels that are a multiple of r²."""
    r = draw(st.integers(1, 3))
    return draw(cases({"upscale_factor": r}, channels=r * r * draw(st.integers(1, 3))))
