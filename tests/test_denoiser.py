"""Any size through a network: tiles against the whole image, channels, rounding, files."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from n2n import models, nn
from n2n.denoiser import MAX_PIXELS, Denoiser, denoise, denoise_file, denoise_pixels
from n2n.errors import ImageError, InvalidType, InvalidValue, ShapeError
from n2n.images import open_image, read_pixels
from n2n.models import Network


def make(name: str, **config: int) -> Network:
    return models.create(name, generator=torch.Generator().manual_seed(1), **config)


def strange() -> Network:
    """Margins that differ between the axes and are far larger than the multiple."""
    generator = torch.Generator().manual_seed(1)
    layers = nn.Sequential(
        nn.Conv2d(1, 4, (5, 3), padding=(6, 1), dilation=(3, 1), generator=generator),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=(2, 1), padding=1, generator=generator),
        nn.NearestUpsample((2, 1)),
        nn.Conv2d(4, 1, (1, 9), padding=(0, 4), generator=generator),
        nn.Sigmoid(),
    )
    return Network(layers, name="strange", config={"channels": 1}, multiple=2)


class Recording(Network):
    """y = 1 - x, which notes the shape of every input and whether it was in training mode."""

    def __init__(self, channels: int = 3, multiple: int = 4) -> None:
        super().__init__(
            nn.Sequential(), name="recording", config={"channels": channels}, multiple=multiple
        )
        self.shapes: list[tuple[int, ...]] = []
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(tuple(super().forward(x).shape))
        self.modes.append(self.training)
        return 1 - x


NETWORKS = {
    "seed": make("seed", width=8),
    "unet": make("unet", width=4),
    "deep unet": make("unet", width=2, depth=3, channels=1),
    "strange": strange(),
}


def random_image(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


def reference(network: Network, image: Tensor) -> Tensor:
    """The whole image at once, padded by numpy, without a tile."""
    height, width = image.shape[2:]
    extra = [(0, 0), (0, 0), (0, -height % network.multiple), (0, -width % network.multiple)]
    padded = torch.from_numpy(np.pad(image.numpy(), extra, mode="reflect"))
    return network.forward(padded)[..., :height, :width].clamp(0, 1)


@settings(deadline=None, max_examples=50)
@given(
    name=st.sampled_from(list(NETWORKS)),
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    tile=st.integers(12, 70),
)
@example("seed", 1, 1, 1)
@example("unet", 64, 64, 16)
@example("deep unet", 97, 110, 24)
@example("strange", 33, 27, 1)
def test_tiles_equal_the_whole_image(name: str, height: int, width: int, tile: int) -> None:
    network = NETWORKS[name]
    image = random_image(1, network.channels, height, width)
    tiled = denoise(network, image, tile=tile)
    assert tiled.shape == image.shape
    torch.testing.assert_close(tiled, reference(network, image), rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(
    name=st.sampled_from(list(NETWORKS)),
    n=st.integers(1, 3),
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    max_pixels=st.integers(2_000, 20_000),
)
@example("seed", 1, 9, 9, 1)  # below the smallest tile
def test_bounded_memory_equals_the_whole_image(
    name: str, n: int, height: int, width: int, max_pixels: int
) -> None:
    network = NETWORKS[name]
    image = random_image(n, network.channels, height, width)
    found = denoise(network, image, max_pixels=max_pixels)
    torch.testing.assert_close(found, reference(network, image), rtol=0, atol=1e-5)


def test_the_published_widths_at_the_default_size_of_tiles() -> None:
    image = random_image(1, 3, 401, 503)
    assert image[0, 0].numel() > MAX_PIXELS
    for name in models.architectures():
        network = make(name)
        found = denoise(network, image)
        torch.testing.assert_close(found, reference(network, image), rtol=0, atol=1e-5)


def test_a_tile_without_its_margin_would_differ() -> None:
    """The tests above can fail: cut tiles alone, the seams show."""
    network = NETWORKS["unet"]
    image = random_image(1, 3, 64, 64)
    seamed = torch.cat([reference(network, half) for half in image.split(32, dim=2)], dim=2)
    assert (seamed - reference(network, image)).abs().max() > 1e-3


@given(
    n=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
    size=st.tuples(st.integers(1, 90), st.integers(1, 400)),
    max_pixels=st.integers(480, 5000),
    network_channels=st.sampled_from([1, 3]),
)
@settings(deadline=None)
def test_no_more_pixels_than_asked_for_at_once(
    n: int, channels: int, size: tuple[int, int], max_pixels: int, network_channels: int
) -> None:
    network = Recording(network_channels)
    image = random_image(n, channels, *size)
    found = denoise(network, image, max_pixels=max_pixels)
    torch.testing.assert_close(found, 1 - image)
    assert max(shape[0] * shape[2] * shape[3] for shape in network.shapes) <= max_pixels


def test_small_images_go_together() -> None:
    network = Recording()
    denoise(network, random_image(100, 3, 30, 32), max_pixels=50 * 32 * 32)
    assert network.shapes == [(50, 3, 32, 32)] * 2


def test_tiles_cost_little_more_than_the_image() -> None:
    """The default for a photograph of 12 megapixels, where the margins are the largest."""
    network = Recording()
    network.input_span = lambda span, axis: (span[0] - 12, span[1] + 12)
    denoise(network, torch.zeros(1, 3, 3000, 4000))
    pixels = [n * h * w for n, _, h, w in network.shapes]
    assert max(pixels) <= MAX_PIXELS
    assert sum(pixels) < 1.2 * 3000 * 4000


def test_the_mode_of_the_network_stays_as_it_was() -> None:
    network = Recording()
    for training in (True, False):
        network.train(training)
        denoise(network, random_image(1, 3, 4, 4))
        assert network.training is training
    assert network.modes == [False, False]


def test_grey_through_colour_is_the_mean_of_equal_channels() -> None:
    network = NETWORKS["seed"]
    image = random_image(2, 1, 21, 34)
    expected = reference(network, image.repeat(1, 3, 1, 1)).mean(1, keepdim=True)
    torch.testing.assert_close(denoise(network, image, tile=8), expected)


def test_colour_through_grey_goes_channel_by_channel() -> None:
    network = NETWORKS["strange"]
    image = random_image(2, 3, 21, 34)
    expected = torch.cat([reference(network, channel) for channel in image.split(1, 1)], dim=1)
    torch.testing.assert_close(denoise(network, image, tile=8), expected, rtol=0, atol=1e-5)


class Offset(Recording):
    """y = x + 0.3, beyond 1."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.3


