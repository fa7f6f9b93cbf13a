"""A pair set with training pairs drawn anew from photographs; what training asks of a set."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from n2n.data import photographs
from n2n.data.batches import Pair, Share
from n2n.data.make import inspect_all
from n2n.data.noise import parse_noise
from n2n.data.pairs import PairSet
from n2n.data.parallel import Progress, default_workers
from n2n.data.split import Split
from n2n.data.stream import Stream
from n2n.errors import PairSetError

__all__ = ["StreamedSet", "TrainingHalf", "TrainingSet", "stream_from"]

PER_WORKER = 200  # photographs to look at, fewer of which are not worth a process of their own


class TrainingHalf(Protocol):
    """Pairs to train on: a `Split` of a set on disk, or a `Stream`."""

    @property
    def name(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def target(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    def num_batches(self, batch_size: int) -> int: ...
    def batches(
        self,
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        start: int = 0,
        memory_limit: int,
        share: Share = ...,
    ) -> Iterator[Pair]: ...


class TrainingSet(Protocol):
    """What training asks of a set: a `PairSet` or a `StreamedSet`."""

    @property
    def path(self) -> Path: ...
    @property
    def train(self) -> TrainingHalf: ...
    @property
    def val(self) -> Split | None: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def noise(self) -> str | None: ...
    @property
    def digest(self) -> str: ...


@dataclass(frozen=True)
class StreamedSet:
    """A set on disk with a stream in place of its training pairs; `folder` has the photographs."""

    base: PairSet
    folder: Path
    train: Stream

    @property
    def path(self) -> Path:
        """Of the set on disk."""
        return self.base.path

    @property
    def val(self) -> Split | None:
        """The set's own validation pairs, which are always the same."""
        return self.base.val

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.base.shape

    @property
    def noise(self) -> str:
        """The noise model as text."""
        return self.train.noise

    @cached_property
    def digest(self) -> str:
        """Hex sha256 that identifies the set on disk and what is drawn."""
        return hashlib.sha256(f"{self.base.digest} {self.train.digest}".encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Of the stream, for a record: the folder, and each photograph's name and sha256."""
        return {
            "folder": str(self.folder),
            "noise": self.noise,
            "clipped": self.train.clipped,
            "grey_share": self.train.grey_share,
            "clipped_inputs": self.train.clipped_inputs,
            "exposures": self.train.exposures,
            "photographs": [[one.name, one.sha256] for one in self.train.photographs],
        }


def stream_from(
    pairs: PairSet,
    folder: Path,
    *,
    rows: int | None = None,
    clipped: bool = False,
    grey_share: float = 0.0,
    clipped_inputs: float = 0.0,
    exposures: int = 1,
    progress: Progress | None = None,
) -> tuple[StreamedSet, str]:
    """The set with training pairs drawn from the photographs in `folder` and below, and a line.

    Size, colour, noise and validation are the set's. Photographs that its validation was made of
    are left out, and those that cannot be used; the line says how many. rows: pairs an epoch, by
    default as many as the set has. clipped, grey_share, clipped_inputs, exposures: `Stream`'s.
    PairSetError for a set that cannot be drawn, and for a folder that has nothing to draw from.
    """
    noise = pairs.noise
    if noise is None or pairs.train.target != "noisy":
        found = "noise is real" if noise is None else "targets are clean images"
        raise PairSetError(
            f"{pairs.path}: expected a set with a noise model and noisy targets to draw more pairs "
            f"like them, but its {found}; train on the set alone"
        )
    _, height, width = pairs.shape
    if height != width:
        raise PairSetError(
            f"{pairs.path}: expected square images to draw more like them, found {height}x{width}; "
            "train on the set alone"
        )
    model = parse_noise(noise)
    names = photographs.find(folder).names
    usable, skipped = inspect_all(
        Path(os.path.abspath(folder)),  # for workers anywhere
        names,
        model.least_side(height),
        workers=min(default_workers(), 1 + len(names) // PER_WORKER),
        progress=progress,
    )
    held_out = {digest for _, digest in pairs.val.sources} if pairs.val is not None else set()
    drawn = tuple(one for one in usable if one.sha256 not in held_out)
    kept_back = len(usable) - len(drawn)
    left_out = f"{kept_back} that validation has, {len(skipped)} that cannot be used"
    if not drawn:
        raise PairSetError(
            f"{folder}: expected photographs of at least {model.least_side(height)} pixels a side "
            f"to draw from, found none but {left_out}"
        )
    count = pairs.train.rows if rows is None else rows
    stream = Stream(
        drawn, model, pairs.shape, count, clipped, grey_share, clipped_inputs, exposures
    )
    return (
        StreamedSet(pairs, folder, stream),
        f"{stream.rows:,} pairs an epoch from {len(drawn):,} photographs; left out: {left_out}",
    )
