"""The shipped onprem.yaml on two hosts: ray up, jobs submitted both ways, a host lost, ray down.

Host names, user and key are filled in, and no other character of the file is changed. `ray stop`
and `ray down` end every Ray that they see: they run inside of the hosts' process namespaces alone.
Each test stands on what the one before has left.
"""

import json
import re
import secrets
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hosts import ROOT, UMASKS, Host, Hosts, why_not
from PIL import Image

from n2n.data import PairSet

pytestmark = [
    pytest.mark.ray,
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

NODES = {"head", "worker"}
SECONDS = 240  # for workers, and for a job to reach what is waited for


class Cluster:
    """Hosts, and on the laptop a user with onprem.yaml."""

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

    def begin(self, *arguments: str) -> "Running":
        """A program in Python on the laptop, in the root of the clone."""
        process = self.laptop.begin(
            sys.executable, *arguments, folder=ROOT, RAY_UP_enable_autoscaler_v2="0"
        )
        return Running(process, self.token)

    def ray(self, command: str, *arguments: str) -> str:
        return self.begin("-m", "ray.scripts.scripts", command, *arguments).end()

    def execute(self, command: str) -> str:
        return self.ray("exec", str(self.file), command)

    def submit(self, *arguments: str) -> "Running":
        return self.begin("-m", "jobs.cli", "submit", "--cluster", str(self.file), "--", *arguments)

    def wait_for_workers(self) -> None:
        """The head starts them in the background."""
        deadline = time.monotonic() + SECONDS
        while True:
            # What `ray status` shows, too, which takes a second of the processor each time.
            log = self.hosts["head"].run("cat", "/tmp/ray/session_latest/logs/monitor.log").stdout
            if f"\n {len(NODES)} local.cluster.node\n" in log:
                return
            assert time.monotonic() < deadline, log
            time.sleep(0.5)


class Running:
    """A program on its way."""

    def __init__(self, process: subprocess.Popen[str], token: str) -> None:
        self._process, self._token = process, token

    def until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not reached():
            assert self._process.poll() is None, self.end()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def end(self, code: int = 0) -> str:
        """What it said."""
        output, _ = self._process.communicate(timeout=SECONDS)
        assert self._process.returncode == code, output
        assert self._token not in output
        return output


@pytest.fixture(scope="module")
def outside() -> Iterator[subprocess.Popen[bytes]]:
    """A process that `ray stop` would end if it saw it: it looks for such a command line."""
    name = "/gcs_server/gcs_server"
    with subprocess.Popen(["bash", "-c", f"exec -a {name} sleep 1200"]) as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, outside: subprocess.Popen[bytes]
) -> Iterator[Cluster]:
    hosts = Hosts(tmp_path_factory.mktemp("hosts"))
    try:
        cluster = Cluster(hosts)
        cluster.begin("-m", "jobs.cli", "cluster", "check", "--reach", str(cluster.file)).end()
        cluster.ray("up", "-y", str(cluster.file))
        yield cluster
    finally:
        hosts.end()


@pytest.fixture(scope="module")
def pairs(cluster: Cluster, write: Callable[..., PairSet]) -> PairSet:
    """On the shared disk. An epoch takes about a second."""
    return write(cluster.hosts.shared / "pairs", rows=2000)


@pytest.fixture(scope="module")
def images(cluster: Cluster) -> Path:
    """A folder of them on the shared disk, and a model beside it."""
    folder = cluster.hosts.shared / "images"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    for number in range(200):
        Image.fromarray(np.roll(pixels, number, 0)).save(folder / f"{number}.bmp")
    model = (ROOT / "n2n/pretrained/seed32.safetensors").read_bytes()
    (folder.parent / "model.safetensors").write_bytes(model)
    return folder


def test_n2n_of_the_head_is_the_code_that_was_sent(cluster: Cluster) -> None:
    inside = "import jobs, n2n, ray; print(n2n.__file__, jobs.__file__)"
    said = cluster.execute(f"python -c {shlex.quote(inside)}; ls -l ~/.ray/auth_token; which ray")
    home = cluster.hosts["head"].run("bash", "-c", "echo ~").stdout.strip()
    assert f"{home}/n2n-code/n2n/__init__.py {home}/n2n-code/jobs/__init__.py" in said
    assert f"{home}/n2n-venv/bin/ray" in said
    assert re.search(r"^-rw------- .*auth_token", said, re.MULTILINE)


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


AWKWARD = ["two  words", "it's", '"q"', "*", "$HOME", "a\nb", '{"a": [1, "x y"]}', "`id`", "~", ""]


def test_arguments_arrive_unchanged_by_ray_submit(cluster: Cluster) -> None:
    script = cluster.hosts.folder / "shows.py"
    script.write_text("import json, sys\nprint('arguments', json.dumps(sys.argv[1:]))\n")
    said = cluster.ray("submit", str(cluster.file), str(script), "--", quoted(*AWKWARD, "--", "-x"))
    (line,) = (line for line in said.splitlines() if line.startswith("arguments "))
    assert json.loads(line.removeprefix("arguments ")) == [*AWKWARD, "--", "-x"]


