"""Hosts on one machine: each with its own network, processes, home, temporary folder and sshd.

A laptop, on which `ray up` is called, and the hosts of the cluster hang on one bridge; nothing of
it is seen outside. All are Linux namespaces that end with the process that made them, also when it
is killed. `ray stop` and `ray down` see the processes of their own host alone.

What differs from real hosts: one kernel, one disk and one processor for all; `python3` and its
packages are this machine's own, and ~/n2n-venv is there already, a writable layer over the
environment that runs the tests, so that no package has to be installed but n2n. Each host has a
umask of its own, so that a file shows who has written it.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TOOLS = (
    "ip", "unshare", "nsenter", "setpriv", "nc", "rsync", "ssh", "ssh-keygen", "/usr/sbin/sshd"
)  # fmt: skip
NETWORK = "10.213.0"
LAPTOP = "laptop"
UMASKS = {LAPTOP: 0o022, "head": 0o022, "worker": 0o027}  # of all hosts
CPUS = 2  # of each host, in Ray's books
SECONDS_TO_START = 60
SECONDS_FOR_RAY = 240  # to start, on a busy machine; its default is 30

# Of a host, as its first process, with its folder, its name, a folder that it has not (or "") and
# what must stay visible.
SETUP = r"""
set -euo pipefail
folder=$1 name=$2 without=$3; shift 3

