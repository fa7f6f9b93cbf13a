"""Exchanging the pixels in a copy of a TIFF, one strip or tile after the other."""

import shutil
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from n2n.errors import ImageError
from n2n.images.file import STRIP_BYTES, Array, Raster, Taker, damaged, strips
from n2n.images.tiff_coding import encode_segment, to_samples
from n2n.images.tiff_entries import make_rgb
from n2n.images.tiff_layout import LOSSY, UNCOMPRESSED, Directory
from n2n.images.tiff_segments import Segment, TiffRaster

if TYPE_CHECKING:
    from n2n.images.tiff import TiffFile

__all__ = ["exchange"]

OFFSETS, COUNTS = (324, 273), (325, 279)  # tags of tiles, of strips
SIZES = {3: 2, 4: 4, 13: 4, 16: 8, 18: 8}  # bytes of the types of whole numbers
CLASSIC_LIMIT = 1 << 32


def exchange(file: "TiffFile", temporary: Path, results: Taker) -> None:
    """Copy the file, and put the results' pixels in the place of its own.

    A strip or tile that is no longer than it was lies where it, or another of its picture, was;
    a longer one goes behind the end. Parts that do not change (alpha in planes of its own, JPEG
    that decodes to just the result) are not touched.
    """
    shutil.copyfile(file.path, temporary)
    with temporary.open("r+b", buffering=0) as out:
        room = _Room(out.seek(0, 2))
        for directory in file.directories:
            rasters = [results.take() for _ in directory.groups]
            _Exchange(file, directory, out, room).run(rasters)
        if not file.tif.is_bigtiff and room.end >= CLASSIC_LIMIT:
            raise ImageError(
                f"{file.path}: a result of less than 4 GiB expected, as a TIFF of its kind holds; "
                "convert it to BigTIFF"
            )
        out.truncate(room.end)


class _Room:
    """Which parts of the output hold new pixels, and where more can go."""

    def __init__(self, end: int) -> None:
        self.end = end
        self._starts: list[int] = []
        self._stops: list[int] = []

    def is_free(self, start: int, stop: int) -> bool:
        """Whether no new pixels lie there."""
        after = bisect_left(self._starts, stop)
        return after == 0 or self._stops[after - 1] <= start

    def claim(self, start: int, stop: int) -> None:
        """New pixels lie there from now on."""
        at = bisect_right(self._starts, start)
        if at and self._stops[at - 1] == start:
            self._stops[at - 1] = stop
        else:
            self._starts.insert(at, start)
            self._stops.insert(at, stop)
        self.end = max(self.end, stop)

    def append(self, size: int) -> int:
        """A place behind the end, which readers expect to be even."""
        start = self.end + self.end % 2
        self.claim(start, start + size)
        return start


