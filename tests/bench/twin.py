"""A training by n2n and by its torch.nn twin: same pairs, weights, batches, schedule, process.

    python tests/bench/twin.py SET --run DIR [--preset published] [--torch channels_last]

After each epoch of n2n's own trainer the twin trains one, so that both meet the same machine.
Prints the PSNR of both and the ratio of their training times; DIR/twin.jsonl keeps the curve: the
epoch, and of both the PSNR and the seconds trained so far, validation left out.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.contestants import VARIANTS, Twin
from n2n.config import TrainConfig, configure
from n2n.data import PairSet
from n2n.data.seeding import Purpose, generator
from n2n.device import choose_device, keep_freed_memory, set_threads
from n2n.evaluation import to_float
from n2n.metrics import psnr
from n2n.pipeline import feed
from n2n.trainer import Trainer

VALIDATION_BATCH = 250


class TwinTrainer:
    """Trains the torch.nn network as the trainer trains its own."""

    def __init__(self, trainer: Trainer, variant: str) -> None:
        self.trainer = trainer
        self.side = Twin(trainer.config, variant)
        self.average: AveragedModel | None = None
        if trainer.config.ema:
            self.average = AveragedModel(self.side.network, avg_fn=running_average(trainer.config))
            self.average.n_averaged.fill_(1)  # it begins with the first weights, as n2n's does
        self.epochs = 0

    def epoch(self) -> float:
        """Train one epoch; returns its seconds."""
        started = time.monotonic()
        config, trainer = self.trainer.config, self.trainer
        first = self.epochs * trainer.steps_per_epoch
        batches = feed(self._batches(), config.device, threaded=trainer.asynchronous)
        for number, (x, y) in enumerate(batches):
            for group in self.side.optimizer.param_groups:
                group["lr"] = trainer.schedule(first + number)
            loss = self.side.step(self.side.prepare(x), self.side.prepare(y))
            if self.average is not None:
                self.average.update_parameters(self.side.network)
            if not trainer.asynchronous:
                loss.item()
        if torch.device(config.device).type == "cuda":
            torch.cuda.synchronize()
        self.epochs += 1
        return time.monotonic() - started

    def psnr(self) -> float:
        """Of the validation pairs, the mean over the images."""
        val = self.trainer.pairs.val
        assert val is not None
        arrays = val.read(("input", "clean"))
        scores = []
        for start in range(0, val.rows, VALIDATION_BATCH):
            x, clean = (
                to_float(arrays[name][start : start + VALIDATION_BATCH], self.trainer.config.device)
                for name in ("input", "clean")
            )
            denoised = self._infer(self.side.prepare(x)).float()
            scores.append(psnr(denoised.clamp(0, 1), clean))
        return float(torch.cat(scores).mean())

    def _infer(self, x: Tensor) -> Tensor:
        if self.average is None:
            return self.side.infer(x)
        with torch.inference_mode(), self.side.autocast:
            return self.average(x)

    def _batches(self) -> Any:
        """Those of the trainer's epoch of the same number, augmented in the same way."""
        trainer, config = self.trainer, self.trainer.config
        batches = trainer.pairs.train.batches(
            batch_size=config.batch_size,
            seed=config.seed,
            epoch=self.epochs,
            memory_limit=config.memory_limit,
        )
        for number, (inputs, targets) in enumerate(batches):
            random = generator(config.seed, Purpose.AUGMENTATION, self.epochs, number)
            yield trainer.augment(inputs, targets, random)


def running_average(config: TrainConfig) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """As `n2n.nn.WeightAverage` has it."""

    def average(averaged: Tensor, current: Tensor, step: Tensor | int) -> Tensor:
        return averaged.lerp(current, 1 - min(config.ema, (1 + int(step)) / (10 + int(step))))

    return average


@click.command()
@click.argument("pairs", metavar="SET", type=click.Path(path_type=Path))
@click.option("--run", type=click.Path(path_type=Path), required=True)
@click.option("--torch", "variant", type=click.Choice(VARIANTS), default="eager")
@click.option("--preset", help="As n2n train has it.")
@click.option("--model")
@click.option("--epochs", type=int)
@click.option("--batch-size", type=int)
@click.option("--optimizer")
@click.option("--lr", type=float)
@click.option("--schedule")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]))
@click.option("--seed", type=int)
@click.option("--device", default="auto")
@click.option("--threads", type=int)
def main(
    pairs: Path,
    run: Path,
    variant: str,
    preset: str | None,
    device: str,
    threads: int | None,
    **options: Any,
) -> None:
    """Train n2n's network and its torch.nn twin on SET, epoch by epoch in turns."""
    settings = {name: value for name, value in options.items() if value is not None}
    settings |= {"threads": set_threads(threads), "device": str(choose_device(device))}
    keep_freed_memory()  # for both: torch gains more from it than n2n
    found = PairSet.open(pairs)
    if found.val is None or not found.val.has_clean:
        raise click.UsageError(f"{pairs}: expected validation pairs with clean images, found none")
    config, notes = configure(found, preset, **settings)
    for note in notes:
        click.echo(note)
    seconds, ratios = {"n2n": 0.0, "twin": 0.0}, []

    def after_epoch(line: dict[str, Any]) -> None:
        taken = twin.epoch()
        seconds["n2n"] += line["seconds"]
        seconds["twin"] += taken
        ratios.append(line["seconds"] / taken)
        record = {
            "epoch": line["epoch"],
            "psnr": line["val"]["psnr"],
            "twin_psnr": twin.psnr(),
            "seconds": round(seconds["n2n"], 3),
            "twin_seconds": round(seconds["twin"], 3),
        }
        with (run / "twin.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        click.echo(
            f"epoch {record['epoch']:3d}  PSNR n2n {record['psnr']:.3f}  twin "
            f"{record['twin_psnr']:.3f} dB  seconds n2n {line['seconds']:.2f}  twin {taken:.2f}  "
            f"ratio {ratios[-1]:.3f}"
        )

    trainer = Trainer(config, found, run, on_epoch=after_epoch)
    if trainer.resumed:
        raise click.UsageError(f"{run}: expected a new run, since the twin cannot resume one")
    twin = TwinTrainer(trainer, variant)
    trainer.train()
    click.echo(f"median ratio of training time, n2n over twin: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
