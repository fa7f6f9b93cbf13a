"""Image files ↔ arrays of 8-bit integers, with all that must come out as it went in.

PNG and JPEG, 8 bits a channel: grey or colour, with or without alpha, and PNG palettes. A further
format is one line in `SUFFIXES`, one in `_signature` and its own branch in `_encode`.

Kept: size, alpha, EXIF (and the orientation in it: pixels are not turned), ICC profile, XMP,
resolution, a PNG's texts, gamma, primaries and sRGB intent, a JPEG's quantisation tables,
chroma subsampling and progressive order. Not kept: the second and later pictures in a JPEG (MPO),
a JPEG's Photoshop block, a PNG's interlacing and unitless pixel aspect.

Refused, never silently reduced: 16 bits a channel, CMYK, one-bit images, animations.
"""

import io
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import JpegImagePlugin
from PIL.PngImagePlugin import PngInfo

from n2n.errors import ImageError, InvalidType, ShapeError
from n2n.files import replacing

__all__ = ["SUFFIXES", "Image", "format_of", "read_image", "write_image"]

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
JPEG_QUALITY = 95  # where the source has no tables of its own
PNG_BIT_DEPTH = 24  # its place in the file, in the header chunk

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Image:
    """An image and what must survive with it. H rows, W columns, C = 1 (grey) or 3 (RGB)."""

    pixels: Pixels  # (H, W, C), without alpha
    alpha: Pixels | None = None  # (H, W)
    format: str = "PNG"  # that it was read from; what is written follows the name of the file
    mode: str = ""  # Pillow's word for what the file held: L, LA, RGB, RGBA, P
    exif: bytes | None = None
    icc_profile: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    png_chunks: tuple[tuple[bytes, bytes], ...] = ()  # (type, content)
    jpeg_tables: tuple[tuple[int, ...], ...] = ()  # quantisation
    jpeg_subsampling: int = -1  # 0 is 4:4:4, 1 is 4:2:2, 2 is 4:2:0, -1 is the encoder's own
    jpeg_progressive: bool = False

    def __post_init__(self) -> None:
        shape = self.pixels.shape
        if len(shape) != 3 or shape[2] not in (1, 3) or 0 in shape:
            raise ShapeError(f"pixels: shape (H, W, 1) or (H, W, 3) expected, got {shape}")
        if self.alpha is not None and self.alpha.shape != shape[:2]:
            raise ShapeError(f"alpha: shape {shape[:2]} expected, got {self.alpha.shape}")
        for name, array in (("pixels", self.pixels), ("alpha", self.alpha)):
            if array is not None and array.dtype != np.uint8:
                raise InvalidType(f"{name}: uint8 expected, got {array.dtype}")


def format_of(path: Path) -> str | None:
    """The format that a name ends in, PNG or JPEG, in upper or lower case; None for others."""
    return SUFFIXES.get(path.suffix.lower())


