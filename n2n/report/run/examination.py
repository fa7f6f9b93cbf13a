"""The network tried on the pairs, once: each image's error, and what was taken out of the images.

Axes: N images, C channels, H rows, W columns. Pixels are floats in [0, 1].
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from n2n.data import Split
from n2n.evaluation import batches_of, read_group, to_float
from n2n.metrics import mse
from n2n.models import Network

__all__ = ["LAGS", "Examination", "Spread", "examine", "reference_of"]

Floats: TypeAlias = NDArray[np.float64]
MOST_PIXELS = 1 << 22  # of all images together; of a larger split, every so many batches
LAGS = 8
BINS, WIDEST = 511, 255.5  # of histograms: one a level of 8 bits


class Spread:
    """How values are distributed, and how those of neighbouring pixels belong together.

    histogram: counts by level of 8 bits, from -255 to 255.
    """

    def __init__(self) -> None:
        self.histogram = np.zeros(BINS, np.int64)
        self._products = np.zeros((2 * LAGS + 1, 2 * LAGS + 1))
        self._counts = np.zeros((2 * LAGS + 1, 2 * LAGS + 1))
        self._sum = 0.0
        self._with = np.zeros(3)  # with an image: its products, and both squares

    def add(self, values: Floats, image: Floats) -> None:
        """Take in values (N, C, H, W), and images that they may follow."""
        self.histogram += np.histogram(255 * values, BINS, (-WIDEST, WIDEST))[0]
        self._sum += float(values.sum())
        self._add_products(values.reshape(-1, *values.shape[2:]))
        a, b = (part - part.mean((2, 3), keepdims=True) for part in (values, image))
        self._with += [(a * b).sum(), (a * a).sum(), (b * b).sum()]

    def _add_products(self, planes: Floats) -> None:
        """Σ v(p) v(p + lag), through a Fourier transform padded against wrapping around."""
        height, width = planes.shape[1:]
        size = (height + LAGS, width + LAGS)
        power = (np.abs(np.fft.rfft2(planes, size)) ** 2).sum(0)
        products = np.fft.irfft2(power, size)
        lags = np.arange(-LAGS, LAGS + 1)
        inside = [np.abs(lags) < side for side in (height, width)]
        found = products[np.ix_(lags, lags)]
        counts = [np.maximum(side - np.abs(lags), 0) for side in (height, width)]
        self._products += np.where(np.outer(*inside), found, 0)
        self._counts += len(planes) * np.outer(*counts)

    @property
    def count(self) -> int:
        return int(self._counts[LAGS, LAGS])

    @property
    def mean(self) -> float:
        return self._sum / self.count

    @property
    def sigma(self) -> float:
        """Standard deviation."""
        return math.sqrt(max(0.0, self._products[LAGS, LAGS] / self.count - self.mean**2))

    @property
    def autocorrelation(self) -> Floats:
        """By the distance of pixels, -LAGS to LAGS rows and columns; nan where images are smaller.

        1 in the middle; of white noise 0 elsewhere.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            covariance = self._products / self._counts - self.mean**2
            correlation: Floats = covariance / covariance[LAGS, LAGS]
        return correlation

    @property
    def follows_image(self) -> float:
        """Correlation with the image, -1 to 1, of what varies inside of each plane."""
        product, own, other = self._with
        return float(product / math.sqrt(own * other)) if own and other else 0.0


@dataclass
class Examination:
    """What the pass found.

    rows: of the split's images that were tried; errors: of each the mean squared error
    against the clean image or, where that is not known, estimated from both noisy views.
    input_errors: of the input, where the clean image is known. residual: input less prediction.
    noise: input less clean image or, without one, the difference of the views over √2.
    """

    split: Split
    rows: list[int] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    input_errors: list[float] = field(default_factory=list)
    residual: Spread = field(default_factory=Spread)
    noise: Spread = field(default_factory=Spread)

    @property
    def is_estimated(self) -> bool:
        return reference_of(self.split) is None

    @property
    def psnr(self) -> Floats:
        """dB of each image; nan where an estimated error is not positive."""
        errors = np.asarray(self.errors)
        with np.errstate(divide="ignore"):
            return np.where(errors >= 0, -10 * np.log10(np.maximum(errors, 0)), np.nan)

    @property
    def is_whole(self) -> bool:
        """Whether all images of the split were tried."""
        return len(self.rows) == self.split.rows

    def ranking(self) -> list[int]:
        """The tried images by their error, the worst first: numbers into `rows`."""
        order: list[int] = np.argsort(-np.asarray(self.errors), kind="stable").tolist()
        return order


def reference_of(split: Split) -> str | None:
    """The column that has the clean images; None where nobody has them."""
    if split.has_clean:
        return "clean"
    return "target" if split.target == "clean" else None


def examine(network: Network, split: Split) -> Examination:
    """Try the network on a split, in inference mode."""
    network.eval()
    reference = reference_of(split)
    found = Examination(split)
    for first, columns in _batches(split):
        x, y = columns["input"], columns["target"]
        denoised = network(x).clamp(0, 1)
        clean = columns[reference] if reference else None
        found.rows += range(first, first + len(x))
        found.errors += _errors(network, denoised, x, y, clean).tolist()
        if clean is not None:
            found.input_errors += mse(x, clean).tolist()
        found.residual.add(_array(x - denoised), _array(denoised))
        noise = x - clean if clean is not None else (x - y) / math.sqrt(2)
        found.noise.add(_array(noise), _array(denoised))
    network.release()
    return found


def _errors(
    network: Network, denoised: Tensor, x: Tensor, y: Tensor, clean: Tensor | None
) -> Tensor:
    """Of each image; estimated as `n2n.metrics.PooledEstimate` does it, symmetrically."""
    if clean is not None:
        return mse(denoised, clean)
    return (mse(denoised, y) + mse(network(y).clamp(0, 1), x) - mse(x, y)) / 2


def _batches(split: Split) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
    """Batches as an evaluation has them, and each one's first row in the split."""
    batches = batches_of(split)
    pixels = split.rows * math.prod(split.shape[1:])
    chosen = batches[:: max(1, math.ceil(pixels / MOST_PIXELS))]
    starts = np.cumsum([0, *(count for _, _, count in split.groups)]).tolist()
    step = batches[1][1] if len(batches) > 1 and batches[1][0] == 0 else split.rows
    group, columns = -1, {}
    for number, first in chosen:
        if number != group:
            group, columns = number, read_group(split, number)
        rows = slice(first, first + step)
        yield (
            starts[number] + first,
            {name: to_float(column[rows]) for name, column in columns.items()},
        )


def _array(values: Tensor) -> Floats:
    return values.to(torch.float64).numpy()