def test_the_result_is_clamped_and_the_input_left_alone() -> None:
    image = random_image(1, 3, 6, 6)
    before = image.clone()
    assert denoise(Offset(), image).max() == 1
    assert torch.equal(image, before)


def test_float64_stays_float64() -> None:
    image = random_image(1, 3, 6, 6).double()
    assert denoise(Recording(), image).dtype == torch.float64


class Same(Recording):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.config.get("shift", 0) / 1000


def test_pixels_are_rounded_to_the_nearest() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    network = Same(1)
    np.testing.assert_array_equal(denoise_pixels(network, values), values)
    network.config["shift"] = 3  # 0.765 of a step of 1 / 255: up, where truncation stays
    np.testing.assert_array_equal(
        denoise_pixels(network, values), np.minimum(values.astype(int) + 1, 255)
    )
    network.config["shift"] = -1  # 0.255 of a step: truncation would go down
    np.testing.assert_array_equal(denoise_pixels(network, values), values)


@given(height=st.integers(1, 20), width=st.integers(1, 20), channels=st.sampled_from([1, 3]))
@settings(deadline=None)
def test_pixels_agree_with_floats(height: int, width: int, channels: int) -> None:
    network = NETWORKS["unet"]
    generator = np.random.default_rng(height * width)
    pixels = generator.integers(0, 256, (height, width, channels), dtype=np.uint8)
    before = pixels.copy()
    found = denoise_pixels(network, pixels, max_pixels=600)
    image = torch.tensor(pixels).permute(2, 0, 1)[None] / 255
    expected = denoise(network, image)[0].permute(1, 2, 0) * 255
    assert found.shape == pixels.shape
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, expected, atol=0.5 + 1e-3)
    np.testing.assert_array_equal(pixels, before)


def test_pixels_may_be_read_only_or_a_view() -> None:
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    pixels.flags.writeable = False
    for view in (pixels, pixels[::-1, ::2]):
        np.testing.assert_array_equal(denoise_pixels(Recording(), view), 255 - view)


def test_wrong_arguments_are_named() -> None:
    network = Recording(3)
    image = random_image(1, 3, 8, 8)
    with pytest.raises(ShapeError, match=r"image: 1 or 3 channels expected .* got 2"):
        denoise(network, image[:, :2])
    with pytest.raises(ShapeError, match=r"shape \(N, C, H, W\) expected, got \(3, 8, 8\)"):
        denoise(network, image[0])
    with pytest.raises(ShapeError, match="expected, got"):
        denoise(network, image[:, :, :0])
    with pytest.raises(InvalidType, match=r"a float tensor in \[0, 1\] expected, got torch.uint8"):
        denoise(network, image.byte())
    with pytest.raises(InvalidType, match=r"uint8, uint16 or floats .* expected, got int32"):
        denoise_pixels(network, np.zeros((4, 4, 3), np.int32))
    with pytest.raises(ShapeError, match=r"shape \(H, W, C\) expected"):
        denoise_pixels(network, np.zeros((4, 4), np.uint8))
    for wrong in ({"tile": 0}, {"max_pixels": 0}):
        with pytest.raises(InvalidValue, match=f"{next(iter(wrong))}: at least"):
            denoise(network, image, **wrong)


def test_an_empty_batch_stays_empty() -> None:
    assert denoise(Recording(), torch.zeros(0, 3, 5, 6)).shape == (0, 3, 5, 6)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_file_keeps_all_but_its_pixels(tmp_path: Path, mode: str) -> None:
    with PIL.Image.open("data/photos/clock.jpg") as photo:
        source = photo.resize((37, 23)).convert(mode)
    if mode == "RGBA":
        source.putalpha(PIL.Image.linear_gradient("L").resize((37, 23)))
    source.save(tmp_path / "in.png", dpi=(72, 72), icc_profile=b"profile")
    denoise_file(Denoiser(Recording()), tmp_path / "in.png", tmp_path / "out.png")
    before, after = read_pixels(tmp_path / "in.png"), read_pixels(tmp_path / "out.png")
    np.testing.assert_array_equal(after, 255 - before)
    with open_image(tmp_path / "in.png") as file, open_image(tmp_path / "out.png") as out:
        assert out.metadata() == file.metadata()
        assert out.metadata().icc_profile == b"profile"
        np.testing.assert_equal(out.pages[0].alpha(), file.pages[0].alpha())


def test_a_bad_file_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(b"nonsense")
    with pytest.raises(ImageError, match="the content is of another kind"):
        denoise_file(Denoiser(Recording()), tmp_path / "in.png", tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", models.architectures())
def test_a_gpu_gives_what_the_cpu_gives(name: str) -> None:
    image = random_image(2, 3, 401, 503)
    expected = reference(make(name), image)
    found = denoise(make(name).to("cuda"), image, device="cuda")
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-2)  # TF32 may be in use
