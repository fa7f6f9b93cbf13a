"""`n2n train SET --run DIR`: train a denoiser on a pair set, or resume.

The defaults are the published recipe: the seed network, 50 epochs of batches of 100, SGD with
learning rate 5, mean squared error.
"""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.command import job, print_json

if TYPE_CHECKING:
    from n2n.trainer import TrainConfig, Trainer

__all__ = ["main"]


def parse_setting(text: str) -> tuple[str, int]:
    """NAME=INTEGER of `--set`."""
    name, equals, value = text.partition("=")
    try:
        number = int(value)
    except ValueError:
        equals = ""
    if not equals:
        raise click.BadParameter(f"expected NAME=INTEGER such as width=64, got {text!r}")
    return name.strip(), number


@job("train")
@click.argument("pairs", metavar="SET", type=click.Path(path_type=Path))
@click.option("--run", type=click.Path(path_type=Path), required=True, help="The run's directory.")
@click.option("--model", default="seed", help="Architecture: seed or unet.")
@click.option("--set", "settings", multiple=True, metavar="NAME=N", help="Its width, depth, …")
@click.option("--epochs", default=50, help="Times through the set.")
@click.option("--batch-size", default=100, help="Pairs a step.")
@click.option("--optimizer", default="sgd", help="sgd, adam or adamw.")
@click.option("--lr", default=5.0, help="Learning rate.")
@click.option("--momentum", default=0.0, help="Of sgd.")
@click.option("--weight-decay", default=0.0)
@click.option("--schedule", default="constant", help="constant, step or cosine.")
@click.option("--warmup", default=0.0, help="Epochs of the cosine schedule's rise.")
@click.option("--decay-epochs", default=20, help="Epochs between the step schedule's drops.")
@click.option("--decay", default=0.1, help="Factor of each drop.")
@click.option("--loss", default="mse", help="mse or l1.")
@click.option("--flips/--no-flips", default=False, help="Augment by flips.")
@click.option("--turns/--no-turns", default=False, help="Augment by quarter turns.")
@click.option("--swap/--no-swap", default=False, help="Exchange input and target at random.")
@click.option("--seed", default=0, help="Of the weights, the order and the augmentation.")
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:INDEX.")
@click.option("--threads", type=int, help="CPU threads.  [default: all cores]", show_default=False)
@click.option("--memory", default=2.0, help="GiB of pairs to hold; a larger set streams.")
@click.option("--checkpoint-seconds", default=60.0, help="Between checkpoints in an epoch.")
@click.option("--json", "as_json", is_flag=True, help="Print the last epoch's metrics as JSON.")
def main(
    pairs: Path,
    run: Path,
    settings: tuple[str, ...],
    threads: int | None,
    memory: float,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a denoiser on the pair set SET, in the directory --run.

    The same command again resumes a run that was stopped, and ends with the same weights. The
    best model so far is RUN/model.safetensors, chosen by its pooled PSNR on the validation pairs:
    against their clean images, or estimated from the noisy pairs alone.
    """
    from n2n.device import choose_device, keep_freed_memory, set_threads
    from n2n.trainer import TrainConfig

    threads = set_threads(threads)
    keep_freed_memory()
    options["device"] = str(choose_device(options["device"]))
    config = TrainConfig(
        model_config=dict(parse_setting(text) for text in settings),
        threads=threads,
        memory_limit=gibibytes(memory),
        **options,
    )
    trainer = train_with_progress(config, pairs, run)
    click.echo(
        f"{trainer.position.epoch} epochs done; best: epoch {trainer.position.best_epoch}, "
        f"{trainer.run.model_path}",
        err=as_json,
    )
    if as_json:
        print_json(trainer.run.metrics[-1])


def train_with_progress(config: "TrainConfig", pairs: Path, run: Path) -> "Trainer":
    """Train or resume to the end, showing how far it is; signals stop it with a checkpoint."""
    from n2n.data import PairSet
    from n2n.trainer import Trainer

    with Progress() as progress:
        trainer = Trainer(
            config,
            PairSet.open(pairs),
            run,
            on_batch=progress.batch,
            on_epoch=progress.epoch,
        )
        progress.begin(trainer)
        with stopping(trainer):
            trainer.train()
    return trainer


def gibibytes(number: float) -> int:
    """Bytes; click's error for what is not above zero."""
    if not 0 < number <= 2**20:
        raise click.BadParameter(
            f"expected GiB above 0 and at most {2**20}, got {number}", param_hint="--memory"
        )
    return int(number * 2**30)


@contextmanager
def stopping(trainer: "Trainer") -> Iterator[None]:
    """Ctrl-C, SIGTERM, a closed terminal end the batch, save and stop; a second one at once."""

    def stop(number: int, frame: Any) -> None:
        if trainer.stop:
            raise KeyboardInterrupt
        trainer.stop = True

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Progress:
    """A bar on a terminal, a line an epoch everywhere."""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def begin(self, trainer: "Trainer") -> None:
        self.trainer = trainer
        self.bar: Any = None
        config, pairs = trainer.config, trainer.pairs
        done = trainer.position
        if done.epoch >= config.epochs:
            longer = "more --epochs, or another --run, train on"
            if "epochs" not in config.may_change:
                longer = "train on in another --run: a cosine schedule has an end"
            click.echo(f"the run is complete: {done.epoch} epochs done; {longer}", err=True)
            return
        count = sum(value.numel() for value, _ in trainer.network.param())
        click.echo(
            f"{'resuming' if trainer.resumed else 'training'} {config.model} ({count:,} "
            f"parameters) on {pairs.train.rows:,} pairs, {config.device}, {config.threads} "
            f"threads, from epoch {done.epoch + 1}, batch {done.batch + 1}",
            err=True,
        )

    def batch(self, images: int) -> None:
        if not sys.stderr.isatty():
            return
        if self.bar is None:
            from tqdm import tqdm

            done, rows = self.trainer.position, self.trainer.pairs.train.rows
            self.bar = tqdm(
                total=rows,
                initial=done.images - images,
                desc=f"epoch {done.epoch + 1}/{self.trainer.config.epochs}",
                unit="img",
                leave=False,
            )
        self.bar.update(images)

    def epoch(self, line: dict[str, Any]) -> None:
        self._close()
        click.echo(epoch_line(line, self.trainer.config.epochs), err=True)

    def _close(self) -> None:
        if getattr(self, "bar", None) is not None:
            self.bar.close()
            self.bar = None


def epoch_line(line: dict[str, Any], epochs: int) -> str:
    """One epoch's metrics for a reader."""
    parts = [f"epoch {line['epoch']}/{epochs}", f"loss {line['train_loss']:.6f}"]
    val = line.get("val") or {}
    names = {
        "psnr": "PSNR {:.2f} dB",
        "ssim": "SSIM {:.4f}",
        "psnr_pooled": "pooled: PSNR {:.2f} dB",
        "estimated_psnr": "estimated {:.2f} dB",
    }
    parts += [text.format(val[name]) for name, text in names.items() if val.get(name) is not None]
    left = (epochs - line["epoch"]) * (line["seconds"] + line["validation_seconds"])
    parts += [f"{line['images_per_second']:.0f} img/s", f"{_clock(left)} left"]
    return "  ".join(parts)


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(seconds)) if seconds < 86400 else "over a day"


if __name__ == "__main__":
    main()
