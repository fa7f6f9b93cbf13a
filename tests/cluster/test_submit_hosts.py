"""`n2n submit` from a laptop to a head that is another host: files, a cut connection, a full disk.

The head runs Ray and has n2n's environment, but not its code, which is sent.
"""

import json
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hosts import ROOT, Hosts, why_not
from PIL import Image

pytestmark = [
    pytest.mark.ray,
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

LAUNCHER = """
cluster_name: tests
provider: {type: local, head_ip: head, worker_ips: []}
max_workers: 0
auth: {ssh_user: root, ssh_private_key: KEY}
file_mounts: {~/.ray/auth_token: ~/.ray/auth_token}
setup_commands:
  - echo 'export PATH=$HOME/n2n-venv/bin:$PATH RAY_AUTH_MODE=token' >> ~/.bashrc
  - mkdir -p /tmp/ray && mount -t tmpfs -o size=300m ray /tmp/ray
head_start_ray_commands:
  - ray stop
  - >-
    RAY_AUTH_MODE=token ray start --head --port=6379 --dashboard-host=127.0.0.1 --num-cpus=2
    --num-gpus=0 --object-store-memory=83886080 --disable-usage-stats
"""
SECONDS_TO_NOTICE = 60  # it takes 25 where nothing else runs


class Laptop:
    """A user of a laptop with a cluster file and a token, and a host for the head."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts, self.token = hosts, secrets.token_hex(32)
        self.laptop, self.head = hosts["laptop"], hosts["head"]
        self.file = hosts.folder / "cluster.yaml"
        self.file.write_text(LAUNCHER.replace("KEY", str(hosts.key)))
        make = f"umask 077; mkdir ~/.ray; echo {self.token} > ~/.ray/auth_token"
        assert self.laptop.run("bash", "-c", make).returncode == 0

    def n2n(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = self.laptop.run(sys.executable, "-m", "jobs.cli", *arguments, folder=ROOT)
        assert self.token not in done.stdout
        assert "Traceback" not in done.stdout
        return done

    def submit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.n2n("submit", "--cluster", str(self.file), *arguments)

    def jobs(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.n2n("jobs", *arguments, "--cluster", str(self.file))

    def link(self, state: str) -> None:
        """Of the head's cable: up or down."""
        done = self.laptop.run("ip", "link", "set", "to-head", state)
        assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    hosts = Hosts(tmp_path_factory.mktemp("hosts"), ("head",))
    try:
        laptop = Laptop(hosts)
        begun = laptop.submit("--up", "--id", "first", "--", "data", "check", "/mnt/set")
        assert begun.returncode == 2, begun.stdout
        assert "expected the folder of a pair set" in begun.stdout
        yield laptop
    finally:
        hosts.end()


@pytest.fixture(scope="module")
def noisy(laptop: Laptop) -> Path:
    """A folder that the laptop alone has."""
    folder = laptop.hosts.folder / "laptop/tmp/noisy"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    return Path("/tmp/noisy")


def test_paths_that_the_head_has_not_are_refused(laptop: Laptop, noisy: Path) -> None:
    model = "n2n/pretrained/seed32.safetensors"
    (laptop.hosts.shared / "in").mkdir()
    for source, output, found, options in (
        (noisy, "/mnt/out", noisy, f"--upload {noisy}"),
        ("/mnt/in", f"{noisy}/out", f"{noisy}/out", f"--download {noisy}/out"),
        (f"{noisy}/no", "/mnt/out", None, ""),
    ):
        done = laptop.submit("--", "denoise", str(source), str(output), "--model", model)
        assert done.returncode == 2
        names = f"{found}, {model}" if found else model
        assert f"found on this machine alone: {names}; " in done.stdout
        assert f"{options} --upload {model}".strip() in done.stdout
    assert [run["id"] for run in json.loads(laptop.jobs("list", "--json").stdout)] == ["first"]


def test_small_inputs_go_along_and_results_come_back(laptop: Laptop, noisy: Path) -> None:
    model, out = "n2n/pretrained/seed32.safetensors", "/tmp/clean"
    options = ["--upload", str(noisy), "--upload", model, "--download", out]
    done = laptop.submit(*options, "--", "denoise", str(noisy), out, "--model", model)
    assert done.returncode == 0, done.stdout
    assert "1 done" in done.stdout
    clean = laptop.hosts.folder / "laptop/tmp/clean"
    assert sorted(p.name for p in clean.iterdir()) == ["image.png", "n2n-manifest.jsonl"]
    with Image.open(clean / "image.png") as image:
        assert image.size == (8, 8)


def test_a_job_goes_on_while_the_laptop_is_cut_off(laptop: Laptop) -> None:
    shared = laptop.hosts.shared
    photographs = ["--pairs", "200", "--val-pairs", "10", "--size", "8", "--workers", "1"]
    built = laptop.laptop.run(
        *(sys.executable, "-m", "jobs.cli", "data", "build", "data/photos", "/mnt/set"),
        *photographs,
        folder=ROOT,
    )
    assert built.returncode == 0, built.stdout
    train = ["train", "/mnt/set", "--run", "/mnt/run", "--epochs", "100000", "--set", "width=4"]
    submit = ["submit", "--cluster", str(laptop.file), "--id", "long", "--", *train]
    command = laptop.laptop.command(sys.executable, "-m", "jobs.cli", *submit, folder=ROOT)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as first:
        assert first.stdout is not None
        while "epoch 2/" not in (line := first.stdout.readline()):
            assert line, "it ended"
        arguments = laptop.laptop.run("ps", "-eo", "args").stdout
        assert "ssh -T -L" in arguments
        assert laptop.token not in arguments
        laptop.link("down")
        rest, _ = first.communicate(timeout=SECONDS_TO_NOTICE)
    assert first.returncode == 3
    assert "the run long goes on" in rest
    assert "n2n jobs logs long --follow --cluster" in rest
    before = epochs(shared)
    time.sleep(1)
    assert epochs(shared) > before  # cut off, and at work

    laptop.link("up")
    assert re.search("epoch [0-9]+/100000", laptop.jobs("logs", "long", "--tail", "3").stdout)
    again = laptop.submit("--id", "long", "--no-wait", "--", *train)
    assert "the run long is there already" in again.stdout
    [run] = json.loads(laptop.jobs("list", "--json").stdout)[-1:]
    assert (run["id"], run["status"], run["jobs"]) == ("long", "running", ["long"])
    assert laptop.jobs("stop", "long").returncode == 0
    followed = laptop.jobs("logs", "long", "--follow")
    assert followed.returncode == 3
    assert "epoch 1/100000" in followed.stdout


def epochs(shared: Path) -> int:
    return len((shared / "run/metrics.jsonl").read_text().splitlines())


def test_the_token_is_in_no_file_of_ray_or_of_the_run(laptop: Laptop) -> None:
    for place in ("/tmp/ray", "/mnt"):
        found = laptop.head.run("grep", "-rlF", "--devices=skip", laptop.token, place)
        assert found.stdout == ""


def test_a_full_disk_of_the_head(laptop: Laptop) -> None:
    fill = "head -c 400M /dev/zero > /tmp/ray/full"
    laptop.head.run("bash", "-c", fill)
    done = laptop.submit("--", "data", "check", "/mnt/set", "--json")
    assert done.returncode == 3
    assert "the disk of the head is full; make space there" in done.stdout
    laptop.head.run("rm", "/tmp/ray/full")


def test_up_keeps_a_cluster_that_runs_and_down_ends_it(laptop: Laptop) -> None:
    started = laptop.head.run("bash", "-c", "pgrep -f gcs_server").stdout
    done = laptop.submit("--up", "--down", "--id", "first", "--", "data", "check", "/mnt/set")
    assert done.returncode == 0, done.stdout
    assert "resuming the run first" in done.stdout
    assert "ray up" not in done.stdout
    assert "ray down -y" in done.stdout
    assert started
    assert "gcs_server" not in laptop.head.run("ps", "-eo", "args").stdout
