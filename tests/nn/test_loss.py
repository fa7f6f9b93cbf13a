"""The losses, against torch's own or the formula under autograd."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from n2n.errors import InvalidType, InvalidValue, N2NError, ShapeError
from n2n.nn import L0Loss, L1Loss, LogMSELoss, Loss, MSELoss, RelativeMSELoss

from .check import assert_close, lay_out, random_tensor
from .strategies import Case, cases, layouts

ALL = pytest.mark.parametrize("loss_class", [MSELoss, L1Loss, L0Loss, LogMSELoss, RelativeMSELoss])
REDUCTIONS = ("none", "mean", "sum")


def reduced(values: torch.Tensor, reduction: str) -> torch.Tensor:
    return values if reduction == "none" else getattr(values, reduction)()


def log_mse(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Each element has its image's loss, and the derivative of its own square in that."""
    squares = (prediction - target) ** 2
    errors = squares.detach().flatten(1).mean(1) if squares.dim() > 1 else squares.detach()
    errors = 1e-4 + errors.reshape(-1, *[1] * (squares.dim() - 1))
    return errors.log() + (squares - squares.detach()) / errors


def reference_of(loss: Loss) -> Any:
    """The loss of a prediction that requires a gradient and a target."""
    if isinstance(loss, L0Loss):
        return lambda p, t: reduced(((p - t).abs() + 1 / 255) ** loss.gamma, loss.reduction)
    if isinstance(loss, LogMSELoss):  # of the gradient an image's elements have even shares
        return lambda p, t: reduced(log_mse(p, t), loss.reduction)
    if isinstance(loss, RelativeMSELoss):  # the divisor is a constant for the gradient
        return lambda p, t: reduced(((p - t) / (p.detach().abs() + 0.01)) ** 2, loss.reduction)
    return getattr(torch.nn, type(loss).__name__)(reduction=loss.reduction)


@ALL
@given(cases(), layouts, st.sampled_from(REDUCTIONS), st.sampled_from([None, 3]), st.booleans())
def test_agrees_with_torch(
    loss_class: Any, case: Case, layout: str, reduction: str, levels: int | None, weighted: bool
) -> None:
    """With few levels, many predictions equal their target."""
    loss = loss_class(reduction=reduction)
    reference = reference_of(loss)
    prediction = case.input(levels)
    target = lay_out(
        random_tensor(case.shape, case.seed + 9, dtype=case.dtype, levels=levels), layout
    )
    for _ in range(2):
        leaf = prediction.double().clone().requires_grad_()
        expected = reference(leaf, target.double())
        before = prediction.clone(), target.clone()
        value = loss(prediction, target)
        assert_close("value", value, expected, case.dtype)

        cotangent = random_tensor(tuple(expected.shape), case.seed, dtype=case.dtype)
        if not (weighted and reduction == "none"):
            cotangent = torch.ones_like(cotangent)
        expected.backward(cotangent.double())
        grad = loss.backward(cotangent) if weighted and reduction == "none" else loss.backward()
        assert leaf.grad is not None
        assert_close("gradient of the prediction", grad, leaf.grad, case.dtype)
        assert torch.equal(prediction, before[0]), "the prediction was changed"
        assert torch.equal(target, before[1]), "the target was changed"


@given(cases(), st.floats(0, 1), st.sampled_from([None, 3]))
def test_annealed_l0_agrees_with_autograd(case: Case, progress: float, levels: int | None) -> None:
    loss = L0Loss()
    loss.anneal(progress)
    assert loss.gamma == pytest.approx(2 - 2 * progress)
    case = replace(case, dtype=torch.float64)
    prediction = case.input(levels)
    target = random_tensor(case.shape, case.seed + 9, dtype=case.dtype, levels=levels)
    leaf = prediction.clone().requires_grad_()
    expected = reference_of(loss)(leaf, target)
    expected.backward()
    assert leaf.grad is not None
    assert_close("value", loss(prediction, target), expected, case.dtype)
    assert_close("gradient", loss.backward(), leaf.grad, case.dtype)


def test_l0_ends_at_the_mode() -> None:
    """The best single value for targets: their mean, then a median, then their mode."""
    targets = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.9, 0.9, 1.0], dtype=torch.float64)
    grid = torch.linspace(0, 1, 1001, dtype=torch.float64)
    loss = L0Loss("none")
    best = []
    for progress in (0.0, 0.5, 0.99):
        loss.anneal(progress)
        costs = loss(grid[:, None].expand(-1, 8), targets.expand(1001, -1)).sum(1)
        best.append(float(grid[costs.argmin()]))
    assert best[0] == pytest.approx(float(targets.mean()), abs=1e-3)
    assert 0.3 <= best[1] <= 0.4
    assert best[2] == pytest.approx(0.9)


