"""A sweep's settings: what they refuse, what a trial trains with, how epochs are scored."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from n2n.config import TrainConfig
from n2n.errors import InvalidValue, PairSetError, ShapeError
from n2n.evaluation import Scores
from n2n.sweep import METRICS, Space, SweepConfig, default_space, score
from n2n.sweep.settings import selection

SPACE = Space.of({"model": "seed", "width": {"int": [2, 8]}, "lr": {"log": [1, 10]}})


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"trials": 0}, "trials must be at least 1, got 0"),
        ({"max_epochs": 0}, "max_epochs must be at least 1"),
        ({"grace": 11}, "grace must be at most max_epochs, 10, got 11"),
        ({"reduction": 1}, "reduction must be at least 2"),
        ({"scheduler": "hyper"}, "scheduler must be one of asha, pbt, none, got 'hyper'"),
        ({"search": "all"}, "search must be one of random, grid, optuna"),
        ({"metric": "ssim"}, "metric must be one of psnr, estimated-psnr, loss"),
        ({"cpus_per_trial": 0}, "cpus_per_trial must be above 0"),
        ({"cpus_per_trial": 1.5}, "cpus_per_trial must be a whole number, or a fraction"),
        ({"gpus_per_trial": -1}, "gpus_per_trial must be a whole number, or a fraction"),
        ({"gpus_per_trial": float("nan")}, "gpus_per_trial"),
        ({"time_budget": 0}, "time_budget must be above 0 seconds"),
        ({"time_budget": float("inf")}, "time_budget must be above 0 seconds"),
        ({"seed": -1}, "seed must be from 0"),
        ({"memory_limit": 0}, "memory_limit must be at least 1"),
        ({"device": "cuda:1"}, "device must be one of cpu, cuda"),
        ({"precision": "fp8"}, "precision must be one of"),
        ({"search": "grid", "trials": 4}, "a grid has its own number of trials"),
        ({"scheduler": "pbt", "search": "optuna"}, "pbt has a search of its own"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], part: str) -> None:
    with pytest.raises(InvalidValue, match=part) as caught:
        SweepConfig(**settings)
    assert "\n" not in str(caught.value)


def test_trials_do_not_depend_on_how_many_there_are() -> None:
    few, many = (list(SweepConfig(trials=count).samples(SPACE)) for count in (3, 20))
    assert few == many[:3]
    assert len({repr(sample) for sample in many}) == 20
    assert few != list(SweepConfig(trials=3, seed=1).samples(SPACE))


def test_the_number_of_trials() -> None:
    assert SweepConfig().count(SPACE) == 16
    assert SweepConfig(trials=5).count(SPACE) == 5
    grid = Space.of({"lr": [1, 2, 3], "optimizer": ["sgd", "adam"]})
    config = SweepConfig(search="grid")
    assert config.count(grid) == 6 == len(list(config.samples(grid)))


def test_what_a_trial_trains_with(make_set: Callable) -> None:
    pairs = make_set()
    config = SweepConfig(max_epochs=7, seed=5, cpus_per_trial=3, memory_limit=10**6)
    sample = {"model": "seed", "lr": 2.0, "width": 6, "swap": True}
    published = TrainConfig.of("published")
    assert config.settings_of(sample, pairs) == replace(
        published,
        model_config={"width": 6},
        lr=2.0,
        swap=True,
        epochs=7,
        seed=5,
        threads=3,
        memory_limit=10**6,
    )
    assert config.settings_of({"seed": 9}, pairs).seed == 9
    assert config.settings_of({"preset": "published", "model": "unet"}, pairs).lr == published.lr
    assert SweepConfig(cpus_per_trial=0.5).settings_of({}, pairs).threads == 1


def test_what_a_set_does_not_allow(make_set: Callable) -> None:
    pairs = make_set(target="clean")
    config = SweepConfig()
    assert not config.settings_of({"model": "n2n"}, pairs).swap  # of the preset: left out
    with pytest.raises(InvalidValue, match="swap needs two noisy views"):
        config.settings_of({"model": "n2n", "swap": True}, pairs)
    deep = Space.of({"model": "unet", "depth": {"int": [1, 6]}})
    for search in ("random", "optuna", "grid"):
        with pytest.raises(ShapeError, match=r"multiples of .* \(in a trial with .*depth"):
            SweepConfig(search=search).require_usable(deep, pairs)
    rates = Space.of({"optimizer": ["sgd", "adamw"]})
    with pytest.raises(InvalidValue, match="give the lr for sgd"):
        config.require_usable(rates, pairs)
    config.require_usable(default_space(pairs), pairs)


@pytest.mark.parametrize(
    ("clean", "target", "known"),
    [
        (True, "noisy", METRICS),
        (False, "noisy", ("estimated-psnr", "loss")),
        (True, "clean", ("psnr", "loss")),
        (False, "clean", ("loss",)),
    ],
)
def test_metrics_of_a_set(
    make_set: Callable, clean: bool, target: str, known: tuple[str, ...]
) -> None:
    pairs = make_set(clean=clean, target=target, rows=5, val=2)
    assert SweepConfig().for_set(pairs).metric == known[0]
    for metric in METRICS:
        config = SweepConfig(metric=metric)
        if metric in known:
            assert config.for_set(pairs) == config
        else:
            with pytest.raises(InvalidValue, match=f"metric {metric}: the set .* has ") as caught:
                config.for_set(pairs)
            assert str(caught.value).endswith(f"use {' or '.join(known)}")


def test_a_set_without_validation_pairs(make_set: Callable) -> None:
    with pytest.raises(PairSetError, match="expected validation pairs"):
        SweepConfig().for_set(make_set(val=0))


def test_higher_scores_are_better() -> None:
    better, worse = (
        {"val": Scores(5, loss, mse=error, psnr=psnr, estimated_psnr=psnr - 1).as_dict()}
        for loss, error, psnr in ((0.1, 0.01, 20.0), (0.2, 0.02, 17.0))
    )
    for metric in METRICS:
        assert score(better, metric) > score(worse, metric)
    assert score(better, "psnr") == 20
    assert score(better, "estimated-psnr") == 19
    assert score(better, "loss") == -0.1


def test_a_score_is_always_finite() -> None:
    """No PSNR of images that come out exactly, nor where the estimated error is below zero."""
    exact = {"val": Scores(5, 0.0, mse=0.0, psnr=float("inf"), estimated_mse=-1.0).as_dict()}
    assert exact["val"]["psnr"] is None
    for metric in ("psnr", "estimated-psnr"):
        assert 500 < score(exact, metric) < float("inf")


def test_one_image_that_comes_out_exactly_does_not_make_the_score() -> None:
    """A network that gives white has no PSNR of a white crop, and so no mean."""
    white = Scores(5, 0.2, mse=0.2, psnr=float("inf"), psnr_pooled=6.9)
    fair = Scores(5, 0.01, mse=0.01, psnr=20.0, psnr_pooled=19.5)
    assert score({"val": white.as_dict()}, "psnr") == 6.9
    assert score({"val": fair.as_dict()}, "psnr") == 20


def test_selection_is_that_of_the_trainer() -> None:
    every = [
        Scores(5, 0.1, mse=0.01, estimated_mse=0.02),
        Scores(5, 0.1, estimated_mse=0.02),
        Scores(5, 0.1),
    ]
    for scores in every:
        assert selection({"val": scores.as_dict()}) == scores.selection


def test_a_grid_is_bounded_and_shuffled() -> None:
    large = Space.of({name: {"int": [1, 10**6]} for name in ("batch_size", "width")})
    config = SweepConfig(search="grid")
    with pytest.raises(InvalidValue, match="at most 10000 trials expected, found more"):
        config.count(large)
    space = Space.of({"width": {"int": [1, 50]}})
    grid, found, other = (
        [sample["width"] for sample in samples]
        for samples in (
            space.grid(),
            config.samples(space),
            SweepConfig(search="grid", seed=1).samples(space),
        )
    )
    assert grid == sorted(found) == sorted(other)
    assert grid != found != other
    assert found == [sample["width"] for sample in config.samples(space)]
