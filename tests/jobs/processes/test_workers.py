"""`n2n denoise --workers`: the same files as from one process, whatever becomes of a worker."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner, Result
from clusters import RayCluster, processes_of

from jobs import denoise
from jobs.processes.workers import Workers, even_share, make_worker
from n2n import memory, models
from n2n.batch import WorkerConfig
from n2n.checkpoint import save_model
from n2n.errors import InvalidValue


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a model, and images in `in`."""
    monkeypatch.chdir(tmp_path)
    network = models.create("seed", width=4, generator=torch.Generator().manual_seed(0))
    save_model(tmp_path / "model.safetensors", network, {})
    rng = np.random.default_rng(0)
    for number in range(60):
        path = tmp_path / "in" / f"day{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8)).save(path)
    return tmp_path


def run(*arguments: str) -> Result:
    options = ["--model", "model.safetensors", "--device", "cpu"]
    return CliRunner().invoke(denoise.main, [*arguments, *options])


def files(folder: str) -> dict[str, bytes]:
    """Images by name; what vanishes meanwhile, being renamed, is left out."""
    found = {}
    for path in Path(folder).rglob("*.png"):
        with suppress(FileNotFoundError):
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


@pytest.mark.ray
def test_a_cluster_makes_the_same_files(ray_cluster: RayCluster) -> None:
    assert run("in", "one", "--threads", "1").exit_code == 0
    on_ray = ["--workers", "2", "--address", ray_cluster.address, "--json"]
    result = run("in", "two", *on_ray)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["done"], told["device"]) == (60, "2 workers on Ray, each cpu (1 threads)")
    assert len(files("two")) == 60
    assert files("two") == files("one")
    assert json.loads(run("in", "two", *on_ray).stdout)["skipped"] == 60
    assert not Path("two/.n2n-work").exists()


@pytest.mark.ray
def test_a_killed_worker_costs_nothing(folder: Path) -> None:
    assert run("in", "one", "--threads", "1").exit_code == 0
    command = [sys.executable, "-m", "jobs.cli", "denoise", "in", "two", "--workers", "2"]
    driver = subprocess.Popen(
        [*command, "--model", "model.safetensors", "--device", "cpu", "--tta"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    killed: set[int] = set()
    while driver.poll() is None and len(killed) < 2:
        begun = len(files("two")) if Path("two").exists() else 0
        for pid, name in processes_of(driver.pid).items():
            if name.startswith("ray::Host") and begun > 20 * len(killed):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
                break
        time.sleep(0.01)
    out, err = driver.communicate(timeout=90)
    assert (driver.returncode, len(killed)) == (0, 2), err
    assert out.startswith("60 done\n")
    assert processes_of(driver.pid) == {}
    assert run("in", "one", "--threads", "1", "--tta").exit_code == 0
    assert files("two") == files("one")
    lines = Path("two/n2n-manifest.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    done = [record["output"] for record in records if record.get("state") == "done"]
    assert len(done) == len(set(done)) == 60


def config(**changes: Any) -> WorkerConfig:
    return WorkerConfig("model.safetensors", "in", "out", **changes)


@pytest.mark.parametrize(
    ("asked", "fault"),
    [
        ({"count": 0}, "workers must be at least 1, got 0"),
        ({"count": 1, "gpus": 0.5}, "--gpus-per-worker needs more than one of --workers"),
        ({"count": 2, "gpus": 0.0}, "gpus-per-worker must be above 0, such as 0.25, got 0"),
        ({"count": 2, "gpus": -1.0}, "gpus-per-worker must be above 0"),
    ],
)
def test_workers_that_cannot_be(asked: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidValue, match=fault):
        Workers(**asked)


@pytest.mark.parametrize(
    ("device", "gpus", "fault"),
    [
        ("cuda:0", None, "device cuda:0: cuda expected with several workers"),
        ("cpu", 0.5, "--gpus-per-worker needs --device cuda, or auto, found cpu"),
        ("cuda", None, "expected the GPU cuda, found 0 GPUs"),
        ("tpu", None, "device must be auto, cpu, cuda"),
    ],
)
def test_devices_that_workers_cannot_have(
    device: str, gpus: float | None, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with ExitStack() as stack, pytest.raises(InvalidValue, match=fault):
        Workers(2, gpus).prepare(config(device=device), stack, print)


@pytest.mark.parametrize(
    ("cores", "count", "share"), [(2, 2, 1), (2, 3, 2 / 3), (16, 3, 5), (16, 4, 4), (1, 8, 1 / 8)]
)
def test_cores_are_shared(cores: int, count: int, share: float) -> None:
    assert even_share(cores, count) == share


@pytest.mark.parametrize(
    ("count", "there", "share"), [(2, 0, 0), (2, 1, 0.5), (2, 4, 1), (5, 3, 0.5), (8, 3, 1 / 3)]
)
def test_gpus_are_shared(
    count: int, there: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that all find a place: a part of a GPU lies on one GPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    with ExitStack() as stack:
        _, gpus = Workers(count).share("auto", None, stack)
    assert gpus == share
    assert not gpus or count <= there * int(1 / gpus)


@pytest.mark.ray
def test_gpus_of_a_cluster_are_found(ray_cluster: RayCluster) -> None:
    """Two of them: never a silent run on the CPU."""
    with ExitStack() as stack:
        asked = Workers(3, address=ray_cluster.address)
        assert asked.share("auto", None, stack) == (1.0, 0.5)
        assert asked.share("cpu", None, stack) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("cpus", "gpus", "part"),
    [(1.0, 0.0, 1 / 2), (0.5, 0.0, 1 / 4), (1.0, 0.25, 1 / 4), (1.0, 2.0, 1)],
)
def test_memory_is_shared(
    cpus: float, gpus: float, part: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine of two cores."""
    monkeypatch.setattr("n2n.data.default_workers", lambda: 2)
    monkeypatch.setattr(memory, "fair_part", lambda device: 1 << 30)
    with make_worker(config(), cpus, gpus, 4) as worker:
        assert worker.config.max_memory == int(part * 2**30)
    with make_worker(config(max_memory=123456789), cpus, gpus, 4) as worker:
        assert worker.config.max_memory == 123456789
