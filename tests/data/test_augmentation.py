"""Augmentation: every change against numpy by hand, even odds, pairs kept together."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n2n.data.augmentation import Augmentation

ALL = Augmentation(flips=True, turns=True, swap=True)
# No two of its eight flips and turns are equal.
SMALL = np.array([[[1, 2, 3], [4, 5, 6], [7, 8, 9]], [[11, 12, 13], [14, 15, 16], [17, 18, 19]]])
COUNT = 4000


def views(count: int = COUNT) -> tuple[np.ndarray, np.ndarray]:
    """Equal images but for their range: inputs below 100, targets from 100 on."""
    inputs = np.tile(SMALL.astype(np.uint8), (count, 1, 1, 1))
    return inputs, inputs + np.uint8(100)


def tally(augmentation: Augmentation) -> Counter[tuple[bytes, bytes]]:
    found = augmentation(*views(), np.random.default_rng(5))
    return Counter((x.tobytes(), y.tobytes()) for x, y in zip(*found, strict=True))


def pair_of(image: list[list[list[int]]] | np.ndarray, swapped: bool = False) -> tuple:
    x = np.ascontiguousarray(image, np.uint8)
    both = x.tobytes(), (x + np.uint8(100)).tobytes()
    return both[::-1] if swapped else both


def assert_even(found: Counter, expected: set[tuple[bytes, bytes]]) -> None:
    """Five standard deviations of a binomial; the generator is seeded, so this never varies."""
    assert set(found) == expected
    odds = 1 / len(expected)
    slack = 5 * np.sqrt(COUNT * odds * (1 - odds))
    assert all(abs(count - COUNT * odds) < slack for count in found.values())


def test_flips() -> None:
    left_right = [[[3, 2, 1], [6, 5, 4], [9, 8, 7]], [[13, 12, 11], [16, 15, 14], [19, 18, 17]]]
    top_down = [[[7, 8, 9], [4, 5, 6], [1, 2, 3]], [[17, 18, 19], [14, 15, 16], [11, 12, 13]]]
    both = [[[9, 8, 7], [6, 5, 4], [3, 2, 1]], [[19, 18, 17], [16, 15, 14], [13, 12, 11]]]
    expected = {pair_of(image) for image in (SMALL, left_right, top_down, both)}
    assert_even(tally(Augmentation(flips=True)), expected)


def test_turns() -> None:
    quarter = [[[3, 6, 9], [2, 5, 8], [1, 4, 7]], [[13, 16, 19], [12, 15, 18], [11, 14, 17]]]
    half = [[[9, 8, 7], [6, 5, 4], [3, 2, 1]], [[19, 18, 17], [16, 15, 14], [13, 12, 11]]]
    three = [[[7, 4, 1], [8, 5, 2], [9, 6, 3]], [[17, 14, 11], [18, 15, 12], [19, 16, 13]]]
    expected = {pair_of(image) for image in (SMALL, quarter, half, three)}
    assert_even(tally(Augmentation(turns=True)), expected)


def test_swap() -> None:
    expected = {pair_of(SMALL), pair_of(SMALL, swapped=True)}
    assert_even(tally(Augmentation(swap=True)), expected)


def test_all_of_them() -> None:
    """The eight symmetries of the square, either way round."""
    symmetries = [
        np.rot90(side, turns, (1, 2)) for side in (SMALL, SMALL[:, :, ::-1]) for turns in range(4)
    ]
    expected = {pair_of(image, swapped) for image, swapped in product(symmetries, (False, True))}
    assert len(expected) == 16
    assert_even(tally(ALL), expected)


def test_choices_are_independent_of_the_place_in_the_batch() -> None:
    found, _ = ALL(*views(), np.random.default_rng(5))
    same = (found[1:] == found[:-1]).all((1, 2, 3)).mean()
    assert same == pytest.approx(1 / 16, abs=0.02)


def test_nothing_to_do() -> None:
    inputs, targets = views(3)
    random = np.random.default_rng(1)
    before = random.bit_generator.state
    x, y = Augmentation()(inputs, targets, random)
    np.testing.assert_array_equal(x, inputs)
    np.testing.assert_array_equal(y, targets)
    assert random.bit_generator.state == before


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    flips=st.booleans(),
    turns=st.booleans(),
    swap=st.booleans(),
    seed=st.integers(0, 2**64 - 1),
    batch=st.integers(0, 10**6),
    count=st.integers(1, 5),
    channels=st.integers(1, 3),
    size=st.integers(1, 6),
)
def test_pairs_stay_together(
    flips: bool,
    turns: bool,
    swap: bool,
    seed: int,
    batch: int,
    count: int,
    channels: int,
    size: int,
) -> None:
    """Both views move alike: their differences keep their values, up to a swap's sign."""
    rng = np.random.default_rng([seed, 1])
    inputs, targets = rng.integers(0, 256, (2, count, channels, size, size), np.uint8)
    originals = inputs.copy(), targets.copy()
    augment = Augmentation(flips=flips, turns=turns, swap=swap)
    first, again = (
        augment(inputs, targets, np.random.default_rng((seed, 3, batch))) for _ in range(2)
    )
    for one, two in zip(first, again, strict=True):
        assert one.dtype == np.uint8
        assert one.shape == inputs.shape
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(inputs, originals[0])
    np.testing.assert_array_equal(targets, originals[1])
    for x, y, found_x, found_y in zip(inputs, targets, *first, strict=True):
        whole = np.stack([x, y], -1)
        ways = [np.rot90(side, k, (1, 2)) for side in (whole, whole[:, :, ::-1]) for k in range(4)]
        ways += [way[..., ::-1] for way in ways]
        found = np.stack([found_x, found_y], -1)
        assert any(np.array_equal(found, way) for way in ways)


@pytest.mark.parametrize("augment", [ALL, Augmentation(turns=True), Augmentation()])
def test_a_part_of_a_batch_is_changed_as_in_the_whole(augment: Augmentation) -> None:
    rng = np.random.default_rng(3)
    inputs, targets = rng.integers(0, 256, (2, 11, 3, 6, 6), np.uint8)
    whole = augment(inputs, targets, np.random.default_rng(9))
    for first, last in ((0, 11), (0, 4), (4, 9), (9, 11), (5, 5)):
        rows, random = slice(first, last), np.random.default_rng(9)
        part = augment(inputs[rows], targets[rows], random, first=first, batch=11)
        for found, expected in zip(part, whole, strict=True):
            np.testing.assert_array_equal(found, expected[rows])


def test_noise_keeps_its_statistics() -> None:
    """Variance of each view and of the difference, and no correlation between the views."""
    rng = np.random.default_rng(8)
    inputs, targets = (
        (128 + 20 * rng.standard_normal((500, 1, 8, 8))).round().astype(np.uint8) for _ in range(2)
    )
    x, y = (view.astype(float) - 128 for view in ALL(inputs, targets, np.random.default_rng(2)))
    assert x.std() == pytest.approx(20, rel=0.02)
    assert y.std() == pytest.approx(20, rel=0.02)
    assert np.corrcoef(x.ravel(), y.ravel())[0, 1] == pytest.approx(0, abs=0.02)
    differences = inputs.astype(float) - targets
    assert ((x - y) ** 2).sum() == pytest.approx((differences**2).sum())
