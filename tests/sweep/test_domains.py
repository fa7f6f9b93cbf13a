"""Domains: what they draw, what they refuse, the texts that stand for them."""

import math
from collections import Counter

import numpy as np
import pytest

from n2n.errors import InvalidType, InvalidValue
from n2n.sweep import Choice, Domain, Integer, LogUniform, Uniform, parse_domain

DRAWS = 4000


def draw(domain: Domain, seed: int = 1) -> list:
    rng = np.random.default_rng(seed)
    return [domain.sample(rng) for _ in range(DRAWS)]


def test_a_choice_draws_all_values_alike() -> None:
    counts = Counter(draw(Choice(("a", 2, True, 0.5))))
    assert set(counts) == {"a", 2, True, 0.5}
    assert all(abs(count - DRAWS / 4) < 5 * math.sqrt(DRAWS / 4) for count in counts.values())


def test_uniform_and_log_uniform_have_their_quarters() -> None:
    """A quarter of the draws lies in each quarter of the range, on the scale's own measure."""
    for domain, scale in ((Uniform(-1, 3), float), (LogUniform(1e-4, 5), math.log)):
        low, high = scale(domain.low), scale(domain.high)
        places = [(scale(value) - low) / (high - low) for value in draw(domain)]
        assert min(places) >= 0
        assert max(places) <= 1
        quarters = Counter(min(3, int(4 * place)) for place in places)
        assert all(abs(count - DRAWS / 4) < 5 * math.sqrt(DRAWS / 4) for count in quarters.values())


def test_integers_reach_both_ends_and_keep_their_step() -> None:
    assert set(draw(Integer(3, 11, step=4))) == {3, 7, 11}
    assert set(draw(Integer(3, 10, step=4))) == {3, 7} == set(Integer(3, 10, step=4).all())
    counts = Counter(draw(Integer(1, 64, log=True)))
    assert set(counts) <= set(range(1, 65))
    assert all(type(value) is int for value in counts)
    small, large = (sum(counts[value] for value in range(*ends)) for ends in ((1, 8), (8, 65)))
    expected = math.log(7.5 / 0.5) / math.log(64.5 / 0.5)  # of the whole numbers below 8
    assert abs(small / (small + large) - expected) < 0.05


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("mse", Choice(("mse",))),
        ("5", Choice((5,))),
        ("1e-3", Choice((0.001,))),
        ("sgd, adamw", Choice(("sgd", "adamw"))),
        ("true,false", Choice((True, False))),
        ("0..0.9", Uniform(0.0, 0.9)),
        ("-1..1", Uniform(-1.0, 1.0)),
        ("log:1e-4..5", LogUniform(1e-4, 5.0)),
        ("int:16..64", Integer(16, 64)),
        ("int:16..64:8", Integer(16, 64, step=8)),
        ("logint:16..64", Integer(16, 64, log=True)),
    ],
)
def test_texts(text: str, domain: Domain) -> None:
    assert parse_domain(text) == domain
    assert parse_domain(str(domain)) == domain


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "empty text"),
        ("a,,b", "empty text"),
        ("5..1", "the range from 5 to 1 is empty"),
        ("1..1", "is empty"),
        ("log:0..1", "low must be above 0"),
        ("log:1e-4", "a range LOW..HIGH expected"),
        ("int:1.5..3", "a whole number expected, got '1.5'"),
        ("int:1..9:0", "step must be at least 1"),
        ("logint:1..9:2", "exclude each other"),
        ("lgo:1..2", "expected, got 'lgo:1..2'"),
        ("1..x", "a number expected, got 'x'"),
        ("0..inf", "finite"),
        ("0..nan", "finite"),
        ("2,2", "each value once"),
    ],
)
def test_texts_that_are_refused(text: str, part: str) -> None:
    with pytest.raises(InvalidValue, match=part) as caught:
        parse_domain(text)
    assert "\n" not in str(caught.value)


def test_types_that_are_refused() -> None:
    for make in (
        lambda: Choice((None,)),  # type: ignore[arg-type]
        lambda: Choice(([1],)),  # type: ignore[arg-type]
        lambda: Uniform("a", 1),  # type: ignore[arg-type]
        lambda: Uniform(True, 3),
        lambda: Integer(1.0, 3),  # type: ignore[arg-type]
        lambda: Integer(True, 3),
    ):
        with pytest.raises(InvalidType):
            make()
    with pytest.raises(InvalidValue, match="at least one"):
        Choice(())
