"""A new TIFF, of an image of another format: deflate with a predictor, in strips."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from n2n.images.file import Array, ImageFile, Page, Raster, Taker
from n2n.images.tiff_coding import encode_segment
from n2n.images.tiff_layout import GREY, RGB, Directory
from n2n.images.tiff_metadata import new_tags, write_directories

__all__ = ["create"]

DEFLATE = 8
STRIP_BYTES = 1 << 18
LARGE = 1 << 31  # bytes of pixels from which on it is a BigTIFF


def create(temporary: Path, file: ImageFile, results: Taker) -> None:
    """All pages, with alpha, EXIF, ICC, XMP and resolution."""
    metadata = file.metadata()
    nbytes = sum(np.prod(page.shape) * page.dtype.itemsize * 2 for page in file.pages)
    big = bool(nbytes > LARGE)
    options = new_tags(metadata)
    with tifffile.TiffWriter(temporary, bigtiff=big) as tif:
        for page in file.pages:
            _write_page(tif, page, results.take(), options)
            options = {}
    write_directories(temporary, metadata)


def _write_page(
    tif: tifffile.TiffWriter, page: Page, result: Raster, options: dict[str, Any]
) -> None:
    alpha = page.alpha()
    height, width, channels = page.shape
    samples = channels + (alpha is not None)
    rows = max(1, STRIP_BYTES // (width * samples * page.dtype.itemsize))
    predictor = 3 if page.dtype.kind == "f" else 2
    how = Directory(
        offset=0,
        height=height,
        width=width,
        samples=samples,
        stored=page.dtype,
        photometric=RGB if channels == 3 else GREY,
        compression=DEFLATE,
        predictor=predictor,
        planar=False,
        tiled=False,
        segment=(min(rows, height), width),
        count=-(-height // rows),
        alpha=channels if alpha is not None else None,
        premultiplied=False,
        indexed=False,
    )
    tif.write(
        _encoded(result, alpha, how),
        shape=(height, width, samples) if samples > 1 else (height, width),
        dtype=page.dtype,
        photometric="RGB" if channels == 3 else "MINISBLACK",
        planarconfig="CONTIG" if samples > 1 else None,
        extrasamples=["UNASSALPHA"] if alpha is not None else None,
        rowsperstrip=how.segment[0],
        compression="ADOBE_DEFLATE",
        predictor=predictor,
        metadata=None,
        software=False,
        **options,
    )


def _encoded(result: Raster, alpha: Array | None, how: Directory) -> Iterator[bytes]:
    for top in range(0, how.height, how.segment[0]):
        rows = slice(top, min(top + how.segment[0], how.height))
        window = result[rows, 0 : how.width]
        if alpha is not None:
            window = np.dstack([window, alpha[rows]])
        yield encode_segment(window, how, None)
