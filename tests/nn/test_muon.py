"""Muon: what it makes of singular values, as torch.optim.Muon, and AdamW's step elsewhere."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from n2n.errors import InvalidValue, ShapeError
from n2n.nn import AdamW, Muon
from n2n.nn.muon import orthogonalise

from .check import seeded
from .strategies import seeds

sides = st.integers(1, 40)


@given(sides, sides, seeds)
def test_singular_values_go_through_the_polynomial(rows: int, columns: int, seed: int) -> None:
    """The same singular vectors; the values number by number, where an SVD has taken them apart."""
    matrix = torch.randn(rows, columns, generator=seeded(seed), dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    expected = values / (matrix.norm() + 1e-7)
    for _ in range(5):
        expected = 3.4445 * expected - 4.7750 * expected**3 + 2.0315 * expected**5
    found = orthogonalise(matrix)
    torch.testing.assert_close(found, left @ torch.diag(expected) @ right, rtol=1e-6, atol=1e-9)


def test_all_directions_are_stretched_alike() -> None:
    """Values over a hundredfold range come out between 0.68 and 1.21, as Jordan's plots show."""
    generator = seeded(3)
    left, _ = torch.linalg.qr(torch.randn(64, 64, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(96, 64, generator=generator))
    matrix = left @ torch.diag(torch.logspace(-2, 0, 64)) @ right.t()
    values = torch.linalg.svdvals(orthogonalise(matrix))
    assert 0.66 < values.min() < values.max() < 1.22


def test_a_matrix_of_zeros_stays() -> None:
    assert not orthogonalise(torch.zeros(3, 5)).any()


@pytest.mark.parametrize("shape", [(32, 48), (64, 40)])
def test_steps_are_those_of_torch(shape: tuple[int, int]) -> None:
    """torch multiplies in bf16, so to a hundredth; its directions are ours."""
    generator = seeded(5)
    value = torch.randn(shape, generator=generator)
    twin = torch.nn.Parameter(value.clone())
    grad = torch.zeros(shape)
    mine = Muon([(value, grad)], lr=0.02, weight_decay=0.1)
    other = torch.optim.Muon([twin], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        grad.copy_(torch.randn(shape, generator=generator))
        twin.grad = grad.clone()
        before = value.clone()
        mine.step()
        other.step()
        moved, expected = value - before, twin.detach() - before
        assert (moved - expected).norm() < 0.02 * expected.norm(), step
        twin.data.copy_(value)
    assert moved.norm() > 0.1


@pytest.mark.parametrize("shape", [(64, 3, 3, 3), (31, 32, 2, 2), (64,)])
def test_what_is_no_large_matrix_takes_the_step_of_adamw(shape: tuple[int, ...]) -> None:
    ends = []
    for kind in (AdamW, Muon):
        generator = seeded(7)
        value, grad = torch.randn(shape, generator=generator), torch.zeros(shape)
        optimiser: Any = kind([(value, grad)], lr=0.01, betas=(0.9, 0.95))
        for _ in range(3):
            grad.copy_(torch.randn(shape, generator=generator))
            optimiser.step()
        ends.append(value)
    assert torch.equal(*ends)


def test_a_gradient_that_grows_at_once_moves_no_number_by_more_than_about_lr() -> None:
    """After 2,000 quiet steps: by six times lr a step with AdamW's own mean of squares."""
    moved = {}
    for kind in (AdamW, Muon):
        value, grad = torch.zeros(5), torch.full((5,), 1e-6)
        optimiser: Any = kind([(value, grad)], lr=1.0, weight_decay=0.0)
        for _ in range(2000):
            optimiser.step()
        grad.fill_(1.0)
        places = []
        for _ in range(30):
            optimiser.step()
            places.append(float(value[0]))
        moved[kind] = max(abs(b - a) for a, b in itertools.pairwise(places))
    assert moved[AdamW] > 5
    assert 0.9 < moved[Muon] < 1.1


def test_the_step_does_not_grow_with_the_gradient() -> None:
    ends = []
    for size in (1.0, 1e-4):
        value, grad = torch.zeros(40, 10, 2, 2), torch.zeros(40, 10, 2, 2)
        grad.copy_(torch.randn(grad.shape, generator=seeded(1))).mul_(size)
        Muon([(value, grad)], lr=0.1).step()
        ends.append(value)
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-2, atol=1e-4)
    assert ends[0].square().mean().sqrt() == pytest.approx(0.2 * 0.1, rel=0.2)  # as Liu et al. say


def test_no_second_moment_is_kept_of_a_matrix() -> None:
    def params() -> list[tuple[Tensor, Tensor]]:
        return [(torch.zeros(32, 32), torch.ones(32, 32)), (torch.zeros(5), torch.ones(5))]

    optimiser = Muon(params())
    optimiser.step()
    state = optimiser.state_dict()
    assert {name: tensor.numel() for name, tensor in state.items()} == {
        "steps": 1, "mean.0": 1024, "mean.1": 5, "square.0": 0, "square.1": 5
    }  # fmt: skip
    Muon(params()).load_state_dict(state)
    with pytest.raises(InvalidValue):
        Muon(params()[:1]).load_state_dict(state)
    with pytest.raises(ShapeError, match=r"square.0 of shape \(0,\)"):
        Muon(params()).load_state_dict(state | {"square.0": torch.zeros(32, 32)})


def test_what_is_left_of_a_dead_row_is_zero() -> None:
    """Its products would be below the smallest float32 that processors are fast with."""
    matrix = torch.randn(40, 60, generator=seeded(2))
    without = matrix.clone()
    matrix[[3, 30]] *= 1e-18
    without[[3, 30]] = 0
    assert torch.equal(orthogonalise(matrix), orthogonalise(without))
    assert not orthogonalise(matrix)[[3, 30]].any()
