"""Every depth with its precision, ranges of values, strength, and brightness that stays."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from n2n import models, nn
from n2n.denoiser import Denoiser, Options, Result
from n2n.errors import ImageError, InvalidType, InvalidValue, ShapeError
from n2n.models import Network

DTYPES = ["uint8", "uint16", ">u2", "float16", "float32", ">f4", "float64"]
Array = np.ndarray


class Pointwise(Network):
    """y = function(x), which notes what it was given."""

    def __init__(self, function: Any = lambda x: x, channels: int = 3) -> None:
        config = {"channels": channels}
        super().__init__(nn.Sequential(), name="pointwise", config=config, multiple=4)
        self.function = function
        self.least, self.most = np.inf, -np.inf

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.float32
        self.least = min(self.least, float(x.min()))
        self.most = max(self.most, float(x.max()))
        return self.function(x)


def draw(dtype: str, *shape: int, low: float = 0.0, high: float = 1.0) -> Array:
    """Of the full range of integers; floats from low to high."""
    rng = np.random.default_rng(shape)
    kind = np.dtype(dtype)
    if kind.kind == "u":
        return rng.integers(0, np.iinfo(kind).max, shape, endpoint=True).astype(kind)
    return (low + (high - low) * rng.random(shape)).astype(kind)


def run(network: Network, image: Array, **options: Any) -> Result:
    result = Denoiser(network, options=Options(**options), max_pixels=900).run(image)
    assert result.pixels.dtype == image.dtype
    assert result.pixels.shape == image.shape
    return result


def real_network() -> Network:
    return models.create("unet", width=4, generator=torch.Generator().manual_seed(3))


# Depth


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_the_network_leaves_alone_comes_out_bit_for_bit(dtype: str) -> None:
    image = draw(dtype, 61, 47, 3)
    before = image.copy()
    result = run(Pointwise(), image)
    if np.dtype(dtype) == np.float64:  # computed in float32
        np.testing.assert_allclose(result.pixels, image, rtol=0, atol=6e-8)
    else:
        np.testing.assert_array_equal(result.pixels, image)
        assert (result.drift, result.channel_drift) == (0.0, (0.0, 0.0, 0.0))
    np.testing.assert_array_equal(image, before)


def test_all_levels_of_16_bits_pass() -> None:
    image = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    np.testing.assert_array_equal(run(Pointwise(channels=1), image).pixels, image)


def test_16_bits_are_rounded_to_the_nearest_of_16_bits() -> None:
    image = np.arange(0, 65536, 5, dtype=np.uint16)[:13100].reshape(131, 100, 1)
    found = run(Pointwise(lambda x: x / 3, 1), image).pixels
    np.testing.assert_array_equal(found, np.round(image / 3))


@pytest.mark.parametrize(("dtype", "levels"), [("uint8", 255), ("uint16", 65535)])
def test_each_depth_agrees_with_floats(dtype: str, levels: int) -> None:
    """Through a real network, in tiles of its own."""
    network = real_network()
    image = draw(dtype, 45, 70, 3)
    found = run(network, image).pixels
    expected = run(network, (image / levels).astype(np.float32)).pixels
    np.testing.assert_allclose(found, np.asarray(expected) * levels, atol=0.5 + levels * 1e-6)
    if dtype == "uint16":
        assert len(np.unique(np.asarray(found))) > 2000  # no pass through 8 bits


@given(
    dtype=st.sampled_from(DTYPES),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    channels=st.sampled_from([1, 3]),
    strength=st.sampled_from([0.0, 0.3, 1.0]),
    tta=st.booleans(),
    keep_mean=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_every_shape_depth_and_option(
    dtype: str, height: int, width: int, channels: int, **options: Any
) -> None:
    image = draw(dtype, height, width, channels)
    result = run(real_network(), image, **options)
    found = np.asarray(result.pixels, np.float64)
    drift = (found - image.astype(np.float64)).mean((0, 1))
    np.testing.assert_allclose(result.channel_drift, drift, atol=1e-9 * max(1, found.max()))
    assert result.drift == pytest.approx(drift.mean(), abs=1e-9 * max(1, found.max()))
    if options["strength"] == 0:
        np.testing.assert_array_equal(result.pixels, image)


@pytest.mark.parametrize("dtype", ["bool", "int32", "uint32", "complex64", "S3"])
def test_what_has_no_levels_is_refused(dtype: str) -> None:
    with pytest.raises(InvalidType, match=r"uint8, uint16 or floats .* expected"):
        Denoiser(Pointwise()).run(np.zeros((4, 4, 3), dtype))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("given_range", [None, (0.0, 1.0)])
def test_floats_that_are_not_finite_are_refused(value: float, given_range: Any) -> None:
    image = draw("float32", 40, 30, 3)
    image[31, 4, 1] = value
    with pytest.raises(ImageError, match="finite numbers expected, found 1 that"):
        run(Pointwise(), image, value_range=given_range)


# Ranges


@pytest.mark.parametrize(
    ("low", "high", "origin"),
    [(0.1, 0.7, "unit"), (0.0, 255.0, "image"), (-3.0, 0.5, "image"), (1000.0, 1000.5, "image")],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floats_are_stretched_by_their_own_extremes(
    low: float, high: float, origin: str, dtype: str
) -> None:
    image = draw(dtype, 50, 40, 1, low=low, high=high)
    network = Pointwise(lambda x: 1 - x, 1)
    result = run(network, image)
    black, white = (0, 1) if origin == "unit" else (float(image.min()), float(image.max()))
    assert (result.value_range, result.range_origin) == ((black, white), origin)
    if origin == "image":
        assert (network.least, network.most) == (0, 1)
    expected = white - (image.astype(np.float64) - black)
    precision = np.spacing(np.dtype(dtype).type(max(abs(low), abs(high))))
    tolerance = float(precision) + 1.2e-7 * (white - black)
    np.testing.assert_allclose(result.pixels, expected, rtol=0, atol=tolerance)


def test_what_lies_beyond_black_and_white_is_kept() -> None:
    """Cut off before the network, put back after it: a star stays as bright as it was."""
    image = draw("uint16", 50, 40, 3)
    network = Pointwise(lambda x: x / 2 + 0.25)
    result = run(network, image, value_range=(1000, 50_000))
    assert (network.least, network.most) == (0, 1)
    assert (result.value_range, result.range_origin) == ((1000.0, 50_000.0), "given")
    inside = image.clip(1000, 50_000).astype(np.float64)
    expected = (inside - 1000) / 2 + 49_000 / 4 + 1000 + (image - inside)
    np.testing.assert_allclose(result.pixels, expected.clip(0, 65535), atol=0.51)
    unchanged = run(Pointwise(), image, value_range=(1000, 50_000))
    np.testing.assert_array_equal(unchanged.pixels, image)


def test_floats_beyond_a_given_range_are_kept() -> None:
    image = draw("float32", 50, 40, 3, low=-2, high=5)
    result = run(Pointwise(), image, value_range=(0, 1))
    np.testing.assert_allclose(result.pixels, image, rtol=0, atol=5e-7)
    assert (result.value_range, result.range_origin) == ((0.0, 1.0), "given")


@pytest.mark.parametrize("value", [0.0, 0.5, 7.0, -1e30, 3e38])
def test_an_image_of_one_value(value: float) -> None:
    image = np.full((9, 9, 1), value, np.float32)
    result = run(Pointwise(channels=1), image)
    np.testing.assert_array_equal(result.pixels, image)


# Strength


@pytest.mark.parametrize("dtype", DTYPES)
def test_strength_0_gives_the_input_back(dtype: str) -> None:
    def fail(x: Tensor) -> Tensor:
        raise AssertionError("the network is not asked")

    image = draw(dtype, 41, 23, 3, low=-5, high=1e4)
    result = run(Pointwise(fail), image, strength=0.0, keep_mean=True, tta=True)
    np.testing.assert_array_equal(result.pixels, image)
    assert np.asarray(result.pixels).tobytes() == image.tobytes()
    assert (result.drift, result.channel_drift) == (0.0, (0.0, 0.0, 0.0))


def test_strength_blends() -> None:
    image = draw("float32", 41, 23, 3)
    whole = np.asarray(run(real_network(), image).pixels, np.float64)
    for strength in (0.25, 0.9):
        found = run(real_network(), image, strength=strength).pixels
        expected = (1 - strength) * image.astype(np.float64) + strength * whole
        np.testing.assert_allclose(found, expected, atol=1e-6)


# Brightness


@pytest.mark.parametrize("dtype", DTYPES)
def test_drift_is_measured_for_each_channel(dtype: str) -> None:
    image = draw(dtype, 70, 55, 3, high=0.5)
    if np.dtype(dtype).kind == "u":
        image //= 2
    scale = np.array([0.5, 0.25, 0.75], np.float32)
    network = Pointwise(lambda x: x * torch.tensor(scale)[:, None, None])
    result = run(network, image)
    exact = np.asarray(result.pixels, np.float64).mean((0, 1)) - image.astype(float).mean((0, 1))
    np.testing.assert_allclose(result.channel_drift, exact, rtol=1e-9)
    assert result.drift == pytest.approx(exact.mean(), rel=1e-9)
    assert all(drift < 0 for drift in result.channel_drift)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_mean_of_each_channel_is_kept(dtype: str) -> None:
    image = draw(dtype, 70, 55, 3)
    shift = torch.tensor([0.1, -0.05, 0.002])[:, None, None]
    network = Pointwise(lambda x: x.sqrt() * 0.7 + shift)  # fractions of all sizes
    unit = float(np.iinfo(image.dtype).max) if np.dtype(dtype).kind == "u" else 1.0
    assert max(map(abs, run(network, image).channel_drift)) > 0.05 * unit
    result = run(network, image, keep_mean=True)
    close = {"uint8": 0.01, "uint16": 0.01, ">u2": 0.01, "float16": 2e-5}.get(dtype, 3e-8)
    drift = np.asarray(result.pixels, np.float64).mean((0, 1)) - image.astype(float).mean((0, 1))
    np.testing.assert_allclose(drift, 0, atol=close)
    np.testing.assert_allclose(result.channel_drift, drift, atol=1e-9 * unit)


def test_the_mean_is_kept_where_values_are_clamped() -> None:
    """Black cannot become darker: the rest has to go further than the means say."""
    image = draw("uint8", 70, 55, 1)
    image[:20] = 0
    network = Pointwise(lambda x: (x + 0.3) * (x > 0), 1)
    result = run(network, image, keep_mean=True)
    found = np.asarray(result.pixels)
    assert found.min() == 0
    assert abs(found.mean() - image.mean()) < 0.2  # many pixels are rounded all the same way
    assert result.drift == pytest.approx(found.mean() - image.mean(), abs=1e-9)


def test_a_mean_between_two_levels_comes_as_close_as_it_can() -> None:
    image = np.full((8, 8, 1), 100, np.uint8)
    image[0, :3] = 101
    result = run(Pointwise(lambda x: x * 0 + 0.3, 1), image, keep_mean=True)
    assert np.unique(np.asarray(result.pixels)).tolist() == [100]
    assert result.drift == pytest.approx(-3 / 64)


# Many


@pytest.mark.parametrize("options", [{}, {"keep_mean": True}, {"tta": True}, {"strength": 0.0}])
def test_many_come_out_as_they_would_alone(options: dict[str, Any]) -> None:
    """Of different shapes and depths, mixed, each with its own range; in order."""
    images = []
    for number in range(12):
        dtype = ("uint8", "float32", "uint16")[number % 3]
        shape = ((20, 30, 3), (17, 9, 1))[number % 2]
        images.append(draw(dtype, *shape, high=1 + number))
        images[-1][0, 0] = number
    network = real_network()
    denoiser = Denoiser(network, options=Options(**options), max_pixels=4_000)
    found = denoiser.run_many(images)
    for image, result in zip(images, found, strict=True):
        alone = denoiser.run(image)
        assert (result.value_range, result.range_origin) == (alone.value_range, alone.range_origin)
        scale = np.ptp(np.asarray(alone.value_range))
        one_level = 1 if image.dtype.kind == "u" else 0  # that rounding may flip
        difference = np.asarray(result.pixels, float) - np.asarray(alone.pixels, float)
        assert np.abs(difference).max() <= one_level + 1e-6 * scale
        assert np.mean(np.abs(difference) > 1e-6 * scale) < 0.01
    assert denoiser.run_many([]) == []


def test_batches_are_no_larger_than_asked_for() -> None:
    sizes = []
    network = Pointwise(lambda x: (sizes.append(len(x)), x)[1])
    images = [draw("uint8", 8, 8, 3)] * 10
    denoiser = Denoiser(network, batch_size=4)
    sizes.clear()
    denoiser.run_many(images)
    assert sizes == [4, 4, 2]


# Arguments


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"strength": -0.1}, InvalidValue),
        ({"strength": 1.1}, InvalidValue),
        ({"strength": float("nan")}, InvalidValue),
        ({"strength": "1"}, InvalidType),
        ({"strength": True}, InvalidType),
        ({"tta": 1}, InvalidType),
        ({"keep_mean": None}, InvalidType),
        ({"value_range": (1, 1)}, InvalidValue),
        ({"value_range": (0, float("inf"))}, InvalidValue),
        ({"value_range": (0,)}, InvalidType),
        ({"value_range": ("0", "1")}, InvalidType),
        ({"value_range": 5}, InvalidType),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        Options(**options)


def test_wrong_arguments_are_named() -> None:
    image = draw("uint8", 8, 8, 3)
    with pytest.raises(ShapeError, match=r"out: uint8 of shape \(8, 8, 3\) expected, got float32"):
        Denoiser(Pointwise()).run(image, np.zeros((8, 8, 3), np.float32))
    with pytest.raises(ShapeError, match="1 or 3 channels expected by the network, got 2"):
        Denoiser(Pointwise()).run(image[..., :2])
    for name in ("max_memory", "batch_size", "max_pixels"):
        with pytest.raises(InvalidValue, match=f"{name}: at least 1 expected, got 0"):
            Denoiser(Pointwise(), **{name: 0})
