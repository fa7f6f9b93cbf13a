"""Architectures against torch.nn twins with the same weights."""

from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from nn.check import LAYOUTS, assert_close, check_layer, random_tensor, seeded
from torch import Tensor

from n2n import models
from n2n.errors import InvalidType, InvalidValue, ShapeError
from n2n.nn import SGD, MSELoss, Sequential

NAMES = ["n2n", "seed", "unet"]
EVERY = pytest.mark.parametrize("name", NAMES)


pytestmark = pytest.mark.usefixtures("one_thread")


class Residual(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.inner(x)
        return y


class Skip(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.inner(x)], 1)


class Patches(torch.nn.Module):
    """y = x + up(act(down(x))), inside of a border of `shift` pixels."""

    def __init__(self, width: int, hidden: int, shift: int, leak: int) -> None:
        super().__init__()
        self.act = torch.nn.LeakyReLU(leak / 100)
        self.down = torch.nn.Conv2d(width, hidden, 2, 2)
        self.up = torch.nn.ConvTranspose2d(hidden, width, 2, 2)
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        s, (height, width) = self.shift, x.shape[2:]
        y = x.clone()
        inside = x[:, :, s : height - s, s : width - s]
        if inside.numel():
            y[:, :, s : height - s, s : width - s] += self.up(self.act(self.down(inside)))
        return y


def torch_n2n(
    channels: int = 3,
    width: int = 64,
    hidden: int = 128,
    blocks: int = 8,
    levels: int = 1,
    leak: int = 10,
    overlap: int = 0,
) -> torch.nn.Module:
    nn = torch.nn

    def overlapping(width: int) -> torch.nn.Module:
        first, second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        act = nn.LeakyReLU(leak / 100)
        return Residual(nn.Sequential(OrderedDict(first=first, act=act, second=second)))

    def level(left: int, width: int, hidden: int) -> list[tuple[str, torch.nn.Module]]:
        modules: list[tuple[str, torch.nn.Module]] = [
            (f"block{i}", Patches(width, hidden, i % 2, leak)) for i in range(blocks)
        ]
        if left > 1:
            lower = [
                ("down", nn.Conv2d(width, 2 * width, 2, 2)),
                *level(left - 1, 2 * width, 2 * hidden),
                ("up", nn.ConvTranspose2d(2 * width, width, 2, 2)),
            ]
            between = Residual(nn.Sequential(OrderedDict(lower)))
            modules.insert(blocks // 2, ("lower", between))
        if left == levels:
            for i in range(overlap):
                place = [name for name, _ in modules].index(f"block{i}") + 1
                modules.insert(place, (f"overlap{i}", overlapping(width)))
        return modules

    modules = [
        ("enter", nn.Conv2d(channels, width, 3, 2, 1)),
        ("activation", nn.ReLU()),
        *level(levels, width, hidden),
        ("leave", nn.ConvTranspose2d(width, channels, 3, 2, 1, 1)),
    ]
    residual = Residual(nn.Sequential(OrderedDict(modules)))
    return nn.Sequential(OrderedDict([("residual", residual)]))


def torch_seed(channels: int = 3, width: int = 48) -> torch.nn.Module:
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(width, width, 3, 2, 1, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(width, channels, 3, 2, 1, 1),
        nn.Sigmoid(),
    )


def torch_unet(channels: int = 3, width: int = 32, depth: int = 2) -> torch.nn.Module:
    nn = torch.nn

    def conv(inputs: int, outputs: int) -> torch.nn.Module:
        return nn.Conv2d(inputs, outputs, 3, padding=1)

    def level(depth: int, width: int) -> torch.nn.Module:
        modules = OrderedDict(conv=conv(width, width), act=nn.LeakyReLU(0.1))
        if depth:
            lower = OrderedDict(
                down=nn.Conv2d(width, 2 * width, 2, stride=2),
                act_down=nn.LeakyReLU(0.1),
                level=level(depth - 1, 2 * width),
                up=nn.ConvTranspose2d(2 * width, width, 2, stride=2),
                act_up=nn.LeakyReLU(0.1),
            )
            modules["skip"] = Skip(nn.Sequential(lower))
            modules["merge"] = conv(2 * width, width)
            modules["act_merge"] = nn.LeakyReLU(0.1)
        return nn.Sequential(modules)

    body = OrderedDict(
        enter=conv(channels, width),
        activation=nn.LeakyReLU(0.1),
        body=level(depth, width),
        leave=conv(width, channels),
    )
    return nn.Sequential(OrderedDict(residual=Residual(nn.Sequential(body))))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_seed_agrees_with_its_twin(dtype: torch.dtype, layout: str) -> None:
    net = models.create("seed", generator=seeded(1)).to(dtype=dtype)
    x = random_tensor((2, 3, 16, 12), 1, dtype=dtype, layout=layout).sigmoid()
    check_layer(net, torch_seed(), x, cotangent_layout=layout)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_seed_of_any_channels_agrees_with_its_twin(channels: int, dtype: torch.dtype) -> None:
    net = models.create("seed", channels=channels, width=7, generator=seeded(1)).to(dtype=dtype)
    x = random_tensor((3, channels, 8, 4), 1, dtype=dtype)
    check_layer(net, torch_seed(channels, 7), x)


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("sides", "config"),
    [
        ((16, 12), {"blocks": 3}),
        ((8, 32), {"blocks": 3}),
        ((16, 24), {"blocks": 3, "levels": 2}),
        ((16, 32), {"blocks": 1, "levels": 3}),
        ((16, 24), {"blocks": 3, "levels": 2, "overlap": 3}),
        ((8, 12), {"blocks": 2, "overlap": 1, "leak": 0}),
    ],
)
def test_n2n_agrees_with_its_twin(
    sides: tuple[int, int], config: dict[str, int], dtype: torch.dtype, layout: str
) -> None:
    config = {"channels": 2, "width": 5, "hidden": 6, **config}
    net = models.create("n2n", **config, generator=seeded(1)).to(dtype=dtype)
    x = random_tensor((3, 2, *sides), 2, dtype=dtype, layout=layout)
    check_layer(net, torch_n2n(**config), x)


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("channels", "width", "depth"), [(3, 4, 2), (1, 3, 1), (2, 2, 3)])
def test_unet_agrees_with_its_twin(
    channels: int, width: int, depth: int, dtype: torch.dtype, layout: str
) -> None:
    config = {"channels": channels, "width": width, "depth": depth}
    net = models.create("unet", **config, generator=seeded(1)).to(dtype=dtype)
    x = random_tensor((2, channels, 16, 8), 1, dtype=dtype, layout=layout)
    check_layer(net, torch_unet(**config), x, cotangent_layout=layout)


