"""SGD, Adam, AdamW, Muon: as torch.optim, bit for bit again, to the minimum, and resumed."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from n2n.errors import InvalidType, InvalidValue
from n2n.nn import SGD, Adam, AdamW, Conv2d, Muon, clip_gradients

from .check import assert_close, seeded
from .strategies import dtypes, seeds

ALL = [
    pytest.param(SGD, {"lr": 0.1}, id="SGD"),
    pytest.param(SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}, id="SGD-momentum"),
    pytest.param(SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}, id="SGD-nesterov"),
    pytest.param(Adam, {"lr": 0.1}, id="Adam"),
    pytest.param(Adam, {"lr": 0.1, "weight_decay": 0.01}, id="Adam-decay"),
    pytest.param(AdamW, {"lr": 0.1}, id="AdamW"),
    pytest.param(Muon, {"lr": 0.1}, id="Muon"),
]
EVERY = pytest.mark.parametrize(("optimiser_class", "options"), ALL)
SHAPES = [(3, 2, 2, 2), (3,), (1, 4), (32, 9, 2, 2)]  # the last is a matrix for Muon

rates = st.floats(1e-4, 1)
decays = st.sampled_from([0.0, 1e-4, 0.1])
sgd = st.fixed_dictionaries(
    {
        "lr": rates,
        "momentum": st.sampled_from([0.0, 0.5, 0.9]),
        "dampening": st.sampled_from([0.0, 0.5]),
        "weight_decay": decays,
        "maximize": st.booleans(),
    }
)
nesterov = st.fixed_dictionaries(
    {
        "lr": rates,
        "momentum": st.sampled_from([0.5, 0.9]),
        "weight_decay": decays,
        "nesterov": st.just(True),
        "maximize": st.booleans(),
    }
)
adam = st.fixed_dictionaries(
    {
        "lr": rates,
        "betas": st.sampled_from([(0.9, 0.999), (0.5, 0.9), (0.0, 0.99), (0.0, 0.0)]),
        "eps": st.sampled_from([1e-8, 1e-3]),
        "weight_decay": decays,
    }
)


def start(dtype: torch.dtype = torch.float64, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    """Values and gradients of some parameters."""
    generator = seeded(seed)
    return [
        (torch.randn(shape, generator=generator, dtype=dtype), torch.zeros(shape, dtype=dtype))
        for shape in SHAPES
    ]


def draw_gradients(params: list[tuple[Tensor, Tensor]], seed: int) -> None:
    generator = seeded(seed)
    for value, grad in params:
        drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        grad.copy_(drawn.to(value.dtype))


def run(optimiser: Any, params: list[tuple[Tensor, Tensor]], steps: range) -> None:
    for step in steps:
        draw_gradients(params, step)
        optimiser.step()


@given(
    st.tuples(st.just(SGD), sgd | nesterov)
    | st.tuples(st.sampled_from([Adam, AdamW]), adam)
    | st.tuples(st.sampled_from([Adam, AdamW]), st.just({})),
    dtypes,
    seeds,
)
def test_agrees_with_torch(
    what: tuple[type, dict[str, Any]], dtype: torch.dtype, seed: int
) -> None:
    optimiser_class, options = what
    params = start(dtype, seed)
    twins = [torch.nn.Parameter(value.double()) for value, _ in params]
    optimiser = optimiser_class(params, **options)
    twin = getattr(torch.optim, optimiser_class.__name__)(twins, **options)
    for step in range(6):
        draw_gradients(params, seed + step)
        for (_, grad), reference in zip(params, twins, strict=True):
            reference.grad = grad.double()
        if step == 3:
            optimiser.lr = 0.5 * optimiser.lr
            twin.param_groups[0]["lr"] *= 0.5
        before = [grad.clone() for _, grad in params]
        optimiser.step()
        twin.step()
        for number, ((value, grad), reference) in enumerate(zip(params, twins, strict=True)):
            assert_close(f"parameter {number} after {step + 1} steps", value, reference, dtype)
            assert torch.equal(grad, before[number]), f"gradient {number} was changed"


@pytest.mark.parametrize("optimiser_class", [Adam, AdamW])
def test_defaults_are_those_of_torch(optimiser_class: Any) -> None:
    reference = getattr(torch.optim, optimiser_class.__name__)([torch.nn.Parameter(torch.ones(1))])
    assert optimiser_class(start()).lr == reference.defaults["lr"] == 1e-3


def test_sgd_by_hand() -> None:
    """lr 0.1, momentum 0.5, gradient 1: velocities 1 and 1.5, so 1 - 0.1 - 0.15 = 0.75."""
    value, grad = torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    optimiser = SGD([(value, grad)], lr=0.1, momentum=0.5)
    optimiser.step()
    assert value.item() == pytest.approx(0.9, rel=1e-15)
    optimiser.step()
    assert value.item() == pytest.approx(0.75, rel=1e-15)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_first_step_of_adam_by_hand(size: float) -> None:
    """Corrected moments are g and g²: a step of lr · g / (|g| + eps), lr for any size of g."""
    value, grad = torch.zeros(2, dtype=torch.float64), torch.tensor([size, -size]).double()
    Adam([(value, grad)], lr=0.25, eps=0.0).step()
    assert value.tolist() == pytest.approx([-0.25, 0.25], rel=1e-12)


def test_decay_of_adamw_by_hand() -> None:
    """Without a gradient nothing moves but the decay: w (1 - lr · decay)."""
    value, grad = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    AdamW([(value, grad)], lr=0.5, weight_decay=0.1).step()
    assert value.item() == pytest.approx(0.95, rel=1e-15)


@EVERY
def test_repeats_bit_for_bit(optimiser_class: Any, options: dict[str, Any]) -> None:
    ends = []
    for _ in range(2):
        params = start(torch.float32)
        run(optimiser_class(params, **options), params, range(10))
        ends.append([value for value, _ in params])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


@EVERY
def test_converges_on_a_quadratic(optimiser_class: Any, options: dict[str, Any]) -> None:
    """½ Σ c (w - t)², curvatures from 0.5 to 2; decay, which pulls at t, switched off."""
    target = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    curvature = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    value, grad = torch.zeros_like(target), torch.zeros_like(target)
    optimiser = optimiser_class([(value, grad)], **(options | {"weight_decay": 0.0}))
    for step in range(1000):
        grad.copy_(curvature * (value - target))
        optimiser.lr = 0.1 * 0.995**step
        optimiser.step()
    assert value.tolist() == pytest.approx(target.tolist(), abs=1e-3)


@EVERY
def test_resumed_equals_uninterrupted(optimiser_class: Any, options: dict[str, Any]) -> None:
    whole = start(torch.float32)
    run(optimiser_class(whole, **options), whole, range(10))

    params = start(torch.float32)
    first = optimiser_class(params, **options)
    run(first, params, range(5))
    state = first.state_dict()
    assert all(isinstance(name, str) for name in state)
    assert all(isinstance(tensor, Tensor) for tensor in state.values())
    copied = {name: tensor.clone() for name, tensor in state.items()}

    again = [(value.clone(), torch.zeros_like(grad)) for value, grad in params]
    second = optimiser_class(again, **options)
    second.load_state_dict(state)
    run(second, again, range(5, 10))
    run(first, params, range(5, 10))
    for (value, _), (resumed, _), (kept, _) in zip(whole, again, params, strict=True):
        assert torch.equal(resumed, value)
        assert torch.equal(kept, value)
    for name, tensor in copied.items():
        assert torch.equal(state[name], tensor), f"{name}: a snapshot changed with later steps"


@pytest.mark.parametrize(("optimiser_class", "options"), [ALL[1].values, ALL[3].values])
def test_state_of_other_parameters_is_refused(
    optimiser_class: Any, options: dict[str, Any]
) -> None:
    params = start()
    optimiser = optimiser_class(params, **options)
    run(optimiser, params, range(2))
    state = optimiser.state_dict()
    other = optimiser_class([(torch.zeros(7), torch.zeros(7))], **options)
    with pytest.raises(InvalidValue):
        other.load_state_dict(state)
    with pytest.raises(InvalidValue):
        optimiser_class(start(), **options).load_state_dict(state | {"what.is_this": torch.ones(1)})


@EVERY
def test_zero_grad_keeps_the_tensors(optimiser_class: Any, options: dict[str, Any]) -> None:
    params = start()
    optimiser = optimiser_class(params, **options)
    draw_gradients(params, 1)
    optimiser.zero_grad()
    assert all(not grad.any() for _, grad in params)


@EVERY
def test_steps_a_network(
    optimiser_class: Any, options: dict[str, Any], generator: torch.Generator
) -> None:
    layer = Conv2d(2, 2, 3, padding=1, generator=generator)
    x = torch.randn(4, 2, 6, 6, generator=generator)
    optimiser = optimiser_class(layer.param(), **options)
    before = layer.state_dict()
    layer.backward(layer(x))
    optimiser.step()
    for name, value in layer.state_dict().items():
        assert not torch.equal(value, before[name])


def test_state_can_be_loaded_after_the_optimiser_was_made(generator: torch.Generator) -> None:
    """An optimiser holds a layer's tensors: loading weights must not take them away."""
    layer = Conv2d(1, 1, 1, generator=generator)
    optimiser = SGD(layer.param(), lr=1.0)
    layer.load_state_dict({"weight": torch.ones(1, 1, 1, 1), "bias": torch.zeros(1)})
    layer(torch.ones(1, 1, 1, 1))
    layer.backward(torch.ones(1, 1, 1, 1))
    optimiser.step()
    assert layer(torch.ones(1, 1, 1, 1)).item() == 0 - 1.0
    optimiser.zero_grad()
    assert not layer.weight.grad.any()


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "1", None])
@pytest.mark.parametrize("optimiser_class", [SGD, Adam, AdamW, Muon])
def test_refuses_a_learning_rate(optimiser_class: Any, value: Any) -> None:
    with pytest.raises((InvalidValue, InvalidType), match="lr"):
        optimiser_class(start(), lr=value)


