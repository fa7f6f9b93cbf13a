"""An epoch of the trainer over its bare steps: what reading, shuffling and converting add."""

import statistics
import tempfile
import time
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from n2n.data import PairSet
from n2n.data.format import Provenance
from n2n.data.writer import write_arrays
from n2n.trainer import Trainer

from .contestants import Own, draw_batch
from .plan import Plan, Report, bound_of, judged

__all__ = ["draw_set", "measure"]

NETWORK = "seed"
PAIRS, EPOCHS, STEPS = 50_000, 3, 60
QUICK_PAIRS, QUICK_EPOCHS, QUICK_STEPS = 200, 1, 3


def measure(plan: Plan, report: Report) -> dict[str, Any]:
    """Epochs of the published recipe, each between two bursts of steps on a batch in memory."""
    epochs = QUICK_EPOCHS if plan.quick else EPOCHS
    with tempfile.TemporaryDirectory(prefix="n2n-bench-") as folder:
        report(f"epoch: {'drawing pairs' if plan.pairs is None else 'reading'}", 0, epochs)
        path = plan.pairs
        if path is None:
            path = draw_set(Path(folder) / "set", QUICK_PAIRS if plan.quick else PAIRS, plan.size)
        pairs = PairSet.open(path)
        config = replace(plan.config(NETWORK), epochs=epochs)
        bursts = Bursts(plan, QUICK_STEPS if plan.quick else STEPS)
        seconds: list[float] = []

        def after_epoch(line: dict[str, Any]) -> None:
            seconds.append(line["seconds"])
            bursts.measure()
            report("epoch", len(seconds), epochs)

        trainer = Trainer(config, pairs, Path(folder) / "run", on_epoch=after_epoch)
        bursts.measure()
        trainer.train()
    steps = trainer.steps_per_epoch
    ratios = [
        taken / (steps * statistics.median(before + after))
        for taken, (before, after) in zip(seconds, pairwise(bursts.times), strict=True)
    ]
    return {
        "network": NETWORK,
        "precision": config.precision,
        "set": "random pairs" if plan.pairs is None else str(plan.pairs),
        "pairs": pairs.train.rows,
        "batch": config.batch_size,
        "steps": steps,
        "epoch_seconds": [round(taken, 4) for taken in seconds],
        "step_ms": round(1e3 * statistics.median(chain.from_iterable(bursts.times)), 4),
        "ratios": [round(value, 4) for value in ratios],
        **judged(statistics.median(ratios), bound_of("epoch", NETWORK, config.precision)),
    }


class Bursts:
    """Seconds of bare steps, some at a time."""

    def __init__(self, plan: Plan, steps: int) -> None:
        config = plan.config(NETWORK)
        self.side = Own(config)
        self.batch = draw_batch(config, plan.size)
        self.steps = steps
        self.on_gpu = torch.device(plan.device).type == "cuda"
        self.times: list[list[float]] = []
        self.measure()  # a warm-up
        self.times.clear()

    def measure(self) -> None:
        taken = []
        for _ in range(self.steps):
            started = time.perf_counter()
            self.side.step(*self.batch)
            if self.on_gpu:
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - started)
        self.times.append(taken)


def draw_set(folder: Path, rows: int, size: int) -> Path:
    """A set of random pairs (3, size, size) without validation, for time alone."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    columns = {
        name: rng.integers(0, 256, (rows, 3, size, size), dtype=np.uint8)
        for name in ("input", "target")
    }
    write_arrays(folder / "train", columns, Provenance("n2n bench", None, {}, 0, "noisy", ()))
    return folder
