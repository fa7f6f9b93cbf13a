"""What an image file offers, whatever its format: pages of pixels, and what goes with them.

Legend: H rows, W columns, C = 1 (grey) or 3 (RGB) channels.
"""

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from n2n.errors import ImageError, InvalidType, N2NError, ShapeError

__all__ = [
    "CannotHold",
    "ImageFile",
    "Metadata",
    "Page",
    "Raster",
    "Taker",
    "check_size",
    "damaged",
    "quietly",
    "raster_dtype",
    "resolution",
    "strips",
    "to_stored",
]

Array = NDArray[Any]

# The sides of a page: 30,000 × 20,000 is 0.6 · 10^9. What is decoded as a whole takes as many
# bytes a channel; a page that is read in parts takes none, so that only a header that cannot be
# meant is kept out.
MAX_PIXELS = 1 << 30
MAX_STREAMED_PIXELS = 1 << 36
EAGER_BYTES = 1 << 28  # up to here a page is decoded at once
STRIP_BYTES = 1 << 22
MAX_WORDS = 200  # of a library's message


class CannotHold(Exception):
    """Metadata that another format cannot hold, by its library; `str` is one line."""


class Raster(Protocol):
    """Pixels (H, W, C) that are read in windows: `raster[top:bottom, left:right]` is (h, w, C).

    A NumPy array is one. Slices have no step and lie in the image, or are cut to it.
    """

    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, window: tuple[slice, slice], /) -> Array: ...


class Page(ABC):
    """One picture in a file. Nothing but its header is read until `raster` is called.

    dtype: uint8, uint16 or float32, in the machine's own byte order.
    """

    shape: tuple[int, int, int]  # (H, W, C), without alpha
    dtype: np.dtype[Any]

    @abstractmethod
    def raster(self, *, max_bytes: int = EAGER_BYTES) -> Raster:
        """The pixels; the caller's own where it is an array.

        A page of a TIFF or `.npy` that takes more than `max_bytes` comes as a raster that decodes
        what is asked for, and keeps at most `max_bytes` (or one strip or tile, if that is more) of
        what it decoded. All others are decoded at once. `ImageError` for damaged content, here
        or in a window.
        """

    @abstractmethod
    def alpha(self) -> Array | None:
        """(H, W) of the page's dtype, as a whole, or None."""


@dataclass(frozen=True)
class Metadata:
    """What another format is given. exif: a TIFF structure, without the `Exif` before it."""

    exif: bytes | None = None
    icc_profile: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None

    @property
    def orientation(self) -> int:
        """The EXIF orientation, 1 to 8; 1 is upright."""
        found = self.parsed_exif().get(0x0112, 1)
        return found if isinstance(found, int) and 1 <= found <= 8 else 1

    def parsed_exif(self) -> PIL.Image.Exif:
        """Without what cannot be understood."""
        exif = PIL.Image.Exif()
        with suppress(Exception), quietly():  # damaged EXIF, good pixels
            exif.load(b"Exif\0\0" + (self.exif or b""))
            return exif
        return PIL.Image.Exif()

    def nested_exif(self, tag: int) -> dict[int, Any]:
        """Of the directory of exposure, or of place."""
        exif = self.parsed_exif()
        with suppress(Exception), quietly():
            return dict(exif.get_ifd(tag))
        return {}


class ImageFile(ABC):
    """An image file whose header was read and found usable; a context manager.

    Its pages can be read until it is closed. The same object writes the results, since what must
    survive comes from the file (`n2n.images.write_image`).
    """

    format: ClassVar[str]
    path: Path
    pages: Sequence[Page]
    has_alpha: bool = False
    lossy: bool = False  # whether its coding loses something each time that it is written

    def __enter__(self) -> "ImageFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027  (most formats hold nothing)
        """Let go of the file. Pages cannot be read any more."""

    @abstractmethod
    def metadata(self) -> Metadata:
        """What another format is given of what is beside the pixels."""

    @abstractmethod
    def write(self, temporary: Path, results: "Taker") -> None:
        """Write to `temporary` a file as this one, with other pixels."""

    def refusal(self) -> str | None:
        """Why this file cannot be written in its own format: one line, or None."""
        return None

    def conversion_refusal(self) -> str | None:
        """Why it cannot be written in any other: one line, or None."""
        return None


