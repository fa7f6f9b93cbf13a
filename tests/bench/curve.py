"""Draw validation PSNR against minutes of training, for one or more runs.

    python tests/bench/curve.py OUT.png [LABEL=]RUN …

A RUN is a run's directory, its `metrics.jsonl`, or the `twin.jsonl` of `tests/bench/twin.py`,
which gives two curves, one of n2n and a dashed one of torch. A directory that holds a `twin.jsonl`
is read as such.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

COLOURS = ("#0b6e99", "#c1440e", "#3b7d23", "#7b4ea3")
PIXELS_PER_INCH = 110


@dataclass(frozen=True)
class Curve:
    """PSNR after so many minutes of training."""

    label: str
    minutes: list[float]
    psnr: list[float]
    twin: bool = False

    @classmethod
    def of(cls, label: str, points: list[tuple[float, float]], *, twin: bool = False) -> "Curve":
        """points: (seconds so far, PSNR)."""
        return cls(label, [seconds / 60 for seconds, _ in points], [p for _, p in points], twin)


def read(path: Path, label: str) -> list[Curve]:
    """The curves of a run; click's error for what holds none."""
    if path.is_dir():
        twin = path / "twin.jsonl"
        path = twin if twin.exists() else path / "metrics.jsonl"
    try:
        lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
        if lines and "twin_psnr" in lines[0]:
            own = [(line["seconds"], line["psnr"]) for line in lines]
            other = [(line["twin_seconds"], line["twin_psnr"]) for line in lines]
            return [
                Curve.of(f"{label}, n2n", own),
                Curve.of(f"{label}, torch", other, twin=True),
            ]
        seconds, points = 0.0, []
        for line in lines:
            seconds += line["seconds"]
            points.append((seconds, line["val"]["psnr"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise click.UsageError(f"{path}: expected metrics.jsonl or twin.jsonl ({error})") from None
    return [Curve.of(label, points)]


def draw(curves: list[list[Curve]], out: Path) -> None:
    """A colour for each run, the twin's curve dashed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.4, 4.2))
    for number, run in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        for curve in run:
            style, width = ("--", 1.4) if curve.twin else ("-", 2.0)
            marker = "o" if len(curve.psnr) <= 12 else ""
            axes.plot(
                curve.minutes,
                curve.psnr,
                style,
                color=colour,
                linewidth=width,
                marker=marker,
                markersize=3.5,
                label=f"{curve.label}: {curve.psnr[-1]:.2f} dB in {curve.minutes[-1]:.1f} min",
            )
    axes.set_xlim(left=0)
    axes.set(xlabel="minutes of training", ylabel="validation PSNR [dB]")
    axes.grid(which="both", alpha=0.25)
    axes.legend(loc="lower right", fontsize=9)
    figure.tight_layout()
    figure.savefig(out, dpi=PIXELS_PER_INCH, pil_kwargs={"optimize": True})
    pyplot.close(figure)


@click.command()
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("runs", nargs=-1, required=True, metavar="[LABEL=]RUN …")
def main(out: Path, runs: tuple[str, ...]) -> None:
    """Draw the validation PSNR of RUNs against minutes of training, to OUT."""
    curves = []
    for text in runs:
        label, equals, path = text.partition("=")
        path = path if equals else text
        curves.append(read(Path(path), label if equals else Path(path).name))
    draw(curves, out)


if __name__ == "__main__":
    main()
