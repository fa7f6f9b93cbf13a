"""Devices and threads."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from n2n.device import choose_device, set_threads
from n2n.errors import InvalidValue


@pytest.fixture
def gpus(monkeypatch):
    """gpus(2): torch finds two of them."""

    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("count", "name", "expected"),
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (2, "cpu", "cpu"),
        (2, "auto", "cuda:0"),
        (2, "cuda", "cuda:0"),
        (2, "cuda:0", "cuda:0"),
        (2, "cuda:1", "cuda:1"),
    ],
)
def test_chosen(gpus, count: int, name: str, expected: str) -> None:
    gpus(count)
    assert choose_device(name) == torch.device(expected)


@pytest.mark.parametrize(
    ("count", "name"), [(0, "cuda"), (0, "cuda:0"), (1, "cuda:1"), (2, "cuda:12")]
)
def test_a_gpu_that_is_not_there(gpus, count: int, name: str) -> None:
    gpus(count)
    with pytest.raises(InvalidValue) as caught:
        choose_device(name)
    message = str(caught.value)
    assert f"GPU {name}" in message
    assert f"found {count}" in message
    assert "--device cpu" in message


@pytest.mark.parametrize(
    "name", ["", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:²", "cpu:0", "cpu:", "mps", ":"]
)
def test_other_names(gpus, name: str) -> None:
    gpus(2)
    with pytest.raises(InvalidValue, match="must be auto, cpu, cuda or cuda:INDEX") as caught:
        choose_device(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads(count: int) -> None:
    assert set_threads(count) == count
    assert torch.get_num_threads() == count


def test_threads_of_all_cores(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert set_threads(None) == 3
    assert torch.get_num_threads() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert set_threads(None) == 1


@pytest.mark.parametrize("count", [0, -1])
def test_too_few_threads(count: int) -> None:
    before = torch.get_num_threads()
    with pytest.raises(InvalidValue, match=f"threads must be from 1 to 1024, got {count}"):
        set_threads(count)
    assert torch.get_num_threads() == before


def test_freed_memory_is_kept_and_used_again() -> None:
    """In a process of its own: large blocks, freed and taken again, fault no page in."""
    script = """
import resource, torch
from n2n.device import keep_freed_memory
keep_freed_memory()
for _ in range(3):
    blocks = [torch.zeros(2**20) for _ in range(8)]
    del blocks
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
blocks = [torch.zeros(2**20) for _ in range(8)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert int(faults) < 8 * 2**22 // 4096 // 10
