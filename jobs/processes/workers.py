"""Where the workers of a batch are: one in this process, or some on Ray."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from os.path import abspath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from n2n.batch import Execute, Item, Outcome, Worker, WorkerConfig

__all__ = ["Workers"]


MOST = {"gpus": 64, "cpus": 1024}  # of one worker


@dataclass(frozen=True)
class Workers:
    """How many, each with how many GPUs and CPUs, and where: None is this machine. InvalidValue
    for what contradicts itself."""

    count: int
    gpus: float | None = None
    address: str | None = None
    cpus: float | None = None

    def __post_init__(self) -> None:
        from n2n.errors import InvalidValue

        if self.count < 1:
            raise InvalidValue(f"workers must be at least 1, got {self.count}")
        for name, share in (("gpus", self.gpus), ("cpus", self.cpus)):
            if share is not None and not self.on_ray:
                raise InvalidValue(
                    f"--{name}-per-worker needs more than one of --workers, or --address"
                )
            if share is not None and not 0 < share <= MOST[name]:
                raise InvalidValue(f"{name}-per-worker must be above 0, such as 0.25, got {share}")

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
        cpus, gpus = self.share(config.device, config.threads, stack)
        threads = max(1, int(cpus))
        if gpus == 0:
            stack.enter_context(Worker(replace(config, device="cpu")))
        config = replace(config, device="cuda" if gpus else "cpu", threads=threads)
        execute = partial(self._execute, _absolute(config), cpus, gpus, warn)
        each = f"{gpus:.3g} GPU" if gpus else describe("cpu", threads)
        return execute, f"{self.count} workers on Ray, each {each}"

    def _execute(
        self,
        config: "WorkerConfig",
        cpus: float,
        gpus: float,
        warn: Callable[[str], None],
        bunches: "Iterable[Sequence[Item]]",
    ) -> "Generator[Outcome, None, None]":
        from jobs.processes.pool import run_on_ray

        yield from run_on_ray(
            partial(make_worker, config, cpus, gpus, self.count),
            bunches,
            workers=self.count,
            cpus_per_worker=cpus,
            gpus_per_worker=gpus,
            address=self.address,
            fail=fail,
            warn=warn,
        )

    def share(self, device: str, threads: int | None, stack: ExitStack) -> tuple[float, float]:
        """CPUs and GPUs of each worker. Joins a cluster, for the time of the stack, to ask it for
        GPUs where nobody has said."""
        import torch

        from n2n.data import default_workers
        from n2n.device import choose_device
        from n2n.errors import InvalidValue

        kind, _, index = device.partition(":")
        if index:
            raise InvalidValue(
                f"device {device}: cuda expected with several workers, which Ray gives their GPUs"
            )
        if kind == "cpu" and self.gpus is not None:
            raise InvalidValue("--gpus-per-worker needs --device cuda, or auto, found cpu")
        if self.address is None or kind not in ("auto", "cuda"):
            choose_device(device)  # a GPU that is not there is an error now
        cpus = self.cpus or float(threads or 1)
        if self.cpus is None and self.address is None and threads is None:
            cpus = even_share(default_workers(), self.count)
        if kind == "cpu":
            return cpus, 0.0
        if self.gpus is not None or kind == "cuda":
            return cpus, self.gpus or 1.0
        if self.address is None:
            there = torch.cuda.device_count()
        else:
            there = _gpus_of_cluster(self.address, stack)
        return cpus, 1 / ceil(self.count / there) if there else 0.0


def even_share(cores: int, workers: int) -> float:
    """CPUs of each worker; Ray knows parts of one, and whole ones."""
    share = cores / workers
    return share if share < 1 else float(int(share))


def _gpus_of_cluster(address: str, stack: ExitStack) -> int:
    import ray

    from jobs.processes.session import joined

    stack.enter_context(joined(address))
    return int(ray.cluster_resources().get("GPU", 0))


def make_worker(config: "WorkerConfig", cpus: float, gpus: float, count: int) -> "Worker":
    """In a process of its own: a worker that leaves the others of its machine, or of its GPU,
    their part of the memory."""
    from n2n.batch import Worker
    from n2n.data import default_workers
    from n2n.device import choose_device
    from n2n.memory import fair_part

    if config.max_memory is None:
        part = gpus if gpus else max(cpus / default_workers(), 1 / count)
        free = fair_part(choose_device(config.device))
        config = replace(config, max_memory=max(1, int(min(1.0, part) * free)))
    return Worker(config)


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
    """Processes elsewhere have another current folder, and shipped models of their own."""
    from n2n.shipped import shipped
    from n2n.storage import is_uri

    def full(path: str) -> str:
        return path if is_uri(path) else abspath(path)

    by_name = config.model is None or config.model in shipped()
    return replace(
        config,
        model=config.model if by_name else full(str(config.model)),
        source=full(config.source),
        destination=full(config.destination),
        work=None if config.work is None else full(config.work),
    )
