"""Several processes that share every batch train what one process does."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ranks import Die, Double, Explode, Stop, together, train

from n2n.config import TrainConfig
from n2n.data import PairSet
from n2n.errors import Diverged, Interrupted, PeerLost
from n2n.trainer import Trainer

SGD: dict[str, Any] = {
    "model_config": {"width": 4},
    "epochs": 2,
    "batch_size": 30,
    "lr": 1.0,
    "momentum": 0.9,
    "weight_decay": 1e-4,
}
ADAMW: dict[str, Any] = {
    "model": "unet",
    "model_config": {"width": 2, "depth": 1},
    "epochs": 2,
    "batch_size": 40,
    "optimizer": "adamw",
    "lr": 0.01,
    "weight_decay": 0.01,
    "loss": "l1",
    "schedule": "cosine",
    "warmup": 0.5,
    "ema": 0.9,
    "clip": 0.01,
    "flips": True,
    "turns": True,
    "swap": True,
}
STREAMED = {**SGD, "batch_size": 333, "memory_limit": 2 * 1000 * 192}  # of one row group


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, write) -> Path:
    """61 pairs: batches of 30, 30 and 1, or of 40 and 21; 1100 for validation: two row groups."""
    return write(tmp_path_factory.mktemp("sets") / "set", rows=61, val=1100).path


@pytest.fixture(scope="module")
def large(tmp_path_factory, write) -> Path:
    """Three row groups."""
    return write(tmp_path_factory.mktemp("sets") / "set", rows=2100, val=20).path


def alone(runs: Path, settings: dict[str, Any], pairs: Path) -> dict[str, Any]:
    (found,) = together(1, train, settings, pairs, runs)
    return found


def curve(metrics: list[dict[str, Any]]) -> list[float]:
    """Every number of the epochs but times."""
    numbers = []
    for line in metrics:
        val = [value for value in line["val"].values() if value is not None]
        numbers += [line["epoch"], line["lr"], line["train_loss"], *val]
    return numbers


def assert_close(found: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    assert found["error"] is None
    for name, value in expected["weights"].items():
        assert value.dtype == found["weights"][name].dtype
        np.testing.assert_allclose(found["weights"][name], value, rtol=0, atol=tolerance)


@pytest.mark.parametrize("settings", [SGD, ADAMW, STREAMED], ids=["sgd", "adamw", "streamed"])
def test_any_number_of_processes_gives_the_same_weights(
    pairs: Path, large: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """float64 to 1e-9 after two epochs, for batches that divide by neither 2 nor 4, and of 1."""
    place = large if settings is STREAMED else pairs
    whole = train_alone(settings, place, tmp_path / "alone")
    for size in (1, 2, 4):
        runs = tmp_path / str(size)
        found = together(size, partial(train, kind=Double), settings, place, runs)
        for one in found:
            assert_close(one, whole, 1e-9)
            assert one["position"].keys() == whole["position"].keys()
            # The same bits in all processes, and one opinion of which epoch was best.
            for name, value in found[0]["weights"].items():
                np.testing.assert_array_equal(one["weights"][name], value)
            assert one["position"] == found[0]["position"]
        metrics = found[0]["metrics"]
        assert curve(metrics) == pytest.approx(curve(whole["metrics"]), rel=1e-9)
        assert [line["workers"] for line in metrics] == [size, size]
        for line in metrics:  # the latter to a thousandth
            assert 0 <= line["reduce_seconds"] <= line["compute_seconds"] + 0.001
        assert sorted(path.name for path in runs.iterdir()) == ["run"]


def test_pairs_that_are_drawn_are_shared(
    pairs: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """61 rows an epoch from two photographs: each process draws all and trains on its own."""
    folder = tmp_path_factory.mktemp("photographs")
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    settings = {**SGD, "ema": 0.9}
    drawn = partial(train, kind=Double, photographs=folder)
    (whole,) = together(1, drawn, settings, pairs, tmp_path / "one")
    for one in together(2, drawn, settings, pairs, tmp_path / "two"):
        assert_close(one, whole, 1e-9)


def train_alone(settings: dict[str, Any], pairs: Path, runs: Path) -> dict[str, Any]:
    """Without peers, by the plain Trainer, in a process of its own (it patches modules)."""
    (found,) = together(1, without_peers, settings, pairs, runs)
    assert "workers" not in found["metrics"][0]
    return found


def without_peers(peers: Any, *arguments: Any) -> dict[str, Any]:
    return train(None, *arguments, kind=Double)


def test_float32_to_its_rounding_and_asynchronous_to_the_bit(pairs: Path, tmp_path: Path) -> None:
    trainer = Trainer(TrainConfig.of("published", **ADAMW), PairSet.open(pairs), tmp_path / "alone")
    trainer.train()
    weights = {name: value.numpy() for name, value in trainer.network.state_dict().items()}
    found = together(2, train, ADAMW, pairs, tmp_path / "two")
    late = together(2, partial(train, asynchronous=True), ADAMW, pairs, tmp_path / "late")
    assert_close(found[0], {"weights": weights}, 1e-4)
    for name, value in found[0]["weights"].items():
        np.testing.assert_array_equal(late[1]["weights"][name], value)
    assert curve(late[0]["metrics"]) == curve(found[0]["metrics"])


@pytest.mark.parametrize(("rank", "asynchronous"), [(0, False), (1, False), (1, True)])
def test_a_stop_in_any_process_stops_all(
    pairs: Path, tmp_path: Path, rank: int, asynchronous: bool
) -> None:
    """After the second batch, so all do the third, of epoch 1; then another number goes on."""
    expected = together(2, train, SGD, pairs, tmp_path / "whole")
    runs = tmp_path / "parts"
    stop = partial(train, at={2: Stop(rank)}, asynchronous=asynchronous)
    found = together(2, stop, SGD, pairs, runs)
    batch = 3 if not asynchronous else 1  # read late: at the epoch's end, so in the next one
    for one in found:
        assert isinstance(one["error"], Interrupted)
        assert one["position"]["epoch"] == int(asynchronous)
        assert one["position"]["batch"] == batch
        assert f"stopped after batch {batch} of epoch {1 + asynchronous}, " in str(one["error"])
    for one in together(2, train, SGD, pairs, runs):
        assert one["error"] is None
        assert one["position"] == expected[0]["position"]
        for name, value in expected[0]["weights"].items():
            np.testing.assert_array_equal(one["weights"][name], value)
    assert_same_lines(runs, tmp_path / "whole")


def assert_same_lines(one: Path, two: Path) -> None:
    found, expected = (
        [json.loads(line) for line in (runs / "run" / "metrics.jsonl").read_text().splitlines()]
        for runs in (one, two)
    )
    assert curve(found) == curve(expected)


def test_another_number_of_processes_goes_on(pairs: Path, tmp_path: Path) -> None:
    expected = train_alone(SGD, pairs, tmp_path / "whole")
    runs = tmp_path / "parts"
    stopped = together(3, partial(train, kind=Double, at={1: Stop(2)}), SGD, pairs, runs)
    assert [one["position"]["batch"] for one in stopped] == [2, 2, 2]
    found = together(2, partial(train, kind=Double), SGD, pairs, runs)
    assert_close(found[0], expected, 1e-9)
    assert curve(found[0]["metrics"]) == pytest.approx(curve(expected["metrics"]), rel=1e-9)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_all_diverge_at_once_and_nothing_is_saved(
    pairs: Path, tmp_path: Path, asynchronous: bool
) -> None:
    explode = partial(train, at={4: Explode()}, asynchronous=asynchronous)
    found = together(2, explode, {**SGD, "epochs": 3}, pairs, tmp_path)
    texts = {str(one["error"]) for one in found}
    assert all(isinstance(one["error"], Diverged) for one in found)
    assert len(texts) == 1 or all("epoch 2" in text for text in texts)
    assert [len(one["metrics"]) for one in found] == [1, 0]
    again = Trainer(
        TrainConfig.of("published", **{**SGD, "epochs": 3}), PairSet.open(pairs), tmp_path / "run"
    )
    assert (again.position.epoch, again.position.batch) == (1, 0)
    assert all(bool(value.isfinite().all()) for value in again.network.state_dict().values())


def test_one_that_dies_ends_the_others_and_the_run_goes_on(pairs: Path, tmp_path: Path) -> None:
    expected = together(2, train, SGD, pairs, tmp_path / "whole")
    settings = {**SGD, "checkpoint_seconds": 0.0}
    runs = tmp_path / "parts"
    for rank, batch in ((1, 2), (0, 3)):
        found = together(2, partial(train, at={batch: Die(rank)}), settings, pairs, runs)
        assert found[rank] is None
        assert isinstance(found[1 - rank]["error"], PeerLost)
    again = together(2, train, settings, pairs, runs)
    for name, value in expected[0]["weights"].items():
        np.testing.assert_array_equal(again[1]["weights"][name], value)
    assert_same_lines(runs, tmp_path / "whole")
