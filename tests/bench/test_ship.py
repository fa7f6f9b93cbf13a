"""The program that halves a model file for the package."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from n2n import models
from n2n.checkpoint import load_model, save_model
from tests.bench.ship import main


@pytest.fixture
def network() -> models.Network:
    return models.create("seed", generator=torch.Generator().manual_seed(0)).eval()


def test_half_the_size_and_the_same_pixels(network: models.Network, tmp_path: Path) -> None:
    before, after = tmp_path / "model.safetensors", tmp_path / "half.safetensors"
    save_model(before, network, {"noise": "gaussian:25"})
    result = CliRunner().invoke(main, [str(before), str(after)])
    assert result.exit_code == 0, result.output
    assert after.stat().st_size < 0.52 * before.stat().st_size
    loaded, metadata = load_model(after)
    assert metadata == load_model(before)[1]
    assert all(value.dtype == torch.float32 for value, _ in loaded.param())
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert (loaded(x) - network(x)).abs().max() < 1 / 255 / 4


def test_a_weight_that_half_precision_cannot_hold(network: models.Network, tmp_path: Path) -> None:
    network.param()[0][0][0, 0, 0, 0] = 1e6
    save_model(tmp_path / "a.safetensors", network, {})
    result = CliRunner().invoke(main, [str(tmp_path / "a.safetensors"), str(tmp_path / "b")])
    assert result.exit_code == 1
    assert "fp16 cannot hold" in result.output
    assert not (tmp_path / "b").exists()
