"""The way of a group of images through a network and back, tile by tile, on their own scale.

Legend: n images of a piece, C channels, h rows and w columns of its tile.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from n2n.inference import Runner
from n2n.rasters import Raster, WritableRaster, bands
from n2n.scale import Scale, Scales
from n2n.tiles import Grid, Range, Tile

__all__ = ["Means", "Passage", "keep_mean", "unfinished"]

ROUNDS = 8  # that keep_mean takes at most: values are clamped and rounded
CLOSE = 1e-3, 1e-9  # where it stops: of a level of integers, of the range of floats
Array = NDArray[Any]


class Passage:
    """Images of one shape and dtype; `work` takes some of them and a tile.

    before, after: the means of each image, of what was read and of what was written.
    """

    def __init__(
        self,
        runner: Runner,
        grid: Grid,
        rasters: Sequence[Raster],
        scales: Scales,
        *,
        strength: float,
        band_bytes: int,
    ) -> None:
        self.runner, self.grid, self.scales = runner, grid, scales
        self.strength = strength
        self.sources = [_Source(raster, grid, band_bytes) for raster in rasters]
        channels = rasters[0].shape[2]
        self.before = [Means(channels) for _ in rasters]
        self.after = [Means(channels) for _ in rasters]
        self.device = scales.black.device

    def work(self, images: slice, tile: Tile, outs: Sequence[WritableRaster]) -> None:
        """Write the tile of those images to `outs`; unrounded and unclamped if these are wider."""
        height, width, _ = self.sources[0].raster.shape
        rows, columns = _within(tile.rows, height), _within(tile.columns, width)
        place = rows.write, columns.write
        read = np.stack([source.read(tile) for source in self.sources[images]])  # (n, h, w, C)
        kept = read[:, rows.keep, columns.keep]
        values = self._through(read, images, Tile(rows, columns))
        if outs[0].dtype == self.sources[0].raster.dtype:
            values = self.scales.finish(values, images)
        written = values.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        for number, image in enumerate(range(images.start, images.stop)):
            outs[image][place] = written[number]
            self.before[image].add(kept[number])
            self.after[image].add(written[number])

    def _through(self, read: Array, images: slice, tile: Tile) -> Tensor:
        """(n, h, w, C) → (n, C, h, w) of what the tile keeps, denoised, on the image's scale."""
        raw = torch.from_numpy(read)
        if self.device.type == "cuda":  # not yet run on one
            raw = raw.pin_memory().to(self.device, non_blocking=True)
        keep = ..., tile.rows.keep, tile.columns.keep
        x, excess = self.scales.to_unit(raw.permute(0, 3, 1, 2), images)
        y = self.runner.apply(x)[keep]
        if self.strength < 1:
            y = x[keep].lerp(y, self.strength)
        return self.scales.from_unit(y, None if excess is None else excess[keep], images)


def _within(part: Range, size: int) -> Range:
    """Without what lies beyond the image, which is narrower than the padded one."""
    beyond = max(0, part.write.stop - size)
    keep, write = (slice(s.start, s.stop - beyond) for s in (part.keep, part.write))
    return Range(part.read, keep, write)


class Means:
    """The mean of each channel over parts of an image: of integers exactly, else in float64."""

    def __init__(self, channels: int) -> None:
        self._totals: Any = np.zeros(channels, np.float64)
        self._count = 0

    def add(self, part: Array) -> None:
        """(h, w, C)."""
        wide = np.uint64 if part.dtype.kind == "u" else np.float64
        total = part.sum(0, dtype=wide).sum(0)  # rows first, which is fast
        self._totals = self._totals + (total.astype(object) if wide is np.uint64 else total)
        self._count += part.shape[0] * part.shape[1]

    @property
    def mean(self) -> NDArray[np.float64]:
        """(C,)."""
        mean: NDArray[np.float64] = (self._totals / self._count).astype(np.float64)
        return mean


class _Source:
    """A raster that is read by tiles. What decodes lazily is read a band of rows at a time."""

    def __init__(self, raster: Raster, grid: Grid, band_bytes: int) -> None:
        self.raster, self.grid = raster, grid
        self._native = raster.dtype.newbyteorder("=")
        self._bands = not isinstance(raster, np.ndarray)
        self._most = band_bytes
        self._rows, self._band = slice(0, 0), np.empty(0)

    def read(self, tile: Tile) -> Array:
        """The tile's part (h, w, C) of the padded image, in the byte order of this machine."""
        down = self.grid.rows.indices(tile.rows.read)
        across = self.grid.columns.indices(tile.columns.read)
        rows, columns = (slice(int(i.min()), int(i.max()) + 1) for i in (down, across))
        part = self._part(rows, columns)
        if len(part) < len(down):
            part = part[down - rows.start]
        if part.shape[1] < len(across):
            part = part[:, across - columns.start]
        return part.astype(self._native, copy=False)

    def _part(self, rows: slice, columns: slice) -> Array:
        if not self._bands:
            return self.raster[rows, columns]
        if not (self._rows.start <= rows.start and rows.stop <= self._rows.stop):
            _, width, channels = self.raster.shape
            size = (rows.stop - rows.start) * width * channels * self.raster.dtype.itemsize
            if size > self._most:
                return self.raster[rows, columns]
            self._band = np.empty(0)  # before the next one is read
            self._rows, self._band = rows, self.raster[rows, :]
        first = self._rows.start
        return self._band[rows.start - first : rows.stop - first, columns]


def unfinished(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What holds results of a dtype before they are shifted, clamped and rounded."""
    return np.dtype(np.float64 if dtype.itemsize == 8 else np.float32)


def keep_mean(
    room: Raster, out: WritableRaster, before: Means, after: Means, scale: Scale
) -> NDArray[np.float64]:
    """Shift each channel of `room` to the mean that it had, and finish it into `out`.

    Clamping and rounding move the mean again, so the shift is adjusted until it is met, or comes
    no closer: an image of one level has no shift in between. Returns the drift that is left, (C,).
    """
    integer = out.dtype.kind == "u"
    close = CLOSE[0] if integer else CLOSE[1] * (scale.white - scale.black)
    shift = before.mean - after.mean
    best, best_shift, last = np.inf, shift, np.inf
    for _ in range(ROUNDS):
        drift = _finish(room, out, shift, scale) - before.mean
        last = float(np.abs(drift).max())
        if last < best:
            best, best_shift = last, shift
        if last <= close:
            return drift
        shift = shift - drift
    if last > best:
        drift = _finish(room, out, best_shift, scale) - before.mean
    return drift


def _finish(
    room: Raster, out: WritableRaster, shift: NDArray[np.float64], scale: Scale
) -> NDArray[np.float64]:
    """The mean of what was written, (C,)."""
    means = Means(len(shift))
    for rows in bands(room):
        values = np.clip(room[rows, :] + shift, scale.least, scale.most)
        written = (values.round() if out.dtype.kind == "u" else values).astype(out.dtype)
        out[rows, :] = written
        means.add(written)
    return means.mean
