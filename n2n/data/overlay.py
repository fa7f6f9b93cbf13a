"""Text written over images: random strings, sizes, angles and colours, until enough is covered.

Axes: C channels, S the side of an image.
"""

import string
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["write_over"]

UInt8: TypeAlias = NDArray[np.uint8]

LETTERS = string.ascii_letters + string.digits
MOST_LETTERS = 12
SMALLEST = 6  # height of a font, in pixels
LARGEST = 3  # times smaller than the image
INK = 128  # of 255, from which on a pixel belongs to a letter


def write_over(image: UInt8, share: float, rng: np.random.Generator) -> UInt8:
    """A copy of a square image (C, S, S), at least `share` of whose pixels are under text."""
    result = image.copy()
    channels, side, _ = image.shape
    covered = np.zeros((side, side), bool)
    while covered.mean() < share:
        letters = _string(side, rng)
        result[:, letters] = rng.integers(0, 256, (channels, 1), np.uint8)
        covered |= letters
    return result


def _string(side: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """The pixels (S, S) of one random string at a random place, at a random angle."""
    text = "".join(rng.choice(list(LETTERS), rng.integers(1, MOST_LETTERS + 1)))
    height = int(rng.integers(SMALLEST, max(SMALLEST, side // LARGEST) + 1))
    page = Image.new("L", (2 * side, 2 * side))  # so that turning it leaves no empty corners
    ImageDraw.Draw(page).text((side, side), text, fill=255, font=_font(height), anchor="mm")
    turned = page.rotate(float(rng.uniform(0, 360)), Image.Resampling.BILINEAR)
    left, top = rng.integers(0, side + 1, 2).tolist()
    pixels = np.asarray(turned.crop((left, top, left + side, top + side)))
    return pixels >= INK


@lru_cache(maxsize=256)
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(height)
