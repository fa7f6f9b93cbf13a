"""Peak memory of train steps: how far the process grows beyond what it held before them.

Each side runs in a fresh process. The first steps are not counted, since they pay for what stays
as it is for ever: generated code and buffers of libraries, the optimiser's state. Then a side
releases what it keeps from step to step, free memory goes back to the system, so that nothing can
hide in it, and the count begins. On a GPU it is torch's own count.
"""

import ctypes
import gc
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from n2n.config import TrainConfig
from n2n.device import keep_freed_memory, set_threads
from n2n.errors import JobFailed

from .contestants import draw_batch, make_side
from .plan import Plan, Report, bound_of, judged
from .timing import ratio

__all__ = ["begin", "in_fresh_process", "measure", "peak", "peak_of", "resident"]

STEPS = 3
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RIVALS = ("eager", "channels_last")  # a compiler's own memory would count against torch.compile


def measure(plan: Plan, report: Report) -> list[dict[str, Any]]:
    """The peak of each network's step at each precision against the twin's least."""
    cases = [(network, precision) for network in plan.networks for precision in plan.precisions]
    sides = ("n2n", *RIVALS)
    results = []
    for done, (network, precision) in enumerate(cases):
        config = plan.config(network, precision)
        peaks = {}
        for number, side in enumerate(sides):
            report(f"memory {network} {precision}", done * len(sides) + number, len(cases) * 3)
            peaks[side] = in_fresh_process("memory", [asdict(config), side, plan.size])
        least, value = ratio(peaks["n2n"], {side: peaks[side] for side in RIVALS})
        results.append(
            {
                "network": network,
                "precision": precision,
                "batch": config.batch_size,
                "size": plan.size,
                "peak_mib": {side: round(peak / 2**20, 2) for side, peak in peaks.items()},
                "least": least,
                **judged(value, bound_of("memory", network, precision)),
            }
        )
    report("memory", len(cases) * 3, len(cases) * 3)
    return results


def peak_of(config: TrainConfig, side: str, size: int) -> int:
    """Bytes by which this process grows at most over a few steps of a side."""
    set_threads(config.threads)
    keep_freed_memory()
    contestant = make_side(config, side)
    x, y = (contestant.prepare(tensor) for tensor in draw_batch(config, size))
    for _ in range(STEPS):
        contestant.step(x, y)
    contestant.release()
    gc.collect()
    before = begin(config.device)
    for _ in range(STEPS):
        contestant.step(x, y)
    return peak(config.device) - before


def begin(device: str) -> int:
    """Start to count: bytes in use now."""
    return _begin_on_gpu() if torch.device(device).type == "cuda" else _begin()


def peak(device: str) -> int:
    """The most bytes that were in use since."""
    on_gpu = torch.device(device).type == "cuda"
    return torch.cuda.max_memory_allocated() if on_gpu else resident("VmHWM")


def _begin() -> int:
    """Hand free memory back, set the high-water mark to what is resident, and return it."""
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)
    CLEAR.write_text("5")  # Linux: resets the mark
    return resident("VmRSS")


def _begin_on_gpu() -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def resident(name: str) -> int:
    """VmRSS or VmHWM of this process, bytes."""
    found = re.search(rf"^{name}:\s*(\d+) kB", STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise JobFailed(f"expected {name} in {STATUS}, found none; memory is measured on Linux")
    return 1024 * int(found[1])


def in_fresh_process(module: str, settings: list[Any]) -> Any:
    """What a module of this package prints as JSON, run as a script with those settings."""
    package = Path(__file__).resolve().parent
    places = [str(package.parent), str(package.parents[1]), os.environ.get("PYTHONPATH", "")]
    run = subprocess.run(
        [sys.executable, "-m", f"bench.{module}", json.dumps(settings)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        lines = run.stderr.splitlines()
        reason = lines[-1] if lines else f"no reason given, exit status {run.returncode}"
        raise JobFailed(f"{module} of {settings[1]} {settings[0]['model']}: {reason}")
    return json.loads(run.stdout)


if __name__ == "__main__":
    settings, chosen, pixels = json.loads(sys.argv[1])
    print(peak_of(TrainConfig(**settings), chosen, pixels))
