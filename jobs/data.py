"""`n2n data`: make, import and check sets of noisy pairs."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.command import Group, Reads, Writes, job, print_json
from jobs.display.progress import Progress

if TYPE_CHECKING:
    from n2n.data import Checked, Made

INPUT, OUTPUT = Reads(path_type=Path), Writes(path_type=Path)


@click.group("data", cls=Group)
def main() -> None:
    """Make, import and check sets of noisy pairs."""


def recipe_options(function: Any) -> Any:
    """The options that `build` and `pair` share."""
    for option in reversed(
        [
            click.option("--size", default=32, help="Height and width of a crop, in pixels."),
            click.option("--pairs", default=50_000, help="Training pairs."),
            click.option("--val-pairs", default=1_000, help="Validation pairs; 0 for none."),
            click.option("--seed", default=0, help="The same seed makes the same set."),
            click.option("--workers", type=int, show_default="all cores", help="Processes."),
            click.option("--grey", is_flag=True, help="One channel in place of three."),
            click.option("--overwrite", is_flag=True, help="Replace a pair set at OUT."),
            click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
        ]
    ):
        function = option(function)
    return function


@job("build")
@click.argument("source", type=INPUT)
@click.argument("out", type=OUTPUT)
@click.option(
    "--noise",
    default="subsample",
    help="subsample, gaussian:SIGMA, gaussian:LOW-HIGH (8-bit units), poisson:PEAK, impulse:P or "
    "text:P.",
)
@click.option(
    "--clean-targets",
    is_flag=True,
    help="Training pairs of a noisy view and the clean image: see what clean images would give.",
)
@recipe_options
def build(
    source: Path,
    out: Path,
    noise: str,
    clean_targets: bool,
    workers: int | None,
    overwrite: bool,
    as_json: bool,
    **recipe: Any,
) -> int:
    """Make pairs from the photographs in SOURCE: PNG, JPEG, TIFF, WebP, also in subfolders."""
    from n2n.data import Recipe, build_set, default_workers, parse_noise

    made = build_set(
        source,
        out,
        parse_noise(noise),
        Recipe(**recipe),
        workers=default_workers() if workers is None else workers,
        overwrite=overwrite,
        progress=Progress(),
        clean_targets=clean_targets,
    )
    return report(made, as_json, what="photographs")


@job("import")
@click.argument("train", type=INPUT)
@click.argument("val", type=INPUT, required=False)
@click.option("--out", type=OUTPUT, required=True, help="Where the set goes.")
@click.option("--overwrite", is_flag=True, help="Replace a pair set at OUT.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def import_(train: Path, val: Path | None, out: Path, overwrite: bool, as_json: bool) -> int:
    """Make pairs of torch-saved uint8 tensors (inputs, targets), each (N, C, H, W).

    TRAIN holds (noisy, noisy), VAL (noisy, clean). Files that hold code are refused.
    """
    from n2n.data import import_set

    made = import_set(train, val, out, overwrite=overwrite, progress=Progress())
    return report(made, as_json, what="files")


@job("pair")
@click.argument("dir_a", type=INPUT)
@click.argument("dir_b", type=INPUT)
@click.argument("out", type=OUTPUT)
@recipe_options
def pair(
    dir_a: Path,
    dir_b: Path,
    out: Path,
    workers: int | None,
    overwrite: bool,
    as_json: bool,
    **recipe: Any,
) -> int:
    """Make pairs of two exposures of the same scenes, matched by name without extension."""
    from n2n.data import Recipe, default_workers, pair_set

    made = pair_set(
        dir_a,
        dir_b,
        out,
        Recipe(**recipe),
        workers=default_workers() if workers is None else workers,
        overwrite=overwrite,
        progress=Progress(),
    )
    return report(made, as_json, what="scenes")


@job("check")
@click.argument("path", metavar="SET", type=INPUT)
@click.option("--workers", type=int, show_default="all cores", help="Processes.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def check(path: Path, workers: int | None, as_json: bool) -> int:
    """Tell what a pair set holds and what is wrong with it; exit 1 when something is."""
    from n2n.data import check_set, default_workers

    checked = check_set(
        path,
        workers=default_workers() if workers is None else workers,
        progress=Progress(),
    )
    if as_json:
        print_json({**asdict(checked), "path": str(path), "ok": not checked.findings})
    else:
        show(checked)
    return 1 if checked.findings else 0


def report(made: "Made", as_json: bool, *, what: str) -> int:
    """Print what was made and name what was skipped; 1 when something was."""
    for skip in made.skipped:
        click.echo(f"skipped {shown(skip.name)}: {skip.reason}", err=True)
    if as_json:
        print_json(
            {
                "path": str(made.path),
                "shape": made.shape,
                "train": {"pairs": made.train_pairs, what: made.train_scenes},
                "val": {"pairs": made.val_pairs, what: made.val_scenes},
                "skipped": [vars(skip) for skip in made.skipped],
                "repeated": made.repeated,
                "ignored": made.ignored,
            }
        )
    else:
        click.echo(
            f"{made.path}: {made.train_pairs} pairs from {made.train_scenes} {what}, "
            f"{made.val_pairs} for validation from {made.val_scenes} others"
        )
        notes = {
            "skipped": len(made.skipped),
            "repeated and used once": made.repeated,
            "files of other kinds ignored": made.ignored,
        }
        if any(notes.values()):
            click.echo("; ".join(f"{count} {note}" for note, count in notes.items() if count))
    return 1 if made.skipped else 0


def show(checked: "Checked") -> None:
    """Print what a check found, for people."""
    shape = " × ".join(map(str, checked.shape))
    noise = checked.noise or "as it came"
    click.echo(f"{checked.path}: pairs of {shape}, noise: {noise}")
    for split in checked.splits:
        line = f"{split.name}: {split.pairs} pairs, sigma {split.sigma:.2f} of 255"
        if split.input_psnr is not None:
            line += f", input PSNR {split.input_psnr:.2f} dB"
            line += f" (pooled {split.input_psnr_pooled:.2f} dB)"
        click.echo(line)
    for finding in checked.findings:
        rows = ", ".join(map(str, finding.first_rows))
        more = ", …" if finding.rows > len(finding.first_rows) else ""
        count = f"{finding.rows} row" + ("s" if finding.rows != 1 else "")
        click.echo(
            f"warning: {finding.split}: {finding.kind}, {count} ({rows}{more}): {finding.message}"
        )
    if not checked.findings:
        click.echo("no warnings")


def shown(name: str) -> str:
    """A file name on one line, whatever letters it has."""
    return name if name.isprintable() else ascii(name)


for command in (build, import_, pair, check):
    main.add_command(command)

if __name__ == "__main__":
    main()
