"""One step of training: alone, without waiting for its loss, or together with other processes."""

import math
from typing import TYPE_CHECKING

from torch import Tensor

from n2n.errors import Diverged
from n2n.models import Network
from n2n.nn import Loss, Optimizer, clip_gradients

if TYPE_CHECKING:
    from n2n.peers import Peers

__all__ = ["SharedGradients", "late_step", "shared_step", "train_step"]


def train_step(
    network: Network,
    loss: Loss,
    optimizer: Optimizer,
    inputs: Tensor,
    targets: Tensor,
    *,
    clip: float = 0.0,
) -> float:
    """One step on a batch (N, C, H, W) in [0, 1]; returns the loss before it.

    clip: the largest norm of all gradients together (`n2n.nn.clip_gradients`); 0: any. Diverged,
    with the parameters as they were, if the loss is not finite.
    """
    value = require_finite(loss(network(inputs), targets))
    _descend(network, loss, optimizer, clip)
    return value


def late_step(
    network: Network,
    loss: Loss,
    optimizer: Optimizer,
    inputs: Tensor,
    targets: Tensor,
    *,
    clip: float = 0.0,
) -> Tensor:
    """`train_step` that waits for nothing: the loss stays on the device, and nobody looks at it."""
    value = loss(network(inputs), targets)
    _descend(network, loss, optimizer, clip)
    return value


def _descend(network: Network, loss: Loss, optimizer: Optimizer, clip: float) -> None:
    optimizer.zero_grad()
    network.backward(loss.backward())
    _update(optimizer, clip)


def _update(optimizer: Optimizer, clip: float) -> None:
    if clip:
        clip_gradients(optimizer.params, clip)
    optimizer.step()


def require_finite(loss: Tensor) -> float:
    value = float(loss)
    if not math.isfinite(value):
        raise Diverged(f"the loss is {value}")
    return value


class SharedGradients:
    """The gradients of a network that several processes train, each on its share of a batch.

    They lie in one block, which is added up over the processes once a step; the loss, and whether
    a process asks to stop, travel in it. So all processes see one loss, take one step, and know of
    a wish to stop at the same step. Make the optimiser after this: see `flatten_gradients`.
    """

    def __init__(self, network: Network, peers: "Peers") -> None:
        self._network, self._peers = network, peers
        self._block = network.flatten_gradients(spare=2)  # (P + 2,): gradients, loss, wishes
        self._wishes = self._block.new_zeros(1)

    def compute(self, loss: Loss, x: Tensor, y: Tensor, *, images: int, stop: bool) -> Tensor:
        """The gradient of the mean loss over all `images` of a batch, of which x and y are a share.

        x, y: (n, C, H, W) in [0, 1]; n may be 0. Returns that loss, a tensor without axes. The
        gradients, the loss and the wishes are the same in all processes, bit for bit.
        """
        self._block.zero_()
        if len(x):
            value = loss(self._network(x), y)
            self._network.backward(loss.backward())
            self._block[-2].copy_(value)
            self._block.mul_(len(x) / images)
        self._block[-1] = float(stop)
        self._peers.add_up(self._block)
        self._wishes.add_(self._block[-1])
        return self._block[-2].clone()

    def is_stop_wished(self) -> bool:
        """Whether a process has asked to stop, up to the last step. Waits for a GPU."""
        return bool(self._wishes)


def shared_step(
    shared: SharedGradients,
    loss: Loss,
    optimizer: Optimizer,
    inputs: Tensor,
    targets: Tensor,
    *,
    images: int,
    stop: bool,
    late: bool,
    clip: float = 0.0,
) -> Tensor:
    """`train_step`, or `late_step`, on a share of a batch of so many images; the loss is the
    whole batch's."""
    value = shared.compute(loss, inputs, targets, images=images, stop=stop)
    if not late:
        require_finite(value)
    _update(optimizer, clip)
    return value
