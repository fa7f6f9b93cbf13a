"""WebP: lossless stays lossless; lossy is written with quality 95 and lossless alpha.

Kept: which of the two codings, alpha, the colours under transparent pixels, EXIF, ICC, XMP. Not
kept: an alpha that is opaque everywhere (the library leaves it out), the strength of the
compression. Animations are refused. A result that is just what was read from a lossy file comes
out as the source's own bytes. WebP holds no grey: grey comes and goes as RGB.
"""

import io
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from n2n.errors import ImageError
from n2n.images.file import ImageFile, Metadata, check_size
from n2n.images.whole import Decoded, WholeFile

__all__ = ["MAX_SIDE", "WebpFile", "encode", "open_webp"]

QUALITY = 95  # of the lossy coding
MAX_SIDE = 16383
HEADER = 12  # RIFF, length, WEBP
METADATA = (b"EXIF", b"ICCP", b"XMP ")
ANIMATED, ALPHA = 0x02, 0x10  # in the first byte of VP8X


class WebpFile(WholeFile):
    """A still WebP. coding: VP8 (lossy) or VP8L (lossless)."""

    format = "WebP"

    def __init__(self, path: Path, size: tuple[int, int], chunks: dict[bytes, bytes]) -> None:
        super().__init__(path, (size[1], size[0], 3))
        self.lossy = b"VP8 " in chunks
        self.compares = self.lossy
        self.has_alpha = _has_alpha(chunks)
        exif, profile, xmp = (chunks.get(kind) or None for kind in METADATA)
        self._metadata = Metadata(exif, profile, xmp)

    def metadata(self) -> Metadata:
        exif = (self._metadata.exif or b"").removeprefix(b"Exif\0\0") or None
        return Metadata(exif, self._metadata.icc_profile, self._metadata.xmp)

    def decode(self) -> Decoded:
        import imagecodecs

        data = self.path.read_bytes()
        planes = imagecodecs.webp_decode(data, hasalpha=self.has_alpha)
        height, width, _ = self.pages[0].shape
        planes = planes.reshape(height, width, 4 if self.has_alpha else 3)
        return Decoded(planes[..., :3], planes[..., 3] if self.has_alpha else None)

    def encode(self, pixels: NDArray[Any]) -> bytes:
        if self.lossy and self.is_unchanged(pixels):
            return self.path.read_bytes()
        return _encode(pixels, self.source().alpha, self._metadata, lossless=not self.lossy)


def open_webp(path: Path, file: BinaryIO) -> ImageFile:
    """Read the chunks but for the pixels, and the size at their start."""
    chunks = _read_chunks(file)
    if chunks.get(b"VP8X", b"\0")[0] & ANIMATED or b"ANIM" in chunks:
        raise ImageError(f"{path}: a still image expected, found an animation; take it apart first")
    size = _size(chunks)
    check_size(path, size[1], size[0])
    return WebpFile(path, size, chunks)


def _read_chunks(file: BinaryIO) -> dict[bytes, bytes]:
    """The first chunk of each kind; of pixels the first bytes only."""
    end = file.seek(0, io.SEEK_END)
    file.seek(4)
    stated = 8 + int.from_bytes(file.read(4), "little")
    if stated > end:
        raise ValueError(f"{stated} bytes stated, {end} found")
    file.seek(HEADER)
    chunks: dict[bytes, bytes] = {}
    while file.tell() + 8 <= stated:
        kind, length = file.read(4), int.from_bytes(file.read(4), "little")
        after = file.tell() + length + length % 2
        if file.tell() + length > end:
            raise ValueError(f"it ends in a chunk {kind!r}")
        chunks.setdefault(kind, file.read(length if kind in METADATA else min(length, 16)))
        file.seek(after)
    return chunks


def _size(chunks: dict[bytes, bytes]) -> tuple[int, int]:
    """(width, height) as the pixels' own header says."""
    lossless, lossy = chunks.get(b"VP8L"), chunks.get(b"VP8 ")
    if lossless is not None and len(lossless) >= 5 and lossless[0] == 0x2F:
        bits = int.from_bytes(lossless[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if lossy is not None and len(lossy) >= 10 and lossy[3:6] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(lossy[at : at + 2], "little") for at in (6, 8))
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError("no image data")


def _has_alpha(chunks: dict[bytes, bytes]) -> bool:
    if b"VP8X" in chunks:
        return bool(chunks[b"VP8X"][0] & ALPHA)
    return b"VP8L" in chunks and bool(chunks[b"VP8L"][4] & 0x10)


def _encode(
    pixels: NDArray[Any], alpha: NDArray[Any] | None, metadata: Metadata, *, lossless: bool
) -> bytes:
    planes = pixels.repeat(3, axis=2) if pixels.shape[2] == 1 else pixels
    if alpha is not None:
        planes = np.dstack([planes, alpha])
    options: dict[str, Any] = {"lossless": True} if lossless else {"quality": QUALITY}
    buffer = io.BytesIO()
    PIL.Image.fromarray(planes).save(
        buffer,
        "WEBP",
        exact=True,
        icc_profile=metadata.icc_profile or b"",
        exif=metadata.exif or b"",
        xmp=metadata.xmp or b"",
        **options,
    )
    return buffer.getvalue()


def encode(
    pixels: NDArray[Any], alpha: NDArray[Any] | None, metadata: Metadata, *, lossless: bool
) -> bytes:
    """A new WebP."""
    return _encode(pixels, alpha, metadata, lossless=lossless)
