"""Augmentation of pairs: what changes nothing about their noise. Axes: N C H W."""

from dataclasses import dataclass

import numpy as np

from n2n.data.batches import Pair, Pixels

__all__ = ["Augmentation"]


@dataclass(frozen=True)
class Augmentation:
    """Which changes are drawn for every pair anew, each with even odds.

    flips: left-right and top-down, the same for both views. turns: by 0 to 3 quarters, the same
    for both (square images only). swap: input becomes target and target input, as topaz does.
    """

    flips: bool = False
    turns: bool = False
    swap: bool = False

    def __call__(
        self,
        inputs: Pixels,
        targets: Pixels,
        random: np.random.Generator,
        *,
        first: int = 0,
        batch: int | None = None,
    ) -> Pair:
        """New arrays of the shape of `inputs` and `targets`, both (N, C, H, W).

        first, batch: these pairs are the numbers `first`, `first` + 1, … of a batch of so many,
        and are changed as they would be in it, with the same `random`.
        """
        if not (self.flips or self.turns or self.swap):
            return inputs, targets
        views = np.stack([inputs, targets])  # (2, N, C, H, W)
        count = len(inputs) if batch is None else batch
        part = slice(first, first + len(inputs))
        if self.flips:
            for axis in (3, 4):
                chosen = random.random(count)[part] < 0.5
                views[:, chosen] = np.flip(views[:, chosen], axis)
        if self.turns:
            quarters = random.integers(0, 4, count)[part]
            for turns in (1, 2, 3):
                chosen = quarters == turns
                views[:, chosen] = np.rot90(views[:, chosen], turns, axes=(3, 4))
        if self.swap:
            chosen = random.random(count)[part] < 0.5
            views[:, chosen] = views[::-1, chosen]
        return views[0], views[1]
