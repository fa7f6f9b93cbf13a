"""Settings: presets, what replaces what, and what is refused."""

import dataclasses
import math
from typing import Any

import pytest

from n2n import models
from n2n.config import PRESETS, TrainConfig, configure
from n2n.errors import InvalidValue
from n2n.nn import SGD, Adam, AdamW, ConstantSchedule, CosineSchedule, MSELoss, Muon

# The defaults of n2n 0.1.0, whose trainings must not change.
PUBLISHED: dict[str, Any] = {
    "model": "seed",
    "model_config": {},
    "epochs": 50,
    "batch_size": 100,
    "optimizer": "sgd",
    "lr": 5.0,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup": 0.0,
    "decay_epochs": 20,
    "decay": 0.1,
    "ema": 0.0,
    "clip": 0.0,
    "patience": 0,
    "loss": "mse",
    "flips": False,
    "turns": False,
    "swap": False,
    "seed": 0,
    "start": "",
    "device": "cpu",
    "threads": 1,
    "memory_limit": 2 << 30,
    "checkpoint_seconds": 60.0,
}


# ---- presets -------------------------------------------------------------------------------------


def test_published_is_what_the_defaults_were() -> None:
    found = dataclasses.asdict(TrainConfig.of("published"))
    added = {"preset": "published", "precision": "fp32", "snapshots": ""}
    assert found == {**PUBLISHED, **added}


def test_standard_is_the_default() -> None:
    assert TrainConfig() == TrainConfig.of() == TrainConfig.of("standard")
    config = TrainConfig()
    assert (config.preset, config.epochs, config.batch_size) == ("standard", 26, 64)
    assert (config.optimizer, config.lr, config.schedule) == ("muon", 4e-3, "cosine")
    assert 0 < config.warmup < 1
    assert (config.flips, config.turns, config.swap) == (True, True, True)
    assert (config.ema, config.precision) == (0.999, "fp32")


def test_fast_is_the_default_in_fewer_epochs() -> None:
    assert TrainConfig.of("fast") == dataclasses.replace(TrainConfig(), preset="fast", epochs=5)


@pytest.mark.parametrize("name", PRESETS)
def test_settings_replace_the_presets(name: str) -> None:
    config = TrainConfig.of(name, epochs=3, flips=True, model_config={"width": 2})
    preset = TrainConfig.of(name)
    assert (config.epochs, config.flips) == (3, True)
    assert config.model_config == {**preset.model_config, "width": 2}
    assert config == dataclasses.replace(
        preset, epochs=3, flips=True, model_config=config.model_config
    )


def test_another_architecture_has_none_of_the_presets_settings() -> None:
    """`best` deepens the default network; --set changes one of its settings, or all."""
    best = TrainConfig.of("best")
    assert best.model_config.keys() == {"blocks", "levels"}
    assert TrainConfig.of("best", model="unet").model_config == {}
    assert TrainConfig.of("best", model="unet", model_config={"depth": 1}).model_config == {
        "depth": 1
    }
    assert TrainConfig.of("best", model_config={"blocks": 4}).model_config == {
        "levels": best.model_config["levels"],
        "blocks": 4,
    }
    assert (best.turns, best.flips, best.swap) == (True, True, True)
    assert 0 < best.ema < 1
    assert best.clip > 0


@pytest.mark.parametrize("model", models.architectures())
def test_a_model_has_a_preset_made_for_it(model: str) -> None:
    config = TrainConfig.of(model=model)
    assert config.model == model
    assert config.preset == ("published" if model == "seed" else "standard")
    assert config == TrainConfig.of(config.preset, model=model)
    assert TrainConfig.of("fast", model=model).preset == "fast"


@pytest.mark.parametrize(
    ("preset", "optimizer", "lr"), [("published", "adamw", "5"), ("fast", "sgd", "0.004")]
)
def test_another_optimiser_asks_for_its_own_rate(preset: str, optimizer: str, lr: str) -> None:
    with pytest.raises(InvalidValue, match=rf"has lr {lr}, .* give the lr for {optimizer}, too$"):
        TrainConfig.of(preset, optimizer=optimizer)
    assert TrainConfig.of(preset, optimizer=optimizer, lr=0.1).optimizer == optimizer


def test_the_same_kind_of_optimiser_keeps_the_rate() -> None:
    assert TrainConfig.of("fast", optimizer="adam").lr == TrainConfig.of("fast").lr
    assert TrainConfig.of("published", optimizer="sgd").lr == 5.0


