"""Noise models: from a clean photograph, two or more views whose noise is independent.

    subsample            one random source pixel for each output pixel (the published data's noise)
    gaussian:SIGMA       y = x + σ·n, n ~ N(0, 1)                       σ in 8-bit units
    gaussian:LOW-HIGH    the same, σ ~ U(LOW, HIGH) for each pair
    poisson:PEAK         y = Poisson(x·PEAK/255)·255/PEAK               PEAK photons at white
    impulse:P            with probability P a pixel becomes a random colour
    text:P               random strings over at least the share P of all pixels

x, y: 0 to 255; views are rounded and clipped to uint8.
Axes: N pairs, H W a photograph's height and width, C channels, S the side of a crop.
"""

import math
import re
from dataclasses import asdict, dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from n2n.data.batches import Pixels
from n2n.data.crops import (
    UInt8,
    block_means,
    channels_first,
    pick_pixels,
    random_corner,
    random_crops,
)
from n2n.data.overlay import write_over
from n2n.errors import InvalidValue

__all__ = ["Gaussian", "Impulse", "NoiseModel", "Poisson", "Subsample", "Text", "parse_noise"]

Float32: TypeAlias = NDArray[np.float32]

MAX_PEAK = 1e6
MAX_TEXT = 0.9  # of the pixels; more takes ever more strings
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?:inf|nan)"