def test_seed_has_the_published_names_and_shapes() -> None:
    state, twin = models.create("seed").state_dict(), torch_seed().state_dict()
    assert list(state) == list(twin)
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in twin.items()
    }
    assert state["0.weight"].shape == (48, 3, 3, 3)
    assert state["6.weight"].shape == (48, 3, 3, 3)
    assert state["6.bias"].shape == (3,)


@EVERY
def test_a_gradient_goes_all_the_way_to_the_input(name: str) -> None:
    """Slopes by central differences, along a random direction of the input and of each weight."""
    net = models.create(name, channels=2, width=3, generator=seeded(1)).to(dtype=torch.float64)
    x, direction = (random_tensor((2, 2, 8, 8), seed) for seed in (1, 2))
    cotangent = random_tensor((2, 2, 8, 8), 3)
    step = 1e-6

    def value(x: Tensor) -> Tensor:
        return (net(x) * cotangent).sum()

    net(x)
    slopes = {"input": (net.backward(cotangent) * direction).sum()}
    rises = {"input": value(x + step * direction) - value(x - step * direction)}
    for path, parameter in net.named_parameters().items():
        along = random_tensor(tuple(parameter.value.shape), 4)
        slopes[path] = (parameter.grad * along).sum()
        parameter.value.add_(along, alpha=step)
        above = value(x)
        parameter.value.sub_(along, alpha=2 * step)
        rises[path] = above - value(x)
        parameter.value.add_(along, alpha=step)
    for path, slope in slopes.items():
        assert_close(f"slope by {path}", slope.float(), rises[path] / (2 * step), torch.float32)


@EVERY
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_output_has_the_shape_of_the_input(name: str, channels: int) -> None:
    net = models.create(name, channels=channels, width=4, generator=seeded(1)).eval()
    assert net.channels == channels
    for rows, columns, batch in ((1, 1, 1), (1, 3, 2), (5, 2, 3)):
        shape = (batch, channels, rows * net.multiple, columns * net.multiple)
        assert net(random_tensor(shape, 1, dtype=torch.float32)).shape == shape


