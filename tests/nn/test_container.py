"""Sequential, Residual, Skip."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from n2n.errors import InvalidType, InvalidValue, ShapeError
from n2n.nn import (
    Conv2d,
    ConvTranspose2d,
    LeakyReLU,
    MaxPool2d,
    Module,
    NearestUpsample,
    PatchBlock,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Skip,
    windows,
    winograd,
)

from .check import assert_close, check_layer, random_tensor, seeded
from .strategies import Case, cases, layouts, seeds

WRONG_ARGUMENT = (InvalidValue, InvalidType)


class TorchResidual(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.inner(x)
        return y


class TorchSkip(TorchResidual):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.inner(x)], 1)


def small(dtype: torch.dtype = torch.float64, seed: int = 1) -> Sequential:
    """(N, 2, H, W) to the same shape, for even H and W."""
    how = {"generator": seeded(seed), "dtype": dtype}
    return Sequential(
        Conv2d(2, 3, 3, stride=2, padding=1, **how),
        ReLU(),
        ConvTranspose2d(3, 2, 3, stride=2, padding=1, output_padding=1, **how),
        Sigmoid(),
    )


def torch_small() -> torch.nn.Sequential:
    return torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3, 2, 1),
        torch.nn.ReLU(),
        torch.nn.ConvTranspose2d(3, 2, 3, 2, 1, 1),
        torch.nn.Sigmoid(),
    )


@st.composite
def even_cases(draw: st.DrawFn) -> Case:
    case = draw(cases(channels=2, more=3))
    images, channels, rows, columns = case.shape
    shape = (images, channels, 2 * rows, 2 * columns)
    return Case({}, shape, case.dtype, case.layout, case.cotangent_layout, case.seed)


@given(even_cases())
def test_sequential_agrees_with_torch(case: Case) -> None:
    check_layer(small(case.dtype), torch_small(), case.input(), **case.how())


@given(even_cases())
def test_residual_agrees_with_torch(case: Case) -> None:
    reference = TorchResidual(torch_small())
    check_layer(Residual(small(case.dtype)), reference, case.input(), **case.how())


@given(even_cases())
def test_skip_agrees_with_torch(case: Case) -> None:
    reference = TorchSkip(torch_small())
    check_layer(Skip(small(case.dtype)), reference, case.input(), **case.how())


@given(seeds, layouts, layouts)
def test_a_u_net_by_hand_agrees_with_torch(seed: int, layout: str, cotangent_layout: str) -> None:
    """Two levels: pooling down, nearest neighbours up, a skip around each."""
    make = {"generator": seeded(seed), "dtype": torch.float64}
    net = Sequential(
        {
            "enter": Conv2d(1, 3, 3, padding=1, **make),
            "outer": Skip(
                Sequential(
                    MaxPool2d(2),
                    Conv2d(3, 4, 3, padding=1, **make),
                    LeakyReLU(0.1),
                    Skip(
                        Sequential(
                            Conv2d(4, 5, 2, stride=2, **make),
                            Residual(Conv2d(5, 5, 1, **make)),
                            ConvTranspose2d(5, 4, 2, stride=2, **make),
                        )
                    ),
                    NearestUpsample(2),
                )
            ),
            "leave": Conv2d(3 + 8, 1, 3, padding=1, **make),
        }
    )
    nn = torch.nn
    reference = nn.Sequential(
        OrderedDict(
            enter=nn.Conv2d(1, 3, 3, padding=1),
            outer=TorchSkip(
                nn.Sequential(
                    nn.MaxPool2d(2),
                    nn.Conv2d(3, 4, 3, padding=1),
                    nn.LeakyReLU(0.1),
                    TorchSkip(
                        nn.Sequential(
                            nn.Conv2d(4, 5, 2, stride=2),
                            TorchResidual(nn.Conv2d(5, 5, 1)),
                            nn.ConvTranspose2d(5, 4, 2, stride=2),
                        )
                    ),
                    nn.Upsample(scale_factor=2),
                )
            ),
            leave=nn.Conv2d(3 + 8, 1, 3, padding=1),
        )
    )
    x = random_tensor((2, 1, 8, 4), seed, layout=layout)
    check_layer(net, reference, x, seed=seed, cotangent_layout=cotangent_layout)


def test_residual_and_skip_by_hand() -> None:
    x, dy = torch.tensor([[[[-1.0, 2.0]]]]), torch.tensor([[[[10.0, 100.0]]]])
    residual = Residual(ReLU())
    assert residual(x).tolist() == [[[[-1.0, 4.0]]]]
    assert residual.backward(dy).tolist() == [[[[10.0, 200.0]]]]
    skip = Skip(ReLU())
    assert skip(x).tolist() == [[[[-1.0, 2.0]], [[0.0, 2.0]]]]
    assert skip.backward(torch.cat([dy, 3 * dy], 1)).tolist() == [[[[10.0, 400.0]]]]


def test_sequential_is_a_sequence() -> None:
    net = small()
    layers = list(net)
    assert len(net) == len(layers) == 4
    assert net[0] is layers[0]
    assert net[-1] is layers[3]
    with pytest.raises(IndexError):
        net[4]


def test_a_slice_shares_its_modules() -> None:
    net = small()
    part = net[1:3]
    assert isinstance(part, Sequential)
    assert list(part) == list(net)[1:3]
    assert list(net[::2]) == list(net)[::2]
    assert list(net[:0]) == []
    x = random_tensor((1, 2, 4, 4), 0)
    assert torch.equal(net[2:](net[:2](x)), net(x))
    values = [parameter.value for parameter in part.named_parameters().values()]
    assert values[0] is net[2].weight.value


def test_states_are_named_as_torch_names_them() -> None:
    net, reference = small(torch.float32), torch_small()
    assert {name: tensor.shape for name, tensor in net.state_dict().items()} == {
        name: tensor.shape for name, tensor in reference.state_dict().items()
    }
    assert list(net.state_dict()) == list(reference.state_dict())
    named = Sequential({"down": Conv2d(1, 1, 1, bias=False), "up": Sequential(Conv2d(1, 1, 1))})
    assert list(named.state_dict()) == ["down.weight", "up.0.weight", "up.0.bias"]
    assert list(named.named_parameters()) == list(named.state_dict())


def test_an_empty_sequential_is_the_identity() -> None:
    x = random_tensor((1, 2, 4, 4), 0)
    net = Sequential()
    assert torch.equal(net(x), x)
    assert torch.equal(net.backward(x), x)
    assert len(net) == 0
    assert net.param() == []


@pytest.mark.parametrize("wrong", [None, "ReLU", ReLU, torch.nn.ReLU(), lambda x: x])
def test_refuses_what_is_no_module(wrong: object) -> None:
    for container in (Sequential, Residual, Skip):
        with pytest.raises(WRONG_ARGUMENT, match=container.__name__):
            container(wrong)  # type: ignore[operator]
    with pytest.raises(WRONG_ARGUMENT, match="second"):
        Sequential({"first": ReLU(), "second": wrong})  # type: ignore[dict-item]


def test_refuses_branches_that_do_not_fit_together() -> None:
    x = torch.zeros(1, 2, 8, 8)
    with pytest.raises(ShapeError, match="Residual"):
        Residual(Conv2d(2, 3, 1))(x)
    with pytest.raises(ShapeError, match="Residual"):
        Residual(Conv2d(2, 1, 1))(x)  # would broadcast
    with pytest.raises(ShapeError, match="Skip"):
        Skip(MaxPool2d(2))(x)


@given(st.integers(0, 11), st.integers(0, 11), st.sampled_from([0, 1]))
def test_input_span_of_containers(first: int, more: int, axis: int) -> None:
    """By brute force, through the gradient; tight for a chain of convolutions."""
    how = {"generator": seeded(1), "dtype": torch.float64}
    chain = [
        Conv2d(1, 2, (3, 1), padding=(1, 0), **how),
        Conv2d(2, 2, 3, stride=2, padding=1, **how),
        ConvTranspose2d(2, 1, 4, stride=2, padding=1, **how),
    ]
    net = Sequential(*chain)
    around = {"net": net, "residual": Residual(net), "skip": Skip(net), "nested": Sequential(net)}
    x = random_tensor((1, 1, 12, 12), 3)
    last = min(first + more, 11)
    for name, module in around.items():
        low, high = module.input_span((first, last), axis)
        cotangent = torch.zeros_like(module(x))
        span = cotangent.narrow(2 + axis, first, last - first + 1)
        span.copy_(random_tensor(tuple(span.shape), 4))
        rows = module.backward(cotangent).abs().sum((0, 1, 3 - axis)).nonzero().flatten().tolist()
        assert low <= min(rows) <= max(rows) <= high, name
        if 0 <= low <= high < 12:
            assert (low, high) == (min(rows), max(rows)), name


def test_backward_returns_the_gradient_of_the_input() -> None:
    """The first layer's too, by central differences along a random direction."""
    net = small()
    x, direction, cotangent = (random_tensor((2, 2, 4, 6), seed) for seed in (1, 2, 3))
    net(x)
    slope = (net.backward(cotangent) * direction).sum()
    step = 1e-5
    rise = ((net(x + step * direction) - net(x - step * direction)) * cotangent).sum()
    assert_close("slope", slope.float(), rise / (2 * step), torch.float32)


