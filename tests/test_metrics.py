"""Metrics against scikit-image, and estimates against the clean images they never saw."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from n2n.errors import InvalidType, ShapeError
from n2n.metrics import PooledEstimate, PooledPSNR, mse, psnr, ssim


def noisy_pair(
    n: int, c: int, h: int, w: int, seed: int = 0, sigma: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Smooth images and noisy ones; both in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, c, 4, 4, generator=generator)
    clean = torch.nn.functional.interpolate(coarse, (h, w), mode="bilinear")
    noise = torch.randn(n, c, h, w, generator=generator)
    return (clean + sigma * noise).clamp(0, 1), clean


def skimage_ssim(image: Tensor, reference: Tensor) -> list[float]:
    return [
        structural_similarity(
            a.numpy(),
            b.numpy(),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
            channel_axis=0,
        )
        for a, b in zip(image, reference, strict=True)
    ]


@given(
    n=st.integers(1, 3),
    c=st.sampled_from([1, 3]),
    h=st.integers(11, 40),
    w=st.integers(11, 40),
    sigma=st.sampled_from([0.0, 0.01, 0.1, 0.5]),
    seed=st.integers(0, 99),
)
@example(n=2, c=3, h=32, w=32, sigma=0.1, seed=0)
@example(n=1, c=1, h=300, w=301, sigma=0.1, seed=0)  # a plane larger than a chunk
def test_ssim_agrees_with_scikit_image(
    n: int, c: int, h: int, w: int, sigma: float, seed: int
) -> None:
    image, reference = noisy_pair(n, c, h, w, seed, sigma)
    found = ssim(image, reference)
    assert found.shape == (n,)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(skimage_ssim(image, reference), abs=1e-4)


def test_ssim_of_a_photograph_agrees_with_scikit_image() -> None:
    with Image.open("data/photos/clock.jpg") as photo:
        pixels = np.asarray(photo.convert("RGB"))[:200, :300]
    reference = torch.tensor(pixels).permute(2, 0, 1)[None] / 255
    image = (reference + 0.1 * torch.randn(reference.shape)).clamp(0, 1)
    assert ssim(image, reference).tolist() == pytest.approx(
        skimage_ssim(image, reference), abs=1e-4
    )


@pytest.mark.parametrize(("h", "w", "window"), [(1, 1, 1), (2, 9, 1), (10, 40, 9), (7, 8, 7)])
def test_the_window_shrinks_with_the_image(h: int, w: int, window: int) -> None:
    image, reference = noisy_pair(1, 1, h, w)
    weights = np.exp(-0.5 * ((np.arange(window) - window // 2) / 1.5) ** 2)
    kernel = np.outer(weights, weights) / weights.sum() ** 2

    def means(values: np.ndarray) -> np.ndarray:
        views = np.lib.stride_tricks.sliding_window_view(values, (window, window))
        return (views * kernel).sum((-2, -1))

    x, y = image[0, 0].double().numpy(), reference[0, 0].double().numpy()
    ux, uy = means(x), means(y)
    vx, vy, vxy = means(x * x) - ux**2, means(y * y) - uy**2, means(x * y) - ux * uy
    expected = ((2 * ux * uy + 1e-4) * (2 * vxy + 9e-4)) / (
        (ux**2 + uy**2 + 1e-4) * (vx + vy + 9e-4)
    )
    assert ssim(image, reference).item() == pytest.approx(expected.mean(), abs=1e-5)


@given(h=st.integers(1, 20), w=st.integers(1, 20), c=st.integers(1, 4))
def test_ssim_of_equal_images_is_one(h: int, w: int, c: int) -> None:
    image, _ = noisy_pair(2, c, h, w)
    assert ssim(image, image).tolist() == pytest.approx([1, 1], abs=1e-5)


@given(c=st.integers(1, 4), h=st.integers(1, 20), w=st.integers(1, 20), seed=st.integers(0, 99))
def test_psnr_agrees_with_scikit_image(c: int, h: int, w: int, seed: int) -> None:
    image, reference = noisy_pair(3, c, h, w, seed)
    expected = [
        peak_signal_noise_ratio(b.numpy(), a.numpy(), data_range=1)
        for a, b in zip(image, reference, strict=True)
    ]
    assert psnr(image, reference).tolist() == pytest.approx(expected, abs=1e-3)


def test_psnr_by_hand() -> None:
    black, grey = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    grey[1] = 0.1
    assert mse(grey, black).tolist() == pytest.approx([0, 0.01])
    assert psnr(grey, black).tolist() == pytest.approx([math.inf, 20], abs=1e-5)


def test_pooled_psnr_pools_squares_not_decibels() -> None:
    image, reference = noisy_pair(7, 3, 9, 11)
    image[0] = reference[0]  # inf dB by itself
    pooled = PooledPSNR()
    assert math.isnan(pooled.mse)
    assert math.isnan(pooled.psnr)
    for batch in (slice(0, 4), slice(4, 7)):
        pooled.add(image[batch], reference[batch])
    expected = ((image.double() - reference.double()) ** 2).mean().item()
    assert pooled.mse == pytest.approx(expected, rel=1e-6)
    assert pooled.psnr == pytest.approx(-10 * math.log10(expected), abs=1e-5)


def blur(x: Tensor) -> Tensor:
    """A denoiser whose output depends on its input alone."""
    return torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def views(seed: int, n: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Two views under Gaussian noise of 25 / 255 that never reach 0 or 1, and the clean images."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 0.45 + 0.1 * torch.rand(n, 3, 8, 8, generator=generator)
    clean = torch.nn.functional.interpolate(coarse, (64, 64), mode="bilinear")
    noise = torch.randn(2, *clean.shape, generator=generator) * 25 / 255
    return clean + noise[0], clean + noise[1], clean


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_estimate_is_near_the_truth_it_never_saw(symmetric: bool) -> None:
    x, y, clean = views(seed=1, n=400)
    estimate, truth = PooledEstimate(), PooledPSNR()
    for batch in torch.arange(len(x)).split(150):
        a, b = x[batch], y[batch]
        estimate.add(blur(a), a, b, blur(b) if symmetric else None)
        truth.add(blur(a), clean[batch])
    found = estimate.estimate()
    assert found.reason is None
    assert found.psnr == pytest.approx(truth.psnr, abs=0.05 if symmetric else 0.1)
    assert found.mse == pytest.approx(truth.mse, rel=0.02)
    assert found.sigma == pytest.approx(25 / 255, rel=0.01)


def test_the_symmetric_form_varies_less() -> None:
    """Its variance is half of the other's for a weak denoiser: m² - n² is gone, n·m remains."""
    errors = {False: [], True: []}
    for seed in range(100):
        x, y, clean = views(seed, n=1)
        truth = {False: mse(blur(x), clean).item()}
        truth[True] = (truth[False] + mse(blur(y), clean).item()) / 2
        for symmetric, found in errors.items():
            estimate = PooledEstimate()
            estimate.add(blur(x), x, y, blur(y) if symmetric else None)
            found.append(estimate.estimate().mse - truth[symmetric])
    assert np.std(errors[True]) < 0.85 * np.std(errors[False])
    for found in errors.values():  # without bias: within three standard errors of the mean
        assert abs(np.mean(found)) < 3 * np.std(found) / len(found) ** 0.5


