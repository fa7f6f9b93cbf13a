"""What holds for every module: parameters, state, modes, ownership."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from n2n import nn
from n2n.errors import InvalidType, InvalidValue, N2NError, ShapeError
from n2n.nn import (
    Conv2d,
    ConvTranspose2d,
    LeakyReLU,
    MaxPool2d,
    Module,
    NearestUpsample,
    Parameter,
    PatchBlock,
    PixelShuffle,
    PixelUnshuffle,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Skip,
)

from .check import LAYOUTS, assert_close, check_layer, random_tensor, seeded

CHANNELS = 4
SHAPE = (2, CHANNELS, 8, 6)
OTHERS = [(2, CHANNELS, 8, 6), (1, CHANNELS, 8, 6), (3, CHANNELS, 12, 4), (2, CHANNELS, 6, 8)]


def make_net(**how: Any) -> Sequential:
    return Sequential(
        Conv2d(CHANNELS, 6, 3, stride=2, padding=1, **how),
        ReLU(),
        Residual(Conv2d(6, 6, 3, padding=1, groups=2, **how)),
        Skip(Sequential(Conv2d(6, 2, 1, **how), LeakyReLU())),
        ConvTranspose2d(8, CHANNELS, 3, stride=2, padding=1, output_padding=1, **how),
        Sigmoid(),
    )


# Every layer and container, for CHANNELS channels and even sides.
LAYERS: dict[str, Callable[..., Module]] = {
    "Conv2d": lambda **how: Conv2d(CHANNELS, 6, 3, padding=1, **how),
    "Conv2d strided": lambda **how: Conv2d(CHANNELS, 6, (2, 3), 2, dilation=(3, 1), **how),
    "Conv2d grouped": lambda **how: Conv2d(CHANNELS, 4, 3, groups=2, **how),
    "Conv2d 1x1": lambda **how: Conv2d(CHANNELS, 3, 1, bias=False, **how),
    "ConvTranspose2d": lambda **how: ConvTranspose2d(CHANNELS, 3, 3, 2, 1, 1, **how),
    "ConvTranspose2d 1x1": lambda **how: ConvTranspose2d(CHANNELS, 3, 1, bias=False, **how),
    "ConvTranspose2d grouped": lambda **how: ConvTranspose2d(CHANNELS, 6, 2, 2, groups=2, **how),
    "MaxPool2d": lambda **how: MaxPool2d(2),
    "MaxPool2d padded": lambda **how: MaxPool2d(3, stride=1, padding=1),
    "NearestUpsample": lambda **how: NearestUpsample(2),
    "NearestUpsample by 1": lambda **how: NearestUpsample(1),
    "PatchBlock": lambda **how: PatchBlock(CHANNELS, 5, **how),
    "PatchBlock shifted": lambda **how: PatchBlock(CHANNELS, 5, shift=1, **how),
    "PixelShuffle": lambda **how: PixelShuffle(2),
    "PixelShuffle by 1": lambda **how: PixelShuffle(1),
    "PixelUnshuffle": lambda **how: PixelUnshuffle(2),
    "PixelUnshuffle by 1": lambda **how: PixelUnshuffle(1),
    "ReLU": lambda **how: ReLU(),
    "LeakyReLU": lambda **how: LeakyReLU(0.1),
    "Sigmoid": lambda **how: Sigmoid(),
    "Residual": lambda **how: Residual(Conv2d(CHANNELS, CHANNELS, 3, padding=1, **how)),
    "Skip": lambda **how: Skip(Conv2d(CHANNELS, 3, 3, padding=1, **how)),
    "Sequential": make_net,
}
EVERY = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())


def data(seed: int, shape: tuple[int, ...] = SHAPE, layout: str = "contiguous") -> Tensor:
    return random_tensor(shape, seed, layout=layout)


def double(make: Callable[..., Module], seed: int = 1) -> Module:
    return make(generator=seeded(seed), dtype=torch.float64)


def storages(*roots: object) -> dict[int, int]:
    """Address and bytes of all memory that the objects of n2n and containers in roots hold."""
    held: dict[int, int] = {}
    seen: set[int] = set()
    stack = list(roots)
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            held[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
        elif isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list | tuple | set):
            stack.extend(item)
        elif type(item).__module__.startswith("n2n"):
            stack.extend(vars(item).values() if hasattr(item, "__dict__") else [])
            slots = getattr(type(item), "__slots__", ())
            stack.extend(getattr(item, slot, None) for slot in slots)
    return held


def test_every_exported_layer_is_tested_here() -> None:
    exported = {
        name
        for name in nn.__all__
        if isinstance(getattr(nn, name), type) and issubclass(getattr(nn, name), Module)
    }
    assert {name.split()[0] for name in LAYERS} == exported - {"Activation", "Module"}  # bases


# Ownership


@EVERY
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_an_output_is_never_overwritten(make: Callable[..., Module], training: bool) -> None:
    layer = double(make)
    if not training:
        layer.eval()
    outputs = []
    for seed, shape in enumerate(OTHERS + OTHERS):
        output = layer(data(seed, shape))
        outputs.append((output, output.clone()))
    assert all(torch.equal(output, kept) for output, kept in outputs)


@EVERY
def test_a_gradient_is_never_overwritten(make: Callable[..., Module]) -> None:
    layer = double(make)
    kept = []
    for seed, shape in enumerate(OTHERS + OTHERS):
        output = layer(data(seed, shape))
        grad = layer.backward(random_tensor(tuple(output.shape), seed))
        kept.append((output, output.clone(), grad, grad.clone()))
    for output, output_kept, grad, grad_kept in kept:
        assert torch.equal(output, output_kept)
        assert torch.equal(grad, grad_kept)


@EVERY
def test_what_is_returned_is_the_callers_to_change(make: Callable[..., Module]) -> None:
    """Writing into earlier results changes neither the arguments nor later results."""
    layer = double(make)
    x = data(1)
    expected = layer(x).clone()
    cotangent = random_tensor(tuple(expected.shape), 2)
    expected_grad = layer.backward(cotangent).clone()
    for _ in range(2):
        layer.backward(cotangent).fill_(torch.nan)
        layer(x).fill_(torch.nan)
        assert torch.equal(x, data(1)), "the output is the input itself"
        assert torch.equal(cotangent, random_tensor(tuple(expected.shape), 2))
        assert torch.equal(layer(x), expected)
        assert torch.equal(layer.backward(cotangent), expected_grad)


@EVERY
@pytest.mark.parametrize("layout", LAYOUTS)
def test_arguments_are_left_as_they_are(make: Callable[..., Module], layout: str) -> None:
    layer = double(make)
    x = data(1, layout=layout)
    x_before = x.clone()
    output = layer(x)
    cotangent = random_tensor(tuple(output.shape), 2, layout=layout)
    cotangent_before = cotangent.clone()
    grad = layer.backward(cotangent)
    assert torch.equal(x, x_before)
    assert torch.equal(cotangent, cotangent_before)
    assert not output.requires_grad
    assert not grad.requires_grad
    # and how values lie in memory makes no difference
    plain = double(make)
    assert_close("output", plain(x_before.contiguous()), output, torch.float64)
    assert_close("gradient", plain.backward(cotangent_before.contiguous()), grad, torch.float64)


@EVERY
def test_batch_and_image_size_may_change_between_calls(make: Callable[..., Module]) -> None:
    used = double(make)
    for seed, shape in enumerate([*OTHERS, *reversed(OTHERS)]):
        x, fresh = data(seed, shape), double(make)
        assert_close("output", used(x), fresh(x), torch.float64)
        cotangent = random_tensor(tuple(fresh(x).shape), seed)
        used.zero_grad()
        grad = used.backward(cotangent)
        assert_close("gradient", grad, fresh.backward(cotangent), torch.float64)
        for name, parameter in fresh.named_parameters().items():
            found = used.named_parameters()[name].grad
            assert_close(f"gradient of {name} for {shape}", found, parameter.grad, torch.float64)


@EVERY
def test_two_layers_do_not_share_memory(make: Callable[..., Module]) -> None:
    one, other = double(make), double(make)
    x, y = data(1), data(2)
    output = one(x)
    cotangent = random_tensor(tuple(output.shape), 3)
    other(y)
    grad = one.backward(cotangent)
    alone = double(make)
    alone(x)
    assert torch.equal(alone.backward(cotangent), grad)


# Modes


@EVERY
def test_backward_needs_a_forward_in_training_mode(make: Callable[..., Module]) -> None:
    layer = double(make)
    output = layer.eval()(data(1))
    assert not layer.training
    cotangent = torch.ones_like(output)
    with pytest.raises(InvalidValue, match="forward"):
        layer.backward(cotangent)
    layer.train()
    assert layer.training
    with pytest.raises(InvalidValue, match="forward"):
        layer.backward(cotangent)


@EVERY
def test_inference_keeps_neither_input_nor_output(make: Callable[..., Module]) -> None:
    layer = double(make)
    x = data(1)
    own = storages([parameter.value for parameter in layer.named_parameters().values()])
    own |= storages([parameter.grad for parameter in layer.named_parameters().values()])
    layer(x)  # leaves something behind that eval() must let go of
    layer.eval()
    output = layer(x)
    held = storages(layer)
    assert x.untyped_storage().data_ptr() not in held
    assert output.untyped_storage().data_ptr() not in held
    layer.release()
    assert storages(layer) == own, "more than the parameters is left after release()"
    assert torch.equal(layer(x), output)


@EVERY
def test_release_in_training(make: Callable[..., Module]) -> None:
    layer = double(make)
    x = data(1)
    output = layer(x)
    cotangent = random_tensor(tuple(output.shape), 2)
    grad = layer.backward(cotangent)
    kept = output.clone(), grad.clone()
    layer.release()
    assert torch.equal(layer(x), kept[0])
    assert torch.equal(layer.backward(cotangent), kept[1])
    assert torch.equal(output, kept[0])
    assert torch.equal(grad, kept[1])


@EVERY
def test_modes_give_the_same_output(make: Callable[..., Module]) -> None:
    layer = double(make)
    for shape in OTHERS:
        x = data(1, shape)
        assert torch.equal(layer.train()(x), layer.eval()(x))


def test_modes_reach_every_module() -> None:
    net = make_net()
    assert all(module.training for module in net.modules())
    assert net.eval() in (net, None)
    assert not any(module.training for module in net.modules())
    net.train()
    assert all(module.training for module in net.modules())
    kinds = [type(module) for module in net.modules()]
    assert kinds.count(Conv2d) == 3
    assert kinds.count(LeakyReLU) == 1
    assert kinds.count(Skip) == 1


# Parameters


def test_param_gives_values_and_gradients_themselves() -> None:
    net = make_net(generator=seeded(1))
    named = net.named_parameters()
    assert all(isinstance(parameter, Parameter) for parameter in named.values())
    pairs = net.param()
    assert len(pairs) == len(named) == 8
    for (value, grad), parameter in zip(pairs, named.values(), strict=True):
        assert value is parameter.value
        assert grad is parameter.grad
        assert not grad.any()
        assert grad.shape == value.shape
        assert grad.dtype == value.dtype


def test_gradients_add_up_until_zeroed_in_place() -> None:
    net = double(make_net)
    x = data(1)
    cotangent = torch.ones_like(net(x))
    grads = [grad for _, grad in net.param()]
    net.backward(cotangent)
    once = [grad.clone() for grad in grads]
    assert all(grad.any() for grad in grads)
    net(x)
    net.backward(cotangent)
    for grad, single in zip(grads, once, strict=True):
        assert_close("two backwards", grad, 2 * single, torch.float64)
    net.zero_grad()
    assert not any(grad.any() for grad in grads)
    assert all(grad is now for grad, (_, now) in zip(grads, net.param(), strict=True))


def test_a_parameter_starts_without_gradient() -> None:
    value = torch.arange(6.0).view(2, 3)
    parameter = Parameter(value)
    assert torch.equal(parameter.value, value)
    assert parameter.grad.shape == (2, 3)
    assert not parameter.grad.any()


class Gain(Module):
    """y = g · x, a layer that a user may write."""

    def __init__(self) -> None:
        self.gain = Parameter(torch.full((1,), 2.0))
        self.inner = ReLU()

    def forward(self, x: Tensor) -> Tensor:
        self.x = self.inner(x)
        return self.x * self.gain.value

    def backward(self, grad_output: Tensor) -> Tensor:
        self.gain.grad.add_((grad_output * self.x).sum())
        return self.inner.backward(grad_output * self.gain.value)


def test_a_module_of_the_users_own() -> None:
    net = Sequential(Gain(), Gain())
    assert list(net.state_dict()) == ["0.gain", "1.gain"]
    assert len(list(net.modules())) == 5
    assert net(torch.tensor([[[[-1.0, 3.0]]]])).tolist() == [[[[0.0, 12.0]]]]
    assert net.backward(torch.ones(1, 1, 1, 2)).tolist() == [[[[0.0, 4.0]]]]
    assert [grad.tolist() for _, grad in net.param()] == [[6.0], [6.0]]


# State


def test_a_state_is_a_copy() -> None:
    net = make_net(generator=seeded(1))
    state = net.state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    for value, _ in net.param():
        value.add_(1)
    assert all(torch.equal(state[name], before[name]) for name in before)
    for tensor in state.values():
        tensor.zero_()
    assert all(value.any() for value, _ in net.param())


def test_a_loaded_state_is_copied_into_the_same_tensors() -> None:
    one, other = make_net(generator=seeded(1)), make_net(generator=seeded(2))
    x = data(1).float()
    values = [value for value, _ in other.param()]
    state = one.state_dict()
    other.load_state_dict(state)
    assert torch.equal(one(x), other(x))
    assert all(old is new for old, (new, _) in zip(values, other.param(), strict=True))
    for tensor in state.values():
        tensor.zero_()
    assert torch.equal(one(x), other(x))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda state: state.pop("0.bias"), InvalidValue, ["0.bias", "missing"]),
        (lambda state: state.update({"9.gain": torch.ones(1)}), InvalidValue, ["9.gain"]),
        (
            lambda state: state.update({"4.bias": torch.ones(3)}),
            ShapeError,
            ["4.bias", "(4,)", "(3,)"],
        ),
        (
            lambda state: state.update({"0.weight": torch.ones(4, 6, 3, 3)}),
            ShapeError,
            ["0.weight", "(6, 4, 3, 3)", "(4, 6, 3, 3)"],
        ),
        (lambda state: state.update({"4.bias": torch.ones(())}), ShapeError, ["4.bias"]),
        (lambda state: state.clear(), InvalidValue, ["0.weight", "4.bias"]),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(
    change: Callable[[dict[str, Tensor]], object], error: type[N2NError], words: list[str]
) -> None:
    net = make_net(generator=seeded(1))
    before = net.state_dict()
    state = make_net(generator=seeded(2)).state_dict()
    change(state)
    with pytest.raises(error) as caught:
        net.load_state_dict(state)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_to_another_dtype() -> None:
    net = make_net(generator=seeded(1))
    x = data(1)
    before = net.state_dict()
    net(x.float())
    assert net.to(dtype=torch.float64) is net
    assert net.to("cpu") is net
    assert net.to() is net
    for name, parameter in net.named_parameters().items():
        assert parameter.value.dtype == parameter.grad.dtype == torch.float64
        assert torch.equal(parameter.value, before[name].double())
    output = net(x)
    assert output.dtype == torch.float64
    assert net.backward(torch.ones_like(output)).dtype == torch.float64


@EVERY
@pytest.mark.parametrize("wrong", [None, 1.0, [[1.0]]])
def test_refuses_what_is_no_tensor(make: Callable[..., Module], wrong: object) -> None:
    with pytest.raises((InvalidType, InvalidValue)):
        double(make)(wrong)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@EVERY
def test_on_a_cuda_device(make: Callable[..., Module]) -> None:
    layer, twin = double(make).to("cuda"), double(make)
    for seed, shape in enumerate(OTHERS):
        x = data(seed, shape)
        output = layer(x.cuda())
        assert_close("output", output.cpu(), twin(x), torch.float64)
        cotangent = random_tensor(tuple(output.shape), seed)
        grad = layer.backward(cotangent.cuda())
        assert_close("gradient", grad.cpu(), twin.backward(cotangent), torch.float64)
    for (_, found), (_, expected) in zip(layer.param(), twin.param(), strict=True):
        assert found.is_cuda
        assert_close("gradient of a parameter", found.cpu(), expected, torch.float64)


# The helper that compares layers can fail, and says at what


class Transposed(ReLU):
    """A ReLU whose gradient is all there, but in the wrong place."""

    def backward(self, grad_output: Tensor) -> Tensor:
        return super().backward(grad_output).flip(3)


class Overwriting(Conv2d):
    """A convolution that forgets the gradients of earlier calls."""

    def backward(self, grad_output: Tensor) -> Tensor:
        self.zero_grad()
        return super().backward(grad_output)


class Greedy(ReLU):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x).clone()
        x.fill_(0)
        return y


class Single(ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


@pytest.mark.parametrize(
    ("layer", "reference", "blamed"),
    [
        (Sigmoid(), torch.nn.ReLU(), "output"),
        (PixelUnshuffle(2), torch.nn.ReLU(), "output: shape"),
        (Single(), torch.nn.ReLU(), "output: torch.float32"),
        (Transposed(), torch.nn.ReLU(), "gradient of the input"),
        (Greedy(), torch.nn.ReLU(), "the input was changed"),
        (
            Overwriting(4, 2, 1, dtype=torch.float64),
            torch.nn.Conv2d(4, 2, 1),
            "gradient of weight after 2 backward",
        ),
    ],
)
def test_the_helper_names_what_differs(layer: Module, reference: Any, blamed: str) -> None:
    with pytest.raises(AssertionError, match=blamed):
        check_layer(layer, reference, data(1))
