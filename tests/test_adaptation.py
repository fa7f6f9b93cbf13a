"""A model fitted to noisy images: never worse by those held out, bounded in time, resumable."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from jobs.adapt import main
from n2n import models, shipped
from n2n.adaptation import adapt
from n2n.checkpoint import load_model, save_model
from n2n.data import SingleSet, single_images
from n2n.errors import Interrupted, InvalidValue, RunConflict
from n2n.evaluation import evaluate

FAST = {"minutes": 60.0, "lr": 1e-2}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """Works in an empty folder that holds four noisy images and a model."""
    monkeypatch.chdir(tmp_path)
    Path("noisy").mkdir()
    for number in range(4):
        rng = np.random.default_rng(number)
        waves = 128 + 60 * np.sin(np.arange(40)[:, None, None] / (3 + number) + np.arange(3))
        pixels = waves + 40 * rng.standard_normal((40, 36, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(f"noisy/{number}.png")
    network = models.create("unet", width=2, depth=1, generator=torch.Generator().manual_seed(0))
    save_model(Path("start.safetensors"), network, {"noise": "gaussian:5"})
    return tmp_path


def pairs() -> SingleSet:
    return single_images(Path("noisy"), size=8, rows=64, val_rows=20)[0]


def test_the_best_by_the_held_out_images_is_kept(folder: Path) -> None:
    lines: list[dict] = []
    start = Path("start.safetensors")
    result = adapt(pairs(), start, Path("out"), epochs=3, on_epoch=lines.append, **FAST)
    losses = [line["val"]["loss"] for line in lines]
    assert len(losses) == result.epochs == 3
    assert result.after == min(losses) < result.before
    assert result.best_epoch == 1 + losses.index(min(losses))
    for path, expected in ((start, result.before), (result.model, result.after)):
        found = evaluate(load_model(path)[0], pairs().val).loss
        assert found == pytest.approx(expected, rel=1e-5)


def test_it_is_never_worse_than_the_start(folder: Path) -> None:
    """With a rate that ruins it."""
    start = Path("start.safetensors")
    good = adapt(pairs(), start, Path("good"), epochs=4, **FAST).model
    result = adapt(pairs(), good, Path("out"), epochs=2, minutes=60, lr=0.5)
    assert (result.best_epoch, result.after) == (0, result.before)
    assert result.model.read_bytes() == good.read_bytes()


def test_the_time_ends_it_and_the_same_call_goes_on(folder: Path) -> None:
    start = Path("start.safetensors")
    first = adapt(pairs(), start, Path("out"), minutes=1e-9, lr=1e-2)
    assert (first.epochs, first.best_epoch) == (0, 0)
    assert first.model.read_bytes() == start.read_bytes()
    trainers = []
    second = adapt(
        pairs(), start, Path("out"), minutes=60, lr=1e-2, epochs=2, on_trainer=trainers.append
    )
    assert trainers[0].resumed
    assert second.epochs == 2
    assert second.after < second.before == first.before
    with pytest.raises(RunConflict, match="lr"):
        adapt(pairs(), start, Path("out"), minutes=1, lr=1e-3)


def test_a_stop_by_the_user_is_one(folder: Path) -> None:
    def stop(trainer) -> None:
        trainer.stop = True

    with pytest.raises(Interrupted):
        adapt(pairs(), Path("start.safetensors"), Path("out"), on_trainer=stop, **FAST)
    assert Path("out/model.safetensors").read_bytes() == Path("start.safetensors").read_bytes()


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf")])
def test_minutes_are_a_time(folder: Path, minutes: float) -> None:
    with pytest.raises(InvalidValue, match="minutes must be above 0"):
        adapt(pairs(), Path("start.safetensors"), Path("out"), minutes=minutes, lr=1e-2)
    assert not Path("out").exists()


# The command


def run(*arguments: str) -> Result:
    threads = torch.get_num_threads()
    options = ["--size", "8", "--device", "cpu", "--threads", "1"]
    try:
        return CliRunner().invoke(main, ["noisy", "--out", "out", *options, *arguments])
    finally:
        torch.set_num_threads(threads)


def test_the_command(folder: Path) -> None:
    result = run("--model", "start.safetensors", "--minutes", "0.00001")
    assert result.exit_code == 0, result.stderr
    assert "no better than before" in result.stdout
    assert "2,000 crops an epoch from 3 noisy images, 1 held out" in result.stderr
    assert "adapting unet" in result.stderr
    again = run("--minutes", "0.00001", "--json")  # without the model, which is kept
    assert again.exit_code == 0, again.stderr
    told = json.loads(again.stdout)
    assert (told["model"], told["best_epoch"]) == ("out/model.safetensors", 0)
    assert told["before"] == told["after"] > 0
    assert "from epoch 1" in again.stderr


def test_what_the_command_refuses(folder: Path, monkeypatch) -> None:
    place = folder / "none"
    place.mkdir()
    monkeypatch.setattr(shipped, "PLACE", place)
    for arguments, part in (
        ([], "no default model (photo)"),
        (["--model", "none.safetensors"], "found nothing there"),
        (["--model", "start.safetensors", "--size", "100"], "at least two different noisy images"),
        (["--model", "start.safetensors", "--minutes", "0"], "minutes must be above 0"),
    ):
        result = run(*arguments)
        assert (result.exit_code, result.stdout) == (2, ""), arguments
        assert part in result.stderr
    assert not Path("out").exists()