# ---- what a set allows ---------------------------------------------------------------------------


def test_a_set_that_allows_all(make_set) -> None:
    assert configure(make_set()) == (TrainConfig(), [])
    assert configure(make_set("two"), "published", lr=1.0)[0] == TrainConfig.of("published", lr=1.0)


def test_what_the_set_does_not_allow_is_left_out_and_said(make_set) -> None:
    pairs = make_set(target="clean", shape=(3, 8, 12))
    config, lines = configure(pairs, seed=3)
    assert config == TrainConfig(seed=3, turns=False, swap=False)
    assert lines == [
        "turns is switched off: it needs square images, the set has 8x12",
        "swap is switched off: it needs two noisy views, the set's target is clean",
    ]
    assert configure(pairs, "published")[1] == []


def test_what_was_asked_for_stays(make_set) -> None:
    config, lines = configure(make_set(target="clean", shape=(3, 8, 12)), swap=True, turns=True)
    assert (config.swap, config.turns, lines) == (True, True, [])


# ---- what is made of it --------------------------------------------------------------------------


def test_what_a_configuration_makes() -> None:
    config = TrainConfig.of("published", momentum=0.5, weight_decay=0.25)
    network = config.make_network(1)
    optimizer = config.make_optimizer(network)
    assert (network.name, network.channels) == ("seed", 1)
    assert isinstance(optimizer, SGD)
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (5.0, 0.5, 0.25)
    assert isinstance(config.make_schedule(7), ConstantSchedule)
    assert isinstance(config.make_loss(), MSELoss)
    config = TrainConfig(model="unet", model_config={"width": 2}, epochs=5, warmup=0.5)
    kinds = {"muon": Muon, "adamw": AdamW, "adam": Adam}
    assert config.optimizer == "muon"
    for name, kind in kinds.items():
        other = dataclasses.replace(config, optimizer=name)
        assert type(other.make_optimizer(other.make_network(3))) is kind
    schedule = config.make_schedule(10)
    assert isinstance(schedule, CosineSchedule)
    assert (schedule.total_steps, schedule.warmup_steps) == (50, 5)


def test_the_seed_draws_the_weights() -> None:
    first, same, other = (
        TrainConfig.of("published", seed=seed).make_network(3).state_dict()["0.weight"]
        for seed in (1, 1, 2)
    )
    assert first.equal(same)
    assert not first.equal(other)


# ---- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"decay_epochs": 0}, "decay_epochs must be at least 1, got 0"),
        ({"memory_limit": 0}, "memory_limit must be at least 1, got 0"),
        ({"lr": math.nan}, "lr must be a finite number, not negative, got nan"),
        ({"lr": math.inf}, "lr must be .* got inf"),
        ({"lr": -1.0}, "lr must be .* got -1"),
        ({"momentum": -0.1}, "momentum must be .* got -0.1"),
        ({"momentum": 0.9}, "momentum is sgd's, got 0.9 for muon"),
        ({"weight_decay": math.nan}, "weight_decay must be .* got nan"),
        ({"decay": 0.0}, "decay must be above 0, got 0"),
        ({"checkpoint_seconds": -1.0}, "checkpoint_seconds must be .* got -1"),
        ({"seed": -1}, r"seed must be from 0 to 2\^64 - 1, got -1"),
        ({"seed": 1 << 64}, "seed must be .* got 18446744073709551616"),
        ({"preset": "slow"}, "preset must be one of standard, fast, published, best, got 'slow'"),
        ({"model": "resnet"}, "model must be one of .*, got 'resnet'"),
        ({"optimizer": "lion"}, "optimizer must be one of sgd, adam, adamw, muon, got 'lion'"),
        ({"schedule": "x"}, "schedule must be one of constant, step, cosine, got 'x'"),
        ({"loss": "x"}, "loss must be one of mse, l1, l0, relative-mse, log-mse, got 'x'"),
        ({"precision": "fp8"}, "precision must be one of fp32, tf32, bf16, fp16, got 'fp8'"),
        ({"epochs": 5, "warmup": 5.0}, r"warmup must be below epochs \(5\), got 5"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, Any], message: str) -> None:
    for make in (TrainConfig, TrainConfig.of):
        with pytest.raises(InvalidValue, match=f"^{message}") as caught:
            make(**settings)
        assert "\n" not in str(caught.value)
