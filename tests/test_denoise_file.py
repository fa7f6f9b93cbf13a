"""Files of every format and depth through a network, page by page, within memory."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from n2n import models, rasters
from n2n.denoiser import Denoiser, Options, denoise_file
from n2n.errors import ImageError
from n2n.images import open_image, read_pixels, save_pixels
from n2n.models import Network

MIB = 1 << 20


@pytest.fixture
def network() -> Network:
    return models.create("unet", width=4, generator=torch.Generator().manual_seed(3))


def draw(dtype: str, *shape: int) -> np.ndarray:
    values = np.random.default_rng(shape).random(shape)
    return (values * (np.iinfo(dtype).max if dtype[0] == "u" else 3000)).astype(dtype)


def denoised(network: Network, image: np.ndarray) -> np.ndarray:
    return np.asarray(Denoiser(network).run(image).pixels)


@pytest.mark.parametrize(
    ("name", "dtype", "channels"),
    [
        ("a.png", "uint8", 1),
        ("a.png", "uint16", 3),
        ("a.bmp", "uint8", 3),
        ("a.tif", "uint8", 3),
        ("a.tif", "uint16", 1),
        ("a.tif", "float32", 3),
        ("a.npy", "uint16", 3),
        ("a.npy", "float32", 1),
    ],
)
def test_every_depth_is_kept(
    network: Network, tmp_path: Path, name: str, dtype: str, channels: int
) -> None:
    image = draw(dtype, 45, 61, channels)
    source, target = tmp_path / name, tmp_path / f"out-{name}"
    save_pixels(source, image)
    (result,) = denoise_file(Denoiser(network), source, target)
    found = read_pixels(target)
    assert found.dtype == image.dtype
    np.testing.assert_array_equal(found, denoised(network, image))
    exact = (found.astype(float) - image.astype(float)).mean((0, 1))
    np.testing.assert_allclose(result.channel_drift, exact, rtol=1e-6, atol=1e-6)
    assert result.pixels is None
    denoise_file(Denoiser(network, options=Options(strength=0.0)), source, target)
    np.testing.assert_array_equal(read_pixels(target), image)


def test_a_stack_is_done_page_by_page(network: Network, tmp_path: Path) -> None:
    """Each float page has a range of its own, and a result of its own."""
    stack = draw("float32", 5, 40, 30) * np.arange(1, 6, dtype=np.float32)[:, None, None]
    tifffile.imwrite(tmp_path / "in.tif", stack, photometric="minisblack")
    results = denoise_file(Denoiser(network), tmp_path / "in.tif", tmp_path / "out.tif")
    found = tifffile.imread(tmp_path / "out.tif")
    for page, result, after in zip(stack, results, found, strict=True):
        assert result.value_range == (float(page.min()), float(page.max()))
        assert result.range_origin == "image"
        np.testing.assert_array_equal(after, denoised(network, page[..., None])[..., 0])


@pytest.mark.parametrize("kind", ["strips", "tiles"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_page_larger_than_memory_is_streamed(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, dtype: str
) -> None:
    """It decodes lazily, its result lies in a scratch file, and the output is the same."""
    made = []
    scratch = rasters.Scratch
    monkeypatch.setattr("n2n.denoiser.Scratch", lambda *a: (made.append(a), scratch(*a))[1])
    image = draw(dtype, 700, 500, 3)
    layout = {"tile": (64, 64)} if kind == "tiles" else {"rowsperstrip": 16}
    tifffile.imwrite(tmp_path / "in.tif", image, photometric="rgb", compression="deflate", **layout)
    denoiser = Denoiser(network, max_memory=1 * MIB, max_pixels=1 << 15, scratch=tmp_path)
    denoise_file(denoiser, tmp_path / "in.tif", tmp_path / "out.tif")
    assert [shape for shape, *_ in made] == [image.shape]
    difference = np.abs(
        read_pixels(tmp_path / "out.tif").astype(float) - denoised(network, image).astype(float)
    )
    assert difference.max() <= (1 if dtype[0] == "u" else 1e-5 * 3000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tif", "out.tif"]


def test_a_value_that_is_not_finite_is_named_with_its_file(
    network: Network, tmp_path: Path
) -> None:
    image = draw("float32", 20, 20, 1)
    image[3, 4] = np.nan
    np.save(tmp_path / "in.npy", image)
    with pytest.raises(ImageError, match="finite numbers expected") as caught:
        denoise_file(Denoiser(network), tmp_path / "in.npy", tmp_path / "out.npy")
    assert str(caught.value).startswith(f"{tmp_path / 'in.npy'}: ")
    assert not (tmp_path / "out.npy").exists()


def test_damage_met_in_the_middle_leaves_nothing(network: Network, tmp_path: Path) -> None:
    image = draw("uint8", 600, 400, 3)
    tifffile.imwrite(
        tmp_path / "in.tif", image, photometric="rgb", compression="deflate", rowsperstrip=16
    )
    content = bytearray((tmp_path / "in.tif").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4000] = bytes(4000)
    (tmp_path / "in.tif").write_bytes(content)
    denoiser = Denoiser(network, max_memory=1 * MIB, max_pixels=1 << 14)
    with pytest.raises(ImageError) as caught:
        denoise_file(denoiser, tmp_path / "in.tif", tmp_path / "out.tif")
    assert str(caught.value).startswith(f"{tmp_path / 'in.tif'}: ")
    assert str(caught.value).count(str(tmp_path)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]


def test_a_full_disk_of_scratch_files_passes_as_such(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    save_pixels(tmp_path / "in.png", draw("uint8", 400, 400, 3))
    monkeypatch.setattr(rasters.os, "pwrite", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        denoise_file(Denoiser(network, max_memory=MIB), tmp_path / "in.png", tmp_path / "out.png")
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


def test_grey_through_colour_stays_grey(tmp_path: Path) -> None:
    image = draw("uint8", 40, 30, 1)
    save_pixels(tmp_path / "in.png", image)
    network = models.create("seed", width=4, generator=torch.Generator().manual_seed(0))
    denoise_file(Denoiser(network), tmp_path / "in.png", tmp_path / "out.png")
    with open_image(tmp_path / "out.png") as file:
        assert file.pages[0].shape == (40, 30, 1)


def test_another_format_on_purpose(network: Network, tmp_path: Path) -> None:
    image = draw("uint16", 40, 30, 3)
    save_pixels(tmp_path / "in.png", image)
    denoise_file(Denoiser(network), tmp_path / "in.png", tmp_path / "out.tif", format="TIFF")
    np.testing.assert_array_equal(read_pixels(tmp_path / "out.tif"), denoised(network, image))
    with pytest.raises(ImageError, match="uint8 expected for JPEG"):
        denoise_file(Denoiser(network), tmp_path / "in.png", tmp_path / "out.jpg", format="JPEG")
