"""NumPy's `.npy`: one array (H, W), (H, W, C) or (N, H, W, C), C = 1 or 3.

Kept: shape, dtype (uint8, uint16, float16, float32), byte order, C or Fortran order, the header
to the byte. Pages are read and written in windows, so that an array may be larger than memory.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from n2n.errors import ImageError
from n2n.images.file import (
    EAGER_BYTES,
    MAX_STREAMED_PIXELS,
    STRIP_BYTES,
    Array,
    ImageFile,
    Metadata,
    Page,
    Raster,
    Taker,
    check_size,
    damaged,
    raster_dtype,
    strips,
    to_stored,
)

__all__ = ["NpyFile", "create", "open_npy"]

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
MAX_HEADER = 1 << 16


class NpyFile(ImageFile):
    """An array on disk. shape: (N, H, W, C), whatever the file's own."""

    format = "npy"

    def __init__(
        self, path: Path, header: bytes, shape: tuple[int, ...], dtype: np.dtype[Any], order: str
    ) -> None:
        self.path, self._header, self._stored = path, header, dtype
        self._shape, self._order = shape, order
        height, width, channels = (shape if len(shape) > 2 else (*shape, 1))[-3:]
        count = shape[0] if len(shape) == 4 else 1
        kind = raster_dtype(dtype)
        assert kind is not None  # by open_npy
        self.pages = [_NpyPage(self, at, (height, width, channels), kind) for at in range(count)]

    def metadata(self) -> Metadata:
        return Metadata()

    def view(self, mode: Any = "r", path: Path | None = None) -> Array:
        """The array (N, H, W, C), mapped into memory for as long as the view is held."""
        mapped = np.memmap(
            path or self.path,
            self._stored,
            mode,
            len(self._header),
            self._shape,
            "F" if self._order == "F" else "C",
        )
        array = mapped[..., None] if mapped.ndim == 2 else mapped
        return array if array.ndim == 4 else array[None]

    def write(self, temporary: Path, results: Taker) -> None:
        with temporary.open("wb") as file:
            file.write(self._header)
            if self._order == "C":
                for _ in self.pages:
                    for _, strip in strips(results.take()):
                        file.write(to_stored(strip, self._stored).data)
                return
            _fill(file, math.prod(self._shape) * self._stored.itemsize)
        for number, page in enumerate(self.pages):
            result = results.take()
            height, width, channels = page.shape
            step = max(1, STRIP_BYTES // (height * channels * page.dtype.itemsize))
            for left in range(0, width, step):  # a column is what lies together
                columns = slice(left, min(left + step, width))
                window = to_stored(result[0:height, columns], self._stored)
                self.view("r+", temporary)[number, :, columns] = window


class _NpyPage(Page):
    def __init__(
        self, file: NpyFile, number: int, shape: tuple[int, int, int], dtype: np.dtype[Any]
    ) -> None:
        self._file, self._number, self.shape, self.dtype = file, number, shape, dtype

    def raster(self, *, max_bytes: int = EAGER_BYTES) -> Raster:
        lazy = _NpyRaster(self._file, self._number, self.shape, self.dtype)
        return lazy if math.prod(self.shape) * self.dtype.itemsize > max_bytes else lazy[:, :]

    def alpha(self) -> None:
        return None


class _NpyRaster:
    """Maps the file for each window: mapped for good, what was read would count as memory."""

    def __init__(
        self, file: NpyFile, number: int, shape: tuple[int, int, int], dtype: np.dtype[Any]
    ) -> None:
        self._file, self._number, self.shape, self.dtype = file, number, shape, dtype

    def __getitem__(self, window: tuple[slice, slice], /) -> Array:
        with damaged(self._file.path, "npy"):  # the file may have been cut since
            part = self._file.view()[self._number][window]
            return np.array(part, self.dtype, order="C", subok=False)


def open_npy(path: Path, file: BinaryIO) -> ImageFile:
    """Read the header; pickled objects are never loaded."""
    size = file.seek(0, 2)
    file.seek(0)
    version = npy.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"a header of version {version}")
    if int.from_bytes(file.read(2 if version == (1, 0) else 4), "little") > MAX_HEADER:
        raise ValueError("a header that is too long")
    file.seek(8)
    shape, fortran, dtype = HEADERS[version](file)
    _check_array(path, shape, dtype)
    length = file.tell()
    expected = length + math.prod(shape) * dtype.itemsize
    if size != expected:
        raise ImageError(
            f"{path}: {expected} bytes expected by its header, found {size}; it is truncated, "
            "damaged, or holds more than an array"
        )
    file.seek(0)
    order = "F" if fortran and len(shape) > 1 else "C"
    return NpyFile(path, file.read(length), shape, dtype, order)


def _check_array(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if raster_dtype(dtype) is None:
        raise ImageError(
            f"{path}: uint8, uint16, float16 or float32 expected, found {dtype}; convert it with "
            "array.astype"
        )
    if len(shape) not in (2, 3, 4) or (len(shape) > 2 and shape[-1] not in (1, 3)):
        raise ImageError(
            f"{path}: an array (H, W), (H, W, C) or (N, H, W, C) with C = 1 or 3 expected, found "
            f"{shape}; reshape it, leave alpha out"
        )
    if 0 in shape:
        raise ImageError(f"{path}: at least one pixel expected, found an array {shape}")
    sides = shape[-3:-1] if len(shape) > 2 else shape
    check_size(path, sides[0], sides[1], MAX_STREAMED_PIXELS)


def _fill(file: BinaryIO, size: int) -> None:
    """Zeros: a full disk is an error here, where in mapped memory it would end the process."""
    block = bytes(1 << 20)
    for start in range(0, size, len(block)):
        file.write(block[: size - start])


def create(
    temporary: Path, file: ImageFile, results: Taker, turn: Callable[[Raster], Raster]
) -> None:
    """A new `.npy`: (H, W) or (H, W, 3) of one page, (N, H, W, C) of several of one shape."""
    count, dtype = len(file.pages), file.pages[0].dtype
    with temporary.open("wb") as out:
        for number in range(count):
            result = turn(results.take())
            if number == 0:
                shape: tuple[int, ...] = result.shape
                if count > 1:
                    shape = (count, *shape)
                elif shape[2] == 1:
                    shape = shape[:2]
                header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
                npy.write_array_header_1_0(out, header)
            for _, strip in strips(result):
                out.write(np.ascontiguousarray(strip).data)
