"""`n2n cluster`: what a cluster file says, and whether it will work."""

from dataclasses import asdict

import click

from jobs.command import Group, job, print_json

__all__ = ["main"]


@click.group("cluster", cls=Group)
def main() -> None:
    """Look at cluster files before Ray or Kubernetes does."""


@job("check")
@click.argument("files", metavar="YAML...", nargs=-1, required=True)
@click.option(
    "--kind",
    type=click.Choice(["launcher", "kuberay"]),
    help="What the files are to be: for ray up, or for kubectl apply.  [default: either]",
)
@click.option("--reach", is_flag=True, help="Also connect to the ssh port of each host.")
@click.option("--json", "as_json", is_flag=True, help="Print all findings as JSON.")
def check(files: tuple[str, ...], kind: str | None, reach: bool, as_json: bool) -> int:
    """Check files of Ray's launcher or of KubeRay, offline and without starting anything.

    Each fault is one line: FILE:LINE: KEY, what was expected, what was found, what to write. Local
    paths that a file names are looked for from this folder, as ray up does. Exit code 2 if there
    is a fault in any file.
    """
    from jobs.clusterfile import inspect

    reports = [inspect(file, kind=kind, try_hosts=reach) for file in files]  # type: ignore[arg-type]  # click has chosen
    for report in reports:
        for fault in report.faults:
            click.echo(str(fault), err=True)
        if not as_json and not report.faults:
            click.echo(f"{report.file}: {report.summary}")
            for note in report.notes:
                click.echo(f"  note: {note}")
    if as_json:
        print_json([asdict(report) for report in reports])
    return 2 if any(report.faults for report in reports) else 0


main.add_command(check)


if __name__ == "__main__":
    main()
