"""Noisy images alone as what to train on: crops, drawn anew in every epoch.

N rows; C H W an image; S the side of a sub-sample, half of that of a crop.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from n2n.data import photographs
from n2n.data.crops import random_crops
from n2n.data.format import PartInfo, Provenance
from n2n.data.make import inspect_all
from n2n.data.noise import NoiseModel
from n2n.data.parallel import Progress
from n2n.data.photographs import Photograph
from n2n.data.seeding import Purpose, generator
from n2n.data.split import Split
from n2n.data.stream import Stream
from n2n.errors import InvalidValue, PairSetError

__all__ = ["SingleSet", "single_images"]

UInt8 = NDArray[np.uint8]
VAL_SHARE = 0.1  # of the images


@dataclass(frozen=True)
class Single(NoiseModel):
    """No noise but the image's own: both views are the crop, which training sub-samples."""

    name: ClassVar[str] = "single"

    def unclipped(
        self, clean: UInt8, rng: np.random.Generator, count: int = 2
    ) -> tuple[UInt8, ...]:
        return (clean,) * count


@dataclass(frozen=True)
class SingleSet:
    """Crops (C, 2S, 2S) of noisy images to train on, and fixed pairs (C, S, S) of sub-samples of
    other images to validate on. `shape` is that of what the network trains on."""

    path: Path
    train: Stream
    val: Split
    noise: ClassVar[None] = None  # nobody knows it

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, S, S)."""
        return self.val.shape

    @cached_property
    def digest(self) -> str:
        """Hex sha256 that identifies the images, the crops' size and their number."""
        told = f"{self.train.digest} {self.val.parts[0][1].rows_sha256}"
        return hashlib.sha256(told.encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """For a record: each image's name and sha256."""
        held_out = [list(source) for source in self.val.sources]
        return {
            "folder": str(self.path),
            "photographs": [[one.name, one.sha256] for one in self.train.photographs],
            "held_out": held_out,
        }


def single_images(
    folder: Path,
    *,
    size: int = 32,
    rows: int = 10_000,
    val_rows: int = 500,
    grey: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[SingleSet, str]:
    """What to train on of the noisy images in `folder` and below, and a line that says how many.

    size: S. rows: crops an epoch; val_rows: pairs from a seeded tenth of the images, at least one.
    PairSetError where there are not two images of 2S pixels a side; InvalidValue for a number that
    cannot be.
    """
    for name, value in (("size", size), ("images", rows), ("val_rows", val_rows)):
        if value < 1:
            raise InvalidValue(f"{name} must be 1 or more; found {value}")
    names = photographs.find(folder).names
    root = Path(os.path.abspath(folder))
    usable, skipped = inspect_all(root, names, 2 * size, workers=1, progress=progress)
    different = list({one.sha256: one for one in usable}.values())
    if len(different) < 2:
        why = f": {skipped[0].name}: {skipped[0].reason}" if skipped else ""
        raise PairSetError(
            f"{folder}: expected at least two different noisy images of {2 * size} pixels a side "
            f"(one is held out), found {len(different)}{why}"
        )
    order = generator(seed, Purpose.HELD_OUT).permutation(len(different)).tolist()
    held_out = max(1, round(VAL_SHARE * len(different)))
    chosen = [different[i] for i in sorted(order[held_out:])]
    kept = [different[i] for i in sorted(order[:held_out])]
    channels = 1 if grey else 3
    stream = Stream(tuple(chosen), Single(), (channels, 2 * size, 2 * size), rows, True)
    val = _held_out(folder, kept, (channels, size, size), val_rows, seed)
    line = f"{rows:,} crops an epoch from {len(chosen):,} noisy images, {len(kept):,} held out"
    return SingleSet(folder, stream, val), line + (f", {len(skipped)} skipped" if skipped else "")


def _held_out(
    folder: Path, images: Sequence[Photograph], shape: tuple[int, int, int], rows: int, seed: int
) -> Split:
    """A split, in memory, of sub-sampled pairs that are always the same."""
    rng = generator(seed, Purpose.HELD_OUT_CROPS)
    counts = [len(part) for part in np.array_split(np.arange(rows), len(images))]
    crops = np.concatenate(
        [
            random_crops(
                photographs.read_pixels(image, grey=shape[0] == 1), count, 2 * shape[1], rng
            )
            for image, count in zip(images, counts, strict=True)
        ]
    )
    first, second = _neighbours(crops)
    sources = tuple((image.name, image.sha256) for image in images)
    made = Provenance("n2n train --single", None, {}, seed, "neighbour", sources)
    digest = hashlib.sha256(first.tobytes() + second.tobytes()).hexdigest()
    info = PartInfo(shape, "val", 0, 1, rows, digest, ("input", "target"), made)
    split = Split([(folder, info)])
    split.keep({"input": first, "target": second})
    return split


def _neighbours(crops: UInt8) -> tuple[UInt8, UInt8]:
    """Of each cell of 2 × 2 the first pixel, and that to the right or, in every other crop, that
    below.   (N, C, 2S, 2S) → (N, C, S, S) twice."""
    first, second = crops[:, :, ::2, ::2].copy(), crops[:, :, ::2, 1::2].copy()
    second[1::2] = crops[1::2, :, 1::2, ::2]
    return first, second
