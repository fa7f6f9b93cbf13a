"""PatchBlock: against torch's convolutions, and against the three layers that it fuses."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from n2n.errors import InvalidType, InvalidValue, ShapeError
from n2n.nn import Conv2d, ConvTranspose2d, PatchBlock, ReLU, Residual, Sequential, windows

from .check import assert_close, check_layer, random_tensor, seeded
from .strategies import Case, dtypes, layouts, seeds


class Reference(torch.nn.Module):
    """x + up(act(down(x))) in torch."""

    def __init__(
        self, channels: int, hidden: int, patch: int, shift: int, negative_slope: float = 0.0
    ) -> None:
        super().__init__()
        self.act = torch.nn.LeakyReLU(negative_slope)
        self.down = torch.nn.Conv2d(channels, hidden, patch, patch)
        self.up = torch.nn.ConvTranspose2d(hidden, channels, patch, patch)
        self.shift = shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s, (height, width) = self.shift, x.shape[2:]
        if min(height, width) <= 2 * s:
            return x + 0 * sum(item.sum() for item in self.parameters())
        inside = x[:, :, s : height - s, s : width - s]
        return x + torch.nn.functional.pad(self.up(self.act(self.down(inside))), (s, s, s, s))


@st.composite
def patch_blocks(draw: st.DrawFn) -> Case:
    """Sides that are whole patches between two borders; with a border, none is enough."""
    patch, channels = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    shift = draw(st.integers(0, 3))
    sides = [patch * draw(st.integers(0 if shift else 1, 4)) + 2 * shift for _ in range(2)]
    options = {
        "channels": channels,
        "hidden": draw(st.integers(1, 6)),
        "patch": patch,
        "shift": shift,
        "negative_slope": draw(st.sampled_from([0.0, 0.1, 1.5])),
    }
    shape = (draw(st.integers(1, 3)), channels, sides[0], sides[1])
    return Case(options, shape, draw(dtypes), draw(layouts), draw(layouts), draw(seeds))


@given(patch_blocks())
def test_agrees_with_torch(case: Case) -> None:
    layer = PatchBlock(**case.parametrised())
    check_layer(layer, Reference(**case.options), case.input(), **case.how())


@pytest.mark.parametrize("shift", [0, 1])
def test_images_too_large_or_too_many_for_one_part(
    shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "BLOCK_BYTES", 4096)
    layer = PatchBlock(3, 5, 2, shift, generator=seeded(1), dtype=torch.float64)
    x = random_tensor((3, 3, 40, 30), 2, dtype=torch.float64)
    check_layer(layer, Reference(3, 5, 2, shift), x)


def test_is_the_residual_of_three_layers() -> None:
    fused = PatchBlock(4, 6, 2, generator=seeded(1), dtype=torch.float64)
    apart = Residual(
        Sequential(
            {
                "down": Conv2d(4, 6, 2, 2, dtype=torch.float64),
                "act": ReLU(),
                "up": ConvTranspose2d(6, 4, 2, 2, dtype=torch.float64),
            }
        )
    )
    apart.load_state_dict({f"inner.{name}": x for name, x in fused.state_dict().items()})
    x = random_tensor((2, 4, 8, 6), 3, dtype=torch.float64)
    cotangent = random_tensor((2, 4, 8, 6), 4, dtype=torch.float64)
    assert_close("output", fused(x), apart(x), x.dtype)
    assert_close("gradient", fused.backward(cotangent), apart.backward(cotangent), x.dtype)


def test_in_place_gives_the_same() -> None:
    layer = PatchBlock(4, 6, 2, 1, generator=seeded(1), dtype=torch.float64)
    x, cotangent = random_tensor((2, 4, 8, 6), 2), random_tensor((2, 4, 8, 6), 3)
    y, grad = layer(x), layer.backward(cotangent)
    ours = cotangent.clone()
    assert torch.equal(layer.backward_(ours), grad)
    layer.eval()
    assert torch.equal(layer.forward_(x.clone()), y)


def test_by_hand() -> None:
    """One patch of 1 2 3 4: hidden 1·1 + … + 4·4 - 10 = 20, of which each pixel gets 1/10."""
    layer = PatchBlock(1, 1)
    state = {
        "down.weight": torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]),
        "down.bias": torch.tensor([-10.0]),
        "up.weight": torch.full((1, 1, 2, 2), 0.1),
        "up.bias": torch.tensor([0.5]),
    }
    layer.load_state_dict(state)
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert layer(x).flatten().tolist() == pytest.approx([3.5, 4.5, 5.5, 6.5])
    grad = layer.backward(torch.ones(1, 1, 2, 2))  # dH = 0.4
    assert grad.flatten().tolist() == pytest.approx([1.4, 1.8, 2.2, 2.6])
    assert layer.down.weight.grad.flatten().tolist() == pytest.approx([0.4, 0.8, 1.2, 1.6])
    assert layer.up.weight.grad.flatten().tolist() == pytest.approx([20.0] * 4)


@given(
    patch=st.integers(1, 4),
    shift=st.integers(0, 3),
    first=st.integers(0, 9),
    more=st.integers(0, 5),
)
def test_input_span_is_the_patches_that_the_outputs_lie_in(
    patch: int, shift: int, first: int, more: int
) -> None:
    span = (first, first + more)
    covered = {
        (row - shift) // patch * patch + shift + tap
        for row in range(span[0], span[1] + 1)
        for tap in range(patch)
    }
    assert PatchBlock(1, 1, patch, shift).input_span(span, 0) == (min(covered), max(covered))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"patch": 0}, InvalidValue),
        ({"shift": -1}, InvalidValue),
        ({"patch": 2.0}, InvalidType),
        ({"hidden": 0}, InvalidValue),
    ],
)
def test_refuses_arguments(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        PatchBlock(**({"channels": 3, "hidden": 4} | options))


def test_refuses_sizes_that_are_no_whole_patches() -> None:
    with pytest.raises(ShapeError, match=r"multiples of 2, got 8x7"):
        PatchBlock(3, 4)(torch.zeros(1, 3, 8, 7))
    with pytest.raises(ShapeError, match="PatchBlock expects"):
        PatchBlock(3, 4)(torch.zeros(1, 2, 8, 8))
