"""JPEG: the source's application segments and comments are copied as they are.

Kept: quantisation tables, chroma subsampling, progressive order, grey, YCbCr or RGB coding, EXIF,
ICC, XMP (the long form too), resolution, Photoshop's block, comments. Not kept: pictures after the
first one (MPO, gain maps), restart markers, arithmetic coding. CMYK is refused.

A second coding with the same tables loses hardly anything, but something. So a result that is
just what was read comes out as the source's own bytes.
"""

import io
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import JpegImagePlugin

from n2n.errors import ImageError
from n2n.images.file import ImageFile, Metadata, check_size, damaged, resolution
from n2n.images.whole import Decoded, WholeFile

__all__ = ["JpegFile", "encode", "open_jpeg"]

QUALITY = 95  # where the source has no tables of its own
PER_BYTE = 1024  # pixels: twice what Huffman coding makes of a byte at the most
MAX_SCANS = 1000  # a scan of no data takes time all the same
START_OF_SCAN, APP0, APP2, APP14, APP15, COMMENT = 0xDA, 0xE0, 0xE2, 0xEE, 0xEF, 0xFE

Segment = tuple[int, bytes]  # marker, content


class JpegFile(WholeFile):
    """A JPEG, whose coding and segments are known."""

    format = "JPEG"
    lossy = True
    compares = True

    def __init__(self, path: Path, image: JpegImagePlugin.JpegImageFile, start: bytes) -> None:
        super().__init__(path, (image.height, image.width, 1 if image.mode == "L" else 3))
        self.segments = [s for s in read_segments(start) if s[0] != APP2 or s[1][:4] != b"MPF\0"]
        tables = image.quantization
        subsampling = JpegImagePlugin.get_sampling(image)
        self.coding: dict[str, Any] = {
            "qtables": [list(tables[key]) for key in sorted(tables)],
            # Of what Pillow cannot write, none: that loses nothing.
            "subsampling": 0 if subsampling == -1 else subsampling,
            "progressive": bool(image.info.get("progressive")),
        }
        if image.mode == "RGB" and _is_rgb_inside(image):
            self.coding |= {"keep_rgb": True, "subsampling": 0}

    def metadata(self) -> Metadata:
        with damaged(self.path, "JPEG"), self.path.open("rb") as file:
            info = JpegImagePlugin.JpegImageFile(file).info
        return Metadata(
            exif=(info.get("exif") or b"").removeprefix(b"Exif\0\0") or None,
            icc_profile=info.get("icc_profile") or None,
            xmp=info.get("xmp") or None,
            dpi=resolution(info.get("dpi")),
        )

    def decode(self) -> Decoded:
        data = self.path.read_bytes()
        if data.count(b"\xff\xda") > MAX_SCANS:
            raise ValueError("more than a thousand scans")
        image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
        image.load()
        return Decoded(np.asarray(image).reshape(self.pages[0].shape))

    def encode(self, pixels: NDArray[Any]) -> bytes:
        if self.is_unchanged(pixels):
            return self.path.read_bytes()
        buffer = io.BytesIO()
        _image(pixels).save(buffer, "JPEG", **self.coding)
        return _with_segments(buffer.getvalue(), self.segments)


def open_jpeg(path: Path, file: BinaryIO) -> ImageFile:
    """Read the header."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    image = JpegImagePlugin.JpegImageFile(file)
    check_size(path, image.height, image.width)
    if image.mode not in ("L", "RGB"):
        raise ImageError(f"{path}: grey or RGB expected, found mode {image.mode}; convert it first")
    if image.height * image.width > PER_BYTE * size:
        raise ImageError(
            f"{path}: a whole JPEG expected, its header claims {image.width} × {image.height} "
            "pixels, more than the file can hold"
        )
    end = file.tell()
    file.seek(0)
    return JpegFile(path, image, file.read(end))


def read_segments(start: bytes) -> list[Segment]:
    """The application segments and comments before the first scan."""
    segments: list[Segment] = []
    at = 2
    while at + 4 <= len(start) and start[at] == 0xFF:
        marker = start[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker == START_OF_SCAN:
            break
        length = int.from_bytes(start[at + 2 : at + 4], "big")
        if APP0 <= marker <= APP15 or marker == COMMENT:
            segments.append((marker, start[at + 4 : at + 2 + length]))
        at += 2 + length
    return segments


def _with_segments(encoded: bytes, segments: list[Segment]) -> bytes:
    """Put the source's segments in the place of those that the encoder wrote."""
    own = read_segments(encoded)
    end = 2 + sum(4 + len(content) for _, content in own)  # the encoder writes them first
    if not any(marker == APP14 for marker, _ in segments):
        segments = segments + [s for s in own if s[0] == APP14]  # says that it is RGB inside
    parts = [encoded[:2]]
    for marker, content in segments:
        parts += [bytes([0xFF, marker]), (2 + len(content)).to_bytes(2, "big"), content]
    return b"".join([*parts, encoded[end:]])


def _is_rgb_inside(image: JpegImagePlugin.JpegImageFile) -> bool:
    """Not YCbCr, as libjpeg decides: by JFIF's marker, Adobe's, the names of the channels."""
    if "jfif" in image.info:
        return False
    if "adobe_transform" in image.info:
        return bool(image.info["adobe_transform"] == 0)
    return bytes(layer[0] for layer in image.layer) == b"RGB"


def _image(pixels: NDArray[Any]) -> PIL.Image.Image:
    return PIL.Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def encode(pixels: NDArray[Any], alpha: NDArray[Any] | None, metadata: Metadata) -> bytes:
    """A new JPEG of quality 95, with colours as fine as brightness."""
    assert alpha is None  # by the refusals
    options: dict[str, Any] = {"exif": metadata.exif or b"", "icc_profile": metadata.icc_profile}
    if metadata.exif:
        options["exif"] = b"Exif\0\0" + metadata.exif
    if metadata.dpi:
        options["dpi"] = metadata.dpi
    buffer = io.BytesIO()
    options |= {"quality": QUALITY, "subsampling": 0, "xmp": metadata.xmp or b""}
    _image(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()
