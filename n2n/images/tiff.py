"""TIFF and BigTIFF: the pixels are exchanged in a copy of the source, all else stays as it is.

Every tag survives, known or not: EXIF, GPS, ICC, XMP, resolution, orientation, ImageJ's and OME's
metadata, pyramids, and so do the byte order, strips or tiles, planes, compression and predictor.
Each picture is a page, one of a pyramid too; so is each channel of a picture of several greys.
Alpha and the colours' one further sample stay as they are.

A palette comes out as such if the result is just what was read, otherwise as RGB; in ImageJ's
files a palette colours intensities, which are denoised as grey and keep it. JPEG inside is written
with quality 95, strips or tiles that did not change as they were.

Refused: bits other than 8, 16 (integers), 16, 32 (floats); CMYK and other colours; volumes in one
picture; on writing, compressions that lose unknown amounts (JPEG 2000, JPEG XL, WebP, …).
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile

from n2n.errors import ImageError
from n2n.images.file import (
    EAGER_BYTES,
    Array,
    ImageFile,
    Metadata,
    Page,
    Raster,
    Taker,
    damaged,
    raster_dtype,
)
from n2n.images.tiff_layout import LOSSY, WRITABLE, Directory, describe
from n2n.images.tiff_segments import Segments, TiffRaster

__all__ = ["TiffFile", "open_tiff"]

MAX_PAGES = 1 << 20
STK = 33629  # MetaMorph's tag; its metadata holds places in the file


class TiffFile(ImageFile):
    """A TIFF, and what its directories say. It stays open until it is closed."""

    format = "TIFF"

    def __init__(self, path: Path, tif: tifffile.TiffFile) -> None:
        self.path, self.tif = path, tif
        self.directories = list(_directories(path, tif))
        self.pages = [
            _TiffPage(self, directory, samples)
            for directory in self.directories
            for samples in directory.groups
        ]
        self.has_alpha = any(d.alpha is not None for d in self.directories)
        self.lossy = any(d.compression in LOSSY for d in self.directories)

    def close(self) -> None:
        self.tif.close()

    def segments(self, directory: Directory, max_bytes: int = 0) -> Segments:
        """A reader of a directory's strips or tiles."""
        with damaged(self.path, "TIFF"):
            return Segments(self.tif, directory, self.path, max_bytes)

    def metadata(self) -> Metadata:
        from n2n.images.tiff_metadata import read_metadata

        with damaged(self.path, "TIFF"):
            return read_metadata(self.path, self.tif)

    def write(self, temporary: Path, results: Taker) -> None:
        from n2n.images.tiff_exchange import exchange

        exchange(self, temporary, results)

    def refusal(self) -> str | None:
        for directory in self.directories:
            if directory.compression not in WRITABLE:
                name = getattr(
                    tifffile.COMPRESSION(directory.compression), "name", directory.compression
                )
                return (
                    f"a TIFF compressed without loss or as JPEG expected, found {name}, which "
                    "cannot be written as it was; convert it to another format"
                )
            if directory.predictor not in (1, 2, 3):
                return f"a predictor of 1, 2 or 3 expected, found {directory.predictor}"
            if directory.compression in LOSSY and (
                directory.stored != np.uint8 or directory.samples not in (1, 3)
            ):
                return "JPEG of 8-bit grey or RGB expected in the TIFF, found another kind"
        return None

    def conversion_refusal(self) -> str | None:
        for directory in self.directories:
            if directory.premultiplied:
                return "colours that are not premultiplied expected, found them; keep it a TIFF"
            known = (directory.alpha is not None) + sum(b - a for a, b in directory.groups)
            if known != directory.samples:
                return "no more samples than colours and alpha expected; keep it a TIFF"
        return None


class _TiffPage(Page):
    def __init__(self, file: TiffFile, directory: Directory, samples: tuple[int, int]) -> None:
        self._file, self.directory, self.samples = file, directory, samples
        channels = 3 if directory.indexed else samples[1] - samples[0]
        self.shape = (directory.height, directory.width, channels)
        dtype = raster_dtype(directory.stored)
        assert dtype is not None  # by describe
        self.dtype = dtype

    def raster(self, *, max_bytes: int = EAGER_BYTES) -> Raster:
        at_once = math.prod(self.shape) * self.dtype.itemsize <= max_bytes
        segments = self._file.segments(self.directory, 0 if at_once else max_bytes)
        raster = TiffRaster(segments, self._file.path, self.samples)
        return raster[:, :] if at_once else raster

    def alpha(self) -> Array | None:
        number = self.directory.alpha
        if number is None:
            return None
        segments = self._file.segments(self.directory)
        with damaged(self._file.path, "TIFF"):
            raster = TiffRaster(segments, self._file.path, (number, number + 1))
            rows, columns = (slice(0, size) for size in self.shape[:2])
            return raster.stored(rows, columns)[..., 0].astype(self.dtype)


def open_tiff(path: Path, file: BinaryIO) -> ImageFile:
    """Read all directories; no pixels."""
    tif = tifffile.TiffFile(path)
    try:
        return TiffFile(path, tif)
    except BaseException:
        tif.close()
        raise


def _directories(path: Path, tif: tifffile.TiffFile) -> Iterator[Directory]:
    """Each picture, its pyramid after it, and those of a stack that have no directory."""
    count = len(tif.pages)
    if not 0 < count <= MAX_PAGES:
        raise ValueError(f"{count} pages")
    for number in range(count):
        page = tif.pages[number]
        if not isinstance(page, tifffile.TiffPage):
            raise ValueError(f"page {number} is none")
        if STK in page.tags:
            raise ImageError(f"{path}: a TIFF or OME-TIFF expected, found MetaMorph's; export it")
        directory = describe(path, tif, page)
        yield directory
        for reduced in page.pages or ():
            if not isinstance(reduced, tifffile.TiffPage) or reduced.pages:
                raise ImageError(f"{path}: a pyramid of one depth expected, found another tree")
            yield describe(path, tif, reduced)
    if count == 1:
        yield from _without_directory(path, tif, directory)


def _without_directory(path: Path, tif: tifffile.TiffFile, first: Directory) -> Iterator[Directory]:
    """The further pictures of a stack whose one directory says how many there are."""
    pictures = _stack_length(tif, first)
    if pictures == 1:
        return
    page = tif.pages[0]
    assert isinstance(page, tifffile.TiffPage)
    start, end = page.dataoffsets[0], tif.filehandle.size
    if first.compression != 1 or not page.is_contiguous or start + pictures * first.nbytes > end:
        raise ImageError(
            f"{path}: a stack of {pictures} pictures expected by its description, found one"
        )
    for number in range(1, pictures):
        yield replace(first, shift=number * first.nbytes)


def _stack_length(tif: tifffile.TiffFile, first: Directory) -> int:
    """How many pictures follow each other behind the one directory, by ImageJ or tifffile."""
    pictures: Any = 1
    if tif.is_imagej:
        pictures = (tif.imagej_metadata or {}).get("images", 1)
    elif tif.is_shaped:
        described = (tif.shaped_metadata or ({},))[0]
        if described.get("truncate"):
            shape = described.get("shape", ())
            pictures = math.prod(shape) // (first.height * first.width * first.samples)
    if not isinstance(pictures, int) or not 1 <= pictures <= MAX_PAGES:
        raise ValueError(f"a description of {pictures} pictures")
    return pictures
