"""What `n2n.batch` adds to the work itself: time over a bare loop, memory, workers, planning.

Each figure comes from fresh processes. A thread is one core; Ray's start is left out by counting
from the first tenth of the outcomes to the last.
"""

import json
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from jobs.processes.workers import Workers
from n2n import models
from n2n.batch import Batch, Item, Outcome, WorkerConfig, make_plan, settings_of
from n2n.batch.plan import Plan as Files
from n2n.checkpoint import load_model, save_model
from n2n.denoiser import Denoiser, denoise_file

from .memory import in_fresh_process, resident
from .plan import Plan, Report, bound_of, judged

__all__ = ["measure"]

NETWORK, SIDE = "seed", 64
IMAGES, QUICK_IMAGES = 10_000, 60
TURNS, QUICK_TURNS = 7, 1
FILES, QUICK_FILES = 100_000, 300
SETTLED = 10  # the memory is what it is after a tenth: image 1,000 of 10,000
MIB = 2**20


def measure(plan: Plan, report: Report) -> dict[str, Any]:
    """Ratios of time, growth of memory in MiB, milliseconds a file."""
    images, files = (QUICK_IMAGES, QUICK_FILES) if plan.quick else (IMAGES, FILES)
    turns = QUICK_TURNS if plan.quick else TURNS
    with tempfile.TemporaryDirectory(prefix="n2n-bench-") as name:
        folder = Path(name)
        report("batch: drawing images", 0, 5)
        draw(folder, images)
        report("batch: over a bare loop", 1, 5)
        ratios = in_fresh_process("batch", ["turns", name, turns, max(10, images // 10)])
        report("batch: memory", 2, 5)
        flat = in_fresh_process("batch", ["memory", name])
        report("batch: workers", 3, 5)
        rates = {
            side: statistics.median(
                in_fresh_process("batch", ["rate", name, workers, threads])
                for _ in range(1 if plan.quick else 3)
            )
            for side, workers, threads in (
                ("1 worker, 1 thread", 1, 1),
                ("1 worker, 2 threads", 1, 2),
                ("2 workers", 2, 1),
            )
        }
        report("batch: planning", 4, 5)
        planning = in_fresh_process("batch", ["planning", name, files])
    report("batch", 5, 5)
    return {
        "network": NETWORK,
        "images": images,
        "side": SIDE,
        "ratios": ratios,
        **judged(statistics.median(ratios), bound_of("batch", NETWORK, "fp32")),
        "memory": flat,
        "images_per_second": {side: round(rate, 1) for side, rate in rates.items()},
        "planning": planning,
    }


def draw(folder: Path, images: int) -> None:
    """A model, and a folder of noise."""
    network = models.create(NETWORK, generator=torch.Generator().manual_seed(0))
    save_model(folder / "model.safetensors", network, {})
    (folder / "in").mkdir()
    rng = np.random.default_rng(0)
    for number in range(images):
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(folder / "in" / f"{number:06d}.png")


def turns(folder: Path, count: int, images: int) -> list[float]:
    """Seconds of a batch over seconds of a loop over the same calls, in turns; one thread."""
    torch.set_num_threads(1)
    some = folder / "some"
    some.mkdir()
    for path in sorted((folder / "in").iterdir())[:images]:
        (some / path.name).hardlink_to(path)
    network, _ = load_model(folder / "model.safetensors")
    denoiser = Denoiser(network, device="cpu")
    ratios = []
    for turn in range(count + 1):
        times = [0.0, 0.0]
        for side in (turn % 2, 1 - turn % 2):
            started = time.perf_counter()
            if side:
                run(some, folder / "out", folder / "model.safetensors")
            else:
                (folder / "out").mkdir()
                for path in sorted(some.iterdir()):
                    denoise_file(denoiser, path, folder / "out" / path.name)
            times[side] = time.perf_counter() - started
            shutil.rmtree(folder / "out")
        ratios.append(round(times[1] / times[0], 4))
    return ratios[1:]  # the first ones warm up


def run(
    source: Path,
    output: Path,
    model: Path,
    settle: Callable[[Outcome], None] | None = None,
    *,
    workers: int = 1,
    threads: int = 1,
) -> None:
    """A whole batch, as the command does it."""
    plan = make_plan(str(source), str(output))
    config = WorkerConfig(str(model), str(source), str(output), device="cpu", threads=threads)
    batch = Batch(plan, config, settings_of(config), workers=workers, settle=settle)
    with ExitStack() as stack:
        execute, _ = Workers(workers).prepare(batch.config, stack, print)
        with batch:
            batch.run(execute)
    if batch.report.done != plan.files:
        raise RuntimeError(f"{plan.files} done expected, found {batch.report.done}")


def memory(folder: Path) -> dict[str, float]:
    """MiB of the process after a tenth of the images, and the most that it had after that."""
    seen: list[int] = []
    run(
        folder / "in",
        folder / "out",
        folder / "model.safetensors",
        lambda _: seen.append(resident("VmRSS")),
    )
    shutil.rmtree(folder / "out")
    after = seen[len(seen) // SETTLED :]
    return {"mib": round(after[0] / MIB, 1), "growth_mib": round((max(after) - after[0]) / MIB, 1)}


def rate(folder: Path, workers: int, threads: int) -> float:
    """Images a second, from the first tenth of the outcomes to the last."""
    times: list[float] = []
    model = folder / "model.safetensors"
    tell = lambda _: times.append(time.perf_counter())  # noqa: E731
    run(folder / "in", folder / "out", model, tell, workers=workers, threads=threads)
    shutil.rmtree(folder / "out")
    first = len(times) // SETTLED
    return (len(times) - 1 - first) / (times[-1] - times[first])


def planning(folder: Path, files: int) -> dict[str, float]:
    """Of tiny files: milliseconds a file to list, plan and record them, and to skip them later."""
    for number in range(files):
        path = folder / "tiny" / f"{number // 1000:04d}" / f"{number % 1000:03d}.png"
        if number % 1000 == 0:
            path.parent.mkdir(parents=True)
        path.touch()
    before = resident("VmRSS")
    first = without_work(folder)
    made = sum(1 for _ in (folder / "out").rglob("*.png"))
    second = without_work(folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "files": files,
        "made": made,
        "ms_per_file": round(1e3 * first / files, 4),
        "ms_per_skipped_file": round(1e3 * second / files, 4),
        "memory_mib": round((peak - before) / MIB, 1),
    }


def without_work(folder: Path) -> float:
    """Seconds of a batch whose worker only touches the outputs, in their folders."""
    started = time.perf_counter()
    source, output = str(folder / "tiny"), folder / "out"
    plan: Files = make_plan(source, str(output))
    config = WorkerConfig(str(folder / "model.safetensors"), source, str(output))
    spent = 0.0

    def execute(bunches: Iterable[Sequence[Item]]) -> Generator[Outcome, None, None]:
        nonlocal spent
        for bunch in bunches:
            begun = time.perf_counter()
            for item in bunch:
                (output / item.destination).parent.mkdir(exist_ok=True)
                (output / item.destination).touch()
            spent += time.perf_counter() - begun
            yield from (
                replace(Outcome(item, "done"), digest="0" * 64, output_size=0) for item in bunch
            )

    with Batch(plan, config, settings_of(config)) as batch:
        batch.run(execute)
    return time.perf_counter() - started - spent


if __name__ == "__main__":
    what, place, *rest = json.loads(sys.argv[1])
    roles = {"turns": turns, "memory": memory, "rate": rate, "planning": planning}
    print(json.dumps(roles[what](Path(place), *rest)))
