"""Training: epochs of steps over shuffled pairs, scored, saved, and resumed to the bit."""

import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from n2n import models
from n2n.checkpoint import save_model
from n2n.data import PairSet
from n2n.data.augmentation import Augmentation
from n2n.errors import Diverged, Interrupted, InvalidValue, ShapeError
from n2n.evaluation import Scores, evaluate, to_float
from n2n.models import Network
from n2n.nn import (
    SGD,
    Adam,
    AdamW,
    ConstantSchedule,
    CosineSchedule,
    L1Loss,
    MSELoss,
    Optimizer,
    StepSchedule,
)
from n2n.run import Position, RunDirectory

__all__ = ["TrainConfig", "Trainer", "train_step"]

Schedule = Callable[[int], float]
Loss = MSELoss | L1Loss
LOSSES: dict[str, type[Loss]] = {"mse": MSELoss, "l1": L1Loss}
OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "step", "cosine")
LARGEST = 3e38  # about the largest float32
AUGMENTATION = 2  # what a random stream is for; 0 and 1 are the order's (n2n.data.batches)


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of a run. The defaults are the published recipe.

    momentum is SGD's; weight_decay is every optimiser's. warmup: epochs of the cosine schedule's
    rise. decay_epochs, decay: the step schedule multiplies lr by `decay` every so many epochs.
    memory_limit: bytes of pairs held in memory; a larger set streams. checkpoint_seconds: between
    checkpoints inside an epoch. InvalidValue names the setting that cannot be used.
    """

    model: str = "seed"
    model_config: dict[str, int] = field(default_factory=dict)
    epochs: int = 50
    batch_size: int = 100
    optimizer: str = "sgd"
    lr: float = 5.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: float = 0.0
    decay_epochs: int = 20
    decay: float = 0.1
    loss: str = "mse"
    flips: bool = False
    turns: bool = False
    swap: bool = False
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    memory_limit: int = 2 << 30
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        _require_among("model", self.model, models.architectures())
        _require_among("optimizer", self.optimizer, OPTIMIZERS)
        _require_among("schedule", self.schedule, SCHEDULES)
        _require_among("loss", self.loss, LOSSES)
        for name in ("epochs", "batch_size", "threads", "decay_epochs", "memory_limit"):
            if getattr(self, name) < 1:
                raise InvalidValue(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "momentum", "weight_decay", "warmup", "decay", "checkpoint_seconds"):
            value = getattr(self, name)
            if not 0 <= value <= LARGEST:
                raise InvalidValue(f"{name} must be a finite number, not negative, got {value}")
        if not self.decay:
            raise InvalidValue(f"decay must be above 0, got {self.decay}")
        if not 0 <= self.seed < 1 << 64:
            raise InvalidValue(f"seed must be from 0 to 2^64 - 1, got {self.seed}")
        if self.momentum and self.optimizer != "sgd":
            raise InvalidValue(f"momentum is sgd's, got {self.momentum} for {self.optimizer}")
        if self.schedule == "cosine" and self.warmup >= self.epochs:
            raise InvalidValue(f"warmup must be below epochs ({self.epochs}), got {self.warmup}")

    @property
    def may_change(self) -> frozenset[str]:
        """The settings that may differ when a run is resumed: none that an epoch done rests on."""
        names = {"set", "device", "threads", "checkpoint_seconds"}
        return frozenset(names if self.schedule == "cosine" else names | {"epochs"})

    def make_network(self, channels: int) -> Network:
        """The network, initialised from `seed`."""
        generator = torch.Generator().manual_seed(self.seed)
        config = {"channels": channels, **self.model_config}
        if config["channels"] != channels:
            raise InvalidValue(
                f"the set has images of {channels} channels, got channels={config['channels']}"
            )
        return models.create(self.model, generator=generator, **config).to(self.device)

    def make_optimizer(self, network: Network) -> Optimizer:
        if self.optimizer == "sgd":
            return SGD(network.param(), self.lr, self.momentum, weight_decay=self.weight_decay)
        kind = Adam if self.optimizer == "adam" else AdamW
        return kind(network.param(), self.lr, weight_decay=self.weight_decay)

    def make_schedule(self, steps_per_epoch: int) -> Schedule:
        if self.schedule == "constant":
            return ConstantSchedule(self.lr)
        if self.schedule == "step":
            return StepSchedule(self.lr, self.decay_epochs * steps_per_epoch, self.decay)
        return CosineSchedule(
            self.lr, self.epochs * steps_per_epoch, int(self.warmup * steps_per_epoch)
        )


def train_step(
    network: Network, loss: Loss, optimizer: Optimizer, inputs: Tensor, targets: Tensor
) -> float:
    """One step on a batch (N, C, H, W) in [0, 1]; returns the loss before it.

    Diverged, with the parameters as they were, if the loss is not finite.
    """
    value = float(loss(network(inputs), targets))
    if not math.isfinite(value):
        raise Diverged(f"the loss is {value}")
    optimizer.zero_grad()
    network.backward(loss.backward())
    optimizer.step()
    return value


class Trainer:
    """Trains a network on a pair set, in a run directory that it can be resumed from.

    `on_batch(images)` hears of every batch, `on_epoch(line)` of every epoch and its metrics.
    `stop` may be set to True at any time: the batch ends, a checkpoint is written, and `train`
    raises Interrupted.
    """

    def __init__(
        self,
        config: TrainConfig,
        pairs: PairSet,
        run: Path,
        *,
        on_batch: Callable[[int], None] = lambda images: None,
        on_epoch: Callable[[dict[str, Any]], None] = lambda line: None,
    ) -> None:
        self.config = config
        self.pairs = pairs
        self.on_batch = on_batch
        self.on_epoch = on_epoch
        self.stop = False
        channels, height, width = pairs.shape
        if config.turns and height != width:
            raise InvalidValue(
                f"turns needs square images, the set has {height}x{width}; switch turns off"
            )
        if config.swap and pairs.train.target != "noisy":
            raise InvalidValue(
                f"swap needs two noisy views, the set's target is {pairs.train.target}; "
                "switch swap off"
            )
        multiple = models.size_multiple(config.model, **config.model_config)
        if height % multiple or width % multiple:
            raise ShapeError(
                f"the network {config.model} takes sizes that are multiples of {multiple}, the set "
                f"has images of {height}x{width}; build it with another --size"
            )
        self.network = config.make_network(channels)
        self.optimizer = config.make_optimizer(self.network)
        self.loss = LOSSES[config.loss]()
        self.steps_per_epoch = pairs.train.num_batches(config.batch_size)
        self.schedule = config.make_schedule(self.steps_per_epoch)
        self.augment = Augmentation(flips=config.flips, turns=config.turns, swap=config.swap)
        self.run = RunDirectory(run)
        settings = {"set": str(pairs.path), "digest": pairs.digest, **asdict(config)}
        self.position = Position()
        with self.run.locked():
            if self.run.begin(settings, may_change=config.may_change):
                self.position = self.run.restore(self.network, self.optimizer)

    @property
    def resumed(self) -> bool:
        """Whether the run had begun before."""
        return self.position != Position()

    def train(self) -> list[dict[str, Any]]:
        """Train to the last epoch; returns the metrics of all epochs.

        Diverged stops before the step, with the last checkpoint kept; Interrupted after `stop`;
        RunConflict if another process trains in the same directory.
        """
        self.network.skip_input_gradient()
        try:
            with self.run.locked():
                while self.position.epoch < self.config.epochs:
                    self._train_epoch()
                    self._finish_epoch()
        finally:
            self.network.skip_input_gradient(False)
        return self.run.metrics

    def _train_epoch(self) -> None:
        """The steps of one epoch, from wherever the position stands in it."""
        self.network.train()
        started = saved = time.monotonic()
        compute, spent = 0.0, self.position.seconds
        begin = self.position
        batches = self.pairs.train.batches(
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            epoch=begin.epoch,
            start=begin.batch,
            memory_limit=self.config.memory_limit,
        )
        for inputs, targets in batches:
            x, y = self._prepare(inputs, targets)
            before = time.monotonic()
            value = self._step(x, y)
            now = time.monotonic()
            compute += now - before
            self.position = replace(
                self.position,
                batch=self.position.batch + 1,
                loss_sum=self.position.loss_sum + value * len(inputs),
                images=self.position.images + len(inputs),
                seconds=spent + now - started,
                compute_seconds=begin.compute_seconds + compute,
            )
            self.on_batch(len(inputs))
            if self.stop:
                self._require_finite()
                self._checkpoint(self.run.last_path)
                raise Interrupted(
                    f"stopped after batch {self.position.batch} of epoch {begin.epoch + 1}, which "
                    f"is saved in {self.run.path}; run the same command again to go on"
                )
            if now - saved > self.config.checkpoint_seconds:
                self._require_finite()
                self._checkpoint(self.run.last_path)
                saved = now

    def _prepare(self, inputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
        """uint8 batches (N, C, H, W), augmented, as floats on the device."""
        place = (self.config.seed, self.position.epoch, AUGMENTATION, self.position.batch)
        inputs, targets = self.augment(inputs, targets, np.random.default_rng(place))
        return to_float(inputs, self.config.device), to_float(targets, self.config.device)

    def _step(self, x: Tensor, y: Tensor) -> float:
        batch = self.position.batch
        self.optimizer.lr = self._lr(batch)
        try:
            return train_step(self.network, self.loss, self.optimizer, x, y)
        except Diverged as error:
            raise self._diverged(str(error), batch + 1) from error

    def _lr(self, batch: int) -> float:
        """The learning rate of a batch of this epoch."""
        return self.schedule(self.position.epoch * self.steps_per_epoch + batch)

    def _diverged(self, what: str, batch: int) -> Diverged:
        kept = f"the last good checkpoint stays in {self.run.path}; "
        return Diverged(
            f"{what} in epoch {self.position.epoch + 1}, batch {batch}, at lr "
            f"{self._lr(batch - 1):g}; {kept if self.run.last_path.exists() else ''}try a "
            "lower --lr, or --optimizer adamw --lr 0.001 --schedule cosine, in a new --run"
        )

    def _require_finite(self) -> None:
        """Diverged, before anything is saved, if the last step left a parameter not finite."""
        for name, parameter in self.network.named_parameters().items():
            if not bool(parameter.value.isfinite().all()):
                raise self._diverged(f"{name} is not finite after a step", self.position.batch)

    def _finish_epoch(self) -> None:
        """Score, record, save; `best` and the model file when the score is the best so far."""
        self._require_finite()
        done = self.position
        before = time.monotonic()
        scores: Scores | None = None
        if self.pairs.val is not None:
            scores = evaluate(self.network, self.pairs.val, device=self.config.device)
            if not math.isfinite(scores.loss):
                raise self._diverged(f"the validation loss is {scores.loss}", done.batch)
        line: dict[str, Any] = {
            "epoch": done.epoch + 1,
            "lr": self._lr(self.steps_per_epoch - 1),
            "train_loss": done.loss_sum / done.images,
            "seconds": round(done.seconds, 3),
            "compute_seconds": round(done.compute_seconds, 3),
            "validation_seconds": round(time.monotonic() - before, 3),
            "images_per_second": round(done.images / done.seconds, 1),
        }
        if scores is not None:
            line["val"] = scores.as_dict()
        self.run.add_metrics(line)
        selection = scores.selection if scores is not None else -done.loss_sum / done.images
        better = done.best is None or selection > done.best
        self.position = Position(
            epoch=done.epoch + 1,
            best=selection if better else done.best,
            best_epoch=done.epoch + 1 if better else done.best_epoch,
        )
        if better:
            self._checkpoint(self.run.best_path, scores)
            save_model(self.run.model_path, self.network, self._metadata(scores))
        self._checkpoint(self.run.last_path)
        self.on_epoch(line)

    def _checkpoint(self, path: Path, scores: Scores | None = None) -> None:
        place = {"position": self.position.as_dict()}
        self.run.save(path, self.network, self.optimizer, {**self._metadata(scores), **place})

    def _metadata(self, scores: Scores | None) -> dict[str, Any]:
        return {
            "training": {
                **asdict(self.config),
                "epochs_done": self.position.epoch,
                "images": self.pairs.train.rows,
            },
            "noise": self.pairs.noise,
            "digest": self.pairs.digest,
            "scores": scores.as_dict() if scores is not None else None,
            "versions": versions(),
        }


def versions() -> dict[str, str]:
    """Of what a result rests on."""
    try:
        own = metadata.version("n2n")
    except metadata.PackageNotFoundError:  # run from a folder that was not installed
        own = "unknown"
    return {"n2n": own, "torch": torch.__version__, "python": platform.python_version()}


def _require_among(name: str, value: str, known: Any) -> None:
    if value not in known:
        raise InvalidValue(f"{name} must be one of {', '.join(known)}, got {value!r}")
