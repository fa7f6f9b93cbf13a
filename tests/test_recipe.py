"""What gets a training there: averaged weights, clipped gradients, an early end, a start."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from n2n import models, trainer
from n2n.checkpoint import load_model, read_tensors
from n2n.config import TrainConfig
from n2n.data import PairSet
from n2n.errors import Interrupted, InvalidValue, ModelFileError, RunConflict
from n2n.evaluation import evaluate
from n2n.nn import MSELoss
from n2n.start import Start, resumed
from n2n.trainer import Trainer

TINY: dict[str, Any] = {"model_config": {"width": 4}, "epochs": 3, "batch_size": 20, "lr": 1.0}
NEW = ("ema", "clip", "patience", "start")


def published(**settings: Any) -> TrainConfig:
    return TrainConfig.of("published", **{**TINY, **settings})


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, write) -> PairSet:
    return write(tmp_path_factory.mktemp("sets") / "set")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_model(path)[0].state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def rates_of(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"lr": line["lr"], "val": line["val"], "loss": line["train_loss"]} for line in metrics]


# ---- the average of the weights, clipped gradients -----------------------------------------------


def test_steps_equal_a_loop_in_torch(pairs: PairSet, run: Path) -> None:
    """Clipping by torch's own, the average by its definition, over all fifteen steps."""
    mine = Trainer(published(ema=0.7, clip=0.003), pairs, run)
    nn = torch.nn
    twin = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU()),
        *(nn.ConvTranspose2d(4, 4, 3, 2, 1, 1), nn.ReLU()),
        *(nn.ConvTranspose2d(4, 3, 3, 2, 1, 1), nn.Sigmoid()),
    )
    twin.load_state_dict(mine.network.state_dict())
    optimizer = torch.optim.SGD(twin.parameters(), lr=1.0)
    average = {name: value.clone() for name, value in twin.state_dict().items()}
    clipped, step = 0, 0
    for epoch in range(3):
        for x, y in pairs.train.batches(batch_size=20, seed=0, epoch=epoch):
            step += 1
            optimizer.zero_grad()
            nn.functional.mse_loss(twin(torch.tensor(x) / 255), torch.tensor(y) / 255).backward()
            clipped += bool(nn.utils.clip_grad_norm_(twin.parameters(), 0.003) > 0.003)
            optimizer.step()
            keep = min(0.7, (1 + step) / (10 + step))
            for name, value in twin.state_dict().items():
                average[name] = keep * average[name] + (1 - keep) * value
    assert clipped > 0
    mine.train()
    torch.testing.assert_close(mine.network.state_dict(), twin.state_dict(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        weights(run / "checkpoints" / "last.safetensors"), average, rtol=1e-4, atol=1e-6
    )


def test_scores_and_model_are_the_averages(pairs: PairSet, run: Path) -> None:
    mine = Trainer(published(ema=0.9), pairs, run)
    metrics = mine.train()
    network, metadata = load_model(run / "model.safetensors")
    best = metrics[metadata["training"]["epochs_done"] - 1]
    assert evaluate(network, pairs.val).as_dict() == pytest.approx(best["val"], rel=1e-6)
    assert same(network.state_dict(), weights(run / "checkpoints" / "best.safetensors"))
    last = run / "checkpoints" / "last.safetensors"
    assert not same(weights(last), mine.network.state_dict())
    tensors = read_tensors(last)[0]
    assert same(
        {name.removeprefix("trained."): v for name, v in tensors.items() if "trained." in name},
        mine.network.state_dict(),
    )


def test_the_average_changes_no_step(pairs: PairSet, tmp_path: Path) -> None:
    plain = Trainer(published(), pairs, tmp_path / "plain")
    averaged = Trainer(published(ema=0.9), pairs, tmp_path / "averaged")
    losses = [[line["train_loss"] for line in mine.train()] for mine in (plain, averaged)]
    assert losses[0] == losses[1]
    assert same(plain.network.state_dict(), averaged.network.state_dict())


def test_a_run_of_before_these_settings_goes_on(pairs: PairSet, tmp_path: Path) -> None:
    """Its config.yaml and checkpoints know none of them: it ends as an uninterrupted one."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    Trainer(published(), pairs, whole).train()
    Trainer(published(epochs=1), pairs, parts).train()
    settings = yaml.safe_load((parts / "config.yaml").read_text())
    old = {name: value for name, value in settings.items() if name not in NEW}
    assert len(old) == len(settings) - len(NEW)
    (parts / "config.yaml").write_text(yaml.safe_dump(old))
    tensors, _ = read_tensors(parts / "checkpoints" / "last.safetensors")
    assert not any(name.startswith("trained.") for name in tensors)
    with pytest.raises(RunConflict, match=r"a run with ema 0\.0, asked for 0\.9"):
        Trainer(published(ema=0.9), pairs, parts)
    again = Trainer(published(), pairs, parts)
    assert again.position.epoch == 1
    again.train()
    assert same(weights(parts / "model.safetensors"), weights(whole / "model.safetensors"))


# ---- an early end --------------------------------------------------------------------------------


def graded(monkeypatch: pytest.MonkeyPatch, errors: list[float]) -> None:
    """Epoch k scores the k-th of these mean squared errors."""
    real, left = trainer.evaluate, iter(errors)
    monkeypatch.setattr(
        trainer,
        "evaluate",
        lambda *given, **more: dataclasses.replace(real(*given, **more), mse=next(left)),
    )


def test_ends_after_epochs_that_are_no_better(pairs: PairSet, run: Path, monkeypatch) -> None:
    graded(monkeypatch, [0.05, 0.02, 0.03, 0.01, 0.01, 0.02, 0.005])
    config = published(epochs=9, patience=2)
    mine = Trainer(config, pairs, run)
    assert len(mine.train()) == 6
    assert mine.finished
    assert mine.position.best_epoch == 4
    again = Trainer(config, pairs, run, on_batch=pytest.fail)
    assert again.finished
    assert len(again.train()) == 6
    more = Trainer(dataclasses.replace(config, patience=3, epochs=7), pairs, run)
    assert not more.finished
    assert len(more.train()) == 7


def test_patience_holds_over_a_stop(pairs: PairSet, run: Path, monkeypatch) -> None:
    graded(monkeypatch, [0.01, 0.02, 0.03])
    config = published(epochs=9, patience=2)
    first = Trainer(config, pairs, run, on_epoch=lambda line: setattr(first, "stop", True))
    with pytest.raises(Interrupted):
        first.train()
    assert len(Trainer(config, pairs, run).train()) == 3


# ---- a start -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory, pairs: PairSet) -> Path:
    """A model of 4 channels, trained for an epoch with another seed."""
    run = tmp_path_factory.mktemp("before") / "run"
    Trainer(published(epochs=1, seed=9), pairs, run).train()
    return run / "model.safetensors"


def fine_tuning(model: Path, **settings: Any) -> TrainConfig:
    given = {name: value for name, value in TINY.items() if name != "model_config"}
    return TrainConfig.of(**Start.read(model).settings({**given, **settings}))


def test_begins_with_the_weights_of_the_file(pairs: PairSet, run: Path, model: Path) -> None:
    config = fine_tuning(model, ema=0.9)
    mine = Trainer(config, pairs, run, start=model)
    assert same(mine.network.state_dict(), weights(model))
    assert same(mine.descent.learner.average.state_dict(), weights(model))
    assert (run / "start.safetensors").read_bytes() == model.read_bytes()
    mine.train()
    begin = json.loads((run / "provenance.jsonl").read_text().splitlines()[0])
    assert begin["settings"]["start"] == Start.read(model).digest
    metadata = load_model(run / "model.safetensors")[1]
    assert metadata["training"]["start"] == Start.read(model).digest


def test_a_run_that_has_begun_needs_the_file_no_more(
    pairs: PairSet, tmp_path: Path, model: Path
) -> None:
    config = fine_tuning(model)
    Trainer(config, pairs, tmp_path / "whole", start=model).train()
    run = tmp_path / "parts"
    Trainer(config, pairs, run, start=model)  # killed before its first checkpoint
    begun = yaml.safe_load((run / "config.yaml").read_text())
    given = {name: value for name, value in TINY.items() if name != "model_config"}
    kept = TrainConfig.of(**resumed(begun, given))
    first = Trainer(kept, pairs, run, on_epoch=lambda line: setattr(first, "stop", True))
    with pytest.raises(Interrupted):
        first.train()
    (run / "start.safetensors").unlink()
    Trainer(kept, pairs, run).train()
    for name in ("model.safetensors", "checkpoints/last.safetensors"):
        assert same(weights(run / name), weights(tmp_path / "whole" / name))


def test_a_model_to_begin_with_that_is_lost_or_another(
    pairs: PairSet, run: Path, model: Path
) -> None:
    config = fine_tuning(model)
    with pytest.raises(RunConflict, match=r"that it begins with, found none; .* --from"):
        Trainer(config, pairs, run)
    Trainer(config, pairs, run, start=model)
    (run / "start.safetensors").write_bytes(b"other")
    with pytest.raises(RunConflict, match="found another; choose another --run"):
        Trainer(config, pairs, run)
    Trainer(config, pairs, run.with_name("same"), start=model)
    with pytest.raises(RunConflict, match="holds a run with start "):
        Trainer(dataclasses.replace(config, start="0" * 64), pairs, run.with_name("same"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "unet"}, "holds a model with model seed, asked for unet; leave model out"),
        ({"model_config": {"width": 5}}, "a model with width 4, asked for 5"),
        ({"model_config": {"depth": 2}}, "a model with depth not known, asked for 2"),
    ],
)
def test_options_that_contradict_the_file(model: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        Start.read(model).settings(given)
    assert Start.read(model).settings({"model_config": {"width": 4}})["model"] == "seed"


def test_begins_with_a_smaller_network(pairs: PairSet, tmp_path: Path) -> None:
    """With more overlapping blocks than the file has, which change nothing at first."""
    before = tmp_path / "before"
    shape = {"width": 4, "hidden": 6, "blocks": 2, "overlap": 1}
    given = {**TINY, "model": "n2n", "epochs": 1}
    Trainer(TrainConfig.of(**{**given, "model_config": shape}), pairs, before).train()
    model = before / "model.safetensors"
    settings = Start.read(model).settings({**given, "model_config": {"overlap": 2}})
    assert settings["model_config"] == {**Start.read(model).model_config, "overlap": 2}
    config = TrainConfig.of(**settings)
    mine = Trainer(config, pairs, tmp_path / "run", start=model)
    x = torch.rand(2, 3, 16, 16)
    old, grown = load_model(model)[0], mine.network.eval()
    assert torch.equal(grown(x), old(x))
    mine.train()
    after, _ = load_model(tmp_path / "run" / "model.safetensors")
    assert after.config["overlap"] == 2
    new = [value for name, value in after.state_dict().items() if "overlap1.inner.second" in name]
    assert len(new) == 2
    assert all(value.any() for value in new)
    with pytest.raises(InvalidValue, match="a model with overlap 1, asked for 0"):
        Start.read(model).settings({"model_config": {"overlap": 0}})


def test_a_start_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"none")
    for name in ("a.safetensors", "nothing.safetensors"):
        with pytest.raises(ModelFileError, match=name):
            Start.read(tmp_path / name)


def test_a_start_of_other_channels(make_set, run: Path, model: Path) -> None:
    with pytest.raises(InvalidValue, match="images of 1 channels, got channels=3"):
        Trainer(fine_tuning(model), make_set(shape=(1, 8, 8)), run, start=model)
    assert not run.exists()


# ---- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ema": 1.0}, "ema must be from 0 to below 1"),
        ({"ema": float("nan")}, "ema must be from 0"),
        ({"clip": -1.0}, "clip must be a finite number, not negative"),
        ({"clip": float("inf")}, "clip must be a finite number"),
        ({"patience": -1}, "patience must be 0 or more epochs"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        published(**settings)


def test_clipping_leaves_a_step_that_is_small_alone() -> None:
    from n2n.nn import SGD
    from n2n.step import train_step

    found = []
    for clip in (0.0, 1e6):
        generator = torch.Generator().manual_seed(0)
        network = models.create("seed", width=2, generator=generator)
        x, y = (torch.rand(2, 3, 8, 8, generator=generator) for _ in range(2))
        train_step(network, MSELoss(), SGD(network.param(), 1.0), x, y, clip=clip)
        found.append(network.state_dict())
    assert same(*found)
