"""What a run records of itself: what it rests on, and how each of its parts went."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

import n2n
from n2n import provenance
from n2n.config import TrainConfig
from n2n.data import PairSet
from n2n.errors import Diverged, Interrupted
from n2n.provenance import code, hardware, read_record, recorded, versions
from n2n.trainer import Trainer

CONFIG = TrainConfig.of("published", model_config={"width": 2}, epochs=2, batch_size=45)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def fresh_code() -> Iterator[None]:
    """`code` looks again, now and after the test."""
    code.cache_clear()
    yield
    code.cache_clear()


def record_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "provenance.jsonl").read_text().splitlines()]


def test_a_run_says_what_it_rests_on(make_set, tmp_path: Path) -> None:
    pairs = make_set()
    Trainer(CONFIG, pairs, tmp_path / "run").train()
    begin, end = record_of(tmp_path / "run")
    assert list(begin)[:3] == list(end)[:3] == ["event", "part", "time"]
    assert (begin["event"], begin["part"], begin["workers"]) == ("begin", 1, 1)
    assert begin["set"] == {
        "path": str(pairs.path),
        "digest": pairs.digest,
        "rows": {"train": 90, "val": 20},
    }
    assert begin["settings"] == asdict(CONFIG)
    assert begin["position"] == {"epoch": 0, "batch": 0}
    assert begin["code"] == dict(code())
    assert begin["versions"]["torch"] == torch.__version__
    assert begin["versions"]["ray"] == metadata.version("ray")
    assert begin["hardware"] == hardware()
    assert begin["process"]["id"] == os.getpid()
    assert (end["event"], end["part"], end["outcome"]) == ("end", 1, "done")
    assert end["reason"] is None
    assert end["position"] == {"epoch": 2, "batch": 0}
    times = [datetime.fromisoformat(line["time"]) for line in (begin, end)]
    assert (times[1] - times[0]).total_seconds() == pytest.approx(end["seconds"], abs=0.1)
    assert times[0].utcoffset() is not None


def test_a_resumed_run_adds_a_part(make_set, tmp_path: Path) -> None:
    pairs, run = make_set(), tmp_path / "run"

    def stop(images: int) -> None:
        trainer.stop = True

    trainer = Trainer(CONFIG, pairs, run, on_batch=stop)
    with pytest.raises(Interrupted):
        trainer.train()
    first = (run / "provenance.jsonl").read_bytes()
    Trainer(replace(CONFIG, threads=3), pairs, run).train()
    assert (run / "provenance.jsonl").read_bytes().startswith(first)
    lines = record_of(run)
    assert [(line["event"], line["part"]) for line in lines] == [
        ("begin", 1),
        ("end", 1),
        ("begin", 2),
        ("end", 2),
    ]
    assert lines[1]["outcome"] == "stopped"
    assert "stopped after batch 1 of epoch 1" in lines[1]["reason"]
    assert lines[1]["position"] == lines[2]["position"] == {"epoch": 0, "batch": 1}
    assert (lines[0]["settings"]["threads"], lines[2]["settings"]["threads"]) == (1, 3)


def test_a_complete_run_is_left_alone(make_set, tmp_path: Path) -> None:
    pairs, run = make_set(), tmp_path / "run"
    Trainer(CONFIG, pairs, run).train()
    before = (run / "provenance.jsonl").read_bytes()
    Trainer(CONFIG, pairs, run).train()
    assert (run / "provenance.jsonl").read_bytes() == before


def test_a_run_that_diverges_says_so(make_set, tmp_path: Path) -> None:
    trainer = Trainer(CONFIG, make_set(), tmp_path / "run")
    trainer.network.param()[0][0].fill_(torch.nan)
    with pytest.raises(Diverged):
        trainer.train()
    _, end = record_of(tmp_path / "run")
    assert end["outcome"] == "diverged"
    assert "in epoch 1" in end["reason"]


KILLED = """
import os, signal, sys
from pathlib import Path
from n2n.provenance import recorded
with recorded(Path(sys.argv[1]), {}, dict):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_part_that_was_killed_has_no_end(tmp_path: Path) -> None:
    path = tmp_path / "provenance.jsonl"
    assert subprocess.run([sys.executable, "-c", KILLED, path]).returncode == -9
    with recorded(path, {"workers": 2}, dict):
        pass
    assert [(line["event"], line["part"]) for line in read_record(path)] == [
        ("begin", 1),
        ("begin", 2),
        ("end", 2),
    ]


