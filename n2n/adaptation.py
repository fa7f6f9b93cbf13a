"""Fitting a model to the noisy images that it is to denoise, within minutes."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from n2n.checkpoint import load_model
from n2n.config import TrainConfig
from n2n.data import SingleSet
from n2n.errors import Interrupted, InvalidValue
from n2n.evaluation import evaluate
from n2n.files import replacing
from n2n.start import Start
from n2n.trainer import Trainer

__all__ = ["Adaptation", "adapt"]

# A rate that a trained network bears without forgetting, and an average that steadies it.
SETTINGS: dict[str, Any] = {
    "optimizer": "adamw",
    "weight_decay": 0.0,
    "schedule": "constant",
    "batch_size": 32,
    "ema": 0.99,
    "turns": True,
    "epochs": 1_000_000,  # it is the time that ends it
}


@dataclass(frozen=True)
class Adaptation:
    """What came of it. before, after: mean squared error between sub-samples of the held-out
    images, of the model at its beginning and of the best since."""

    model: Path
    before: float
    after: float
    epochs: int
    best_epoch: int  # 0: the model as it was


def adapt(
    pairs: SingleSet,
    model: Path,
    run: Path,
    *,
    minutes: float,
    lr: float,
    on_epoch: Callable[[dict[str, Any]], None] = lambda line: None,
    on_trainer: Callable[[Trainer], None] = lambda trainer: None,
    **settings: Any,
) -> Adaptation:
    """Train `model` on single noisy images for so many minutes, in the directory `run`.

    run/model.safetensors is the best by the held-out images, and the model as it was until one is
    better. The same call again goes on. settings: further ones of `TrainConfig`. on_trainer hears
    of the trainer before it begins, which may be stopped by its `stop` (Interrupted).
    """
    if not 0 < minutes <= 60 * 24 * 365:
        raise InvalidValue(f"minutes must be above 0 and at most a year's, got {minutes:g}")
    start = Start.read(model)
    config = TrainConfig.of(**start.settings({**SETTINGS, "lr": lr, **settings}))
    trainer = Trainer(config, pairs, run, on_epoch=on_epoch, start=model)
    network, _ = load_model(model)
    before = evaluate(network.to(config.device), pairs.val, device=config.device).selection
    if not trainer.resumed:
        trainer.position = replace(trainer.position, best=before, best_epoch=0)
        with replacing(trainer.run.model_path) as temporary:
            shutil.copyfile(model, temporary)
    deadline = time.monotonic() + 60 * minutes
    timed_out = False

    def watch(images: int) -> None:
        nonlocal timed_out
        if not trainer.stop and time.monotonic() > deadline:
            timed_out = trainer.stop = True

    trainer.on_batch = watch
    on_trainer(trainer)
    try:
        trainer.train()
    except Interrupted:
        if not timed_out:
            raise
    position = trainer.position
    best = before if position.best is None else position.best
    epochs = position.epoch, position.best_epoch or 0
    return Adaptation(trainer.run.model_path, -before, -best, *epochs)
