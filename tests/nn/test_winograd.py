"""The special forms of a 3x3 convolution: Winograd's and the mirrored one, against columns."""

from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from n2n.nn import Conv2d, ConvTranspose2d
from n2n.nn.columns import Columns
from n2n.nn.forms import FEWEST_CHANNELS, Form, choose_form
from n2n.nn.geometry import Windows
from n2n.nn.interpolation import TILE
from n2n.nn.mirrored import Mirrored
from n2n.nn.module import scratch
from n2n.nn.planes import FEW_CHANNELS, Planes
from n2n.nn.winograd import BLOCK_BYTES, Winograd

from .check import LAYOUTS, check_layer, random_tensor, seeded
from .strategies import layouts, seeds

BOTH = pytest.mark.parametrize("layer_class", [Conv2d, ConvTranspose2d])
PLAIN = Windows((3, 3), (1, 1), (1, 1), (1, 1))
# In float32 an element may be wrong by 1e-3 of itself or by so much of the result's root mean
# square: a tile's sums are rounded at the size of its largest terms (see the module).
OF_MEAN_SQUARE = {torch.float64: 1e-13, torch.float32: 2e-5}


def all_results(form: Form, x: Tensor, dy: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Everything a form computes, of the image x and the grid dy, in fresh memory."""
    bias, bias_back = (random_tensor((n,), 9, dtype=weight.dtype) for n in weight.shape[:2])
    image, grid = form.read_image(x, weight), form.read_grid(dy, weight)
    size, grid_size = (x.shape[2], x.shape[3]), (dy.shape[2], dy.shape[3])
    weight_1, image_1 = form.correlate_backward(image, grid, weight, size)
    weight_2, none = form.correlate_backward(image, grid, weight, None)
    weight_3, grid_3 = form.spread_backward(image, grid, weight)
    assert image_1 is not None
    assert none is None or form.__class__ is Mirrored
    return {
        "correlate": form.correlate(image, grid_size, weight, bias),
        "gradient of weights": weight_1,
        "gradient of image": image_1,
        "gradient of weights alone": weight_2,
        "spread": form.spread(grid, weight, bias_back, size),
        "gradient of weights by spread": weight_3,
        "gradient of grid": grid_3,
    }


def check_against_columns(
    form: Form,
    windows: Windows,
    shape: tuple[int, int, int, int],
    channels: int,
    dtype: torch.dtype,
    **how: Any,
) -> None:
    """A form on an image of that shape and a grid of so many channels: as columns in float64."""
    seed = how.get("seed", 1)
    size = windows.grid_size(shape[2:])
    x = random_tensor(shape, seed, dtype=dtype, layout=how.get("layout", "contiguous"))
    grid_layout = how.get("grid_layout", "contiguous")
    dy = random_tensor((shape[0], channels, *size), seed + 1, dtype=dtype, layout=grid_layout)
    weight = random_tensor((channels, shape[1], *windows.kernel), seed + 2, dtype=dtype)
    for buffer in scratch()._buffers.values():
        buffer.fill_(torch.nan)  # a form may rely on nothing that is in them
    found = all_results(form, x, dy, weight)
    expected = all_results(Columns(windows, 1), x.double(), dy.double(), weight.double())
    for name, value in found.items():
        wanted = expected[name]
        assert value.dtype == dtype, name
        assert value.shape == wanted.shape, name
        error = (value.double() - wanted).abs()
        relative = 1e-3 if dtype == torch.float32 else 1e-9
        allowed = relative * wanted.abs() + OF_MEAN_SQUARE[dtype] * wanted.pow(2).mean().sqrt()
        assert (error <= allowed).all(), f"{name}: off by {(error - allowed).max()}"


dtypes = st.sampled_from([torch.float64, torch.float32])
sides = st.integers(1, 3 * TILE + 2)


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 9), sides, sides),
    st.integers(1, 9),
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dtypes,
    layouts,
    layouts,
    seeds,
)
@example((1, 1, 1, 1), 1, (1, 1), torch.float64, "contiguous", "contiguous", 1)
@example((2, 3, 8, 8), 4, (1, 1), torch.float64, "contiguous", "contiguous", 1)
@example((2, 3, 6, 10), 4, (0, 2), torch.float32, "channels_last", "offset", 1)
def test_winograd_agrees_with_columns(
    shape: tuple[int, int, int, int],
    channels: int,
    padding: tuple[int, int],
    dtype: torch.dtype,
    layout: str,
    grid_layout: str,
    seed: int,
) -> None:
    shape = (*shape[:2], *(max(s, 3 - 2 * p) for s, p in zip(shape[2:], padding, strict=True)))
    windows = Windows((3, 3), (1, 1), padding, (1, 1))
    how = {"layout": layout, "grid_layout": grid_layout, "seed": seed}
    check_against_columns(Winograd(windows), windows, shape, channels, dtype, **how)


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(7, 10), st.integers(7, 10)),
    st.integers(1, 5),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.data(),
    dtypes,
    layouts,
)
def test_mirrored_agrees_with_columns(
    shape: tuple[int, int, int, int],
    channels: int,
    kernel: tuple[int, int],
    dilation: tuple[int, int],
    data: st.DataObject,
    dtype: torch.dtype,
    layout: str,
) -> None:
    padding = tuple(
        data.draw(st.integers(0, d * (k - 1)), label="padding")
        for k, d in zip(kernel, dilation, strict=True)
    )
    windows = Windows(kernel, (1, 1), padding, dilation)
    form = Mirrored(Columns(windows.mirrored, 1))
    check_against_columns(form, windows, shape, channels, dtype, layout=layout, grid_layout=layout)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(1, 40, 101, 83), (53, 32, 13, 16)], ids=["large", "many"])
def test_winograd_in_parts(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    """Rows of tiles of one image, and some of the images, at a time."""
    tiles = shape[0] * -(-shape[2] // TILE) * -(-shape[3] // TILE)
    assert tiles * 36 * 4 * shape[1] > BLOCK_BYTES
    check_against_columns(Winograd(PLAIN), PLAIN, shape, 33, dtype)


@BOTH
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layers_that_use_winograd_agree_with_torch(layer_class: Any, layout: str) -> None:
    for inputs, outputs, size, padding in ((24, 32, (12, 16), 1), (32, 24, (19, 11), 0)):
        layer = layer_class(
            inputs, outputs, 3, padding=padding, generator=seeded(1), dtype=torch.float64
        )
        reference = getattr(torch.nn, layer_class.__name__)(inputs, outputs, 3, padding=padding)
        x = random_tensor((8, inputs, *size), 2, layout=layout)
        check_layer(layer, reference, x, cotangent_layout=layout)


@BOTH
@pytest.mark.parametrize("channels", [(3, 24), (24, 3), (23, 24), (24, 24), (25, 40)], ids=str)
@pytest.mark.parametrize("side", [4, 5, 6, 7, 8])
def test_layers_around_the_switch_points(
    layer_class: Any, channels: tuple[int, int], side: int
) -> None:
    layer = layer_class(*channels, 3, padding=1, generator=seeded(1), dtype=torch.float64)
    for batch in (1, 16, 64):
        reference = getattr(torch.nn, layer_class.__name__)(*channels, 3, padding=1)
        check_layer(layer, reference, random_tensor((batch, channels[0], side, side), 2), passes=1)


@BOTH
def test_repeats_bit_for_bit(layer_class: Any) -> None:
    layer = layer_class(32, 32, 3, padding=1, generator=seeded(1))
    x = random_tensor((20, 32, 18, 22), 2, dtype=torch.float32)
    dy = random_tensor((20, 32, 18, 22), 3, dtype=torch.float32)
    results = []
    for _ in range(3):
        layer.zero_grad()
        results.append((layer(x), layer.backward(dy), layer.weight.grad.clone()))
    for other in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(results[0], other, strict=True))


def weight_of(grid: int, image: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(grid, image, 3, 3, dtype=dtype)


def test_which_form_serves_which_shape() -> None:
    wide, grid = weight_of(32, 32), (8, 16, 16)
    assert type(choose_form(PLAIN, 1, wide, grid)) is Winograd
    assert type(choose_form(PLAIN, 1, wide.double(), grid)) is Winograd
    assert type(choose_form(PLAIN, 1, wide.bfloat16(), grid)) is Columns
    assert type(choose_form(PLAIN, 2, wide, grid)) is Columns
    assert type(choose_form(PLAIN, 1, wide, (1, 16, 16))) is Columns  # too few tiles
    assert type(choose_form(PLAIN, 1, wide, (64, 5, 5))) is Columns  # tiles that hang over
    assert type(choose_form(PLAIN, 1, weight_of(FEWEST_CHANNELS - 1, 64), grid)) is Columns
    assert type(choose_form(PLAIN, 1, weight_of(64, FEWEST_CHANNELS - 1), grid)) is Columns
    assert type(choose_form(PLAIN, 1, weight_of(FEW_CHANNELS, 32), grid)) is Mirrored
    assert type(choose_form(PLAIN, 1, weight_of(FEW_CHANNELS, FEW_CHANNELS), grid)) is Planes
    for windows in (
        Windows((3, 3), (2, 1), (1, 1), (1, 1)),
        Windows((3, 3), (1, 1), (1, 1), (2, 2)),
        Windows((3, 5), (1, 1), (1, 1), (1, 1)),
    ):
        assert type(choose_form(windows, 1, wide, grid)) is Columns
    beyond = Windows((3, 3), (1, 1), (3, 1), (1, 1))
    assert type(choose_form(beyond, 1, weight_of(3, 32), grid)) is Columns
    assert type(choose_form(beyond, 1, wide, grid)) is Winograd
