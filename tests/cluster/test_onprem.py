"""The shipped onprem.yaml on two hosts: ray up, exec, submit of a job, down.

Host names, user and key are filled in, and no other character of the file is changed. `ray stop`
and `ray down` end every Ray that they see: they run inside of the hosts' process namespaces alone.
"""

import re
import secrets
import shlex
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hosts import ROOT, UMASKS, Host, Hosts, why_not
from PIL import Image

pytestmark = [
    pytest.mark.ray,
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

SECONDS_FOR_WORKERS = 240


class Cluster:
    """Two hosts, and on the laptop a user with onprem.yaml."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.laptop: Host = hosts["laptop"]
        self.token = secrets.token_hex(32)
        self.file = hosts.folder / "onprem.yaml"
        text = (ROOT / "cluster/onprem.yaml").read_text()
        for old, new in {
            "CHANGE-ME-head": "head",
            "    - CHANGE-ME-worker-1\n    - CHANGE-ME-worker-2\n": "    - worker\n",
            "ssh_user: CHANGE-ME": "ssh_user: root",
            "~/.ssh/CHANGE-ME": str(hosts.key),
        }.items():
            assert text.count(old) == 1
            text = text.replace(old, new)
        self.file.write_text(text)
        make = f"umask 077; mkdir ~/.ray; echo {self.token} > ~/.ray/auth_token"
        assert self.laptop.run("bash", "-c", make).returncode == 0

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """On the laptop, in the root of the clone."""
        return self.laptop.run(
            sys.executable, *arguments, folder=ROOT, RAY_UP_enable_autoscaler_v2="0"
        )

    def ray(self, command: str, *arguments: str) -> str:
        done = self.python("-m", "ray.scripts.scripts", command, *arguments)
        assert done.returncode == 0, done.stdout
        assert self.token not in done.stdout
        return done.stdout

    def execute(self, command: str) -> str:
        return self.ray("exec", str(self.file), command)

    def wait_for_workers(self) -> None:
        deadline = time.monotonic() + SECONDS_FOR_WORKERS
        while True:
            status = self.hosts["head"].run(
                "bash", "-c", "~/n2n-venv/bin/ray status", RAY_AUTH_MODE="token"
            )
            if "2 local.cluster.node" in status.stdout:
                return
            log = self.hosts["head"].run("bash", "-c", "tail -n 40 /tmp/ray/session_latest/logs/m*")
            assert time.monotonic() < deadline, status.stdout + log.stdout
            time.sleep(1)


@pytest.fixture(scope="module")
def outside() -> Iterator[subprocess.Popen[bytes]]:
    """A process that `ray stop` would end if it saw it: it looks for such a command line."""
    name = "/gcs_server/gcs_server"
    with subprocess.Popen(["bash", "-c", f"exec -a {name} sleep 600"]) as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, outside: subprocess.Popen[bytes]
) -> Iterator[Cluster]:
    hosts = Hosts(tmp_path_factory.mktemp("hosts"))
    try:
        cluster = Cluster(hosts)
        done = cluster.python("-m", "jobs.cli", "cluster", "check", "--reach", str(cluster.file))
        assert done.returncode == 0, done.stdout
        cluster.ray("up", "-y", str(cluster.file))
        cluster.wait_for_workers()
        yield cluster
    finally:
        hosts.end()


def test_n2n_of_the_head_is_the_code_that_was_sent(cluster: Cluster) -> None:
    inside = "import jobs, n2n, ray; print(n2n.__file__, jobs.__file__)"
    said = cluster.execute(f"python -c {shlex.quote(inside)}; ls -l ~/.ray/auth_token; which ray")
    home = cluster.hosts["head"].run("bash", "-c", "echo ~").stdout.strip()
    assert f"{home}/n2n-code/n2n/__init__.py {home}/n2n-code/jobs/__init__.py" in said
    assert f"{home}/n2n-venv/bin/ray" in said
    assert re.search(r"^-rw------- .*auth_token", said, re.MULTILINE)


def test_data_stay_on_the_laptop(cluster: Cluster) -> None:
    for name in ("head", "worker"):
        found = cluster.hosts[name].run("bash", "-c", "ls -A ~/n2n-code").stdout.split()
        assert {"n2n", "jobs", "pyproject.toml"} <= set(found)
        assert not {"data", "tests", ".git", "runs", "sets"} & set(found)


def test_the_dashboard_listens_on_loopback_and_asks_for_the_token(cluster: Cluster) -> None:
    head = cluster.hosts["head"]
    assert cluster.laptop.run("nc", "-z", "head", "8265").returncode != 0
    assert head.run("nc", "-z", "127.0.0.1", "8265").returncode == 0
    ask = (
        "import sys, urllib.error, urllib.request\n"
        "request = urllib.request.Request('http://127.0.0.1:8265/api/jobs/')\n"
        "if sys.argv[1]: request.add_header('Authorization', 'Bearer ' + sys.argv[1])\n"
        "try: print(urllib.request.urlopen(request).status)\n"
        "except urllib.error.HTTPError as error: print(error.code)\n"
    )
    for token, status in (("", "401"), ("0" * 64, "403"), (cluster.token, "200")):
        assert head.run(sys.executable, "-c", ask, token).stdout.strip() == status


def test_a_job_by_ray_submit_works_on_both_hosts(cluster: Cluster) -> None:
    shared = cluster.hosts.shared
    model = shared / "model.safetensors"
    model.write_bytes((ROOT / "n2n/pretrained/seed32.safetensors").read_bytes())
    # Some seconds of work: one host must not have done it all before the other has begun.
    for attempt, images in enumerate((1000, 4000)):
        draw(shared / f"in{attempt}", images)
        paths = f"/mnt/in{attempt}", f"/mnt/out{attempt}"
        options = "--model", "/mnt/model.safetensors", "--workers", "4", "--address", "auto"
        said = cluster.ray("submit", str(cluster.file), "jobs/denoise.py", *paths, *options)
        assert f"{images} done" in said, said
        written = list((shared / f"out{attempt}").glob("*.bmp"))
        assert len(written) == images
        if {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o666 & ~m for m in UMASKS}:
            return  # each host has written some
    pytest.fail("one host did all the work, twice")


def draw(folder: Path, images: int) -> None:
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    for number in range(images):
        Image.fromarray(np.roll(pixels, number, 0)).save(folder / f"{number}.bmp")


def test_the_token_is_in_no_log_of_ray(cluster: Cluster) -> None:
    for name in ("head", "worker"):
        search = (
            f"grep -rlF {cluster.token} /tmp/ray --include=*.log --include=*.out --include=*.err"
        )
        assert cluster.hosts[name].run("bash", "-c", search).stdout == ""


def test_down_ends_ray_on_the_head_and_nothing_outside(
    cluster: Cluster, outside: subprocess.Popen[bytes]
) -> None:
    cluster.ray("down", "-y", str(cluster.file))
    assert "gcs_server" not in cluster.hosts["head"].run("ps", "-eo", "args").stdout
    assert outside.poll() is None