@pytest.mark.parametrize("optimiser_class", [SGD, Adam, AdamW, Muon])
def test_a_learning_rate_of_zero_changes_nothing(optimiser_class: Any) -> None:
    params = start()
    run(optimiser_class(params, lr=0.0), params, range(3))
    assert all(torch.equal(p, q) for (p, _), (q, _) in zip(params, start(), strict=True))


NAN = float("nan")


@pytest.mark.parametrize(
    ("optimiser_class", "options", "argument"),
    [
        (SGD, {"momentum": -0.1}, "momentum"),
        (SGD, {"momentum": NAN}, "momentum"),
        (SGD, {"dampening": NAN}, "dampening"),
        (SGD, {"weight_decay": -1e-4}, "weight_decay"),
        (SGD, {"weight_decay": NAN}, "weight_decay"),
        (SGD, {"nesterov": True}, "nesterov"),
        (SGD, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "nesterov"),
        (Adam, {"betas": (-0.1, 0.9)}, "beta"),
        (Adam, {"betas": (0.9, 1.0)}, "beta"),
        (Adam, {"betas": (0.9, NAN)}, "beta"),
        (Adam, {"betas": 0.9}, "beta"),
        (Adam, {"betas": (0.9,)}, "beta"),
        (Adam, {"eps": -1e-8}, "eps"),
        (Adam, {"eps": NAN}, "eps"),
        (Adam, {"weight_decay": -1.0}, "weight_decay"),
        (AdamW, {"weight_decay": NAN}, "weight_decay"),
        (AdamW, {"betas": (1.0, 0.9)}, "beta"),
        (Muon, {"momentum": 1.0}, "momentum"),
        (Muon, {"momentum": NAN}, "momentum"),
        (Muon, {"iterations": 0}, "iterations"),
        (Muon, {"weight_decay": -1.0}, "weight_decay"),
    ],
)
def test_refuses_an_option_by_name(
    optimiser_class: Any, options: dict[str, Any], argument: str
) -> None:
    with pytest.raises((InvalidValue, InvalidType), match=argument):
        optimiser_class(start(), **({"lr": 0.1} | options))


