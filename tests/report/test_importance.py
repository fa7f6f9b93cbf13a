"""The importance of settings, against scipy's Kruskal-Wallis test and by what it must be."""

import numpy as np
import pytest
from scipy.stats import chi2, kruskal, rankdata

from n2n.report.importance import Importance, importance, ranks


def test_against_scipy() -> None:
    rng = np.random.default_rng(3)
    samples = [{"model": str(rng.choice(["a", "b", "c"]))} for _ in range(40)]
    scores = [ord(sample["model"]) + rng.integers(0, 4) for sample in samples]  # with ties
    (found,) = importance(samples, scores)
    groups = [
        [score for score, sample in zip(scores, samples, strict=True) if sample["model"] == name]
        for name in "abc"
    ]
    assert found.share == pytest.approx((kruskal(*groups).statistic - 2) / (40 - 3))
    assert found.chance == pytest.approx((chi2.ppf(0.95, 2) - 2) / (40 - 3), rel=0.02)
    assert [label for label, _ in found.groups] == ["a", "b", "c"]
    assert [mean for _, mean in found.groups] == sorted(mean for _, mean in found.groups)


def test_what_decides_and_what_does_not() -> None:
    """The rank of one is all, of another none, also where a diverged trial lies far off."""
    rng = np.random.default_rng(1)
    samples = [
        {"lr": float(10 ** rng.uniform(-4, 0)), "seed": int(rng.integers(1000)), "flips": flips}
        for flips in (True, False)
        for _ in range(60)
    ]
    scores = [np.log10(sample["lr"]) for sample in samples]
    scores[0] = -1e9
    first, *others = importance(samples, scores)
    assert first.name == "lr"
    assert first.share > 0.8
    assert len(first.groups) == 4
    assert all(one.share < 0.1 for one in others)


def test_chance_is_exceeded_once_in_twenty_cases() -> None:
    rng = np.random.default_rng(2)
    over = []
    for _ in range(300):
        samples = [{"x": int(rng.integers(3))} for _ in range(45)]
        (found,) = importance(samples, rng.normal(size=45).tolist())
        over.append(found.share > found.chance)
    assert 0.02 < np.mean(over) < 0.09


def test_settings_that_only_some_trials_have() -> None:
    samples = [{"model": "unet", "depth": n % 2} for n in range(8)] + [{"model": "seed"}] * 8
    found = {one.name: one for one in importance(samples, [n % 2 for n in range(16)])}
    assert found["depth"].trials == 8
    assert found["depth"].share == pytest.approx(1.0)
    assert found["model"].trials == 16
    assert found["model"].share == 0


@pytest.mark.parametrize(
    ("samples", "scores"),
    [
        ([], []),
        ([{"lr": 1.0}], [3.0]),
        ([{"lr": 1.0}] * 9, range(9)),
        ([{"lr": float(n)} for n in range(9)], [5.0] * 9),
        ([{"lr": float(n)} for n in range(3)], range(3)),
    ],
    ids=["none", "one trial", "one value", "one score", "too few"],
)
def test_nothing_to_say(samples: list, scores: list) -> None:
    assert importance(samples, list(scores)) == []


def test_ranks() -> None:
    values = np.array([3.0, 1.0, 3.0, -2.0, 3.0])
    np.testing.assert_array_equal(ranks(values), rankdata(values))
    assert isinstance(importance([{"a": n} for n in range(9)], list(range(9)))[0], Importance)
