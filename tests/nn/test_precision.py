"""`compute_in`: products in 16 bits, parameters and their gradients in 32."""

from collections.abc import Callable

import pytest
import torch

from n2n import models
from n2n.nn import Conv2d, ConvTranspose2d, Module, MSELoss, PatchBlock

from .check import random_tensor, seeded

LAYERS: dict[str, Callable[[], Module]] = {
    "conv": lambda: Conv2d(8, 6, 3, 2, 1, generator=seeded(1)),
    "conv, stride 1": lambda: Conv2d(32, 32, 3, 1, 1, generator=seeded(1)),
    "conv, grouped": lambda: Conv2d(8, 6, 3, groups=2, generator=seeded(1)),
    "transposed": lambda: ConvTranspose2d(8, 6, 3, 2, 1, 1, generator=seeded(1)),
    "transposed, few channels": lambda: ConvTranspose2d(8, 3, 3, 2, 1, 1, generator=seeded(1)),
    "patches": lambda: PatchBlock(8, 6, shift=1, generator=seeded(1)),
}


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Within what 8 bits of mantissa leave: 2 % of the root mean square."""
    error = (found.float() - expected).pow(2).mean().sqrt()
    return bool(error <= 0.02 * expected.pow(2).mean().sqrt())


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())
def test_a_layer_in_bf16_is_near_itself_in_fp32(make: Callable[[], Module]) -> None:
    exact, layer = make(), make().compute_in(torch.bfloat16)
    channels = next(iter(exact.named_parameters().values())).value.shape[1]
    channels = exact.in_channels if isinstance(exact, Conv2d | ConvTranspose2d) else channels
    x = random_tensor((3, channels, 12, 10), 2, dtype=torch.float32)
    y, found = exact(x), layer(x)
    assert found.dtype == torch.bfloat16
    assert close(found, y)
    cotangent = random_tensor(tuple(y.shape), 3, dtype=torch.float32)
    assert close(layer.backward(cotangent), exact.backward(cotangent))
    for (value, grad), (_, wanted) in zip(layer.param(), exact.param(), strict=True):
        assert value.dtype == grad.dtype == torch.float32
        assert close(grad, wanted)


@pytest.mark.parametrize("name", models.architectures())
def test_a_network_takes_and_gives_fp32_and_can_go_back(name: str) -> None:
    network = models.create(name, generator=seeded(1))
    x, target = random_tensor((2, 2, 3, 16, 16), 2, dtype=torch.float32)
    exact = network(x)
    network.compute_in(torch.bfloat16)
    y = network(x)
    assert y.dtype == torch.float32
    assert not torch.equal(y, exact)
    assert close(y, exact)
    loss = MSELoss()
    loss(y, target)
    assert network.backward(loss.backward()).dtype == torch.float32
    assert torch.equal(network.compute_in(None)(x), exact)


@pytest.mark.parametrize("name", models.architectures())
def test_repeated_steps_are_the_same_bits(name: str) -> None:
    def gradients() -> list[torch.Tensor]:
        network = models.create(name, generator=seeded(1)).compute_in(torch.bfloat16)
        x, target = random_tensor((2, 3, 3, 16, 16), 2, dtype=torch.float32)
        loss = MSELoss()
        loss(network(x), target)
        network.backward(loss.backward())
        return [grad for _, grad in network.param()]

    assert all(map(torch.equal, gradients(), gradients()))
