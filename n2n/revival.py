"""Units of a trained network that answer to nothing, given another chance.

The gradient of a unit behind a ReLU is 0 wherever its answer is, so one that a large step has
pushed below 0 for every input stays there (a dead unit, Lu et al. 2019, Dying ReLU and
initialization). Training on with new weights into it and none out of it changes no output and
gives the network its width back; Sokar et al. 2023 (The dormant neuron phenomenon in deep
reinforcement learning), section 5.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from n2n.models import Network
from n2n.nn import PatchBlock

__all__ = ["revive"]

PIXELS = 1 << 20  # of the images that a unit must be silent for: 1,024 of 32x32


def revive(network: Network, batches: Iterable[Tensor], *, seed: int) -> int:
    """Redraw the hidden channels of the network's PatchBlocks that stay 0 for all images.

    batches: (N, C, H, W) in [0, 1]; as many are taken as make a million pixels. The network is
    left in training mode. Returns how many were redrawn; what it makes of these images stays the
    same, bit for bit.
    """
    blocks = [module for module in network.modules() if isinstance(module, PatchBlock)]
    silent: list[Tensor] = []  # one mask a block
    seen = 0
    network.train()
    for x in batches:
        network(x)
        now = [block.silent() for block in blocks]
        silent = [a & b for a, b in zip(silent, now, strict=True)] if silent else now
        seen += len(x) * x.shape[2] * x.shape[3]
        if seen >= PIXELS:
            break
    if not silent:
        return 0
    for number, (block, channels) in enumerate(zip(blocks, silent, strict=True)):
        generator = torch.Generator(channels.device).manual_seed(seed + number)
        block.redraw(channels, generator)
    return sum(int(channels.sum()) for channels in silent)
