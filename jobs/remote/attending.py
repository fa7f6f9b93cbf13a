"""A run from outside: its output as it comes, how it ended, and what Ctrl-C means for it."""

import sys
import time
from typing import TYPE_CHECKING

import click

from jobs.command import stopping
from jobs.remote.logs import Output, OutputGone, follow
from jobs.remote.tunnel import Unreachable
from n2n.errors import JobFailed

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

    from jobs.remote.connect import Connection

__all__ = ["Detached", "attend", "ending"]

KNOWN_CODES = {  # of n2n's commands, beside 0
    1: "is done but for what is named above",
    2: "could not begin, for the reason above",
    3: "failed; the same command resumes it",
}
SECONDS_UNTIL_SAID = 8.0  # that a job waits
NO_PYTHON = 127


class Detached(JobFailed):
    """We no longer follow the run, which goes on."""


def attend(
    connection: "Connection", run: str, job: "JobDetails", *, tail: int | None = None
) -> "JobDetails":
    """Pass on a job's output until it is over; of what there is now, the last `tail` lines.

    Ctrl-C asks, on a terminal, whether to stop the job; elsewhere, and for SIGTERM and a closed
    terminal, the job goes on. Raises Detached where it does.
    """
    output = Output(job, lambda text: click.echo(text, nl=False))
    if tail is not None:
        output.skip(connection.client.get_job_logs(str(job.submission_id)), tail)
    patience = Patience()
    pick_up = f"pick it up: n2n jobs logs {run} --follow {connection.head.options}"
    while True:
        try:
            with stopping():
                return follow(connection, str(job.submission_id), output, patience.wait)
        except Unreachable as error:
            raise Detached(
                f"{error}; the run {run} goes on if its cluster does; {pick_up}"
            ) from None
        except OutputGone as error:
            raise Detached(f"{error}; {pick_up}") from None
        except KeyboardInterrupt:
            choice = _asked()
            if choice == "detach":
                raise Detached(f"detached; the run {run} goes on; {pick_up}") from None
            if choice == "stop":
                connection.client.stop_job(str(job.submission_id))


def ending(run: str, job: "JobDetails") -> int:
    """The exit code that belongs to a job that is over; on standard error, what is not said yet."""
    status, code, said = str(job.status.value), job.driver_exit_code, job.message or ""
    again = "the same command resumes it"
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        line = f"the run {run} was stopped; {again}"
    elif code in KNOWN_CODES:
        line = f"the run {run} {KNOWN_CODES[code]} (exit code {code})"
    elif "No space left on device" in said:
        line = f"the run {run} failed: a disk of the cluster is full; make space, then {again}"
    elif code == NO_PYTHON:
        line = f"the run {run} failed: no `python` on the node; start Ray in n2n's environment"
    elif code is not None:
        line = f"the run {run} failed: its process ended with exit code {code}; {again}"
    else:
        line = f"the run {run} failed: {_last_line(said)}; {again}"
    click.echo(f"n2n: {line}", err=True)
    return code if status == "FAILED" and code in KNOWN_CODES else 3


class Patience:
    """Says once that a job waits for its turn."""

    def __init__(self) -> None:
        self._said_at: float | None = time.monotonic() + SECONDS_UNTIL_SAID

    def wait(self) -> None:
        if self._said_at is not None and time.monotonic() > self._said_at:
            self._said_at = None
            click.echo("waiting: the cluster has not begun the job", err=True)


def _asked() -> str:
    """stop, detach or go on."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return "detach"
    try:
        return str(
            click.prompt(
                "\nStop the job, detach from it, or go on following?",
                type=click.Choice(["stop", "detach", "go-on"]),
                default="detach",
                err=True,
            )
        )
    except (KeyboardInterrupt, click.Abort):
        return "detach"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "Ray gives no reason"
