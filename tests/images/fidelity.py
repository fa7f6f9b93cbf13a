"""What of an image survives: read by other libraries than n2n's, before and after.

    python -m tests.images.fidelity

prints the table of the README: for each kind of image, what comes out as it went in.
"""

import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import PIL.Image
import tifffile
from numpy.typing import NDArray

from n2n.images import open_image, write_image

from .samples import SAMPLES, Sample

Array = NDArray[Any]
CODES = {"EXIF": 34665, "GPS": 34853, "orientation": 274, "ICC": 34675, "XMP": 700, "DPI": 282}
METADATA = ("EXIF", "orientation", "ICC", "XMP", "DPI")


def pictures(path: Path) -> list[Array]:
    """The pixels with alpha, of each page, by OpenCV or, for TIFF, libtiff."""
    data = path.read_bytes()
    if path.suffix == ".npy":
        array = np.load(path)
        array = array.astype(array.dtype.newbyteorder("="))
        return list(array) if array.ndim == 4 else [array]
    if path.suffix in (".tif", ".tiff"):
        with tifffile.TiffFile(path) as file:
            count = len(file.pages)
            if any(page.dtype == np.float16 for page in file.pages):
                return [page.asarray() for page in file.pages]  # libtiff leaves 16-bit floats out
            if file.is_imagej and count == 1 and "images" in file.imagej_metadata:
                return list(file.asarray())
            planes = file.pages[0].planarconfig == 2
            if file.pages[0].compression == tifffile.COMPRESSION.JPEG:
                with PIL.Image.open(path) as image:  # which turns it as the orientation says
                    return [np.rot90(np.asarray(image))]
            if file.pages[0].photometric == tifffile.PHOTOMETRIC.PALETTE and not file.is_imagej:
                colours = (file.pages[0].colormap.T >> 8).astype(np.uint8)
                return [colours[imagecodecs.tiff_decode(data)]]
            found = [imagecodecs.tiff_decode(data, index=number) for number in range(count)]
            return [np.moveaxis(image, 0, -1) if planes else image for image in found]
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None, path
    return [image]


def layout(path: Path) -> dict[str, Any]:
    """Mode, bits, and how the file is laid out."""
    if path.suffix == ".npy":
        with path.open("rb") as file:
            return {"magic": np.lib.format.read_magic(file), "header": file.readline()}
    if path.suffix not in (".tif", ".tiff"):
        with PIL.Image.open(path) as image:
            depth = path.read_bytes()[24] if image.format == "PNG" else None
            keys = ("progressive", "compression", "adobe_transform", "jfif_version")
            kept = {key: image.info.get(key) for key in keys}
            tables = getattr(image, "quantization", None)
            layers = getattr(image, "layer", None)
            return {
                "mode": (image.mode, image.size, image.format),
                "coding": (depth, tables, layers, kept, _webp_coding(path)),
            }
    with tifffile.TiffFile(path) as file:
        return {
            "file": (file.byteorder, file.is_bigtiff, len(file.pages), file.ome_metadata),
            "imagej": str(file.imagej_metadata),
            "pages": [_tags(page) for page in file.pages],
            "reduced": [[_tags(sub) for sub in page.pages or ()] for page in file.pages],
        }


def _webp_coding(path: Path) -> list[bytes]:
    data = path.read_bytes()
    return [kind for kind in (b"VP8 ", b"VP8L", b"ALPH", b"VP8X") if kind in data[:9000]]


def _tags(page: tifffile.TiffPage) -> dict[int, Any]:
    """All tags but the places of the pixels."""
    places = {273, 279, 324, 325}
    return {tag.code: str(tag.value) for tag in page.tags if tag.code not in places}