@EVERY
def test_a_network_says_what_it_is(name: str) -> None:
    net = models.create(name, channels=2, width=6)
    assert isinstance(net, models.Network)
    assert isinstance(net, Sequential)
    assert net.name == name
    assert net.config["channels"] == net.channels == 2
    assert net.config["width"] == 6
    assert isinstance(net.multiple, int)
    again = models.create(net.name, **net.config)
    assert again.config == net.config
    again.load_state_dict(net.state_dict())
    x = random_tensor((1, 2, 16, 16), 1, dtype=torch.float32)
    assert torch.equal(again(x), net(x))


def test_multiples_and_defaults() -> None:
    assert models.create("seed").multiple == 4
    assert models.create("seed").config == {"channels": 3, "width": 48}
    for depth in (1, 2, 3):
        assert models.create("unet", width=2, depth=depth).multiple == 2**depth
    assert set(models.create("unet").config) == {"channels", "width", "depth"}
    for levels in (1, 2, 3):
        assert models.create("n2n", width=2, levels=levels).multiple == 2 ** (levels + 1)
    sizes = {"channels": 3, "width": 64, "hidden": 128, "blocks": 8, "levels": 1}
    assert models.create("n2n").config == {**sizes, "leak": 10, "overlap": 0}


def test_a_larger_network_begins_as_the_smaller() -> None:
    """To the bit; and what it has more than that learns from the first step on."""
    config = {"width": 4, "hidden": 6, "blocks": 3, "levels": 2}
    small = models.create("n2n", **config, overlap=1, generator=seeded(1))
    large = models.create("n2n", **config, overlap=3, generator=seeded(2))
    large.load_state_dict(large.completed(small.state_dict()))
    x = random_tensor((2, 3, 16, 16), 1, dtype=torch.float32)
    assert torch.equal(large(x), small(x))
    large.backward(torch.ones_like(x))
    added = {name for name in large.state_dict() if name not in small.state_dict()}
    assert len(added) == 2 * 4
    gradients = {name: item.grad for name, item in large.named_parameters().items()}
    assert all(gradients[name].any() for name in added if ".second." in name)
    assert not any(gradients[name].any() for name in added if ".first." in name)
    assert small.completed(small.state_dict()).keys() == small.state_dict().keys()


def test_other_networks_do_not_grow() -> None:
    shallow, deep = (models.create("unet", width=2, depth=depth) for depth in (1, 2))
    with pytest.raises(InvalidValue, match="missing"):
        deep.load_state_dict(deep.completed(shallow.state_dict()))
    narrow, fewer = models.create("n2n", width=2), models.create("n2n", width=2, blocks=7)
    with pytest.raises(InvalidValue, match=r"missing: .*block7"):
        narrow.load_state_dict(narrow.completed(fewer.state_dict()))


def test_input_span_covers_what_an_output_depends_on() -> None:
    small = {"width": 2, "hidden": 2, "blocks": 3}
    lower = {**small, "blocks": 1, "levels": 2}
    overlapping = {**small, "overlap": 2}
    configs = [
        ("seed", {"width": 3}),
        ("unet", {"width": 2, "depth": 2}),
        ("n2n", small),
        ("n2n", lower),
        ("n2n", overlapping),
    ]
    for name, config in configs:
        net = models.create(name, **config, generator=seeded(1)).to(dtype=torch.float64)
        x = random_tensor((1, 3, 48, 40), 1)
        for axis in (0, 1):
            for first, last in ((0, 0), (16, 19), (21, 21), (0, 39)):
                cotangent = torch.zeros_like(net(x))
                span = cotangent.narrow(2 + axis, first, last - first + 1)
                span.copy_(random_tensor(tuple(span.shape), 2))
                depends = net.backward(cotangent).abs().sum((0, 1, 3 - axis)).nonzero().flatten()
                low, high = net.input_span((first, last), axis)
                assert low <= int(depends.min())
                assert int(depends.max()) <= high
                assert last - high > -48, "wider than the network can see"


