"""Devices and threads."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from n2n import device
from n2n.device import choose_device, cpu_features, set_deterministic, set_threads, use_precision
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


def test_more_cores_than_a_small_network_can_use(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(128)), raising=False)
    assert set_threads(None) == 16
    assert set_threads(64) == 64  # what was asked for


@pytest.mark.parametrize("count", [0, -1])
def test_too_few_threads(count: int) -> None:
    before = torch.get_num_threads()
    with pytest.raises(InvalidValue, match=f"threads must be from 1 to 1024, got {count}"):
        set_threads(count)
    assert torch.get_num_threads() == before


def test_freed_memory_is_kept_and_used_again() -> None:
    """In a process of its own: large blocks, freed and taken again, fault no page in.

    Where something small has come to lie between freed blocks, one of the next ones does not fit
    there and is new; so the best of some rounds counts. Without it, every block is new each time.
    """
    script = """
import resource, torch
from n2n.device import keep_freed_memory
keep_freed_memory()
faults = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.zeros(2**20) for _ in range(8)]
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    del blocks
print(min(faults[1:]))
"""
    faults = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert int(faults) < 8 * 2**22 // 4096 // 10


# ---- precision -----------------------------------------------------------------------------------

X86 = "processor\t: 0\nvendor_id\t: x\nflags\t\t: fpu sse2 avx2 {}\nbugs\t\t: none\n"
AMD, INTEL = X86.replace(": x", ": AuthenticAMD"), X86.replace(": x", ": GenuineIntel")
ARM = "processor\t: 0\nFeatures\t: fp asimd {}\nCPU part\t: 0xd4f\n"


@pytest.fixture
def cpu(monkeypatch, tmp_path: Path):
    """cpu(text): what Linux says of the processor."""

    def pretend(text: str) -> None:
        path = tmp_path / "cpuinfo"
        path.write_text(text, encoding="utf-8")
        monkeypatch.setattr(device, "CPU_INFO", path)

    return pretend


@pytest.fixture
def gpu(monkeypatch):
    """gpu(8, 0): a GPU of that compute capability, whose switches are read back from here."""
    products = SimpleNamespace(fp32_precision="none")
    monkeypatch.setattr(torch.backends.cuda, "matmul", products)

    def pretend(*capability: int) -> SimpleNamespace:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        return products

    return pretend


@pytest.mark.parametrize("training", [False, True])
def test_fp32_is_had_everywhere(cpu, gpu, training: bool) -> None:
    cpu(X86.format(""))
    assert use_precision("fp32", "cpu", training=training) is None
    products = gpu(6, 1)
    assert use_precision("fp32", "cuda:0", training=training) is None
    assert products.fp32_precision == "ieee"  # and no TF32


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        X86.format("avx512f avx512_bf16"),
        AMD.format("avx512f avx512_bf16"),
        INTEL.format("avx512_bf16 amx_bf16"),
        X86.format("amx_bf16 amx_tile"),
        ARM.format("sve bf16 i8mm"),
    ],
)
def test_bf16_on_a_processor_that_has_it(cpu, text: str, training: bool) -> None:
    cpu(text)
    assert use_precision("bf16", torch.device("cpu"), training=training) == torch.bfloat16


@pytest.mark.parametrize(
    "text",
    [
        X86.format("avx512f"),
        AMD.format("avx512f"),
        INTEL.format("avx512f avx512_bf16"),  # at half the rate of fp32
        ARM.format("sve"),
        "",
        "flags\n",
    ],
)
def test_bf16_on_a_processor_that_has_it_not(cpu, text: str) -> None:
    cpu(text)
    with pytest.raises(InvalidValue, match=r"^precision bf16 needs a processor .*precision fp32$"):
        use_precision("bf16", "cpu")


def test_nothing_is_known_of_a_processor_without_linux(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(device, "CPU_INFO", tmp_path / "none")
    assert cpu_features() == frozenset()
    with pytest.raises(InvalidValue, match="fast bf16"):
        use_precision("bf16", "cpu")


@pytest.mark.parametrize("name", ["tf32", "fp16"])
def test_what_only_a_gpu_has(name: str) -> None:
    with pytest.raises(InvalidValue, match=f"^precision {name} needs a GPU, the device is cpu; "):
        use_precision(name, "cpu")


def test_what_a_gpu_has(gpu) -> None:
    products = gpu(8, 0)
    assert use_precision("bf16", "cuda:0", training=True) == torch.bfloat16
    assert use_precision("fp16", "cuda:0") == torch.float16
    assert products.allow_bf16_reduced_precision_reduction is False
    assert products.allow_fp16_reduced_precision_reduction is False
    assert products.fp32_precision == "ieee"
    assert use_precision("tf32", "cuda:0", training=True) is None
    assert products.fp32_precision == "tf32"


def test_the_switch_of_an_older_torch(monkeypatch) -> None:
    products = SimpleNamespace()  # before 2.9 there was no fp32_precision
    monkeypatch.setattr(torch.backends.cuda, "matmul", products)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    for name in ("tf32", "fp32"):
        use_precision(name, "cuda")
        assert products.allow_tf32 is (name == "tf32")


@pytest.mark.parametrize("name", ["tf32", "bf16"])
def test_a_gpu_that_is_too_old(gpu, name: str) -> None:
    products = gpu(7, 5)
    with pytest.raises(InvalidValue, match=rf"precision {name} .* 8\.0 .*, cuda:1 has 7\.5; use "):
        use_precision(name, "cuda:1")
    assert products.fp32_precision == "none"
    assert use_precision("fp16", "cuda:1") == torch.float16


@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_fp16_is_not_for_training(gpu, place: str) -> None:
    gpu(9, 0)
    with pytest.raises(InvalidValue, match=r"^precision fp16 is for inference only, since .*$"):
        use_precision("fp16", place, training=True)


def test_no_such_precision() -> None:
    with pytest.raises(InvalidValue, match="one of fp32, tf32, bf16, fp16, got 'float'"):
        use_precision("float", "cpu")


# ---- repeatable ----------------------------------------------------------------------------------


def test_a_gpu_is_made_deterministic(monkeypatch) -> None:
    seen: list[bool] = []
    filled = torch.utils.deterministic.fill_uninitialized_memory
    monkeypatch.setattr(torch, "use_deterministic_algorithms", seen.append)
    monkeypatch.setattr(os, "environ", {})
    try:
        set_deterministic("cpu")
        assert (seen, os.environ) == ([], {})
        set_deterministic("cuda:0")
        assert (seen, os.environ) == ([True], {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"})
        assert not torch.utils.deterministic.fill_uninitialized_memory
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = filled
