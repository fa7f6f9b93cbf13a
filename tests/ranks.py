"""Real processes that train together, and what they do there."""

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from n2n import evaluation, pipeline
from n2n.config import TrainConfig
from n2n.data import PairSet
from n2n.errors import N2NError
from n2n.peers import LOOPBACK, Meeting, Peers
from n2n.trainer import Trainer

SECONDS = 60.0


def together(
    size: int,
    task: Callable[..., Any],
    *arguments: Any,
    seconds: float = SECONDS,
    heard: int | None = None,
) -> list[Any]:
    """task(peers, *arguments) in each of so many processes.

    → what each of them, or of the first `heard`, returned, or the N2NError that it raised; None
    of one that died.
    """
    context = multiprocessing.get_context("forkserver")  # torch is imported once
    context.set_forkserver_preload(["n2n.trainer"])
    pipes = [context.Pipe() for _ in range(size)]
    processes = [
        context.Process(target=work, args=(rank, size, pipe[1], task, arguments, seconds))
        for rank, pipe in enumerate(pipes)
    ]
    try:
        for process, (_, theirs) in zip(processes, pipes, strict=True):
            process.start()
            theirs.close()
        port = receive(pipes[0][0])
        for mine, _ in pipes[1:]:
            mine.send(port)
        return [receive(mine) for mine, _ in pipes[:heard]]
    finally:
        for process in processes:
            process.kill()
            process.join()


def receive(connection: Connection) -> Any:
    assert connection.poll(2 * SECONDS)
    try:
        return connection.recv()
    except EOFError:
        return None


def work(
    rank: int, size: int, parent: Connection, task: Any, arguments: tuple[Any, ...], seconds: float
) -> None:
    torch.set_num_threads(1)
    if rank == 0:
        meeting = Meeting.open()
        parent.send(meeting.port)
    else:
        meeting = Meeting.find(LOOPBACK, parent.recv())
    with Peers(meeting, rank, size, address=LOOPBACK, seconds=seconds) as peers:
        try:
            parent.send(task(peers, *arguments))
        except N2NError as error:
            parent.send(error)


# ---- what they do --------------------------------------------------------------------------------


def exchange(peers: Peers) -> dict[str, Any]:
    """A sum, whose addends differ by orders of magnitude; sums of numbers; bytes of rank 0."""
    generator = torch.Generator().manual_seed(peers.rank)
    own = torch.rand(1001, generator=generator) * 10.0 ** (3 * peers.rank)
    block = own.clone()
    peers.add_up(block)
    return {
        "own": own.numpy(),
        "sum": block.numpy(),
        "numbers": peers.add_up_numbers([2.0**-40, float(peers.rank), float("inf")]),
        "told": [
            peers.broadcast(bytes([peers.rank]) * count if peers.leads else b"")
            for count in (0, 1, 100_000)
        ],
        "seconds": peers.seconds,
    }


def vanish(peers: Peers, how: str) -> float:
    """The last of them leaves, or says nothing, before a sum; the others' sum."""
    if peers.rank == peers.size - 1:
        if how == "dies":
            os._exit(1)
        time.sleep(10 * SECONDS)
    block = torch.ones(10)
    peers.add_up(block)
    return float(block[0])


def shares(peers: Peers, pairs: Path, runs: Path) -> dict[str, Any]:
    """What a step of each share finds: its gradients' sum, and the wish of the last rank."""
    trainer = Trainer(
        TrainConfig.of("published", model_config={"width": 4}, epochs=1),
        PairSet.open(pairs),
        runs / "run",
        peers=peers,
    )
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(5, 3, 8, 8, generator=generator) for _ in range(2))
    own = peers.share.of(5)
    shared = trainer.descent.shared
    trainer.network.train()
    losses, wishes = [], []
    for stop in (False, peers.rank == peers.size - 1, False):
        rows = slice(own.start, own.stop)
        loss = shared.compute(trainer.descent.loss, x[rows], y[rows], images=5, stop=stop)
        losses.append(float(loss))
        wishes.append(shared.is_stop_wished())
    gradients = [grad.numpy() for _, grad in trainer.network.param()]
    return {"losses": losses, "wishes": wishes, "gradients": gradients, "rows": len(own)}


class Double(TrainConfig):
    """A network of float64."""

    def make_network(self, channels: int) -> Any:
        return super().make_network(channels).to(dtype=torch.float64)


def to_double(pixels: np.ndarray, device: str = "cpu") -> torch.Tensor:
    return torch.tensor(pixels).to(device, torch.float64) / 255


def train(
    peers: Peers | None,
    settings: dict[str, Any],
    pairs: Path,
    runs: Path,
    *,
    kind: type[TrainConfig] = TrainConfig,
    at: dict[int, Callable[[Trainer], None]] | None = None,
    asynchronous: bool = False,
) -> dict[str, Any]:
    """Train to the end; only rank 0 may touch runs/"run".

    at: what to do after so many batches, in all ranks. → weights, metrics, position, error
    """
    if kind is Double:
        pipeline.to_float = evaluation.to_float = to_double
    done = 0

    def on_batch(images: int) -> None:
        nonlocal done
        done += 1
        if at and done in at:
            at[done](trainer)

    leads = peers is None or peers.leads
    trainer = Trainer(
        kind.of("published", **settings),
        PairSet.open(pairs),
        runs / ("run" if leads else "nothing"),
        on_batch=on_batch,
        asynchronous=asynchronous,
        peers=peers,
    )
    error = None
    try:
        trainer.train()
    except N2NError as caught:
        error = caught
    position = {**trainer.position.as_dict()}
    return {
        "weights": {name: value.numpy() for name, value in trainer.network.state_dict().items()},
        "metrics": trainer.run.metrics,
        "position": {k: v for k, v in position.items() if not k.endswith("seconds")},
        "error": error,
    }


class Stop:
    """Of one rank."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def __call__(self, trainer: Trainer) -> None:
        trainer.stop = trainer.peers is not None and trainer.peers.rank == self.rank


class Die(Stop):
    def __call__(self, trainer: Trainer) -> None:
        if trainer.peers is not None and trainer.peers.rank == self.rank:
            os._exit(1)


class Explode:
    """A rate that no loss survives, from the next batch on."""

    def __call__(self, trainer: Trainer) -> None:
        trainer.schedule = lambda step: 1e38
