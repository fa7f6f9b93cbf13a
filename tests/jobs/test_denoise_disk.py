"""A disk full in the middle: a clear stop, nothing half written, and the next run goes on."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from n2n import models
from n2n.batch import MANIFEST
from n2n.checkpoint import save_model

IMAGES = 30


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 kB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root and mount, for a small tmpfs")
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if subprocess.run(["mount", *options], capture_output=True).returncode != 0:
        pytest.skip("mount of a tmpfs is not permitted")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.denoise", *arguments, "--model", "model.safetensors"]
    return subprocess.run(
        [*command, "--device", "cpu", "--threads", "1", "--strength", "0"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file() if p.name != MANIFEST}


def recorded_done(folder: Path) -> set[str]:
    """The outputs whose last line in the manifest, of those not torn, says that they are done."""
    states: dict[str, str] = {}
    for line in (folder / MANIFEST).read_text().splitlines():
        with suppress(ValueError):
            entry = json.loads(line)
            if "state" in entry:
                states[entry["output"]] = entry["state"]
    return {name for name, state in states.items() if state == "done"}


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.ray)])
def test_a_full_disk_in_the_middle(tmp_path: Path, disk: Path, workers: str) -> None:
    network = models.create("seed", width=2, generator=torch.Generator().manual_seed(0))
    save_model(tmp_path / "model.safetensors", network, {})
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        pixels = rng.integers(0, 256, (80, 80, 3), np.uint8)  # 19 kB each: 30 are too many
        PIL.Image.fromarray(pixels).save(tmp_path / "in" / f"{number:02d}.png")
    (disk / "ballast").write_bytes(bytes(100_000))
    result = run(tmp_path, "in", str(disk / "out"), "--workers", workers)
    assert result.returncode == 3, result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"n2n: the disk is full: {disk}/out/")
    assert last.endswith("; make space, then run the same command again")
    found = contents(disk / "out")
    assert 0 < len(found) < IMAGES
    for name in found:
        with PIL.Image.open(disk / "out" / name) as image:
            image.load()
    assert not (disk / "out" / ".n2n-work").exists()
    again = run(tmp_path, "in", str(disk / "out"))
    assert again.returncode == 3  # still no space
    (disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=2m", str(disk)], check=True)
    before = recorded_done(disk / "out")  # the last output may have had no room for its line
    assert before <= contents(disk / "out").keys()
    result = run(tmp_path, "in", str(disk / "out"))
    assert result.returncode == 0, result.stderr
    assert f"{IMAGES - len(before)} done, {len(before)} skipped" in result.stdout
    assert run(tmp_path, "in", "expected").returncode == 0
    assert contents(disk / "out") == contents(tmp_path / "expected")
