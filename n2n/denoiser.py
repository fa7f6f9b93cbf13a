"""Images of any size and depth through a network: `Denoiser` for arrays, `denoise` for tensors.

Large images go by tiles, which give what the whole image would give (`n2n.tiles`); small ones go
together.

Legend: N images, C channels, H rows, W columns; h, w of a tile.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import inf, prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from n2n.errors import ImageError, InvalidValue, ShapeError
from n2n.images import Raster, open_image, write_image
from n2n.inference import MAX_PIXELS, MAX_PIXELS_GPU, Runner, denoise, inference, require_channels
from n2n.memory import Need, fair_part
from n2n.models import Network
from n2n.noise_level import estimate_sigma
from n2n.options import Options
from n2n.passage import Passage, keep_mean, unfinished
from n2n.rasters import Scratch, WritableRaster, bands, require_raster
from n2n.scale import Origin, Scale, Scales

__all__ = [
    "MAX_PIXELS",
    "Denoiser",
    "Options",
    "Result",
    "denoise",
    "denoise_file",
    "denoise_pixels",
]

TILES, IMAGES, BAND = 5 / 8, 1 / 4, 1 / 8  # of max_memory; images: two with keep_mean
DEFAULTS = Options()
Array = NDArray[Any]


@dataclass(frozen=True)
class Result:
    """A denoised image (H, W, C) and what became of its brightness.

    drift: mean of the result less mean of the input, over all pixels and channels, on the image's
    own scale; channel_drift: of each channel. value_range: the black and white that were used,
    and range_origin why: given, type (of integers), unit ([0, 1]) or image (its extremes).
    sigma: an estimate of the input's noise, in parts of that range; None for a small image.
    """

    pixels: Raster | None  # None where they went into a file
    drift: float
    channel_drift: tuple[float, ...]
    value_range: tuple[float, float]
    range_origin: Origin
    sigma: float | None = None


class Denoiser:
    """A network on its device, ready for any number of images.

    device: where it computes; the network is moved there. None: where it is. max_memory: bytes
    that images may take beside what the process holds already, on the device and on the host
    alike; None: a fair part of what is free now. A quarter of it is for a whole result: one that
    is larger goes to a file in `scratch` (None: the system's folder of temporary files), as does
    what keep_mean needs. Where the smallest tile needs more, more is taken.
    batch_size: most images that go together; None: as many as there is room for. max_pixels: at
    once in the network, of all images; None: what max_memory holds, and no more than is fast.
    warn: told once, in a line, that memory ran out and tiles became smaller.

    Not for several threads at once.
    """

    def __init__(
        self,
        network: Network,
        *,
        options: Options = DEFAULTS,
        device: torch.device | str | None = None,
        max_memory: int | None = None,
        batch_size: int | None = None,
        max_pixels: int | None = None,
        warn: Callable[[str], None] | None = None,
        scratch: Path | str | None = None,
    ) -> None:
        limits = {"max_memory": max_memory, "batch_size": batch_size, "max_pixels": max_pixels}
        for name, value in limits.items():
            if value is not None and value < 1:
                raise InvalidValue(f"{name}: at least 1 expected, got {value}")
        if device is not None:
            network.to(device)
        parameters = network.param()
        self.device = parameters[0][0].device if parameters else torch.device(device or "cpu")
        self.network = network
        self.options = options
        self.batch_size = batch_size
        self.scratch = scratch
        self.max_memory = fair_part(self.device) if max_memory is None else max_memory
        self._host_memory = self.max_memory
        if self.device.type != "cpu":  # a GPU may have more than its host
            self._host_memory = min(self.max_memory, fair_part("cpu"))
        self._runner = Runner(
            network, max_pixels=max_pixels or self._pixels(), tta=options.tta, warn=warn
        )

    @property
    def max_pixels(self) -> int:
        """How many pixels enter the network at once: halved when memory runs out."""
        return self._runner.max_pixels

    @property
    def image_bytes(self) -> int:
        """What an image may take in memory before it is better read and written in parts."""
        return int(IMAGES / 2 * self._host_memory)

    def run(self, raster: Raster, out: WritableRaster | None = None) -> Result:
        """Denoise one image (H, W, C) of uint8, uint16 or floats, of any size.

        C is 1, that of the network, or anything if the network is for grey, which then takes
        channel by channel; grey enters a colour network as equal channels, and the mean of them
        comes out. Numbers keep their type and range; float64 is computed in float32.

        out: where the result goes, of the same shape and dtype, and not the input. None: an
        array, or a `Scratch` where that would not fit.

        `ImageError` for floats that are not finite, `ShapeError` or `InvalidType` for what is no
        image, and when memory runs out even with the smallest tile, MemoryError or torch's
        RuntimeError.
        """
        require_raster(raster)
        if out is None:
            out = self._room(raster.shape, raster.dtype)
        elif tuple(out.shape) != tuple(raster.shape) or out.dtype != raster.dtype:
            raise ShapeError(
                f"out: {raster.dtype} of shape {tuple(raster.shape)} expected, got {out.dtype} "
                f"of shape {tuple(out.shape)}"
            )
        return self._run([raster], [out])[0]

    def run_many(self, rasters: Sequence[Array]) -> list[Result]:
        """Denoise images as `run` does, those of one shape and dtype together, in order.

        Each comes out as it would alone, but for the rounding of floats.
        """
        for raster in rasters:
            require_raster(raster)
        results: dict[int, Result] = {}
        order = sorted(range(len(rasters)), key=lambda i: (_kind(rasters[i]), i))
        for _, group in groupby(order, key=lambda i: _kind(rasters[i])):
            numbers = list(group)
            together: list[Raster] = [rasters[i] for i in numbers]
            outs = [self._room(raster.shape, raster.dtype) for raster in together]
            results |= zip(numbers, self._run(together, outs), strict=True)
        return [results[i] for i in range(len(rasters))]

    def _run(self, rasters: Sequence[Raster], outs: Sequence[WritableRaster]) -> list[Result]:
        """Images of one shape and dtype."""
        require_channels(self.network, rasters[0].shape[2], "raster")
        scales = Scale.of_each(rasters, self.options.value_range)
        sigmas = [estimate_sigma(*one) for one in zip(rasters, scales, strict=True)]
        if self.options.strength == 0:
            drifts = [np.zeros(raster.shape[2]) for raster in rasters]
            for raster, out in zip(rasters, outs, strict=True):
                for rows in bands(raster):
                    out[rows, :] = raster[rows, :]
        else:
            drifts = self._through(rasters, outs, scales, sigmas)
        return [
            Result(
                pixels=out,
                drift=float(drift.mean()),
                channel_drift=tuple(float(value) for value in drift),
                value_range=(scale.black, scale.white),
                range_origin=scale.origin,
                sigma=sigma,
            )
            for out, drift, scale, sigma in zip(outs, drifts, scales, sigmas, strict=True)
        ]

    def _through(
        self,
        rasters: Sequence[Raster],
        outs: Sequence[WritableRaster],
        scales: Sequence[Scale],
        sigmas: Sequence[float | None],
    ) -> list[NDArray[np.float64]]:
        """Fill the outs; the drift of each channel of each image."""
        height, width, _ = rasters[0].shape
        clip = self.options.clip_residual
        limits = None
        if clip is not None:
            limits = [inf if sigma is None else clip * sigma for sigma in sigmas]
        passage = Passage(
            self._runner,
            self._runner.grid(height, width),
            rasters,
            Scales(scales, rasters[0].dtype).to(self.device),
            strength=self.options.strength,
            limits=limits,
            band_bytes=int(BAND * self._host_memory),
        )
        rooms: Sequence[WritableRaster] = outs
        if self.options.keep_mean:
            rooms = [self._room(raster.shape, unfinished(raster.dtype)) for raster in rasters]
        with inference(self.network):
            passage.run(rooms, most=self.batch_size)
        before, after = passage.before.mean, passage.after.mean
        if not self.options.keep_mean:
            return list(after - before)
        return [keep_mean(*one) for one in zip(rooms, outs, before, after, scales, strict=True)]

    def _pixels(self) -> int:
        most = MAX_PIXELS if self.device.type == "cpu" else MAX_PIXELS_GPU
        need = Need.of(self.network, tta=self.options.tta)
        return min(most, need.pixels(TILES * self.max_memory))

    def _room(self, shape: tuple[int, int, int], dtype: Any) -> WritableRaster:
        """For one image: in memory if that is a fair part of it, else in a file."""
        dtype = np.dtype(dtype)
        share = IMAGES / (2 if self.options.keep_mean else 1)
        if prod(shape) * dtype.itemsize <= share * self._host_memory:
            return np.empty(shape, dtype)
        return Scratch(shape, dtype, self.scratch)


def denoise_pixels(
    network: Network,
    pixels: NDArray[Any],
    *,
    options: Options = DEFAULTS,
    max_pixels: int | None = None,
    device: torch.device | str | None = None,
) -> NDArray[Any]:
    """Denoise an array (H, W, C), as `Denoiser.run` does; the result is a new array."""
    out = np.empty_like(pixels, order="C", subok=False)
    Denoiser(network, options=options, max_pixels=max_pixels, device=device).run(pixels, out)
    return out


def denoise_file(
    denoiser: Denoiser, source: Path | str, destination: Path | str, *, format: str | None = None
) -> list[Result]:
    """Denoise one image file into another, page by page; alpha and metadata pass (`n2n.images`).

    format: another one than the source's, on purpose. Returns a result for each page, without
    its pixels. `ImageError` for a file that cannot be used, OSError for a disk that cannot be
    written.
    """
    results: list[Result] = []
    with open_image(source) as file:

        def denoised() -> Iterator[Raster]:
            for page in file.pages:
                result = _run_page(denoiser, page.raster(max_bytes=denoiser.image_bytes), source)
                results.append(replace(result, pixels=None))
                assert result.pixels is not None  # of `run`
                yield result.pixels

        write_image(destination, file, denoised(), format=format)
    return results


def _run_page(denoiser: Denoiser, raster: Raster, source: Path | str) -> Result:
    """`ImageError` begins with the source's name, also if it is of the pixels."""
    try:
        return denoiser.run(raster)
    except (ImageError, ShapeError) as error:
        if str(error).startswith(f"{source}: "):
            raise
        raise ImageError(f"{source}: {error}") from error


def _kind(raster: Array) -> tuple[tuple[int, ...], str]:
    return raster.shape, raster.dtype.str