@pytest.mark.parametrize("cut", [1, 40])
def test_a_line_half_written_spoils_no_other(tmp_path: Path, cut: int) -> None:
    """Nothing is taken away, and what comes after it stands in lines of its own."""
    path = tmp_path / "provenance.jsonl"
    with recorded(path, {}, dict):
        pass
    torn = path.read_bytes()[:-cut]
    path.write_bytes(torn)
    with recorded(path, {}, dict):
        pass
    assert path.read_bytes().startswith(torn + b"\n")
    found = [(line["event"], line["part"]) for line in read_record(path)]
    whole = [("begin", 1)] + [("end", 1)] * (cut == 1)
    assert found == [*whole, ("begin", 2), ("end", 2)]


def test_no_record(tmp_path: Path) -> None:
    assert read_record(tmp_path / "provenance.jsonl") == []


def test_an_error_comes_out_though_the_disk_is_full(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "provenance.jsonl"

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    def diverge() -> None:
        with recorded(path, {}, dict):
            monkeypatch.setattr(provenance, "_add", full)
            raise Diverged("the loss is nan")

    with pytest.raises(Diverged):
        diverge()
    with pytest.raises(OSError, match="No space"), recorded(path, {}, dict):
        pass


def test_sources_as_coreutils_digest_them() -> None:
    command = "find n2n -name '*.py' | LC_ALL=C sort | xargs sha256sum | sha256sum"
    told = subprocess.run(
        ["sh", "-c", command], cwd=Path(n2n.__file__).parents[1], capture_output=True, check=True
    )
    assert code()["sources"] == told.stdout.decode().split()[0]


@pytest.mark.usefixtures("fresh_code")
@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_checkout(tmp_path: Path, monkeypatch) -> None:
    """The commit, and whether the package differs from it; a hook's GIT_DIR does not mislead."""

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", *who, *arguments]
        clean = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
        done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, check=True)
        return done.stdout.decode().strip()

    package = tmp_path / "n2n"
    package.mkdir()
    file = package / "provenance.py"
    file.write_text("")
    monkeypatch.setattr(provenance, "PACKAGE", package)
    monkeypatch.setattr(provenance, "__file__", str(file))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    git("init", "-q")
    assert code()["commit"] is code()["changed"] is None  # inside of a checkout, but not of it
    git("add", "n2n")
    git("commit", "-q", "-m", "first")
    (tmp_path / "notes.txt").write_text("mine")
    code.cache_clear()
    assert (code()["commit"], code()["changed"]) == (git("rev-parse", "HEAD"), False)
    (package / "new.py").write_text("")
    code.cache_clear()
    assert code()["changed"] is True


@pytest.mark.usefixtures("fresh_code")
def test_without_git(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert code()["commit"] is code()["changed"] is None
    assert len(code()["sources"]) == 64


def test_versions(monkeypatch) -> None:
    found = versions("numpy", "none-such")
    assert found["numpy"] == np.__version__
    assert found["none-such"] == "unknown"
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert set(versions()) == {"n2n", "torch", "python"}


def test_hardware() -> None:
    found = hardware()
    told = dict(
        line.split(":") for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line
    )
    assert found["memory"] == 1024 * int(told["MemTotal"].split()[0])
    assert found["cores"] == len(os.sched_getaffinity(0))
    assert found["gpu"] is None
    assert found["cpu"]


def test_the_record_of_a_copy_can_be_read(make_set, tmp_path: Path) -> None:
    """A copied run directory takes its provenance with it, and goes on with it."""
    pairs: PairSet = make_set()
    Trainer(CONFIG, pairs, tmp_path / "run").train()
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    Trainer(replace(CONFIG, epochs=3), pairs, tmp_path / "copy").train()
    assert [line["part"] for line in read_record(tmp_path / "copy" / "provenance.jsonl")] == [
        1,
        1,
        2,
        2,
    ]
