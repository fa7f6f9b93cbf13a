"""Rewriting a TIFF's directory: entries that tifffile does not write, a palette that goes.

An entry is as in the file: code, type, count, and the value or its place.
"""

from typing import BinaryIO

import numpy as np
import tifffile

from n2n.images.tiff_layout import RGB

__all__ = ["add_directories", "make_rgb"]

BITS, PHOTOMETRIC, SAMPLES, COLOURS = 258, 262, 277, 320  # tags
SHORT, LONG, LONG8 = 3, 4, 16  # types


class _Entries:
    """The entries of the directory at `offset`, by their codes; to be changed and put back."""

    def __init__(self, out: BinaryIO, format: tifffile.TiffFormat, offset: int) -> None:
        self._format, self.inline = format, format.offsetsize
        size, head = format.tagsize, format.tagnosize
        out.seek(offset)
        count = int(np.frombuffer(out.read(head), f"{format.byteorder}u{head}")[0])
        block = out.read(count * size)
        self._next = out.read(self.inline)  # where the next directory is
        raw = (block[at : at + size] for at in range(0, len(block), size))
        self.entries = {
            int(np.frombuffer(entry[:2], f"{format.byteorder}u2")[0]): entry for entry in raw
        }

    def number(self, value: int, size: int) -> bytes:
        """In the file's byte order."""
        return np.array(value, f"{self._format.byteorder}u{size}").tobytes()

    def put(self, code: int, kind: int, count: int, value: bytes) -> None:
        """Set an entry, whose value fits into it."""
        start = self.number(code, 2) + self.number(kind, 2) + self.number(count, self.inline)
        self.entries[code] = start + value.ljust(self.inline, b"\0")

    def joined(self) -> bytes:
        """The directory."""
        entries = b"".join(self.entries[code] for code in sorted(self.entries))
        return self.number(len(self.entries), self._format.tagnosize) + entries + self._next


def make_rgb(out: BinaryIO, page: tifffile.TiffPage) -> None:
    """Turn a palette's directory into one of 3 samples of 8 bits; all other tags as they are.

    There is one tag less, or as many, so that the directory fits where it was; the bits of the
    three samples go to where the palette was.
    """
    found = _Entries(out, page.parent.tiff, page.offset)
    del found.entries[COLOURS]
    bits = 3 * found.number(8, 2)
    if len(bits) > found.inline:
        place = page.tags[COLOURS].valueoffset
        out.seek(place)
        out.write(bits)
        bits = found.number(place, found.inline)
    found.put(BITS, SHORT, 3, bits)
    found.put(PHOTOMETRIC, SHORT, 1, found.number(RGB, 2))
    found.put(SAMPLES, SHORT, 1, found.number(3, 2))
    out.seek(page.offset)
    out.write(found.joined())


def add_directories(out: BinaryIO, page: tifffile.TiffPage, places: dict[int, int]) -> None:
    """Let the first page have tags that point to directories; its own one goes behind the end."""
    format = page.parent.tiff
    found = _Entries(out, format, page.offset)
    for code, place in places.items():
        kind = LONG8 if format.offsetsize == 8 else LONG
        found.put(code, kind, 1, found.number(place, found.inline))
    start = out.seek(0, 2)
    start += out.write(bytes(start % 2))
    out.write(found.joined())
    out.seek(format.offsetsize if format.offsetsize == 8 else 4)
    out.write(found.number(start, format.offsetsize))
