"""An endless pair set: crops and noise drawn anew in every epoch, from photographs.

A fixed set shows a network the same noise again in every epoch, which a large one learns by heart.
Here an epoch visits the photographs in random order, some at a time; each gives crops of itself,
and each crop two noisy views. What an epoch holds follows from its seed and number alone, so that
it can be entered anywhere.

N pairs; C H W an image.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from n2n.data import photographs
from n2n.data.batches import Pair, Window, iterate, require_batch_size
from n2n.data.noise import NoiseModel
from n2n.data.photographs import Photograph
from n2n.errors import InvalidValue, PairSetError

__all__ = ["Stream"]

WINDOW_BYTES = 256 << 20  # of pairs in memory at a time, at most
AT_ONCE = 64  # crops of one photograph, which is decoded for them
ORDER, CROPS = (
    3,
    4,
)  # what a random stream is for; the others are n2n.data.batches' and the trainer's


@dataclass(frozen=True)
class Stream:
    """Pairs of crops (C, size, size) of photographs under a noise model, `rows` an epoch.

    Raises PairSetError for no photograph, InvalidValue for one that is too small for a crop.
    """

    photographs: tuple[Photograph, ...]
    noise_model: NoiseModel
    shape: tuple[int, int, int]
    rows: int
    name = "train"
    target = "noisy"

    def __post_init__(self) -> None:
        if not self.photographs:
            raise PairSetError("expected photographs to draw pairs from, found none")
        if self.rows < 1:
            raise InvalidValue(f"rows must be 1 or more; found {self.rows}")
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

    @property
    def digest(self) -> str:
        """Hex sha256 that identifies what is drawn: photographs, noise, shape and rows."""
        told = [f"{self.noise} {self.shape} {self.rows}"]
        told += [f"{photograph.name} {photograph.sha256}" for photograph in self.photographs]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()

    def num_batches(self, batch_size: int) -> int:
        """How many batches an epoch has; the last may be smaller."""
        require_batch_size(batch_size)
        return math.ceil(self.rows / batch_size)

    def batches(
        self, *, batch_size: int, seed: int, epoch: int, start: int = 0, memory_limit: int
    ) -> Iterator[Pair]:
        """One epoch's batches from number `start` on: input and target, uint8 (n, C, H, W) each.

        The last is smaller if `batch_size` does not divide the rows. ImageError for a photograph
        that is no longer what it was.
        """
        require_batch_size(batch_size)
        windows = self._windows(seed, epoch, memory_limit)
        return iterate(
            windows, batch_size=batch_size, seed=seed, epoch=epoch, start=start, shuffle=True
        )

    def _windows(self, seed: int, epoch: int, memory_limit: int) -> list[Window]:
        """Draws in random order, as many together as their pairs fit in memory."""
        rng = np.random.default_rng([seed, epoch, ORDER])
        draws = self._draws(rng)
        at_once = min(memory_limit, WINDOW_BYTES) // (2 * AT_ONCE * math.prod(self.shape))
        windows = []
        for first in range(0, len(draws), max(1, at_once)):
            chosen = [draws[i] for i in range(first, min(first + max(1, at_once), len(draws)))]
            load = partial(self._load, chosen, (seed, epoch))
            windows.append(Window(sum(draw.crops for draw in chosen), load))
        return windows

    def _draws(self, rng: np.random.Generator) -> list["_Draw"]:
        """The epoch's rows shared evenly among the photographs, a few rows of one at a time."""
        order = rng.permutation(len(self.photographs)).tolist()
        each, more = divmod(self.rows, len(order))
        draws = [
            _Draw(index, number, min(AT_ONCE, count - number * AT_ONCE))
            for place, index in enumerate(order)
            for count in (each + (place < more),)
            for number in range(math.ceil(count / AT_ONCE))
        ]
        return [draws[i] for i in rng.permutation(len(draws))]

    def _load(self, draws: Sequence["_Draw"], drawn: tuple[int, int]) -> Pair:
        total = sum(draw.crops for draw in draws)
        inputs, targets = (np.empty((total, *self.shape), np.uint8) for _ in range(2))
        done = 0
        for draw in draws:
            pixels = photographs.read_pixels(
                self.photographs[draw.photograph], grey=self.shape[0] == 1
            )
            rng = np.random.default_rng([*drawn, CROPS, draw.photograph, draw.number])
            views: Sequence[NDArray[np.uint8]] = self.noise_model.sample(
                (pixels,), draw.crops, self.shape[1], rng
            )
            inputs[done : done + draw.crops], targets[done : done + draw.crops] = views[:2]
            done += draw.crops
        return inputs, targets


class _Draw(NamedTuple):
    """Crops of one photograph, by its index: which of its draws it is, and how many crops."""

    photograph: int
    number: int
    crops: int
