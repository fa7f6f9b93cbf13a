"""`n2n report PATH`: one HTML page of what lies there, and its figures for papers."""

from pathlib import Path

import click

from jobs.command import Reads, Writes, job, print_json

__all__ = ["main"]


@job("report")
@click.argument("path", metavar="RUN", type=Writes(path_type=Path))
@click.option(
    "--out", type=Writes(path_type=Path), help="Folder it goes to.  [default: RUN/report]"
)
@click.option("--figures-only", is_flag=True, help="The figures for papers, and no page.")
@click.option("--set", "pairs", type=Reads(path_type=Path), help="The pair set, if it was moved.")
@click.option("--photos", type=Reads(path_type=Path), help="Folder of photographs to denoise.")
@click.option("--peers/--no-peers", default=True, help="Compare with classical denoisers.")
@click.option("--threads", type=int, help="CPU threads.  [default: all cores, at most 16]")
@click.option("--json", "as_json", is_flag=True, help="Print where it is as JSON.")
def main(
    path: Path,
    out: Path | None,
    figures_only: bool,
    pairs: Path | None,
    photos: Path | None,
    peers: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Make the report of the run in RUN: RUN/report/index.html, a page that needs no network.

    Beside it, in figures/, its figures as PNG and SVG. Nothing else of RUN is touched, also while
    it is trained.
    """
    from n2n.device import set_threads
    from n2n.report import Options, report

    options = Options(pairs, photos, peers, set_threads(threads))
    made = report(path, out, options=options, page=not figures_only)
    if as_json:
        print_json({"report": str(made)})
    else:
        click.echo(str(made))


if __name__ == "__main__":
    main()
