"""What a sweep finds, and what halving saves: the commands are run, and their tables compared.

    python tests/bench/sweeps.py neighbourhood SET OUT [OPTION OF n2n sweep …]
    python tests/bench/sweeps.py halving SET OUT [OPTION OF n2n sweep …]

neighbourhood: 16 trials around the published recipe, few epochs, and the recipe itself for as
many. halving: a grid of 16 settings in full, and the same with asha; the epochs that each spends,
and what the setting that asha chose scores in the full grid. Stopped, both go on when run again.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pyarrow.parquet as pq

GRID = """
model: seed
optimizer: adamw
lr: [0.0003, 0.001, 0.003, 0.01]
width: [8, 24]
batch_size: [10, 40]
"""
ON_IT = ["--search", "grid", "--max-epochs", "8", "--reduction", "4"]
NEAR = ["--set", "model=seed", "--set", "width=int:16..64:16", "--trials", "16"]
AS_IS = {"ignore_unknown_options": True, "allow_interspersed_args": False}


def n2n(*arguments: str | Path) -> None:
    """A command of n2n, its lines passed on; this ends where it does."""
    command = [sys.executable, "-m", "jobs.cli", *map(str, arguments)]
    click.echo(f"n2n {' '.join(command[3:])}", err=True)
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)


def epochs(directory: Path) -> list[dict[str, Any]]:
    """The rows of a sweep's table."""
    rows: list[dict[str, Any]] = pq.read_table(directory / "trials.parquet").to_pylist()
    return rows


def best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The epoch with the best score."""
    return max(rows, key=lambda row: float(row["score"]))


@click.group()
def main() -> None:
    """Measurements of n2n sweep."""


@main.command(context_settings=AS_IS)
@click.argument("pairs", metavar="SET", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("options", nargs=-1)
def neighbourhood(pairs: Path, out: Path, options: tuple[str, ...]) -> None:
    """Trials around the published recipe, against the recipe at as many epochs."""
    limits = () if "--max-epochs" in options else ("--max-epochs", "3")
    n2n("sweep", pairs, "--run", out / "sweep", *NEAR, *limits, *options)
    rows = epochs(out / "sweep")
    limit = rows[0]["epochs"]
    published = ("--preset", "published", "--epochs", str(limit), "--device", "cpu")
    n2n("train", pairs, "--run", out / "published", *published, "--threads", "1")
    n2n("evaluate", out / "sweep" / "best" / "model.safetensors", pairs)
    n2n("evaluate", out / "published" / "model.safetensors", pairs)
    top = best(rows)
    trials = len({row["trial"] for row in rows})
    click.echo(
        f"{trials} trials, {len(rows)} epochs of {trials * limit}; best: trial {top['trial']}"
    )


@main.command(context_settings=AS_IS)
@click.argument("pairs", metavar="SET", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("options", nargs=-1)
def halving(pairs: Path, out: Path, options: tuple[str, ...]) -> None:
    """A grid in full, and with asha."""
    found = {}
    out.mkdir(parents=True, exist_ok=True)
    space = out / "space.yaml"
    space.write_text(GRID)
    for scheduler in ("none", "asha"):
        place = out / scheduler
        n2n(
            "sweep",
            pairs,
            "--run",
            place,
            "--space",
            space,
            *ON_IT,
            "--scheduler",
            scheduler,
            *options,
        )
        found[scheduler] = epochs(place)
    full, halved = found["none"], found["asha"]
    names = ("width", "lr", "batch_size")

    def setting(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row[name] for name in names)

    top, chosen = best(full), best(halved)
    again = best([row for row in full if setting(row) == setting(chosen)])
    click.echo(f"full grid: {len(full)} epochs, best {top['score']:.3f} dB at {setting(top)}")
    click.echo(f"asha: {len(halved)} epochs, {len(halved) / len(full):.2f} of the grid's")
    click.echo(
        f"its best {chosen['score']:.3f} dB at {setting(chosen)}, which has {again['score']:.3f} "
        f"dB in the full grid: {top['score'] - again['score']:.3f} dB below the best"
    )


if __name__ == "__main__":
    main()