STACK = st.lists(st.sampled_from(["conv", "relu", "leaky", "sigmoid", "residual", "skip", "patch"]))


def stack(names: list[str]) -> Sequential:
    """Any order of layers that overwrite, keep, share or copy what they get."""
    modules: list[Module] = []
    channels = 4
    for seed, name in enumerate(names):
        how: dict[str, Any] = {"generator": seeded(seed), "dtype": torch.float64}
        if name == "conv":
            modules.append(Conv2d(channels, channels, 1, **how))
        elif name == "residual":
            modules.append(Residual(Sequential(ReLU(), Conv2d(channels, channels, 1, **how))))
        elif name == "skip" and channels < 32:
            modules.append(Skip(Sequential(Sigmoid(), ReLU())))
            channels *= 2
        elif name == "patch":
            modules.append(PatchBlock(channels, 3, shift=seed % 2, **how))
        else:
            plain = {"leaky": LeakyReLU(0.1), "sigmoid": Sigmoid()}
            modules.append(plain.get(name, ReLU()))
    return Sequential(*modules)


@given(STACK, st.booleans())
def test_what_is_overwritten_was_needed_by_nobody(names: list[str], twice: bool) -> None:
    """A stack, which lets layers work in place, against its layers called one by one."""
    together, apart = stack(names), list(stack(names))
    x = random_tensor((2, 4, 4, 6), 1, dtype=torch.float64)
    x_before = x.clone()
    y, expected = together(x), x
    for module in apart:
        expected = module(expected)
    assert_close("output", y, expected, x.dtype)
    cotangent = random_tensor(tuple(y.shape), 2, dtype=torch.float64)
    kept, y_before = cotangent.clone(), y.clone()
    for _ in range(1 + twice):  # a second backward of one forward finds all that it needs
        grad, wanted = together.backward(cotangent), cotangent
        for module in reversed(apart):
            wanted = module.backward(wanted)
        assert_close("gradient", grad, wanted, x.dtype)
    for (_, found), module_grad in zip(
        together.param(), [grad for module in apart for _, grad in module.param()], strict=True
    ):
        assert_close("gradient of a parameter", found, module_grad, x.dtype)
    for name, tensor, before in (("x", x, x_before), ("dy", cotangent, kept), ("y", y, y_before)):
        assert torch.equal(tensor, before), f"{name} was overwritten"


