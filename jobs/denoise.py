"""`n2n denoise INPUT OUTPUT`: images through a trained model, a file or a folder."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.command import device_options, job, print_json

if TYPE_CHECKING:
    from n2n.batch import Outcome, Plan, Report

__all__ = ["main"]

SECONDS_BETWEEN_LINES = 10


@job("denoise")
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUTPUT", type=click.Path())
@click.option("--model", type=click.Path(path_type=Path), required=True, help="The model file.")
@device_options("fp32, tf32, bf16 or fp16")
@click.option("--overwrite", is_flag=True, help="Denoise again what OUTPUT already holds.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(
    source: Path,
    output: str,
    model: Path,
    device: str,
    precision: str,
    threads: int | None,
    overwrite: bool,
    as_json: bool,
) -> int:
    """Denoise INPUT, an image or a folder of images, into OUTPUT.

    Images are PNG and JPEG files of 8 bits a channel, of any size. A folder is taken with its
    subfolders, which OUTPUT mirrors; files of other kinds are ignored. For a single image, OUTPUT
    is a folder, where it keeps its name, or a file, whose name decides on PNG or JPEG.
    Transparency, EXIF, ICC profile and resolution are kept.

    Inputs are never changed. An output that exists is left alone, and its input skipped, unless
    --overwrite: after a stop, the same command does what is missing.

    Exit codes: 0 all done; 1 some inputs failed, each named; 2 nothing done; 3 stopped.
    """
    plan = make_plan(source, output)

    from n2n.batch import Report, denoise_files
    from n2n.checkpoint import load_model
    from n2n.device import choose_device, set_threads, use_precision
    from n2n.errors import ModelFileError

    threads = set_threads(threads)
    place = choose_device(device)
    dtype = use_precision(precision, place)
    network, _ = load_model(model)
    if network.channels not in (1, 3):
        raise ModelFileError(
            f"{model}: a model for grey (1 channel) or colour (3) expected, "
            f"found {network.channels}; use another one"
        )
    click.echo(f"device: {describe(place, threads)}, {precision}", err=True)
    report = Report()
    started = time.perf_counter()
    network.to(place).compute_in(dtype)
    outcomes = denoise_files(network, plan, overwrite=overwrite, device=place)
    try:
        for outcome in with_progress(outcomes, len(plan.files) + len(plan.refused)):
            report.add(outcome)
    finally:  # also after a stop, before the line that says why
        click.echo(summary(report, plan), err=as_json)
    if as_json:
        print_json(as_dict(report, plan, str(place), time.perf_counter() - started))
    return report.return_code


def make_plan(source: Path, output: str) -> "Plan":
    """What becomes which file; InvalidValue for what cannot be meant."""
    from n2n.batch import plan_file, plan_folder
    from n2n.errors import InvalidValue

    destination = Path(output)
    if source.is_dir():
        return plan_folder(source, destination)
    if not source.exists():
        raise InvalidValue(
            f"{source}: an image or a folder expected, found nothing; check the name"
        )
    if output.endswith(("/", os.sep)):  # a folder, there or not
        destination /= source.name
    return plan_file(source, destination)


def describe(place: object, threads: int) -> str:
    """The device for a reader: its name, or the number of threads."""
    import torch

    device = torch.device(str(place))
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({threads} threads)"


def with_progress(outcomes: "Iterator[Outcome]", total: int) -> "Iterator[Outcome]":
    """Pass outcomes on. A bar on a terminal, else a line now and then; failures at once."""
    from tqdm import tqdm

    failed = 0
    last = time.monotonic()
    terminal = sys.stderr.isatty()
    with tqdm(total=total, unit="image", disable=not terminal, file=sys.stderr) as bar:
        for count, outcome in enumerate(outcomes, start=1):
            bar.update()
            if outcome.state == "failed":
                failed += 1
                line = one_line(f"n2n: {outcome.source}: {outcome.reason}")
                with bar.external_write_mode(file=sys.stderr):
                    click.echo(line, err=True)
                bar.set_postfix(failed=failed)
            if not terminal and time.monotonic() - last > SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                click.echo(f"{count} of {total} images, {failed} failed", err=True)
            yield outcome


def one_line(text: str) -> str:
    """Names may hold line breaks, and bytes that are no text."""
    return text.encode(errors="backslashreplace").decode().replace("\n", "\\n").replace("\r", "\\r")


def summary(report: "Report", plan: "Plan") -> str:
    """One line: how many ended in which state."""
    parts = [f"{report.done} done"]
    if report.skipped:
        parts.append(f"{report.skipped} skipped (their output exists)")
    if report.failed:
        parts.append(f"{len(report.failed)} failed")
    if plan.ignored:
        parts.append(f"{plan.ignored} other files ignored")
    return ", ".join(parts)


def as_dict(report: "Report", plan: "Plan", device: str, seconds: float) -> dict[str, object]:
    """The result for programs."""
    return {
        "input": str(plan.source),
        "output": str(plan.destination),
        "device": device,
        "done": report.done,
        "skipped": report.skipped,
        "failed": [{"input": str(one.source), "reason": one.reason} for one in report.failed],
        "ignored": plan.ignored,
        "seconds": round(seconds, 3),
    }


if __name__ == "__main__":
    main()
