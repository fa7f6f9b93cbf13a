"""A command submitted as a run: once, whatever is asked again."""

import os
import shlex
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.remote.attending import attend, ending
from jobs.remote.client import Taken
from jobs.remote.code import Upload, contents, pack
from jobs.remote.looking import require_paths, require_resources
from jobs.remote.paths import Command, Place
from jobs.remote.results import Result, bring
from jobs.remote.runs import Run, derived_id, digest_of, find_runs, metadata_of, submission_id
from n2n.errors import InvalidValue

if TYPE_CHECKING:
    from jobs.remote.connect import Connection

__all__ = ["Request", "submit"]

SECONDS_TO_STOP = "60"  # for a command to save what it has; Ray's default is 3
MODULE = ("python", "-m", "jobs.cli")


@dataclass(frozen=True)
class Request:
    """A command, what goes along with it and comes back, and what its own process gets.

    uploads, downloads: paths as the user writes them. code: this n2n is sent, too. resources: CPU,
    GPU, memory in bytes, of the process that runs the command. Raises InvalidValue for paths that
    the command does not have.
    """

    command: Command
    uploads: tuple[Path, ...] = ()
    downloads: tuple[Path, ...] = ()
    code: bool = True
    resources: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for path in self.uploads:
            self._require_place("--upload", path, written=False)
            if not path.exists():
                raise InvalidValue(f"--upload {path}: a file or folder expected, found none")
        for path in self.downloads:
            self._require_place("--download", path, written=True)
        if self.downloads and (self.resources or self.command.has_address):
            raise click.UsageError(
                "--download brings files of the head: leave out --cpus, --gpus and --memory, and "
                "the command's --address, or write to a shared folder or s3://"
            )

    def places(self, paths: Sequence[Path], *, written: bool) -> list[Place]:
        """Those of the command that are among the paths."""
        named = {os.path.abspath(path) for path in paths}
        return [
            place
            for place in self.command.places
            if place.written == written and not place.is_uri and place.absolute in named
        ]

    def _require_place(self, option: str, path: Path, *, written: bool) -> None:
        if self.places([path], written=written):
            return
        known = [
            place.path
            for place in self.command.places
            if place.written == written and not place.is_uri
        ]
        raise InvalidValue(
            f"{option} {path}: a path that the command {'writes' if written else 'reads'} "
            f"expected; those of {self.command.name}: {', '.join(known) or 'none'}"
        )


def submit(connection: "Connection", request: Request, name: str | None, *, wait: bool) -> int:
    """Run the request, or go on with the run that it has begun; the exit code.

    name: of the run; None: from the command. Raises InvalidValue, before anything is sent, for
    what the cluster cannot do.
    """
    work = Work(connection, request, name)
    run = work.begun()
    if run is None or run.status in ("FAILED", "STOPPED"):
        run = work.begin(run)
    else:
        word = "is complete" if run.status == "SUCCEEDED" else "is there already"
        click.echo(f"the run {run.id} {word}; the same command again: --id NAME", err=True)
    if not wait:
        click.echo(run.id)
        return 0
    code = ending(run.id, attend(connection, run.id, run.last))
    if code in (0, 1):
        for result in work.results:
            bring(connection, result)
    return code


class Work:
    """A request as a run of one cluster: its id, and its words here and there."""

    def __init__(self, connection: "Connection", request: Request, name: str | None) -> None:
        self._connection, self._request = connection, request
        command = request.command
        # What this machine has is meant, wherever the command is called from.
        self._full = {p.index: p.absolute for p in command.places if p.here and not p.is_uri}
        self._uploads = {
            place.index: Upload(Path(place.absolute), f"uploads/{number}/{place.base}")
            for number, place in enumerate(request.places(request.uploads, written=False))
        }
        self._brought = request.places(request.downloads, written=True)
        self._words = command.for_cluster(self._full, join=not self._brought)
        self._digest = digest_of(self._words, contents(list(self._uploads.values())))
        self.id = name or derived_id(command.name, self._digest)
        self.results = [
            Result(self.id, number, Path(place.absolute))
            for number, place in enumerate(self._brought)
        ]

    def begun(self) -> Run | None:
        """The run of this id. InvalidValue if it is of another command."""
        runs = {run.id: run for run in find_runs(self._connection.client)}
        run = runs.get(self.id)
        if run is not None and run.digest != self._digest:
            raise InvalidValue(
                f"--id {self.id}: the id of no other command expected, found that of: "
                f"{' '.join(run.command.split())}; choose another"
            )
        return run

    def begin(self, before: Run | None) -> Run:
        """Submit a job that goes on where those before ended, or follow one that was quicker."""
        command, request = self._request.command, self._request
        brought = {place.index for place in self._brought}
        require_resources(self._connection, request.resources)
        require_paths(
            self._connection,
            [p for p in command.places if p.index not in brought | self._uploads.keys()],
        )
        there = {index: upload.inside for index, upload in self._uploads.items()}
        for place, result in zip(self._brought, self.results, strict=True):
            there[place.index] = result.prepare(self._connection)
        words = command.for_cluster({**self._full, **there}, join=not brought)
        number = len(before.jobs) + 1 if before else 1
        verb = "resuming the run" if before else "run"
        click.echo(f"{verb} {self.id} on {self._connection.head.name}", err=True)
        with suppress(Taken):
            self._submit(submission_id(self.id, number), [*MODULE, *words])
        run = self.begun()
        if run is None:
            raise InvalidValue(
                f"--id {self.id}: an id that the cluster does not have expected, found that of a "
                "job that n2n did not submit; choose another"
            )
        return run

    def _submit(self, job: str, words: list[str]) -> None:
        request = self._request
        runtime: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": SECONDS_TO_STOP}}
        with tempfile.TemporaryDirectory(prefix="n2n-submit-") as folder:
            if request.code or self._uploads:
                package = Path(folder, "n2n.zip")
                pack(package, list(self._uploads.values()), code=request.code)
                runtime["working_dir"] = str(package)
            self._connection.client.submit(
                job,
                shlex.join(words),
                runtime_env=runtime,
                metadata=metadata_of(self.id, self._words, self._digest),
                entrypoint_num_cpus=request.resources.get("CPU"),
                entrypoint_num_gpus=request.resources.get("GPU"),
                entrypoint_memory=int(request.resources.get("memory", 0)) or None,
            )
