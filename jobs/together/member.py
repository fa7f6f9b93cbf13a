"""What runs in one of the processes on Ray that train a network together."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from jobs.processes.host import Raised, end_with_parent
from n2n.errors import InvalidValue, PairSetError
from n2n.run import Position

if TYPE_CHECKING:
    from n2n.config import TrainConfig
    from n2n.data import StreamedSet, TrainingSet
    from n2n.trainer import Trainer

__all__ = ["Member", "Place", "Task"]

SECONDS_FOR_OTHERS = 20.0  # for a leader before to be gone


@dataclass(frozen=True)
class Task:
    """What is to be trained, on what, and where; the same for all processes.

    pairs, run: absolute paths, for processes anywhere. digest: of the set on disk. columns: those
    of the training split by name, which Ray's object store shares; None to read them from the
    files. streamed: the set whose training pairs are drawn, as the driver has it.
    """

    config: "TrainConfig"
    pairs: Path
    digest: str
    run: Path
    columns: Any = None
    streamed: "StreamedSet | None" = None


@dataclass(frozen=True)
class Place:
    """Where a process is: Ray's id of the node, its address, and the process's id."""

    node: str
    address: str
    pid: int


class Actor:
    """A process that trains as one rank, and meanwhile says how far it is."""

    def __init__(self) -> None:
        self._meeting: Any = None
        self._trainer: Trainer | None = None
        self._stop = False

    def place(self) -> Place:
        end_with_parent()
        context = ray.get_runtime_context()
        return Place(context.get_node_id(), ray.util.get_node_ip_address(), os.getpid())

    def meet(self, host: str) -> int | Raised:
        """As rank 0: let the others find each other here; gives the port."""
        from n2n.peers import Meeting

        try:
            self._meeting = Meeting.open(host)
        except Exception as error:
            return Raised.during(error)
        port: int = self._meeting.port
        return port

    def train(
        self, task: Task, rank: int, size: int, meeting: tuple[str, int], address: str
    ) -> Raised | None:
        """Train to the end. meeting: rank 0's host and port; address: of this machine."""
        try:
            self._train(task, rank, size, meeting, address)
        except Exception as error:
            return Raised.during(error)
        return None

    def news(self, known: int) -> tuple[Position, list[dict[str, Any]]] | None:
        """How far it is, and the metrics of the epochs after the first `known`, as rank 0."""
        if self._trainer is None:
            return None
        return self._trainer.position, self._trainer.run.metrics[known:]

    def stop(self) -> None:
        """Let all ranks end their batch, and rank 0 save."""
        self._stop = True
        if self._trainer is not None:
            self._trainer.stop = True

    def _train(
        self, task: Task, rank: int, size: int, meeting: tuple[str, int], address: str
    ) -> None:
        from n2n.device import choose_device, keep_freed_memory, set_threads
        from n2n.peers import Meeting, Peers
        from n2n.trainer import Trainer

        choose_device(task.config.device)  # Ray's books may count GPUs that are not there
        set_threads(task.config.threads)
        keep_freed_memory()
        pairs = open_pairs(task)
        if rank == 0:
            wait_for_run(task.run)
        found = self._meeting if rank == 0 else Meeting.find(*meeting)
        with Peers(found, rank, size, device=task.config.device, address=address) as peers:
            trainer = Trainer(task.config, pairs, task.run, peers=peers)
            trainer.stop = self._stop
            self._trainer = trainer
            trainer.stop = self._stop  # it may have come in between
            trainer.train()


def open_pairs(task: Task) -> "TrainingSet":
    """The set that the driver has. InvalidValue if this machine has none, or another."""
    from n2n.data import PairSet

    shared = f"on {socket.gethostname()}; all machines must reach the set under this path"
    try:
        pairs = PairSet.open(task.pairs)
    except PairSetError as error:
        raise PairSetError(f"{error} ({shared})") from error
    if pairs.digest != task.digest:
        raise InvalidValue(f"{task.pairs}: expected the pair set, found another {shared}")
    if task.streamed is not None:
        return replace(task.streamed, base=pairs)
    if task.columns is not None:
        columns: Mapping[str, Any] = ray.get(task.columns)
        pairs.train.keep(columns)
    return pairs


def wait_for_run(path: Path) -> None:
    """As rank 0: until the leader before has let go of the run, which the driver has begun."""
    from n2n.run import RunDirectory

    if not (path / "config.yaml").exists():
        raise InvalidValue(
            f"{path}: expected the run's directory on {socket.gethostname()}, found none; all "
            "machines must reach it under this path"
        )
    with RunDirectory(path).locked(patience=SECONDS_FOR_OTHERS):
        pass


Member: Any = ray.remote(max_restarts=0)(Actor)
