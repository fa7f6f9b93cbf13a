"""Reports: one HTML page of a run, a sweep or a denoised folder, and its figures for papers.

    n2n.report.report(Path("runs/mine"))       → runs/mine/report/index.html, and figures beside it

What a report is made from is only read. A kind of report is a module with `make(path, options)`,
which gives a `Report`; `KINDS` says which module, and what it is known by.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from n2n.errors import InvalidValue

if TYPE_CHECKING:
    from n2n.report.figures import Figure
    from n2n.report.page import Page

__all__ = ["Options", "Report", "kind_of", "report"]

# kind: (module that makes it, a file that is there)
KINDS = {
    "run": ("n2n.report.run", "config.yaml"),
    "sweep": ("n2n.report.sweep", "sweep.yaml"),
    "denoised folder": ("n2n.report.batch", "n2n-manifest.jsonl"),
}


REFRESH = 10  # seconds


@dataclass(frozen=True)
class Options:
    """What a report shows beside what lies in its folder.

    pairs: the pair set, where it no longer lies where it was; photos: a folder of photographs to
    be denoised; peers: compare with classical denoisers, where scikit-image is installed.
    threads: of the processor. quick: leave out what takes long. live: the work still goes on, so
    the page loads itself anew. folder: where the page goes.
    """

    pairs: Path | None = None
    photos: Path | None = None
    peers: bool = True
    threads: int = 1
    quick: bool = False
    live: bool = False
    folder: Path | None = None


@dataclass(frozen=True)
class Report:
    """A page, and the figures for papers, which are drawn when they are written.

    retired: names of figures that are not among these, but may be left of an earlier report.
    """

    page: "Page"
    figures: Sequence["Figure"] = ()
    retired: Sequence[str] = ()


def kind_of(path: Path) -> str:
    """What lies at a path, of KINDS. InvalidValue for anything else."""
    for kind, (_, mark) in KINDS.items():
        if (path / mark).is_file():
            return kind
    found = "there is nothing"
    if path.exists():
        found = "found another folder" if path.is_dir() else "found a file"
    raise InvalidValue(f"{path}: expected the directory of {_either(list(KINDS))}; {found}")


def report(
    path: Path,
    out: Path | None = None,
    *,
    options: Options | None = None,
    page: bool = True,
) -> Path:
    """Write the report of what lies at `path`, and return its page, or the folder of its figures.

    out: the folder it goes to, `path`/report by default. page: False for the figures alone. Each
    file is replaced only when the new one is complete, the page last. InvalidValue for a path
    that holds none of KINDS.
    """
    module, _ = KINDS[kind_of(path)]
    folder = path / "report" if out is None else out
    options = replace(options or Options(), folder=folder)
    if not page:
        options = replace(options, peers=False)  # of no figure
    made: Report = import_module(module).make(path, options)
    for figure in made.figures:
        figure.write(folder / "figures")
    for name in made.retired:
        for kind in ("png", "svg"):
            (folder / "figures" / f"{name}.{kind}").unlink(missing_ok=True)
    if not page:
        return folder / "figures"
    page_made = replace(made.page, refresh=REFRESH) if options.live else made.page
    page_made.write(folder / "index.html")
    return folder / "index.html"


def _either(kinds: list[str]) -> str:
    return " or ".join(f"a {kind}" for kind in kinds)
