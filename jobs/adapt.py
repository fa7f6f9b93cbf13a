"""`n2n adapt FOLDER --out DIR`: fit a model to noisy images of one's own."""

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.command import Reads, ReadsModel, Writes, device_options, job, print_json
from jobs.train import open_single, stopping

if TYPE_CHECKING:
    from n2n.trainer import Trainer

__all__ = ["main"]

CROPS = 2_000  # between two looks at the held-out images


@job("adapt")
@click.argument("folder", metavar="FOLDER", type=Reads(path_type=Path))
@click.option("--out", type=Writes(path_type=Path), required=True, help="Where the model goes.")
@click.option(
    "--model",
    type=ReadsModel(),
    metavar="NAME|FILE",
    help="What to begin with: a shipped model, a model file or a run.  [default: photo]",
)
@click.option("--minutes", default=5.0, help="How long to train; again as long if repeated.")
@click.option("--size", default=32, help="Pixels a side of what is trained on; images: twice that.")
@click.option("--lr", default=2e-4, help="Learning rate.")
@device_options("fp32, tf32 or bf16")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(
    folder: Path,
    out: Path,
    model: str | None,
    minutes: float,
    size: int,
    lr: float,
    device: str,
    precision: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Fit a model to the noisy images in FOLDER, of which no clean or second version is needed.

    \b
      n2n adapt frames/ --out adapted --minutes 5
      n2n denoise frames/ clean/ --model adapted

    A tenth of the images, at least one, is held out. OUT/model.safetensors is the best by these,
    and the model as it was as long as none is better. The same command again trains on.

    It learns from neighbouring pixels (Neighbor2Neighbor), whose noise has to be independent: that
    of a JPEG, of a shrunk or demosaiced picture is not.
    """
    from n2n.adaptation import adapt
    from n2n.checkpoint import load_model
    from n2n.device import choose_device, keep_freed_memory, set_threads
    from n2n.run import RunDirectory
    from n2n.shipped import locate

    kept = RunDirectory(out).start_path
    start = kept if model is None and kept.is_file() else locate(model)
    threads = set_threads(threads)
    keep_freed_memory()
    channels = load_model(start)[0].channels
    pairs = open_single(folder, grey=channels == 1, size=size, rows=CROPS)
    with ExitStack() as stack:
        result = adapt(
            pairs,
            start,
            out,
            minutes=minutes,
            lr=lr,
            on_epoch=tell,
            on_trainer=lambda trainer: begin(trainer, stack),
            device=str(choose_device(device)),
            precision=precision,
            threads=threads,
        )
    if as_json:
        print_json({**asdict(result), "model": str(result.model)})
        return
    if result.best_epoch == 0:
        click.echo(f"no better than before on the held-out images; {result.model} is the model")
    else:
        gain = 1 - result.after / result.before
        click.echo(
            f"error on the held-out images {result.before:.6f} before, {result.after:.6f} after "
            f"({gain:.2%} less, of which noise is the most); {result.model}"
        )


def begin(trainer: "Trainer", stack: ExitStack) -> None:
    """Say what begins; signals stop it with a checkpoint."""
    config = trainer.config
    done = f", from epoch {trainer.position.epoch + 1}" if trainer.resumed else ""
    click.echo(
        f"adapting {config.model} ({trainer.parameters:,} parameters), {config.device}, "
        f"{config.precision}, {config.threads} threads{done}",
        err=True,
    )
    stack.enter_context(stopping(trainer))


def tell(line: dict[str, Any]) -> None:
    """One look at the held-out images."""
    click.echo(f"epoch {line['epoch']}  held-out error {line['val']['loss']:.6f}", err=True)


if __name__ == "__main__":
    main()
