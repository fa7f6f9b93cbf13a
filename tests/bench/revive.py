"""Make a leaky network of one that a ReLU has killed the hidden units of.

    python tests/bench/revive.py MODEL SET OUT

The gradient of a unit behind a ReLU is 0 wherever its answer is, so one that a large step has
pushed below 0 for every input stays there (a dead unit; Lu et al. 2019, Dying ReLU and
initialization). Those of the model's PatchBlocks that answer to none of SET's validation images
get new weights in and none out (Sokar et al. 2023, The dormant neuron phenomenon in deep
reinforcement learning), and all hidden units a leak of 10 %. To be trained on.
"""

from pathlib import Path

import click
import torch
from torch import Tensor

from n2n import models
from n2n.checkpoint import load_model, save_model
from n2n.data import PairSet
from n2n.evaluation import to_float
from n2n.models import Network
from n2n.nn import PatchBlock

BATCH = 20
LEAK = 10


def blocks_of(network: Network) -> list[PatchBlock]:
    return [module for module in network.modules() if isinstance(module, PatchBlock)]


def dead_units(network: Network, images: Tensor) -> list[Tensor]:
    """Of each block a mask (G,): the units that get no gradient from any of (N, C, H, W)."""
    network.train()
    network.zero_grad()
    for x in images.split(BATCH):
        network.backward(torch.randn_like(network(x)))
    dead = [(block.down.weight.grad == 0).flatten(1).all(1) for block in blocks_of(network)]
    network.zero_grad()
    network.eval()
    return dead


def redraw(block: PatchBlock, units: Tensor, generator: torch.Generator) -> None:
    """New random weights into these units, and none out of them."""
    weight = block.down.weight.value  # (G, C, k, k)
    bound = weight[0].numel() ** -0.5
    drawn = torch.empty_like(weight).uniform_(-bound, bound, generator=generator)
    weight[units] = drawn[units]
    block.up.weight.value[units] = 0.0
    if block.down.bias is not None:
        block.down.bias.value[units] = 0.0


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("pairs", metavar="SET", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def main(model: Path, pairs: Path, out: Path) -> None:
    """Write MODEL, with dead units alive again and a leak, to OUT."""
    network, metadata = load_model(model)
    val = PairSet.open(pairs).val
    if val is None:
        raise click.UsageError(f"{pairs}: expected validation pairs, found none")
    dead = dead_units(network, to_float(val.read(("input",))["input"]))
    generator = torch.Generator().manual_seed(0)
    for block, units in zip(blocks_of(network), dead, strict=True):
        redraw(block, units, generator)
    leaky = models.create(network.name, **{**network.config, "leak": LEAK})
    leaky.load_state_dict(network.state_dict())
    own = ("format", "architecture", "normalisation")
    save_model(out, leaky, {name: value for name, value in metadata.items() if name not in own})
    count, of = (
        sum(int(n) for n in numbers)
        for numbers in zip(*((units.sum(), len(units)) for units in dead), strict=True)
    )
    click.echo(f"{out}: {count} of {of} hidden units were dead")


if __name__ == "__main__":
    main()
