"""Denoisers that learn nothing, given the noise's σ: what a network has to be better than.

All are other people's, and optional. Each takes and gives (H, W, C), C 1 or 3, on the scale [0, 1];
the noisy image may lie beyond it. Where a method has a free strength, it is the multiple of σ that
scored best on average over half of data/photos at σ = 15, 25 and 50 of 255.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from n2n.errors import InvalidValue, ShapeError

__all__ = ["CLASSICAL", "Classical", "available", "missing"]

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Classical:
    """A denoiser: `denoiser(noisy, sigma)`, for σ of the noise on the scale [0, 1], above 0.

    title: with whose code. packages: what pip installs, by the module that each is. note: what a
    user of it has to know.
    """

    name: str
    title: str
    packages: dict[str, str]
    run: Callable[[Image, float], NDArray[Any]]
    note: str = ""

    @property
    def is_available(self) -> bool:
        """Whether its packages are installed; does not import them."""
        return all(find_spec(module) is not None for module in self.packages)

    @property
    def install(self) -> str:
        """The command that installs what it needs."""
        return f"pip install {' '.join(self.packages.values())}"

    def __call__(self, noisy: Image, sigma: float) -> Image:
        """(H, W, C) float32 → the same. ImportError where a package is missing."""
        if noisy.ndim != 3 or noisy.shape[2] not in (1, 3):
            raise ShapeError(f"noisy: shape (H, W, 1 or 3) expected, got {noisy.shape}")
        if not 0 < sigma < np.inf:
            raise InvalidValue(f"sigma: above 0 expected, on the scale [0, 1], got {sigma}")
        result = self.run(np.ascontiguousarray(noisy, np.float32), float(sigma))
        return np.asarray(result, np.float32).reshape(noisy.shape)


def available() -> list[Classical]:
    """Those whose packages are installed."""
    return [denoiser for denoiser in CLASSICAL.values() if denoiser.is_available]


def missing() -> list[Classical]:
    """Those whose packages are not."""
    return [denoiser for denoiser in CLASSICAL.values() if not denoiser.is_available]


def _nlm(noisy: Image, sigma: float) -> NDArray[Any]:
    from skimage.restoration import denoise_nl_means

    strength, patch, reach = 0.6 * sigma, 5, 6
    return np.asarray(denoise_nl_means(noisy, patch, reach, strength, sigma=sigma, channel_axis=-1))


def _tv(noisy: Image, sigma: float) -> NDArray[Any]:
    from skimage.restoration import denoise_tv_chambolle

    return np.asarray(
        denoise_tv_chambolle(noisy, 0.9 * sigma, eps=2e-5, max_num_iter=500, channel_axis=-1)
    )


def _bayes(noisy: Image, sigma: float) -> NDArray[Any]:
    return _wavelets(noisy, sigma, "BayesShrink")


def _visu(noisy: Image, sigma: float) -> NDArray[Any]:
    return _wavelets(noisy, sigma / 2, "VisuShrink")


def _wavelets(noisy: Image, sigma: float, method: str) -> NDArray[Any]:
    """Soft thresholds, of colour in Y'CbCr."""
    from skimage.restoration import denoise_wavelet

    colour = noisy.shape[2] == 3
    colours = {"channel_axis": -1, "convert2ycbcr": True} if colour else {}
    image = noisy if colour else noisy[:, :, 0]
    return np.asarray(denoise_wavelet(image, sigma, method=method, **colours))


def _opencv(noisy: Image, sigma: float) -> NDArray[Any]:
    """Of 8 bits alone: what lies beyond [0, 1] is cut off, the rest rounded."""
    import cv2

    pixels = np.clip(np.rint(noisy * 255), 0, 255).astype(np.uint8)
    if noisy.shape[2] == 1:
        result = cv2.fastNlMeansDenoising(pixels, None, sigma * 255, 7, 21)
    else:
        h = sigma * 255
        result = cv2.fastNlMeansDenoisingColored(pixels, None, 0.8 * h, 0.6 * h, 7, 21)
    return result.astype(np.float32) / 255


def _bm3d(noisy: Image, sigma: float) -> NDArray[Any]:
    import bm3d

    if noisy.shape[2] == 1:
        return np.asarray(bm3d.bm3d(noisy[:, :, 0], sigma))
    return np.asarray(bm3d.bm3d_rgb(noisy, sigma))


SKIMAGE = {"skimage": "scikit-image"}
WAVELETS = {**SKIMAGE, "pywt": "PyWavelets"}

CLASSICAL = {
    denoiser.name: denoiser
    for denoiser in (
        Classical("nlm", "non-local means (scikit-image)", SKIMAGE, _nlm),
        Classical("bayes", "wavelets, BayesShrink (scikit-image)", WAVELETS, _bayes),
        Classical("visu", "wavelets, VisuShrink (scikit-image)", WAVELETS, _visu),
        Classical("tv", "total variation, Chambolle (scikit-image)", SKIMAGE, _tv),
        Classical(
            "opencv",
            "non-local means (OpenCV)",
            {"cv2": "opencv-python-headless"},
            _opencv,
            "takes 8 bits: the noisy image is clipped and rounded first",
        ),
        Classical(
            "bm3d",
            "BM3D (bm3d)",
            {"bm3d": "bm3d"},
            _bm3d,
            "the package bm3d is for non-commercial use only",
        ),
    )
}