def test_values_that_fit_exactly_do_not_outweigh_all_others_in_l0() -> None:
    """Near the end, of errors of 1e-7 and a tenth: as 1 over a level of 255, and over a tenth."""
    loss = L0Loss("none")
    loss.anneal(0.999)
    loss(torch.tensor([1e-7, 0.1], dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    near, far = loss.backward().tolist()
    assert near / far == pytest.approx((0.1 + 1 / 255) * 255, rel=0.02)


def test_relative_mse_by_hand() -> None:
    """d = 1 over 1 + 0.01, d = -0.5 over 0.5 + 0.01: (1/1.01)² and (0.5/0.51)²."""
    loss = RelativeMSELoss("none")
    value = loss(torch.tensor([1.0, 0.5]), torch.tensor([0.0, 1.0]))
    assert value.tolist() == pytest.approx([0.980296, 0.961169], rel=1e-5)
    assert loss.backward().tolist() == pytest.approx([2 / 1.01**2, -1 / 0.51**2], rel=1e-5)


def test_log_mse_is_the_log_of_each_images_mean() -> None:
    prediction = random_tensor((3, 2, 5, 4), 1, dtype=torch.float64).requires_grad_()
    target = random_tensor((3, 2, 5, 4), 2, dtype=torch.float64)
    errors = torch.stack([((p - t) ** 2).mean() for p, t in zip(prediction, target, strict=True)])
    expected = (errors + 1e-4).log().mean()
    expected.backward()
    loss = LogMSELoss()
    assert float(loss(prediction, target)) == pytest.approx(expected.item())
    assert torch.allclose(loss.backward(), prediction.grad, rtol=1e-12)


def test_log_mse_weighs_noisier_targets_less() -> None:
    """The mean of targets of σ 0.1 and 1 by the weights 100 and 1, as of least variance."""
    noise = random_tensor((2, 100_000), 3, dtype=torch.float64)
    target = 5 + noise / noise.std(1, keepdim=True) * torch.tensor([[0.1], [1.0]])
    loss = LogMSELoss(epsilon=1e-9)
    loss(torch.full_like(target, 5.0), target)
    each = loss.backward().abs().mean(1)
    assert float(each[0] / each[1]) == pytest.approx(10, rel=0.05)  # a hundred times a tenth


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
@ALL
def test_progress_is_a_share(loss_class: Any, progress: float) -> None:
    with pytest.raises(InvalidValue, match=r"progress must be in \[0, 1\]"):
        loss_class().anneal(progress)


@pytest.mark.parametrize("loss_class", [L0Loss, LogMSELoss, RelativeMSELoss])
def test_epsilon_is_above_zero(loss_class: Any) -> None:
    with pytest.raises(InvalidValue, match="epsilon must be above 0, got 0"):
        loss_class(epsilon=0.0)


def test_mse_by_hand() -> None:
    """Differences 1, -2, 3, 0: squares 1 + 4 + 9 + 0 = 14, a mean of 3.5, gradient 2 · d / 4."""
    prediction, target = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[0.0, 4.0, 0.0, 4.0]])
    mean, total, each = (MSELoss(reduction) for reduction in ("mean", "sum", "none"))
    assert MSELoss()(prediction, target) == mean(prediction, target) == 3.5
    assert mean(prediction, target).shape == ()
    assert total(prediction, target) == 14
    assert each(prediction, target).tolist() == [[1.0, 4.0, 9.0, 0.0]]
    assert mean.backward().tolist() == [[0.5, -1.0, 1.5, 0.0]]
    assert total.backward().tolist() == [[2.0, -4.0, 6.0, 0.0]]
    assert each.backward().tolist() == [[2.0, -4.0, 6.0, 0.0]]
    assert each.backward(torch.tensor([[1.0, 10.0, 0.0, 1.0]])).tolist() == [[2.0, -40.0, 0.0, 0.0]]


def test_l1_by_hand() -> None:
    """Differences 1, -2, 3, 0: sizes 1 + 2 + 3 + 0 = 6; where they are equal the gradient is 0."""
    prediction, target = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[0.0, 4.0, 0.0, 4.0]])
    mean, total, each = (L1Loss(reduction) for reduction in ("mean", "sum", "none"))
    assert L1Loss()(prediction, target) == mean(prediction, target) == 1.5
    assert total(prediction, target) == 6
    assert each(prediction, target).tolist() == [[1.0, 2.0, 3.0, 0.0]]
    assert mean.backward().tolist() == [[0.25, -0.25, 0.25, 0.0]]
    assert total.backward().tolist() == [[1.0, -1.0, 1.0, 0.0]]
    assert each.backward(torch.tensor([[1.0, 10.0, 0.0, 1.0]])).tolist() == [[1.0, -10.0, 0.0, 0.0]]


@ALL
@pytest.mark.parametrize(
    "shapes", [((2, 3, 4, 4), (2, 1, 4, 4)), ((1, 3, 4, 4), (3, 4, 4)), ((4,), ()), ((4,), (1,))]
)
def test_refuses_shapes_that_would_broadcast(
    loss_class: Any, shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    one, other = (torch.zeros(shape) for shape in shapes)
    for prediction, target in ((one, other), (other, one)):
        with pytest.raises(ShapeError, match=loss_class.__name__) as caught:
            loss_class()(prediction, target)
        assert str(tuple(prediction.shape)) in str(caught.value)
        assert str(tuple(target.shape)) in str(caught.value)


@ALL
def test_refuses_another_reduction(loss_class: Any) -> None:
    with pytest.raises((InvalidValue, InvalidType), match=r"reduction.*average"):
        loss_class("average")
    with pytest.raises((InvalidValue, InvalidType), match="reduction"):
        loss_class(None)


@ALL
def test_backward_needs_a_forward(loss_class: Any) -> None:
    with pytest.raises(N2NError):
        loss_class().backward()


@ALL
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_what_is_returned_belongs_to_the_caller(loss_class: Any, reduction: str) -> None:
    loss = loss_class(reduction)
    x = [random_tensor((2, 3, 4, 4), seed) for seed in range(4)]
    value = loss(x[0], x[1])
    grad = loss.backward()
    kept = value.clone(), grad.clone()
    for prediction, target in ((x[2], x[3]), (x[2][:1], x[3][:1])):
        loss(prediction, target)
        loss.backward()
        assert torch.equal(value, kept[0])
        assert torch.equal(grad, kept[1])


def test_a_gradient_of_more_than_one_number_is_refused() -> None:
    loss = MSELoss()
    loss(torch.ones(2, 3), torch.zeros(2, 3))
    with pytest.raises(ShapeError, match="one number"):
        loss.backward(torch.ones(3))
