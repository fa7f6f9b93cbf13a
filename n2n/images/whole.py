"""Files of one page, which their library decodes and encodes as a whole: PNG, JPEG, WebP, BMP."""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from n2n.images.file import EAGER_BYTES, Array, ImageFile, Page, Raster, Taker, damaged

__all__ = ["Decoded", "WholeFile"]


@dataclass(frozen=True, eq=False)
class Decoded:
    """A picture decoded as a whole."""

    pixels: Array  # (H, W, C)
    alpha: Array | None = None  # (H, W)


class WholeFile(ImageFile):
    """A file of one page, which its library decodes and encodes as a whole."""

    compares = False  # whether writing depends on the result being just what was read

    def __init__(self, path: Path, shape: tuple[int, int, int], dtype: Any = np.uint8) -> None:
        self.path = path
        self.pages: Sequence[Page] = (_WholePage(self, shape, np.dtype(dtype)),)
        self._source: tuple[Decoded, bytes] | None = None

    @abstractmethod
    def decode(self) -> Decoded:
        """Read all pixels. May raise nearly anything for a damaged file."""

    @abstractmethod
    def encode(self, pixels: Array) -> bytes:
        """The file again, with other pixels (H, W, C)."""

    def load(self) -> Array:
        """The pixels; alpha and the like are kept for writing."""
        with damaged(self.path, self.format):
            decoded = self.decode()
        digest = _digest(decoded.pixels) if self.compares else b""
        kept = Decoded(decoded.pixels[:0], _own(decoded.alpha))
        self._source = kept, digest
        return np.require(decoded.pixels, requirements=["C", "W"])

    def source(self) -> Decoded:
        """What was kept: all but the pixels, which may have been overwritten since."""
        if self._source is None:
            self.load()
        assert self._source is not None  # by load
        return self._source[0]

    def is_unchanged(self, pixels: Array) -> bool:
        """Whether these are just the pixels that were read."""
        self.source()
        assert self._source is not None  # by source
        return _digest(pixels) == self._source[1]

    def write(self, temporary: Path, results: Taker) -> None:
        temporary.write_bytes(self.encode(np.ascontiguousarray(results.take()[:, :])))


class _WholePage(Page):
    def __init__(self, file: WholeFile, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> None:
        self._file, self.shape, self.dtype = file, shape, dtype

    def raster(self, *, max_bytes: int = EAGER_BYTES) -> Raster:
        return self._file.load()

    def alpha(self) -> Array | None:
        return self._file.source().alpha


def _own(array: Array | None) -> Array | None:
    return None if array is None else array.copy()


def _digest(array: Array) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array).data).digest()
