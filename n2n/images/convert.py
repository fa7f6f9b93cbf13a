"""Writing results: in the source's own format, or in another one on purpose."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from n2n.errors import ImageError, ShapeError
from n2n.files import replacing
from n2n.images import bmp, jpeg, npy, png, tiff_create, webp
from n2n.images.file import Array, CannotHold, ImageFile, Metadata, Page, Raster, Taker
from n2n.images.opening import SUFFIXES, format_of, known_format, open_image

__all__ = ["read_pixels", "refusal", "save_pixels", "write_image"]

KINDS: dict[str, tuple[str, ...]] = {  # dtypes that a format holds
    "PNG": ("uint8", "uint16"),
    "JPEG": ("uint8",),
    "TIFF": ("uint8", "uint16", "float32"),
    "WebP": ("uint8",),
    "BMP": ("uint8",),
    "npy": ("uint8", "uint16", "float32"),
}
SEVERAL_PAGES = {"TIFF", "npy"}
WITHOUT_ALPHA = {"JPEG", "npy"}
WITHOUT_ORIENTATION = {"BMP", "npy"}  # there the pixels are turned
MAX_SIDE = {"JPEG": 65500, "WebP": webp.MAX_SIDE}


def refusal(file: ImageFile, format: str | None = None) -> str | None:
    """Why a file's result cannot be written in that format, or its own: one line, or None.

    The header alone decides. InvalidValue for a format that there is not.
    """
    target = file.format if format is None else known_format(format)
    if target == file.format:
        return file.refusal()
    pages, dtype = file.pages, file.pages[0].dtype
    if target not in SEVERAL_PAGES and len(pages) > 1:
        return f"a single page expected for {target}, found {len(pages)}; choose TIFF"
    if str(dtype) not in KINDS[target]:
        return f"{' or '.join(KINDS[target])} expected for {target}, found {dtype}; choose TIFF"
    if target in WITHOUT_ALPHA and file.has_alpha:
        return f"no transparency expected for {target}, found it; choose PNG or TIFF"
    if target == "npy" and len({(page.shape, page.dtype) for page in pages}) > 1:
        return "pages of one size and kind expected for npy, found several; choose TIFF"
    side = max(pages[0].shape[:2])
    if side > MAX_SIDE.get(target, side):
        return f"at most {MAX_SIDE[target]} pixels a side expected for {target}, found {side}"
    return file.conversion_refusal()


def write_image(
    destination: Path | str,
    file: ImageFile,
    results: Iterable[Raster],
    *,
    format: str | None = None,
) -> None:
    """Write an image as `file`, with the results' pixels in place of its own; whole or not at all.

    results: one for each page, in order, of its shape and dtype; taken when they are needed, and
    (TIFF, `.npy`) read in windows, so that they may lie on disk. What is beside the pixels comes
    from `file`, which must be open.

    format: another one of FORMATS on purpose; EXIF, ICC, XMP and resolution go with the pixels as
    far as it holds them (BMP: resolution; `.npy`: none; where there is no orientation, the pixels
    are turned upright). `ImageError` for what it cannot hold (`refusal`), and for a destination
    whose name says another format; ShapeError and InvalidType for results that do not fit.
    OSError, such as for a full disk, passes.
    """
    destination = Path(destination)
    target = file.format if format is None else known_format(format)
    if format_of(destination) != target:
        endings = ", ".join(suffix for suffix, name in SUFFIXES.items() if name == target)
        raise ImageError(f"{destination}: a name that ends in {endings} expected for {target}")
    reason = refusal(file, target)
    if reason is not None:
        raise ImageError(f"{file.path}: {reason}")
    taker = Taker(file, iter(results))
    with replacing(destination) as temporary:
        if target == file.format:
            file.write(temporary, taker)
        else:
            _convert(temporary, file, taker, target)
        taker.finish()


def _convert(temporary: Path, file: ImageFile, results: Taker, target: str) -> None:
    metadata = file.metadata()
    turn = metadata.orientation if target in WITHOUT_ORIENTATION else 1
    try:
        if target == "TIFF":
            tiff_create.create(temporary, file, results)
        elif target == "npy":
            npy.create(temporary, file, results, lambda raster: upright(raster, turn))
        else:
            pixels = np.ascontiguousarray(upright(results.take(), turn)[:, :])
            alpha = file.pages[0].alpha()
            if alpha is not None:
                alpha = upright(alpha[..., None], turn)[:, :][..., 0]
            temporary.write_bytes(_encode(pixels, alpha, metadata, target, file.lossy))
    except CannotHold as error:
        raise ImageError(f"{file.path}: cannot be written as {target}: {error}") from error


def _encode(
    pixels: Array, alpha: Array | None, metadata: Metadata, target: str, lossy: bool
) -> bytes:
    encoders = {"PNG": png.encode, "JPEG": jpeg.encode, "BMP": bmp.encode}
    try:
        if target == "WebP":  # without loss, unless there was one already
            return webp.encode(pixels, alpha, metadata, lossless=not lossy)
        return encoders[target](pixels, alpha, metadata)
    except (ValueError, OSError) as error:  # in memory: no error of a disk
        raise CannotHold(str(error)) from error


def upright(raster: Raster, orientation: int) -> Raster:
    """(H, W, C), turned as an EXIF orientation says: a viewer's work, done to the pixels."""
    if orientation == 1:
        return raster
    array: Any = raster[:, :]
    if orientation in (5, 6, 7, 8):  # rows were columns
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def save_pixels(path: Path | str, pixels: Array) -> None:
    """A plain image of an array (H, W, C), without metadata, in the format that the name says.

    `ImageError` for a name or an array that does not fit.
    """
    path = Path(path)
    format = format_of(path)
    if format is None:
        raise ImageError(f"{path}: a name that ends in {', '.join(SUFFIXES)} expected")
    write_image(path, ArrayFile(path, pixels), [pixels], format=format)


def read_pixels(path: Path | str) -> Array:
    """The pixels (H, W, C) of an image of one page, without alpha; otherwise as `open_image`."""
    with open_image(path) as file:
        if len(file.pages) != 1:
            raise ImageError(f"{path}: a single page expected, found {len(file.pages)}")
        return file.pages[0].raster(max_bytes=sys.maxsize)[:, :]


class ArrayFile(ImageFile):
    """An array as if it were a file's only page."""

    format = "array"

    def __init__(self, path: Path, pixels: Array) -> None:
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
            raise ShapeError(f"pixels: shape (H, W, 1) or (H, W, 3) expected, got {pixels.shape}")
        self.path, self.pages = path, [_ArrayPage(pixels)]

    def metadata(self) -> Metadata:
        return Metadata()

    def write(self, temporary: Path, results: Taker) -> None:
        raise NotImplementedError("an array has no format of its own")


class _ArrayPage(Page):
    def __init__(self, pixels: Array) -> None:
        self._pixels, self.dtype = pixels, pixels.dtype
        height, width, channels = pixels.shape
        self.shape = (height, width, channels)

    def raster(self, *, max_bytes: int = 0) -> Raster:
        return self._pixels

    def alpha(self) -> None:
        return None
