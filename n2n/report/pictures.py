"""Pictures inside of a page: pixels to data URIs, tables of small ones, before and after."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from n2n.report.page import Block

__all__ = ["Drawn", "Picture", "PictureRow", "PictureTable", "Plate", "Slider", "embed", "shrink"]

Pixels = NDArray[np.uint8]
QUALITY = 88


@dataclass(frozen=True)
class Picture:
    """An image in the page. alt: what it shows, for those who do not see it."""

    uri: str
    width: int
    height: int
    alt: str
    note: str = ""


def embed(pixels: Pixels, alt: str, *, note: str = "", lossless: bool = True) -> Picture:
    """A picture of uint8 (H, W, C), C 1 or 3, in the page: as PNG, or as WebP with losses."""
    import PIL.Image

    height, width, channels = pixels.shape
    image = PIL.Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    kind = "png" if lossless else "webp"
    options: dict[str, Any] = {"optimize": True} if lossless else {"quality": QUALITY}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    data = base64.b64encode(buffer.getvalue()).decode()
    return Picture(f"data:image/{kind};base64,{data}", width, height, alt, note)


def shrink(pixels: Pixels, longest: int) -> Pixels:
    """uint8 (H, W, C) with at most `longest` pixels a side, averaged."""
    import PIL.Image

    height, width, channels = pixels.shape
    if max(height, width) <= longest:
        return pixels
    image = PIL.Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    image.thumbnail((longest, longest), PIL.Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(image.height, image.width, channels)


@dataclass(frozen=True)
class Plate(Block):
    """A picture by itself, its pixels shown as squares if it is small."""

    caption: str
    picture: Picture
    note: str = ""
    template: ClassVar[str] = "plate.html.jinja"


@dataclass(frozen=True)
class Drawn(Block):
    """A drawing of matplotlib as a part of the page, in the page's colours."""

    caption: str
    svg: Markup
    alt: str
    note: str = ""
    template: ClassVar[str] = "drawn.html.jinja"


@dataclass(frozen=True)
class PictureRow:
    """A row of a picture table; None where there is no picture."""

    name: str
    pictures: Sequence[Picture | None]


@dataclass(frozen=True)
class PictureTable(Block):
    """Small pictures in rows and columns, their pixels shown as squares."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[PictureRow]
    note: str = ""
    template: ClassVar[str] = "pictures.html.jinja"


@dataclass(frozen=True)
class Slider(Block):
    """Two pictures of one size over each other: `before` left of a line, `after` right of it.

    The line is moved by pointer, touch or arrow keys. names: of both, for the reader.
    """

    caption: str
    before: Picture
    after: Picture
    names: tuple[str, str] = ("before", "after")
    note: str = ""
    template: ClassVar[str] = "slider.html.jinja"