def metadata(path: Path) -> dict[str, Any]:
    """What Pillow finds, or tifffile; of BMP's profile, what the file holds."""
    if path.suffix == ".npy":
        return dict.fromkeys(METADATA)
    if path.suffix in (".tif", ".tiff"):
        with tifffile.TiffFile(path) as file:
            tags = file.pages[0].tags
            value = {name: tags.valueof(code) for name, code in CODES.items()}
        exif, gps, dots = value.pop("EXIF"), value.pop("GPS"), value["DPI"]
        kept = [str(part) for part in (exif, gps)] if exif else None
        return {"EXIF": kept, **value, "DPI": dots if dots != (1, 1) else None}
    with warnings.catch_warnings(), PIL.Image.open(path) as image:
        warnings.simplefilter("ignore")
        image.load()
        info, data = image.info, path.read_bytes()
        profile = data[-_profile_size(data) :] if _profile_size(data) else None
        return {
            "EXIF": info.get("exif"),
            "orientation": image.getexif().get(0x0112),
            "ICC": info.get("icc_profile") or profile or None,
            "XMP": info.get("xmp"),
            "DPI": info.get("dpi"),
        }


def _profile_size(data: bytes) -> int:
    """Of a BMP with the latest kind of header; the samples end in the profile."""
    is_latest = data[:2] == b"BM" and data[14] == 124
    return int.from_bytes(data[130:134], "little") if is_latest else 0


def complement(window: Array) -> Array:
    """A result that differs from what was read, and is exact in every dtype."""
    if window.dtype.kind == "f":
        return (1 - window).astype(window.dtype)
    return np.iinfo(window.dtype).max - window


def complemented(image: Array) -> Array:
    """The same of what another library read: colours only."""
    result = complement(image)
    if image.ndim == 3 and image.shape[2] in (2, 4):
        result[..., -1] = image[..., -1]
    return result


def rewrite(source: Path, destination: Path, change: Callable[[Array], Array]) -> None:
    """Through n2n."""
    with open_image(source) as file:
        results = (change(page.raster()[:, :]) for page in file.pages)
        write_image(destination, file, results)


def check(sample: Sample, folder: Path) -> dict[str, str]:
    """kept, lost or - (there is none) for each property."""
    source, same = folder / f"in{sample.suffix}", folder / f"same{sample.suffix}"
    other = folder / f"other{sample.suffix}"
    source.write_bytes(sample.make())
    rewrite(source, same, np.copy)
    rewrite(source, other, complement)
    before = pictures(source)
    outcome = {
        "strength 0": _word(_equal(pictures(same), before)),
        "new pixels": _word(_equal(pictures(other), [complemented(b) for b in before])),
        "mode, bits, layout": _word(layout(same) == layout(source)),
    }
    if not sample.palette:
        outcome["mode, bits, layout"] = _word(layout(other) == layout(same) == layout(source))
    if sample.loses:
        outcome["new pixels"] = "lossy"
    found, kept = metadata(source), metadata(other)
    for name in METADATA:
        outcome[name] = "-" if found[name] is None else _word(found[name] == kept[name])
    alphas = [_alpha(image) for image in before]
    outcome["alpha"] = "-"
    if any(alpha is not None for alpha in alphas):
        after = [_alpha(image) for image in pictures(other)]
        outcome["alpha"] = _word(_equal(after, alphas))
    return outcome


def _alpha(image: Array) -> Array | None:
    return image[..., -1] if image.ndim == 3 and image.shape[2] in (2, 4) else None


def _equal(found: list[Any], expected: list[Any]) -> bool:
    return len(found) == len(expected) and all(
        np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(found, expected, strict=True)
    )


def _word(kept: bool) -> str:
    return "kept" if kept else "lost"


def table() -> str:
    """Markdown, a row for each sample."""
    rows: list[str] = []
    for name, sample in SAMPLES.items():
        with tempfile.TemporaryDirectory() as folder:
            outcome = check(sample, Path(folder))
        if not rows:
            rows = [f"| | {' | '.join(outcome)} |", f"| --- {'| --- ' * len(outcome)}|"]
        rows.append(f"| {name} | {' | '.join(outcome.values())} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
    sys.exit()
