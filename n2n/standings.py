"""What scores on many images say of a denoiser: means, and how sure they are."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from n2n.protocol import ImageOutcome

__all__ = ["Interval", "Standing", "mean_interval", "standings", "student_t"]

CONFIDENCE = 0.95
STEPS = 20_001  # of the numerical integral


@dataclass(frozen=True)
class Interval:
    """A mean over images and its 95 % interval by Student's t; None where there is one image."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Standing:
    """A denoiser's scores over the images that all of them were scored on.

    psnr: dB; gain: that over the first model's, image by image; None for the first model itself.
    """

    name: str
    images: int
    psnr: Interval
    ssim: Interval
    gain: Interval | None
    seconds_per_megapixel: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which can say neither inf nor nan: None."""
        return {name: _finite(value) for name, value in asdict(self).items()}


def standings(
    outcomes: Sequence[ImageOutcome], names: Sequence[str], *, first: str
) -> list[Standing]:
    """One for each of the names; first: whom the gains are over."""
    found = []
    for name in names:
        scores = [outcome.scores[name] for outcome in outcomes]
        psnr = np.array([score.psnr for score in scores])
        gain = None
        if name != first:
            gain = psnr - np.array([outcome.scores[first].psnr for outcome in outcomes])
        megapixels = sum(outcome.megapixels for outcome in outcomes)
        found.append(
            Standing(
                name,
                len(scores),
                mean_interval(psnr),
                mean_interval(np.array([score.ssim for score in scores])),
                None if gain is None else mean_interval(gain),
                sum(score.seconds for score in scores) / megapixels,
            )
        )
    return found


def mean_interval(values: NDArray[np.float64]) -> Interval:
    """mean ± t · s / √n, with s² = Σ(x - mean)² / (n - 1) and t of n - 1 degrees of freedom.

    It says how far the mean over other images of the same kind may lie from this one.
    """
    mean = float(values.mean())
    if len(values) < 2 or not math.isfinite(mean):
        return Interval(mean, None, None)
    half = student_t(len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def student_t(degrees: int) -> float:
    """The t that |T| stays below with probability 0.95, for Student's T of so many degrees.

    With T = √k · tan θ, k degrees of freedom, the density of θ is proportional to
    cos^(k-1) θ on (-π/2, π/2).
    """
    angles = np.linspace(0, math.pi / 2, STEPS)
    density = np.cos(angles) ** (degrees - 1)
    parts = np.concatenate([[0.0], (density[1:] + density[:-1]).cumsum()])
    return math.sqrt(degrees) * math.tan(np.interp(CONFIDENCE * parts[-1], parts, angles))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
