"""What can be wrong with pairs, measured row by row: pure functions on arrays.

Every score is a self-normalised sum, z = Σt / √Σt² over a row's pixels: for independent terms of
mean zero it is about standard normal or shorter-tailed, however unequal the terms are.

Axes: N rows, C H W an image; x the input, y the target, c the clean image.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LEAST_SIDE",
    "Shifts",
    "bias_by_level",
    "clean_correlation",
    "grey",
    "is_constant",
    "mean_offsets",
    "noise_without_bias",
    "shifts",
    "whiteness",
]

UInt8: TypeAlias = NDArray[np.uint8]
Float: TypeAlias = NDArray[np.float32]
Float64: TypeAlias = NDArray[np.float64]

FARTHEST = 3  # pixels of misalignment looked for, each way
LEAST_SIDE = 8  # smaller images tell too little about shifts and correlation
Z_LOOK = 4.0  # a shift is scored where an estimate of its z is this large


@dataclass(frozen=True)
class Shifts:
    """Of each row: how sure a shift is, which; of each candidate shift: the gain by it.

    `z`: (N,), 0 where no shift fits better. `best`: (N, 2), rows down and columns right by which
    y lies displaced. `gain`: (N, K), (SSD unshifted - SSD shifted) / SSD unshifted.
    `candidates`: the K shifts.
    """

    z: Float64
    best: NDArray[np.int64]
    gain: Float64
    candidates: tuple[tuple[int, int], ...]


def grey(images: NDArray[np.uint8] | Float) -> Float:
    """The mean over the channels.   (N, C, H, W) → float32 (N, H, W)."""
    mean: Float = images.mean(1, dtype=np.float32)
    return mean


def is_constant(images: UInt8) -> NDArray[np.bool_]:
    """Rows whose image has one colour.   → (N,)."""
    flat = images.reshape(*images.shape[:2], -1)
    constant: NDArray[np.bool_] = (flat.max(2) == flat.min(2)).all(1)
    return constant


def mean_offsets(difference: Float) -> tuple[Float64, Float64]:
    """Each channel's mean of x - y and its z-score.   (N, C, H, W) → (N, C), (N, C)."""
    flat = difference.reshape(*difference.shape[:2], -1)
    total = flat.sum(2, dtype=np.float64)
    energy = np.einsum("ncp,ncp->nc", flat, flat, dtype=np.float64)
    spread = np.sqrt(np.maximum(energy - total**2 / flat.shape[2], 0))
    z = np.divide(total, spread, out=np.full_like(total, np.inf), where=spread > 0)
    z[total == 0] = 0.0
    return total / flat.shape[2], z


