"""`kill -9` at random moments: what was finished stays, what was in flight is done again, once."""

import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from n2n import models
from n2n.batch import MANIFEST
from n2n.checkpoint import save_model

IMAGES = 120
KILLS = 10


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, and images of several sizes in a tree."""
    network = models.create("seed", width=16, generator=torch.Generator().manual_seed(0))
    save_model(tmp_path / "model.safetensors", network, {})
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        path = tmp_path / "in" / f"{number % 3}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (*rng.integers(60, 200, 2), 3)
        PIL.Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(path)
    return tmp_path


def start(folder: Path, output: str, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "jobs.denoise", "in", output, "--model", "model.safetensors"]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "--threads", "1", "--device", "cpu", *options],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(process: subprocess.Popen) -> str:
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0, text.decode()
    return text.decode()


def digests(folder: Path) -> dict[str, str]:
    """Of all files but the manifest; a folder for what is being written would count."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in folder.rglob("*")
        if path.name != MANIFEST
    }


def states(output: Path) -> list[tuple[str, str]]:
    """(state, output) of each whole line of the manifest."""
    found = []
    for line in (output / MANIFEST).read_bytes().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # torn
        found.append((record.get("state", next(iter(record))), record.get("output", "")))
    return found


def count(output: Path, state: str) -> int:
    if not (output / MANIFEST).exists():
        return 0
    return sum(found == state for found, _ in states(output))


def wait_for(condition, process: subprocess.Popen) -> bool:
    """False when the process ended before."""
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        if process.poll() is not None:
            return False
        time.sleep(0.005)
    return True


def children(pid: int) -> list[tuple[int, str]]:
    """(pid, name) of all that descend from a process."""
    parents: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                names[int(entry.name)] = (entry / "cmdline").read_text().split("\0")[0]
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        for child in parents.get(waiting.pop(), []):
            found.append((child, names[child]))
            waiting.append(child)
    return found


def current(folder: Path) -> Path:
    """The output folder to go on with: another one when the last is done, on a fast machine."""
    made = sorted(folder.glob("out*"))
    if not made or count(made[-1], "done") == IMAGES:
        return folder / f"out{len(made)}"
    return made[-1]


def check(output: Path, expected: dict[str, str]) -> None:
    assert digests(output) == expected
    ended: set[str] = set()
    for state, name in states(output):
        assert not (state == "begun" and name in ended), f"{name} was done, and done again"
        if state == "done":
            ended.add(name)
    assert len(ended) == IMAGES
    summary = finish(start(output.parent, output.name))
    assert f"0 done, {IMAGES} skipped" in summary
    assert digests(output) == expected


@pytest.mark.slow
def test_the_only_process_is_killed_ten_times(folder: Path) -> None:
    finish(start(folder, "expected"))
    expected = digests(folder / "expected")
    rng = random.Random(0)
    kills = 0
    for _ in range(3 * KILLS):
        output = current(folder)
        runs = count(output, "run")
        process = start(folder, output.name)
        wait_for(lambda output=output, runs=runs: count(output, "run") > runs, process)
        time.sleep(rng.uniform(0, 0.1))
        kills += process.poll() is None
        process.kill()
        process.communicate()
        if kills == KILLS:
            break
    assert kills == KILLS
    for output in sorted(folder.glob("out*")):
        finish(start(folder, output.name))
        check(output, expected)


@pytest.fixture
def ended() -> Iterator[list[int]]:
    """Process groups that the test started; nothing of them may be left."""
    groups: list[int] = []
    yield groups
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_workers_and_driver_are_killed_in_turn(folder: Path, ended: list[int]) -> None:
    finish(start(folder, "expected"))
    expected = digests(folder / "expected")
    rng = random.Random(1)
    victims = itertools.cycle(["worker", "worker", "driver", "worker", "both"])
    kills = 0
    for _ in range(3 * KILLS):
        output = current(folder)
        process = start(folder, output.name, "--workers", "2", "--threads", "1")
        ended.append(process.pid)
        while process.poll() is None and kills < KILLS:
            done = count(output, "done")
            wait_for(lambda output=output, done=done: count(output, "done") > done, process)
            time.sleep(rng.uniform(0, 0.1))
            workers = [pid for pid, name in children(process.pid) if name.startswith("ray::Host")]
            if process.poll() is not None or not workers:
                continue  # too late: all was done; or the one killed before has no successor yet
            victim = next(victims)
            kills += 1
            if victim != "driver":
                os.kill(rng.choice(workers), signal.SIGKILL)
            if victim != "worker":
                process.kill()
        text, _ = process.communicate(timeout=120)
        assert process.returncode in (0, -signal.SIGKILL), text.decode()
        if kills == KILLS:
            break
    assert kills == KILLS
    for output in sorted(folder.glob("out*")):
        finish(start(folder, output.name, "--workers", "2"))
        check(output, expected)
