"""`n2n train` where memory is short: what it holds by default, under a limit that kills."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result

from jobs.train import main
from n2n import memory
from n2n.data import PairSet
from n2n.data.format import ROWS_PER_PART, PartInfo, Provenance, part_name, write_part

MIB = 1 << 20
GROUPS = Path("/sys/fs/cgroup")
LIMIT = 300 * MIB
SHAPE = (3, 32, 32)
PAIR = 2 * 3 * 32 * 32  # bytes


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """Work in an empty folder, and leave torch's threads as they were."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    torch.set_num_threads(threads)


OPTIONS = ["--run", "run", "--model", "seed", "--set", "width=1", "--device", "cpu"]


def run(*options: str) -> Result:
    return CliRunner().invoke(main, ["set", *OPTIONS, "--batch-size", "45", *options])


def held() -> int:
    return int(yaml.safe_load(Path("run/config.yaml").read_text())["memory_limit"])


@pytest.mark.parametrize(
    ("free", "nbytes", "expected"),
    [
        (1 << 40, 1 << 50, 2 << 30),  # never more than 2 GiB, as on any machine
        (8 << 30, 1 << 50, 2 << 30),
        (7 << 30, 1 << 50, 1 << 30),
        (400 * MIB, 100 * MIB, 2 << 30),  # all of the set: the same order as on any machine
        (399 * MIB, 100 * MIB, 64 * MIB),
        (0, 2, 1),
    ],
)
def test_what_is_held(monkeypatch, free: int, nbytes: int, expected: int) -> None:
    monkeypatch.setattr(memory, "available", lambda device: free)
    assert memory.pairs_to_hold(nbytes) == expected


def test_a_resumed_run_holds_what_it_held(make_set, monkeypatch) -> None:
    """Though more is free now: the order of its pairs follows from it."""
    pairs = make_set(rows=2500, val=5)
    assert pairs.train.nbytes == 2500 * 384
    with monkeypatch.context() as patch:
        patch.setattr(memory, "available", lambda device: 3 * MIB)
        assert run("--epochs", "1").exit_code == 0
    assert held() == MIB >> 1
    assert run("--epochs", "2").exit_code == 0
    assert held() == MIB >> 1
    refused = run("--epochs", "3", "--memory", "1")
    assert refused.exit_code == 2
    assert f"memory_limit {MIB >> 1}, asked for {1 << 30}" in refused.stderr


@pytest.fixture
def control_group() -> Iterator[Path]:
    """A control group with LIMIT bytes of memory, version 1 or 2."""
    first = (GROUPS / "memory").is_dir()
    group = (GROUPS / "memory" if first else GROUPS) / f"n2n-{token_hex(8)}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if first else "memory.max")).write_text(str(LIMIT))
        if not first:
            (group / "memory.swap.max").write_text("0")
    except OSError as error:
        if group.exists():
            group.rmdir()
        pytest.skip(f"needs a control group of its own ({error.strerror}: {group})")
    yield group
    group.rmdir()


TRAIN = """
import sys
from pathlib import Path
from n2n.config import TrainConfig
from n2n.data import PairSet
from n2n.errors import Interrupted
from n2n.memory import pairs_to_hold
from n2n.trainer import Trainer

def batch(images):
    trainer.stop = trainer.position.batch == 100

pairs = PairSet.open("set")
held = int(sys.argv[1]) or pairs_to_hold(pairs.train.nbytes)
settings = {"model_config": {"width": 1}, "batch_size": 250, "memory_limit": held}
config = TrainConfig.of("published", **settings)
trainer = Trainer(config, pairs, Path("run"), on_batch=batch)
try:
    trainer.train()
except Interrupted:
    print(held)
"""


def train_within(group: Path, held: int) -> subprocess.CompletedProcess[str]:
    """Train 100 batches in a process that is in the control group before it starts."""
    enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
    command = [sys.executable, "-c", TRAIN, str(held)]
    return subprocess.run(
        ["sh", "-c", enter, str(group), *command],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_a_set_four_times_the_limit_trains(control_group: Path, tmp_path: Path) -> None:
    """Over several windows of what is held by default. The limit is real: who holds all of the
    set is killed under it."""
    write_parts(tmp_path / "set", parts=21)
    nbytes = PairSet.open("set").train.nbytes
    assert nbytes >= 4 * LIMIT
    try:
        assert train_within(control_group, nbytes).returncode == -9
        shutil.rmtree("run")
        done = train_within(control_group, 0)
    finally:
        shutil.rmtree("set")
    assert done.returncode == 0, done.stderr
    assert 3 * int(done.stdout) <= 100 * 250 * PAIR
    begin, end = map(json.loads, Path("run/provenance.jsonl").read_text().splitlines())
    assert begin["hardware"]["memory_limit"] == LIMIT
    assert end["position"] == {"epoch": 0, "batch": 100}


def write_parts(folder: Path, *, parts: int) -> None:
    """A set whose parts for training, of 10,000 pairs each, are copies of one, but for a name."""
    rng = np.random.default_rng(0)
    for split, number, rows in (("train", parts, ROWS_PER_PART), ("val", 1, 100)):
        (folder / split).mkdir(parents=True)
        columns = {
            name: rng.integers(0, 256, (rows, PAIR // 2), np.uint8) for name in ("input", "target")
        }
        made = Provenance("a test", "gaussian:20", {"sigma": 20.0}, 0, "noisy", ())
        for part in range(number):
            info = PartInfo(SHAPE, split, part, number, rows, "", tuple(columns), made)
            write_part(folder / split / part_name(part), columns, info)
