"""Results that are fetched from the head by ssh."""

import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING

from jobs.remote.tunnel import environment
from n2n.errors import JobFailed

if TYPE_CHECKING:
    from jobs.remote.connect import Connection

__all__ = ["Result", "bring"]

FOLDER = "n2n-results"  # in the home of ssh's user
MAKE = 'mkdir -p -- "$HOME/$1" && echo "n2n $HOME/$1"'


@dataclass(frozen=True)
class Result:
    """What a run writes on the head, and where it belongs on this machine."""

    run: str
    number: int  # among the results of the run
    here: Path

    @property
    def folder(self) -> str:
        """That it lies in, from the home."""
        return f"{FOLDER}/{self.run}/{self.number}"

    def prepare(self, connection: "Connection") -> str:
        """Make the folder on the head; the path of the result there."""
        assert connection.head.ssh is not None
        said = connection.head.ssh.ask(join(["sh", "-c", MAKE, "sh", self.folder]))
        lines = [line for line in said.splitlines() if line.startswith("n2n ")]
        if not lines:
            raise JobFailed(f"{connection.head.name}: no folder could be made for results")
        return f"{lines[-1].removeprefix('n2n ')}/{self.here.name}"


def bring(connection: "Connection", result: Result) -> None:
    """Copy a result from the head to its place here."""
    ssh = connection.head.ssh
    assert ssh is not None
    program = join(["tar", "-C", result.folder, "-cf", "-", "--", result.here.name])
    result.here.parent.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(
        ssh.command(program, "-T"),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                archive.extractall(result.here.parent, filter="data")
        except tarfile.TarError as error:
            process.kill()
            raise JobFailed(
                f"{result.here}: the result did not come whole: {error}; {AGAIN}"
            ) from None
        assert process.stderr is not None
        said = process.stderr.read().decode("utf-8", "replace")
    if process.returncode:
        raise JobFailed(
            f"{result.here}: the result did not come: {' '.join(said.split())}; {AGAIN}"
        )


AGAIN = "run the same command again"
