"""Photographs on disk: find them, tell which are usable, read them as 8-bit pixels."""

import hashlib
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from n2n.errors import ImageError, PairSetError

__all__ = ["EXTENSIONS", "Found", "Photograph", "Skipped", "find", "inspect", "read_pixels"]

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"})
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP")  # a .jpg that is PostScript is not handed to Ghostscript
ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 exchange height and width


@dataclass(frozen=True)
class Photograph:
    """A usable photograph: its path, its name in the folder, sha256, upright width and height."""

    path: str
    name: str
    sha256: str
    width: int
    height: int


@dataclass(frozen=True)
class Skipped:
    """A file that cannot be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Found:
    """What a folder holds: names of candidates in order, links not followed, other files."""

    root: Path
    names: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    ignored: int


def find(root: Path, leave_out: Iterable[Path] = ()) -> Found:
    """Look for photographs by extension in `root` and below, in the order of their names.

    Names are relative with forward slashes. Links that lead out of `root` are not followed.
    Folders in `leave_out` are not entered. Raises PairSetError when `root` is no folder.
    """
    if not root.is_dir():
        raise PairSetError(f"{root}: expected a folder of photographs; {_what_is(root)}")
    real_root, unwanted = root.resolve(), {path.resolve() for path in leave_out}
    names: list[str] = []
    skipped: list[Skipped] = []
    ignored = 0
    for folder, subfolders, files in os.walk(root, onerror=_raise):
        here = Path(folder)
        for entry in [path for path in (here / name for name in subfolders) if path.is_symlink()]:
            if not entry.resolve().is_relative_to(real_root):
                skipped.append(Skipped(_name(entry, root), "a link that leads out of the folder"))
        subfolders[:] = sorted(n for n in subfolders if (here / n).resolve() not in unwanted)
        for entry in (here / name for name in files):
            if entry.suffix.lower() not in EXTENSIONS:
                ignored += 1
            elif entry.is_symlink() and not entry.resolve().is_relative_to(real_root):
                skipped.append(Skipped(_name(entry, root), "a link that leads out of the folder"))
            else:
                names.append(_name(entry, root))
    return Found(root, tuple(sorted(names)), tuple(skipped), ignored)


def inspect(path: str, name: str, least_side: int) -> Photograph | Skipped:
    """Digest a file and decode all of it; a JPEG at an eighth of its size, which is quicker."""
    try:
        content = _read(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow: odd metadata, many pixels
            image = Image.open(BytesIO(content), formats=FORMATS)
            width, height = image.size
            image.draft(None, (max(1, width // 8), max(1, height // 8)))
            reduced = image.size != (width, height)
            image.load()
            _require_mode(image)
            if not reduced:
                width, height = _upright(image).size
            elif image.getexif().get(ORIENTATION, 1) >= 5:
                width, height = height, width
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        return Skipped(name, _reason(error))
    if min(width, height) < least_side:
        return Skipped(name, f"too small: {width} × {height}, needs {least_side} pixels a side")
    return Photograph(path, name, hashlib.sha256(content).hexdigest(), width, height)


def read_pixels(photograph: Photograph, *, grey: bool) -> NDArray[np.uint8]:
    """Decode an inspected photograph, upright, without alpha.   → (H, W, 3), or (H, W, 1) if grey.

    Raises ImageError when the file is no longer what was inspected.
    """
    try:
        content = _read(photograph.path)
        if hashlib.sha256(content).hexdigest() != photograph.sha256:
            raise ImageError("changed while it was being used")
        return decode(content, grey=grey)
    except Exception as error:
        raise ImageError(f"{photograph.path}: {_reason(error)}; run the command again") from error


def decode(content: bytes, *, grey: bool) -> NDArray[np.uint8]:
    """An image file's bytes to upright 8-bit pixels.   → uint8 (H, W, 3), or (H, W, 1) if grey.

    16 bits are scaled to 8 by 255/65535 (three-channel files: Pillow keeps the high byte). Alpha
    is dropped. Raises whatever Pillow raises, and ImageError for pixels without a fixed range.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(BytesIO(content), formats=FORMATS)
        image.load()
        _require_mode(image)
        upright = _upright(image)
        if upright.mode.startswith("I"):
            wide = np.asarray(upright).astype(np.uint32)
            pixels = ((wide * 255 + 32767) // 65535).astype(np.uint8)[:, :, None]
            return pixels if grey else pixels.repeat(3, axis=2)
        pixels = np.asarray(upright.convert("L" if grey else "RGB"))
    return pixels.reshape(*pixels.shape[:2], -1)


def to_grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The luma of colour pixels, as `decode` gives it.   (H, W, 3) → (H, W, 1)."""
    return np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]


def _read(path: str) -> bytes:
    content = Path(path).read_bytes()
    if not content:
        raise ImageError("an empty file")
    return content


def _require_mode(image: Image.Image) -> None:
    """Pillow's "I" is 16 bits in a PNG (before Pillow 11), 32 bits of unknown range elsewhere."""
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise ImageError("pixels of 32 bits have no fixed range; save it with 8 or 16 bits")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF: the pixels are good all the same
        return image


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image that can be read"
    if isinstance(error, Image.DecompressionBombError):
        return "far too many pixels for a photograph"
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _what_is(path: Path) -> str:
    return "found a file" if path.exists() else "there is nothing"


def _raise(error: OSError) -> None:
    raise error
