"""What a TIFF gives to another format, and takes from one: EXIF, ICC, XMP, resolution."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import PIL.Image
import tifffile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from n2n.images.file import CannotHold, Metadata, quietly, resolution
from n2n.images.tiff_entries import add_directories

__all__ = ["new_tags", "read_metadata", "write_directories"]

XMP, ICC, EXIF, GPS, INTEROPERABILITY = 700, 34675, 34665, 34853, 40965
ORIENTATION = 274
TEXTS = (270, 271, 272, 305, 306, 315, 33432)  # description, camera, program, date, author, rights
CENTIMETRE = 3


def read_metadata(path: Path, tif: tifffile.TiffFile) -> Metadata:
    """Of the first page."""
    page = tif.pages[0]
    assert isinstance(page, tifffile.TiffPage)
    return Metadata(
        exif=_read_exif(path),
        icc_profile=_bytes(page.tags.valueof(ICC)),
        xmp=_bytes(page.tags.valueof(XMP)),
        dpi=_read_resolution(page),
    )


def _bytes(value: Any) -> bytes | None:
    return (value.encode() if isinstance(value, str) else bytes(value)) if value else None


def _read_exif(path: Path) -> bytes | None:
    """The first page's tags that tell of the picture, not of the file."""
    exif = PIL.Image.Exif()
    with path.open("rb") as file:
        exif.load_from_fp(file)  # the first directory
        nested = {tag: dict(exif.get_ifd(tag)) for tag in (EXIF, GPS)}
    kept = PIL.Image.Exif()
    for tag in (*TEXTS, ORIENTATION):
        if tag in exif:
            kept[tag] = exif[tag]
    for tag, values in nested.items():
        if values:
            kept.get_ifd(tag).update(values)
            kept[tag] = values
    return kept.tobytes().removeprefix(b"Exif\0\0") if len(kept) else None


def _read_resolution(page: tifffile.TiffPage) -> tuple[float, float] | None:
    unit = page.tags.valueof(296, 2)
    values = [page.tags.valueof(tag) for tag in (282, 283)]
    if unit == 1 or not all(isinstance(v, tuple) and len(v) == 2 and all(v) for v in values):
        return None
    return resolution([v[0] / v[1] * (2.54 if unit == CENTIMETRE else 1) for v in values])


def new_tags(metadata: Metadata) -> dict[str, Any]:
    """What `TiffWriter.write` is told of the first page."""
    extra: list[tuple[int, int, int, Any, bool]] = []
    if metadata.xmp:
        extra.append((XMP, 1, len(metadata.xmp), metadata.xmp, True))
    exif = metadata.parsed_exif()
    for tag in TEXTS:
        text = exif.get(tag)
        if isinstance(text, str):  # Pillow reads bytes as Latin 1
            extra.append((tag, 2, 0, text.encode("latin-1", "replace"), True))
    if metadata.orientation != 1:
        extra.append((ORIENTATION, 3, 1, metadata.orientation, True))
    options: dict[str, Any] = {"extratags": extra}
    if metadata.icc_profile:
        options["iccprofile"] = metadata.icc_profile
    if metadata.dpi:
        x, y = (Fraction(value).limit_denominator(10_000) for value in metadata.dpi)
        options |= {"resolution": (x.as_integer_ratio(), y.as_integer_ratio())}
        options["resolutionunit"] = "INCH"
    return options


def write_directories(path: Path, metadata: Metadata) -> None:
    """Append the directories of EXIF and GPS to a finished TIFF."""
    nested = {tag: metadata.nested_exif(tag) for tag in (EXIF, GPS)}
    if not any(nested.values()):
        return
    places: dict[int, int] = {}
    with tifffile.TiffFile(path) as tif, path.open("r+b") as out:
        page = tif.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        for tag, values in nested.items():
            if values:
                start = out.seek(0, 2)
                places[tag] = start + out.write(bytes(start % 2))
                out.write(_directory(values, tif.byteorder, places[tag]))
        add_directories(out, page, places)


def _directory(values: dict[int, Any], byteorder: str, start: int) -> bytes:
    directory = ImageFileDirectory_v2(prefix=b"II" if byteorder == "<" else b"MM")
    try:
        with quietly():
            for key, value in values.items():
                if not isinstance(value, dict) and key != INTEROPERABILITY:
                    directory[key] = value
            return directory.tobytes(start)
    except Exception as error:  # of damaged EXIF
        raise CannotHold(f"EXIF that is not damaged expected ({error})") from error
