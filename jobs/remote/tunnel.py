"""ssh to the head of a cluster: a forwarded port, and questions asked there.

Options are those of Ray's launcher, but that a changed host key is refused on hosts of one's own.
Nothing is asked of the user, no password nor host key. ssh runs a waiting program there, and ends
when our end of its input closes: also when this process is killed.
"""

import os
import select
import shlex
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import IO

from jobs.remote.token import VARIABLES
from n2n.errors import InvalidValue, N2NError

__all__ = ["SSH", "NoSSH", "Tunnel", "Unreachable", "environment"]

SECONDS_TO_CONNECT = 10
SECONDS_TO_ANSWER = 20
READY = "n2n-is-there"
WAIT = f"echo {READY}; exec cat"  # until our end closes
TRIES = 3  # the local port may be taken between its choice and its use
PROBE = 'for p do if test -e "$p"; then echo n2n 1; else echo n2n 0; fi; done'

PROBLEMS = {  # OpenSSH's words for them: what to do
    "permission denied": "check ssh_user and ssh_private_key in the cluster file",
    "host key verification failed": "if the host was set up anew: ssh-keygen -R {host}",
    "remote host identification has changed": "if the host was set up anew: ssh-keygen -R {host}",
    "could not resolve": "correct the host's name in the cluster file",
    "name or service not known": "correct the host's name in the cluster file",
    "connection refused": "start sshd there, or correct the host's name",
    "timed out": "check the network and that the host is up",
    "no route to host": "check the network and that the host is up",
    "address already in use": "try again",
}


class Unreachable(N2NError):
    """The cluster does not answer: nothing was done, and what runs there goes on."""

    exit_code = 2


class NoSSH(Unreachable):
    """Not even ssh gets there."""


@dataclass(frozen=True)
class SSH:
    """How to reach a host as the cluster file says.

    host_keys: a file of known host keys, all others are refused; "new": keys of unknown hosts are
    remembered in the user's own file; "any": none is looked at, as Ray does.
    """

    host: str
    user: str
    key: str | None = None
    proxy: str | None = None
    host_keys: str = "new"

    def command(self, program: str, *options: str) -> list[str]:
        """The arguments of ssh that runs a program, text for the shell of the host."""
        return ["ssh", *options, *self.options(), "-l", self.user, "--", self.host, program]

    def options(self) -> list[str]:
        settings = {
            "BatchMode": "yes",
            "ConnectTimeout": str(SECONDS_TO_CONNECT),
            "ExitOnForwardFailure": "yes",
            "LogLevel": "ERROR",
            "ServerAliveInterval": "4",
            "ServerAliveCountMax": "3",
            **self._host_keys(),
        }
        if self.key:
            settings["IdentitiesOnly"] = "yes"
        if self.proxy:
            settings["ProxyCommand"] = self.proxy
        words = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        return [*words, *(["-i", os.path.expanduser(self.key)] if self.key else [])]

    def _host_keys(self) -> dict[str, str]:
        if self.host_keys == "new":
            return {"StrictHostKeyChecking": "accept-new"}
        if self.host_keys == "any":
            return {"StrictHostKeyChecking": "no", "UserKnownHostsFile": os.devnull}
        file = os.path.expanduser(self.host_keys)
        return {"StrictHostKeyChecking": "yes", "UserKnownHostsFile": file}

    def which_exist(self, paths: list[str]) -> list[bool]:
        """Whether there is something at each path on the host. Raises NoSSH."""
        said = self.ask(shlex.join(["sh", "-c", PROBE, "sh", *paths]))
        found = [line for line in said.splitlines() if line in ("n2n 0", "n2n 1")]
        if len(found) != len(paths):
            raise self.unreachable(said)
        return [line.endswith("1") for line in found]

    def ask(self, program: str) -> str:
        """What a program prints on the host. Raises NoSSH."""
        try:
            done = subprocess.run(
                self.command(program, "-T"),
                env=environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=SECONDS_TO_ANSWER,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise self.unreachable(f"no answer in {SECONDS_TO_ANSWER} s") from None
        if done.returncode:
            raise self.unreachable(done.stderr)
        return done.stdout

    def unreachable(self, said: str) -> NoSSH:
        """What ssh says, on one line, and what to do about it."""
        lines = [line.strip() for line in said.splitlines() if line.strip(" @\t\r")]
        text = " ".join(lines).lower()
        remedy = next((then for part, then in PROBLEMS.items() if part in text), None)
        remedy = (remedy or "try: ssh {user}@{host}").format(user=self.user, host=self.host)
        found = lines[-1].rstrip(".") if lines else "the connection ended"
        return NoSSH(f"{self.host}: an answer by ssh expected, found: {found}; {remedy}")


class Tunnel:
    """A port of this machine's loopback that leads to one of the head's loopback."""

    def __init__(self, ssh: SSH, port: int) -> None:
        self.ssh, self.port = ssh, port
        self.local = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.local}"

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def open(self) -> None:
        """Connect, or connect again on the same port. Raises NoSSH."""
        for attempt in range(TRIES):
            self.close()
            try:
                return self._open(self.local or free_port())
            except NoSSH as error:
                if "in use" not in str(error) or attempt == TRIES - 1:
                    raise
                self.local = 0

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout, self._said):
                if stream is not None:
                    stream.close()
            self._process = None

    def _open(self, local: int) -> None:
        forward = f"127.0.0.1:{local}:127.0.0.1:{self.port}"
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        try:
            self._process = subprocess.Popen(
                self.ssh.command(WAIT, "-T", "-L", forward),
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                start_new_session=True,  # Ctrl-C is ours to answer
            )
        except FileNotFoundError:
            raise InvalidValue(
                "the program ssh expected, found none; install OpenSSH's client"
            ) from None
        if not self._is_ready():
            self._said.seek(0)
            said = self._said.read().decode("utf-8", "replace")
            self.close()
            raise self.ssh.unreachable(said or f"no answer in {SECONDS_TO_ANSWER} s")
        self.local = local

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.stdout is not None
        said, pipe = b"", self._process.stdout.fileno()
        deadline = time.monotonic() + SECONDS_TO_ANSWER
        while READY.encode() not in said.split():
            readable, _, _ = select.select([pipe], [], [], max(0, deadline - time.monotonic()))
            more = os.read(pipe, 4096) if readable else b""
            if not more:
                return False
            said += more
        return True


def environment() -> dict[str, str]:
    """For ssh: without the token, which an option of the user's might send along."""
    return {name: value for name, value in os.environ.items() if name not in VARIABLES}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
