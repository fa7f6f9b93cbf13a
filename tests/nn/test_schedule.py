"""Learning rates by step, counted from 0."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from n2n.errors import InvalidType, InvalidValue
from n2n.nn import ConstantSchedule, CosineSchedule, StepSchedule


def of_torch(make: Any, lr: float, steps: int) -> list[float]:
    """The learning rates that a scheduler of torch goes through."""
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimiser)
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        optimiser.step()
        scheduler.step()
    return rates


def test_constant() -> None:
    schedule = ConstantSchedule(5.0)
    assert [schedule(step) for step in (0, 1, 10**9)] == [5.0, 5.0, 5.0]


@given(st.floats(1e-6, 10), st.integers(1, 5), st.floats(0.01, 1))
def test_step_agrees_with_torch(lr: float, step_size: int, gamma: float) -> None:
    schedule = StepSchedule(lr, step_size, gamma)
    expected = of_torch(lambda o: torch.optim.lr_scheduler.StepLR(o, step_size, gamma), lr, 12)
    assert [schedule(step) for step in range(12)] == pytest.approx(expected, rel=1e-12)


def test_step_by_hand() -> None:
    schedule = StepSchedule(8.0, 2)
    expected = [8.0, 8.0, 0.8, 0.8, 0.08]
    assert [schedule(step) for step in range(5)] == pytest.approx(expected, rel=1e-15)
    halved = StepSchedule(8.0, step_size=1, gamma=0.5)
    assert [halved(step) for step in range(4)] == [8.0, 4.0, 2.0, 1.0]


@given(st.floats(1e-6, 10), st.integers(2, 20), st.floats(0, 1))
def test_cosine_agrees_with_torch(lr: float, total: int, final: float) -> None:
    """torch reaches its last rate after T_max steps: that is step T_max, counted from 0."""
    schedule = CosineSchedule(lr, total, final=final)
    expected = of_torch(
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, total - 1, eta_min=final * lr),
        lr,
        total,
    )
    found = [schedule(step) for step in range(total)]
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12 * lr)


def test_cosine_by_hand() -> None:
    """Warm-up by quarters, then half a cosine in four steps: 1, (2 + √2)/4, 1/2, …, 0."""
    schedule = CosineSchedule(1.0, total_steps=9, warmup_steps=4)
    assert [schedule(step) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert schedule(8) == pytest.approx(0.0, abs=1e-15)
    middle = CosineSchedule(2.0, total_steps=5, final=0.5)
    expected = [2.0, 1.5 + 0.125**0.5, 1.5, 1.5 - 0.125**0.5, 1.0]
    assert [middle(step) for step in range(5)] == pytest.approx(expected, rel=1e-15)


@given(st.floats(1e-6, 10), st.integers(1, 20), st.integers(2, 30), st.floats(0, 1))
def test_cosine_with_warm_up(lr: float, warmup: int, rest: int, final: float) -> None:
    total = warmup + rest
    schedule = CosineSchedule(lr, total, warmup_steps=warmup, final=final)
    rates = [schedule(step) for step in range(total)]
    assert rates[:warmup] == pytest.approx([lr * (n + 1) / warmup for n in range(warmup)])
    assert rates[-1] == pytest.approx(final * lr, abs=1e-12 * lr)
    slack = 1e-12 * lr
    assert all(later <= rate + slack for rate, later in pairwise(rates[warmup:]))
    assert all(final * lr - slack <= rate <= lr + slack for rate in rates[warmup:])
    # The fall is symmetric about its middle, wherever its first step is counted.
    middle = (1 + final) * lr / 2
    assert any(
        sum(fall) / len(fall) == pytest.approx(middle)
        for fall in (rates[warmup - 1 :], rates[warmup:])
    )


@pytest.mark.parametrize("total", [1, 2, 3])
def test_shortest_cosines(total: int) -> None:
    """No division by zero; every rate is a number between 0 and lr."""
    for warmup in range(total):
        schedule = CosineSchedule(1.0, total, warmup_steps=warmup)
        assert all(0 <= schedule(step) <= 1 for step in range(total))


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: ConstantSchedule(-1.0), "lr"),
        (lambda: ConstantSchedule(float("nan")), "lr"),
        (lambda: ConstantSchedule(float("inf")), "lr"),
        (lambda: ConstantSchedule("5"), "lr"),
        (lambda: StepSchedule(-1.0, 5), "lr"),
        (lambda: StepSchedule(1.0, 0), "step_size"),
        (lambda: StepSchedule(1.0, 2.5), "step_size"),
        (lambda: StepSchedule(1.0, 5, gamma=-0.1), "gamma"),
        (lambda: StepSchedule(1.0, 5, gamma=float("nan")), "gamma"),
        (lambda: CosineSchedule(float("nan"), 5), "lr"),
        (lambda: CosineSchedule(1.0, 0), "total_steps"),
        (lambda: CosineSchedule(1.0, 5, warmup_steps=-1), "warmup_steps"),
        (lambda: CosineSchedule(1.0, 5, warmup_steps=6), "warmup_steps"),
        (lambda: CosineSchedule(1.0, 5, final=-0.5), "final"),
        (lambda: CosineSchedule(1.0, 5, final=float("nan")), "final"),
    ],
)
def test_refuses_an_argument_by_name(make: Any, argument: str) -> None:
    with pytest.raises((InvalidValue, InvalidType), match=argument):
        make()
