"""Who trains: this process alone, or several workers on Ray."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from jobs.together.gang import Gang
    from n2n.config import TrainConfig
    from n2n.data import TrainingSet
    from n2n.trainer import Trainer

__all__ = ["Team", "Training"]

Training: TypeAlias = "Trainer | Gang"


@dataclass(frozen=True)
class Team:
    """How many workers, what each of them gets, and where: None is this machine.

    InvalidValue for what contradicts itself. cpus, gpus: None for a fair share.
    """

    count: int = 1
    cpus: float | None = None
    gpus: float | None = None
    address: str | None = None
    max_failures: int | None = None

    def __post_init__(self) -> None:
        from n2n.errors import InvalidValue

        if self.count < 1:
            raise InvalidValue(f"workers must be at least 1, got {self.count}")
        if not self.on_ray:
            options = ("cpus-per-worker", "gpus-per-worker", "max-failures")
            for name, value in zip(options, (self.cpus, self.gpus, self.max_failures), strict=True):
                if value is not None:
                    raise InvalidValue(f"--{name} needs more than one of --workers, or --address")
        if self.cpus is not None and not 0 < self.cpus <= 1024:
            raise InvalidValue(f"cpus-per-worker must be above 0, such as 0.5, got {self.cpus:g}")
        if self.gpus not in (None, 0.0, 1.0):
            raise InvalidValue(
                f"gpus-per-worker must be 0 or 1, since each worker needs a GPU of its own, got "
                f"{self.gpus:g}"
            )

    @property
    def on_ray(self) -> bool:
        return self.count > 1 or self.address is not None

    def machine_of_each(
        self, device: str, threads: int | None, stack: ExitStack
    ) -> "tuple[Team, str, int]":
        """The team with its shares settled, and the device and the threads of each worker.

        Joins a cluster, for the time of the stack, to ask it for GPUs where nobody has said.
        """
        from dataclasses import replace

        from jobs.processes.workers import even_share
        from n2n.data import default_workers
        from n2n.device import MOST_THREADS, choose_device, set_threads
        from n2n.errors import InvalidValue

        if not self.on_ray:
            return self, str(choose_device(device)), set_threads(threads)
        gpus = self._gpus(device, stack)
        cpus = self.cpus or float(threads or 0)
        if not cpus:
            cpus = even_share(default_workers(), self.count) if self.address is None else 1.0
        threads = max(1, int(cpus)) if threads is None else threads
        if not 1 <= threads <= MOST_THREADS:
            raise InvalidValue(f"threads must be from 1 to {MOST_THREADS}, got {threads}")
        team = replace(self, cpus=cpus, gpus=gpus)
        return team, "cuda:0" if gpus else "cpu", threads

    def _gpus(self, device: str, stack: ExitStack) -> float:
        """Of each worker: 1 or 0."""
        import torch

        from n2n.device import choose_device
        from n2n.errors import InvalidValue

        kind, _, index = device.partition(":")
        if index:
            raise InvalidValue(
                f"device {device}: cuda expected with several workers, which Ray gives their GPUs"
            )
        if kind == "cpu" and self.gpus:
            raise InvalidValue("--gpus-per-worker 1 needs --device cuda, or auto, found cpu")
        if kind == "cuda" and self.gpus == 0:
            raise InvalidValue("--device cuda needs --gpus-per-worker 1, found 0")
        if self.address is None or kind not in ("auto", "cuda"):
            choose_device(device)  # a GPU that is not there is an error now
        if kind == "cpu" or self.gpus is not None or kind == "cuda":
            return 0.0 if kind == "cpu" else 1.0 if self.gpus is None else self.gpus
        if self.address is None:
            return 1.0 if torch.cuda.device_count() else 0.0
        import ray

        from jobs.processes.session import joined

        stack.enter_context(joined(self.address))
        return 1.0 if ray.cluster_resources().get("GPU", 0) >= self.count else 0.0

    def trainer(
        self,
        config: "TrainConfig",
        pairs: "TrainingSet",
        run: Path,
        *,
        on_batch: Callable[[int], None],
        on_epoch: Callable[[dict[str, Any]], None],
        warn: Callable[[str], None],
        start: Path | None = None,
    ) -> Training:
        """What trains: in this process, or on Ray."""
        if not self.on_ray:
            from n2n.trainer import Trainer

            return Trainer(config, pairs, run, on_batch=on_batch, on_epoch=on_epoch, start=start)
        from jobs.processes.seat import Placement
        from jobs.together.gang import Gang

        return Gang(
            config,
            pairs,
            run,
            placement=Placement(self.count, self.cpus or 1.0, self.gpus or 0.0),
            address=self.address,
            max_failures=3 if self.max_failures is None else self.max_failures,
            on_batch=on_batch,
            on_epoch=on_epoch,
            warn=warn,
            start=start,
        )

    def describe(self, threads: int) -> str:
        """For a reader: what computes."""
        each = f"{threads} threads"
        return f"{self.count} workers of {each}" if self.on_ray else each
