"""Draw anew the hidden channels of a network `n2n` that answer to nothing, and let all leak.

    python tests/bench/revive.py MODEL SET OUT.safetensors [--leak 10] [--images 400]

Behind a ReLU a hidden channel that is below zero for every input learns nothing any more; half of
those of the first `photo` were so. One that is silent on all of SET's validation images gets new
weights into it and zeros out of it, so that the network does what it did; then it leaks. The model
is to be trained on: what leaks out of channels that were meant for a ReLU changes what it does.
"""

import sys
from pathlib import Path

import click
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.twins import PatchBlock, twin_of
from n2n import models
from n2n.checkpoint import load_model, save_model
from n2n.data import PairSet
from n2n.models import Network
from n2n.shipped import locate

BATCH = 20


def silent(network: Network, images: Tensor) -> dict[str, Tensor]:
    """Of each block's name: which of its hidden channels are at most 0 for all of (N, C, H, W)."""
    twin = twin_of(network)
    twin.load_state_dict(network.state_dict())
    largest: dict[str, Tensor] = {}

    def watch(name: str, down: nn.Module) -> None:
        def hear(module: nn.Module, inputs: object, hidden: Tensor) -> None:
            found = hidden.amax((0, 2, 3))
            largest[name] = torch.maximum(found, largest.get(name, found))

        down.register_forward_hook(hear)

    for name, module in twin.named_modules():
        if isinstance(module, PatchBlock):
            watch(name, module.down)
    with torch.inference_mode():
        for part in images.split(BATCH):
            twin(part)
    return {name: found <= 0 for name, found in largest.items()}


def revive(network: Network, dead: dict[str, Tensor], generator: torch.Generator) -> None:
    """New weights into the dead channels, as they are drawn at the beginning; zeros out of them."""
    new = models.create(network.name, generator=generator, **network.config).state_dict()
    own = {name: item.value for name, item in network.named_parameters().items()}
    for name, channels in dead.items():
        for part in ("weight", "bias"):
            own[f"{name}.down.{part}"][channels] = new[f"{name}.down.{part}"][channels]
        own[f"{name}.up.weight"][channels] = 0


@click.command()
@click.argument("model")
@click.argument("pairs", metavar="SET", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--leak", default=10, help="Percent, of all hidden channels.")
@click.option("--images", default=400, help="So many of SET's validation images.")
def main(model: str, pairs: Path, out: Path, leak: int, images: int) -> None:
    """Write MODEL to OUT with its dead hidden channels drawn anew."""
    network, metadata = load_model(locate(model))
    noisy = torch.from_numpy(PairSet.open(pairs).val.read(("input",))["input"][:images])
    dead = silent(network, noisy.float() / 255)
    revive(network, dead, torch.Generator().manual_seed(0))
    leaky = models.create(network.name, **{**network.config, "leak": leak})
    leaky.load_state_dict(network.state_dict())
    known = ("architecture", "normalisation", "format", "scores")  # those of the new model, or none
    kept = {name: value for name, value in metadata.items() if name not in known}
    save_model(out, leaky, {**kept, "scores": None})
    count, total = sum(int(d.sum()) for d in dead.values()), sum(len(d) for d in dead.values())
    click.echo(f"{out}: {count} of {total} hidden channels drawn anew, leak {leak} %")


if __name__ == "__main__":
    main()
