"""A training as it goes: a bar for each epoch on a terminal, a line for each everywhere."""

from typing import Any

import click

from jobs.display.progress import Progress, clock
from jobs.together.team import Team, Training

__all__ = ["Epochs", "epoch_line"]


class Epochs:
    """A bar for each epoch on a terminal, a line for each everywhere."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self._progress = Progress(lines="none", unit="img")

    def __enter__(self) -> "Epochs":
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.close()

    def begin(self, trainer: Training) -> None:
        self.trainer = trainer
        config, pairs = trainer.config, trainer.pairs
        done = trainer.position
        if trainer.finished:
            longer = "more --epochs, or another --run, train on"
            if done.epoch < config.epochs:
                longer = f"none was better since epoch {done.best_epoch}; more --patience trains on"
            elif "epochs" not in config.may_change:
                longer = "train on in another --run: a cosine schedule and l0 have an end"
            click.echo(f"the run is complete: {done.epoch} epochs done; {longer}", err=True)
            return
        click.echo(
            f"{'resuming' if trainer.resumed else 'training'} {config.model} "
            f"({trainer.parameters:,} parameters) on {pairs.train.rows:,} pairs, {config.device}, "
            f"{config.precision}, {self._team.describe(config.threads)}, from epoch "
            f"{done.epoch + 1}, batch {done.batch + 1}",
            err=True,
        )

    def batch(self, images: int) -> None:
        position = self.trainer.position
        self._progress(
            f"epoch {position.epoch + 1}/{self.trainer.config.epochs}",
            position.images,
            self.trainer.pairs.train.rows,
            since=position.images - images,
        )

    def say(self, text: str) -> None:
        self._progress.say(text)

    def epoch(self, line: dict[str, Any]) -> None:
        self._progress.close()
        click.echo(epoch_line(line, self.trainer.config.epochs), err=True)


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
    parts.append(f"{line['images_per_second']:.0f} img/s")
    if line.get("workers", 1) > 1:
        parts.append(f"all-reduce {line['reduce_seconds'] / line['seconds']:.0%}")
    parts.append(f"{clock(left)} left")
    return "  ".join(parts)
