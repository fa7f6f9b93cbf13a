"""The way of a group of images through a network and back, tile by tile, on their own scale.

Legend: n images of a piece, C channels, h rows and w columns of its tile.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from n2n.images import Raster
from n2n.inference import Runner
from n2n.rasters import WritableRaster, bands
from n2n.scale import Scale, Scales
from n2n.tiles import Grid, Range, Tile

__all__ = ["Means", "Passage", "keep_mean", "unfinished"]

ROUNDS = 8  # that keep_mean takes at most: values are clamped and rounded
CLOSE = 1e-3, 1e-9  # where it stops: of a level of integers, of the range of floats
Array = NDArray[Any]


class Passage:
    """Images of one shape and dtype, which `run` takes through the network.

    limits: by how much a number of each image may change, on the scale [0, 1]; None: by any.
    before, after: the means of what was read and of what was written.
    """

    def __init__(
        self,
        runner: Runner,
        grid: Grid,
        rasters: Sequence[Raster],
        scales: Scales,
        *,
        strength: float,
        limits: Sequence[float] | None = None,
        band_bytes: int,
    ) -> None:
        self.runner, self.grid, self.scales = runner, grid, scales
        self.strength = strength
        self.shape, self.dtype = rasters[0].shape, rasters[0].dtype
        self.device = scales.black.device
        self.limits = None
        if limits is not None:
            self.limits = torch.tensor(limits, device=self.device)[:, None, None, None]
        self.before, self.after = (Means(len(rasters), self.shape[2]) for _ in range(2))
        self._sources = [
            raster if isinstance(raster, np.ndarray) else _Banded(raster, band_bytes)
            for raster in rasters
        ]

    def run(self, outs: Sequence[WritableRaster], *, most: int | None = None) -> None:
        """Fill `outs`; unrounded and unclamped if their dtype is a wider one.

        most: images that go together.
        """

        def work(images: slice, tile: Tile) -> None:
            height, width, _ = self.shape
            rows, columns = _within(tile.rows, height), _within(tile.columns, width)
            read = self._read(images, tile)  # (n, h, w, C)
            values = self._through(read, images, Tile(rows, columns))
            if outs[0].dtype == self.dtype:
                values = self.scales.finish(values, images)
            written = values.permute(0, 2, 3, 1).contiguous().cpu().numpy()
            for out, result in zip(outs[images], written, strict=True):
                out[rows.write, columns.write] = result
            self.before.add(images, read[:, rows.keep, columns.keep])
            self.after.add(images, written)

        self.runner.cover(self.grid, len(outs), self.shape[2], work, most=most)

    def _read(self, images: slice, tile: Tile) -> Array:
        """The tile's part (n, h, w, C) of the padded images, in the byte order of this machine."""
        down = self.grid.rows.indices(tile.rows.read)
        across = self.grid.columns.indices(tile.columns.read)
        rows, columns = (slice(int(i.min()), int(i.max()) + 1) for i in (down, across))
        parts = [source[rows, columns] for source in self._sources[images]]
        read = np.stack(parts, dtype=self.dtype.newbyteorder("="))
        if read.shape[1] < len(down):
            read = read[:, down - rows.start]
        if read.shape[2] < len(across):
            read = read[:, :, across - columns.start]
        return read

    def _through(self, read: Array, images: slice, tile: Tile) -> Tensor:
        """(n, h, w, C) → (n, C, h, w) of what the tile keeps, denoised, on the images' scales."""
        raw = torch.from_numpy(read)
        if self.device.type == "cuda":  # not yet run on one
            raw = raw.pin_memory().to(self.device, non_blocking=True)
        keep = ..., tile.rows.keep, tile.columns.keep
        x, excess = self.scales.to_unit(raw.permute(0, 3, 1, 2), images)
        y = self.runner.apply(x)[keep]
        if self.limits is not None:
            limit = self.limits[images]
            y = x[keep] + (y - x[keep]).clamp(-limit, limit)
        if self.strength < 1:
            y = x[keep].lerp(y, self.strength)
        return self.scales.from_unit(y, None if excess is None else excess[keep], images)


