"""Ray's launcher as a program: `ray up` and `ray down`."""

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import click

from jobs.remote.connect import connected
from jobs.remote.tunnel import NoSSH, Unreachable
from n2n.errors import JobFailed

if TYPE_CHECKING:
    from jobs.remote.head import Head

__all__ = ["down", "up"]

SECONDS_FOR_DASHBOARD = 60
SECONDS_BETWEEN = 2.0


def up(head: "Head", *, insecure: bool) -> None:
    """Start the cluster, unless its head answers: `ray up` would end what runs there.

    Raises NoSSH for a host of one's own that ssh does not reach: `ray up` would try for minutes.
    """
    try:
        with connected(head, insecure=insecure):
            return
    except NoSSH:
        if head.is_own:
            raise
    except Unreachable:
        pass
    _launch("up", head)
    deadline = time.monotonic() + SECONDS_FOR_DASHBOARD
    while True:
        try:
            with connected(head, insecure=insecure):
                return
        except Unreachable:
            if time.monotonic() > deadline:
                raise
            time.sleep(SECONDS_BETWEEN)


def down(head: "Head") -> None:
    """End the cluster."""
    _launch("down", head)


def _launch(word: str, head: "Head") -> None:
    environment = dict(os.environ)
    if head.is_own:
        environment["RAY_UP_enable_autoscaler_v2"] = "0"  # with the newer one no worker starts
    command = [sys.executable, "-m", "ray.scripts.scripts", word, "-y", str(head.file)]
    click.echo(f"ray {word} -y {head.file}", err=True)
    code = subprocess.run(command, stdout=sys.stderr, env=environment, check=False).returncode
    if code:
        raise JobFailed(f"ray {word} -y {head.file} ended with exit code {code}; see above")