@EVERY
def test_weights_repeat_from_a_generator(name: str) -> None:
    first, again, other = (
        models.create(name, width=4, generator=seeded(seed)).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)
    with torch.random.fork_rng():
        fresh, fresher = (models.create(name, width=4).state_dict() for _ in range(2))
    assert not any(torch.equal(fresh[key], fresher[key]) for key in fresh)


@EVERY
def test_training_lowers_the_loss(name: str) -> None:
    net = models.create(name, channels=1, width=6, generator=seeded(1))
    target = torch.rand(4, 1, 8, 8, generator=seeded(2))
    x = target + 0.1 * torch.randn(target.shape, generator=seeded(3))
    loss, optimiser = MSELoss(), SGD(net.param(), lr=0.5 if name == "seed" else 0.02)
    values = []
    for _ in range(30):
        values.append(loss(net(x), target).item())
        optimiser.zero_grad()
        net.backward(loss.backward())
        optimiser.step()
    assert values[-1] < values[0]


def test_architectures_lists_every_name() -> None:
    assert sorted(models.architectures()) == NAMES
    assert all(name in models.architectures() for name in NAMES)


def test_refuses_an_unknown_name() -> None:
    with pytest.raises(InvalidValue) as caught:
        models.create("sed")
    assert all(word in str(caught.value) for word in ["sed", *NAMES])


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("seed", {"depth": 2}, ["depth", "channels", "width"]),
        ("seed", {"widht": 2}, ["widht", "channels", "width"]),
        ("n2n", {"depth": 2}, ["depth", "channels", "width", "hidden", "blocks", "levels"]),
        ("n2n", {"blocks": 0}, ["blocks", "0"]),
        ("n2n", {"leak": -1}, ["leak", "-1"]),
        ("n2n", {"overlap": -1}, ["overlap", "-1"]),
        ("n2n", {"blocks": 2, "overlap": 3}, ["overlap", "at most", "(2)", "3"]),
        ("unet", {"layers": 2}, ["layers", "channels", "width", "depth"]),
        ("seed", {"channels": 0}, ["channels", "0"]),
        ("seed", {"width": -1}, ["width", "-1"]),
        ("unet", {"width": 2.5}, ["width", "2.5"]),
        ("unet", {"depth": "2"}, ["depth", "2"]),
        ("unet", {"channels": None}, ["channels", "None"]),
    ],
)
def test_refuses_a_setting_by_name(name: str, config: dict[str, Any], words: list[str]) -> None:
    with pytest.raises((InvalidValue, InvalidType)) as caught:
        models.create(name, **config)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@EVERY
@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 4, 8, 8), (3, 8, 8), (1, 3, 0, 8)])
def test_refuses_other_shapes(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        models.create(name, width=2)(torch.zeros(shape))


def test_refuses_sides_that_are_no_multiple() -> None:
    for name in NAMES:
        net = models.create(name, width=2)
        for shape in ((1, 3, 6, 8), (1, 3, 8, 5)):
            with pytest.raises(ShapeError, match="4"):
                net(torch.zeros(shape))


@EVERY
def test_size_multiple_without_the_network(name: str) -> None:
    assert models.size_multiple(name) == models.create(name, generator=seeded(0)).multiple
    assert models.size_multiple("unet", depth=30) == 2**30


@EVERY
def test_two_threads_in_one_network_do_not_disturb_each_other(name: str) -> None:
    net = models.create(name, width=8, generator=seeded(0)).eval()
    images = [torch.rand(2, 3, 64, 64, generator=seeded(i)) for i in range(2)]
    alone = [net(x) for x in images]
    with ThreadPoolExecutor(2) as threads:
        for _ in range(10):
            together = list(threads.map(net, images))
            assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


@EVERY
def test_a_skipped_input_gradient_changes_no_other_and_can_be_taken_back(name: str) -> None:
    net = models.create(name, width=4, generator=seeded(0))
    x, cotangent = (torch.rand(2, 3, 16, 16, generator=seeded(i)) for i in (1, 2))

    def gradients() -> tuple[Tensor, list[Tensor]]:
        net.zero_grad()
        net(x)
        return net.backward(cotangent), [grad.clone() for _, grad in net.param()]

    wanted, expected = gradients()
    net.skip_input_gradient()
    _, skipped = gradients()
    net.skip_input_gradient(False)
    again, _ = gradients()
    assert torch.equal(wanted, again)
    assert all(torch.equal(a, b) for a, b in zip(skipped, expected, strict=True))
