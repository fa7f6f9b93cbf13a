"""Images (H, W, C) that are read and written part by part: arrays, and what behaves like one.

A 30,000 x 20,000 image need not be in memory: `Scratch` keeps its pixels in a file without a
name, which goes with the process however that ends.
"""

import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from n2n.errors import InvalidType, ShapeError
from n2n.images import Raster

__all__ = ["Raster", "Scratch", "WritableRaster", "bands", "require_raster"]

Part: TypeAlias = tuple[slice, slice]  # rows and columns
BAND_BYTES = 1 << 22  # read at once where the whole image is gone through


class WritableRaster(Raster, Protocol):
    """An image whose rectangles can be replaced."""

    def __setitem__(self, part: Part, values: NDArray[Any], /) -> None: ...


class Scratch:
    """A writable raster (H, W, C) in a file without a name in `folder`.

    By reading and writing, not by a memory map: on a full disk a write fails with an OSError,
    where a store into a map would kill the process; and what was written does not count as
    memory of the process. The file is gone when the raster is, or the process, even by kill -9.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any] | type,
        folder: Path | str | None = None,
    ) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._row = shape[1] * self._pixel  # bytes
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  # kept open
        weakref.finalize(self, self._file.close)
        self._file.truncate(shape[0] * self._row)

    def __getitem__(self, part: Part, /) -> NDArray[Any]:
        rows, columns = self._bounds(part)
        values = np.empty((len(rows), len(columns), self.shape[2]), self.dtype)
        if len(columns) == self.shape[1]:
            self._read(_bytes(values), rows.start * self._row)
            return values
        for row, line in zip(rows, values, strict=True):
            self._read(_bytes(line), self._place(row, columns.start))
        return values

    def __setitem__(self, part: Part, values: NDArray[Any], /) -> None:
        rows, columns = self._bounds(part)
        shape = (len(rows), len(columns), self.shape[2])
        values = np.ascontiguousarray(np.broadcast_to(values, shape), self.dtype)
        if len(columns) == self.shape[1]:
            self._write(_bytes(values), rows.start * self._row)
            return
        for row, line in zip(rows, values, strict=True):
            self._write(_bytes(line), self._place(row, columns.start))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        whole = self[:, :]
        return whole if dtype is None else whole.astype(dtype, copy=False)

    @property
    def _pixel(self) -> int:
        return self.shape[2] * self.dtype.itemsize

    def _bounds(self, part: Part) -> tuple[range, range]:
        rows, columns = (range(*key.indices(size)) for key, size in zip(part, self.shape[:2],
                                                                        strict=True))  # fmt: skip
        if rows.step != 1 or columns.step != 1:
            raise ShapeError(f"a scratch raster is read in steps of 1, got {part}")
        return rows, columns

    def _place(self, row: int, column: int) -> int:
        return row * self._row + column * self._pixel

    def _read(self, into: memoryview, place: int) -> None:
        while into:
            count = os.preadv(self._file.fileno(), [into], place)
            if not count:
                raise OSError(f"a scratch file of {self.shape} ended early")
            into, place = into[count:], place + count

    def _write(self, content: memoryview, place: int) -> None:
        while content:
            count = os.pwrite(self._file.fileno(), content, place)
            content, place = content[count:], place + count


def _bytes(values: NDArray[Any]) -> memoryview:
    """Of a contiguous array, without a copy."""
    return values.view(np.uint8).reshape(-1).data


def bands(raster: Raster) -> Iterator[slice]:
    """Slices of rows, a few MB each, that together are all rows."""
    height, width, channels = raster.shape
    step = max(1, BAND_BYTES // (width * channels * raster.dtype.itemsize))
    return (slice(first, min(first + step, height)) for first in range(0, height, step))


def require_raster(raster: Raster, name: str = "raster") -> None:
    """`ShapeError` unless (H, W, C) without a zero, `InvalidType` for what has no levels."""
    if len(raster.shape) != 3 or 0 in raster.shape:
        raise ShapeError(f"{name}: shape (H, W, C) expected, got {tuple(raster.shape)}")
    kind, size = raster.dtype.kind, raster.dtype.itemsize
    if not (kind == "f" and size <= 8) and not (kind == "u" and size <= 2):
        raise InvalidType(
            f"{name}: uint8, uint16 or floats of up to 64 bits expected, got {raster.dtype}"
        )
