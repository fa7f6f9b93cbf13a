"""What a report says of a network, against numbers by hand and what gradients reach."""

import pytest
import torch

from n2n import models
from n2n.models import Network
from n2n.report.run.network import describe

KINDS = [("seed", {"width": 4}), ("unet", {"width": 2, "depth": 2}), ("n2n", {"width": 4})]


def test_the_published_network_by_hand() -> None:
    structure = describe(models.create("seed"), (32, 32))
    outer, inner = 16 * 16 * 48 * 3 * 9, 8 * 8 * 48 * 48 * 9
    assert [layer.multiply_adds for layer in structure.stages] == [outer, inner, inner, outer]
    assert [layer.output for layer in structure.stages] == [
        (48, 16, 16),
        (48, 8, 8),
        (48, 16, 16),
        (3, 32, 32),
    ]
    assert structure.parameters == 44_211
    # Two 3x3 kernels of stride 2: 3, then 3 + 2·2. Every other pixel of a transposed one reaches
    # two positions of the grid, 4 pixels apart: 7 + 4. Of two of these beside each other one
    # reaches one position only, which the other has, too: 11.
    assert [layer.receptive_field for layer in structure.stages] == [3, 7, 11, 11]
    assert structure.bridges == []


def test_a_residual_network_and_its_skips() -> None:
    structure = describe(models.create("unet", width=2, depth=1), (8, 8))
    layers = structure.layers
    assert structure.layers[0].name == "residual.inner.enter"
    spans = {
        (bridge.kind, layers[bridge.first].name.split(".")[-1]) for bridge in structure.bridges
    }
    assert spans == {("sum", "enter"), ("concatenation", "down")}
    assert structure.parameters == sum(
        p.numel() for p, _ in models.create("unet", width=2, depth=1).param()
    )


@pytest.mark.parametrize(("name", "config"), KINDS)
def test_the_receptive_field_is_what_gradients_reach(name: str, config: dict[str, int]) -> None:
    """Weights above zero: then no activation stops a gradient, and none cancels another."""
    network = models.create(name, **config).to(dtype=torch.float64)
    for value, _ in network.param():
        value.uniform_(0.001, 0.01, generator=torch.Generator().manual_seed(0))
    expected = describe(network.to(dtype=torch.float32), (16, 16)).receptive_field
    network.to(dtype=torch.float64).train()
    side = 2 * expected + 4 * network.multiple
    side += -side % network.multiple
    assert max(reached(network, side, side // 2 + phase) for phase in range(4)) == expected


def reached(network: Network, side: int, row: int) -> int:
    """Rows of the input that a pixel of the output's middle depends on."""
    image = torch.full((1, 3, side, side), 0.5, dtype=torch.float64)
    output = network(image)
    cotangent = torch.zeros_like(output)
    cotangent[0, :, row, row] = 1
    gradient = network.backward(cotangent)
    rows = gradient.abs().sum((0, 1, 3)).nonzero().flatten()
    return int(rows.max() - rows.min()) + 1


def test_multiply_adds_against_torch() -> None:
    """Those of torch's own counter, for a U-Net made of its layers."""
    from torch.utils.flop_counter import FlopCounterMode

    structure = describe(models.create("unet", width=2, depth=1), (8, 8))
    total = 0
    for layer in structure.stages:
        network = models.create("unet", width=2, depth=1)
        module = dict(walk(network, ""))[layer.name]
        kind = torch.nn.Conv2d if layer.kind == "Conv2d" else torch.nn.ConvTranspose2d
        twin = kind(
            module.in_channels,
            module.out_channels,
            module.windows.kernel,
            module.windows.stride,
            module.windows.padding,
        )
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            twin(torch.zeros(1, *layer.input))
        total += counter.get_total_flops() // 2
    assert structure.multiply_adds == total


def walk(module, name: str):
    yield name, module
    for key, child in module.children().items():
        yield from walk(child, f"{name}.{key}".lstrip("."))
