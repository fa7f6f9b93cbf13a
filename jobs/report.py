"""`n2n report PATH`: one HTML page of what lies there, and its figures for papers."""

from pathlib import Path

import click

from jobs.command import Reads, Writes, job, print_json

__all__ = ["main"]


@job("report")
@click.argument("path", metavar="PATH", type=Writes(path_type=Path))
@click.option(
    "--out", type=Writes(path_type=Path), help="Folder it goes to.  [default: PATH/report]"
)
@click.option("--figures-only", is_flag=True, help="The figures for papers, and no page.")
@click.option("--set", "pairs", type=Reads(path_type=Path), help="The pair set, if it was moved.")
@click.option(
    "--photos",
    type=Reads(path_type=Path),
    help="Photographs to denoise.  [default: data/photos, if there]",
)
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
    """Make the report of what lies in PATH: a run, a sweep, or a folder that n2n denoise filled.

    PATH/report/index.html is one page that needs no network, to be opened or mailed; of a run,
    figures/ beside it has the figures as PNG and SVG. Nothing else of PATH is touched, also while
    it is worked on. --set, --photos and --peers are for runs.
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
