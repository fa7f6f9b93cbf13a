"""Reading a TIFF's pixels by segments, strips or tiles, so that memory stays bounded.

Legend: rows and columns of the picture; S samples a pixel, or 1 where planes lie apart.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from n2n.images.file import Array, damaged, raster_dtype
from n2n.images.tiff_layout import PALETTE, UNCOMPRESSED, WHITE_IS_ZERO, Directory

__all__ = ["Segment", "Segments", "TiffRaster", "from_stored", "palette_of"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A strip or tile: its number in the file, its plane, and the part of the picture it holds."""

    number: int
    plane: int
    rows: slice
    columns: slice


class Segments:
    """Reads the segments of one directory; keeps the last ones, up to `max_bytes` of them."""

    def __init__(
        self, tif: tifffile.TiffFile, directory: Directory, path: Path, max_bytes: int = 0
    ) -> None:
        tif.filehandle.seek(directory.offset)
        self.page = tifffile.TiffPage(tif, 0)
        self.directory = directory
        self._path, self._max_bytes, self._bytes = path, max_bytes, 0
        self._kept: OrderedDict[int, Array] = OrderedDict()

    def within(self, rows: slice, columns: slice, planes: range | None = None) -> Iterator[Segment]:
        """The segments that a window touches, plane by plane, from top to bottom."""
        d = self.directory
        height, width = d.segment
        across = math.ceil(d.width / width)
        for plane in planes or range(d.samples if d.planar else 1):
            for y in range(rows.start // height, math.ceil(rows.stop / height)):
                for x in range(columns.start // width, math.ceil(columns.stop / width)):
                    yield Segment(
                        plane * d.count + y * across + x,
                        plane,
                        slice(y * height, min((y + 1) * height, d.height)),
                        slice(x * width, min((x + 1) * width, d.width)),
                    )

    @property
    def is_raw(self) -> bool:
        """Whether rows lie in the file as they are, so that single rows can be read."""
        d = self.directory
        return d.compression == UNCOMPRESSED and d.predictor == 1 and not d.tiled

    def read(self, segment: Segment, rows: slice, columns: slice) -> Array:
        """A window of the picture in a segment: (h, w, S), as stored but in native byte order."""
        top, left = segment.rows.start, segment.columns.start
        inside = (
            slice(rows.start - top, rows.stop - top),
            slice(columns.start - left, columns.stop - left),
        )
        if self.is_raw:
            part = self._map(segment)[inside]
            return np.array(part, part.dtype.newbyteorder("="), order="C", subok=False)
        return self.whole(segment)[inside]

    def whole(self, segment: Segment) -> Array:
        """A whole segment, decoded, with what a tile has beyond the picture: (h, w, S)."""
        if segment.number in self._kept:
            self._kept.move_to_end(segment.number)
            return self._kept[segment.number]
        decoded = self._decode(segment.number)
        self._kept[segment.number] = decoded
        self._bytes += decoded.nbytes
        while self._bytes > self._max_bytes and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes
        return decoded

    def encoded(self, number: int) -> bytes:
        """The bytes of a segment as they lie in the file."""
        file = self.page.parent.filehandle
        file.seek(self.page.dataoffsets[number] + self.directory.shift)
        return bytes(file.read(self.page.databytecounts[number]))

    def _decode(self, number: int) -> Array:
        data = self.encoded(number)
        if len(data) < self.page.databytecounts[number]:
            raise ValueError("it ends before its pixels do")
        decoded, _, _ = self.page.decode(data or None, number, jpegtables=self.page.jpegtables)
        if decoded is None:
            raise ValueError(f"strip or tile {number} is empty")
        result: Array = decoded[0]
        if result.dtype != self.page.dtype:
            raise ValueError(f"{self.page.dtype} expected, {result.dtype} found")
        return result

    def _map(self, segment: Segment) -> Array:
        """A raw strip, mapped for as long as the view is held."""
        d = self.directory
        shape = (
            segment.rows.stop - segment.rows.start,
            d.width,
            1 if d.planar else d.samples,
        )
        offset = self.page.dataoffsets[segment.number] + d.shift
        return np.memmap(self._path, d.stored, "r", offset, shape)


class TiffRaster:
    """The pixels of one page, decoded as they are asked for."""

    def __init__(self, segments: Segments, path: Path, samples: tuple[int, int]) -> None:
        d = segments.directory
        self._segments, self._path, self._samples = segments, path, samples
        self._palette = palette_of(segments.page) if d.indexed else None
        channels = 3 if d.indexed else samples[1] - samples[0]
        dtype = raster_dtype(d.stored)
        assert dtype is not None  # by describe
        self.shape = (d.height, d.width, channels)
        self.dtype: np.dtype[Any] = dtype

    def __getitem__(self, window: tuple[slice, slice], /) -> Array:
        rows, columns = (
            slice(*part.indices(size)[:2])
            for part, size in zip(window, self.shape[:2], strict=True)
        )
        with damaged(self._path, "TIFF"):
            stored = self.stored(rows, columns)
            if self._palette is not None:
                return self._palette[stored[..., 0]]
            return from_stored(stored, self._segments.directory, self.dtype)

    def stored(self, rows: slice, columns: slice) -> Array:
        """The samples of a window as they are stored."""
        d = self._segments.directory
        first, last = self._samples
        size = rows.stop - rows.start, columns.stop - columns.start, last - first
        result = np.empty(size, d.stored.newbyteorder("="))
        planes = range(first, last) if d.planar else None
        for segment in self._segments.within(rows, columns, planes):
            here = _overlap(segment.rows, rows), _overlap(segment.columns, columns)
            part = self._segments.read(segment, *here)
            target = result[
                here[0].start - rows.start : here[0].stop - rows.start,
                here[1].start - columns.start : here[1].stop - columns.start,
            ]
            if d.planar:
                target[..., segment.plane - first] = part[..., 0]
            else:
                target[...] = part[..., first:last]
        return result


def _overlap(a: slice, b: slice) -> slice:
    return slice(max(a.start, b.start), min(a.stop, b.stop))


def from_stored(samples: Array, directory: Directory, dtype: np.dtype[Any]) -> Array:
    """Stored samples as pixels, and (for integers) back: where 0 is white, it is turned over."""
    if directory.photometric == WHITE_IS_ZERO:
        return np.iinfo(dtype).max - samples
    return samples.astype(dtype, copy=False)


def palette_of(page: tifffile.TiffPage) -> Array:
    """(256, 3) of uint8. Some programs wrote 8 bits where 16 are meant."""
    assert page.photometric == PALETTE
    colours = np.asarray(page.colormap).reshape(3, 256).T
    return (colours if colours.max() < 256 else colours >> 8).astype(np.uint8)
