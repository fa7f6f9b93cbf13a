"""The training loop: against torch, repeated, stopped and resumed, diverging, refused."""

import dataclasses
import json
import math
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from n2n import descent, device, models, trainer
from n2n.checkpoint import load_model, read_tensors
from n2n.config import TrainConfig
from n2n.data import PairSet
from n2n.errors import Diverged, Interrupted, InvalidValue, RunConflict, ShapeError
from n2n.nn import SGD, AdamW, MSELoss
from n2n.step import late_step, train_step
from n2n.trainer import Trainer

TIMINGS = {"seconds", "compute_seconds", "validation_seconds", "images_per_second"}
TINY: dict[str, Any] = {"model_config": {"width": 4}, "epochs": 3, "batch_size": 20}
SGD_MOMENTUM: dict[str, Any] = {**TINY, "lr": 1.0, "momentum": 0.9, "weight_decay": 1e-4}
ADAMW: dict[str, Any] = {
    **TINY,
    "optimizer": "adamw",
    "lr": 0.01,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "warmup": 0.5,
    "ema": 0.9,
    "clip": 0.01,
    "flips": True,
    "turns": True,
    "swap": True,
}

MUON: dict[str, Any] = {
    **ADAMW,
    "model": "n2n",
    "model_config": {"width": 8, "hidden": 32, "blocks": 2},
    "optimizer": "muon",
}


def published(**settings: Any) -> TrainConfig:
    """The published recipe, with other settings."""
    return TrainConfig.of("published", **settings)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, write) -> PairSet:
    """90 pairs of 8x8: with batches of 20 an epoch has five steps, the last of 10 images."""
    return write(tmp_path_factory.mktemp("sets") / "set")


