"""The program that draws dead hidden channels anew."""

from pathlib import Path

import torch
from click.testing import CliRunner

from n2n import models
from n2n.checkpoint import load_model, save_model

from .revive import main, revive, silent


def test_dead_channels_are_found_and_live_again(make_set, tmp_path: Path) -> None:
    config = {"width": 4, "hidden": 6, "blocks": 2, "leak": 0}
    network = models.create("n2n", **config, generator=torch.Generator().manual_seed(0)).eval()
    own = {name: item.value for name, item in network.named_parameters().items()}
    own["residual.inner.block1.down.bias"][2:4] = -100
    images = torch.rand(30, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    dead = silent(network, images)
    assert {name.split(".")[-1] for name in dead} == {"block0", "block1"}
    found = dead["residual.inner.block1"]
    assert found[2:4].all()
    before = network(images)
    revive(network, dead, torch.Generator().manual_seed(2))
    assert torch.equal(network(images), before)
    assert not own["residual.inner.block1.up.weight"][found].any()
    assert not silent(network, images)["residual.inner.block1"][2:4].any()

    own["residual.inner.block0.down.bias"][1] = -100
    save_model(tmp_path / "model.safetensors", network, {"noise": "gaussian:25"})
    pairs = make_set(shape=(3, 8, 8))
    places = [tmp_path / "model.safetensors", pairs.path, tmp_path / "out.safetensors"]
    result = CliRunner().invoke(main, [str(place) for place in places])
    assert result.exit_code == 0, result.output
    leaky, metadata = load_model(tmp_path / "out.safetensors")
    assert leaky.config == {**network.config, "leak": 10}
    assert metadata["noise"] == "gaussian:25"
    assert leaky.state_dict()["residual.inner.block0.down.bias"][1] > -100
