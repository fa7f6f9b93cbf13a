"""From an image's own scale to [0, 1], which networks compute in, and back.

Legend: N images, C channels, h rows and w columns of a tile.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from n2n.errors import ImageError
from n2n.images import Raster
from n2n.rasters import bands

__all__ = ["Origin", "Scale", "Scales"]

Origin = Literal["given", "type", "unit", "image"]


@dataclass(frozen=True)
class Scale:
    """What one image's numbers mean: 0 and 1 of the network are `black` and `white`.

    origin: why: given by the caller, the full range of its integers (type), floats that lie in
    [0, 1] (unit), or the image's own extremes. least, most: what results are clamped to: the
    range of the integers; of floats black and white, or the image's extremes where these lie
    beyond. exceeds: whether they may.
    """

    black: float
    white: float
    origin: Origin
    least: float
    most: float
    exceeds: bool

    @classmethod
    def of(cls, raster: Raster, given: tuple[float, float] | None = None) -> "Scale":
        """Reads the whole image if it is of floats. `ImageError` for a value that is not finite."""
        if raster.dtype.kind == "u":
            most = float(np.iinfo(raster.dtype).max)
            black, white = given or (0.0, most)
            exceeds = black > 0 or white < most
            return cls(black, white, "given" if given else "type", 0.0, most, exceeds)
        least, most = _extremes(raster)
        origin: Origin = "image"
        black, white = least, most if most > least else least + max(1.0, abs(least))
        if given:
            origin, (black, white) = "given", given
        elif least >= 0 and most <= 1:
            origin, black, white = "unit", 0.0, 1.0
        exceeds = least < black or most > white
        return cls(black, white, origin, min(black, least), max(white, most), exceeds)

    @classmethod
    def of_each(
        cls, rasters: Sequence[Raster], given: tuple[float, float] | None = None
    ) -> list["Scale"]:
        """Of images of one dtype."""
        if rasters[0].dtype.kind == "u":  # none of them needs to be read
            return [cls.of(rasters[0], given)] * len(rasters)
        return [cls.of(raster, given) for raster in rasters]


class Scales:
    """The scales of N images of one dtype that go through a network together."""

    def __init__(self, scales: Sequence[Scale], dtype: np.dtype[Any]) -> None:
        self._integer = dtype.kind == "u"
        self._dtype = torch.from_numpy(np.empty(0, dtype.newbyteorder("="))).dtype
        self._exceeds = any(scale.exceeds for scale in scales)
        # What float32 holds exactly, or nearly: else the subtraction of black may cancel.
        plain = all(s.black == 0 and s.white in (1.0, 255.0, 65535.0) for s in scales)
        self._wide = torch.float32 if plain else torch.float64
        self.black, self.span, self.least, self.most = (
            torch.tensor(values, dtype=self._wide)[:, None, None, None]
            for values in zip(
                *((s.black, s.white - s.black, s.least, s.most) for s in scales), strict=True
            )
        )
        bounds = {(scale.least, scale.most) for scale in scales}
        self._bounds = bounds.pop() if len(bounds) == 1 else None  # much faster
        self._shifted = bool(self.black.any())
        self._scaled = bool((self.span != 1).any())

    def to(self, device: torch.device | str | None) -> "Scales":
        for name in ("black", "span", "least", "most"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def to_unit(self, x: Tensor, images: slice) -> tuple[Tensor, Tensor | None]:
        """(n, C, h, w) of the image's dtype → float32 in [0, 1], contiguous, and what lay beyond.

        What lies beyond black or white is cut off before the network and put back after it.
        """
        unit = x.to(self._wide, memory_format=torch.contiguous_format, copy=True)
        if self._shifted:
            unit.sub_(self.black[images])
        if self._scaled:
            unit.div_(self.span[images])
        if not self._exceeds:
            return unit.float(), None
        cut = unit.clamp(0, 1)
        return cut.float(), unit.sub_(cut)

    def from_unit(self, y: Tensor, excess: Tensor | None, images: slice) -> Tensor:
        """float32 in about [0, 1] → the image's own scale, unclamped and not rounded."""
        wide = y.to(self._wide)
        if excess is not None:
            wide = wide + excess
        if self._scaled:
            wide = wide * self.span[images]
        return wide.add_(self.black[images]) if self._shifted else wide

    def finish(self, values: Tensor, images: slice) -> Tensor:
        """Clamped, rounded to the nearest if integers are wanted, in the image's dtype."""
        if self._bounds is not None:
            values = values.clamp(*self._bounds)
        else:
            values = values.clamp(self.least[images], self.most[images])
        return (values.round_() if self._integer else values).to(self._dtype)


def _extremes(raster: Raster) -> tuple[float, float]:
    least, most = np.inf, -np.inf
    for rows in bands(raster):
        part: NDArray[Any] = raster[rows, :]
        low, high = float(part.min()), float(part.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            bad = int(np.count_nonzero(~np.isfinite(part)))
            raise ImageError(
                f"finite numbers expected, found {bad} that are not (NaN or infinite) in rows "
                f"{rows.start} to {rows.stop - 1}; replace them first"
            )
        least, most = min(least, low), max(most, high)
    return least, most
