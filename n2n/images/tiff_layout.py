"""What one image directory of a TIFF says, checked: how its samples lie, and what they mean.

Legend: a segment is a strip or a tile; S samples a pixel in the file.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from n2n.errors import ImageError
from n2n.images.file import MAX_PIXELS, MAX_STREAMED_PIXELS, check_size, raster_dtype

__all__ = ["LOSSY", "Directory", "Place", "describe", "is_imagej"]

WHITE_IS_ZERO, GREY, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
UNCOMPRESSED, LZW, JPEG, PACKBITS = 1, 5, 7, 32773
DEFLATE = (8, 32946)
WRITABLE = {UNCOMPRESSED, LZW, JPEG, PACKBITS, *DEFLATE, 34925, 50000}  # LZMA, ZSTD
LOSSY = {JPEG}
EXPANSION = {UNCOMPRESSED: 1, LZW: 1400, PACKBITS: 64} | dict.fromkeys(DEFLATE, 1032)
FLOAT = 3  # a sample format
ALPHAS = (1, 2)  # premultiplied, not premultiplied
PREMULTIPLIED = 1
MAX_SEGMENT = MAX_PIXELS * 4  # bytes that are decoded at once


@dataclass(frozen=True, slots=True)
class Place:
    """Which samples of which directory a page is made of; its channels are [first, last)."""

    directory: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Directory:
    """A picture in the file: where its directory is, and how its segments lie.

    shift: bytes from where the directory says to where the pixels are, in a stack of which only
    the first picture has a directory. segment: (rows, columns) of a strip or tile.
    """

    offset: int
    height: int
    width: int
    samples: int
    stored: np.dtype[Any]  # as in the file
    photometric: int
    compression: int
    predictor: int
    planar: bool  # whether each sample has segments of its own
    tiled: bool
    segment: tuple[int, int]
    count: int  # of segments in a plane
    alpha: int | None  # which sample
    premultiplied: bool
    indexed: bool  # the sample is an index to a palette of colours
    shift: int = 0

    @property
    def groups(self) -> list[tuple[int, int]]:
        """The samples that make a page each."""
        if self.photometric in (RGB, YCBCR):
            return [(0, 3)]
        return [(s, s + 1) for s in range(self.samples) if s != self.alpha]

    @property
    def nbytes(self) -> int:
        return self.height * self.width * self.samples * self.stored.itemsize


def is_imagej(tif: tifffile.TiffFile) -> bool:
    """There, a palette is a colouring of intensities."""
    return bool(tif.is_imagej)


def describe(path: Path, tif: tifffile.TiffFile, page: tifffile.TiffPage) -> Directory:
    """Check a directory. `ImageError` for what is not supported, ValueError for what is wrong."""
    name = f"{path}: page at {page.offset}"
    height, width, samples = page.imagelength, page.imagewidth, page.samplesperpixel
    check_size(path, height, width, MAX_STREAMED_PIXELS)
    if page.dtype is None or page.imagedepth != 1 or page.tiledepth > 1:
        raise ImageError(f"{name}: a flat picture of plain numbers expected, found another kind")
    stored = np.dtype(page.parent.byteorder + page.dtype.char)
    if raster_dtype(stored) is None or page.bitspersample != 8 * stored.itemsize:
        raise ImageError(
            f"{name}: 8 or 16 bits, or floats of 16 or 32 bits expected, found "
            f"{page.bitspersample} bits of kind {page.dtype.name}; convert it first"
        )
    _check_colours(name, page, tif)
    segment = (
        (page.tilelength, page.tilewidth)
        if page.is_tiled
        else (min(page.rowsperstrip, height), width)
    )
    if min(segment) < 1:
        raise ValueError(f"segments of {segment}")
    extras = [int(kind) for kind in page.extrasamples]
    colours = samples - len(extras)
    alpha = next((colours + i for i, kind in enumerate(extras) if kind in ALPHAS), None)
    planar = page.planarconfig == 2 and samples > 1
    result = Directory(
        offset=page.offset,
        height=height,
        width=width,
        samples=samples,
        stored=stored,
        photometric=int(page.photometric),
        compression=int(page.compression),
        predictor=int(page.predictor),
        planar=planar,
        tiled=page.is_tiled,
        segment=segment,
        count=math.ceil(height / segment[0]) * math.ceil(width / segment[1]),
        alpha=alpha,
        premultiplied=alpha is not None and extras[alpha - colours] == PREMULTIPLIED,
        indexed=page.photometric == PALETTE and not is_imagej(tif),
    )
    _check_segments(name, page, result)
    return result


def _check_colours(name: str, page: tifffile.TiffPage, tif: tifffile.TiffFile) -> None:
    """What the samples mean."""
    photometric, samples = int(page.photometric), page.samplesperpixel
    colours = samples - len(page.extrasamples)
    expected = {WHITE_IS_ZERO: 1, GREY: 1, RGB: 3, PALETTE: 1, YCBCR: 3}.get(photometric)
    if expected is None or expected != colours:
        raise ImageError(
            f"{name}: grey, RGB or a palette expected, found {colours} samples of kind "
            f"{getattr(page.photometric, 'name', photometric)}; convert it first"
        )
    if photometric in (RGB, YCBCR) and len(page.extrasamples) > 1:
        raise ImageError(f"{name}: RGB with at most alpha expected, found {samples} samples")
    if photometric == PALETTE and (
        samples != 1 or page.dtype != np.uint8 or page.colormap is None or page.colormap.size != 768
    ):
        raise ImageError(f"{name}: a palette of 256 colours expected, found another")
    if photometric == YCBCR and page.compression != JPEG:
        raise ImageError(f"{name}: YCbCr expected as JPEG alone; convert it to RGB")
    if photometric == WHITE_IS_ZERO and page.bitspersample > 8 and page.sampleformat == FLOAT:
        raise ImageError(f"{name}: floats where 0 is black expected, found 0 as white")
    if page.fillorder != 1:
        raise ImageError(f"{name}: bits in the usual order expected; convert it first")


def _check_segments(name: str, page: tifffile.TiffPage, found: Directory) -> None:
    """ValueError unless all segments lie in the file, and can hold what they should."""
    if found.compression not in tifffile.TIFF.DECOMPRESSORS:
        raise ImageError(f"{name}: compression {found.compression} is not known; convert it first")
    planes = found.samples if found.planar else 1
    if not len(page.dataoffsets) == len(page.databytecounts) == found.count * planes:
        raise ValueError(f"{found.count * planes} strips or tiles expected")
    samples = 1 if found.planar else found.samples
    size = math.prod(found.segment) * samples * found.stored.itemsize
    raw = found.compression == UNCOMPRESSED and not found.tiled
    if size > MAX_SEGMENT and not raw:
        raise ImageError(f"{name}: strips or tiles of at most {MAX_SEGMENT:,} bytes expected")
    offsets = np.asarray(page.dataoffsets, np.float64)
    counts = np.asarray(page.databytecounts, np.float64)
    end = page.parent.filehandle.size
    if (offsets + counts).max() > end:
        raise ValueError("it ends before its pixels do")
    if found.nbytes > EXPANSION.get(found.compression, np.inf) * counts.sum() + 4096:
        raise ImageError(
            f"{name}: a whole TIFF expected, its header claims {found.width} × {found.height} "
            "pixels, more than the file can hold"
        )
