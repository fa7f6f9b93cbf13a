"""BMP: the pixels are exchanged in a copy of the source, all else stays as it is.

Kept: 1, 8, 24 and 32 bits a pixel, grey, palette, alpha, resolution, the kind of header, an ICC
profile or colour space in it, rows from the top or from the bottom. A palette, run-length coding
and 16 bits a pixel come out as such if the result is just what was read, black and white if it
has no other greys; otherwise as a new file of 8-bit grey or 24 bits.
"""

import io
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin

from n2n.errors import ImageError
from n2n.images.file import ImageFile, Metadata, check_size, resolution
from n2n.images.whole import Decoded, WholeFile

__all__ = ["BmpFile", "encode", "open_bmp"]

PER_METRE = 39.3701  # dots an inch
RESOLUTION = 38  # its place in the file: two numbers of four bytes
V5_HEADER = 124
EMBEDDED = b"DEBM"
RUN = 255  # the most pixels that two bytes stand for


class BmpFile(WholeFile):
    """A BMP. layout: Pillow's word for the bytes of a pixel: BGR, BGRX, BGRA, …, L, 1, P."""

    format = "BMP"

    def __init__(self, path: Path, image: BmpImagePlugin.BmpImageFile) -> None:
        super().__init__(path, (image.height, image.width, 1 if image.mode in "1L" else 3))
        self._coding, _, self._offset, args = image.tile[0]
        assert isinstance(args, tuple)  # by open_bmp
        self._layout = str(args[0])
        self._stride, self._direction = (int(args[1]), int(args[2])) if len(args) == 3 else (0, 0)
        self.has_alpha = image.mode == "RGBA"
        self._dpi = resolution(image.info.get("dpi"))
        self._editable = self._coding == "raw" and (
            self._layout in ("1", "L") or sorted(self._layout.strip("AX")) == ["B", "G", "R"]
        )
        self.compares = not self._editable

    def metadata(self) -> Metadata:
        return Metadata(icc_profile=_profile(self.path), dpi=self._dpi)

    def decode(self) -> Decoded:
        image = BmpImagePlugin.BmpImageFile(io.BytesIO(self.path.read_bytes()))
        image.load()
        if image.mode == "P":
            planes = np.asarray(image.convert("RGB"))
        else:
            planes = np.asarray(image.convert("L") if image.mode == "1" else image)
        planes = planes.reshape(image.height, image.width, -1)
        return Decoded(planes[..., :3], planes[..., 3] if self.has_alpha else None)

    def encode(self, pixels: NDArray[Any]) -> bytes:
        data = bytearray(self.path.read_bytes())
        if self.compares and self.is_unchanged(pixels):
            return bytes(data)
        if not self._editable or not self._put(pixels, data):
            return encode(pixels, self.source().alpha, self.metadata())
        return bytes(data)

    def _put(self, pixels: NDArray[Any], data: bytearray) -> bool:
        """Exchange the pixels in `data`; False if they do not fit."""
        height, width, _ = pixels.shape
        rows = np.frombuffer(data, np.uint8, height * self._stride, self._offset)
        rows = rows.reshape(height, self._stride)[:: self._direction]
        if self._layout == "1":
            if not np.isin(pixels, (0, 255)).all():
                return False
            bits = np.packbits(pixels[..., 0] > 0, axis=1)
            rows[:, : bits.shape[1]] = bits
        elif self._layout == "L":
            if pixels.max() >= _greys(data):
                return False
            rows[:, :width] = pixels[..., 0]
        else:
            size = len(self._layout)
            places = rows[:, : width * size].reshape(height, width, size)
            for channel, letter in enumerate("RGB"):
                places[..., self._layout.index(letter)] = pixels[..., channel]
        return True


def open_bmp(path: Path, file: BinaryIO) -> ImageFile:
    """Read the header."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    image = BmpImagePlugin.BmpImageFile(file)
    check_size(path, image.height, image.width)
    coding, _, offset, args = image.tile[0]
    if not isinstance(args, tuple):
        raise ValueError("no layout of the pixels")
    if coding == "raw":
        bits = int.from_bytes(_at(file, 28, 2), "little")
        if image.mode == "L" and bits < 8:
            raise ImageError(f"{path}: 8-bit greys expected, found {bits} bits; convert it first")
        needed = offset + args[1] * image.height
    else:
        needed = image.height * image.width // RUN
    if needed > size:
        raise ImageError(
            f"{path}: a whole BMP expected, its header claims {image.width} × {image.height} "
            "pixels, more than the file holds"
        )
    return BmpFile(path, image)


def _at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)


def _greys(data: bytearray) -> int:
    """How many greys the palette of a grey image has."""
    if data[14] == 12:  # the header of OS/2 has no such number
        return 256
    return int.from_bytes(data[46:50], "little") or 256


def _profile(path: Path) -> bytes | None:
    """The ICC profile of the latest kind of header."""
    with path.open("rb") as file:
        header = _at(file, 14, V5_HEADER)
        if len(header) < V5_HEADER or header[0] != V5_HEADER or header[56:60] != EMBEDDED:
            return None
        place, length = struct.unpack("<II", header[112:120])
        return _at(file, 14 + place, length) or None


def encode(pixels: NDArray[Any], alpha: NDArray[Any] | None, metadata: Metadata) -> bytes:
    """A new BMP of 8-bit grey, 24 or 32 bits."""
    import imagecodecs

    planes = pixels if alpha is None else pixels.repeat(4 - pixels.shape[2], axis=2)
    if alpha is not None:
        planes = np.dstack([pixels.repeat(3 // pixels.shape[2], axis=2), alpha])
    squeezed = np.ascontiguousarray(planes[..., 0] if planes.shape[2] == 1 else planes)
    data = bytearray(imagecodecs.bmp_encode(squeezed))
    dpi = metadata.dpi or (0, 0)
    struct.pack_into("<ii", data, RESOLUTION, *(round(value * PER_METRE) for value in dpi))
    return bytes(data)
