"""The report of a run: what it learned, how well, what it does to images, how it was made."""

from pathlib import Path

from n2n.report import Options, Report
from n2n.report.page import Page
from n2n.report.run import (
    architecture,
    comparison,
    examples,
    learning,
    making,
    photographs,
    residuals,
)
from n2n.report.run.examination import examine
from n2n.report.run.examples import Examples
from n2n.report.run.reading import Run, read_run

__all__ = ["make"]

FIGURES = ("figure-1-network", "figure-2-psnr", "figure-3-mse", "table-1-epochs", "residuals")


def make(path: Path, options: Options) -> Report:
    """The report of the run at `path`.

    InvalidValue for a set or a folder that `options` name and that cannot be used.
    """
    run = read_run(path, options.pairs)
    structure = architecture.structure_of(run)
    shown = examined = None
    if options.quick:
        parts = [
            learning.section(run),
            architecture.section(run, structure),
            making.section(run),
        ]
        return Report(Page("Run", run.name, parts, _summary(run), _highlights(run)))
    if run.network is not None and run.split is not None:
        shown, examined = Examples(run), examine(run.network, run.split)
    sections = [
        learning.section(run),
        examples.section(run, shown, examined),
        photographs.section(run, options.photos),
        comparison.section(run, peers=options.peers, threads=options.threads),
        residuals.section(run, examined),
        architecture.section(run, structure),
        making.section(run),
    ]
    figures = [
        *architecture.figures(structure),
        *learning.figures(run),
        *examples.figures(shown),
        *residuals.figures(run, examined),
    ]
    page = Page("Run", run.name, sections, _summary(run), _highlights(run))
    made = {figure.name for figure in figures}
    return Report(page, figures, [name for name in FIGURES if name not in made])


def _summary(run: Run) -> str:
    settings = run.settings
    words = [
        f"The network {settings.get('model')}, {run.epochs} of {settings.get('epochs')} epochs"
    ]
    noise = run.model.get("noise")
    if run.train_rows is not None:
        drawn = " an epoch, drawn from photographs," if run.stream is not None else ""
        words.append(f"on {run.train_rows:,} pairs{drawn}")
    if run.pairs is not None:
        words[-1] += f" of {_size(run.pairs.shape)}"
    words.append(f"with the noise {noise}" if noise else "with noise of unknown kind")
    text = ", ".join(words) + "."
    if run.has_finished and run.epochs < int(settings.get("epochs", 0)):
        text += " It ended early: for as long as its patience allows, no epoch was better."
    elif not run.has_finished:
        text += f" It has not reached its end: {_state(run)}."
    return text


def _state(run: Run) -> str:
    if not run.parts:
        return "it was stopped, or still goes on"
    end = run.parts[-1].end
    if end is None:
        return "it goes on, or its process was killed"
    return f"its last part ended as {end['outcome']}" + (
        f" ({end['reason']})" if end.get("reason") else ""
    )


def _size(shape: tuple[int, int, int]) -> str:
    channels, height, width = shape
    kind = {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")
    return f"{height} × {width} pixels, {kind}"


def _highlights(run: Run) -> list[tuple[str, str]]:
    """The numbers that are read first; those that are not known are left out."""
    scores = run.model.get("scores") or {}
    found = []
    for name, text in (
        ("psnr", "PSNR against clean images, mean"),
        ("estimated_psnr", "PSNR, pooled, estimated from noisy pairs"),
        ("input_psnr", "PSNR of the noisy input, mean"),
    ):
        if scores.get(name) is not None:
            found.append((f"{scores[name]:.2f} dB", text))
    if scores.get("ssim") is not None:
        found.append((f"{scores['ssim']:.4f}", "SSIM"))
    if run.network is not None:
        count = sum(value.numel() for value, _ in run.network.param())
        found.append((f"{count:,}", "parameters"))
    if run.metrics:
        found.append((_clock(making.seconds(run)), "of training and validation"))
    return found


def _clock(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
