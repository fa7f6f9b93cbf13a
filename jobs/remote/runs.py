"""Run ids: a run is a job of the cluster, or several, of which each goes on where one ended.

Ray takes a submission id once. The first job of the run NAME has the id NAME, the next NAME~2 and
so on, and whoever submits a job of an id that is there already is refused by Ray: a run never has
two jobs at a time. The jobs' metadata say which run they belong to, and a digest of its arguments.
"""

import re
import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from n2n.errors import InvalidValue

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

    from jobs.remote.client import Client

__all__ = ["Run", "derived_id", "digest_of", "find_run", "find_runs", "require_id"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NEXT = "~"
RUN, ARGUMENTS, COMMAND = "n2n_run", "n2n_arguments", "n2n_command"  # keys of metadata
OVER = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True)
class Run:
    """A run on a cluster: its id and its jobs, the last of which is what it does now."""

    id: str
    jobs: tuple["JobDetails", ...]

    @property
    def last(self) -> "JobDetails":
        return self.jobs[-1]

    @property
    def status(self) -> str:
        """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
        return str(self.last.status.value)

    @property
    def over(self) -> bool:
        return self.status in OVER

    @property
    def command(self) -> str:
        return str((self.last.metadata or {}).get(COMMAND, self.last.entrypoint))

    @property
    def digest(self) -> str | None:
        return (self.last.metadata or {}).get(ARGUMENTS)


def metadata_of(run: str, words: Sequence[str], digest: str) -> dict[str, str]:
    """What a job tells of its run."""
    return {RUN: run, ARGUMENTS: digest, COMMAND: shlex.join(words)}


def submission_id(run: str, number: int) -> str:
    """Of the run's job of that number, from 1."""
    return run if number == 1 else f"{run}{NEXT}{number}"


def digest_of(words: Sequence[str], *more: str) -> str:
    """Of arguments, and of what they stand for."""
    return sha256("\0".join([str(len(words)), *words, *more]).encode()).hexdigest()


def derived_id(name: str, digest: str) -> str:
    """The run id of a command for which nobody has chosen one."""
    return f"{name.replace(' ', '-')}-{digest[:10]}"


def require_id(text: str) -> str:
    if not NAME.fullmatch(text):
        raise InvalidValue(
            "--id: 1 to 100 of letters, digits, dots, - and _ expected, a letter or digit first, "
            f"found {text!r}"
        )
    return text


def find_runs(client: "Client") -> list[Run]:
    """All runs of the cluster, the oldest first."""
    found: dict[str, list[JobDetails]] = defaultdict(list)
    for job in client.jobs():
        name = (job.metadata or {}).get(RUN)
        if name is not None:
            found[name].append(job)
    runs = [Run(name, tuple(sorted(jobs, key=_number))) for name, jobs in found.items()]
    return sorted(runs, key=lambda run: run.jobs[0].start_time or 0)


def find_run(client: "Client", name: str) -> Run:
    """The run of an id. Raises InvalidValue if the cluster has none."""
    runs = {run.id: run for run in find_runs(client)}
    if name not in runs:
        known = ", ".join(list(runs)[-5:]) or "none"
        raise InvalidValue(
            f"{name}: the id of a run on {client.name} expected, found no such run; the last "
            f"ones: {known}"
        )
    return runs[name]


def _number(job: "JobDetails") -> int:
    _, _, number = str(job.submission_id).partition(NEXT)
    return int(number or 1)
