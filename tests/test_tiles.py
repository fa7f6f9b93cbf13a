"""Tiles against the whole image, for every architecture; no seam; halves when memory runs out."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from n2n import models, nn
from n2n.denoiser import Denoiser, Options
from n2n.models import Network
from n2n.tiles import Grid


def make(name: str, **config: int) -> Network:
    """With weights so large that what lies far away matters."""
    network = models.create(name, generator=torch.Generator().manual_seed(1), **config)
    for value, _ in network.param():
        if value.dim() > 1:
            value.mul_(1.5)
    return network.eval()


def lopsided() -> Network:
    """Another margin on each of the four sides, all larger than the multiple."""
    generator = torch.Generator().manual_seed(1)
    layers = nn.Sequential(
        nn.Conv2d(1, 4, (5, 3), padding=(6, 1), dilation=(3, 1), generator=generator),
        nn.Conv2d(4, 4, 3, stride=(2, 1), padding=1, generator=generator),
        nn.NearestUpsample((2, 1)),
        nn.Conv2d(4, 1, (1, 9), padding=(0, 4), generator=generator),
    )
    return Network(layers, name="lopsided", config={"channels": 1}, multiple=2).eval()


SMALL = {"n2n": {"width": 8, "hidden": 12, "blocks": 5}, "seed": {"width": 8}, "unet": {"width": 4}}
NETWORKS = {name: make(name, **SMALL.get(name, {})) for name in models.architectures()}
NETWORKS |= {"deep unet": make("unet", width=2, depth=3, channels=1), "lopsided": lopsided()}
NETWORKS["low n2n"] = make("n2n", width=4, hidden=6, blocks=2, levels=2)
BOTH = pytest.mark.parametrize("tta", [False, True])
SIZES = st.one_of(st.integers(1, 90), st.sampled_from([1, 2, 3, 8, 16, 33, 48, 64, 96]))


def draw(*shape: int) -> np.ndarray:
    """(H, W, C) of float32 in [0, 1]."""
    return np.random.default_rng(shape).random(shape, np.float32)


def whole(network: Network, image: np.ndarray, *, tta: bool = False) -> np.ndarray:
    """The whole image (H, W, C) at once, padded by numpy, without a tile."""
    height, width = image.shape[:2]
    extra = [(0, -height % network.multiple), (0, -width % network.multiple), (0, 0)]
    padded = torch.from_numpy(np.pad(image, extra, mode="reflect")).permute(2, 0, 1)[None]
    views = [padded]
    if tta:
        views = [turn(padded, number) for number in range(8)]
    results = [network.forward(view.contiguous()) for view in views]
    if tta:
        results = [turn(y, number, back=True) for number, y in enumerate(results)]
    mean = torch.stack(results).mean(0).clamp(0, 1)
    return mean[0].permute(1, 2, 0).numpy()[:height, :width]


def turn(x: Tensor, number: int, *, back: bool = False) -> Tensor:
    """One of the eight: transposed or not, rows or columns or both reversed; or its inverse."""
    flips = [axis for axis, bit in ((2, 1), (3, 2)) if number & bit]
    if back:
        x = x.flip(flips)
        return x.transpose(2, 3) if number & 4 else x
    return (x.transpose(2, 3) if number & 4 else x).flip(flips)


@settings(deadline=None, max_examples=60)
@given(name=st.sampled_from(list(NETWORKS)), height=SIZES, width=SIZES, tile=st.integers(8, 70))
@example("seed", 1, 1, 8)
@example("unet", 64, 64, 16)
@example("n2n", 64, 96, 32)
@example("deep unet", 97, 110, 24)
@example("low n2n", 97, 110, 24)
@example("lopsided", 33, 27, 8)
def test_tiles_equal_the_whole_image(name: str, height: int, width: int, tile: int) -> None:
    network = NETWORKS[name]
    image = draw(height, width, network.channels)
    found = Denoiser(network, max_pixels=tile**2).run(image).pixels
    np.testing.assert_allclose(found, whole(network, image), rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=25)
@given(name=st.sampled_from(list(NETWORKS)), height=SIZES, width=SIZES, tile=st.integers(30, 80))
@example("lopsided", 40, 31, 12)
def test_tiles_with_tta_equal_the_whole_image(
    name: str, height: int, width: int, tile: int
) -> None:
    network = NETWORKS[name]
    image = draw(height, width, network.channels)
    denoiser = Denoiser(network, max_pixels=tile**2, options=Options(tta=True))
    expected = whole(network, image, tta=True)
    np.testing.assert_allclose(denoiser.run(image).pixels, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", models.architectures())
def test_the_architectures_as_they_are_made_by_default(name: str) -> None:
    network = make(name)
    image = draw(301, 403, 3)
    found = Denoiser(network, max_pixels=1 << 15).run(image).pixels
    np.testing.assert_allclose(found, whole(network, image), rtol=0, atol=1e-5)


def seam(difference: np.ndarray, grid: Grid, max_pixels: int) -> float:
    """Mean difference in the rows and columns beside a seam over that elsewhere."""
    height, width = difference.shape[:2]
    beside = np.zeros((height, width), bool)
    for tile in grid.tiles(max_pixels):
        for line in (tile.rows.write.start, tile.rows.write.stop):
            if 0 < line < height:
                beside[line - 1 : line + 1] = True
        for line in (tile.columns.write.start, tile.columns.write.stop):
            if 0 < line < width:
                beside[:, line - 1 : line + 1] = True
    assert 0 < beside.mean() < 0.3
    size = np.abs(difference).mean(2)
    return float((size[beside].mean() + 1e-9) / (size[~beside].mean() + 1e-9))


@pytest.mark.parametrize("name", list(NETWORKS))
def test_no_seam_shows_in_the_difference(name: str) -> None:
    """Nor would it, were the picture stretched: rounding is no larger where tiles meet."""
    network = NETWORKS[name]
    image = draw(220, 260, network.channels)
    expected, pixels = whole(network, image), 110 * 110
    found = np.asarray(Denoiser(network, max_pixels=pixels).run(image).pixels)
    assert seam(found - expected, Grid(network, 220, 260), pixels) < 1.5


@pytest.mark.parametrize("name", list(NETWORKS))
def test_tiles_without_their_margin_would_show(name: str, monkeypatch) -> None:
    """The tests above can fail."""
    network = NETWORKS[name]
    image = draw(220, 260, network.channels)
    monkeypatch.setattr(network, "input_span", lambda edges, axis: edges)
    pixels = 110 * 110
    found = np.asarray(Denoiser(network, max_pixels=pixels).run(image).pixels)
    difference = found - whole(network, image)
    assert np.abs(difference).max() > 1e-5
    assert seam(difference, Grid(network, 220, 260), pixels) > 5


class Tight(Network):
    """y = 1 - x, in a memory for so many pixels: torch's and Python's errors in turns."""

    def __init__(self, room: int, channels: int = 3) -> None:
        layers = nn.Sequential(nn.Conv2d(channels, channels, 9, padding=4))
        super().__init__(layers, name="tight", config={"channels": channels}, multiple=4)
        self.room = room
        self.pixels: list[int] = []
        self.failures = 0

    def forward(self, x: Tensor) -> Tensor:
        pixels = len(x) * x.shape[2] * x.shape[3]
        if pixels > self.room:
            self.failures += 1
            if self.failures % 2:
                raise MemoryError
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: …")
        self.pixels.append(pixels)
        return 1 - x


@BOTH
@pytest.mark.parametrize("room", [40_000, 9_000, 300])
def test_tiles_are_halved_when_memory_runs_out_and_it_is_said_once(room: int, tta: bool) -> None:
    network, said = Tight(room), []
    denoiser = Denoiser(network, max_pixels=70_000, options=Options(tta=tta), warn=said.append)
    for image in (draw(203, 411, 3), draw(170, 301, 3)):
        result = denoiser.run(image)
        np.testing.assert_allclose(result.pixels, 1 - image, atol=1e-6)
        assert result.drift == pytest.approx(float((1 - 2 * image.astype(float)).mean()), abs=1e-6)
    assert denoiser.max_pixels <= room
    assert max(network.pixels) > room / 8  # no smaller than need be
    (line,) = said
    assert "memory ran out with" in line
    assert "\n" not in line
    failures = network.failures
    denoiser.run(draw(203, 411, 3))
    assert network.failures == failures  # it has learned


def test_batches_are_halved_when_memory_runs_out() -> None:
    network = Tight(5_000)
    denoiser = Denoiser(network, max_pixels=100_000)
    images = [draw(30, 32, 3) + np.float32(number) / 100 for number in range(40)]
    images = [np.minimum(image, 1) for image in images]
    for image, result in zip(images, denoiser.run_many(images), strict=True):
        np.testing.assert_allclose(result.pixels, 1 - image, atol=1e-6)
        expected = float((1 - 2 * image.astype(float)).mean())
        assert result.drift == pytest.approx(expected, abs=1e-6)
    assert max(network.pixels) > 2_000


def test_no_memory_for_the_smallest_tile_is_an_error() -> None:
    with pytest.raises((MemoryError, RuntimeError)):
        Denoiser(Tight(15)).run(draw(64, 64, 3))


def test_other_errors_pass_at_once() -> None:
    network = Tight(0)
    network.forward = lambda x: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(ZeroDivisionError):
        Denoiser(network).run(draw(64, 64, 3))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("multiple", [1, 4, 16])
def test_the_continued_image_is_numpys(size: int, multiple: int) -> None:
    network = NETWORKS["seed"]
    axis = Grid(Network(nn.Sequential(), name="", config={"channels": 3}, multiple=multiple),
                size, size).rows  # fmt: skip
    assert network.multiple == 4
    expected = np.pad(np.arange(size), (0, -size % multiple), mode="reflect")
    np.testing.assert_array_equal(axis.indices(slice(0, axis.padded)), expected)


# On a GPU; not yet run on one


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@GPU
@pytest.mark.gpu
@BOTH
@pytest.mark.parametrize("name", models.architectures())
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_gpu_gives_what_the_cpu_gives(name: str, dtype: str, tta: bool) -> None:
    levels = 1 if dtype == "float32" else np.iinfo(dtype).max
    image = (draw(301, 403, 3) * levels).astype(dtype)
    options = Options(tta=tta, strength=0.8)
    expected = Denoiser(make(name), options=options).run(image)
    denoiser = Denoiser(make(name), options=options, device="cuda")
    assert denoiser.device.type == "cuda"
    found = denoiser.run(image)
    difference = np.asarray(found.pixels, float) - np.asarray(expected.pixels, float)
    assert np.abs(difference).max() <= 1e-2 * levels  # TF32 may be in use
    assert found.drift == pytest.approx(expected.drift, abs=1e-3 * levels)


@GPU
@pytest.mark.gpu
def test_a_full_gpu_makes_tiles_smaller() -> None:
    said: list[str] = []
    denoiser = Denoiser(make("unet"), device="cuda", max_pixels=1 << 24, warn=said.append)
    image = draw(4000, 4000, 3)
    free, _ = torch.cuda.mem_get_info()
    kept = torch.empty(free - (2 << 30), dtype=torch.uint8, device="cuda")
    found = denoiser.run(image)
    del kept
    assert len(said) == 1
    np.testing.assert_allclose(found.pixels, Denoiser(make("unet")).run(image).pixels, atol=1e-2)
