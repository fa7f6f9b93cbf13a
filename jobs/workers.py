"""Where the workers of a batch are: one in this process, or some on Ray."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from os.path import abspath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from n2n.batch import Execute, Item, Outcome, WorkerConfig

__all__ = ["Workers"]


@dataclass(frozen=True)
class Workers:
    """How many, each with how many GPUs, and where: None is this machine. InvalidValue for what
    contradicts itself."""

    count: int
    gpus: float | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        from n2n.errors import InvalidValue

        if self.count < 1:
            raise InvalidValue(f"workers must be at least 1, got {self.count}")
        if self.gpus is not None and not self.on_ray:
            raise InvalidValue("--gpus-per-worker needs more than one of --workers, or --address")
        if self.gpus is not None and not 0 < self.gpus <= 64:
            raise InvalidValue(f"gpus-per-worker must be above 0, such as 0.25, got {self.gpus}")

    @property
    def on_ray(self) -> bool:
        return self.count > 1 or self.address is not None

    def prepare(
        self, config: "WorkerConfig", stack: ExitStack, warn: Callable[[str], None]
    ) -> "tuple[Execute, str]":
        """What takes bunches to workers, and where that is, for a reader.

        The model and the settings are tried here, before anything is written.
        """
        from n2n.batch import Worker

        if not self.on_ray:
            worker = stack.enter_context(Worker(config))
            return worker.execute, describe(str(worker.device), worker.threads)
        cpus, gpus = self._share(config)
        if gpus == 0:
            stack.enter_context(Worker(replace(config, device="cpu")))
        config = replace(config, device="cuda" if gpus else "cpu", threads=max(1, int(cpus)))
        execute = partial(self._execute, _absolute(config), cpus, gpus, warn)
        each = f"{gpus:g} GPU" if gpus else describe("cpu", max(1, int(cpus)))
        return execute, f"{self.count} workers on Ray, each {each}"

    def _execute(
        self,
        config: "WorkerConfig",
        cpus: float,
        gpus: float,
        warn: Callable[[str], None],
        bunches: "Iterable[Sequence[Item]]",
    ) -> "Generator[Outcome, None, None]":
        from jobs.pool import run_on_ray
        from n2n.batch import Worker

        yield from run_on_ray(
            partial(Worker, config),
            bunches,
            workers=self.count,
            cpus_per_worker=cpus,
            gpus_per_worker=gpus,
            address=self.address,
            fail=fail,
            warn=warn,
        )

    def _share(self, config: "WorkerConfig") -> tuple[float, float]:
        """CPUs and GPUs of each worker."""
        import torch

        from n2n.data import default_workers
        from n2n.device import choose_device
        from n2n.errors import InvalidValue

        kind, _, index = config.device.partition(":")
        if index:
            raise InvalidValue(
                f"device {config.device}: cuda expected with several workers, which Ray gives "
                "their GPUs"
            )
        if kind == "cpu" and self.gpus is not None:
            raise InvalidValue("--gpus-per-worker needs --device cuda, or auto, found cpu")
        if self.address is None or kind not in ("auto", "cuda"):
            choose_device(config.device)  # a GPU that is not there is an error now
        cpus = float(config.threads or 1)
        if self.address is None and config.threads is None:
            cpus = max(0.01, default_workers() / self.count)
        if kind == "cuda" or self.gpus is not None:
            return cpus, self.gpus or 1.0
        here = torch.cuda.device_count() if self.address is None else 0
        return cpus, min(1.0, here / self.count)


def fail(item: "Item", reason: str) -> "Outcome":
    """Of an item that the pool gives up."""
    from n2n.batch import Outcome

    return Outcome(item, "failed", reason)


def describe(device: str, threads: int) -> str:
    """The device for a reader: its name, or the number of threads."""
    import torch

    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({threads} threads)"


def _absolute(config: "WorkerConfig") -> "WorkerConfig":
    """Processes elsewhere have another current folder."""
    from n2n.storage import is_uri

    def full(path: str) -> str:
        return path if is_uri(path) else abspath(path)

    return replace(
        config,
        model=full(config.model),
        source=full(config.source),
        destination=full(config.destination),
        work=None if config.work is None else full(config.work),
    )