class Means:
    """The mean of each channel of N images, part by part: of integers exactly, else in float64."""

    def __init__(self, images: int, channels: int) -> None:
        self._totals: Array | None = None
        self._shape = images, channels
        self._pixels = np.zeros((images, 1), np.int64)

    def add(self, images: slice, parts: Array) -> None:
        """(n, h, w, C) of those images."""
        integer, narrow = parts.dtype.kind == "u", parts.dtype.itemsize == 1
        wide = np.uint64 if integer else np.float64
        if self._totals is None:
            self._totals = np.zeros(self._shape, wide)
        by_column = parts.sum(1, dtype=np.uint32 if narrow else wide)  # (n, w, C): fast
        self._totals[images] += by_column.sum(1, dtype=wide)
        self._pixels[images] += parts.shape[1] * parts.shape[2]

    @property
    def mean(self) -> NDArray[np.float64]:
        """(N, C)."""
        totals = np.zeros(self._shape) if self._totals is None else self._totals
        mean: NDArray[np.float64] = totals / self._pixels
        return mean


class _Banded:
    """A raster that decodes lazily, read a band of rows at a time, since tiles lie side by side."""

    def __init__(self, raster: Raster, most: int) -> None:
        self._raster, self._most = raster, most  # bytes
        self._rows, self._band = slice(0, 0), np.empty(0)

    def __getitem__(self, part: tuple[slice, slice]) -> Array:
        rows, columns = part
        if not (self._rows.start <= rows.start and rows.stop <= self._rows.stop):
            _, width, channels = self._raster.shape
            size = (rows.stop - rows.start) * width * channels * self._raster.dtype.itemsize
            if size > self._most:
                return self._raster[rows, columns]
            self._band = np.empty(0)  # let go of before the next one is read
            self._rows, self._band = rows, self._raster[rows, :]
        first = self._rows.start
        return self._band[rows.start - first : rows.stop - first, columns]


def _within(part: Range, size: int) -> Range:
    """Without what lies beyond the image, which is narrower than the padded one."""
    beyond = max(0, part.write.stop - size)
    keep, write = (slice(s.start, s.stop - beyond) for s in (part.keep, part.write))
    return Range(part.read, keep, write)


def unfinished(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What holds results of a dtype before they are shifted, clamped and rounded."""
    return np.dtype(np.float64 if dtype.itemsize == 8 else np.float32)


def keep_mean(
    room: Raster,
    out: WritableRaster,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    scale: Scale,
) -> NDArray[np.float64]:
    """Shift each channel of `room` from the mean `after` to `before`, and finish it into `out`.

    Clamping and rounding move the mean again, so the shift is adjusted until it is met, or comes
    no closer: an image of one level has no shift in between. Returns the drift that is left, (C,).
    """
    integer = out.dtype.kind == "u"
    close = CLOSE[0] if integer else CLOSE[1] * (scale.white - scale.black)
    shift = before - after
    best, best_shift, last = np.inf, shift, np.inf
    for _ in range(ROUNDS):
        drift = _finish(room, out, shift, scale) - before
        last = float(np.abs(drift).max())
        if last < best:
            best, best_shift = last, shift
        if last <= close:
            return drift
        shift = shift - drift
    if last > best:
        drift = _finish(room, out, best_shift, scale) - before
    return drift


def _finish(
    room: Raster, out: WritableRaster, shift: NDArray[np.float64], scale: Scale
) -> NDArray[np.float64]:
    """The mean of what was written, (C,)."""
    means = Means(1, len(shift))
    for rows in bands(room):
        values = np.clip(room[rows, :] + shift, scale.least, scale.most)
        written = (values.round() if out.dtype.kind == "u" else values).astype(out.dtype)
        out[rows, :] = written
        means.add(slice(0, 1), written[None])
    (mean,) = means.mean
    return np.asarray(mean, np.float64)
