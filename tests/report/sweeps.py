"""Sweeps without training: their directories, written as a sweep and its trials write them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from n2n.data import PairSet
from n2n.sweep import Space, SweepConfig, SweepDirectory

SPACE = {
    "model": ["seed", "unet"],
    "lr": {"log": [1e-4, 1.0]},
    "depth": {"int": [1, 2], "when": {"model": "unet"}},
    "loss": "mse",
}


def begin(path: Path, pairs: PairSet, *, trials: int = 8, metric: str = "psnr") -> SweepDirectory:
    directory = SweepDirectory(path)
    config = SweepConfig(trials=trials, max_epochs=4, metric=metric)
    directory.begin(config, Space.of(SPACE), pairs)
    return directory


def add_trial(
    directory: SweepDirectory,
    number: int,
    settings: dict[str, Any],
    scores: Sequence[float],
    state: str = "begun",
    reason: str | None = None,
    *,
    seconds: float = 1.0,
) -> None:
    """A trial with so many epochs as there are scores (PSNR in dB)."""
    run = directory.trial_path(number)
    run.mkdir(parents=True)
    config = {"set": "set", "preset": "fast", "epochs": 4, "schedule": "constant", "lr": 0.1}
    config |= {"model": "seed", "model_config": {}, "seed": 0, "threads": 1, "device": "cpu"}
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "memory_limit": 2**31}))
    lines = [
        {
            "epoch": epoch,
            "lr": 0.1,
            "train_loss": 10 ** (-score / 10),
            "seconds": seconds,
            "validation_seconds": 0.5,
            "val": {"loss": 10 ** (-score / 10), "mse": 10 ** (-score / 10), "psnr": score},
        }
        for epoch, score in enumerate(scores, 1)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    directory.add(number, "begun", settings=settings)
    if state != "begun":
        directory.add(number, state, reason=reason)
