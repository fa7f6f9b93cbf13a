"""An endless half of a pair set: crops and noise drawn anew in every epoch, from photographs.

A fixed set shows a network the same noise again in every epoch, which a large one learns by heart.
Here an epoch visits the photographs in random order, some at a time; each gives crops of itself,
and each crop two noisy views. What an epoch holds follows from its seed and number alone, so that
it can be entered anywhere.

N pairs; C H W an image; S the side of a crop.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from n2n.data import photographs
from n2n.data.batches import WHOLE, Pair, Share, Window, iterate, require_batch_size
from n2n.data.crops import UInt8
from n2n.data.noise import NoiseModel
from n2n.data.photographs import Photograph
from n2n.data.seeding import Purpose, generator
from n2n.errors import InvalidValue, PairSetError

__all__ = ["Stream"]

WINDOW_ROWS = 1024  # drawn and shuffled together, at most: a moment's work beside that of a step
CROPS_KEPT, CROPS_READ = 16, 64  # at a visit: of a photograph in memory, of one to be decoded
MOST_EXPOSURES = 64  # more would be clean images but in name, and take longer than a step


@dataclass(frozen=True)
class Stream:
    """Pairs of crops (C, S, S) of photographs under a noise model, `rows` an epoch.

    clipped: views are rounded and clipped to uint8, as those of a set on disk. Else noise that
    goes beyond black and white is kept, and views are float32, in 0 to 255 but for that noise: the
    mean of clipped noise is not zero near black and white, and a network learns that. grey_share:
    so many of the pairs, about, have three equal channels with one noise, for a network that is to
    take grey images, too: elsewhere each channel has a noise of its own. clipped_inputs: so many of
    the inputs, about, are rounded and clipped as files of 8 bits are, while the targets keep all
    of their noise: a network learns from these to give back what clipping took from black and
    white, whose mean it cannot see in the input alone. exposures: a target is the mean of so many
    noisy views of its crop, none of them the input, as from a burst: its noise has one part in
    `exposures` of the variance, and so has what it adds to every gradient; views are float32 then.

    Raises PairSetError for no photograph, InvalidValue for one that is too small for a crop, and
    for a share or a number of exposures that cannot be.
    """

    photographs: tuple[Photograph, ...]
    noise_model: NoiseModel
    shape: tuple[int, int, int]
    rows: int
    clipped: bool = False
    grey_share: float = 0.0
    clipped_inputs: float = 0.0
    exposures: int = 1
    name = "train"
    target = "noisy"
    _decoded: dict[int, UInt8] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.photographs:
            raise PairSetError("expected photographs to draw pairs from, found none")
        if self.rows < 1:
            raise InvalidValue(f"rows must be 1 or more; found {self.rows}")
        if not 1 <= self.exposures <= MOST_EXPOSURES:
            raise InvalidValue(
                f"the exposures of a target must be from 1 to {MOST_EXPOSURES}; found "
                f"{self.exposures}"
            )
        if not 0 <= self.grey_share <= 1 or (self.grey_share and self.shape[0] != 3):
            raise InvalidValue(
                "the share of grey pairs must be from 0 to 1, and 0 where all are grey; found "
                f"{self.grey_share:g} for {self.shape[0]} channels"
            )
        if not 0 <= self.clipped_inputs <= 1 or (self.clipped_inputs and not self._is_beyond):
            raise InvalidValue(
                "the share of clipped inputs must be from 0 to 1, and 0 where no noise goes beyond "
                f"black and white; found {self.clipped_inputs:g} for {self.noise}"
            )
        least = self.noise_model.least_side(self.shape[1])
        for photograph in self.photographs:
            if min(photograph.width, photograph.height) < least:
                raise InvalidValue(
                    f"{photograph.name}: at least {least} pixels a side expected for crops of "
                    f"{self.shape[1]}, found {photograph.width} × {photograph.height}"
                )

    @property
    def noise(self) -> str:
        """The noise model as text."""
        return self.noise_model.spec

    @cached_property
    def digest(self) -> str:
        """Hex sha256 that identifies what is drawn: photographs, noise, shape and rows."""
        told = [f"{self.noise} {self.shape} {self.rows} {self.clipped}"]
        if self.grey_share:
            told.append(f"grey {self.grey_share}")
        if self.clipped_inputs:
            told.append(f"clipped inputs {self.clipped_inputs}")
        if self.exposures > 1:
            told.append(f"exposures {self.exposures}")
        told += [f"{photograph.name} {photograph.sha256}" for photograph in self.photographs]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()

    @property
    def has_equal_views(self) -> bool:
        """Whether input and target are drawn alike, so that either could be the other."""
        return self.exposures == 1 and not self.clipped_inputs

    @property
    def nbytes(self) -> int:
        """Bytes that it takes to keep every photograph decoded, and to draw."""
        return sum(self._bytes_of_each) + WINDOW_ROWS * self._bytes_of_pair

    def num_batches(self, batch_size: int) -> int:
        """How many batches an epoch has; the last may be smaller."""
        require_batch_size(batch_size)
        return math.ceil(self.rows / batch_size)

    def batches(
        self,
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        start: int = 0,
        memory_limit: int,
        share: Share = WHOLE,
    ) -> Iterator[Pair]:
        """One epoch's batches from number `start` on: input and target, (n, C, S, S) each.

        The last is smaller if `batch_size` does not divide the rows. Photographs stay decoded as
        far as `memory_limit` bytes go, others are read at every visit. ImageError for one that is
        no longer what it was. share: a part of every batch alone, for one of several processes,
        each of which draws all of them.
        """
        require_batch_size(batch_size)
        if start < 0:
            raise InvalidValue(f"start must be 0 or more; found {start}")
        return iterate(
            self._windows(seed, epoch, memory_limit),
            batch_size=batch_size,
            seed=seed,
            epoch=epoch,
            start=start,
            shuffle=True,
            share=share,
        )

    @property
    def _is_beyond(self) -> bool:
        return self.noise_model.goes_beyond and not self.clipped

    @property
    def _dtype(self) -> Any:
        return np.dtype(np.float32 if self._is_beyond or self.exposures > 1 else np.uint8)

    @property
    def _bytes_of_pair(self) -> int:
        return 2 * math.prod(self.shape) * int(self._dtype.itemsize)

    @property
    def _bytes_of_each(self) -> list[int]:
        return [self.shape[0] * one.width * one.height for one in self.photographs]

    def _windows(self, seed: int, epoch: int, memory_limit: int) -> list[Window]:
        """Draws in random order, some of them together."""
        rows = max(1, min(WINDOW_ROWS, memory_limit // 2 // self._bytes_of_pair))
        room = memory_limit - rows * self._bytes_of_pair
        kept = sum(end <= room for end in accumulate(self._bytes_of_each))  # the first so many
        rng = generator(seed, Purpose.PHOTOGRAPHS, epoch)
        windows: list[list[_Draw]] = []
        free = 0
        for draw in self._draws(rng, kept):
            if draw.crops > free:
                windows.append([])
                free = max(rows, draw.crops)
            windows[-1].append(draw)
            free -= draw.crops
        return [
            Window(sum(draw.crops for draw in draws), partial(self._load, draws, seed, epoch))
            for draws in windows
        ]

    def _draws(self, rng: np.random.Generator, kept: int) -> list["_Draw"]:
        """The epoch's rows shared evenly among the photographs, a few rows of one at a time."""
        order = rng.permutation(len(self.photographs)).tolist()
        each, more = divmod(self.rows, len(order))
        draws = []
        for place, index in enumerate(order):
            count, at_once = each + (place < more), CROPS_KEPT if index < kept else CROPS_READ
            draws += [
                _Draw(index, first, min(at_once, count - first), index < kept)
                for first in range(0, count, at_once)
            ]
        return [draws[i] for i in rng.permutation(len(draws))]

    def _load(self, draws: Sequence["_Draw"], seed: int, epoch: int) -> Pair:
        total = sum(draw.crops for draw in draws)
        inputs, targets = (np.empty((total, *self.shape), self._dtype) for _ in range(2))
        done = 0
        for draw in draws:
            rng = generator(seed, Purpose.CROPS, epoch, draw.photograph, draw.first)
            rows = slice(done, done + draw.crops)
            pixels = self._pixels(draw)
            if self.grey_share and rng.random() < self.grey_share:
                pixels = photographs.to_grey(pixels)  # its one channel goes to all three
            inputs[rows], *others = self.noise_model.draw(
                pixels,
                draw.crops,
                self.shape[1],
                rng,
                clipped=self.clipped,
                views=1 + self.exposures,
            )
            targets[rows] = others[0] if self.exposures == 1 else np.mean(others, 0, np.float32)
            if self.clipped_inputs:
                chosen = np.flatnonzero(rng.random(draw.crops) < self.clipped_inputs) + done
                inputs[chosen] = inputs[chosen].round().clip(0, 255)
            done += draw.crops
        return inputs, targets

    def _pixels(self, draw: "_Draw") -> UInt8:
        """A photograph, decoded.   → (H, W, C)."""
        pixels = self._decoded.get(draw.photograph)
        if pixels is None:
            grey = self.shape[0] == 1
            pixels = photographs.read_pixels(self.photographs[draw.photograph], grey=grey)
            if draw.kept:
                self._decoded[draw.photograph] = pixels
        return pixels


class _Draw(NamedTuple):
    """Crops of one photograph, by its index: the first of them in the epoch, how many, and
    whether it stays decoded."""

    photograph: int
    first: int
    crops: int
    kept: bool
