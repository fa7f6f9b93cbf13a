"""Pairs from single noisy images: two sub-samples of one image, whose noise is independent.

Huang et al. 2021, Neighbor2Neighbor (CVPR). Of each cell of 2 × 2 pixels of an image y, two that
are neighbours are drawn: one for g1(y), the other for g2(y). Where the noise of neighbouring pixels
is independent, these are a noisy pair of nearly the same picture, of half the size. That they are
not quite the same biases the network towards smoothness, which the regulariser takes back.

It fails for noise that neighbours share (a demosaiced, shrunk or JPEG-coded picture): the network
then learns to keep it.

Legend: N images, C channels, S the side of a sub-sample.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from n2n.models import Network

__all__ = ["GAMMA", "draw_cells", "neighbour_pair", "subsample"]

# Of the regulariser: rises evenly to this over a run that begins with random weights, as in the
# authors' code; from the beginning where a model knows already what a denoised image is.
GAMMA = 2.0
# Places in a cell, numbered 0 1 over 2 3: where g1 and g2 may be taken from.
PLACES = np.array([(0, 1), (0, 2), (1, 3), (2, 3), (1, 0), (2, 0), (3, 1), (3, 2)])


def draw_cells(count: int, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Which two pixels of each cell are taken: (2, N, S, S), places from 0 to 3."""
    drawn = rng.integers(len(PLACES), size=(count, size, size))
    return np.moveaxis(PLACES[drawn], -1, 0)


def subsample(images: Tensor, cells: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """g1 and g2 of images (N, C, 2S, 2S): (N, C, S, S) each, with all channels of a pixel."""
    count, channels, height, width = images.shape
    split = images.reshape(count, channels, height // 2, 2, width // 2, 2)
    flat = split.permute(0, 1, 2, 4, 3, 5).reshape(count, channels, height // 2, width // 2, 4)
    first, second = (
        flat.gather(-1, places[:, None, :, :, None].expand(*flat.shape[:-1], 1))[..., 0]
        for places in torch.from_numpy(cells).to(images.device)
    )
    return first, second


def neighbour_pair(
    network: Network, images: Tensor, rng: np.random.Generator, *, gamma: float
) -> tuple[Tensor, Tensor]:
    """What to take a step of squared error on: input and target (N, C, S, S), of images
    (N, C, 2S, 2S) in [0, 1].

    The loss of equation (6), with f the network and the denoised whole image without gradient:

        L = |f(g1(y)) - g2(y)|² + γ |f(g1(y)) - g2(y) - d|²,   d = g1(f(y)) - g2(f(y))

    As a function of f(g1(y)) it is a sum of two parabolas with tops g2(y) and g2(y) + d, so

        L = (1 + γ) |f(g1(y)) - t|² + |d|² γ / (1 + γ),        t = g2(y) + d γ / (1 + γ)

    whose last term has no gradient. The regulariser is a correction of the target, t is what
    comes back, and a squared error against it is the loss divided by 1 + γ.
    """
    cells = draw_cells(len(images), images.shape[-1] // 2, rng)
    x, target = subsample(images, cells)
    if gamma:
        network.eval()
        denoised = subsample(network(images), cells)
        network.train()
        target = target + (denoised[0] - denoised[1]) * (gamma / (1 + gamma))
    return x, target
