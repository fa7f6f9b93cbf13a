"""A trial in its process: an epoch at a time, stopped at any time, and gone on with to the bit."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.trials.trial import Computer, Task, TrialRun
from n2n.config import TrainConfig
from n2n.data import PairSet
from n2n.provenance import read_record
from n2n.run import RunDirectory
from n2n.trainer import Trainer

CONFIG = {"model": "seed", "model_config": {"width": 2}, "batch_size": 20, "threads": 1}
CLOCKS = {"seconds", "compute_seconds", "validation_seconds", "images_per_second"}


@pytest.fixture(scope="module")
def computer() -> Iterator[Computer]:
    computer = Computer()
    yield computer
    computer._pool.shutdown()


class Steps:
    """TrialRuns of one trial, and what they returned."""

    def __init__(self, pairs: PairSet, path: Path, computer: Computer, **settings: Any) -> None:
        config = TrainConfig.of("published", **{**CONFIG, "epochs": 3, **settings})
        self.task = Task(7, path, config, "psnr")
        self.pairs, self.computer = pairs, computer

    def begin(self) -> TrialRun:
        return TrialRun(self.task, self.pairs, self.computer)

    def epochs(self, run: TrialRun) -> Iterator[dict[str, Any]]:
        """Results up to the last; news of progress are left out."""
        while True:
            result = run.step()
            assert result["number"] == 7
            if "progress" not in result:
                yield result
            if result.get("done"):
                return

    def alone(self, path: Path) -> list[dict[str, Any]]:
        """What training in one go records."""
        return timeless(Trainer(self.task.config, self.pairs, path).train())


@pytest.fixture
def steps(make_set: Callable[..., PairSet], tmp_path: Path, computer: Computer) -> Steps:
    return Steps(make_set(), tmp_path / "run", computer)


def timeless(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: line[name] for name in line.keys() - CLOCKS} for line in lines]


def test_epoch_by_epoch(steps: Steps, tmp_path: Path) -> None:
    results = list(steps.epochs(steps.begin()))
    assert timeless([result["line"] for result in results]) == steps.alone(tmp_path / "alone")
    assert [result["epoch"] for result in results] == [1, 2, 3]
    assert [result["score"] for result in results] == [
        result["line"]["val"]["psnr"] for result in results
    ]
    assert [result.get("outcome") for result in results] == [None, None, "done"]
    record = read_record(steps.task.path / "provenance.jsonl")
    ends = [line["outcome"] for line in record if line["event"] == "end"]
    assert ends == ["stopped", "stopped", "done"]
    # All of it again for a driver that does not know of it.
    again = list(steps.epochs(steps.begin()))
    assert [one["replayed"] for one in again] == [True, True, False]
    assert [one["line"] for one in again] == [one["line"] for one in results]
    assert again[-1]["outcome"] == "done"


def test_nothing_goes_on_between_epochs(steps: Steps) -> None:
    run = steps.begin()
    next(steps.epochs(run))
    with RunDirectory(steps.task.path).locked():  # RunConflict if the trial held it
        before = steps.task.path.stat().st_mtime_ns
        time.sleep(0.1)
        assert steps.task.path.stat().st_mtime_ns == before
    assert len(list(steps.epochs(run))) == 2


def test_halted_in_the_middle_of_an_epoch(steps: Steps, tmp_path: Path) -> None:
    run = steps.begin()
    next(steps.epochs(run))
    assert "progress" in run.step(patience=0)
    run.halt()
    content = {path: path.stat().st_mtime_ns for path in steps.task.path.rglob("*")}
    first, *others = steps.epochs(steps.begin())
    assert (first["epoch"], first["replayed"]) == (1, False)
    results = [first, *others]
    assert timeless([result["line"] for result in results]) == steps.alone(tmp_path / "alone")
    assert content.keys() <= set(steps.task.path.rglob("*"))


def test_halted_before_it_began(steps: Steps) -> None:
    run = steps.begin()
    run.step(patience=0)
    run.halt()
    steps.begin().halt()
    assert len(list(steps.epochs(steps.begin()))) == 3


def test_waits_for_the_process_before(steps: Steps) -> None:
    results: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: results.extend(steps.epochs(steps.begin())))
    with RunDirectory(steps.task.path).locked():
        thread.start()
        thread.join(0.5)
        assert results == []
        assert not steps.task.path.joinpath("config.yaml").exists()
    thread.join()
    assert len(results) == 3


def test_a_trial_that_diverges(steps: Steps, computer: Computer) -> None:
    wild = Steps(steps.pairs, steps.task.path, computer, lr=1e30)
    [result] = wild.epochs(wild.begin())
    assert (result["outcome"], result["done"]) == ("failed", True)
    assert "in epoch 1, batch" in result["reason"]
    assert "fatal" not in result


@pytest.mark.parametrize(
    ("error", "reason", "fatal"),
    [
        (MemoryError(), "out of memory; try a smaller model", None),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out of", None),
        (ZeroDivisionError("by 0"), "ZeroDivisionError: by 0", None),
        (OSError(28, "No space left on device", "/x"), "No space left on device: /x", True),
    ],
)
def test_what_ends_a_trial(
    steps: Steps,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    reason: str,
    fatal: bool | None,
) -> None:
    def train(self: Trainer) -> None:
        raise error

    monkeypatch.setattr(Trainer, "train", train)
    [result] = steps.epochs(steps.begin())
    assert result["reason"].startswith(reason)
    assert (result["outcome"], result.get("fatal")) == ("failed", fatal)


def test_the_thread_is_one(steps: Steps, computer: Computer, tmp_path: Path) -> None:
    """Of all trials, with the threads that each asks for."""
    import torch

    names = computer.submit(threading.current_thread).result()
    for threads in (2, 1):
        one = Steps(steps.pairs, tmp_path / str(threads), computer, threads=threads)
        list(one.epochs(one.begin()))
        computer.tidy()
        assert computer.submit(threading.current_thread).result() is names
        assert computer.submit(torch.get_num_threads).result() == threads
