"""Where the head of a cluster is: in a launcher's file, or at an address."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from jobs.clusterfile import inspect
from jobs.remote.token import HOME_FILE
from jobs.remote.tunnel import SSH, Unreachable
from n2n.errors import InvalidValue

__all__ = ["Head", "at_address", "located", "of_file"]

PORT = 8265  # of Ray's dashboard, which serves the job API
PORT_GIVEN = re.compile(r"--dashboard-port[= ](\d+)")
LOOPBACK = re.compile(r"localhost$|127\.\d+\.\d+\.\d+$|::1$")
SECONDS_TO_LOOK = 25  # for a head in a cloud
NOT_FOR_A_RUNNING_CLUSTER = ("file_mounts", "rsync", "setup")  # keys that only ray up needs


@dataclass(frozen=True)
class Head:
    """A cluster's head: its name in messages, and either the URL of its job API, or ssh to it.

    config: the launcher's file; empty with an address. options: what the user calls it by, for the
    commands that messages recommend.
    """

    name: str
    options: str
    url: str | None = None
    ssh: SSH | None = None
    port: int = PORT
    file: Path | None = None
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def is_own(self) -> bool:
        """Whether its hosts are there already, and no cloud's."""
        return bool(self.config) and self.config["provider"]["type"] == "local"

    @property
    def in_container(self) -> bool:
        """Whether Ray sees other files than ssh does."""
        return bool(self.config.get("docker"))

    @property
    def token_file(self) -> str | None:
        """The local file that the nodes have as their token."""
        mounts = self.config.get("file_mounts") or {}
        found = mounts.get(HOME_FILE)
        return found if isinstance(found, str) else None

    def may_get(self, asked: dict[str, float]) -> bool:
        """Whether the cloud can start a node with these resources."""
        types = self.config.get("available_node_types") or {}
        return any(
            all((kind.get("resources") or {}).get(name, 0) >= n for name, n in asked.items())
            and kind.get("max_workers", 1) > 0
            for kind in types.values()
        )


def at_address(address: str, *, insecure: bool) -> Head:
    """The cluster whose job API answers at HOST:PORT or URL.

    Raises InvalidValue for an address that cannot be one, and for another machine's without https,
    where the token would travel readable, unless `insecure`.
    """
    url = address if "://" in address else f"http://{address}"
    parts = urlsplit(url)
    try:
        port, host = parts.port, parts.hostname
    except ValueError:
        port, host = None, None
    plain = not (parts.path.strip("/") or parts.query or parts.username)
    if parts.scheme not in ("http", "https") or not host or not plain:
        raise InvalidValue(
            f"--address: HOST:PORT of Ray's dashboard expected (such as localhost:{PORT}), "
            f"found {address!r}; Ray's own address, on port 6379, does not take jobs"
        )
    if port is None and parts.scheme == "http":
        url, port = f"{url.rstrip('/')}:{PORT}", PORT
    if parts.scheme == "http" and not LOOPBACK.match(host) and not insecure:
        raise InvalidValue(
            f"--address: https, or a port of this machine, expected, found {address}, to which "
            f"token and commands would travel readable; forward it: ssh -N -L {PORT}:localhost:"
            f"{port} {host}, then --address localhost:{PORT} (or --insecure in a network of "
            "your own)"
        )
    return Head(address, f"--address {address}", url=url.rstrip("/"))


def of_file(path: Path, *, insecure: bool, whole: bool = False) -> Head:
    """The head of a file of Ray's launcher.

    whole: the file is to start the cluster, so all of it has to be right. Raises InvalidValue with
    the file's first fault; those that let strangers in are passed over if `insecure`.
    """
    config = checked(path, insecure=insecure, whole=whole)
    ports = [PORT_GIVEN.search(line) for line in config.get("head_start_ray_commands") or []]
    port = next((int(found[1]) for found in ports if found), PORT)
    ssh = _own_host(config) if config["provider"]["type"] == "local" else None
    return Head(str(path), f"--cluster {path}", ssh=ssh, port=port, file=path, config=config)


def checked(path: Path, *, insecure: bool, whole: bool) -> dict[str, Any]:
    """The values of a launcher's file."""
    faults = [
        fault
        for fault in inspect(path, kind="launcher").faults
        if not (insecure if fault.insecure else _can_wait(fault.key) and not whole)
    ]
    if faults:
        more = f" (and {len(faults) - 1} more: n2n cluster check {path})" if faults[1:] else ""
        hint = "; or --insecure, if nobody else can reach the cluster" if faults[0].insecure else ""
        raise InvalidValue(f"{faults[0]}{hint}{more}")
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    return config


def _can_wait(key: str) -> bool:
    return key.startswith(NOT_FOR_A_RUNNING_CLUSTER)


def located(head: Head) -> Head:
    """The same with ssh to it, asking the cloud's launcher where it is. Raises Unreachable."""
    if head.ssh or head.url:
        return head
    return replace(head, ssh=_in_cloud(head))


def _own_host(config: dict[str, Any]) -> SSH:
    provider, auth = config["provider"], config["auth"]
    host = provider.get("external_head_ip") or provider["head_ip"]
    keys = provider.get("known_hosts", "new")
    return SSH(host, auth["ssh_user"], auth.get("ssh_private_key"), _proxy(auth), keys)


def _in_cloud(head: Head) -> SSH:
    command = [sys.executable, "-m", "jobs.remote.launcher", str(head.file)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS_TO_LOOK, check=False
        )
        if done.returncode == 0:
            host, auth = json.loads(done.stdout.splitlines()[-1])
            return SSH(host, auth["ssh_user"], auth.get("ssh_private_key"), _proxy(auth), "any")
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        found = lines[-1].strip() if lines else f"exit code {done.returncode}"
    except subprocess.TimeoutExpired:
        found = f"no answer in {SECONDS_TO_LOOK} s"
    raise Unreachable(
        f"{head.name}: a running head expected, found: {found}; start it: ray up -y {head.name}, "
        "or add --up"
    )


def _proxy(auth: dict[str, Any]) -> str | None:
    proxy: str | None = auth.get("ssh_proxy_command")
    return proxy
