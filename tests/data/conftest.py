"""Tiny photographs drawn from seeded generators."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Draw = Callable[..., np.ndarray]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


@pytest.fixture(scope="session")
def draw() -> Draw:
    """draw(seed, height, width): a smooth random photograph with edges, uint8 (H, W, 3)."""
    return draw_photograph


def draw_photograph(seed: int, height: int = 96, width: int = 112) -> np.ndarray:
    rng = np.random.default_rng([7, seed])
    coarse = rng.integers(0, 256, (height // 12 + 2, width // 12 + 2, 3), np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.array(smooth, np.int16)
    for _ in range(6):
        top, left = rng.integers(height - 8), rng.integers(width - 8)
        tall, wide = rng.integers(4, 24, 2)
        pixels[top : top + tall, left : left + wide] = rng.integers(20, 236, 3)
    pixels += rng.integers(-12, 13, pixels.shape, np.int16)
    return np.clip(pixels, 0, 255).astype(np.uint8)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of eight photographs, two of them in a subfolder."""
    folder = tmp_path / "photographs"
    (folder / "more").mkdir(parents=True)
    for seed in range(6):
        Image.fromarray(draw_photograph(seed)).save(folder / f"{seed}.png")
    Image.fromarray(draw_photograph(6, 130, 80)).save(folder / "more" / "6.JPG", quality=95)
    Image.fromarray(draw_photograph(7)).save(folder / "more" / "7.webp", lossless=True)
    return folder
