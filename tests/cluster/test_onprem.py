"""The shipped onprem.yaml on three hosts: ray up, jobs submitted both ways, two hosts lost, down.

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
from hosts import CPUS, ROOT, UMASKS, Host, Hosts, why_not
from PIL import Image

from n2n.data import PairSet

pytestmark = [
    pytest.mark.ray,
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

NODES = [name for name in UMASKS if name != "laptop"]
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
            "CHANGE-ME-worker-1": "worker-1",
            "CHANGE-ME-worker-2": "worker-2",
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
def pairs(cluster: Cluster, write: Callable[..., PairSet]) -> str:
    """Where the cluster sees a set on which an epoch takes about a second."""
    write(cluster.hosts.shared / "pairs", rows=2000)
    return "/mnt/pairs"


@pytest.fixture(scope="module")
def images(cluster: Cluster) -> Path:
    """A folder of them on the shared disk, and a model beside it."""
    folder = cluster.hosts.shared / "images"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    for number in range(200):
        Image.fromarray(np.roll(pixels, number, 0)).save(folder / f"{number}.bmp")
    model = (ROOT / "n2n/pretrained/seed.safetensors").read_bytes()
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


def test_a_sweep_by_n2n_submit_works_on_all_hosts(cluster: Cluster, pairs: str) -> None:
    said = begin_sweep(cluster, pairs, "sweep").end()
    assert f"{len(NODES)} done" in said
    sweep = cluster.hosts.shared / "sweep"
    assert {host for part in parts(sweep) for host in part} == set(NODES)
    assert (sweep / "best/model.safetensors").exists()


def begin_sweep(cluster: Cluster, pairs: str, name: str) -> Running:
    """As many trials as hosts, each of which takes a whole one."""
    space = ["--set", "model=seed", "--set", "width=2", "--set", "batch_size=8"]
    size = ["--trials", str(len(NODES)), "--max-epochs", "6", "--scheduler", "none"]
    place = ["--cpus-per-trial", str(CPUS)]
    return cluster.submit("sweep", pairs, "--run", f"/mnt/{name}", *size, *space, *place)


def parts(sweep: Path) -> list[list[str]]:
    """Of each trial the hosts that it has run on."""
    found = []
    for file in sorted(sweep.glob("trials/*/provenance.jsonl")):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        found.append([line["hardware"]["host"] for line in lines if line["event"] == "begin"])
    return found


def test_a_batch_by_n2n_submit_works_on_all_hosts(cluster: Cluster, images: Path) -> None:
    job = begin_batch(cluster, "clean")
    clean = cluster.hosts.shared / "clean"
    let_all_begin(cluster, job, clean)
    assert "200 done" in job.end()
    assert {path.name for path in images.iterdir()} == {p.name for p in clean.glob("*.bmp")}
    assert writers(clean) == set(NODES)


def begin_batch(cluster: Cluster, name: str) -> Running:
    """As many workers as hosts, each of which takes a whole one."""
    words = "denoise", "/mnt/images", f"/mnt/{name}", "--model", "/mnt/model.safetensors"
    return cluster.submit(*words, "--workers", str(len(NODES)), "--threads", str(CPUS))


def writers(folder: Path) -> set[str]:
    """Hosts that have written images into it."""
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.glob("*.bmp")}
    return {name for name in NODES if 0o666 & ~UMASKS[name] in modes}


def let_all_begin(cluster: Cluster, job: Running, folder: Path, keep: str = "") -> None:
    """Hold the worker of a host that has written, until each host has; then let go all but one."""
    held: set[str] = set()

    def all_begun() -> bool:
        for name in writers(folder) - held:
            cluster.hosts[name].signal("ray::Host", signal.SIGSTOP)
            held.add(name)
        return held == set(NODES)

    job.until(all_begun)
    for name in held - {keep}:
        cluster.hosts[name].signal("ray::Host", signal.SIGCONT)


def test_a_batch_that_loses_a_host_ends_complete(cluster: Cluster, images: Path) -> None:
    job = begin_batch(cluster, "kept")
    kept = cluster.hosts.shared / "kept"
    let_all_begin(cluster, job, kept, keep="worker-1")  # with images in hand
    cluster.hosts["worker-1"].lose()
    assert "200 done" in job.end()
    assert {path.name for path in images.iterdir()} == {p.name for p in kept.glob("*.bmp")}
    for path in kept.glob("*.bmp"):
        clean = cluster.hosts.shared / "clean" / path.name
        assert path.read_bytes() == clean.read_bytes()


def test_a_sweep_that_loses_a_host_ends_complete(cluster: Cluster, pairs: str) -> None:
    """One host is gone already: two trials run, and the third waits for a place."""
    job = begin_sweep(cluster, pairs, "other")
    sweep = cluster.hosts.shared / "other"
    job.until(lambda: any("worker-2" in hosts for hosts in parts(sweep)))
    (number,) = (place for place, hosts in enumerate(parts(sweep)) if "worker-2" in hosts)
    metrics = sweep / f"trials/{number:04}/metrics.jsonl"
    job.until(metrics.exists)
    cluster.hosts["worker-2"].lose()
    assert f"{len(NODES)} done" in job.end()
    assert parts(sweep)[number] == ["worker-2", "head"]


def test_the_token_is_in_no_log_of_ray(cluster: Cluster) -> None:
    search = f"grep -rlF {cluster.token} /tmp/ray --include=*.log --include=*.out --include=*.err"
    assert cluster.hosts["head"].run("bash", "-c", search).stdout == ""


def test_down_ends_ray_on_the_head_and_nothing_outside(
    cluster: Cluster, outside: subprocess.Popen[bytes]
) -> None:
    cluster.ray("down", "-y", str(cluster.file))
    assert "gcs_server" not in cluster.hosts["head"].run("ps", "-eo", "args").stdout
    assert outside.poll() is None
