"""Dead units: found among images, redrawn without a change of any output, and alive again."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from n2n import models, revival
from n2n.checkpoint import load_model, save_model
from n2n.config import TrainConfig
from n2n.errors import InvalidValue
from n2n.files import digest_of
from n2n.nn import SGD, MSELoss, PatchBlock
from n2n.revival import revive
from n2n.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = {"width": 4, "hidden": 8, "blocks": 2, "levels": 2}
DEAD = {0: [1, 5], 2: [0, 2, 14]}  # channels of two of the four blocks


def with_dead_units() -> models.Network:
    network = models.create("n2n", generator=torch.Generator().manual_seed(1), **CONFIG)
    blocks = blocks_of(network)
    for block in blocks:
        block.down.bias.value.fill_(1.0)  # all others answer
    for number, channels in DEAD.items():
        blocks[number].down.bias.value[channels] = -1000.0
    return network


def blocks_of(network: models.Network) -> list[PatchBlock]:
    return [module for module in network.modules() if isinstance(module, PatchBlock)]


def images(count: int, size: int = 16) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(2))


def test_dead_units_alone_are_redrawn_and_no_output_changes() -> None:
    network, x = with_dead_units(), images(6)
    before = network(x).clone()
    assert revive(network, [x[:4], x[4:]], seed=3) == 5
    assert torch.equal(network(x), before)
    for number, (block, old) in enumerate(
        zip(blocks_of(network), blocks_of(with_dead_units()), strict=True)
    ):
        dead = torch.zeros(len(block.down.weight.value), dtype=torch.bool)
        dead[DEAD.get(number, [])] = True
        bound = block.down.weight.value[0].numel() ** -0.5
        for name in ("down", "up"):
            mine, its = getattr(block, name).weight.value, getattr(old, name).weight.value
            assert torch.equal(mine[~dead], its[~dead])
        assert not block.up.weight.value[dead].any()
        assert not block.down.bias.value[dead].any()
        assert (block.down.weight.value[dead].abs() <= bound).all()
        assert (block.down.weight.value != old.down.weight.value).flatten(1).any(1).equal(dead)


def test_they_learn_again() -> None:
    network, x = with_dead_units(), images(8)
    target = images(8).flip(0)
    loss = MSELoss()

    def step() -> list[float]:
        optimizer = SGD(network.param(), lr=0.1)
        loss(network(x), target)
        optimizer.zero_grad()
        network.backward(loss.backward())
        optimizer.step()
        return [
            float(part.weight.grad[channels].abs().sum())
            for number, channels in DEAD.items()
            for part in (blocks_of(network)[number].down, blocks_of(network)[number].up)
        ]

    assert step() == [0, 0, 0, 0]
    revive(network, [x], seed=0)
    step()
    assert min(step()) > 0


def test_as_many_images_are_read_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revival, "PIXELS", 3 * 2 * 16 * 16)
    read = []

    def endless() -> Iterator[Tensor]:
        while True:
            read.append(1)
            yield images(2)

    assert revive(with_dead_units(), endless(), seed=0) == 5
    assert len(read) == 3


def test_a_unit_that_answers_once_is_alive() -> None:
    network, x = with_dead_units(), images(4)
    block = blocks_of(network)[0]
    block.down.weight.value[1] = 0.0
    block.down.weight.value[1, 0, 0, 0] = 1.0
    block.down.bias.value[1] = 0.0
    network(x)
    answers = block._saved[0][1][:, 1]  # type: ignore[index]  # of all patches
    block.down.bias.value[1] = -float(answers.max()) * 0.99
    assert revive(network, [x], seed=0) == 4


def test_a_network_without_such_blocks_and_no_images() -> None:
    seed = models.create("seed", width=4)
    assert revive(seed, [images(1)], seed=0) == 0
    assert revive(with_dead_units(), [], seed=0) == 0


def test_a_block_knows_nothing_before_a_pass() -> None:
    with pytest.raises(InvalidValue, match="silent needs a forward in training mode before it"):
        PatchBlock(2, 4).silent()


def test_a_run_from_a_model_revives_them(make_set, tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    save_model(model, with_dead_units(), {})
    config = TrainConfig(
        model_config={**CONFIG, "channels": 3}, epochs=1, batch_size=10, start=digest_of(model)
    )
    Trainer(config, make_set(shape=(3, 16, 16)), tmp_path / "run", start=model).train()
    network, _ = load_model(tmp_path / "run/model.safetensors")
    for number, channels in DEAD.items():
        block = blocks_of(network)[number]
        assert block.up.weight.value[channels].abs().sum() > 0
        assert block.down.bias.value[channels].min() > -10
