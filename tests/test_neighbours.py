"""Pairs from single noisy images: the sub-samples, the loss with its regulariser, a run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from jobs.train import main
from n2n import models
from n2n.checkpoint import load_model
from n2n.config import TrainConfig
from n2n.data import single_images
from n2n.errors import InvalidValue, PairSetError
from n2n.evaluation import Scores, evaluate
from n2n.neighbours import draw_cells, neighbour_pair, subsample
from n2n.start import Start
from n2n.trainer import Trainer

SMALL = {"model": "unet", "model_config": {"width": 2, "depth": 1}, "batch_size": 8, "turns": True}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five noisy images."""
    place = tmp_path / "noisy"
    place.mkdir()
    for number in range(5):
        rng = np.random.default_rng(number)
        waves = 128 + 60 * np.sin(np.arange(40)[:, None, None] / (3 + number) + np.arange(3))
        pixels = waves + 25 * rng.standard_normal((40, 36, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{number}.png")
    return place


def images_of(count: int, side: int) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


# The sub-samples


def test_two_neighbours_of_each_cell_are_taken_all_channels_together() -> None:
    images = torch.arange(2 * 6 * 6).reshape(2, 1, 6, 6).expand(2, 3, 6, 6)  # each its own number
    cells = draw_cells(2, 3, np.random.default_rng(0))
    first, second = subsample(images, cells)
    for g in (first, second):
        assert g.shape == (2, 3, 3, 3)
        assert (g == g[:, :1]).all()
        rows, columns = g[:, 0] % 36 // 6, g[:, 0] % 6
        assert (rows // 2 == torch.arange(3)[:, None]).all()
        assert (columns // 2 == torch.arange(3)).all()
        assert (g[:, 0] // 36 == torch.arange(2)[:, None, None]).all()
    apart = (first - second).abs()
    assert set(apart.unique().tolist()) == {1, 6}  # beside or below, never across


def test_all_eight_choices_are_equally_likely() -> None:
    cells = draw_cells(50, 40, np.random.default_rng(0))
    codes, counts = np.unique(10 * cells[0] + cells[1], return_counts=True)
    assert codes.tolist() == [1, 2, 10, 13, 20, 23, 31, 32]
    assert np.abs(counts / counts.mean() - 1).max() < 0.05


def test_independent_noise_stays_independent() -> None:
    noise = torch.randn(4, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    first, second = subsample(noise, draw_cells(4, 64, np.random.default_rng(0)))
    assert abs(float((first * second).mean())) < 4 / np.sqrt(first.numel())
    assert float((first - second).var()) == pytest.approx(2, rel=0.05)


# The loss


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_gradient_is_that_of_the_papers_loss(gamma: float) -> None:
    """By autograd on equation (6), up to the factor 1 + γ."""
    network = models.create("unet", width=2, depth=1, generator=torch.Generator().manual_seed(0))
    images = images_of(3, 16)
    x, target = neighbour_pair(network, images, np.random.default_rng(7), gamma=gamma)
    cells = draw_cells(3, 8, np.random.default_rng(7))
    g1, g2 = subsample(images, cells)
    assert (x == g1).all()
    d1, d2 = subsample(network(images), cells)
    output = network(g1).clone().requires_grad_()
    loss = ((output - g2) ** 2).mean() + gamma * ((output - g2 - (d1 - d2)) ** 2).mean()
    (expected,) = torch.autograd.grad(loss, output)
    found = 2 * (output.detach() - target) / output.numel()
    assert torch.allclose(found * (1 + gamma), expected, atol=1e-7)
    assert network.training


# The images


def test_held_out_images_are_not_trained_on(folder: Path) -> None:
    pairs, line = single_images(folder, size=8, rows=20, val_rows=6)
    trained = {one.name for one in pairs.train.photographs}
    held_out = {name for name, _ in pairs.val.sources}
    assert (len(trained), len(held_out)) == (4, 1)
    assert not trained & held_out
    assert line == "20 crops an epoch from 4 noisy images, 1 held out"
    assert (pairs.shape, pairs.train.shape, pairs.val.rows) == ((3, 8, 8), (3, 16, 16), 6)
    again, _ = single_images(folder, size=8, rows=20, val_rows=6)
    other, _ = single_images(folder, size=8, rows=21, val_rows=6)
    assert pairs.digest == again.digest != other.digest
    columns = pairs.val.read()
    with Image.open(folder / held_out.pop()) as image:
        pixels = np.asarray(image).transpose(2, 0, 1)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (3, 16, 16))[0]
    for number, (x, y) in enumerate(zip(columns["input"], columns["target"], strict=True)):
        crop = next(w for w in windows.reshape(-1, 3, 16, 16) if (w[:, ::2, ::2] == x).all())
        neighbour = crop[:, 1::2, ::2] if number % 2 else crop[:, ::2, 1::2]
        assert (neighbour == y).all()


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PairSetError, match="at least two different noisy images of 80 pixels"):
        single_images(folder, size=40)
    with pytest.raises(InvalidValue, match="size must be 1 or more"):
        single_images(folder, size=0)
    pairs, _ = single_images(folder, size=8, rows=8, val_rows=4)
    with pytest.raises(InvalidValue, match="loss must be mse for single"):
        Trainer(TrainConfig.of(**SMALL, loss="l1"), pairs, tmp_path / "run")
    with pytest.raises(InvalidValue, match="whose epochs cannot be compared, got 3; set --epochs"):
        Trainer(TrainConfig.of(**SMALL, patience=3), pairs, tmp_path / "run")


# A run


def run(*arguments: object) -> Result:
    options = ["--model", "unet", "--set", "width=2", "--set", "depth=1", "--batch-size", "8"]
    small = ["--size", "8", "--images", "40", "--epochs", "2", "--device", "cpu", "--threads", "1"]
    return CliRunner().invoke(main, [*map(str, arguments), "--single", *options, *small])


def test_a_run_is_scored_by_the_held_out_sub_samples(folder: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    result = run(folder, "--run", tmp_path / "run", "--json")
    assert result.exit_code == 0, result.stderr
    assert "40 crops an epoch from 4 noisy images, 1 held out" in result.stderr
    line = json.loads(result.stdout)
    assert line["val"]["estimated_psnr"] is line["val"]["psnr"] is None
    network, metadata = load_model(tmp_path / "run/model.safetensors")
    assert metadata["noise"] is None
    pairs, _ = single_images(folder, size=8, rows=40)
    assert metadata["scores"]["loss"] == pytest.approx(evaluate(network, pairs.val).loss, rel=1e-5)
    record = (tmp_path / "run/provenance.jsonl").read_text()
    assert str(folder) in record
    again = run(folder, "--run", tmp_path / "run")
    assert "the run is complete" in again.stderr
    torch.set_num_threads(threads)


def test_the_last_epoch_is_the_model_while_the_regulariser_rises(
    monkeypatch, folder: Path, tmp_path: Path
) -> None:
    """Whatever its score; of a run that begins with a model, it is the best by the score."""
    errors = iter([0.1, 0.3, 0.2] * 2)

    def score(*arguments, **options) -> Scores:
        return replace(evaluate(*arguments, **options), loss=next(errors))

    monkeypatch.setattr("n2n.trainer.evaluate", score)
    pairs, _ = single_images(folder, size=8, rows=16, val_rows=4)
    random = Trainer(TrainConfig.of(**SMALL, epochs=3), pairs, tmp_path / "random")
    random.train()
    assert random.position.best_epoch == 3
    model = random.run.model_path
    assert load_model(model)[1]["scores"]["loss"] == 0.2
    begun = TrainConfig.of(**Start.read(model).settings({"epochs": 3, "patience": 2}))
    fitted = Trainer(begun, pairs, tmp_path / "fitted", start=model)
    fitted.train()
    assert fitted.position.best_epoch == 1
    assert load_model(fitted.run.model_path)[1]["scores"]["loss"] == 0.1


def test_a_resumed_run_ends_with_the_same_weights(folder: Path, tmp_path: Path) -> None:
    pairs, _ = single_images(folder, size=8, rows=40, val_rows=4)
    config = TrainConfig.of(**SMALL, epochs=2)
    whole = Trainer(config, pairs, tmp_path / "whole")
    whole.train()
    part = Trainer(config, pairs, tmp_path / "part")

    def stop(images: int) -> None:
        part.stop = part.position.batch == 3

    part.on_batch = stop
    with pytest.raises(Exception, match="stopped after batch 3"):
        part.train()
    resumed = Trainer(config, pairs, tmp_path / "part")
    assert resumed.resumed
    resumed.train()
    for name, value in whole.network.state_dict().items():
        assert value.equal(resumed.network.state_dict()[name]), name


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--workers", "2"], "--single trains in one process"),
        (["--stream-from", "."], "--single trains in one process"),
        (["--loss", "l1"], "loss must be mse"),
    ],
)
def test_what_the_command_refuses(folder: Path, tmp_path: Path, arguments, part: str) -> None:
    result = run(folder, "--run", tmp_path / "run", *arguments)
    assert result.exit_code == 2
    assert part in result.stderr
