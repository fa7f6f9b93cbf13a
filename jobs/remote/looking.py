"""Whether the cluster has the paths that a command needs, and what was asked of its nodes."""

import secrets
import shlex
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from jobs.remote.paths import Place
from jobs.remote.runs import OVER
from n2n.errors import InvalidValue, JobFailed

if TYPE_CHECKING:
    from jobs.remote.connect import Connection

__all__ = ["require_paths", "require_resources"]

LOOK = "import os, sys; print('n2n', *(int(os.path.exists(path)) for path in sys.argv[1:]))"
SECONDS_TO_LOOK = 25
SECONDS_BETWEEN = 0.2
GIB = 2**30


def require_paths(connection: "Connection", places: Sequence[Place]) -> None:
    """InvalidValue for a path that this machine has and the cluster has not."""
    asked = {place.here: place for place in places if not place.is_uri and place.here}
    if not asked:
        return
    paths = [str(path) for path in asked]
    ssh = connection.head.ssh
    if ssh and not connection.head.in_container:
        there = ssh.which_exist(paths)
    else:
        there = _ask_by_job(connection, paths)
    missing = [place for place, found in zip(asked.values(), there, strict=True) if not found]
    if missing:
        raise InvalidValue(_only_here(connection.head.name, missing))


def require_resources(connection: "Connection", asked: dict[str, float]) -> None:
    """InvalidValue for what no node has and no cloud can bring. Ray would wait for ever."""
    nodes = connection.client.resources()
    if not asked or any(all(node.get(k, 0) >= n for k, n in asked.items()) for node in nodes):
        return
    if connection.head.may_get(asked):
        return
    raise InvalidValue(
        f"{connection.head.name}: a node with {_described(asked, asked)} expected, found "
        f"{' and '.join(sorted({_described(node, asked) for node in nodes})) or 'no node'}; ask "
        "for less, or start a node that has it"
    )


def _only_here(cluster: str, places: list[Place]) -> str:
    options = [
        f"--{'download' if place.written else 'upload'} {shlex.quote(place.path)}"
        for place in places
    ]
    return (
        f"paths that {cluster} has, too, expected, found on this machine alone: "
        f"{', '.join(place.path for place in places)}; use a shared folder or s3://, or, for small "
        f"inputs and for results: {' '.join(options)}"
    )


def _ask_by_job(connection: "Connection", paths: list[str]) -> list[bool]:
    """Where there is no ssh to ask: a job of a second or two."""
    client = connection.client
    name = f"n2n-look-{secrets.token_hex(6)}"
    client.submit(name, shlex.join(["python", "-c", LOOK, *paths]))
    deadline = time.monotonic() + SECONDS_TO_LOOK
    while (status := client.get_job_status(name).value) not in OVER:
        if time.monotonic() > deadline:
            client.stop_job(name)
            raise JobFailed(
                f"{client.name}: a small job to run expected, found it {status.lower()} after "
                f"{SECONDS_TO_LOOK} s; see what the cluster does: ray status"
            )
        time.sleep(SECONDS_BETWEEN)
    lines = client.get_job_logs(name).splitlines()
    client.delete_job(name)
    found = next((line.split()[1:] for line in reversed(lines) if line.startswith("n2n ")), [])
    if len(found) != len(paths):
        said = lines[-1] if lines else status
        raise JobFailed(
            f"{client.name}: a program `python` on the nodes expected, found: {said}; "
            "start Ray where `python` is that of n2n's environment"
        )
    return [number == "1" for number in found]


def _described(resources: dict[str, float], kinds: Iterable[str]) -> str:
    """How much of each kind: CPU, GPU, memory."""
    parts = []
    for kind in kinds:
        amount = resources.get(kind, 0)
        parts.append(f"{amount / GIB:.1f} GiB" if kind == "memory" else f"{amount:g} {kind}")
    return ", ".join(parts)
