"""Training: epochs of steps over shuffled pairs, scored, saved, and resumed to the bit.

In one process, or in several that share every batch.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from n2n.checkpoint import save_model, weights_of
from n2n.config import TrainConfig
from n2n.data import SingleSet, StreamedSet, TrainingSet
from n2n.data.augmentation import Augmentation
from n2n.data.batches import WHOLE, Pair
from n2n.data.seeding import Purpose, generator
from n2n.descent import Descent
from n2n.device import set_deterministic, use_precision
from n2n.errors import Diverged, Interrupted
from n2n.evaluation import Scores, evaluate
from n2n.neighbours import GAMMA, neighbour_pair
from n2n.pipeline import feed
from n2n.position import Position, share_state
from n2n.provenance import describe_set, recorded, versions
from n2n.run import RunDirectory

if TYPE_CHECKING:
    from n2n.peers import Peers

__all__ = ["TrainConfig", "Trainer"]


class Trainer:
    """Trains a network on a pair set, in a run directory that it can be resumed from.

    start: the model file whose digest is config.start, and whose weights the run begins with; a
    run that has begun has a copy of it.

    `on_batch(images)` hears of every batch, `on_epoch(line)` of every epoch and its metrics.
    `stop` may be set to True at any time: the batch ends, a checkpoint is written, and `train`
    raises Interrupted.

    asynchronous: prepare batches in a thread of its own, and read losses late, every 25 steps and
    before anything is saved. So a GPU never waits for the host, and a loss that is not finite
    stops at most 24 steps later than it could; it names its own batch, and nothing is saved
    meanwhile. The weights are the same bit for bit. None: on a GPU (not yet run on one).

    peers: train together with other processes, each of which makes the same Trainer with its own
    peers and config.device. Each takes its share of every batch, and of the validation pairs'
    row groups; the batches are those of one process, and the weights are the same but for the
    rounding of sums. Rank 0 alone reads and writes the run directory, and has all metrics; the
    others get its state. `stop` in any process ends the same step in all (of asynchronous ones:
    the 25th, at the latest). PeerLost when another process is gone.
    """

    def __init__(
        self,
        config: TrainConfig,
        pairs: TrainingSet,
        run: Path,
        *,
        on_batch: Callable[[int], None] = lambda images: None,
        on_epoch: Callable[[dict[str, Any]], None] = lambda line: None,
        asynchronous: bool | None = None,
        peers: "Peers | None" = None,
        start: Path | None = None,
    ) -> None:
        on_gpu = torch.device(config.device).type == "cuda"
        self.asynchronous = on_gpu if asynchronous is None else asynchronous
        self.config = config
        self.pairs = pairs
        self.on_batch = on_batch
        self.on_epoch = on_epoch
        self.stop = False
        self.peers = peers
        self.leads = peers is None or peers.leads
        config.require_suited(pairs)
        compute_dtype = use_precision(config.precision, config.device, training=True)
        set_deterministic(config.device)
        self.network = config.make_network(pairs.shape[0]).compute_in(compute_dtype)
        self.descent = Descent(
            config, self.network, late=self.asynchronous, peers=peers, explain=self._diverged
        )
        self.steps_per_epoch = pairs.train.num_batches(config.batch_size)
        self.schedule = config.make_schedule(self.steps_per_epoch)
        self.augment = Augmentation(flips=config.flips, turns=config.turns, swap=config.swap)
        self.run = RunDirectory(run)
        self.position = Position()
        if self.leads:
            with self.run.locked():
                settings = config.settings(pairs)
                if self.run.begin(settings, may_change=config.may_change, start=start):
                    self.position = self.run.restore(self.descent.learner)
                elif config.start:
                    self.descent.learner.begin_with(weights_of(self.run.start_path))
        if peers is not None:
            self.position = share_state(peers, self.descent.learner, self.position)

    @property
    def resumed(self) -> bool:
        """Whether the run had begun before."""
        return self.position != Position()

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.position.is_end(epochs=self.config.epochs, patience=self.config.patience)

    @property
    def _regulariser_rises(self) -> bool:
        """Whether each epoch minimises another loss than the last, so that a later one is better
        although it is further from the neighbouring pixels, which all epochs are scored by."""
        return self.config.has_rising_regulariser(self.pairs)

    @property
    def parameters(self) -> int:
        """How many numbers the network has learned."""
        return sum(value.numel() for value, _ in self.network.param())

    def train(self) -> list[dict[str, Any]]:
        """Train to the end; returns the metrics of all epochs.

        Diverged stops before the step, with the last checkpoint kept; Interrupted after `stop`;
        RunConflict if another process trains in the same directory.
        """
        self.network.skip_input_gradient()
        try:
            with self._held():
                while not self.finished:
                    self._train_epoch()
                    self._finish_epoch()
        finally:
            self.network.skip_input_gradient(False)
            self.network.release()
        return self.run.metrics

    @contextmanager
    def _held(self) -> Iterator[None]:
        """What the leader does around its part of the run: others are kept out, it is recorded."""
        if not self.leads:
            yield
            return
        with self.run.locked(), self._recorded():
            yield

    def _recorded(self) -> AbstractContextManager[None]:
        """The block is a part of the run, in its provenance; not where nothing is left to do."""
        if self.finished:
            return nullcontext()
        facts = {
            "workers": self.peers.size if self.peers is not None else 1,
            "set": describe_set(self.pairs),
            "settings": asdict(self.config),
        }
        return recorded(
            self.run.provenance_path,
            facts,
            lambda: {"epoch": self.position.epoch, "batch": self.position.batch},
            device=self.config.device,
        )

    def _train_epoch(self) -> None:
        """The steps of one epoch, from wherever the position stands in it."""
        self.network.train()
        self.descent.begin_epoch(self.position.loss_sum)
        started = saved = time.monotonic()
        compute, begin = 0.0, self.position
        reduced = self._reduce_seconds
        threaded = self.asynchronous or isinstance(self.pairs, StreamedSet | SingleSet)
        batches = feed(self._batches(), self.config.device, threaded=threaded)
        with closing(batches):
            for x, y in batches:
                before, images = time.monotonic(), self._images(self.position.batch)
                self._step(x, y, images)
                now = time.monotonic()
                compute += now - before
                self.position = replace(
                    self.position,
                    batch=self.position.batch + 1,
                    loss_sum=self.descent.loss_sum,
                    images=self.position.images + images,
                    seconds=begin.seconds + now - started,
                    compute_seconds=begin.compute_seconds + compute,
                    reduce_seconds=begin.reduce_seconds + self._reduce_seconds - reduced,
                )
                self.on_batch(images)
                due = self.leads and now - saved > self.config.checkpoint_seconds
                stop = self.descent.is_stop_wished if self.peers is not None else self.stop
                if stop or due:
                    self._require_finite()
                    self._checkpoint(self.run.last_path)
                    saved = now
                if stop:
                    raise Interrupted(
                        f"stopped after batch {self.position.batch} of epoch {begin.epoch + 1}, "
                        f"which is saved in {self.run.path}; run the same command again to go on"
                    )
        self.descent.look(self.position.batch)  # waits for a GPU, whose time is then known
        self.position = replace(
            self.position,
            loss_sum=self.descent.loss_sum,
            seconds=begin.seconds + time.monotonic() - started,
        )

    def _step(self, x: Tensor, y: Tensor, images: int) -> None:
        """The step of the batch at which the position stands."""
        batch = self.position.batch
        done = self.position.epoch + batch / self.steps_per_epoch
        if isinstance(self.pairs, SingleSet):
            rng = generator(self.config.seed, Purpose.CELLS, self.position.epoch, batch)
            gamma = GAMMA * done / self.config.epochs if self._regulariser_rises else GAMMA
            x, y = neighbour_pair(self.network, x, rng, gamma=gamma)
        self.descent.step(
            *(x, y),
            images=images,
            batch=batch,
            lr=self._lr(batch),
            progress=done / self.config.epochs,
            stop=self.stop,
        )

    def _batches(self) -> Iterator[Pair]:
        """The epoch's batches from the position on, augmented: (N, C, H, W) each."""
        config, begin = self.config, self.position
        share = self.peers.share if self.peers is not None else WHOLE
        batches = self.pairs.train.batches(
            batch_size=config.batch_size,
            seed=config.seed,
            epoch=begin.epoch,
            start=begin.batch,
            memory_limit=config.memory_limit,
            share=share,
        )
        for number, (inputs, targets) in enumerate(batches, start=begin.batch):
            random = generator(config.seed, Purpose.AUGMENTATION, begin.epoch, number)
            images = self._images(number)
            first = share.of(images).start
            yield self.augment(inputs, targets, random, first=first, batch=images)

    def _images(self, batch: int) -> int:
        """How many images a batch has, over all processes."""
        size = self.config.batch_size
        return min(size, self.pairs.train.rows - batch * size)

    @property
    def _reduce_seconds(self) -> float:
        return self.peers.seconds if self.peers is not None else 0.0

    def _lr(self, batch: int) -> float:
        """The learning rate of a batch of this epoch."""
        return self.schedule(self.position.epoch * self.steps_per_epoch + batch)

    def _diverged(self, what: str, batch: int) -> Diverged:
        kept = f"the last good checkpoint stays in {self.run.path}; "
        return Diverged(
            f"{what} in epoch {self.position.epoch + 1}, batch {batch}, at lr "
            f"{self._lr(batch - 1):g}; {kept if self.run.last_path.exists() else ''}try a "
            "lower --lr, or --optimizer muon --lr 0.001 --schedule cosine, in a new --run"
        )

    def _require_finite(self) -> None:
        """Before anything is saved: Diverged for a loss not read yet, or a parameter."""
        self.descent.require_finite(self.position.batch)
        self.position = replace(self.position, loss_sum=self.descent.loss_sum)

    def _finish_epoch(self) -> None:
        """Score, record, save; `best` and the model file when the score is the best so far."""
        self._require_finite()
        done = self.position
        before = time.monotonic()
        scores: Scores | None = None
        if self.pairs.val is not None:
            with self.descent.averaged():
                scores = evaluate(
                    self.network,
                    self.pairs.val,
                    device=self.config.device,
                    peers=self.peers,
                    robust=self.config.is_robust,
                )
            if not math.isfinite(scores.loss):
                raise self._diverged(f"the validation loss is {scores.loss}", done.batch)
        line = done.metrics(
            lr=self._lr(self.steps_per_epoch - 1), validation_seconds=time.monotonic() - before
        )
        if self.peers is not None:
            line |= {"reduce_seconds": round(done.reduce_seconds, 6), "workers": self.peers.size}
        if scores is not None:
            line["val"] = scores.as_dict()
        if self.leads:
            self.run.add_metrics(line)
        selection = scores.selection if scores is not None else -done.loss_sum / done.images
        better = done.best is None or selection > done.best or self._regulariser_rises
        self.position = Position(
            epoch=done.epoch + 1,
            best=selection if better else done.best,
            best_epoch=done.epoch + 1 if better else done.best_epoch,
        )
        if better and self.leads:
            self._checkpoint(self.run.best_path, scores)
            with self.descent.averaged():
                save_model(self.run.model_path, self.network, self._metadata(scores))
        if self.leads and self.position.epoch in self.config.snapshot_epochs:
            self._keep_snapshot(scores)
        self._checkpoint(self.run.last_path)
        self.on_epoch(line)

    def _keep_snapshot(self, scores: Scores | None) -> None:
        path = self.run.snapshot_path(self.position.epoch)
        path.parent.mkdir(exist_ok=True)
        with self.descent.averaged():
            save_model(path, self.network, self._metadata(scores))

    def _checkpoint(self, path: Path, scores: Scores | None = None) -> None:
        if not self.leads:
            return
        place = {"position": self.position.as_dict()}
        self.run.save(path, self.descent.learner, {**self._metadata(scores), **place})

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