def read_image(path: Path | str) -> Image:
    """Read a PNG or JPEG file.

    A palette image, and one with a transparent colour, comes as RGB(A) or LA, and is written
    as such: denoised colours are none of the palette's. Grey of 2 or 4 bits comes as 8 bits.

    `ImageError`, one line that begins with the path: no regular file, empty, truncated or
    damaged, of another format than its name says, larger than Pillow's limit against
    decompression bombs, or of a kind that is refused (see above). MemoryError passes.
    """
    path = Path(path)
    try:
        if not path.is_file():  # a pipe or device would block
            raise ImageError(f"{path}: an image file expected, found none; check the name")
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror or error}") from error
    format = _check_signature(path, data)
    try:
        with warnings.catch_warnings():  # Pillow warns of large images and of odd metadata
            warnings.simplefilter("ignore")
            with PIL.Image.open(io.BytesIO(data), formats=(format,)) as image:
                _refuse_unsupported(path, image, data)
                image.load()
                return _to_image(image, format)
    except (ImageError, MemoryError):
        raise
    except PIL.Image.DecompressionBombError as error:
        limit = 2 * (PIL.Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(
            f"{path}: at most {limit} pixels expected, its header claims more; split the image"
        ) from error
    except Exception as error:  # a damaged file raises nearly anything within Pillow
        words = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(
            f"{path}: a whole {format} expected, found it truncated or damaged ({words})"
        ) from error


def write_image(path: Path | str, image: Image) -> None:
    """Write a PNG or JPEG, as the name says, whole or not at all.

    The file is encoded in memory, written under a temporary name in the same folder, flushed to
    the disk and renamed, so that an existing file is replaced only by a complete one; a symbolic
    link is replaced, not followed. A JPEG takes the quantisation tables and subsampling of the
    source, if that was a JPEG; otherwise quality 95.

    `ImageError` for another name and for what the format cannot hold (alpha in a JPEG);
    OSError, such as for a full disk, passes.
    """
    path = Path(path)
    format = format_of(path)
    if format is None:
        known = ", ".join(SUFFIXES)
        raise ImageError(f"{path}: a name that ends in {known} expected; change the ending")
    if format == "JPEG" and image.alpha is not None:
        raise ImageError(f"{path}: a JPEG holds no transparency, the image has it; write a PNG")
    try:
        data = _encode(image, format)
    except (ValueError, OSError) as error:  # in memory: no OSError of a disk
        raise ImageError(f"{path}: cannot be written as {format}: {error}") from error
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def _signature(data: bytes) -> str | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    return "JPEG" if data.startswith(b"\xff\xd8\xff") else None


def _check_signature(path: Path, data: bytes) -> str:
    if not data:
        raise ImageError(f"{path}: an image expected, found an empty file (zero bytes)")
    found, named = _signature(data), format_of(path)
    if found is None:
        raise ImageError(f"{path}: a PNG or JPEG expected, the content is neither")
    if named not in (found, None):
        raise ImageError(f"{path}: a {named} expected by its name, found a {found}; rename it")
    return found


def _refuse_unsupported(path: Path, image: PIL.Image.Image, data: bytes) -> None:
    # Pillow itself would reduce a 16-bit colour PNG to 8 bits without a word.
    if image.format == "PNG" and data[PNG_BIT_DEPTH] == 16:
        raise ImageError(f"{path}: 8 bits a channel expected, found 16: not supported yet")
    if image.mode not in ("L", "LA", "RGB", "RGBA", "P"):
        raise ImageError(f"{path}: grey, RGB or palette expected, found mode {image.mode}")
    if image.format == "PNG" and getattr(image, "is_animated", False):
        raise ImageError(f"{path}: a still image expected, found an animation; take it apart first")


def _to_image(image: PIL.Image.Image, format: str) -> Image:
    jpeg = image if isinstance(image, JpegImagePlugin.JpegImageFile) else None
    info = image.info
    tables = jpeg.quantization if jpeg else {}
    pixels = np.array(_without_palette(image))  # (H, W) or (H, W, channels)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    has_alpha = pixels.shape[2] in (2, 4)
    return Image(
        pixels=np.ascontiguousarray(pixels[..., :-1]) if has_alpha else pixels,
        alpha=np.ascontiguousarray(pixels[..., -1]) if has_alpha else None,
        format=format,
        mode=image.mode,
        exif=info.get("exif") or None,
        icc_profile=info.get("icc_profile") or None,
        xmp=_as_bytes(info.get("xmp")),
        dpi=_resolution(info.get("dpi")),
        png_chunks=_png_chunks(image) if format == "PNG" else (),
        jpeg_tables=tuple(tuple(tables[key]) for key in sorted(tables)),
        jpeg_subsampling=JpegImagePlugin.get_sampling(jpeg) if jpeg else -1,
        jpeg_progressive=bool(info.get("progressive")),
    )


def _without_palette(image: PIL.Image.Image) -> PIL.Image.Image:
    if "transparency" in image.info:  # a colour, or an alpha for each entry of the palette
        return image.convert("LA" if image.mode == "L" else "RGBA")
    return image.convert("RGB") if image.mode == "P" else image


def _as_bytes(value: Any) -> bytes | None:
    return value.encode() if isinstance(value, str) else value or None


def _resolution(dpi: Any) -> tuple[float, float] | None:
    try:
        x, y = float(dpi[0]), float(dpi[1])
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return None
    return (x, y) if all(math.isfinite(v) and 0.5 <= v < 65535 for v in (x, y)) else None


def _png_chunks(image: PIL.Image.Image) -> tuple[tuple[bytes, bytes], ...]:
    """Texts, and what says how bright and of which colour the numbers are meant to be."""
    info, chunks = image.info, PngInfo()
    for key, text in getattr(image, "text", {}).items():
        if key != "XML:com.adobe.xmp" and not key.startswith("Raw profile type"):
            chunks.add_text(key, text)
    if "gamma" in info:
        chunks.add(b"gAMA", round(info["gamma"] * 100_000).to_bytes(4, "big"))
    if "chromaticity" in info:
        values = (round(value * 100_000).to_bytes(4, "big") for value in info["chromaticity"])
        chunks.add(b"cHRM", b"".join(values))
    if "srgb" in info:
        chunks.add(b"sRGB", bytes([info["srgb"]]))
    return tuple((kind, content) for kind, content, *_ in chunks.chunks)


def _encode(image: Image, format: str) -> bytes:
    options: dict[str, Any] = {"exif": image.exif or b"", "icc_profile": image.icc_profile}
    if image.dpi:
        options["dpi"] = image.dpi
    if format == "PNG":
        options["pnginfo"] = PngInfo()
        for kind, content in image.png_chunks:
            options["pnginfo"].add(kind, content)
        if image.xmp:
            text = image.xmp.decode(errors="replace")
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", text)
    else:
        options |= {"progressive": image.jpeg_progressive, "xmp": image.xmp or b""}
        if image.jpeg_tables:
            options["qtables"] = [list(table) for table in image.jpeg_tables]
            options["subsampling"] = image.jpeg_subsampling
        else:
            options["quality"] = JPEG_QUALITY
    planes = image.pixels
    if image.alpha is not None:
        planes = np.concatenate([planes, image.alpha[..., None]], axis=2)
    buffer = io.BytesIO()
    PIL.Image.fromarray(planes[..., 0] if planes.shape[2] == 1 else planes).save(
        buffer, format, **options
    )
    return buffer.getvalue()
