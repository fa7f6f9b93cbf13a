"""A cluster that is reached: its head, a tunnel where one is needed, a client with its token."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.remote.head import Head, at_address, located, of_file
from jobs.remote.token import find_token
from jobs.remote.tunnel import SECONDS_TO_CONNECT, Tunnel, Unreachable
from n2n.errors import InvalidValue

if TYPE_CHECKING:
    from jobs.remote.client import Client

__all__ = ["Connection", "choose_head", "connected"]

SECONDS_TO_COME_BACK = 15
SECONDS_BETWEEN = 1.0


@dataclass
class Connection:
    """A cluster that has answered."""

    head: Head
    client: "Client"
    tunnel: Tunnel | None

    def restore(self) -> None:
        """Reach it again after the connection broke. Raises Unreachable after some seconds."""
        deadline = time.monotonic() + SECONDS_TO_COME_BACK
        while True:
            try:
                if self.tunnel and not self.tunnel.alive:
                    self.tunnel.open()
                self.client.get_version()
            except Unreachable:
                if time.monotonic() + SECONDS_TO_CONNECT > deadline:
                    raise
                time.sleep(SECONDS_BETWEEN)
            else:
                return


def choose_head(
    cluster: Path | None, address: str | None, *, insecure: bool, whole: bool = False
) -> Head:
    """The head that `--cluster` or `--address` names."""
    if (cluster is None) == (address is None):
        raise click.UsageError("expected one of --cluster YAML and --address HOST:PORT")
    if cluster is not None:
        return of_file(cluster, insecure=insecure, whole=whole)
    assert address is not None
    return at_address(address, insecure=insecure)


@contextmanager
def connected(head: Head, *, insecure: bool) -> Iterator[Connection]:
    """Reach the cluster, and leave it with the block.

    Raises Unreachable, and InvalidValue for no or a wrong token.
    """
    head = located(head)
    tunnel = Tunnel(head.ssh, head.port) if head.ssh else None
    try:
        if tunnel:
            tunnel.open()
        yield Connection(head, _client(head, tunnel, insecure=insecure), tunnel)
    finally:
        if tunnel:
            tunnel.close()


def _client(head: Head, tunnel: Tunnel | None, *, insecure: bool) -> "Client":
    from jobs.remote.client import ASK_FOR_TOKEN, Client, require_token

    url = head.url or (tunnel.url if tunnel else "")
    token = None
    if require_token(url, head.name, insecure=insecure):
        token = find_token(head.token_file)
        if token is None:
            raise InvalidValue(
                f"{head.name}: the cluster's token expected, found none; {ASK_FOR_TOKEN}"
            )
    return Client(url, head.name, token)