class NoiseModel:
    """How noisy views and their clean image are drawn from one photograph."""

    name: ClassVar[str]
    goes_beyond: ClassVar[bool] = False  # whether its noise may leave 0 to 255
    columns: ClassVar[tuple[str, ...]] = ("input", "target", "clean")

    @property
    def spec(self) -> str:
        """The text that `parse_noise` reads back as this model."""
        values = "-".join(dict.fromkeys(_text(value) for value in self.parameters.values()))
        return f"{self.name}:{values}" if values else self.name

    @property
    def parameters(self) -> dict[str, float]:
        """The model's numbers by name."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]  # subclasses: dataclasses

    def least_side(self, size: int) -> int:
        """The smallest height or width of a photograph that yields crops of `size` pixels."""
        return size

    def sample(
        self, photographs: tuple[UInt8, ...], count: int, size: int, rng: np.random.Generator
    ) -> tuple[UInt8, ...]:
        """Draw `count` pairs of random crops from the one photograph (H, W, C).

        Returns input, target and clean, each uint8 (N, C, S, S).
        """
        (photograph,) = photographs
        clean = random_crops(photograph, count, size, rng)
        first, second = self.views(clean, rng)
        return first, second, clean

    def draw(
        self,
        photograph: UInt8,
        count: int,
        size: int,
        rng: np.random.Generator,
        *,
        clipped: bool,
        views: int = 2,
    ) -> tuple[Pixels, ...]:
        """Draw `count` random crops from a photograph (H, W, C), each as some noisy views of it.

        Returns `views` arrays, (N, C, S, S) each: uint8, or unless `clipped` float32 where the
        noise goes beyond 0 to 255.
        """
        clean = random_crops(photograph, count, size, rng)
        return self.views(clean, rng, views) if clipped else self.unclipped(clean, rng, views)

    def views(self, clean: UInt8, rng: np.random.Generator, count: int = 2) -> tuple[UInt8, ...]:
        """`count` noisy views of clean images.   clean and each view: uint8 (N, C, S, S)."""
        return tuple(to_uint8(view) for view in self.unclipped(clean, rng, count))

    def unclipped(
        self, clean: UInt8, rng: np.random.Generator, count: int = 2
    ) -> tuple[Pixels, ...]:
        """The same, float32 and neither rounded nor clipped where it `goes_beyond`."""
        raise NotImplementedError(f"{type(self).__name__} has no views")


@dataclass(frozen=True)
class Subsample(NoiseModel):
    """Shrinking by picking: each view takes one random source pixel from every s × s block.

    A square of S·s source pixels a side at a random place; s is drawn from the upper half of what
    the photograph allows; clean is the mean of each block. All channels come from the same pixel.
    """

    name: ClassVar[str] = "subsample"

    def least_side(self, size: int) -> int:
        return 2 * size

    def sample(
        self, photographs: tuple[UInt8, ...], count: int, size: int, rng: np.random.Generator
    ) -> tuple[UInt8, ...]:
        (photograph,) = photographs
        pairs = np.empty((3, count, size, size, photograph.shape[2]), np.uint8)
        for i in range(count):
            square = self._square(photograph, size, rng)
            pairs[:2, i] = pick_pixels(*square, rng)
            pairs[2, i] = block_means(*square)
        return tuple(channels_first(view) for view in pairs)

    def draw(
        self,
        photograph: UInt8,
        count: int,
        size: int,
        rng: np.random.Generator,
        *,
        clipped: bool,
        views: int = 2,
    ) -> tuple[UInt8, ...]:
        found = np.empty((views, count, size, size, photograph.shape[2]), np.uint8)
        for i in range(count):
            found[:, i] = pick_pixels(*self._square(photograph, size, rng), rng, views)
        return tuple(channels_first(view) for view in found)

    def _square(
        self, photograph: UInt8, size: int, rng: np.random.Generator
    ) -> tuple[UInt8, int, int]:
        """A random part of a photograph (H, W, C), S, and the side s of its blocks.

        → (S·s, S·s, C).
        """
        height, width, _ = photograph.shape
        largest = min(height, width) // size
        if largest < 2:
            raise InvalidValue(
                f"subsample needs photographs of at least {2 * size} pixels a side for crops of "
                f"{size}; found {width} × {height}"
            )
        scale = int(rng.integers(largest // 2 + 1, largest + 1))
        top, left = random_corner(photograph.shape, size * scale, rng)
        return photograph[top : top + size * scale, left : left + size * scale], size, scale


@dataclass(frozen=True)
class Gaussian(NoiseModel):
    """Additive white Gaussian noise; σ is drawn once for each pair, uniform in [low, high].

    `low` and `high` in 8-bit units, 0 ≤ low ≤ high ≤ 255 and high > 0.
    """

    low: float
    high: float
    name: ClassVar[str] = "gaussian"
    goes_beyond: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_range("gaussian SIGMA", self.low, 0, 255, low_is_in=self.low != self.high)
        require_range("gaussian SIGMA", self.high, 0, 255)
        if self.low > self.high:
            raise InvalidValue(
                f"gaussian:LOW-HIGH needs LOW below HIGH; found {self.low:g}-{self.high:g}"
            )

    def unclipped(
        self, clean: UInt8, rng: np.random.Generator, count: int = 2
    ) -> tuple[Pixels, ...]:
        sigma = rng.uniform(self.low, self.high, len(clean)).astype(np.float32)
        sigma = sigma[:, None, None, None]

        def view() -> Float32:
            noise = rng.standard_normal(clean.shape, dtype=np.float32)
            return np.add(np.multiply(noise, sigma, out=noise), clean, out=noise)

        return tuple(view() for _ in range(count))


@dataclass(frozen=True)
class Poisson(NoiseModel):
    """Photon noise: white is `peak` photons on average; 0 < peak ≤ 1e6."""

    peak: float
    name: ClassVar[str] = "poisson"
    goes_beyond: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_range("poisson PEAK", self.peak, 0, MAX_PEAK)

    def unclipped(
        self, clean: UInt8, rng: np.random.Generator, count: int = 2
    ) -> tuple[Pixels, ...]:
        photons = clean * (self.peak / 255)

        def view() -> Float32:
            found: Float32 = (rng.poisson(photons) * (255 / self.peak)).astype(np.float32)
            return found

        return tuple(view() for _ in range(count))


@dataclass(frozen=True)
class Impulse(NoiseModel):
    """Random-valued impulses: a pixel becomes a uniformly random colour; 0 < probability ≤ 1.

    Noise2Noise (Lehtinen et al., 2018), section 3.3. Its mean is not the clean image.
    """

    probability: float
    name: ClassVar[str] = "impulse"

    def __post_init__(self) -> None:
        require_range("impulse P", self.probability, 0, 1)

    def unclipped(
        self, clean: UInt8, rng: np.random.Generator, count: int = 2
    ) -> tuple[UInt8, ...]:
        images, _, height, width = clean.shape

        def view() -> UInt8:
            struck = rng.random((images, 1, height, width)) < self.probability
            colours = rng.integers(0, 256, clean.shape, np.uint8)
            return np.where(struck, colours, clean)

        return tuple(view() for _ in range(count))


@dataclass(frozen=True)
class Text(NoiseModel):
    """Text over the image: random strings, sizes, angles, colours; 0 < share ≤ 0.9 of its pixels.

    Noise2Noise (Lehtinen et al., 2018), section 3.3. Its median is the clean image below a share
    of 0.5, its mean is not.
    """

    share: float
    name: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        require_range("text P", self.share, 0, MAX_TEXT)

    def unclipped(
        self, clean: UInt8, rng: np.random.Generator, count: int = 2
    ) -> tuple[UInt8, ...]:
        return tuple(
            np.stack([write_over(image, self.share, rng) for image in clean]) for _ in range(count)
        )


def parse_noise(text: str) -> NoiseModel:
    """Read a noise model from its text, such as "subsample" or "gaussian:5-50".

    Raises InvalidValue for an unknown name and for numbers that are missing, malformed or out of
    range.
    """
    name, colon, argument = text.strip().partition(":")
    name = name.lower()
    if name == "subsample" and not colon:
        return Subsample()
    match = re.fullmatch(rf"({_NUMBER})(?:-({_NUMBER}))?", argument.strip(), re.IGNORECASE)
    if match and name == "gaussian":
        low, high = match.groups()
        if high is not None and float(low) == float(high):
            raise InvalidValue(f"gaussian:LOW-HIGH needs LOW below HIGH; found {argument!r}")
        return Gaussian(float(low), float(low if high is None else high))
    if match and match[2] is None and name == "poisson":
        return Poisson(float(match[1]))
    if match and match[2] is None and name == "impulse":
        return Impulse(float(match[1]))
    if match and match[2] is None and name == "text":
        return Text(float(match[1]))
    raise InvalidValue(
        "expected the noise subsample, gaussian:SIGMA, gaussian:LOW-HIGH, poisson:PEAK, "
        f"impulse:P or text:P; found {text!r}"
    )


def require_range(
    what: str, value: float, low: float, high: float, *, low_is_in: bool = False
) -> None:
    """Raise InvalidValue unless low < value ≤ high, or low ≤ value ≤ high if `low_is_in`."""
    if not math.isfinite(value) or value > high or value < low or (value == low and not low_is_in):
        begin = "from" if low_is_in else "above"
        raise InvalidValue(f"{what} must be {begin} {low:g} to {high:g}; found {value:g}")


def to_uint8(values: Pixels) -> UInt8:
    """Round to the nearest and clip to 0 … 255; uint8 as it is."""
    if values.dtype == np.uint8:
        return values  # type: ignore[return-value]  # mypy does not see the dtype
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _text(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
