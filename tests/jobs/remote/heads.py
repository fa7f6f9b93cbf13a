"""The head of a Ray cluster that takes jobs, an sshd before it, and what is no dashboard of Ray."""

import getpass
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SSHD = "/usr/sbin/sshd"
SECONDS_TO_START = 90
SECONDS_TO_END = 45

# Stands where the nodes look for `python`: notes the arguments that arrive, and is Python.
SHIM = """#!{python} -SE
import json, os, sys
with open({file!r}, "a") as noted:
    noted.write(json.dumps(sys.argv[1:]) + "\\n")
os.execv({python!r}, [{python!r}, *sys.argv[1:]])
"""

LAUNCHER = """
cluster_name: tests
provider:
  type: local
  head_ip: 127.0.0.1
  worker_ips: []
  known_hosts: {folder}/known_hosts
max_workers: 0
auth:
  ssh_user: {user}
  ssh_private_key: {folder}/key
  ssh_proxy_command: nc 127.0.0.1 {ssh}
head_start_ray_commands:
  - ray stop
  - RAY_AUTH_MODE=token ray start --head --dashboard-host=127.0.0.1 --dashboard-port={dashboard}
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Head:
    """Ray with two logical CPUs and no GPU, on loopback, with a token and a user's home."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.token = folder, secrets.token_hex(32)
        self.noted = folder / "arguments"
        self.home = folder / "home"
        (self.home / ".ray").mkdir(parents=True)
        token = self.home / ".ray/auth_token"
        token.write_text(self.token)
        token.chmod(0o600)
        shim = folder / "bin/python"
        shim.parent.mkdir()
        shim.write_text(SHIM.format(python=sys.executable, file=str(self.noted)))
        shim.chmod(0o755)
        gcs, self.port, agent, client = free_ports(4)
        place = {
            "port": gcs,
            "dashboard-port": self.port,
            "dashboard-host": "127.0.0.1",
            "dashboard-agent-listen-port": agent,
            "ray-client-server-port": client,
            "temp-dir": folder / "ray",
            "num-cpus": 2,
            "num-gpus": 0,
            "object-store-memory": 80 * 2**20,
        }
        options = [word for name, value in place.items() for word in (f"--{name}", str(value))]
        options += ["--block", "--disable-usage-stats"]
        self._log = folder / "head.log"
        with self._log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", *options],
                env=self.environment(
                    PATH=f"{shim.parent}{os.pathsep}{os.environ['PATH']}", RAY_AUTH_MODE="token"
                ),
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._wait()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def environment(self, **more: str) -> dict[str, str]:
        """Of the user, without anything that says which Ray."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        return {**kept, "HOME": str(self.home), **more}

    def n2n(self, *arguments: str, seconds: float = 180, **environment: str) -> Any:
        """A command of the user's, its output captured."""
        return subprocess.run(
            [sys.executable, "-m", "jobs.cli", *arguments],
            env=self.environment(**environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def arrived(self) -> list[list[str]]:
        """Arguments of each Python that a job has started, as they came."""
        return [json.loads(line) for line in self.noted.read_text().splitlines()]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(SECONDS_TO_END)

    def _wait(self) -> None:
        deadline = time.monotonic() + SECONDS_TO_START
        while "Ray runtime started" not in self._log.read_text():
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.05)


def why_no_sshd() -> str | None:
    missing = [tool for tool in (SSHD, "ssh", "ssh-keygen", "nc") if not shutil.which(tool)]
    return f"needs {', '.join(missing)}: apt-get install openssh-server" if missing else None


class Sshd:
    """An sshd on loopback that lets one key in, and a launcher's file that leads to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("key", "host_key", "wrong_key"):
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", folder / name]
            subprocess.run(make, check=True)
        [self.port] = free_ports(1)
        host_key = (folder / "host_key.pub").read_text()
        (folder / "known_hosts").write_text(f"127.0.0.1 {host_key}")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        settings = {
            "ListenAddress": f"127.0.0.1:{self.port}",
            "HostKey": folder / "host_key",
            "AuthorizedKeysFile": folder / "key.pub",
            "PasswordAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
        }
        config = folder / "sshd_config"
        config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        self.process = subprocess.Popen([SSHD, "-D", "-f", config, "-E", folder / "sshd.log"])
        deadline = time.monotonic() + SECONDS_TO_START
        while subprocess.run(["nc", "-z", "127.0.0.1", str(self.port)], check=False).returncode:
            assert time.monotonic() < deadline, (folder / "sshd.log").read_text()
            time.sleep(0.05)

    def cluster(self, folder: Path, dashboard: int, **changes: str) -> Path:
        """A launcher's file, in which some texts are others."""
        text = LAUNCHER.format(
            folder=self.folder, user=getpass.getuser(), ssh=self.port, dashboard=dashboard
        )
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        file = folder / "cluster.yaml"
        file.write_text(text)
        return file

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


@contextmanager
def dashboard(
    answers: dict[str, tuple[int, Any]], token: str | None = None, slow: float = 0
) -> Iterator[str]:
    """The address of something that answers as Ray's dashboard may. answers: by "GET /path"."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(slow)
            given = self.headers.get("Authorization")
            status, body = answers.get(f"{self.command} {self.path.partition('?')[0]}", (404, "no"))
            if token is not None and given != f"Bearer {token}":
                status, body = (403 if given else 401), "Unauthorized"
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_PUT = do_POST = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *request: object) -> None:
            """Of a client that has gone: it is not to be printed into another test's output."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
