"""`n2n bench`: speed and memory of n2n's layers against torch.nn on this machine.

What is measured lies in the folder tests/bench of the source checkout, since it needs torch.nn,
which the package itself does without.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import click

import jobs
from jobs.command import job, print_json
from jobs.display.progress import Progress
from n2n.errors import InvalidValue

__all__ = ["main"]

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

PACKAGE = Path(jobs.__file__).resolve().parents[1] / "tests" / "bench"
PARTS = ("step", "inference", "memory", "denoise", "batch", "epoch", "floor", "shapes")
PRECISIONS = ("fp32", "bf16")


def names_option(flag: str, known: tuple[str, ...] = (), **settings: Any) -> Decorator:
    """An option for names with commas between them, which may also be given several times.

    Refused: what is not in `known`, unless that is empty.
    """

    def split(context: Any, option: Any, values: tuple[str, ...]) -> tuple[str, ...]:
        names = dict.fromkeys(name.strip() for value in values for name in value.split(","))
        for name in names:
            if not name or (known and name not in known):
                raise click.BadParameter(
                    f"expected {'names' if not known else ', '.join(known)} with commas between, "
                    f"got {name!r}"
                )
        return tuple(names)

    return click.option(flag, multiple=True, callback=split, metavar="NAMES", **settings)


@job("bench")
@names_option("--networks", help="Architectures.  [default: all; shapes: seed]")
@names_option("--precision", PRECISIONS, help="fp32, bf16.  [default: those that suit]")
@names_option("--parts", PARTS, help=f"{', '.join(PARTS)}.  [default: all]")
@click.option(
    "--rounds", type=click.IntRange(1), help="Turns of three calls a side.  [default: 20]"
)
@click.option(
    "--batch-size", type=click.IntRange(1), help="[default: that of each network's preset]"
)
@click.option("--set", "pairs", type=click.Path(path_type=Path), help="Pair set for the epoch.")
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:INDEX.")
@click.option("--threads", type=int, help="CPU threads.  [default: all cores, at most 16]")
@click.option("--quick", is_flag=True, help="Tiny, without meaning: does it all run?")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def main(parts: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Compare the speed and memory of n2n's layers with torch.nn on this machine.

    Each network and its torch.nn twin take turns in one process: eager, channels_last and
    compiled, in fp32 and under autocast in bf16. NAMES are one or more with commas between
    them. Ratios stand beside what the project promises on two cores; the exit code says nothing
    of them.
    """
    bench = find_bench()
    plan = bench.make_plan(**options)
    results = bench.run(plan, parts or PARTS, Progress(lines="start"))
    if as_json:
        print_json(results)
    else:
        click.echo(bench.render(results))


def find_bench() -> ModuleType:
    """The package tests/bench, imported as `bench`; InvalidValue where it is not."""
    if "bench" not in sys.modules:
        spec = spec_from_file_location("bench", PACKAGE / "__init__.py")
        if spec is None or spec.loader is None or not (PACKAGE / "__init__.py").is_file():
            raise InvalidValue(
                f"n2n bench needs the source checkout, whose torch.nn networks it compares with; "
                f"expected {PACKAGE}, found none; run it in a clone, installed by pip install -e ."
            )
        sys.modules["bench"] = module = module_from_spec(spec)
        spec.loader.exec_module(module)
    return import_module("bench.run")


if __name__ == "__main__":
    main()
