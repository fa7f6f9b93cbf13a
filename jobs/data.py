"""`n2n data`: make, import and check sets of noisy pairs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from jobs.command import Group, job, print_json

if TYPE_CHECKING:
    from n2n.data import Made

FOLDER = click.Path(path_type=Path)


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
@click.argument("source", type=FOLDER)
@click.argument("out", type=FOLDER)
@click.option(
    "--noise",
    default="subsample",
    help="subsample, gaussian:SIGMA, gaussian:LOW-HIGH (8-bit units), poisson:PEAK or impulse:P.",
)
@recipe_options
def build(
    source: Path,
    out: Path,
    noise: str,
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
        progress=ShowProgress(),
    )
    return report(made, as_json, what="photographs")


class ShowProgress:
    """A bar for each stage on a terminal; a line for each stage's end elsewhere."""

    def __init__(self) -> None:
        self.bar: Any = None

    def __call__(self, label: str, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            if done == total:
                click.echo(f"{label}: {done} of {total}", err=True)
            return
        if self.bar is None:
            self.bar = tqdm(total=total, desc=label, leave=False, file=sys.stderr)
        self.bar.update(done - self.bar.n)
        if done == total:
            self.bar.close()
            self.bar = None


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


def shown(name: str) -> str:
    """A file name on one line, whatever letters it has."""
    return name if name.isprintable() else ascii(name)


main.add_command(build)

if __name__ == "__main__":
    main()
