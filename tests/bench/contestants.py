"""The two sides of a comparison: n2n's network, and its torch.nn twin in several variants.

Both do the same work on the same batches: a train step (forward, loss, gradients zeroed, backward,
optimiser; no gradient by the images) or inference.
"""

from typing import Any

import torch
from torch import Tensor, nn

from n2n.config import TrainConfig
from n2n.device import use_precision
from n2n.nn.module import scratch

from .twins import make_optimizer, twin_of

__all__ = ["VARIANTS", "Own", "Twin", "draw_batch", "forget_compiled", "make_side"]

VARIANTS = ("eager", "channels_last", "compile")
CHANNELS = 3


class Own:
    """n2n's network of a configuration, as the trainer and the denoiser run it."""

    def __init__(self, config: TrainConfig, *, training: bool = True) -> None:
        dtype = use_precision(config.precision, config.device, training=training)
        self.network = config.make_network(CHANNELS).compute_in(dtype).train(training)
        self.network.skip_input_gradient()
        self.optimizer = config.make_optimizer(self.network)
        self.loss = config.make_loss()

    def prepare(self, x: Tensor) -> Tensor:
        return x

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        loss = self.loss(self.network(x), y)
        self.optimizer.zero_grad()
        self.network.backward(self.loss.backward())
        self.optimizer.step()
        return loss

    def infer(self, x: Tensor) -> Tensor:
        return self.network(x)

    def release(self) -> None:
        """Let go of all that steps have kept for the next."""
        self.network.release()
        scratch().release()


class Twin:
    """The torch.nn twin: `eager`, `channels_last` (network and images) or `compile`.

    bf16 is torch's autocast. It starts from the weights of n2n's network of the same seed.
    """

    def __init__(self, config: TrainConfig, variant: str, *, training: bool = True) -> None:
        own = config.make_network(CHANNELS)
        self.layout = torch.channels_last if variant == "channels_last" else torch.contiguous_format
        self.network = twin_of(own)
        self.network.load_state_dict(own.state_dict())
        self.network.to(config.device, memory_format=self.layout).train(training)
        self.optimizer = make_optimizer(config, self.network)
        self.distance = nn.functional.mse_loss if config.loss == "mse" else nn.functional.l1_loss
        kind = torch.device(config.device).type
        if kind == "cuda":
            _prepare_cudnn()
        self.autocast = torch.autocast(kind, torch.bfloat16, enabled=config.precision == "bf16")
        compile_ = torch.compile if variant == "compile" else _as_it_is
        self._objective = compile_(self._objective)
        self._forward = compile_(self._forward)

    def prepare(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=self.layout)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        with self.autocast:
            loss = self._objective(x, y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def infer(self, x: Tensor) -> Tensor:
        with torch.inference_mode(), self.autocast:
            return self._forward(x)

    def release(self) -> None:
        """torch keeps nothing but gradients, as n2n does."""

    def _forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def _objective(self, x: Tensor, y: Tensor) -> Tensor:
        return self.distance(self.network(x), y)


def _prepare_cudnn() -> None:
    """The fastest algorithms, but fp32 in full, as n2n's products are. Never run on a GPU yet."""
    torch.backends.cudnn.benchmark = True
    if hasattr(torch.backends.cudnn, "conv"):  # torch 2.9 and later, where allow_tf32 warns
        torch.backends.cudnn.conv.fp32_precision = "ieee"
    else:
        torch.backends.cudnn.allow_tf32 = False


def _as_it_is(function: Any) -> Any:
    return function


def make_side(config: TrainConfig, side: str, *, training: bool = True) -> Own | Twin:
    """`n2n`, or the twin of that variant."""
    if side == "n2n":
        return Own(config, training=training)
    return Twin(config, side, training=training)


def draw_batch(config: TrainConfig, size: int) -> tuple[Tensor, Tensor]:
    """Images and targets (N, 3, size, size) in [0, 1], the same for every side."""
    generator = torch.Generator().manual_seed(1)
    shape = (2, config.batch_size, CHANNELS, size, size)
    x, y = torch.rand(shape, generator=generator).to(config.device)
    return x, y


def forget_compiled() -> None:
    """Let the next torch.compile begin anew: it gives up on code it has compiled eight times."""
    torch.compiler.reset()
