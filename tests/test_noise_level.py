"""The estimate of an image's noise, and what it bounds."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from n2n import models
from n2n.denoiser import Denoiser, denoise_pixels
from n2n.errors import InvalidType, InvalidValue
from n2n.noise_level import default_clip, estimate_sigma
from n2n.options import Options
from n2n.rasters import Scratch
from n2n.scale import Scale

PHOTOS = sorted((Path(__file__).parents[1] / "data/photos").glob("*.jpg"))[:4]


def photograph(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").crop((200, 200, 520, 460)), np.float64)


def noisy(clean: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(5).standard_normal(clean.shape)
    return np.clip(np.rint(clean + sigma * noise), 0, 255).astype(np.uint8)


def sigma_of(pixels: np.ndarray) -> float | None:
    return estimate_sigma(pixels, Scale.of(pixels))


@pytest.mark.parametrize("sigma", [5, 10, 25, 45])
def test_known_noise_on_photographs(sigma: float) -> None:
    found = [255 * sigma_of(noisy(photograph(path), sigma)) for path in PHOTOS]
    assert np.abs(np.array(found) / sigma - 1).max() < 0.15


def test_no_noise_on_photographs() -> None:
    assert max(255 * sigma_of(noisy(photograph(path), 0)) for path in PHOTOS) < 1


def test_a_few_smooth_places_among_texture_are_enough() -> None:
    pixels = noisy(np.full((256, 256, 3), 128.0), 20)
    pixels[100:140, 60:100] = 128
    assert sigma_of(pixels) == 0


def test_noise_alone_is_unbiased_and_planes_have_none() -> None:
    flat = np.full((400, 400, 1), 0.5)
    noise = np.random.default_rng(0).standard_normal(flat.shape)
    assert sigma_of((flat + 0.05 * noise).astype(np.float32)) == pytest.approx(0.05, rel=0.02)
    rows, columns = np.mgrid[:100, :120]
    plane = ((rows + 2 * columns) / 400).astype(np.float32)[:, :, None]
    assert sigma_of(plane) == pytest.approx(0, abs=1e-6)


def test_the_scale_of_the_values_does_not_matter() -> None:
    pixels = noisy(photograph(PHOTOS[0]), 10)
    expected = sigma_of(pixels)
    assert sigma_of(pixels.astype(np.uint16) * 257) == pytest.approx(expected, rel=1e-4)
    assert sigma_of((pixels / 255).astype(np.float32)) == pytest.approx(expected, rel=1e-4)


def test_saturated_parts_do_not_count() -> None:
    pixels = noisy(np.full((160, 160, 1), 128.0), 10)
    pixels[:80] = 255
    assert 255 * sigma_of(pixels) == pytest.approx(10, rel=0.1)
    assert sigma_of(np.full((160, 160, 1), 255, np.uint8)) == 0


@pytest.mark.parametrize("shape", [(1, 1, 3), (17, 380, 1), (65, 49, 3)])
def test_small_images_have_no_estimate(shape: tuple[int, int, int]) -> None:
    assert sigma_of(np.zeros(shape, np.uint8)) is None


def test_large_images_are_read_in_parts() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, (3000, 200, 1)).astype(np.float32)
    raster = Scratch(values.shape, np.float32)
    raster[:, :] = values
    read = []

    class Watched:
        shape, dtype = raster.shape, raster.dtype

        def __getitem__(self, part: tuple[slice, slice]) -> np.ndarray:
            read.append(part[0])
            return raster[part]

    found = estimate_sigma(Watched(), Scale(0, 1, "unit", 0, 1, True))
    assert found == pytest.approx(0.1, rel=0.05)
    assert sum(rows.stop - rows.start for rows in read) < 500
    assert (read[0].start, read[-1].stop > 2500) == (0, True)


# What it bounds


@pytest.fixture
def network() -> models.Network:
    """Far from any denoiser: its residual is large."""
    return models.create("unet", width=4, depth=1, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("clip", [0.5, 3.0])
def test_no_number_changes_by_more(network, clip: float) -> None:
    pixels = (noisy(photograph(PHOTOS[1]), 12) / 255).astype(np.float32)
    free = denoise_pixels(network, pixels)
    denoiser = Denoiser(network, options=Options(clip_residual=clip), max_pixels=1 << 14)
    result = denoiser.run(pixels)
    limit = clip * result.sigma
    assert result.sigma == pytest.approx(12 / 255, rel=0.1)
    assert np.abs(free - pixels).max() > limit
    expected = np.clip(pixels + np.clip(free - pixels, -limit, limit), 0, 1)
    assert np.abs(result.pixels - expected).max() < 1e-5


def test_images_of_their_own_noise_go_together(network) -> None:
    images = [noisy(photograph(PHOTOS[0])[:80, :80], sigma) for sigma in (2, 30)]
    denoiser = Denoiser(network, options=Options(clip_residual=1.0))
    together = denoiser.run_many(images)
    for image, result in zip(images, together, strict=True):
        assert (np.asarray(result.pixels) == denoiser.run(image).pixels).all()
    assert together[0].sigma < together[1].sigma / 4


def test_without_an_estimate_nothing_is_bounded(network) -> None:
    pixels = noisy(photograph(PHOTOS[0])[:20, :20], 12)
    bounded = denoise_pixels(network, pixels, options=Options(clip_residual=0.1))
    assert (bounded == denoise_pixels(network, pixels)).all()


def test_options() -> None:
    assert "clip_residual" not in Options().as_dict()  # as in manifests that are older
    assert Options(clip_residual=2).as_dict()["clip_residual"] == 2
    for bad in (0, -1, math.inf, math.nan):
        with pytest.raises(InvalidValue, match="clip_residual: above 0"):
            Options(clip_residual=bad)
    with pytest.raises(InvalidType, match="clip_residual: a number"):
        Options(clip_residual="3")
    assert default_clip({"noise": "gaussian:0-50"}) == 3
    assert default_clip({"noise": "subsample"}) is default_clip({}) is None
