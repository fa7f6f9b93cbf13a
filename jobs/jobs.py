"""`n2n jobs`: the runs of a cluster, from outside."""

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.command import Group, job, print_json
from jobs.remote.options import cluster_options

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from jobs.remote.connect import Connection
    from jobs.remote.runs import Run

__all__ = ["main"]

SECONDS_TO_STOP = 75  # the command has 60 to save
SECONDS_BETWEEN = 0.3
SHOWN = 100  # characters of a command


@click.group("jobs", cls=Group)
def main() -> None:
    """List, follow and stop the runs that `n2n submit` has begun on a cluster."""


def reached(
    cluster: Path | None, address: str | None, insecure: bool
) -> "AbstractContextManager[Connection]":
    from jobs.remote.connect import choose_head, connected

    return connected(choose_head(cluster, address, insecure=insecure), insecure=insecure)


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


@job("list")
@cluster_options
@json_option
def list_(cluster: Path | None, address: str | None, insecure: bool, as_json: bool) -> None:
    """All runs of the cluster, the oldest first."""
    from jobs.remote.runs import find_runs

    with reached(cluster, address, insecure) as connection:
        runs = find_runs(connection.client)
    if as_json:
        print_json([described(run) for run in runs])
        return
    for run in runs:
        click.echo(line_of(run))
    if not runs:
        click.echo("no runs", err=True)


@job("status")
@cluster_options
@json_option
@click.argument("run")
def status(
    cluster: Path | None, address: str | None, insecure: bool, as_json: bool, run: str
) -> None:
    """What the run RUN does, since when, and how it ended."""
    from jobs.remote.runs import find_run

    with reached(cluster, address, insecure) as connection:
        found = find_run(connection.client, run)
    if as_json:
        print_json(described(found))
    else:
        click.echo(line_of(found))


@job("logs")
@cluster_options
@click.option("--follow", is_flag=True, help="Until the run is over; the exit code is then its.")
@click.option("--tail", type=click.IntRange(min=0), metavar="LINES", help="Only so many, the last.")
@click.argument("run")
def logs(
    cluster: Path | None,
    address: str | None,
    insecure: bool,
    follow: bool,
    tail: int | None,
    run: str,
) -> int:
    """Print what the run RUN has printed, errors and results."""
    from jobs.remote.attending import attend, ending
    from jobs.remote.logs import Output
    from jobs.remote.runs import find_run

    with reached(cluster, address, insecure) as connection:
        found = find_run(connection.client, run)
        if follow:
            return ending(run, attend(connection, run, found.last, tail=tail))
        output = Output(found.last, lambda text: click.echo(text, nl=False))
        text = connection.client.get_job_logs(str(found.last.submission_id))
        if tail is None:
            output.take(text)
        else:
            output.skip(text, tail)
        output.close()
    return 0


@job("stop")
@cluster_options
@click.argument("run")
def stop(cluster: Path | None, address: str | None, insecure: bool, run: str) -> int:
    """Stop the run RUN; it saves what it has. `n2n submit` of the same command resumes it."""
    from jobs.remote.runs import find_run
    from n2n.errors import JobFailed

    with reached(cluster, address, insecure) as connection:
        found = find_run(connection.client, run)
        if found.over:
            click.echo(f"the run {run} was over: {found.status.lower()}", err=True)
            return 0
        connection.client.stop_job(str(found.last.submission_id))
        deadline = time.monotonic() + SECONDS_TO_STOP
        while not (found := find_run(connection.client, run)).over:
            if time.monotonic() > deadline:
                raise JobFailed(f"the run {run} is told to stop and has not yet; look again")
            time.sleep(SECONDS_BETWEEN)
    click.echo(f"the run {run} is over: {found.status.lower()}", err=True)
    return 0


def described(run: "Run") -> dict[str, Any]:
    """A run for programs. Times are seconds since 1970."""
    first, last = run.jobs[0], run.last
    return {
        "id": run.id,
        "status": run.status.lower(),
        "exit_code": last.driver_exit_code,
        "command": run.command,
        "begun": first.start_time and first.start_time / 1000,
        "ended": last.end_time and last.end_time / 1000,
        "jobs": [job.submission_id for job in run.jobs],
    }


def line_of(run: "Run") -> str:
    """A run for a reader."""
    about = described(run)
    begun = datetime.fromtimestamp(about["begun"] or 0).strftime("%Y-%m-%d %H:%M:%S")
    seconds = (about["ended"] or time.time()) - (about["begun"] or 0)
    code = "" if about["exit_code"] is None else f" ({about['exit_code']})"
    command = " ".join(run.command.split())
    command = command if len(command) <= SHOWN else f"{command[: SHOWN - 1]}…"
    return f"{run.id}  {about['status']}{code}  {begun}  {seconds:.0f} s  {command}"


for command in (list_, status, logs, stop):
    main.add_command(command)


if __name__ == "__main__":
    main()
