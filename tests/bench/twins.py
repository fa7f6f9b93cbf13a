"""The torch.nn twin of any network of n2n: the same layers, parameters and names.

A twin is what a careful user of torch would write: activations work in place where the layer
before them leaves nobody else a use for its output, and optimisers are fused.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from n2n import models
from n2n import nn as own
from n2n.config import TrainConfig

__all__ = ["PatchBlock", "Residual", "Skip", "make_optimizer", "twin", "twin_of"]

SIDE = 32  # of a matrix for Muon, at least
BETAS = (0.9, 0.95)  # of all others, as `n2n.nn.Muon` has them


class Residual(nn.Module):
    """y = x + f(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Skip(nn.Module):
    """y = [x, f(x)] along the channels."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.inner(x)], 1)


class PatchBlock(nn.Module):
    """y = x + up(act(down(x))) inside of a border of `shift` pixels, which stay as they are."""

    def __init__(self, down: nn.Module, up: nn.Module, shift: int, negative_slope: float) -> None:
        super().__init__()
        self.down = down
        self.up = up
        self.shift = shift
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        border = self.shift
        if border == 0:
            return x + self._through(x)
        inside = x[:, :, border:-border, border:-border]
        return x + nn.functional.pad(self._through(inside), (border,) * 4)

    def _through(self, x: Tensor) -> Tensor:
        hidden = self.down(x)
        if self.negative_slope:
            hidden = nn.functional.leaky_relu(hidden, self.negative_slope, inplace=True)
        else:
            hidden = nn.functional.relu(hidden, inplace=True)
        y: Tensor = self.up(hidden)
        return y


def twin(name: str, **config: int) -> nn.Module:
    """The twin of `n2n.models.create(name, **config)`, with weights of its own."""
    return twin_of(models.create(name, **config))


def twin_of(module: own.Module) -> nn.Module:
    """The twin of a network: `load_state_dict(module.state_dict())` gives it the same weights.

    TypeError names a module that has no counterpart here.
    """
    return _convert(module, owned=False)


class MuonAndAdamW:
    """torch's Muon, of large matrices as `n2n.nn.Muon` has them, and AdamW of all others.

    torch's Muon takes matrices alone. It is given views of the weights, whose columns lie as
    memory does: an orthogonal step does not depend on their order.
    """

    def __init__(self, config: TrainConfig, network: nn.Module) -> None:
        parameters = list(network.parameters())
        large = [p for p in parameters if p.dim() > 1 and min(len(p), p[0].numel()) >= SIDE]
        self.views = [(p, nn.Parameter(_as_matrix(p.data))) for p in large]
        others = [p for p in parameters if all(p is not q for q in large)]
        settings: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
        matrices = [view for _, view in self.views]
        factor = {"adjust_lr_fn": "match_rms_adamw"}
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, betas=BETAS, fused=True, **settings)
        ]
        if matrices:
            self.parts.append(torch.optim.Muon(matrices, **settings, **factor))
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def zero_grad(self) -> None:
        self.parts[0].zero_grad()
        for p, _ in self.views:
            p.grad = None

    def step(self) -> None:
        for p, view in self.views:
            view.grad = None if p.grad is None else _as_matrix(p.grad)
        for part in self.parts:
            part.step()


def _as_matrix(weight: Tensor) -> Tensor:
    """(A, B, …) as (A, ·), a view."""
    if weight.is_contiguous():
        return weight.flatten(1)
    return weight.permute(0, *range(2, weight.dim()), 1).flatten(1)


def make_optimizer(
    config: TrainConfig, network: nn.Module
) -> "torch.optim.Optimizer | MuonAndAdamW":
    """torch's optimiser of a run's settings, for a network that is where it stays."""
    if config.optimizer == "muon":
        return MuonAndAdamW(config, network)
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
    }
    settings: dict[str, Any] = {"momentum": config.momentum} if config.optimizer == "sgd" else {}
    return kinds[config.optimizer](
        network.parameters(),
        lr=config.lr,
        weight_decay=config.weight_decay,
        fused=True,
        **settings,
    )


def _convert(module: own.Module, *, owned: bool) -> nn.Module:
    """owned: whether the module's input is a convolution's output that nothing else reads."""
    if isinstance(module, own.Sequential):
        return _sequential(module)
    convert = CONVERSIONS.get(type(module))
    if convert is None:
        known = ", ".join(sorted(kind.__name__ for kind in CONVERSIONS))
        raise TypeError(f"expected Sequential, {known}; {type(module).__name__} has no twin yet")
    return convert(module, owned)


def _sequential(module: own.Sequential) -> nn.Sequential:
    twins = nn.Sequential()
    owned = False
    for name, child in module.children().items():
        twins.add_module(name, _convert(child, owned=owned))
        owned = isinstance(child, own.Conv2d | own.ConvTranspose2d)
    return twins


def _conv(module: Any, owned: bool) -> nn.Module:
    windows = module.windows
    return nn.Conv2d(
        module.in_channels,
        module.out_channels,
        windows.kernel,
        windows.stride,
        windows.padding,
        windows.dilation,
        module.groups,
        bias=module.bias is not None,
    )


def _conv_transpose(module: Any, owned: bool) -> nn.Module:
    windows = module.windows
    return nn.ConvTranspose2d(
        module.in_channels,
        module.out_channels,
        windows.kernel,
        windows.stride,
        windows.padding,
        module.output_padding,
        module.groups,
        bias=module.bias is not None,
        dilation=windows.dilation,
    )


def _max_pool(module: Any, owned: bool) -> nn.Module:
    windows = module.windows
    return nn.MaxPool2d(windows.kernel, windows.stride, windows.padding)


CONVERSIONS: dict[type, Callable[[Any, bool], nn.Module]] = {
    own.Conv2d: _conv,
    own.ConvTranspose2d: _conv_transpose,
    own.ReLU: lambda module, owned: nn.ReLU(inplace=owned),
    own.LeakyReLU: lambda module, owned: nn.LeakyReLU(
        module.negative_slope, inplace=owned and module.negative_slope > 0
    ),
    own.Sigmoid: lambda module, owned: nn.Sigmoid(),
    own.MaxPool2d: _max_pool,
    own.PixelShuffle: lambda module, owned: nn.PixelShuffle(module.factor),
    own.PixelUnshuffle: lambda module, owned: nn.PixelUnshuffle(module.factor),
    own.NearestUpsample: lambda module, owned: nn.Upsample(scale_factor=module.scale),
    own.PatchBlock: lambda module, owned: PatchBlock(
        _conv(module.down, False),
        _conv_transpose(module.up, False),
        module.shift,
        module.negative_slope,
    ),
    own.Residual: lambda module, owned: Residual(_convert(module.inner, owned=False)),
    own.Skip: lambda module, owned: Skip(_convert(module.inner, owned=False)),
}
