"""The model of memory against fresh processes, the bound, and limits that are met for real."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from n2n import memory, models
from n2n.denoiser import MAX_PIXELS, Denoiser
from n2n.memory import Need, available, fair_part

CLEAR = Path("/proc/self/clear_refs")
LINUX = pytest.mark.skipif(not CLEAR.exists(), reason=f"needs Linux's {CLEAR}")
MIB = 1 << 20

# What every fresh process begins with; `image` decodes lazily and is never in memory as a whole.
HEAD = """
import ctypes, gc, json, re, resource, sys
from pathlib import Path
import numpy as np
import torch
from n2n import models
from n2n.denoiser import Denoiser, Options
from n2n.rasters import Scratch

torch.set_num_threads(1)
settings = json.loads(sys.argv[1])

class Photograph:
    dtype = np.dtype(np.uint8)

    def __init__(self, height, width):
        self.shape = (height, width, 3)
        self.read = 0

    def __getitem__(self, part):
        rows, columns = (np.arange(*key.indices(size)) for key, size in zip(part, self.shape))
        self.read += len(rows) * len(columns)
        rows, columns = (rows * rows // 7).astype(np.uint8), (columns * 31).astype(np.uint8)
        values = np.empty((len(rows), len(columns), 3), np.uint8)
        for channel in range(3):
            np.add(rows[:, None], columns * np.uint8(channel + 1), out=values[..., channel])
        return values

def resident(name):
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"^{name}:\\s*(\\d+) kB", status, re.MULTILINE)[1])

def begin():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")

network = models.create(settings["name"], generator=torch.Generator().manual_seed(0))
Denoiser(network, max_pixels=1024).run(np.zeros((32, 32, 3), np.uint8))
network.release()
"""


def measure(script: str, **settings: Any) -> dict[str, Any]:
    """What the script prints, in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", HEAD + script, json.dumps(settings)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return dict(json.loads(run.stdout))


# The model


PEAK = """
side = settings["side"]
image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
out = np.ones_like(image)
denoiser = Denoiser(network, max_pixels=side * side, options=Options(tta=settings["tta"]))
before = begin()
denoiser.run(image, out)
print(json.dumps({"peak": resident("VmHWM") - before}))
"""


@LINUX
@pytest.mark.parametrize("heap", [None, 32 * MIB])  # glibc chooses; all blocks share one heap
@pytest.mark.parametrize("name", models.architectures())
@pytest.mark.parametrize(("side", "tta"), [(128, False), (512, False), (512, True)])
def test_a_tile_takes_what_the_model_says(
    monkeypatch, name: str, side: int, tta: bool, heap: int | None
) -> None:
    """No more; and where pixels decide, not much less."""
    if heap is not None:
        monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(heap))
    need = Need.of(models.create(name), tta=tta)
    said = need.fixed + need.pixel * side**2
    peak = measure(PEAK, name=name, side=side, tta=tta)["peak"]
    assert peak <= said
    if side == 512:
        assert peak >= said / 3


def test_more_memory_takes_more_pixels_up_to_what_is_fast() -> None:
    network = models.create("unet")
    found = [Denoiser(network, max_memory=m * MIB).max_pixels for m in (1, 64, 150, 200, 4096)]
    assert found == sorted(found)
    assert found[0] == 1  # the smallest tile
    assert 1000 < found[2] < found[3] < MAX_PIXELS == found[4]


# The bound


BOUND = """
photograph = Photograph(settings["height"], settings["width"])
options = Options(keep_mean=settings["keep_mean"])
denoiser = Denoiser(network, max_memory=settings["memory"], options=options)
before = begin()
result = denoiser.run(photograph)
grown = resident("VmHWM") - before
again = Photograph(*photograph.shape[:2])
part = slice(300, 700), slice(900, 1200)
near = Denoiser(network).run(again[slice(0, 1000), slice(600, 1500)]).pixels
largest = np.abs(result.pixels[part].astype(int) - near[300:700, 300:600]).max()
print(json.dumps({
    "grown": grown,
    "kind": type(result.pixels).__name__,
    "read": photograph.read / (photograph.shape[0] * photograph.shape[1]),
    "largest": int(largest),
    "drift": result.drift,
}))
"""


