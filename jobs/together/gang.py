"""Data-parallel training on Ray, restarted from the last checkpoint when a worker dies.

The driver has the display and the signals, rank 0 the run's directory. When a worker's process or
its machine dies, the others cannot go on, for they are in the middle of a sum: all are ended, and
as many as find a place begin again.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from jobs.processes.pool import require_ray
from jobs.processes.seat import Died, Placement, capacity, resources
from jobs.processes.session import joined
from jobs.together.crew import NoPlace, assembled
from jobs.together.member import Task
from n2n.errors import Interrupted, InvalidValue, JobFailed
from n2n.run import Position, RunDirectory

if TYPE_CHECKING:
    from n2n.config import TrainConfig
    from n2n.data import TrainingSet

__all__ = ["Gang"]

PATIENCE = 30.0  # seconds for the workers to find their places
PATIENCE_WITH_FEWER = 5.0
SECONDS_TO_END = 5.0  # for the workers of a driver that was killed
SHARED_MEMORY = Path("/dev/shm")
STORE_PART = 0.5  # of an object store, for the set
STORE_SPARE = 100 << 20  # bytes, in a store of our own


class Gang:
    """Trains as a `n2n.trainer.Trainer` does, and is used as one, in several processes on Ray.

    placement: how many workers, and what each of them gets; config.threads and config.device are
    one worker's. address: see `jobs.processes.session.joined`. max_failures: how often workers may
    die.
    `on_batch(images)` hears of the images since it heard last, `warn(line)` of workers that died.

    What a Trainer refuses is refused here, before Ray is started.
    """

    def __init__(
        self,
        config: "TrainConfig",
        pairs: "TrainingSet",
        run: Path,
        *,
        placement: Placement,
        address: str | None = None,
        max_failures: int = 3,
        on_batch: Callable[[int], None] = lambda images: None,
        on_epoch: Callable[[dict[str, Any]], None] = lambda line: None,
        warn: Callable[[str], None] = lambda line: None,
        patience: float = PATIENCE,
        start: Path | None = None,
    ) -> None:
        from n2n.device import use_precision

        if max_failures < 0:
            raise InvalidValue(f"max-failures must be 0 or more, got {max_failures}")
        self.config, self.pairs = config, pairs
        self.on_batch, self.on_epoch, self.warn = on_batch, on_epoch, warn
        self.stop = False
        self._placement, self._address = placement, address
        self._max_failures, self._patience = max_failures, patience
        config.require_suited(pairs)
        if config.device == "cpu":
            use_precision(config.precision, config.device, training=True)
        network = replace(config, device="cpu").make_network(pairs.shape[0])
        self.parameters = sum(value.numel() for value, _ in network.param())
        self.run = RunDirectory(run)
        self.position = Position()
        with self.run.locked(patience=SECONDS_TO_END):
            settings = config.settings(pairs)
            if self.run.begin(settings, may_change=config.may_change, start=start):
                self.position = self.run.restore(config.make_learner(network))

    @property
    def resumed(self) -> bool:
        """Whether the run had begun before."""
        return self.position != Position()

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.position.is_end(epochs=self.config.epochs, patience=self.config.patience)

    @property
    def workers(self) -> int:
        return self._placement.workers

    def train(self) -> list[dict[str, Any]]:
        """Train to the last epoch; returns the metrics of all epochs.

        Raises what Trainer.train raises; InvalidValue when the workers find no place within
        `patience` seconds; JobFailed when they died more than `max_failures` times.
        """
        if self.finished:
            return self.run.metrics
        store = self._store_needed() if self._address is None else 0
        with joined(self._address, object_store=store) as own:
            if own and capacity(self._placement) < self.workers:
                raise InvalidValue(self._no_place("to fit this machine"))
            self._train(self._task(self._share_columns(store > 0 if own else self._is_room())))
        return self.run.metrics

    def _train(self, task: Task) -> None:
        placement, patience, failures = self._placement, self._patience, 0
        while True:
            try:
                with assembled(placement, patience, lambda: self.stop) as crew:
                    crew.train(task, self._hear)
                return
            except NoPlace:
                if not failures:
                    expected = f"a place within {patience:g} s"
                    raise InvalidValue(self._no_place(expected)) from None
                placement = replace(placement, workers=self._fewer(placement))
                patience = PATIENCE_WITH_FEWER
            except Died as death:
                failures += 1
                self._mourn(str(death), failures)
                placement, patience = self._placement, self._patience

    def _hear(self, position: Position, lines: list[dict[str, Any]]) -> None:
        """Take rank 0's news: where it is, and epochs, of which some may be known."""
        metrics = self.run.metrics
        for line in lines:
            if line["epoch"] > len(metrics):
                metrics.append(line)
                self.on_epoch(line)
            else:  # done again, after a death between the line and the checkpoint
                metrics[line["epoch"] - 1] = line
        before, self.position = self.position, position
        done = position.images - (before.images if position.epoch == before.epoch else 0)
        if done > 0:
            self.on_batch(done)

    # Failures

    def _mourn(self, death: str, failures: int) -> None:
        """JobFailed, or Interrupted, where the work does not begin again."""
        require_ray()
        kept = f"the last checkpoint stays in {self.run.path}; run the same command again to go on"
        if self.stop:
            raise Interrupted(f"stopped, but {death} before the batch was saved; {kept}")
        if failures > self._max_failures:
            raise JobFailed(
                f"{death}, the {failures}. of at most {self._max_failures} failures, perhaps for "
                f"lack of memory; {kept}, with fewer --workers"
            )
        self.warn(
            f"{death}; all begin again at the last checkpoint "
            f"(failure {failures} of at most {self._max_failures})"
        )

    def _fewer(self, placement: Placement) -> int:
        """How many workers to try after so many found no place."""
        fewer = min(placement.workers - 1, capacity(placement))
        if fewer < 1:
            kept = f"the last checkpoint stays in {self.run.path}"
            raise JobFailed(f"{self._no_place('a place to begin again')}; {kept}")
        self.warn(f"{placement} found no place; trying {fewer}")
        return fewer

    def _no_place(self, expected: str) -> str:
        return (
            f"{self._placement} expected {expected}, found {resources()}; "
            "use fewer workers, or less for each"
        )

    # The pairs

    def _task(self, columns: Any) -> Task:
        from n2n.data import StreamedSet

        streamed = self.pairs if isinstance(self.pairs, StreamedSet) else None
        return Task(
            config=self.config,
            pairs=Path(os.path.abspath(self.pairs.path)),
            digest=streamed.base.digest if streamed is not None else self.pairs.digest,
            run=Path(os.path.abspath(self.run.path)),
            columns=columns,
            streamed=streamed,
        )

    def _share_columns(self, is_room: bool) -> Any:
        """The training pairs in Ray's object store, once on each machine that uses them."""
        from n2n.data import Split

        train = self.pairs.train
        if not is_room or not isinstance(train, Split):
            return None
        try:
            return ray.put(train.read())
        except ray.exceptions.ObjectStoreFullError:
            return None

    def _store_needed(self) -> int:
        """Bytes of a store of our own; 0 if the pairs are not to be in it.

        Without, each worker reads its share of the pairs from the files in every epoch.
        """
        from n2n.data import Split
        from n2n.device import choose_device
        from n2n.memory import fair_part

        if not isinstance(self.pairs.train, Split):
            return 0
        needed = self.pairs.train.nbytes + STORE_SPARE
        is_kept = self.pairs.train.nbytes <= self.config.memory_limit
        if not is_kept or not SHARED_MEMORY.is_dir():
            return 0
        state = os.statvfs(SHARED_MEMORY)
        free = min(state.f_bavail * state.f_frsize, fair_part(choose_device("cpu")))
        return needed if needed <= free else 0

    def _is_room(self) -> bool:
        """Whether the object store of every machine of a cluster has room for the pairs."""
        if self.pairs.train.nbytes > self.config.memory_limit:
            return False
        stores = [
            node["Resources"].get("object_store_memory", 0) for node in ray.nodes() if node["Alive"]
        ]
        return bool(self.pairs.train.nbytes <= STORE_PART * min(stores))
