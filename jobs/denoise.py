"""`n2n denoise INPUT OUTPUT`: images through a trained model; a file, a folder or a pair set."""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from jobs.command import (
    Reads,
    ReadsModel,
    Writes,
    device_options,
    gibibytes,
    job,
    print_json,
    stopping,
)
from jobs.display.outcomes import Display, as_dict, print_plan, summary
from jobs.processes.workers import Workers

if TYPE_CHECKING:
    from n2n.batch import Batch

__all__ = ["main"]

DECIDING = ("strength", "tta", "keep_mean", "value_range")  # on the result, with clip_residual


@job("denoise")
@click.argument("source", metavar="INPUT", type=Reads())
@click.argument("output", metavar="OUTPUT", type=Writes())
@click.option(
    "--model",
    type=ReadsModel(),
    metavar="NAME|FILE",
    help="A shipped model (n2n models), a model file or a run of n2n train.  [default: photo]",
)
@click.option("--strength", default=1.0, help="From 0 (the input) to 1 (fully denoised): a blend.")
@click.option(
    "--clip-residual",
    metavar="K|off",
    help="Change no pixel by more than K times the estimated noise.  [default: 3 for a model of "
    "gaussian noise, else off]",
)
@click.option("--tta", is_flag=True, help="Mean over 8 flips and turns: 8 times the work.")
@click.option("--keep-mean", is_flag=True, help="Correct the drift of each channel's mean.")
@click.option(
    "--value-range",
    nargs=2,
    type=float,
    metavar="BLACK WHITE",
    help="What black and white are in the files.  [default: the full range of integers; 0 1 for "
    "floats in it, else their own extremes, which is said]",
)
@click.option("--format", help="Convert to png, jpeg, tiff, webp, bmp or npy.  [default: none]")
@click.option("--suffix", default="", help="Put before the ending: _clean makes a_clean.png.")
@click.option(
    "--include", multiple=True, metavar="PATTERN", help="Only such names, as '*.tif' or 'day1/*'."
)
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Not such files and folders.")
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist, whatever made them.")
@click.option("--dry-run", is_flag=True, help="Print what would be done; write nothing.")
@device_options("fp32, tf32, bf16 or fp16")
@click.option(
    "--max-memory",
    type=float,
    metavar="GIB",
    help="For images and tiles, in each worker.  [default: a fair part of what is free]",
)
@click.option(
    "--batch-size",
    type=int,
    help="Small images (up to 256 x 256) that go through the network together: faster for tiny "
    "ones and on GPUs, and equal but for the last bit.  [default: 1]",
)
@click.option("--workers", default=1, help="Processes; more than one run on Ray.")
@click.option(
    "--gpus-per-worker",
    type=float,
    help="Of each of several workers, such as 0.25.  [default: 1 with --device cuda]",
)
@click.option("--address", help="Of a running Ray cluster: HOST:PORT, or auto to find it.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(
    source: str,
    output: str,
    suffix: str,
    format: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Denoise INPUT into OUTPUT: an image, a folder, or a pair set.

    \b
      n2n denoise photo.jpg clean.jpg
      n2n denoise photos/ clean/ --model model.safetensors
      n2n denoise s3://bucket/in s3://bucket/out --model model.safetensors --workers 8

    Images: PNG, JPEG, TIFF (also stacks), WebP, BMP and NumPy's .npy, of any size. Bit depth,
    transparency, EXIF, ICC profile and resolution come out as they went in. A folder is taken
    with its subfolders, which OUTPUT mirrors; other files are ignored. For a single image, OUTPUT
    is a folder, or a file whose ending may be of another format. A pair set (Parquet) gets a
    column `output`, and scores where it has clean images.

    The noise of each image is estimated, and its standard deviation told and recorded; with
    --clip-residual it bounds what is changed, which keeps the detail of images that are nearly
    clean. Noise that neighbouring pixels share is underestimated: pass "off" if too much stays.

    Inputs are never changed. OUTPUT/n2n-manifest.jsonl records each file: after a stop, the same
    command does what is missing; files done before with the same model and settings are skipped,
    and files in OUTPUT that are not n2n's are left alone, unless --overwrite.

    Exit codes: 0 all done; 1 some inputs failed, each named; 2 nothing done; 3 stopped.
    """
    from n2n.batch import Batch, Choice, WorkerConfig, make_plan, preview, settings_of
    from n2n.batch.work import local_model
    from n2n.checkpoint import load_model
    from n2n.images.opening import known_format
    from n2n.options import Options

    workers = Workers(*(options.pop(name) for name in ("workers", "gpus_per_worker", "address")))
    clip = choose_clip(options.pop("clip_residual"), options["model"])
    deciding = Options(clip_residual=clip, **{name: options.pop(name) for name in DECIDING})
    choice = Choice(include, exclude, suffix, format and known_format(format))
    if options["max_memory"] is not None:
        options["max_memory"] = gibibytes(options["max_memory"], "--max-memory")
    with Display() as display:
        plan = make_plan(source, output, choice, progress=display.look)
        roots = plan.inputs.root, plan.outputs.root
        config = WorkerConfig(options.pop("model"), *roots, options=deciding, **options)
        settings = settings_of(config)
        if dry_run:
            with ExitStack() as stack:
                network, _ = load_model(local_model(config.model, stack))
            outcomes = preview(plan, settings, network.channels, overwrite=overwrite)
            return print_plan(plan, outcomes, as_json=as_json)
        batch = Batch(
            plan,
            config,
            settings,
            overwrite=overwrite,
            workers=workers.count,
            settle=display.settle,
        )
        return denoise(batch, workers, display, as_json)


def choose_clip(text: str | None, model: str | None) -> float | None:
    """What --clip-residual says, or the model's file where it says nothing."""
    from n2n.batch.work import local_model
    from n2n.checkpoint import load_model
    from n2n.noise_level import default_clip

    if text is None:
        with ExitStack() as stack:
            return default_clip(load_model(local_model(model, stack))[1])
    try:
        return None if text == "off" else float(text)
    except ValueError:
        raise click.BadParameter(
            f"expected a number or off, got {text!r}", param_hint="--clip-residual"
        ) from None


def denoise(batch: "Batch", workers: Workers, display: Display, as_json: bool) -> int:
    """Run the batch; the summary is printed also after a stop, before the line that says why."""
    with ExitStack() as stack:
        execute, place = workers.prepare(batch.config, stack, display.say)
        click.echo(f"device: {place}, {batch.config.precision}", err=True)
        stack.enter_context(stopping())
        display.begin(batch)
        try:
            with batch:
                batch.run(execute)
        finally:
            display.close()
            if batch.report.total:
                click.echo(summary(batch, display.seconds), err=as_json)
    if as_json:
        print_json(as_dict(batch, place, display.seconds))
    return batch.report.exit_code


if __name__ == "__main__":
    main()
