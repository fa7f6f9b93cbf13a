"""How good an image is: MSE, PSNR and SSIM, and the clean PSNR estimated from noisy pairs alone.

Images are float tensors (N, C, H, W) in [0, 1]; what comes back is float64.
Legend: N images, C channels, H rows, W columns; P = N·C planes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from n2n.errors import InvalidType, ShapeError

__all__ = ["CleanEstimate", "PooledEstimate", "PooledPSNR", "mse", "psnr", "psnr_of_mse", "ssim"]

WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03
# Pixels filtered at a time: four maps of this size stay in the cache of a core.
CHUNK_PIXELS = 1 << 16


def mse(image: Tensor, reference: Tensor) -> Tensor:
    """Mean squared error of each image over all its channels and pixels: (N,), float64.

    `ShapeError` for shapes that differ or are not (N, C, H, W), `InvalidType` for integers.
    """
    _require_images(image=image, reference=reference)
    return (image - reference).square_().mean((1, 2, 3), dtype=torch.float64)


def psnr(image: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB: (N,), float64; inf where both are equal.

    10 · log10(1 / mse), since the peak is 1.
    """
    return -10 * mse(image, reference).log10()


def psnr_of_mse(error: float) -> float:
    """dB of a mean squared error on the scale [0, 1]; inf for 0."""
    return -10 * math.log10(error) if error > 0 else math.inf


def ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity of each image, the mean over its channels: (N,), float64.

    Wang et al., "Image quality assessment: from error visibility to structural similarity",
    IEEE TIP 13 (2004): Gaussian window of 11 pixels, sigma 1.5, K1 = 0.01, K2 = 0.03, peak 1,
    population covariances, and only windows that lie wholly in the image. That is what
    scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=1)` computes, which crops the border of its map. In
    an image of fewer than 11 rows or columns the window shrinks to the largest odd size that
    fits, with the same sigma.
    """
    _require_images(image=image, reference=reference)
    taps = _gaussian(min(WINDOW, *image.shape[2:]))
    planes = [_ssim_of_planes(x, y, taps) for x, y in _chunks(image, reference)]
    similarity: Tensor = torch.cat(planes).view(image.shape[:2]).mean(1)
    return similarity


def _chunks(image: Tensor, reference: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The planes (P, H, W) of both, some at a time."""
    x, y = image.flatten(0, 1), reference.flatten(0, 1)
    count = max(1, CHUNK_PIXELS // x[0].numel())
    for first in range(0, len(x), count):
        yield x[first : first + count], y[first : first + count]


def _gaussian(size: int) -> list[float]:
    radius = (size - 1) // 2
    weights = [math.exp(-0.5 * (i / SIGMA) ** 2) for i in range(-radius, radius + 1)]
    return [weight / sum(weights) for weight in weights]


def _ssim_of_planes(x: Tensor, y: Tensor, taps: list[float]) -> Tensor:
    """(P, H, W) twice → (P,). Only the sum of both variances is needed: four maps, not five."""
    moments = torch.stack([x, y, x * x + y * y, x * y])  # (4, P, H, W)
    moments = _correlate(_correlate(moments, taps, 2), taps, 3)
    mean_x, mean_y, squares, products = moments.unbind()
    mean_xy, mean_squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    c1, c2 = K1**2, K2**2
    similarity = (2 * mean_xy + c1).mul_(2 * (products - mean_xy) + c2)
    similarity.div_((mean_squares + c1).mul_(squares - mean_squares + c2))
    return similarity.mean((1, 2), dtype=torch.float64)


def _correlate(maps: Tensor, taps: list[float], axis: int) -> Tensor:
    """Weighted sum of shifted slices; the axis becomes shorter by len(taps) - 1."""
    length = maps.shape[axis] - len(taps) + 1
    result = maps.narrow(axis, 0, length) * taps[0]
    for shift, tap in enumerate(taps[1:], start=1):
        result.add_(maps.narrow(axis, shift, length), alpha=tap)
    return result


class PooledPSNR:
    """The PSNR of a whole set: squared errors pooled over it, batch by batch, in float64."""

    def __init__(self) -> None:
        self._squares = 0.0
        self._count = 0

    def add(self, image: Tensor, reference: Tensor) -> None:
        """Take in a batch (N, C, H, W) in [0, 1]."""
        _require_images(image=image, reference=reference)
        self._squares += _sum_of_squares(image, reference)
        self._count += image.numel()

    @property
    def sums(self) -> list[float]:
        """What merging adds up: to be added up elsewhere, number by number."""
        return [self._squares, self._count]

    def merge_sums(self, sums: Sequence[float]) -> None:
        squares, count = sums
        self._squares += squares
        self._count += int(count)

    @property
    def mse(self) -> float:
        """Mean squared error on the scale [0, 1]; nan before the first batch."""
        return self._squares / self._count if self._count else math.nan

    @property
    def psnr(self) -> float:
        """dB; inf for equal images, nan before the first batch."""
        return psnr_of_mse(self.mse) if self._count else math.nan


class PooledTruncated:
    """Mean of min(|image - reference|, 0.1) over a whole set, in float64.

    Whatever lies beyond, such as impulses and letters of a noisy reference, counts alike, so that
    it is least where most of the pixels agree: a truncated estimator of location (Huber 1981,
    Robust Statistics, section 4.8).
    """

    LIMIT = 0.1  # on the scale [0, 1]

    def __init__(self) -> None:
        self._total = 0.0
        self._count = 0

    def add(self, image: Tensor, reference: Tensor) -> None:
        """Take in a batch (N, C, H, W) in [0, 1]."""
        _require_images(image=image, reference=reference)
        distances = (image - reference).abs_().clamp_(max=self.LIMIT)
        self._total += distances.sum(dtype=torch.float64).item()
        self._count += image.numel()

    @property
    def sums(self) -> list[float]:
        """What merging adds up: to be added up elsewhere, number by number."""
        return [self._total, self._count]

    def merge_sums(self, sums: Sequence[float]) -> None:
        total, count = sums
        self._total += total
        self._count += int(count)

    @property
    def mean(self) -> float:
        """On the scale [0, 1]; nan before the first batch."""
        return self._total / self._count if self._count else math.nan


@dataclass(frozen=True)
class CleanEstimate:
    """What noisy pairs tell of the error against the clean images that nobody has."""

    mse: float  # on the scale [0, 1]; by chance zero or below when it is small or pixels are few
    psnr: float | None  # dB; None without a positive mse
    sigma: float  # of the noise of one view, on the scale [0, 1]
    reason: str | None  # why psnr is None


class PooledEstimate:
    """The clean PSNR of a denoiser f, estimated from pairs (x, y) of noisy views alone.

    Let x = c + n and y = c + m, with noise n and m of zero mean and equal variance σ²,
    independent of each other. Since f(x) knows nothing of m, the cross term of
    f(x) - y = (f(x) - c) - m vanishes on average:

        E|f(x) - y|² = E|f(x) - c|² + σ²,      E|x - y|² = 2 · σ²
        E|f(x) - c|² = E|f(x) - y|² - E|x - y|² / 2                                  (one way)

    With e = f(x) - c, the terms averaged are e² - 2em + nm + (m² - n²) / 2. When f(y) is
    there too, averaging both directions cancels the last one, by far the noisiest, exactly:

        E|f(x) - c|² = E(|f(x) - y|² + |f(y) - x|² - |x - y|²) / 2                (symmetric)

    Sums are pooled over the whole set in float64, since one small image has too few pixels.
    Biased where its assumptions fail: noise shared by both views counts as signal (the estimate
    is too good), and noise clipped at 0 or 1 has a mean of its own, so that c is then the mean
    of the clipped views, not the clean image.
    """

    def __init__(self) -> None:
        self._errors = 0.0
        self._differences = 0.0
        self._count = 0

    def add(self, denoised: Tensor, x: Tensor, y: Tensor, denoised_y: Tensor | None = None) -> None:
        """Take in f(x), x, y and, for the symmetric form, f(y): batches (N, C, H, W) in [0, 1]."""
        _require_images(denoised=denoised, x=x, y=y)
        error = _sum_of_squares(denoised, y)
        if denoised_y is not None:
            _require_images(denoised=denoised, denoised_y=denoised_y)
            error = (error + _sum_of_squares(denoised_y, x)) / 2
        self._errors += error
        self._differences += _sum_of_squares(x, y)
        self._count += x.numel()

    @property
    def sums(self) -> list[float]:
        """What merging adds up: to be added up elsewhere, number by number."""
        return [self._errors, self._differences, self._count]

    def merge_sums(self, sums: Sequence[float]) -> None:
        errors, differences, count = sums
        self._errors += errors
        self._differences += differences
        self._count += int(count)

    def estimate(self) -> CleanEstimate:
        """The estimate over all batches so far."""
        if not self._count:
            return CleanEstimate(math.nan, None, math.nan, "no pairs were given")
        variance = self._differences / self._count / 2
        error = self._errors / self._count - variance
        if error > 0:
            return CleanEstimate(error, psnr_of_mse(error), math.sqrt(variance), None)
        reason = (
            "the estimated error is not positive: too few pixels, or noise that the views share"
        )
        return CleanEstimate(error, None, math.sqrt(variance), reason)


def _sum_of_squares(a: Tensor, b: Tensor) -> float:
    return (a - b).square_().sum(dtype=torch.float64).item()


def _require_images(**images: Tensor) -> None:
    """All float, (N, C, H, W), and of one shape."""
    (first, shape), *_ = ((name, tuple(image.shape)) for name, image in images.items())
    for name, image in images.items():
        if not image.is_floating_point():
            raise InvalidType(f"{name}: a float tensor in [0, 1] expected, got {image.dtype}")
        if image.dim() != 4 or 0 in image.shape:
            raise ShapeError(f"{name}: shape (N, C, H, W) expected, got {tuple(image.shape)}")
        if tuple(image.shape) != shape:
            raise ShapeError(f"{name}: shape {shape} of {first} expected, got {tuple(image.shape)}")
