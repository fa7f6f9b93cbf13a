"""The published recipe, by n2n and by its torch.nn twin: same pairs, weights, batches, process.

    python tests/bench/twin.py SET --run DIR [--epochs 50]

After each epoch of n2n's own trainer the twin trains one, so that both meet the same machine.
Prints the PSNR of both and the ratio of their training times; DIR/twin.jsonl keeps the curve.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from n2n.data import PairSet
from n2n.device import keep_freed_memory, set_threads
from n2n.evaluation import to_float
from n2n.metrics import psnr
from n2n.trainer import TrainConfig, Trainer


def seed_twin() -> nn.Sequential:
    """The network `seed` in torch.nn."""
    return nn.Sequential(
        nn.Conv2d(3, 48, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(48, 48, 3, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(48, 48, 3, 2, 1, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(48, 3, 3, 2, 1, 1),
        nn.Sigmoid(),
    )


class Twin:
    """Trains the torch.nn network as the trainer trains its own."""

    def __init__(self, trainer: Trainer) -> None:
        self.config = trainer.config
        self.pairs = trainer.pairs
        self.network = seed_twin()
        self.network.load_state_dict(trainer.network.state_dict())
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=self.config.lr)
        self.epochs: list[dict[str, float]] = []

    def epoch(self) -> dict[str, float]:
        started = time.monotonic()
        batches = self.pairs.train.batches(
            batch_size=self.config.batch_size, seed=self.config.seed, epoch=len(self.epochs)
        )
        compute = 0.0
        for inputs, targets in batches:
            x, y = to_float(inputs), to_float(targets)
            before = time.monotonic()
            loss = nn.functional.mse_loss(self.network(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss.item()
            compute += time.monotonic() - before
        line = {"seconds": time.monotonic() - started, "compute_seconds": compute}
        line["psnr"] = self.psnr()
        self.epochs.append(line)
        return line

    def psnr(self) -> float:
        assert self.pairs.val is not None
        arrays = self.pairs.val.read(("input", "clean"))
        with torch.no_grad():
            denoised = self.network(to_float(arrays["input"]))
        return float(psnr(denoised, to_float(arrays["clean"])).mean())


@click.command()
@click.argument("pairs", metavar="SET", type=click.Path(path_type=Path))
@click.option("--run", type=click.Path(path_type=Path), required=True)
@click.option("--epochs", default=50)
@click.option("--threads", type=int)
def main(pairs: Path, run: Path, epochs: int, threads: int | None) -> None:
    ratios: list[float] = []
    keep_freed_memory()  # for both: torch gains more from it than n2n

    def after_epoch(line: dict[str, Any]) -> None:
        other = twin.epoch()
        ratios.append(line["seconds"] / other["seconds"])
        with (run / "twin.jsonl").open("a") as file:
            file.write(json.dumps({"epoch": line["epoch"], **other}) + "\n")
        click.echo(
            f"epoch {line['epoch']:3d}  PSNR n2n {line['val']['psnr']:.3f}  twin "
            f"{other['psnr']:.3f} dB  seconds n2n {line['seconds']:.2f}  twin "
            f"{other['seconds']:.2f}  ratio {ratios[-1]:.3f}"
        )

    config = TrainConfig(epochs=epochs, threads=set_threads(threads))
    trainer = Trainer(config, PairSet.open(pairs), run, on_epoch=after_epoch)
    twin = Twin(trainer)
    trainer.train()
    click.echo(f"median ratio of training time, n2n over twin: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
