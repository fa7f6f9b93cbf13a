"""Pixels of a pair set as pictures."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from n2n.denoiser import denoise
from n2n.evaluation import to_float
from n2n.models import Network
from n2n.report.run.reading import Pixels

__all__ = ["GAIN", "crop", "difference", "predict", "viewable"]

GAIN = 4  # of differences
LARGEST = 96  # side of a crop


def predict(network: Network, pixels: Pixels) -> Pixels:
    """uint8 (N, C, H, W) through a network, one after the other, rounded to the nearest."""
    network.eval()
    results = [
        _to_pixels(denoise(network, to_float(pixels[i : i + 1]))) for i in range(len(pixels))
    ]
    return np.concatenate(results)


def crop(pixels: Pixels) -> Pixels:
    """The middle of (…, H, W), of at most LARGEST pixels a side."""
    top, left = (max(0, side - LARGEST) // 2 for side in pixels.shape[-2:])
    return pixels[..., top : top + LARGEST, left : left + LARGEST]


def difference(first: Pixels, second: Pixels) -> Pixels:
    """first - second, enlarged by GAIN, around mid grey."""
    values = 128 + GAIN * (first.astype(np.int32) - second)
    pixels: Pixels = np.clip(values, 0, 255).astype(np.uint8)
    return pixels


def viewable(image: NDArray[np.uint8]) -> Pixels:
    """(C, H, W) as (H, W, 1 or 3); of other numbers of channels their mean."""
    if len(image) not in (1, 3):
        image = np.rint(image.mean(0, keepdims=True)).astype(np.uint8)
    return np.ascontiguousarray(image.transpose(1, 2, 0))


def _to_pixels(images: Tensor) -> Pixels:
    pixels: Pixels = images.clamp(0, 1).mul(255).round().byte().numpy()
    return pixels