@pytest.fixture(scope="module")
def large(tmp_path_factory, write) -> PairSet:
    """2100 pairs: three row groups, so that it can stream."""
    return write(tmp_path_factory.mktemp("sets") / "large", rows=2100, val=5)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def twin_of(network: models.Network, width: int, channels: int = 3) -> torch.nn.Module:
    nn = torch.nn
    twin = nn.Sequential(
        nn.Conv2d(channels, width, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(width, width, 3, 2, 1, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(width, channels, 3, 2, 1, 1),
        nn.Sigmoid(),
    )
    twin.load_state_dict(network.state_dict())
    return twin


def twin_step(twin: torch.nn.Module, optimizer: torch.optim.Optimizer, x, y) -> float:
    loss = torch.nn.functional.mse_loss(twin(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def assert_same_weights(network: models.Network, twin: torch.nn.Module) -> None:
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def timeless(line: dict[str, Any]) -> dict[str, Any]:
    assert line.keys() >= TIMINGS
    return {name: value for name, value in line.items() if name not in TIMINGS}


def read_metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def tensors_of(path: Path) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in load_file(path).items()}


def result_of(run: Path) -> dict[str, Any]:
    """All of a run that must not depend on where it was stopped."""
    metadata = read_tensors(run / "checkpoints" / "last.safetensors")[1]
    position = metadata["position"]
    return {
        "model": tensors_of(run / "model.safetensors"),
        "last": tensors_of(run / "checkpoints" / "last.safetensors"),
        "best": tensors_of(run / "checkpoints" / "best.safetensors"),
        "position": {k: v for k, v in position.items() if not k.endswith("seconds")},
        "metrics": [timeless(line) for line in read_metrics(run)],
        "files": sorted(str(path.relative_to(run)) for path in run.rglob("*")),
    }


# ---- one step and one run, against torch ---------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_equal_torch(momentum: float) -> None:
    generator = torch.Generator().manual_seed(3)
    network = models.create("seed", width=6, generator=generator)
    twin = twin_of(network, 6)
    mine = SGD(network.param(), lr=2.0, momentum=momentum)
    other = torch.optim.SGD(twin.parameters(), lr=2.0, momentum=momentum)
    for _ in range(8):
        x, y = (torch.rand(5, 3, 8, 12, generator=generator) for _ in range(2))
        found = train_step(network, MSELoss(), mine, x, y)
        assert found == pytest.approx(twin_step(twin, other, x, y), rel=1e-5)
        assert_same_weights(network, twin)


def test_a_run_equals_a_loop_in_torch(pairs: PairSet, run: Path) -> None:
    config = published(**{**SGD_MOMENTUM, "epochs": 2, "seed": 5})
    mine = Trainer(config, pairs, run)
    twin = twin_of(mine.network, 4)
    optimizer = torch.optim.SGD(twin.parameters(), lr=1.0, momentum=0.9, weight_decay=1e-4)
    losses = []
    for epoch in range(2):
        batches = pairs.train.batches(batch_size=20, seed=5, epoch=epoch)
        steps = [
            (len(x), twin_step(twin, optimizer, torch.tensor(x) / 255, torch.tensor(y) / 255))
            for x, y in batches
        ]
        assert [count for count, _ in steps] == [20, 20, 20, 20, 10]
        losses.append(sum(count * loss for count, loss in steps) / 90)
    metrics = mine.train()
    assert_same_weights(mine.network, twin)
    assert [line["train_loss"] for line in metrics] == pytest.approx(losses, rel=1e-5)
    val = pairs.val.read(("input", "clean"))
    with torch.no_grad():
        denoised = twin(torch.tensor(val["input"]) / 255)
    error = (denoised - torch.tensor(val["clean"]) / 255).square().mean((1, 2, 3)).double()
    assert metrics[-1]["val"]["mse"] == pytest.approx(float(error.mean()), rel=1e-4)
    assert metrics[-1]["val"]["psnr"] == pytest.approx(float(-10 * error.log10().mean()), abs=1e-3)


def test_overfits_one_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    network = models.create("unet", width=8, depth=1, generator=generator)
    optimizer = AdamW(network.param(), lr=0.01, weight_decay=0.0)
    x, y = (torch.rand(4, 3, 8, 8, generator=generator) for _ in range(2))
    losses = [train_step(network, MSELoss(), optimizer, x, y) for _ in range(400)]
    assert losses[0] > 0.1
    assert losses[-1] < 0.001


def test_the_last_batch_counts_by_its_images(pairs: PairSet, run: Path, monkeypatch) -> None:
    """Batches of 40, 40 and 10 with losses 1, 2 and 6: the mean over images is 180 / 90."""
    losses = iter([1.0, 2.0, 6.0])
    monkeypatch.setattr(descent, "train_step", lambda *arguments, clip: next(losses))
    sizes: list[int] = []
    config = published(model_config={"width": 2}, epochs=1, batch_size=40)
    (line,) = Trainer(config, pairs, run, on_batch=sizes.append).train()
    assert sizes == [40, 40, 10]
    assert line["train_loss"] == pytest.approx(2.0, rel=1e-12)


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine"])
def test_the_schedule_is_applied_at_every_step(
    pairs: PairSet, run: Path, monkeypatch, schedule: str
) -> None:
    rates: list[float] = []
    step = descent.train_step

    def spy(network: Any, loss: Any, optimizer: Any, x: Tensor, y: Tensor, **clip: Any) -> float:
        rates.append(optimizer.lr)
        return step(network, loss, optimizer, x, y, **clip)

    monkeypatch.setattr(descent, "train_step", spy)
    config = published(
        **{**TINY, "lr": 0.5, "schedule": schedule},
        warmup=0.4 if schedule == "cosine" else 0.0,
        decay_epochs=2,
        decay=0.25,
    )
    metrics = Trainer(config, pairs, run).train()
    if schedule == "constant":
        expected = [0.5] * 15
    elif schedule == "step":
        expected = [0.5] * 10 + [0.125] * 5
    else:  # two steps of warm-up, then half a cosine over the thirteen that are left
        expected = [0.25, 0.5] + [0.25 * (1 + math.cos(math.pi * k / 12)) for k in range(13)]
    assert rates == pytest.approx(expected)
    assert [line["lr"] for line in metrics] == pytest.approx(expected[4::5])


def test_l1_and_another_loss_differ(pairs: PairSet, tmp_path: Path) -> None:
    """The first batch's loss is the mean absolute error of the untrained network."""
    config = published(**{**TINY, "epochs": 1, "batch_size": 90, "loss": "l1"})
    mine = Trainer(config, pairs, tmp_path / "l1")
    twin = twin_of(mine.network, 4)
    x, y = (torch.tensor(column) / 255 for column in pairs.train.read().values())
    with torch.no_grad():
        expected = (twin(x) - y).abs().mean().item()
    assert mine.train()[0]["train_loss"] == pytest.approx(expected, rel=1e-5)


# ---- repeatable ----------------------------------------------------------------------------------


def test_l0_is_annealed_over_the_run_and_resumed(pairs: PairSet, run: Path) -> None:
    """gamma falls from 2 towards 0 by even steps, whatever the parts the run is made in."""
    found = []

    def watch(trainer: Trainer) -> Trainer:
        anneal = trainer.descent.loss.anneal
        trainer.descent.loss.anneal = lambda progress: (
            anneal(progress),
            found.append(trainer.descent.loss.gamma),
        )
        return trainer

    config = published(**TINY, loss="l0")
    first = watch(Trainer(config, pairs, run))
    first.on_epoch = lambda line: setattr(first, "stop", True)
    with pytest.raises(Interrupted):
        first.train()
    watch(Trainer(config, pairs, run)).train()
    steps = config.epochs * first.steps_per_epoch
    assert found == pytest.approx([2 - 2 * step / steps for step in range(steps)])
    with pytest.raises(RunConflict, match="holds a run with epochs"):
        Trainer(dataclasses.replace(config, epochs=config.epochs + 1), pairs, run)


@pytest.mark.parametrize("recipe", [SGD_MOMENTUM, ADAMW, MUON], ids=["sgd", "adamw", "muon"])
def test_the_same_seed_gives_the_same_bytes(
    pairs: PairSet, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    for name, seed in (("one", 1), ("two", 1), ("other", 2)):
        Trainer(published(**recipe, seed=seed), pairs, tmp_path / name).train()
    one, two, other = (result_of(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one["model"].keys() == other["model"].keys()
    assert all(other["model"][name] != value for name, value in one["model"].items())


def test_each_epoch_has_another_order_and_other_augmentation(pairs: PairSet, run: Path) -> None:
    mine = Trainer(published(**{**ADAMW, "epochs": 2}), pairs, run)
    seen = []
    for epoch in (0, 1, 1):
        mine.position = dataclasses.replace(mine.position, epoch=epoch)
        seen.append(list(mine._batches()))
    first, second, again = ([inputs for inputs, _ in batches] for batches in seen)
    assert not np.array_equal(first[0], second[0])
    assert all(map(np.array_equal, second, again))
    mine.position = dataclasses.replace(mine.position, batch=2)
    assert all(map(np.array_equal, second[2:], [inputs for inputs, _ in mine._batches()]))
    plain = next(pairs.train.batches(batch_size=20, seed=0, epoch=1))[0]
    assert not np.array_equal(second[0], plain)


# ---- stopped and resumed -------------------------------------------------------------------------


class Stopper:
    """on_batch of all parts of a run: stops the trainer after each of these many batches."""

    def __init__(self, stops: list[int]) -> None:
        self.stops = stops
        self.done = 0

    def __call__(self, images: int) -> None:
        self.done += 1
        self.trainer.stop = self.done in self.stops


def train_in_parts(config: TrainConfig, pairs: PairSet, run: Path, stops: list[int]) -> None:
    """Train to the end, stopping after each of these many batches (counted over the run)."""
    stopper = Stopper(stops)
    for stop in stops:
        stopper.trainer = Trainer(config, pairs, run, on_batch=stopper)
        with pytest.raises(Interrupted, match=rf"batch .* of epoch .*{run.name}.*again"):
            stopper.trainer.train()
        assert stopper.done == stop
    stopper.trainer = Trainer(config, pairs, run, on_batch=stopper)
    stopper.trainer.train()


@pytest.mark.parametrize("recipe", [SGD_MOMENTUM, ADAMW, MUON], ids=["sgd", "adamw", "muon"])
@pytest.mark.parametrize(
    "stops",
    [[1], [7], [5], [10], [15], [14, 15], [1, 2, 5, 6, 12]],
    ids=lambda stops: "stop " + " ".join(map(str, stops)),
)
def test_resumed_equals_uninterrupted(
    pairs: PairSet, tmp_path: Path, recipe: dict[str, Any], stops: list[int]
) -> None:
    config = published(**recipe)
    Trainer(config, pairs, tmp_path / "whole").train()
    train_in_parts(config, pairs, tmp_path / "parts", stops)
    assert result_of(tmp_path / "parts") == result_of(tmp_path / "whole")


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(stops=st.lists(st.integers(1, 10), unique=True, min_size=1, max_size=3).map(sorted))
def test_resumed_equals_uninterrupted_when_the_set_streams(
    large: PairSet, tmp_path: Path, stops: list[int]
) -> None:
    """Memory for one of three row groups; five steps an epoch."""
    config = published(
        **{**SGD_MOMENTUM, "epochs": 2, "batch_size": 450, "memory_limit": 1000 * 2 * 192},
        swap=True,
    )
    assert large.train.nbytes > config.memory_limit
    whole = tmp_path / "whole"
    if not whole.exists():
        Trainer(config, large, whole).train()
    shutil.rmtree(tmp_path / "parts", ignore_errors=True)
    train_in_parts(config, large, tmp_path / "parts", stops)
    assert result_of(tmp_path / "parts") == result_of(whole)


def test_streaming_takes_another_order(large: PairSet, tmp_path: Path) -> None:
    """Else the test above would not test it."""
    settings = {**SGD_MOMENTUM, "epochs": 1, "batch_size": 450}
    for name, limit in (("kept", 1 << 30), ("streamed", 1000 * 2 * 192)):
        Trainer(published(**settings, memory_limit=limit), large, tmp_path / name).train()
    kept, streamed = (result_of(tmp_path / name)["model"] for name in ("kept", "streamed"))
    assert kept != streamed


def test_a_checkpoint_after_every_batch(pairs: PairSet, run: Path) -> None:
    """checkpoint_seconds=0: what lies on the disk at any batch resumes to the same end."""
    config = published(**ADAMW, checkpoint_seconds=0)
    copies: list[Path] = []

    def copy(images: int) -> None:
        copies.append(run.with_name(f"copy{len(copies)}"))
        shutil.copytree(run, copies[-1])

    Trainer(config, pairs, run, on_batch=copy).train()
    expected = result_of(run)
    assert len(copies) == 15
    for number in (0, 1, 4, 5, 6, 11, 14):
        again = Trainer(config, pairs, copies[number])
        # Batch n+1 had just been done, but not saved: its checkpoint comes after on_batch.
        epoch, batch = divmod(number, 5)
        assert (again.position.epoch, again.position.batch) == (epoch, batch)
        assert again.resumed == (number > 0)
        again.train()
        assert result_of(copies[number]) == expected


def test_killed_between_metrics_and_checkpoint(pairs: PairSet, tmp_path: Path, monkeypatch) -> None:
    """The epoch's line is written, its checkpoint is not: the epoch's end is done again."""
    config = published(**SGD_MOMENTUM)
    Trainer(config, pairs, tmp_path / "whole").train()

    class Killed(BaseException):
        pass

    for epoch in (1, 2, 3):
        run = tmp_path / f"killed{epoch}"
        mine = Trainer(config, pairs, run)
        save = mine._checkpoint

        def checkpoint(
            path: Path,
            *scores: Any,
            mine: Trainer = mine,
            save: Any = save,
            epoch: int = epoch,
        ) -> None:
            if mine.position.epoch == epoch and path == mine.run.last_path:
                raise Killed
            save(path, *scores)

        monkeypatch.setattr(mine, "_checkpoint", checkpoint)
        with pytest.raises(Killed):
            mine.train()
        assert len(read_metrics(run)) == epoch
        again = Trainer(config, pairs, run)
        assert again.position.epoch == epoch - 1
        again.train()
        assert result_of(run) == result_of(tmp_path / "whole")


def test_more_epochs_go_on_where_fewer_ended(pairs: PairSet, tmp_path: Path) -> None:
    for epochs in (1, 3):
        Trainer(published(**{**SGD_MOMENTUM, "epochs": epochs}), pairs, tmp_path / "two").train()
    Trainer(published(**SGD_MOMENTUM), pairs, tmp_path / "one").train()
    assert result_of(tmp_path / "two") == result_of(tmp_path / "one")


def test_a_complete_run_is_left_alone(pairs: PairSet, run: Path) -> None:
    metrics = Trainer(published(**TINY), pairs, run).train()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    again = Trainer(published(**TINY), pairs, run, on_batch=pytest.fail)
    assert again.train() == metrics
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


# ---- batches ahead and losses late, as on a GPU --------------------------------------------------


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def all_asynchronous(monkeypatch: pytest.MonkeyPatch, late: int) -> None:
    """Every trainer from here on works as on a GPU and reads its losses every `late` steps."""
    monkeypatch.setattr(Trainer, "__init__", partialmethod(Trainer.__init__, asynchronous=True))
    monkeypatch.setattr(descent, "LATE", late)


@pytest.mark.parametrize("late", [1, 2, 3, 5, 25])
@pytest.mark.parametrize("recipe", [SGD_MOMENTUM, ADAMW, MUON], ids=["sgd", "adamw", "muon"])
def test_asynchronous_gives_the_same_bytes(
    pairs: PairSet,
    tmp_path: Path,
    monkeypatch,
    no_thread_is_left,
    recipe: dict[str, Any],
    late: int,
) -> None:
    config = published(**recipe)
    assert not Trainer(config, pairs, tmp_path / "at once").asynchronous
    Trainer(config, pairs, tmp_path / "at once").train()
    all_asynchronous(monkeypatch, late)
    Trainer(config, pairs, tmp_path / "late").train()
    assert result_of(tmp_path / "late") == result_of(tmp_path / "at once")
    train_in_parts(config, pairs, tmp_path / "parts", [1, 3, 5, 9])
    assert result_of(tmp_path / "parts") == result_of(tmp_path / "at once")


def test_asynchronous_with_a_checkpoint_after_every_batch_of_a_set_that_streams(
    large: PairSet, tmp_path: Path, monkeypatch, no_thread_is_left
) -> None:
    limits = {"memory_limit": 1000 * 2 * 192, "checkpoint_seconds": 0}
    config = published(**{**ADAMW, "batch_size": 450, **limits})
    Trainer(config, large, tmp_path / "at once").train()
    all_asynchronous(monkeypatch, 25)
    Trainer(config, large, tmp_path / "late").train()
    assert result_of(tmp_path / "late") == result_of(tmp_path / "at once")


def test_a_late_step_equals_a_step() -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.rand(3, 3, 8, 8, generator=generator) for _ in range(2))
    results = []
    for step in (train_step, late_step):
        network = models.create("seed", width=4, generator=torch.Generator().manual_seed(2))
        optimizer = SGD(network.param(), lr=1.0)
        values = [float(step(network, MSELoss(), optimizer, x, y)) for _ in range(3)]
        results.append((values, [value.tolist() for value in network.state_dict().values()]))
    assert results[0] == results[1]


def test_losses_are_read_every_so_many_steps(pairs: PairSet, run: Path, monkeypatch) -> None:
    """The sum of the losses stands still between; it is complete whenever something is saved."""
    all_asynchronous(monkeypatch, 3)
    mine = Trainer(published(**{**TINY, "epochs": 1}), pairs, run)
    sums: list[float] = []
    mine.on_batch = lambda images: sums.append(mine.position.loss_sum)
    (line,) = mine.train()
    assert sums[0] == sums[1] == 0
    assert 0 < sums[2] == sums[3] == sums[4]
    assert line["train_loss"] > sums[4] / 90


@pytest.mark.parametrize("late", [2, 4, 25])
def test_a_late_loss_that_is_not_finite_names_its_batch_and_spoils_nothing(
    pairs: PairSet, run: Path, monkeypatch, no_thread_is_left, late: int
) -> None:
    """The loss of batch 2 of epoch 2 is inf, and so are all that follow."""
    all_asynchronous(monkeypatch, late)
    config = published(**{**TINY, "epochs": 4, "lr": 0.1})
    mine = Trainer(config, pairs, run)
    step, done = descent.late_step, 0

    def poisoned(
        network: Any, loss: Any, optimizer: Any, x: Tensor, y: Tensor, *, clip: float
    ) -> Tensor:
        nonlocal done
        done += 1
        y = y * (torch.inf if done >= 7 else 1.0)
        return step(network, loss, optimizer, x, y, clip=clip)

    monkeypatch.setattr(descent, "late_step", poisoned)
    with pytest.raises(Diverged, match=r"^the loss is (inf|nan) in epoch 2, batch 2, at lr 0\.1; "):
        mine.train()
    assert 7 <= done <= 10  # at the latest the epoch's end
    assert all(map(all_finite, run.rglob("*.safetensors")))
    assert read_tensors(run / "checkpoints" / "last.safetensors")[1]["position"]["epoch"] == 1
    assert len(read_metrics(run)) == 1
    monkeypatch.setattr(descent, "late_step", step)
    Trainer(config, pairs, run).train()
    Trainer(config, pairs, run.with_name("whole")).train()
    assert result_of(run) == result_of(run.with_name("whole"))


@pytest.mark.parametrize("cause", ["stop", "checkpoint"])
def test_a_late_loss_is_read_before_a_checkpoint(
    pairs: PairSet, run: Path, monkeypatch, no_thread_is_left, cause: str
) -> None:
    all_asynchronous(monkeypatch, 25)
    seconds = 0.0 if cause == "checkpoint" else 60.0
    mine = Trainer(published(**TINY, checkpoint_seconds=seconds), pairs, run)
    monkeypatch.setattr(descent, "late_step", lambda *arguments, clip: torch.tensor(torch.nan))
    mine.stop = cause == "stop"
    with pytest.raises(Diverged, match="the loss is nan in epoch 1, batch 1, "):
        mine.train()
    assert not list(run.rglob("*.safetensors"))


def test_an_error_in_reading_ends_the_thread(
    pairs: PairSet, run: Path, monkeypatch, no_thread_is_left
) -> None:
    all_asynchronous(monkeypatch, 25)
    mine = Trainer(published(**TINY), pairs, run)
    mine.augment = lambda *arguments, **place: 1 / 0
    with pytest.raises(ZeroDivisionError):
        mine.train()


def test_buffers_are_released_when_training_is_over(pairs: PairSet, run: Path, monkeypatch) -> None:
    for number, stop in enumerate((False, True)):
        mine = Trainer(published(**{**TINY, "epochs": 1}), pairs, run.with_name(str(number)))
        released: list[bool] = []
        monkeypatch.setattr(mine.network, "release", lambda seen=released: seen.append(True))
        mine.stop = stop
        with suppress(Interrupted):
            mine.train()
        assert released


# ---- precision -----------------------------------------------------------------------------------


def test_bf16_trains_close_to_fp32_and_keeps_fp32_masters(
    pairs: PairSet, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(device, "cpu_features", lambda: {"avx512_bf16"})
    losses = {}
    for precision in ("fp32", "bf16"):
        mine = Trainer(published(**ADAMW, precision=precision), pairs, tmp_path / precision)
        losses[precision] = mine.train()[-1]["train_loss"]
        for path in (tmp_path / precision).rglob("*.safetensors"):
            kinds = {value.dtype for value in load_file(path).values()}
            assert kinds <= {torch.float32, torch.int64}
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


def test_a_precision_that_cannot_be_had_creates_nothing(
    pairs: PairSet, run: Path, monkeypatch
) -> None:
    monkeypatch.setattr(device, "cpu_features", frozenset)
    for precision in ("bf16", "tf32", "fp16"):
        with pytest.raises(InvalidValue, match=f"precision {precision} "):
            Trainer(published(**TINY, precision=precision), pairs, run)
    assert not run.exists()


# ---- best and last -------------------------------------------------------------------------------


def test_best_is_the_epoch_of_the_best_score(pairs: PairSet, run: Path, monkeypatch) -> None:
    real = trainer.evaluate
    errors = iter([0.04, 0.01, 0.02])

    def graded(*arguments: Any, **settings: Any) -> Any:
        error = next(errors)
        psnr = -10 * math.log10(error)
        scores = real(*arguments, **settings)
        return dataclasses.replace(scores, mse=error, psnr=psnr, psnr_pooled=psnr)

    monkeypatch.setattr(trainer, "evaluate", graded)
    weights = []
    mine = Trainer(
        published(**TINY),
        pairs,
        run,
        on_epoch=lambda line: weights.append(mine.network.state_dict()),
    )
    mine.train()
    assert mine.position.best_epoch == 2
    for path in (run / "model.safetensors", run / "checkpoints" / "best.safetensors"):
        network, metadata = load_model(path)
        assert all(torch.equal(v, weights[1][k]) for k, v in network.state_dict().items())
        assert metadata["training"]["epochs_done"] == 2
        assert metadata["scores"]["psnr"] == pytest.approx(20)
    network, metadata = load_model(run / "checkpoints" / "last.safetensors")
    assert all(torch.equal(v, weights[2][k]) for k, v in network.state_dict().items())
    assert metadata["training"]["epochs_done"] == 3


@pytest.mark.parametrize(
    "settings", [{"val": 0}, {"clean": False}, {"clean": False, "target": "clean"}]
)
def test_a_model_is_chosen_without_clean_images(
    make_set, run: Path, settings: dict[str, Any]
) -> None:
    pairs = make_set(**settings)
    mine = Trainer(published(**TINY), pairs, run)
    metrics = mine.train()
    if "val" in settings:
        scores = [-line["train_loss"] for line in metrics]
        assert all("val" not in line for line in metrics)
    elif "target" in settings:
        assert metrics[0]["val"]["estimated_psnr"] is None
        scores = [-line["val"]["loss"] for line in metrics]
    else:
        assert metrics[0]["val"]["psnr"] is None
        scores = [line["val"]["estimated_psnr"] for line in metrics]
    assert mine.position.best_epoch == 1 + int(np.argmax(scores))
    assert load_model(run / "model.safetensors")[0].channels == 3


@pytest.mark.parametrize("loss", ["l1", "l0"])
@pytest.mark.parametrize("clean", [True, False])
def test_losses_for_outliers_choose_by_what_most_pixels_say(
    make_set, run: Path, loss: str, clean: bool
) -> None:
    """Unless there are clean images."""
    mine = Trainer(published(**TINY, loss=loss), make_set(clean=clean), run)
    scores = [line["val"] for line in mine.train()]
    assert mine.position.best == -min(line["mse" if clean else "truncated_loss"] for line in scores)


def test_a_perfect_image_does_not_spoil_the_choice(make_set, run: Path, monkeypatch) -> None:
    """One image that comes out exactly has an infinite PSNR; the others still tell."""
    pairs = make_set()
    real = trainer.evaluate
    errors = iter([(math.inf, 0.01), (math.inf, 0.04), (13.9, 0.02)])

    def graded(*arguments: Any, **settings: Any) -> Any:
        psnr, error = next(errors)
        scores = real(*arguments, **settings)
        pooled = -10 * math.log10(error)
        return dataclasses.replace(scores, mse=error, psnr=psnr, psnr_pooled=pooled)

    monkeypatch.setattr(trainer, "evaluate", graded)
    mine = Trainer(published(**TINY), pairs, run)
    mine.train()
    assert mine.position.best_epoch == 1


def test_metadata_of_the_model(make_set, run: Path) -> None:
    pairs = make_set(sigma=12.0)
    config = published(**TINY)
    mine = Trainer(config, pairs, run)
    metrics = mine.train()
    best = metrics[mine.position.best_epoch - 1]
    _, metadata = load_model(run / "model.safetensors")
    assert metadata["architecture"] == {"name": "seed", "config": {"channels": 3, "width": 4}}
    assert metadata["normalisation"] == {"range": [0.0, 1.0]}
    assert metadata["noise"] == "gaussian:12.0"
    assert metadata["digest"] == pairs.digest
    assert metadata["scores"] == best["val"]
    training = metadata["training"]
    assert training["images"] == 90
    assert {name: training[name] for name in dataclasses.asdict(config)} == (
        dataclasses.asdict(config)
    )
    assert metadata["versions"]["torch"] == torch.__version__
    assert set(metadata["versions"]) == {"n2n", "torch", "python"}


# ---- diverging -----------------------------------------------------------------------------------


def all_finite(path: Path) -> bool:
    return all(bool(value.isfinite().all()) for value in load_file(path).values())


def test_a_step_with_a_loss_that_is_not_finite_changes_nothing() -> None:
    network = models.create("seed", width=2, generator=torch.Generator().manual_seed(0))
    optimizer = SGD(network.param(), lr=1.0, momentum=0.9)
    before = network.state_dict()
    x = torch.zeros(1, 3, 4, 4)
    for y in (torch.full_like(x, torch.nan), torch.full_like(x, torch.inf)):
        with pytest.raises(Diverged, match=r"^the loss is (nan|inf)$"):
            train_step(network, MSELoss(), optimizer, x, y)
        assert optimizer.steps == 0
        assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("name", ["seed", "unet"])
@pytest.mark.parametrize("lr", [1e30, 1e38])
def test_diverged_keeps_the_last_good_checkpoint(
    pairs: PairSet, run: Path, name: str, lr: float
) -> None:
    """An epoch at lr 0.1 is saved; then the rate explodes in the second batch of the next."""
    config = published(**{**TINY, "epochs": 4, "model": name, "lr": 0.1, "checkpoint_seconds": 0})
    mine = Trainer(config, pairs, run)
    mine.schedule = lambda step: 0.1 if step < 6 else lr
    with pytest.raises(Diverged) as caught:
        mine.train()
    assert caught.value.exit_code == 3
    message = str(caught.value)
    assert "\n" not in message
    assert f"in epoch 2, batch {mine.position.batch + ('the loss' in message)}, " in message
    assert str(run) in message
    assert "--lr" in message
    for path in run.rglob("*.safetensors"):
        assert all_finite(path), path
    position = read_tensors(run / "checkpoints" / "last.safetensors")[1]["position"]
    assert position["epoch"] == 1
    assert position["batch"] >= 1
    assert len(read_metrics(run)) == 1
    again = Trainer(config, pairs, run)
    assert again.position.epoch == 1


def test_a_parameter_that_is_not_finite_is_never_saved(make_set, run: Path, monkeypatch) -> None:
    """A last step that breaks a weight shows in no loss; stopping and ending an epoch notice."""
    pairs = make_set(val=0)  # scores would notice, too
    step = descent.train_step
    config = published(**TINY)
    for name, at in (("mid", 7), ("end", 10)):
        mine = Trainer(config, pairs, run.with_name(name))
        done = 0

        def poisoned(
            network: Any, *rest: Any, clip: float, at: int = at, mine: Trainer = mine
        ) -> float:
            nonlocal done
            done += 1
            value = step(network, *rest, clip=clip)
            if done == at:
                network.param()[2][0].view(-1)[0] = torch.inf
                mine.stop = at == 7
            return value

        monkeypatch.setattr(descent, "train_step", poisoned)
        with pytest.raises(Diverged, match=f"in epoch 2, batch {at - 5}, "):
            mine.train()
        saved = list(mine.run.path.rglob("*.safetensors"))
        assert len(saved) == 3
        assert all(map(all_finite, saved))


def test_scores_that_are_not_finite_are_never_saved(pairs: PairSet, run: Path, monkeypatch) -> None:
    """Finite weights may still be so large that every output overflows."""
    step = descent.train_step
    done = 0

    def poisoned(network: Any, *rest: Any, clip: float) -> float:
        nonlocal done
        done += 1
        value = step(network, *rest, clip=clip)
        if done == 10:
            for weights, _ in network.param():
                weights.mul_(0).add_(3e38).view(-1)[::2] = -3e38
        return value

    monkeypatch.setattr(descent, "train_step", poisoned)
    mine = Trainer(published(**TINY, model="unet", lr=0.01), pairs, run)
    with pytest.raises(Diverged, match="in epoch 2, batch 5, "):
        mine.train()
    assert len(read_metrics(run)) == 1
    position = read_tensors(run / "checkpoints" / "last.safetensors")[1]["position"]
    assert position["epoch"] == 1


def test_diverged_before_any_checkpoint_promises_none(pairs: PairSet, run: Path) -> None:
    mine = Trainer(published(**{**TINY, "lr": 1e38, "model": "unet"}), pairs, run)
    with pytest.raises(Diverged, match="in epoch 1, batch ") as caught:
        mine.train()
    assert not list(run.rglob("*.safetensors"))
    assert "last good checkpoint stays" not in str(caught.value)


# ---- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "settings", "error", "message"),
    [
        ((3, 8, 6), {}, ShapeError, "multiples of 4, the set has images of 8x6"),
        ((3, 8, 12), {"turns": True}, InvalidValue, "square images, the set has 8x12"),
        ((3, 8, 8), {"model_config": {"channels": 1}}, InvalidValue, "3 channels, got channels=1"),
        ((3, 8, 8), {"model_config": {"depth": 1}}, InvalidValue, "settings channels, width, got"),
        ((3, 8, 8), {"model_config": {"width": 0}}, InvalidValue, "width must be at least 1"),
    ],
)
def test_what_does_not_fit_creates_nothing(
    make_set, run: Path, shape: tuple[int, int, int], settings: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        Trainer(published(**{**TINY, **settings}), make_set(shape=shape), run)
    assert not run.exists()


def test_swap_needs_two_noisy_views(make_set, run: Path) -> None:
    """Swapped, a clean target would be the input of a network that learns to add noise."""
    with pytest.raises(InvalidValue, match=r"swap needs .* switch swap off"):
        Trainer(published(**TINY, swap=True), make_set(target="clean"), run)
    assert not run.exists()


def test_grey_pairs_train_a_grey_network(make_set, run: Path) -> None:
    mine = Trainer(published(**{**TINY, "epochs": 1}), make_set(shape=(1, 8, 8)), run)
    mine.train()
    assert load_model(run / "model.safetensors")[0].channels == 1


def test_another_set_or_configuration_is_refused(
    make_set, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "cpu_features", lambda: {"avx512_bf16"})
    pairs, other = make_set(), make_set("other", seed=1)
    Trainer(published(**TINY), pairs, run).train()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(RunConflict, match=f"belongs to the pair set {pairs.path}, .* {other.path}"):
        Trainer(published(**TINY), other, run)
    for name, value in {
        "lr": 1.0,
        "seed": 1,
        "batch_size": 30,
        "momentum": 0.5,
        "flips": True,
        "loss": "l1",
        "model_config": {"width": 8},
        "memory_limit": 1 << 20,
        "precision": "bf16",
    }.items():
        with pytest.raises(RunConflict, match=f"holds a run with {name} .*asked for"):
            Trainer(published(**{**TINY, name: value}), pairs, run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_what_may_change(make_set, tmp_path: Path) -> None:
    pairs = make_set()
    moved = make_set("moved")  # the same content in another place
    assert moved.digest == pairs.digest
    Trainer(published(**TINY), pairs, tmp_path / "constant").train()
    changed = {**TINY, "epochs": 4, "threads": 2, "checkpoint_seconds": 1.0}
    mine = Trainer(published(**changed), moved, tmp_path / "constant")
    assert mine.position.epoch == 3
    cosine = {**TINY, "schedule": "cosine"}
    Trainer(published(**cosine), pairs, tmp_path / "cosine").train()
    with pytest.raises(RunConflict, match="holds a run with epochs 3, asked for 4"):
        Trainer(published(**{**cosine, "epochs": 4}), pairs, tmp_path / "cosine")
