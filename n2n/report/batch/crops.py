"""What is seen of one denoised image: the middle of it, pixel for pixel, before and after.

A small picture of a whole photograph hides its noise, which shrinking averages; so the middle is
shown as it is, and the whole beside it in small. Legend: H rows, W columns, C channels, upright.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from n2n.errors import N2NError
from n2n.files import digest_of
from n2n.images import open_image
from n2n.images.convert import upright
from n2n.scale import Scale

__all__ = ["Job", "Look", "look"]

WHOLE = 72  # pixels a side
QUALITIES = (80, 55, 35, 20, 8)  # of WebP: the first that is small enough
SHARES = (1.0, 0.7, 0.55, 0.4, 0.25)  # of the first one's bytes, about
ENDS = (0.1, 99.9)  # percentiles that more than 8 bits are shown between

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Job:
    """An output to look at, and the input that it came of.

    before: None where it is not on this machine. size, mtime_ns, digest: of the input that was
    denoised, as the manifest has them. side: of the crop, in pixels; most: bytes for all pictures
    of it. value_range: as `n2n.options.Options` has it.
    """

    after: Path
    before: Path | None
    size: int | None
    mtime_ns: int | None
    digest: str | None
    side: int
    most: int
    value_range: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen. before, after, whole: WebP files; whole: of an image larger than the crop.

    crop: its (W, H); small: of the whole; shape: the image's (H, W, C). removed: standard
    deviation, in the crop, of the input less the output, in 8-bit levels: of noise, and of what
    else was taken. notes: on the image, and on how it is shown. problem: why there is no picture,
    or none of the input.
    """

    after: bytes | None = None
    before: bytes | None = None
    whole: bytes | None = None
    crop: tuple[int, int] = (0, 0)
    small: tuple[int, int] = (0, 0)
    shape: tuple[int, int, int] = (0, 0, 0)
    removed: float | None = None
    notes: tuple[str, ...] = ()
    problem: str | None = None


def look(job: Job) -> Look:
    """Read an output, and its input if it is still the one that was denoised.

    What cannot be read is the look's problem, no error.
    """
    try:
        after = Part.read(job.after, job)
    except (N2NError, OSError, MemoryError) as error:
        return Look(problem=f"the output {_reason(error, job.after)}")
    before, problem = None, None
    if job.before is not None:
        try:
            if _is_the_same(job.before, job):
                before = Part.read(job.before, job)
            else:
                problem = "the input was changed since"
        except (N2NError, OSError, MemoryError) as error:
            problem = f"the input {_reason(error, job.before)}"
    if before is not None and before.crop.shape != after.crop.shape:
        before, problem = None, "the input has another size than the output"
    return _show(before, after, job.most, problem)


def _is_the_same(path: Path, job: Job) -> bool:
    """Whether a file is the input that was denoised."""
    status = path.stat()
    if status.st_size != job.size:
        return False
    return status.st_mtime_ns == job.mtime_ns or digest_of(path) == job.digest


def _reason(error: BaseException, path: Path) -> str:
    if isinstance(error, FileNotFoundError) or not path.exists():
        return "is no longer there"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    words = str(error).removeprefix(f"{path}: ") or "too large for the memory"
    return f"cannot be shown: {' '.join(words.split())}"


