"""The running average of weights, against a loop of its definition and torch's averaged model."""

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from n2n.errors import InvalidType, InvalidValue, ShapeError
from n2n.nn import Conv2d, ReLU, Sequential, WeightAverage

from .check import seeded


def network(seed: int = 0) -> Sequential:
    return Sequential(Conv2d(2, 3, 3, generator=seeded(seed)), ReLU(), Conv2d(3, 1, 1))


def wander(net: Sequential, generator: torch.Generator) -> None:
    for item in net.named_parameters().values():
        item.value.add_(torch.randn(item.value.shape, generator=generator))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_it_follows_its_definition(decay: float) -> None:
    net, generator = network(), seeded(1)
    average = WeightAverage(net, decay)
    expected = {name: item.value.double() for name, item in net.named_parameters().items()}
    for step in range(1, 200):
        wander(net, generator)
        average.update()
        d = min(decay, (1 + step) / (10 + step))
        for name, item in net.named_parameters().items():
            expected[name] = d * expected[name] + (1 - d) * item.value.double()
    for name, value in average.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-5)


def test_late_steps_are_those_of_torch() -> None:
    """Torch's has no warm-up; it starts from the values of the first step."""
    twin = torch.nn.Conv2d(2, 3, 3)
    net = Conv2d(2, 3, 3)
    ours = WeightAverage(net, 0.9)
    ours.steps = 10_000
    theirs = AveragedModel(twin, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    generator = seeded(2)
    for step in range(30):
        for item, parameter in zip(net.named_parameters().values(), twin.parameters(), strict=True):
            value = torch.randn(item.value.shape, generator=generator)
            item.value.copy_(value)
            with torch.no_grad():
                parameter.copy_(value)
        if not step:
            ours.load_state_dict({n: p.value for n, p in net.named_parameters().items()}, 10_000)
        else:
            ours.update()
        theirs.update_parameters(twin)
    state = ours.state_dict()
    for name, value in theirs.module.named_parameters():
        torch.testing.assert_close(state[name], value.detach(), rtol=1e-5, atol=1e-6)


def test_the_network_computes_with_the_average_inside_and_with_its_own_values_after() -> None:
    net = network()
    x = torch.randn(1, 2, 8, 8, generator=seeded(4))
    average = WeightAverage(net, 0.9)
    wander(net, seeded(5))
    average.update()
    before, kept = net.forward(x), net.state_dict()
    other = network()
    other.load_state_dict(average.state_dict())
    inside = []

    def stopped() -> None:
        with average.applied():
            inside.append(net.forward(x))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert torch.equal(inside[0], other.forward(x))
    assert torch.equal(net.forward(x), before)
    for name, value in net.state_dict().items():
        assert torch.equal(value, kept[name])


def test_it_goes_on_from_its_state() -> None:
    net, twin = network(), network()
    twin.load_state_dict(net.state_dict())
    whole, first = WeightAverage(net, 0.99), WeightAverage(twin, 0.99)
    generators = seeded(6), seeded(6)
    for step in range(10):
        for each, generator in zip((net, twin), generators, strict=True):
            wander(each, generator)
        whole.update()
        first.update()
        if step == 4:
            state, steps = first.state_dict(), first.steps
            first = WeightAverage(twin, 0.99)
            first.load_state_dict(state, steps)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, first.state_dict()[name])


def test_what_does_not_fit_is_refused() -> None:
    average = WeightAverage(network(), 0.9)
    state = average.state_dict()
    with pytest.raises(InvalidValue, match=r"averages of 0\.bias, 0\.weight, .* got nothing"):
        average.load_state_dict({}, 1)
    with pytest.raises(ShapeError, match=r"0\.bias of shape \(3,\), got \(4,\)"):
        average.load_state_dict({**state, "0.bias": torch.zeros(4)}, 1)
    for name, value in average.state_dict().items():
        assert torch.equal(value, state[name])


@pytest.mark.parametrize(
    ("decay", "error"), [(1.0, InvalidValue), (-0.1, InvalidValue), ("1", InvalidType)]
)
def test_decay_is_a_share(decay: float, error: type[Exception]) -> None:
    with pytest.raises(error, match="decay must be"):
        WeightAverage(network(), decay)
