"""Pixels to the bytes of a strip or tile: predictor, byte order, compression."""

from typing import Any

import numpy as np
import tifffile

from n2n.images.file import Array, to_stored
from n2n.images.tiff_layout import (
    DEFLATE,
    JPEG,
    LZW,
    PACKBITS,
    UNCOMPRESSED,
    WHITE_IS_ZERO,
    YCBCR,
    Directory,
)

__all__ = ["encode_segment", "to_samples"]

QUALITY = 95  # of JPEG inside
SUBSAMPLING = 530  # the tag of YCbCr


def to_samples(window: Array, directory: Directory) -> Array:
    """Pixels as what is stored, in native byte order."""
    if directory.photometric == WHITE_IS_ZERO:
        window = np.iinfo(window.dtype).max - window
    return to_stored(window, directory.stored.newbyteorder("="))


def encode_segment(samples: Array, directory: Directory, page: tifffile.TiffPage | None) -> bytes:
    """(h, w, S) in native byte order → bytes as in the file. page: needed for JPEG."""
    import imagecodecs

    kind = directory.compression
    if kind == JPEG:
        return _encode_jpeg(samples, directory, page)
    if directory.predictor != 1:
        predict = tifffile.TIFF.PREDICTORS[directory.predictor]
        samples = predict(np.ascontiguousarray(samples), axis=-2)
    samples = np.ascontiguousarray(samples, directory.stored)
    if kind == UNCOMPRESSED:
        return samples.tobytes()
    data: Any = samples.view(np.uint8)  # codecs that know numbers would heed their byte order
    if kind == PACKBITS:  # row by row, as the standard says
        return bytes(imagecodecs.packbits_encode(data.reshape(len(samples), -1), axis=-1))
    if kind == LZW:
        return bytes(imagecodecs.lzw_encode(data))
    if kind in DEFLATE:
        return bytes(imagecodecs.deflate_encode(data, level=6))
    return bytes(tifffile.TIFF.COMPRESSORS[kind](data.tobytes()))


def _encode_jpeg(samples: Array, directory: Directory, page: tifffile.TiffPage | None) -> bytes:
    import imagecodecs

    if samples.shape[2] == 1:
        return bytes(imagecodecs.jpeg8_encode(samples[..., 0], level=QUALITY))
    options: dict[str, Any] = {"outcolorspace": "RGB"}
    if directory.photometric == YCBCR:
        subsampling = (2, 2) if page is None else page.tags.valueof(SUBSAMPLING, (2, 2))
        options = {"outcolorspace": "YCBCR", "subsampling": tuple(subsampling)}
    samples = np.ascontiguousarray(samples)
    return bytes(imagecodecs.jpeg8_encode(samples, level=QUALITY, colorspace="RGB", **options))