def shifts(x: Float, y: Float) -> Shifts:
    """Does y fit x better when it is moved by up to three pixels?   x, y: grey (N, H, W).

    For aligned views with independent noise the sum of squared differences, its mean removed, is
    smallest unmoved: E SSD(s) = 2σ² + Σ(c - c moved)².
    """
    count, height, width = x.shape
    reach = min(FARTHEST, height // 4, width // 4)
    h, w = height - 2 * reach, width - 2 * reach
    inner = x[:, reach : reach + h, reach : reach + w]
    inner = inner - inner.mean((1, 2), keepdims=True)
    y = y - y.mean((1, 2), keepdims=True)
    energy = np.einsum("nij,nij->n", inner, inner).astype(np.float64)
    places = [(i, j) for i in range(2 * reach + 1) for j in range(2 * reach + 1)]
    ssd = np.empty((count, len(places)))
    sums, squares = _window_sums(y, h, w), _window_sums(y * y, h, w)
    for k, (i, j) in enumerate(places):
        cross = np.einsum("nij,nij->n", inner, y[:, i : i + h, j : j + w])
        ssd[:, k] = energy + squares[:, i, j] - sums[:, i, j] ** 2 / (h * w) - 2 * cross
    unmoved = places.index((reach, reach))
    still = np.maximum(ssd[:, unmoved], 1e-6 * (energy + 1))
    gain = (still[:, None] - ssd) / still[:, None]
    gain[:, unmoved] = 0.0
    gain[ssd[:, unmoved] < still] = 0.0  # a perfect fit, but for rounding
    best = gain.argmax(1)
    z = np.zeros(count)
    for row in np.flatnonzero(gain.max(1) > Z_LOOK / np.sqrt(h * w)):
        i, j = places[best[row]]
        z[row] = _shift_score(
            inner[row],
            y[row, reach : reach + h, reach : reach + w],
            y[row, i : i + h, j : j + w],
        )
    candidates = tuple((i - reach, j - reach) for i, j in places)
    return Shifts(z, np.array(candidates)[best], gain, candidates)


def noise_without_bias(x: UInt8, y: UInt8, clean: UInt8) -> tuple[Float, Float]:
    """The grey noise of both views less its mean at each clean level.   → (N, H, W) each.

    Clipping and impulses shift bright and dark pixels alike in both views, which is no
    correlation of their noise. A row's own factor scales that mean, for the noise may be stronger
    in one row than in another.
    """
    truth = grey(clean)
    noise_x, noise_y = grey(x) - truth, grey(y) - truth
    bias = grey(bias_by_level(x, y, clean)[clean])
    energy = np.einsum("nij,nij->n", bias, bias)
    along = np.einsum("nij,nij->n", bias, noise_x + noise_y) / 2
    factor = np.divide(along, energy, out=np.zeros_like(along), where=energy > 0)
    bias *= factor[:, None, None]
    return noise_x - bias, noise_y - bias


def bias_by_level(x: UInt8, y: UInt8, clean: UInt8) -> Float:
    """The mean of both views' noise at each clean level.   → (256,)."""
    levels = clean.ravel()
    noise = (x.astype(np.float32) + y).ravel() / 2 - levels
    count = np.bincount(levels, minlength=256)
    total = np.bincount(levels, weights=noise, minlength=256)
    return (total / np.maximum(count, 64)).astype(np.float32)


def clean_correlation(noise_x: Float, noise_y: Float) -> tuple[Float64, Float64, Float64]:
    """Of each row: Σt, √Σt² and the noise's energy, t = noise of x · high-pass noise of y.

    The high-pass (a pixel less the mean of its four neighbours) takes away what is left of a
    bias that both views share. For white noise Σt / energy estimates the correlation.
    """
    inner = noise_x[:, 1:-1, 1:-1]
    sharp = noise_y[:, 1:-1, 1:-1] - 0.25 * (
        noise_y[:, :-2, 1:-1] + noise_y[:, 2:, 1:-1] + noise_y[:, 1:-1, :-2] + noise_y[:, 1:-1, 2:]
    )
    t = inner * sharp
    energy_x = np.einsum("nij,nij->n", inner, inner, dtype=np.float64)
    other = noise_y[:, 1:-1, 1:-1]
    energy_y = np.einsum("nij,nij->n", other, other, dtype=np.float64)
    return (
        t.sum((1, 2), dtype=np.float64),
        np.sqrt(np.einsum("nij,nij->n", t, t, dtype=np.float64)),
        np.sqrt(energy_x * energy_y),
    )


def whiteness(x: Float, y: Float) -> tuple[Float64, Float64, Float64, Float64]:
    """Of each row, without a clean image: what is coarse, what is fine, and what fine is shared.

    Returns coarse: the variance of the means of 4 × 4 blocks of both views; fine: the energy of
    the views under the kernel [1 -2 1]ᵀ[1 -2 1]/6, which is σ² for white noise and little for
    smooth structure (Immerkær, 1996); shared: Σ of the product of both under the kernel, as a
    mean; and √Σ of that product's squares, as the mean's standard error.
    """
    both = (x + y) / 2
    rows, columns = (size // 4 * 4 for size in both.shape[1:])
    blocks = both[:, :rows, :columns].reshape(len(both), rows // 4, 4, columns // 4, 4)
    coarse = blocks.mean((2, 4), dtype=np.float64).var((1, 2))
    fine_x, fine_y = _laplacian(x), _laplacian(y)
    product = fine_x * fine_y
    pixels = product[0].size
    energy = np.einsum("nij,nij->n", fine_x, fine_x, dtype=np.float64)
    energy += np.einsum("nij,nij->n", fine_y, fine_y, dtype=np.float64)
    squares = np.einsum("nij,nij->n", product, product, dtype=np.float64)
    return (
        coarse,
        energy / (2 * pixels),
        product.mean((1, 2), dtype=np.float64),
        np.sqrt(squares) / pixels,
    )


def _laplacian(image: Float) -> Float:
    def second(a: Float) -> Float:
        result: Float = a[..., :-2] - 2 * a[..., 1:-1] + a[..., 2:]
        return result

    return (second(second(image).swapaxes(1, 2)).swapaxes(1, 2) / 6).astype(np.float32)


def _window_sums(images: Float, height: int, width: int) -> Float64:
    """Sums over all windows.   (N, H, W) → (N, H - height + 1, W - width + 1)."""
    total = np.zeros((len(images), images.shape[1] + 1, images.shape[2] + 1))
    total[:, 1:, 1:] = images
    total.cumsum(1, out=total).cumsum(2, out=total)
    sums: Float64 = (
        total[:, height:, width:]
        - total[:, :-height, width:]
        - total[:, height:, :-width]
        + total[:, :-height, :-width]
    )
    return sums


def _shift_score(x: Float, still: Float, moved: Float) -> float:
    t = (x - (still - still.mean())) ** 2 - (x - (moved - moved.mean())) ** 2
    return float(t.sum() / max(np.sqrt((t * t).sum()), 1e-12))
