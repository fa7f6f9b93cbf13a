"""Training: epochs of steps over shuffled pairs, scored, saved, and resumed to the bit."""

import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from n2n import models
from n2n.checkpoint import save_model
from n2n.config import TrainConfig, unusable
from n2n.data import PairSet
from n2n.data.augmentation import Augmentation
from n2n.device import set_deterministic, use_precision
from n2n.errors import Diverged, Interrupted, InvalidValue, ShapeError
from n2n.evaluation import Scores, evaluate
from n2n.models import Network
from n2n.nn import Loss, Optimizer
from n2n.pipeline import feed
from n2n.run import Position, RunDirectory

__all__ = ["TrainConfig", "Trainer", "late_step", "train_step"]

AUGMENTATION = 2  # what a random stream is for; 0 and 1 are the order's (n2n.data.batches)
LATE = 25  # steps between reading losses, where they are read late


def train_step(
    network: Network, loss: Loss, optimizer: Optimizer, inputs: Tensor, targets: Tensor
) -> float:
    """One step on a batch (N, C, H, W) in [0, 1]; returns the loss before it.

    Diverged, with the parameters as they were, if the loss is not finite.
    """
    value = float(loss(network(inputs), targets))
    if not math.isfinite(value):
        raise Diverged(f"the loss is {value}")
    _descend(network, loss, optimizer)
    return value


def late_step(
    network: Network, loss: Loss, optimizer: Optimizer, inputs: Tensor, targets: Tensor
) -> Tensor:
    """`train_step` that waits for nothing: the loss stays on the device, and nobody looks at it."""
    value = loss(network(inputs), targets)
    _descend(network, loss, optimizer)
    return value


def _descend(network: Network, loss: Loss, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    network.backward(loss.backward())
    optimizer.step()


class Trainer:
    """Trains a network on a pair set, in a run directory that it can be resumed from.

    `on_batch(images)` hears of every batch, `on_epoch(line)` of every epoch and its metrics.
    `stop` may be set to True at any time: the batch ends, a checkpoint is written, and `train`
    raises Interrupted.

    asynchronous: prepare batches in a thread of its own, and read losses late, every 25 steps and
    before anything is saved. So a GPU never waits for the host, and a loss that is not finite
    stops at most 24 steps later than it could; it names its own batch, and nothing is saved
    meanwhile. The weights are the same bit for bit. None: on a GPU (not yet run on one).
    """

    def __init__(
        self,
        config: TrainConfig,
        pairs: PairSet,
        run: Path,
        *,
        on_batch: Callable[[int], None] = lambda images: None,
        on_epoch: Callable[[dict[str, Any]], None] = lambda line: None,
        asynchronous: bool | None = None,
    ) -> None:
        on_gpu = torch.device(config.device).type == "cuda"
        self.asynchronous = on_gpu if asynchronous is None else asynchronous
        self.config = config
        self.pairs = pairs
        self.on_batch = on_batch
        self.on_epoch = on_epoch
        self.stop = False
        channels, height, width = pairs.shape
        for name, reason in unusable(pairs).items():
            if getattr(config, name):
                raise InvalidValue(f"{name} {reason}; switch {name} off")
        multiple = models.size_multiple(config.model, **config.model_config)
        if height % multiple or width % multiple:
            raise ShapeError(
                f"the network {config.model} takes sizes that are multiples of {multiple}, the set "
                f"has images of {height}x{width}; build it with another --size"
            )
        compute_dtype = use_precision(config.precision, config.device, training=True)
        set_deterministic(config.device)
        self.network = config.make_network(channels).compute_in(compute_dtype)
        self.optimizer = config.make_optimizer(self.network)
        self.loss = config.make_loss()
        self._unread: list[tuple[Tensor, int]] = []  # losses of the last batches, and their images
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
            self.network.release()
        return self.run.metrics

    def _train_epoch(self) -> None:
        """The steps of one epoch, from wherever the position stands in it."""
        self.network.train()
        started = saved = time.monotonic()
        compute, begin = 0.0, self.position
        self._unread.clear()
        batches = feed(self._batches(), self.config.device, threaded=self.asynchronous)
        with closing(batches):
            for x, y in batches:
                before = time.monotonic()
                self._step(x, y)
                now = time.monotonic()
                compute += now - before
                self.position = replace(
                    self.position,
                    batch=self.position.batch + 1,
                    images=self.position.images + len(x),
                    seconds=begin.seconds + now - started,
                    compute_seconds=begin.compute_seconds + compute,
                )
                self.on_batch(len(x))
                due = now - saved > self.config.checkpoint_seconds
                if self.stop or due:
                    self._require_finite()
                    self._checkpoint(self.run.last_path)
                    saved = now
                if self.stop:
                    raise Interrupted(
                        f"stopped after batch {self.position.batch} of epoch {begin.epoch + 1}, "
                        f"which is saved in {self.run.path}; run the same command again to go on"
                    )
        self._read_losses(self.position.batch)  # waits for a GPU, whose time is then known
        self.position = replace(self.position, seconds=begin.seconds + time.monotonic() - started)

    def _batches(self) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        """The epoch's batches from the position on, augmented: uint8 (N, C, H, W) each."""
        config, begin = self.config, self.position
        batches = self.pairs.train.batches(
            batch_size=config.batch_size,
            seed=config.seed,
            epoch=begin.epoch,
            start=begin.batch,
            memory_limit=config.memory_limit,
        )
        for number, (inputs, targets) in enumerate(batches, start=begin.batch):
            place = (config.seed, begin.epoch, AUGMENTATION, number)
            yield self.augment(inputs, targets, np.random.default_rng(place))

    def _step(self, x: Tensor, y: Tensor) -> None:
        """One step; its loss is added to the position's, at once or late."""
        batch = self.position.batch
        self.optimizer.lr = self._lr(batch)
        self.loss.anneal((self.position.epoch + batch / self.steps_per_epoch) / self.config.epochs)
        arguments = self.network, self.loss, self.optimizer, x, y
        if self.asynchronous:
            self._unread.append((late_step(*arguments), len(x)))
            if len(self._unread) == LATE:
                self._read_losses(batch + 1)
            return
        try:
            self._count_loss(train_step(*arguments), len(x))
        except Diverged as error:
            raise self._diverged(str(error), batch + 1) from error

    def _read_losses(self, batches: int) -> None:
        """Wait for the losses not read yet, of the last of so many batches. Diverged names one."""
        if not self._unread:
            return
        values = torch.stack([value for value, _ in self._unread]).tolist()
        first = batches - len(values) + 1
        for batch, (value, (_, images)) in enumerate(zip(values, self._unread, strict=True), first):
            if not math.isfinite(value):
                raise self._diverged(f"the loss is {value}", batch)
            self._count_loss(value, images)
        self._unread.clear()

    def _count_loss(self, value: float, images: int) -> None:
        self.position = replace(self.position, loss_sum=self.position.loss_sum + value * images)

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
        """Diverged, before anything is saved, for a loss not read yet or a parameter."""
        self._read_losses(self.position.batch)
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
