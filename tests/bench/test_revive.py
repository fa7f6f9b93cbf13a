"""Dead units: found, redrawn without a change of any output, alive again."""

from pathlib import Path

import torch
from click.testing import CliRunner
from torch import Tensor

from n2n import models
from n2n.checkpoint import load_model, save_model

from .revive import blocks_of, dead_units, main, redraw

CONFIG = {"width": 4, "hidden": 8, "blocks": 2, "levels": 2, "leak": 0}
DEAD = {0: [1, 5], 2: [0, 2, 14]}  # units of two of the four blocks


def with_dead_units() -> models.Network:
    network = models.create("n2n", generator=torch.Generator().manual_seed(1), **CONFIG)
    for number, block in enumerate(blocks_of(network)):
        block.down.bias.value.fill_(1.0)  # all others answer
        block.down.bias.value[DEAD.get(number, [])] = -1000.0
    return network


def images() -> Tensor:
    return torch.rand(30, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def test_dead_units_are_found_and_redrawn_and_no_output_changes() -> None:
    network, x = with_dead_units(), images()
    before = network.eval()(x).clone()
    dead = dead_units(network, x)
    assert [units.nonzero().flatten().tolist() for units in dead] == [
        DEAD.get(number, []) for number in range(4)
    ]
    for block, units in zip(blocks_of(network), dead, strict=True):
        old = block.down.weight.value.clone()
        redraw(block, units, torch.Generator().manual_seed(3))
        changed = (block.down.weight.value != old).flatten(1).any(1)
        assert torch.equal(changed, units)
    assert torch.equal(network(x), before)


def test_the_command_gives_a_leaky_model_whose_units_all_learn(make_set, tmp_path: Path) -> None:
    make_set(shape=(3, 16, 16))
    model, out = tmp_path / "model.safetensors", tmp_path / "out.safetensors"
    save_model(model, with_dead_units(), {"noise": "gaussian:0-50"})
    arguments = [str(model), str(tmp_path / "set"), str(out)]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert "5 of 48 hidden units were dead" in result.output
    network, metadata = load_model(out)
    assert metadata["noise"] == "gaussian:0-50"
    assert network.config == {**CONFIG, "channels": 3, "leak": 10}
    network.train()
    network.backward(torch.randn_like(network(images())))
    for block in blocks_of(network):
        assert (block.up.weight.grad != 0).flatten(1).any(1).all()