def test_an_estimate_that_is_not_positive_says_why() -> None:
    x, y, clean = views(seed=3, n=1)
    shared = PooledEstimate()
    shared.add(x, x, x)  # the same noise in both views: nothing can be said
    assert shared.estimate().mse == 0
    assert shared.estimate().psnr is None
    assert "not positive" in str(shared.estimate().reason)
    perfect = PooledEstimate()
    perfect.add(clean, x, y, clean)
    assert abs(perfect.estimate().mse) < 1e-3
    nothing = PooledEstimate().estimate()
    assert nothing.psnr is None
    assert nothing.reason == "no pairs were given"


@pytest.mark.parametrize("metric", [mse, psnr, ssim, PooledPSNR().add])
def test_wrong_input_is_named(metric) -> None:
    image = torch.zeros(2, 3, 8, 8)
    with pytest.raises(ShapeError, match=r"reference: shape \(2, 3, 8, 8\) of image expected"):
        metric(image, image[:1])
    with pytest.raises(ShapeError, match=r"image: shape \(N, C, H, W\) expected, got \(3, 8, 8\)"):
        metric(image[0], image[0])
    with pytest.raises(InvalidType, match=r"image: a float tensor .* got torch.uint8"):
        metric(image.byte(), image)
    with pytest.raises(ShapeError, match="denoised_y"):
        PooledEstimate().add(image, image, image, image[:1])