@dataclass(frozen=True)
class Part:
    """The middle of an image's first page: crop (h, w, C), alpha (h, w); the whole in small.

    black, white: of its values.
    """

    crop: Array
    alpha: Array | None
    whole: Array | None
    shape: tuple[int, int, int]
    black: float
    white: float
    pages: int

    @classmethod
    def read(cls, path: Path, job: Job) -> "Part":
        with open_image(path) as file:
            page = file.pages[0]
            raster = page.raster()
            scale = Scale.of(raster, job.value_range)
            turn = file.metadata().orientation
            rows, columns = (_middle(size, job.side) for size in page.shape[:2])
            crop = np.asarray(upright(np.array(raster[rows, columns]), turn))
            alpha = page.alpha()
            if alpha is not None:
                alpha = np.asarray(upright(alpha[rows, columns, None], turn))[..., 0]
            whole = None
            if isinstance(raster, np.ndarray) and raster.size > crop.size:
                step = max(1, min(raster.shape[:2]) // (2 * WHOLE))
                whole = np.asarray(upright(raster[::step, ::step], turn))
            height, width, channels = page.shape
            shape = (height, width, channels) if turn < 5 else (width, height, channels)
            return cls(crop, alpha, whole, shape, scale.black, scale.white, len(file.pages))


def _middle(size: int, side: int) -> slice:
    """Of a side of the image: the same pixels, whichever end is counted from."""
    length = size if size <= side else side - (size - side) % 2
    return slice((size - length) // 2, (size - length) // 2 + length)


def _show(before: Part | None, after: Part, most: int, problem: str | None) -> Look:
    low, high, notes = _levels(after)
    height, width, channels = after.crop.shape
    if channels == 1:
        notes.append("grey")
    if after.pages > 1:
        notes.append(f"page 1 of {after.pages}")
    if after.alpha is not None:
        notes.append("transparent")
    whole, small = None, (0, 0)
    if after.whole is not None:
        image = _image(after.whole, None, low, high)
        image.thumbnail((WHOLE, WHOLE))
        whole, small = _webp(image, 45), image.size
    images = [_image(one.crop, one.alpha, low, high) for one in (after, before) if one is not None]
    encoded = _fit(images, most - len(whole or b""))
    return Look(
        after=encoded[0],
        before=encoded[1] if before is not None else None,
        whole=whole,
        crop=(width, height),
        small=small,
        shape=after.shape,
        removed=None if before is None else _removed(before, after),
        notes=tuple(notes),
        problem=problem,
    )


def _levels(part: Part) -> tuple[float, float, list[str]]:
    """What is shown as black and as white, and what to say of it."""
    if part.crop.dtype == np.uint8:
        return 0.0, 255.0, []
    low, high = np.percentile(part.crop, ENDS).tolist()
    high = high if high > low else low + 1
    if part.crop.dtype == np.uint16:
        return low, high, [f"16 bits, shown from {low:,.0f} to {high:,.0f}"]
    return low, high, [f"floats, shown from {low:.4g} to {high:.4g}"]


def _removed(before: Part, after: Part) -> float:
    span = (before.white - before.black) / 255
    return float(np.std(before.crop.astype(np.float64) - after.crop) / span)


def _image(pixels: Array, alpha: Array | None, low: float, high: float) -> PIL.Image.Image:
    """For a screen: 8 bits, with alpha if there is one."""
    if pixels.dtype != np.uint8:
        pixels = ((pixels.astype(np.float32) - low) * (255 / (high - low))).clip(0, 255)
        pixels = pixels.round().astype(np.uint8)
    image = PIL.Image.fromarray(
        np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    )
    image = image.convert("RGB")
    if alpha is not None:
        top = 255 / (np.iinfo(alpha.dtype).max if alpha.dtype.kind == "u" else 1)
        shown = (alpha.astype(np.float32) * top).clip(0, 255).astype(np.uint8)
        image.putalpha(PIL.Image.fromarray(shown))
    return image


def _fit(images: list[PIL.Image.Image], most: int) -> list[bytes]:
    """The best quality that takes at most so many bytes for all; the least one if none does."""
    encoded = [_webp(image, QUALITIES[0]) for image in images]
    full = sum(map(len, encoded))
    for quality, share in zip(QUALITIES[1:], SHARES[1:], strict=True):
        if sum(map(len, encoded)) <= most:
            break
        if full * share <= most or quality == QUALITIES[-1]:
            encoded = [_webp(image, quality) for image in images]
    return encoded


def _webp(image: PIL.Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()