def quoted(*arguments: str) -> str:
    """What "$(printf '%q ' …)" gives in a shell."""
    command = ["bash", "-c", "printf '%q ' \"$@\"", "bash", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_job_by_ray_submit(cluster: Cluster, images: Path) -> None:
    """From ~, where folders of the packages' names lie, too."""
    cluster.hosts["head"].run("bash", "-c", "mkdir ~/n2n ~/jobs")
    source = images.parent / 'it\'s "two"  $HOME *'
    source.mkdir()
    for number in range(3):
        (source / f"{number}.bmp").write_bytes((images / f"{number}.bmp").read_bytes())
    paths = f"/mnt/{source.name}", f"/mnt/out of {source.name}"
    words = "--model", "/mnt/model.safetensors", "--include", "[01].*"
    said = cluster.ray("submit", str(cluster.file), "jobs/denoise.py", "--", quoted(*paths, *words))
    assert "2 done, 1 excluded" in said
    written = (images.parent / f"out of {source.name}").glob("*.bmp")
    assert sorted(path.name for path in written) == ["0.bmp", "1.bmp"]


def test_data_stay_on_the_laptop(cluster: Cluster) -> None:
    cluster.wait_for_workers()
    for name in NODES:
        found = cluster.hosts[name].run("bash", "-c", "cd ~/n2n-code; ls -A . tests").stdout.split()
        assert {"n2n", "jobs", "tests", "bench", "pyproject.toml"} <= set(found)
        assert not {"data", "conftest.py", ".git", "runs", "sets"} & set(found)


def test_a_batch_and_a_sweep_by_n2n_submit_work_on_both_hosts(
    cluster: Cluster, images: Path, pairs: PairSet
) -> None:
    batch, sweep = begin_both(cluster, "first")
    release(cluster, *NODES)
    assert "200 done" in batch.end()
    assert "2 done" in sweep.end()
    assert_complete(images, cluster.hosts.shared / "first-clean")
    assert writers(cluster.hosts.shared / "first-clean") == NODES
    hosts = trials(cluster.hosts.shared / "first-sweep").values()
    assert sorted(hosts) == [["head"], ["worker"]]


def begin_both(cluster: Cluster, name: str) -> tuple[Running, Running]:
    """Jobs with a part at work on each host, which has one of its two CPUs for each job.

    The parts are held.
    """
    clean, run = f"/mnt/{name}-clean", f"/mnt/{name}-sweep"
    batch = cluster.submit(
        *("denoise", "/mnt/images", clean, "--model", "/mnt/model.safetensors"),
        *("--workers", "2", "--threads", "1"),
    )
    folder = cluster.hosts.shared / f"{name}-clean"
    hold_until_both(cluster, batch, "ray::Host", lambda: writers(folder))
    sweep = cluster.submit(
        *("sweep", "/mnt/pairs", "--run", run, "--trials", "2", "--max-epochs", "8"),
        *("--scheduler", "none", "--cpus-per-trial", "1"),
        *("--set", "model=seed", "--set", "width=2", "--set", "batch_size=8"),
    )
    directory = cluster.hosts.shared / f"{name}-sweep"
    hold_until_both(
        cluster,
        sweep,
        "ray::TrialProcess",
        lambda: {host for hosts in trials(directory).values() for host in hosts},
    )
    return batch, sweep


def hold_until_both(
    cluster: Cluster, job: Running, process: str, seen: Callable[[], set[str]]
) -> None:
    """Hold the job's process on a host on which work was seen, until it was seen on both."""
    held: set[str] = set()

    def both_held() -> bool:
        for name in seen() - held:
            cluster.hosts[name].signal(process, signal.SIGSTOP)
            held.add(name)
        return held == NODES

    job.until(both_held)


def release(cluster: Cluster, *names: str) -> None:
    for name in names:
        cluster.hosts[name].signal("ray::", signal.SIGCONT)


def writers(folder: Path) -> set[str]:
    """Hosts that have written images into it."""
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.glob("*.bmp")}
    return {name for name in NODES if 0o666 & ~UMASKS[name] in modes}


def trials(sweep: Path) -> dict[Path, list[str]]:
    """Of each trial's directory the hosts that it has run on, in their order."""
    found = {}
    for file in sweep.glob("trials/*/provenance.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        hosts = [line["hardware"]["host"] for line in lines if line["event"] == "begin"]
        found[file.parent] = list(dict.fromkeys(hosts))
    return found


def assert_complete(images: Path, clean: Path) -> None:
    written = {path.name for path in clean.iterdir()} - {"n2n-manifest.jsonl"}
    assert written == {path.name for path in images.iterdir()}


def test_a_batch_and_a_sweep_that_lose_a_host_end_complete(
    cluster: Cluster, images: Path, pairs: PairSet
) -> None:
    batch, sweep = begin_both(cluster, "second")
    directory = cluster.hosts.shared / "second-sweep"
    (lost,) = (trial for trial, hosts in trials(directory).items() if hosts == ["worker"])
    cluster.hosts["worker"].signal("ray::TrialProcess", signal.SIGCONT)
    sweep.until((lost / "metrics.jsonl").exists)  # an epoch is done; the batch's worker is held
    cluster.hosts["worker"].lose()
    release(cluster, "head")
    assert "200 done" in batch.end()
    assert "2 done" in sweep.end()
    first, second = (cluster.hosts.shared / f"{name}-clean" for name in ("first", "second"))
    assert_complete(images, second)
    for path in images.iterdir():
        assert (second / path.name).read_bytes() == (first / path.name).read_bytes()
    assert trials(directory)[lost] == ["worker", "head"]


def test_the_token_is_in_no_log_of_ray(cluster: Cluster) -> None:
    search = f"grep -rlF {cluster.token} /tmp/ray --include=*.log --include=*.out --include=*.err"
    assert cluster.hosts["head"].run("bash", "-c", search).stdout == ""


def test_down_ends_ray_on_the_head_and_nothing_outside(
    cluster: Cluster, outside: subprocess.Popen[bytes]
) -> None:
    cluster.ray("down", "-y", str(cluster.file))
    assert "gcs_server" not in cluster.hosts["head"].run("ps", "-eo", "args").stdout
    assert outside.poll() is None