class Taker:
    """Results, one after the other, each held against the page that it was made of."""

    def __init__(self, file: ImageFile, results: Iterator[Raster]) -> None:
        self._file, self._results, self._taken = file, results, 0

    def take(self) -> Raster:
        """The next page's result. ShapeError, InvalidType if there is none, or it does not fit."""
        page = self._file.pages[self._taken]
        self._taken += 1
        result = next(self._results, None)
        name = f"{self._file.path}: result {self._taken} of {len(self._file.pages)}"
        if result is None:
            raise ShapeError(f"{name}: one result for each page expected, found no more")
        if tuple(result.shape) != page.shape:
            raise ShapeError(f"{name}: shape {page.shape} expected, got {tuple(result.shape)}")
        if result.dtype != page.dtype:
            raise InvalidType(f"{name}: {page.dtype} expected, got {result.dtype}")
        return result

    def finish(self) -> None:
        """ShapeError if there are more results than pages."""
        if next(self._results, None) is not None:
            raise ShapeError(
                f"{self._file.path}: {len(self._file.pages)} results expected, one for each page, "
                "got more"
            )


def resolution(dpi: Any) -> tuple[float, float] | None:
    """As far as every format can hold it."""
    try:
        x, y = float(dpi[0]), float(dpi[1])
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return None
    return (x, y) if all(0.5 <= v < 65535 for v in (x, y)) else None


@contextmanager
def damaged(path: Path, format: str) -> Iterator[None]:
    """Turn whatever a library raises at bad content into one line that begins with the path."""
    try:
        with quietly():
            yield
    except (N2NError, MemoryError):
        raise
    except Exception as error:  # a damaged file raises nearly anything within a library
        words = " ".join(str(error).split()) or type(error).__name__
        if len(words) > MAX_WORDS:
            words = words[:MAX_WORDS] + "…"
        raise ImageError(
            f"{path}: a whole {format} expected, found it truncated or damaged ({words})"
        ) from error


@contextmanager
def quietly() -> Iterator[None]:
    """Pillow warns of odd metadata, tifffile logs it."""
    logger = logging.getLogger("tifffile")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def raster_dtype(stored: np.dtype[Any]) -> np.dtype[Any] | None:
    """What pixels stored as such are handed out as, without loss; None if they cannot be."""
    kind = stored.newbyteorder("=")
    if kind == np.float16:
        return np.dtype(np.float32)
    return kind if kind in (np.uint8, np.uint16, np.float32) else None


def to_stored(window: Array, stored: np.dtype[Any]) -> Array:
    """Back to what is stored, contiguous. What float16 cannot reach becomes its largest."""
    if stored.newbyteorder("=") == np.float16:
        largest = float(np.finfo(np.float16).max)
        window = window.clip(-largest, largest)
    return np.ascontiguousarray(window, stored)


def strips(raster: Raster) -> Iterator[tuple[slice, Array]]:
    """Windows of whole rows, from top to bottom, of about STRIP_BYTES each."""
    height, width, channels = raster.shape
    rows = max(1, STRIP_BYTES // (width * channels * raster.dtype.itemsize))
    for top in range(0, height, rows):
        part = slice(top, min(top + rows, height))
        yield part, raster[part, :]


def check_size(path: Path, height: int, width: int, limit: int = MAX_PIXELS) -> None:
    """`ImageError` for a side of nothing, and for more pixels than `limit`."""
    if min(height, width) < 1:
        raise ImageError(f"{path}: at least one pixel expected, its header says {width} × {height}")
    if height * width > limit:
        raise ImageError(
            f"{path}: at most {limit:,} pixels expected, its header claims {width} × {height}; "
            "split the image"
        )
