"""ReLU, LeakyReLU, Sigmoid."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from n2n.errors import InvalidType, InvalidValue
from n2n.nn import LeakyReLU, ReLU, Sigmoid

from .check import check_layer
from .strategies import Case, cases


@given(cases())
def test_relu_agrees_with_torch(case: Case) -> None:
    check_layer(ReLU(), torch.nn.ReLU(), case.input(), **case.how())


@given(cases(), st.integers(1, 3))
def test_relu_agrees_with_torch_at_zero(case: Case, levels: int) -> None:
    check_layer(ReLU(), torch.nn.ReLU(), case.input(levels), **case.how())


@given(cases(), st.floats(-1, 2), st.sampled_from([None, 3]))
def test_leaky_relu_agrees_with_torch(case: Case, slope: float, levels: int | None) -> None:
    reference = torch.nn.LeakyReLU(slope)
    check_layer(LeakyReLU(slope), reference, case.input(levels), **case.how())


@given(cases())
def test_sigmoid_agrees_with_torch(case: Case) -> None:
    check_layer(Sigmoid(), torch.nn.Sigmoid(), case.input(), **case.how())


def test_relu_by_hand() -> None:
    layer = ReLU()
    assert layer(torch.tensor([[[[-2.0, 0.0, 3.0]]]])).tolist() == [[[[0.0, 0.0, 3.0]]]]
    assert layer.backward(torch.tensor([[[[5.0, 6.0, 7.0]]]])).tolist() == [[[[0.0, 0.0, 7.0]]]]


def test_leaky_relu_by_hand() -> None:
    layer = LeakyReLU(0.5)
    assert layer(torch.tensor([[[[-2.0, 0.0, 3.0]]]])).tolist() == [[[[-1.0, 0.0, 3.0]]]]
    assert layer.backward(torch.tensor([[[[5.0, 6.0, 7.0]]]])).tolist() == [[[[2.5, 3.0, 7.0]]]]


@given(st.floats(-1, 2), st.integers(0, 1000))
def test_leaky_relu_leaves_positive_values_exactly_as_they_are(slope: float, seed: int) -> None:
    x = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) + 0.1
    layer = LeakyReLU(slope)
    assert torch.equal(layer(x), x)
    assert torch.equal(layer.backward(x), x)


def test_sigmoid_by_hand() -> None:
    """sigmoid(0) = 1/2 and sigmoid(ln 3) = 3/4, of slopes 1/4 and 3/16."""
    layer = Sigmoid()
    x = torch.tensor([[[[0.0, 3.0]]]], dtype=torch.float64)
    x[..., 1].log_()
    assert layer(x).flatten().tolist() == pytest.approx([0.5, 0.75], abs=1e-15)
    grad = layer.backward(torch.full_like(x, 16.0))
    assert grad.flatten().tolist() == pytest.approx([4.0, 3.0], abs=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sigmoid_is_stable_far_out(dtype: torch.dtype) -> None:
    layer = Sigmoid()
    x = torch.tensor([[[[-1e30, -1e4, -80.0, 80.0, 1e4, 1e30]]]], dtype=dtype)
    y = layer(x).flatten()
    assert y[[0, 1, 4, 5]].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert 0 < y[2] < 1e-30
    assert y[3] <= 1
    grad = layer.backward(torch.ones_like(x))
    assert grad.isfinite().all()
    assert (grad >= 0).all()


@pytest.mark.parametrize("slope", [float("nan"), float("inf"), "0.1", None])
def test_leaky_relu_refuses_a_slope_that_is_no_number(slope: float) -> None:
    with pytest.raises((InvalidValue, InvalidType), match="negative_slope"):
        LeakyReLU(slope)


@pytest.mark.parametrize("layer", [ReLU(), LeakyReLU(), Sigmoid()])
def test_each_output_depends_on_its_own_input_alone(layer: ReLU) -> None:
    assert layer.input_span((2, 5), 0) == (2, 5)
    assert layer.input_span((0, 0), 1) == (0, 0)