# In the order of their forms: planes, columns, Winograd's, mirrored; and across, transposed.
CONVOLUTIONS: dict[str, Any] = {
    "planes": (Conv2d, (3, 32, 3, 2, 1)),
    "columns": (Conv2d, (32, 32, 3, 2, 1)),
    "groups": (Conv2d, (32, 32, 3, 2, 1, 1, 4)),
    "winograd": (Conv2d, (32, 32, 3, 1, 1)),
    "mirrored": (Conv2d, (32, 3, 3, 1, 1)),
    "planes back": (ConvTranspose2d, (32, 3, 3, 2, 1, 1)),
    "columns back": (ConvTranspose2d, (32, 32, 3, 2, 1, 1)),
    "winograd back": (ConvTranspose2d, (32, 32, 3, 1, 1)),
    "stride 1": (Conv2d, (32, 5, 5, 1, 2)),
    "stride 1 back": (ConvTranspose2d, (5, 32, 5, 1, 2)),
    "mirrored back": (ConvTranspose2d, (3, 32, 3, 1, 1)),
}


@pytest.mark.parametrize("block_bytes", [None, 20_000], ids=["whole", "in rows"])
@pytest.mark.parametrize("activation", [ReLU, lambda: LeakyReLU(0.2), lambda: LeakyReLU(-0.5)])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_takes_the_activations_beside_it(
    name: str, activation: Any, block_bytes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it and after it, against the same layers called one by one."""
    if block_bytes is not None:
        monkeypatch.setattr(windows, "BLOCK_BYTES", block_bytes)
        monkeypatch.setattr(winograd, "BLOCK_BYTES", block_bytes)
    layer, arguments = CONVOLUTIONS[name]
    twins = [
        [activation(), layer(*arguments, generator=seeded(1), dtype=torch.float64), activation()]
        for _ in range(2)
    ]
    together, apart = Sequential(*twins[0]), twins[1]
    x = random_tensor((6, arguments[0], 16, 20), 2)
    y, expected = together(x), x
    for module in apart:
        expected = module(expected)
    assert_close("output", y, expected, x.dtype)
    cotangent = random_tensor(tuple(y.shape), 3)
    for _ in range(2):
        grad, wanted = together.backward(cotangent), cotangent
        for module in reversed(apart):
            wanted = module.backward(wanted)
        assert_close("gradient", grad, wanted, x.dtype)
    for (_, found), (_, needed) in zip(together.param(), apart[1].param(), strict=True):
        assert_close("gradient of a parameter", found, needed, x.dtype)
