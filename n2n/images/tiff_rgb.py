"""Turning a palette's directory of a TIFF into one of RGB, where it lies."""

from typing import BinaryIO

import numpy as np
import tifffile

from n2n.images.tiff_layout import RGB

__all__ = ["make_rgb"]

BITS, PHOTOMETRIC, SAMPLES, COLOURS = 258, 262, 277, 320  # tags
SHORT = 3


def make_rgb(out: BinaryIO, page: tifffile.TiffPage) -> None:
    """Rewrite the directory: 3 samples of 8 bits, no palette; all other tags as they are.

    There is one tag less, or as many, so that the directory fits where it was; the bits of the
    three samples go to where the palette was.
    """
    format = page.parent.tiff
    order, inline = format.byteorder, format.offsetsize
    head = format.tagnosize

    def number(value: int, size: int) -> bytes:
        return np.array(value, f"{order}u{size}").tobytes()

    def entry(code: int, values: list[int], place: int) -> bytes:
        start = number(code, 2) + number(SHORT, 2) + number(len(values), inline)
        content = b"".join(number(value, 2) for value in values)
        if len(content) > inline:
            out.seek(place)
            out.write(content)
            content = number(place, inline)
        return start + content.ljust(inline, b"\0")

    out.seek(page.offset)
    count = int(np.frombuffer(out.read(head), f"{order}u{head}")[0])
    block = out.read(count * format.tagsize)
    after = out.read(inline)  # where the next directory is
    size = format.tagsize
    entries = {block[at : at + 2]: block[at : at + size] for at in range(0, len(block), size)}
    place = page.tags[COLOURS].valueoffset
    del entries[number(COLOURS, 2)]
    for code, values in ((BITS, [8, 8, 8]), (PHOTOMETRIC, [RGB]), (SAMPLES, [3])):
        entries[number(code, 2)] = entry(code, values, place)
    ordered = sorted(entries, key=lambda code: int(np.frombuffer(code, f"{order}u2")[0]))
    out.seek(page.offset)
    out.write(number(len(ordered), head) + b"".join(entries[code] for code in ordered) + after)
