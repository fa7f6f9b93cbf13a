"""One comparison for every layer: shape, dtype, values and every gradient, against torch.

The reference always computes in float64, so that the tolerance is spent on the layer alone. The
cotangent is random: a sum would hide values that are all there, but in the wrong place.
"""

from typing import Any

import torch
from torch import Tensor

TOLERANCE = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-12},
    torch.float32: {"rtol": 1e-3, "atol": 1e-6},
}
LAYOUTS = ("contiguous", "channels_last", "transposed", "sliced", "offset", "expanded")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lay_out(x: Tensor, layout: str) -> Tensor:
    """The values of x (N, C, H, W) in a tensor of other strides.

    `expanded` repeats the first image and the first row of x, `channels_last` to `offset` are x.
    """
    if layout == "contiguous":
        return x.clone(memory_format=torch.contiguous_format)
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "sliced":
        wide = torch.full((*x.shape[:2], 2 * x.shape[2], 3 * x.shape[3]), torch.nan, dtype=x.dtype)
        wide[:, :, ::2, 1::3] = x
        return wide[:, :, ::2, 1::3]
    if layout == "offset":
        big = torch.full([size + 2 for size in x.shape], torch.nan, dtype=x.dtype)
        inner = big[1:-1, 1:-1, 1:-1, 1:-1]
        inner.copy_(x)
        return inner
    if layout == "expanded":
        return x[:1, :, :1].clone().expand(x.shape)
    raise ValueError(layout)


def random_tensor(
    shape: tuple[int, ...],
    seed: int,
    *,
    dtype: torch.dtype = torch.float64,
    layout: str = "contiguous",
    levels: int | None = None,
) -> Tensor:
    """Normal values; with `levels`, that many whole numbers around 0, so that values tie."""
    if levels is None:
        values = torch.randn(shape, generator=seeded(seed), dtype=torch.float64)
    else:
        values = torch.randint(levels, shape, generator=seeded(seed)).double() - levels // 2
    return lay_out(values.to(dtype), layout) if len(shape) == 4 else values.to(dtype)


def assert_close(name: str, found: Any, expected: Tensor, dtype: torch.dtype) -> None:
    """found is a tensor of that dtype and of the expected shape and values, or `name` is blamed."""
    assert isinstance(found, Tensor), f"{name}: {type(found).__name__} instead of a tensor"
    assert found.shape == expected.shape, (
        f"{name}: shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
    )
    assert found.dtype == dtype, f"{name}: {found.dtype}, expected {dtype}"
    expected = expected.detach().double()
    wrong = ~torch.isclose(found.double(), expected, **TOLERANCE[dtype])
    if wrong.any():
        at = tuple(int(index) for index in wrong.nonzero()[0])
        raise AssertionError(
            f"{name}: {int(wrong.sum())} of {wrong.numel()} values differ, the first at {at}: "
            f"{found[at].item()!r}, expected {expected[at].item()!r}"
        )


def check_layer(
    layer: Any,
    reference: torch.nn.Module,
    x: Tensor,
    *,
    seed: int = 0,
    cotangent_layout: str = "contiguous",
    passes: int = 2,
) -> None:
    """Layer and torch reference agree on x; the reference takes the layer's weights over.

    More than one pass, each with a cotangent of its own: gradients of parameters accumulate.
    Neither x nor a cotangent may be changed.
    """
    reference = reference.double()
    reference.load_state_dict(layer.state_dict())
    layer.zero_grad()
    x_before = x.clone()
    for number in range(passes):
        leaf = x.detach().double().clone().requires_grad_()
        expected = reference(leaf)
        found = layer(x)
        assert_close("output", found, expected, x.dtype)

        # Of a size that leaves sums over all positions near 1, where tolerances mean something.
        scale = max(1, expected.shape[0] * expected[0, 0].numel()) ** -0.5
        cotangent = random_tensor(tuple(expected.shape), seed + number, dtype=x.dtype) * scale
        cotangent = lay_out(cotangent, cotangent_layout)
        cotangent_before = cotangent.clone()
        grad_input = layer.backward(cotangent)
        expected.backward(cotangent.double())

        assert torch.equal(x, x_before), "the input was changed"
        assert torch.equal(cotangent, cotangent_before), "grad_output was changed"
        assert leaf.grad is not None
        assert_close("gradient of the input", grad_input, leaf.grad, x.dtype)
        wanted = dict(reference.named_parameters())
        assert set(layer.named_parameters()) == set(wanted), "parameters of other names"
        for name, parameter in layer.named_parameters().items():
            when = f"gradient of {name} after {number + 1} backward"
            assert_close(when, parameter.grad, wanted[name].grad, x.dtype)
