"""Ray clusters of several nodes on this machine, and what processes they leave."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

HEALTH = {  # a lost machine is missed within seconds
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 4,
}
SECONDS_TO_START = 90
SECONDS_TO_END = 45  # Ray drains a node for 30


class RayCluster:
    """Nodes of one cluster on this machine, with logical CPUs and GPUs; a process group a node."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.nodes: list[subprocess.Popen[bytes]] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"

    def add(self, *, cpus: int, gpus: int = 0) -> subprocess.Popen[bytes]:
        """Start a node, the head first, and wait until it is there."""
        place = ["--address", self.address]
        if not self.nodes:
            place = ["--head", "--port", self.address.partition(":")[2]]
            place += ["--include-dashboard=false", "--system-config", json.dumps(HEALTH)]
            place += ["--temp-dir", str(self._folder)]
        size = ["--num-cpus", str(cpus), "--num-gpus", str(gpus)]
        size += ["--object-store-memory", str(80 * 2**20)]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *place, *size]
        log = self._folder / f"node{len(self.nodes)}.log"
        with log.open("wb") as out:
            node = subprocess.Popen(
                [*command, "--block", "--disable-usage-stats"],
                env={
                    **os.environ,
                    "RAY_AUTH_MODE": "token",
                    "PYTHONPATH": str(Path(__file__).parent),
                },
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.nodes.append(node)
        deadline = time.monotonic() + SECONDS_TO_START
        while "Ray runtime started" not in log.read_text():
            assert node.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        return node

    def lose(self, node: "subprocess.Popen[bytes]") -> None:
        """All of a node's processes at once, as when its machine loses power."""
        for pid in processes_of(node.pid):
            os.kill(pid, signal.SIGKILL)
        node.wait()

    def stop(self) -> None:
        for node in reversed(self.nodes):
            node.terminate()
            node.wait(SECONDS_TO_END)


def processes_of(session: int) -> dict[int, str]:
    """Processes of a session (see setsid), zombies left out: id and command."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, sid = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            command = (folder / "cmdline").read_text().replace("\0", " ").strip()
        except OSError:  # gone meanwhile
            continue
        if int(sid) == session and state != "Z":
            found[int(folder.name)] = command
    return found