class _Exchange:
    """One directory of the file."""

    def __init__(self, file: "TiffFile", directory: Directory, out: BinaryIO, room: _Room) -> None:
        self._directory, self._out, self._room = directory, out, room
        self._file = file
        self._source = file.segments(directory)
        self._page = self._source.page
        self._offsets = list(self._page.dataoffsets)
        self._counts = list(self._page.databytecounts)
        self._free: list[tuple[int, int]] = []

    def run(self, rasters: Sequence[Raster]) -> None:
        """rasters: of each group of samples."""
        d = self._directory
        if d.indexed:
            if self._is_unchanged(rasters[0]):
                return
            make_rgb(self._out, self._page)
        segments = list(self._segments())
        if d.compression != UNCOMPRESSED or d.indexed:
            self._free = [] if d.compression in LOSSY else self._find_free(segments)
        for segment in segments:
            if self._source.is_raw and not d.indexed:
                self._write_rows(segment, rasters)
            else:
                self._write_whole(segment, rasters)
        self._write_tags()
        self._give_back()

    def _segments(self) -> Iterator[Segment]:
        """Those that hold samples of a page."""
        d = self._directory
        planes = sorted(s for first, last in d.groups for s in range(first, last))
        everything = slice(0, d.height), slice(0, d.width)
        for plane in planes if d.planar else [0]:
            yield from self._source.within(*everything, range(plane, plane + 1))

    def _is_unchanged(self, raster: Raster) -> bool:
        source = TiffRaster(self._source, self._file.path, (0, 1))
        return all((part == source[rows, :]).all() for rows, part in strips(raster))

    def _write_rows(self, segment: Segment, rasters: Sequence[Raster]) -> None:
        """An uncompressed strip, which may be as large as the picture, some rows at a time."""
        number, d = segment.number, self._directory
        start = self._offsets[number] + d.shift
        if not self._room.is_free(start, start + self._counts[number]):
            if d.shift:
                raise ImageError(f"{self._file.path}: pictures that share no bytes expected")
            start = self._offsets[number] = self._room.append(self._counts[number])
        self._room.claim(start, start + self._counts[number])
        self._out.seek(start)
        row_bytes = d.width * (1 if d.planar else d.samples) * d.stored.itemsize
        step = max(1, STRIP_BYTES // row_bytes)
        for top in range(segment.rows.start, segment.rows.stop, step):
            rows = slice(top, min(top + step, segment.rows.stop))
            samples = self._samples(segment, rows, segment.columns, rasters)
            _write(self._out, encode_segment(samples, d, None))

    def _write_whole(self, segment: Segment, rasters: Sequence[Raster]) -> None:
        d, number = self._directory, segment.number
        samples = self._samples(segment, segment.rows, segment.columns, rasters)
        if d.compression in LOSSY:
            before = self._read(segment, segment.rows, segment.columns)
            if (before == samples).all():
                return
        if d.tiled:
            beyond = [(0, full - now) for full, now in zip(d.segment, samples.shape, strict=False)]
            samples = np.pad(samples, [*beyond, (0, 0)], mode="edge")
        data = encode_segment(samples, d, self._page)
        start = self._place(number, len(data))
        self._offsets[number], self._counts[number] = start, len(data)
        self._out.seek(start)
        _write(self._out, data)

    def _samples(
        self, segment: Segment, rows: slice, columns: slice, rasters: Sequence[Raster]
    ) -> Array:
        """What belongs into a window of a segment: (h, w, S), in native byte order."""
        d = self._directory
        if d.indexed:
            return np.ascontiguousarray(rasters[0][rows, columns])
        if d.planar:
            first, raster = next(
                (group[0], raster)
                for group, raster in zip(d.groups, rasters, strict=True)
                if segment.plane in range(*group)
            )
            plane = segment.plane - first
            return to_samples(raster[rows, columns][..., plane : plane + 1], d)
        if len(d.groups) == 1 and d.groups[0] == (0, d.samples):
            return to_samples(rasters[0][rows, columns], d)
        samples = self._read(segment, rows, columns).copy()  # alpha among them
        for (first, last), raster in zip(d.groups, rasters, strict=True):
            samples[..., first:last] = to_samples(raster[rows, columns], d)
        return samples

    def _read(self, segment: Segment, rows: slice, columns: slice) -> Array:
        with damaged(self._file.path, "TIFF"):
            return self._source.read(segment, rows, columns)

    def _find_free(self, segments: Sequence[Segment]) -> list[tuple[int, int]]:
        """The places of the segments that are to be written anew, joined, last one first."""
        places = sorted((self._offsets[s.number], self._counts[s.number]) for s in segments)
        joined: list[tuple[int, int]] = []
        for start, size in places:
            if joined and start <= joined[-1][1]:
                joined[-1] = joined[-1][0], max(joined[-1][1], start + size)
            else:
                joined.append((start, start + size))
        return [place for place in reversed(joined) if self._room.is_free(*place)]

    def _place(self, number: int, size: int) -> int:
        """Where that many bytes go."""
        d = self._directory
        if d.compression in LOSSY or (d.compression == UNCOMPRESSED and not d.indexed):
            start = self._offsets[number]
            if size <= self._counts[number] and self._room.is_free(start, start + size):
                self._room.claim(start, start + size)
                return start
            return self._room.append(size)
        while self._free:
            start, stop = self._free.pop()
            if start + size <= stop:
                self._room.claim(start, start + size)
                self._free.append((start + size, stop))
                return start
        return self._room.append(size)

    def _give_back(self) -> None:
        """If the file ends in what is free now, let it end before."""
        for start, stop in self._free:
            if stop == self._room.end and start < stop:
                self._room.end = start

    def _write_tags(self) -> None:
        for codes, before, after in (
            (OFFSETS, self._page.dataoffsets, self._offsets),
            (COUNTS, self._page.databytecounts, self._counts),
        ):
            if list(before) == after:
                continue
            tag = next((self._page.tags[c] for c in codes if c in self._page.tags), None)
            if tag is None or tag.count != len(after) or int(tag.dtype) not in SIZES:
                raise ImageError(f"{self._file.path}: a table of its strips expected, found none")
            self._write_numbers(tag, after)

    def _write_numbers(self, tag: Any, numbers: list[int]) -> None:
        """Over a tag's values; behind the end with 32 bits, where 16 do not hold them."""
        size = SIZES[int(tag.dtype)]
        place = tag.valueoffset
        order = self._page.parent.byteorder
        if max(numbers) >= 1 << (8 * size):
            if size == 4:
                return  # past 4 GiB: refused when all is written
            place, size = self._move(tag, len(numbers)), 4
        self._out.seek(place)
        _write(self._out, np.array(numbers, f"{order}u{size}").tobytes())

    def _move(self, tag: Any, count: int) -> int:
        """Let a tag have 32-bit values; returns their place."""
        format = self._page.parent.tiff
        order, inline = format.byteorder, format.offsetsize
        entry = np.array(4, f"{order}u2").tobytes() + np.array(count, f"{order}u{inline}").tobytes()
        place = tag.offset + 4 + inline
        self._out.seek(tag.offset + 2)
        _write(self._out, entry)
        if 4 * count > inline:
            value = self._room.append(4 * count)
            _write(self._out, np.array(value, f"{order}u{inline}").tobytes())
            return value
        return int(place)


def _write(out: BinaryIO, data: bytes) -> None:
    """All of it: an unbuffered file may take less at once."""
    view = memoryview(data)
    while view:
        view = view[out.write(view) :]