private() {  # private PLACE FOLDER: PLACE shows FOLDER, and in it still what must stay visible
    local place=$1 new=$2 keep; shift 2
    mkdir -p "$new"
    for keep in "$@"; do
        case $keep in "$place"/*)
            mkdir -p "$new/${keep#"$place"/}"
            mount --rbind "$keep" "$new/${keep#"$place"/}"
        esac
    done
    mount --rbind "$new" "$place"
}

layer() {  # layer PLACE: what is written there stays on this host
    mkdir "$folder/layer"
    mount -t tmpfs layer "$folder/layer"
    mkdir "$folder/layer/new" "$folder/layer/work"
    mount -t overlay layer "$1" \
        -o "lowerdir=$1,upperdir=$folder/layer/new,workdir=$folder/layer/work"
}

hostname "$name"
layer "$1"
[ -z "$without" ] || private "$without" "$folder/without" "$@"
mount --bind "$folder/../shared" /mnt
mount --bind "$folder/../hosts" /etc/hosts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mkdir /run/sshd
home=$(getent passwd 0 | cut -d: -f6)
private /tmp "$folder/tmp" "$@"
private "$home" "$folder/home" "$@"
chmod 1777 /tmp; chmod 700 "$home"
ln -s "$1" "$home/n2n-venv"
echo ready
read -r  # until the network is there
ip link set lo up
trap 'exit 0' TERM
/usr/sbin/sshd -D -f "$folder/../sshd_config" -E "$folder/sshd.log" &
while true; do wait || true; done
"""

# What SETUP needs of the kernel.
PROBE = r"""
set -e
mount -t tmpfs probe /mnt
mkdir /mnt/new /mnt/work
mount -t overlay probe "$1" -o "lowerdir=$1,upperdir=/mnt/new,workdir=/mnt/work"
ip link add probe type bridge
"""


@cache
def why_not() -> str | None:
    """What is missing here for hosts."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts in namespaces need root on Linux"
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        return (
            f"hosts in namespaces need {', '.join(missing)}: apt-get install openssh-server "
            "rsync iproute2 netcat-openbsd"
        )
    apart = ["unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--fork"]
    tried = subprocess.run(
        [*apart, "bash", "-c", PROBE, "probe", sys.prefix],
        capture_output=True,
        text=True,
        check=False,
    )
    return None if tried.returncode == 0 else f"no namespaces here: {tried.stderr.strip()}"


class Host:
    """A machine of its own as far as its processes can tell."""

    def __init__(self, folder: Path, name: str, address: str) -> None:
        self.name, self.address, self.folder = name, address, folder
        folder.mkdir()
        keep, without = [sys.prefix, sys.base_prefix, str(folder.parent)], ""
        if name == LAPTOP:
            keep.append(str(ROOT))
        else:  # the code is there only if it is sent
            without = str(ROOT)
        apart = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--pid", "--mount", "--uts"]
        apart += ["--ipc", "--fork", "--kill-child", "--mount-proc"]
        self._outer = subprocess.Popen(
            [*apart, "bash", "-c", SETUP, "host", str(folder), name, without, *keep],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._outer.stdout is not None
        if self._outer.stdout.readline() != "ready\n":
            raise RuntimeError(f"{name}: {self._outer.communicate()[1]}")
        (folder / "home" / ".bashrc").write_text(
            f"umask {UMASKS[name]:03o}\n"
            f"export RAY_OVERRIDE_RESOURCES='{{\"CPU\": {CPUS}}}'\n"
            f"export RAY_raylet_start_wait_time_s={SECONDS_FOR_RAY}\n"
        )
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children")
        self.pid = int(children.read_text().split()[0])

    def connect(self) -> None:
        """The network is there: let sshd begin."""
        assert self._outer.stdin is not None
        self._outer.stdin.write("\n")
        self._outer.stdin.flush()

    def command(self, *arguments: str, folder: Path | None = None) -> list[str]:
        """To run a program in this host."""
        inside = ["nsenter", "--target", str(self.pid)]
        inside += ["--mount", "--uts", "--ipc", "--net", "--pid"]
        return [*inside, "bash", "-c", 'cd "$0" && exec "$@"', str(folder or "/"), *arguments]

    def begin(
        self, *arguments: str, folder: Path | None = None, **environment: str
    ) -> subprocess.Popen[str]:
        """A program in this host, its output to be read."""
        names = ("PATH", "LANG", "HOME")
        return subprocess.Popen(
            self.command(*arguments, folder=folder),
            env={name: os.environ[name] for name in names if name in os.environ} | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(
        self, *arguments: str, seconds: float = 120, **settings: Any
    ) -> subprocess.CompletedProcess[str]:
        """A program in this host to its end."""
        with self.begin(*arguments, **settings) as process:
            try:
                output, _ = process.communicate(timeout=seconds)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(arguments, process.returncode, output)

    def signal(self, name: str, number: int) -> None:
        """Send a signal to the processes whose command line begins with a name."""
        mine = os.readlink(f"/proc/{self.pid}/ns/pid")
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended
                begins = (process / "cmdline").read_bytes().startswith(name.encode())
                if begins and os.readlink(process / "ns/pid") == mine:
                    os.kill(int(process.name), number)

    def lose(self) -> None:
        """End all processes at once.

        The kernel still closes their connections. Of a machine without power others hear nothing:
        Ray then takes a minute to give it up.
        """
        if self._outer.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self._outer.communicate()


class Hosts:
    """A laptop and the hosts of a cluster on one network, with a shared folder at /mnt."""

    def __init__(self, folder: Path, names: Sequence[str] = ("head", "worker")) -> None:
        self.folder, self.shared, self.key = folder, folder / "shared", folder / "key"
        self.shared.mkdir()
        _keys(folder)
        addresses = {name: f"{NETWORK}.{place}" for place, name in enumerate((LAPTOP, *names), 1)}
        lines = ["127.0.0.1 localhost", *(f"{at} {name}" for name, at in addresses.items())]
        (folder / "hosts").write_text("\n".join(lines) + "\n")
        self.all: dict[str, Host] = {}
        try:
            for name, address in addresses.items():
                self.all[name] = Host(folder / name, name, address)
            self._connect()
        except BaseException:
            self.end()
            raise

    def __getitem__(self, name: str) -> Host:
        return self.all[name]

    def end(self) -> None:
        for host in self.all.values():
            host.lose()

    def _connect(self) -> None:
        laptop = self.all[LAPTOP]
        _check(laptop.run("ip", "link", "add", "bridge", "type", "bridge"))
        for host in self.all.values():
            if host is laptop:
                _check(host.run("ip", "addr", "add", f"{host.address}/24", "dev", "bridge"))
                _check(host.run("ip", "link", "set", "bridge", "up"))
            else:
                pair = ["type", "veth", "peer", "name", "eth0", "netns", str(host.pid)]
                command = ["nsenter", "--target", str(laptop.pid), "--net"]  # with outer pids
                command += ["ip", "link", "add", f"to-{host.name}", *pair]
                _check(subprocess.run(command, capture_output=True, text=True, check=False))
                _check(laptop.run("ip", "link", "set", f"to-{host.name}", "master", "bridge", "up"))
                _check(host.run("ip", "addr", "add", f"{host.address}/24", "dev", "eth0"))
                _check(host.run("ip", "link", "set", "eth0", "up"))
            host.connect()
        deadline = time.monotonic() + SECONDS_TO_START
        for host in self.all.values():
            while host.run("nc", "-z", host.address, "22").returncode:
                assert time.monotonic() < deadline, (host.folder / "sshd.log").read_text()
                time.sleep(0.05)


def _keys(folder: Path) -> None:
    for name in ("key", "host_key"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(folder / name)]
        subprocess.run(make, check=True)
    settings = {
        "HostKey": folder / "host_key",
        "AuthorizedKeysFile": folder / "key.pub",
        "PasswordAuthentication": "no",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
    }
    text = "".join(f"{name} {value}\n" for name, value in settings.items())
    (folder / "sshd_config").write_text(text)


def _check(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, f"{done.args}: {done.stdout}{done.stderr}"
