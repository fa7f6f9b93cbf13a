"""Crops of photographs, at random places. Axes: N crops, H W C a photograph, S a crop's side."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "UInt8",
    "block_means",
    "channels_first",
    "pick_pixels",
    "random_corner",
    "random_crops",
]

UInt8: TypeAlias = NDArray[np.uint8]


def random_corner(shape: tuple[int, ...], side: int, rng: np.random.Generator) -> tuple[int, int]:
    """Top and left of a square of `side` pixels at a uniformly random place.   shape: (H, W, …)."""
    return int(rng.integers(shape[0] - side + 1)), int(rng.integers(shape[1] - side + 1))


def random_crops(photograph: UInt8, count: int, size: int, rng: np.random.Generator) -> UInt8:
    """Crops of a photograph (H, W, C) at random places.   → (N, C, S, S)."""
    crops = np.empty((count, size, size, photograph.shape[2]), np.uint8)
    for i in range(count):
        top, left = random_corner(photograph.shape, size, rng)
        crops[i] = photograph[top : top + size, left : left + size]
    return channels_first(crops)


def pick_pixels(
    square: UInt8, size: int, scale: int, rng: np.random.Generator, views: int = 2
) -> UInt8:
    """Views of one random pixel a block.   (S·s, S·s, C) → (views, S, S, C)."""
    inside = rng.integers(0, scale * scale, (views, size, size))
    corner = np.arange(size) * scale
    rows = corner[:, None] + inside // scale
    columns = corner + inside % scale
    picked: UInt8 = square[rows, columns]
    return picked


def block_means(square: UInt8, size: int, scale: int) -> UInt8:
    """The mean of each s × s block, rounded to the nearest, halves up.   → (S, S, C)."""
    small = np.uint16 if scale <= 257 else np.uint32  # 257 · 255 is the largest uint16
    channels = square.shape[2]
    strips = square.reshape(size, scale, -1).sum(1, dtype=small)  # (S, S·s·C)
    sums = strips.reshape(size, size, scale, channels).sum(2, dtype=np.uint64)
    area = scale * scale
    means: UInt8 = ((2 * sums + area) // (2 * area)).astype(np.uint8)
    return means


def channels_first(images: UInt8) -> UInt8:
    """(N, H, W, C) → contiguous (N, C, H, W)."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