@given(st.floats(1e-3, 1e3), seeds, dtypes)
def test_clipping_is_that_of_torch(max_norm: float, seed: int, dtype: torch.dtype) -> None:
    params = start(dtype, seed)
    twins = [torch.nn.Parameter(value.clone()) for value, _ in params]
    for twin, (_, grad) in zip(twins, params, strict=True):
        twin.grad = grad.clone()
    expected = torch.nn.utils.clip_grad_norm_(twins, max_norm)
    assert_close("norm", clip_gradients(params, max_norm), expected, dtype)
    for twin, (_, grad) in zip(twins, params, strict=True):
        assert twin.grad is not None
        assert_close("gradient", grad, twin.grad, dtype)


def test_clipping_by_hand() -> None:
    """(3, 4) has the norm 5: a fifth of it has 1."""
    grad = torch.tensor([3.0, 4.0])
    assert clip_gradients([(torch.zeros(2), grad)], 1.0) == 5
    assert grad.tolist() == pytest.approx([0.6, 0.8])
    assert clip_gradients([(torch.zeros(2), grad)], 2.0) == pytest.approx(1.0)
    assert grad.tolist() == pytest.approx([0.6, 0.8])


def test_clipping_refuses_what_has_no_meaning() -> None:
    with pytest.raises(InvalidValue, match="max_norm must be above 0, got 0"):
        clip_gradients(start(), 0)
    with pytest.raises(InvalidValue, match="gradients to clip expected, got none"):
        clip_gradients([], 1.0)
