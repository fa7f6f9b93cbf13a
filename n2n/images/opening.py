"""Which format a file is of, by its name and by its content; opening it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from n2n.errors import ImageError, InvalidValue
from n2n.images.bmp import open_bmp
from n2n.images.file import ImageFile, damaged
from n2n.images.jpeg import open_jpeg
from n2n.images.npy import open_npy
from n2n.images.png import open_png
from n2n.images.tiff import open_tiff
from n2n.images.webp import open_webp

__all__ = ["FORMATS", "SUFFIXES", "format_of", "open_image", "output_suffix"]

SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WebP",
    ".bmp": "BMP",
    ".npy": "npy",
}
FORMATS = tuple(dict.fromkeys(SUFFIXES.values()))
OPENERS: dict[str, Callable[[Path, BinaryIO], ImageFile]] = {
    "PNG": open_png,
    "JPEG": open_jpeg,
    "TIFF": open_tiff,
    "WebP": open_webp,
    "BMP": open_bmp,
    "npy": open_npy,
}
SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"BM": "BMP",
    b"\x93NUMPY": "npy",
}


def format_of(path: Path | str) -> str | None:
    """The format that a name ends in, one of FORMATS, in upper or lower case; None for others."""
    return SUFFIXES.get(os.path.splitext(path)[1].lower())


def output_suffix(path: Path | str, format: str | None = None) -> str:
    """How the name of the output for `path` ends: as its own, or as `format` asks.

    >>> output_suffix("a.JPG"), output_suffix("a.jpeg", "JPEG"), output_suffix("a.png", "TIFF")
    ('.JPG', '.jpeg', '.tif')
    """
    own = os.path.splitext(path)[1]
    if format is None or format_of(path) == known_format(format):
        return own
    return next(suffix for suffix, name in SUFFIXES.items() if name == known_format(format))


def known_format(name: str) -> str:
    """One of FORMATS, written in whatever case; InvalidValue for another."""
    found = {format.lower(): format for format in FORMATS} | {s[1:]: f for s, f in SUFFIXES.items()}
    if name.lower() not in found:
        raise InvalidValue(f"a format of {', '.join(FORMATS)} expected, got {name}")
    return found[name.lower()]


def open_image(path: Path | str) -> ImageFile:
    """Read a file's header, and refuse what cannot be done; use it in a `with` statement.

    `ImageError`, one line that begins with the path: no regular file, not to be read, empty,
    truncated or damaged, of another format than its name says, larger than the limits against
    decompression bombs, or of a kind that its format's module refuses. Damage beyond the header
    is found when the pixels are read. MemoryError passes.
    """
    path = Path(path)
    try:
        if not path.is_file():  # a pipe or device would block
            raise ImageError(f"{path}: an image file expected, found none; check the name")
        with path.open("rb") as file:
            format = _check_signature(path, file.read(16))
            with damaged(path, format):
                return OPENERS[format](path, file)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror or error}") from error


def _check_signature(path: Path, start: bytes) -> str:
    if not start:
        raise ImageError(f"{path}: an image expected, found an empty file (zero bytes)")
    found, named = _signature(start), format_of(path)
    if found is None:
        known = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise ImageError(f"{path}: a {named or known} expected, the content is of another kind")
    if named not in (found, None):
        raise ImageError(f"{path}: a {named} expected by its name, found a {found}; rename it")
    return found


def _signature(start: bytes) -> str | None:
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WebP"
    return next((name for magic, name in SIGNATURES.items() if start.startswith(magic)), None)
