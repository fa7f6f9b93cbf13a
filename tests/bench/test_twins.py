"""The twins are what they are compared as: the same function, gradients and training."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from n2n import models
from n2n import nn as own
from n2n.config import PRESETS, TrainConfig

from . import curve, twin
from .contestants import Own, Twin, draw_batch
from .twins import twin_of

SMALL = {"width": 6}


def assert_same(network: own.Module, x: torch.Tensor, *, seed: int = 1) -> None:
    """Forward and every gradient of network and twin agree, with a random cotangent."""
    copy = twin_of(network)
    copy.load_state_dict(network.state_dict())
    leaf = x.clone().requires_grad_()
    expected = copy(leaf)
    found = network(x)
    assert found.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    generator = torch.Generator().manual_seed(seed)
    cotangent = torch.randn(expected.shape, generator=generator) / expected[0].numel() ** 0.5
    network.zero_grad()
    grad_input = network.backward(cotangent)
    expected.backward(cotangent)
    torch.testing.assert_close(grad_input, leaf.grad, rtol=1e-3, atol=1e-4)
    wanted = dict(copy.named_parameters())
    assert list(network.named_parameters()) == list(wanted)
    found_grads = {name: item.grad for name, item in network.named_parameters().items()}
    wanted_grads = {name: item.grad for name, item in wanted.items()}
    torch.testing.assert_close(found_grads, wanted_grads, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", models.architectures())
def test_every_architecture_and_its_twin_agree(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    network = models.create(name, generator=generator, **SMALL)
    size = 4 * network.multiple
    assert_same(network, torch.rand(3, 3, size, size, generator=generator))


@pytest.mark.parametrize(
    "layers",
    [
        [own.MaxPool2d(2), own.NearestUpsample((2, 2))],
        [own.PixelUnshuffle(2), own.Conv2d(12, 12, 3, padding=1), own.PixelShuffle(2)],
        [own.Residual(own.Sequential(own.ReLU(), own.Conv2d(3, 3, 3, padding=1)))],
        [own.Skip(own.Sequential(own.LeakyReLU(0.2), own.Conv2d(3, 2, 1, bias=False)))],
        [own.Conv2d(3, 6, 3, padding=2, dilation=2, groups=3), own.LeakyReLU(0.0), own.Sigmoid()],
        [own.ConvTranspose2d(3, 6, 3, 2, 1, 1, groups=3), own.ReLU()],
    ],
    ids=lambda layers: "-".join(type(layer).__name__ for layer in layers),
)
def test_every_layer_and_its_twin_agree(layers: list[own.Module]) -> None:
    network = own.Sequential(*layers)
    generator = torch.Generator().manual_seed(2)
    for value, _ in network.param():
        value.normal_(std=0.3, generator=generator)
    assert_same(network, torch.randn(2, 3, 8, 8, generator=generator))


def test_only_a_convolution_is_overwritten_by_what_follows() -> None:
    """In place where a careful user of torch would be, so that the twin is not slower than he."""
    network = twin_of(
        own.Sequential(own.ReLU(), own.Conv2d(3, 3, 1), own.ReLU(), own.LeakyReLU(), own.Sigmoid())
    )
    places = [layer.inplace for layer in network if isinstance(layer, nn.ReLU | nn.LeakyReLU)]
    assert places == [False, True, False]


def test_a_module_without_a_twin_is_named() -> None:
    class Gain(own.Module):
        pass

    with pytest.raises(TypeError, match="Gain has no twin yet"):
        twin_of(own.Sequential(Gain()))


@pytest.mark.parametrize("name", models.architectures())
@pytest.mark.parametrize("variant", ["eager", "channels_last"])
def test_both_sides_take_the_same_steps(name: str, variant: str) -> None:
    config = TrainConfig.of(model=name, batch_size=4, model_config=SMALL)
    ours, torchs = Own(config), Twin(config, variant)
    x, y = draw_batch(config, 16)
    for _ in range(3):
        found = ours.step(x, y)
        expected = torchs.step(torchs.prepare(x), torchs.prepare(y))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        ours.infer(x), torchs.infer(torchs.prepare(x)).clone(), rtol=1e-2, atol=1e-3
    )


@pytest.mark.parametrize("variant", ["eager", "channels_last"])
def test_muon_moves_both_sides_alike(variant: str) -> None:
    """As far as torch's bf16 goes where a direction is weak, on layers of both kinds."""
    sizes = {"width": 8, "hidden": 96, "blocks": 2}
    config = TrainConfig.of(model="n2n", batch_size=4, model_config=sizes, lr=0.01)
    ours, torchs = Own(config), Twin(config, variant)
    before = ours.network.state_dict()
    x, y = draw_batch(config, 16)
    ours.step(x, y)
    torchs.step(torchs.prepare(x), torchs.prepare(y))
    twins = torchs.network.state_dict()
    for name, value in ours.network.state_dict().items():
        moved, expected = value - before[name], twins[name] - before[name]
        assert (moved - expected).norm() <= 0.2 * expected.norm(), name
        assert expected.abs().max() > 1e-3, name


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_training_beside_the_twin_and_its_curve(
    make_set, tmp_path: Path, monkeypatch, ema: float
) -> None:
    monkeypatch.setitem(PRESETS["published"], "ema", ema)
    make_set(rows=40, val=10)
    threads = torch.get_num_threads()
    options = ["--preset", "published", "--epochs", "2", "--device", "cpu", "--threads", "1"]
    arguments = [str(tmp_path / "set"), "--run", str(tmp_path / "run"), *options]
    result = CliRunner().invoke(twin.main, arguments)
    torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in (tmp_path / "run/twin.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    for line in lines:
        assert line["psnr"] == pytest.approx(line["twin_psnr"], abs=0.01)
    for name in ("seconds", "twin_seconds"):
        assert 0 < lines[0][name] < lines[1][name]

    again = CliRunner().invoke(twin.main, arguments)
    assert again.exit_code == 2
    assert "expected a new run" in again.output

    curves = curve.read(tmp_path / "run", "published")
    assert [(line.label, line.twin) for line in curves] == [
        ("published, n2n", False),
        ("published, torch", True),
    ]
    assert curves[1].minutes[1] == lines[1]["twin_seconds"] / 60
    (own_curve,) = curve.read(tmp_path / "run" / "metrics.jsonl", "alone")
    assert own_curve.psnr == curves[0].psnr
    pytest.importorskip("matplotlib", reason="needs the extra bench")
    drawn = CliRunner().invoke(curve.main, [str(tmp_path / "c.png"), f"both={tmp_path / 'run'}"])
    assert drawn.exit_code == 0, drawn.output
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