@LINUX
@pytest.mark.parametrize("keep_mean", [False, True])
def test_a_large_image_stays_within_the_bound(keep_mean: bool) -> None:
    """It decodes lazily and is 43 MB as pixels; the result, as large, goes to a scratch file."""
    found = measure(
        BOUND, name="seed", height=2400, width=6000, memory=64 * MIB, keep_mean=keep_mean
    )
    assert found["kind"] == "Scratch"
    assert found["grown"] <= 64 * MIB
    assert found["read"] < 1.3  # bands of rows are decoded once, margins twice
    if keep_mean:
        assert abs(found["drift"]) < 0.01
    else:
        assert found["largest"] <= 1  # the same pixels as a part of it, denoised alone


# Limits


LIMITED = """
image = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
expected = Denoiser(network).run(image).pixels
network.release()
begin()
said = []
denoiser = Denoiser(network, max_pixels=1 << 20, warn=said.append)
size = resident("VmSize")
resource.setrlimit(resource.RLIMIT_AS, (size + settings["room"], resource.RLIM_INFINITY))
found = denoiser.run(image).pixels
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
difference = np.abs(found.astype(int) - expected)
print(json.dumps({"said": said, "max_pixels": denoiser.max_pixels, "largest": int(difference.max()),
                  "share": float((difference > 0).mean())}))
"""


@LINUX
@pytest.mark.parametrize("name", models.architectures())
def test_memory_that_runs_out_for_real(name: str) -> None:
    """The address space ends (ulimit -v): smaller tiles, said once, and the same picture."""
    found = measure(LIMITED, name=name, room=40 * MIB)
    (line,) = found["said"]
    assert line.startswith("memory ran out with ")
    assert found["max_pixels"] <= 1 << 19
    assert found["largest"] <= 1
    assert found["share"] < 1e-3


def test_the_limit_of_the_process_is_seen() -> None:
    script = """
resource.setrlimit(resource.RLIMIT_AS, (resident("VmSize") + (40 << 20), resource.RLIM_INFINITY))
from n2n.memory import available
print(json.dumps({"free": available()}))
"""
    assert 30 * MIB < measure(script, name="seed")["free"] <= 40 * MIB


# What is free


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system that says nothing yet."""
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_system_that_says_nothing(system: Path) -> None:
    assert available() == memory.UNKNOWN
    assert fair_part() == memory.UNKNOWN // 2


def test_memory_of_the_host(system: Path) -> None:
    write(system / "proc/meminfo", "MemTotal: 9 kB\nMemFree: 1 kB\nMemAvailable:    8000 kB\n")
    assert available() == 8000 * 1024


def test_control_groups_of_version_2(system: Path) -> None:
    """Any group above may be the tightest; what files have cached there does not count."""
    write(system / "proc/meminfo", "MemAvailable: 9000000 kB\n")
    write(system / "proc/self/cgroup", "0::/user/job\n")
    write(system / "cgroup/user/job/memory.max", "max\n")
    write(system / "cgroup/user/job/memory.current", "500\n")
    assert available() == 9000000 * 1024
    write(system / "cgroup/user/memory.max", "4000000\n")
    write(system / "cgroup/user/memory.current", "1000000\n")
    assert available() == 3_000_000
    write(system / "cgroup/user/memory.stat", "anon 5\ninactive_file 600000\n")
    assert available() == 3_600_000
    write(system / "cgroup/user/memory.current", "9000000\n")
    assert available() == 0


def test_control_groups_of_version_1(system: Path) -> None:
    write(system / "proc/meminfo", "MemAvailable: 9000000 kB\n")
    write(system / "proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/ab\n")
    write(system / "cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    write(system / "cgroup/memory/memory.usage_in_bytes", "70\n")
    assert available() == 9000000 * 1024
    write(system / "cgroup/memory/memory.limit_in_bytes", "4000000\n")
    write(system / "cgroup/memory/memory.stat", "total_inactive_file 30\n")
    assert available() == 4_000_000 - 70 + 30


def test_the_real_one() -> None:
    assert 100 * MIB < available() < 1 << 46
    assert fair_part() == pytest.approx(available() / 2, rel=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_of_a_gpu() -> None:
    before = available("cuda")
    kept = torch.zeros(1 << 28, dtype=torch.uint8, device="cuda")
    assert before - available("cuda") == pytest.approx(len(kept), rel=0.1)
