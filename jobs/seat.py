"""One worker process on Ray as its driver sees it: its place, what it has to do, what it says."""

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from jobs.host import Actor, Raised
from n2n.errors import InvalidValue, JobFailed

__all__ = ["Bunch", "Died", "Placement", "Seat", "capacity", "dismiss", "resources"]

SECONDS_TO_END = 10
GRAIN = 10_000  # of Ray's books
MANY = 2**31


class Died(Exception):
    """The worker's process, or its machine, is gone."""


@dataclass(frozen=True)
class Placement:
    """How many workers, and the share of CPUs and GPUs that Ray keeps for each of them.

    Ray counts in parts of 1/10,000, to which shares are rounded down, so that three thirds fit.
    """

    workers: int
    cpus: float
    gpus: float

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InvalidValue(f"workers must be 1 or more; found {self.workers}")
        for name, value in (("cpus_per_worker", self.cpus), ("gpus_per_worker", self.gpus)):
            if not 0 <= value < float("inf") or (value > 1 and value != int(value)):
                raise InvalidValue(
                    f"{name} must be a whole number, or a fraction from 0 to 1; found {value:g}"
                )
            object.__setattr__(self, name.partition("_")[0], int(value * GRAIN) / GRAIN)

    def __str__(self) -> str:
        share = f"{count(self.cpus, 'CPU')} and {count(self.gpus, 'GPU')}"
        return f"{count(self.workers, 'worker')} with {share} each"


def count(number: float, unit: str) -> str:
    return f"{number:.4g} {unit}{'' if number == 1 else 's'}"


def capacity(placement: Placement) -> int:
    """How many such workers the machines of this Ray can hold, if nothing else runs there."""
    return sum(
        min(
            fitting(node["Resources"].get("CPU", 0), placement.cpus, whole=False),
            fitting(node["Resources"].get("GPU", 0), placement.gpus, whole=True),
        )
        for node in ray.nodes()
        if node["Alive"]
    )


def fitting(available: float, share: float, *, whole: bool) -> int:
    """How many shares fit. whole: a share below 1 lies within one unit, as of GPUs."""
    if share == 0:
        return MANY
    if whole and share < 1:
        return int(available) * int(1 / share)
    return int(available / share)


def resources() -> str:
    """What the machines of this Ray have, and what of it is free."""
    total, free = ray.cluster_resources(), ray.available_resources()
    parts = [
        f"{count(total.get(name, 0), name)} ({free.get(name, 0):g} free)" for name in ("CPU", "GPU")
    ]
    return " and ".join(parts)


@dataclass
class Bunch:
    """Items on their way through one worker."""

    items: Sequence[Any]
    alone: bool = False  # one item that was there when a worker died
    stream: Any = None
    left: dict[int, Any] = field(init=False)  # position: item without an outcome

    def __post_init__(self) -> None:
        self.left = dict(enumerate(self.items))


class Seat:
    """A place for one worker: first looked for, then its worker starts, then it works."""

    def __init__(self, placement: Placement, make: Callable[[], Any], patience: float) -> None:
        self.actor = Actor.options(
            num_cpus=placement.cpus, num_gpus=placement.gpus, scheduling_strategy="SPREAD"
        ).remote()
        self.bunches: deque[Bunch] = deque()
        self.node: str | None = None
        self.pid = 0
        self.working = False
        self._deadline = time.monotonic() + patience
        self._placed = self.actor.place.remote()
        self._started = self.actor.start.remote(make)

    @property
    def awaited(self) -> Any:
        """What Ray is to wait for: the next news of this seat. None while it has nothing to do."""
        if self.working:
            return self.bunches[0].stream if self.bunches else None
        return self._started if self.node else self._placed

    @property
    def late(self) -> bool:
        return self.node is None and time.monotonic() > self._deadline

    def give(self, bunch: Bunch) -> None:
        """Put a bunch behind those that the worker has."""
        bunch.stream = self.actor.run.remote(bunch.items)
        self.bunches.append(bunch)

    def step_in(self) -> None:
        """Take the news of a seat that does not work yet."""
        if self.node is None:
            self.node, self.pid = fetch(self._placed)
            return
        raised = fetch(self._started)
        if raised is not None:
            raised.throw()
        self.working = True

    def next_outcomes(self) -> list[tuple[Any, Any]] | None:
        """Take the news of a bunch: items with their outcomes, or None at the bunch's end."""
        bunch = self.bunches[0]
        try:
            news = fetch(next(bunch.stream))
        except StopIteration:
            return None
        if isinstance(news, Raised):
            news.throw()
        return [(bunch.left.pop(position), outcome) for position, outcome in news]

    def lost_with_its_machine(self) -> bool:
        """Whether no item is to blame for the death."""
        return any(node["NodeID"] == self.node and not node["Alive"] for node in ray.nodes())


def fetch(reference: Any) -> Any:
    """A result. Raises Died, or JobFailed for what Ray could not do with a living worker."""
    try:
        return ray.get(reference)
    except RayTaskError as error:  # not raised by our code: it catches
        raise JobFailed(f"a worker could not work: {last_line(error)}{SAME_N2N}") from error
    except RayActorError as error:
        if error.actor_init_failed:
            raise JobFailed(f"a worker could not start: {last_line(error)}{SAME_N2N}") from error
        raise Died from error
    except RayError as error:
        raise Died from error


SAME_N2N = "; the same n2n, Python and Ray are needed on all machines"


def last_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1]


class Hired(Protocol):
    """Who has an actor, on a node, as a process there."""

    actor: Any
    pid: int

    @property
    def node(self) -> str | None: ...


def dismiss(seats: Sequence[Hired]) -> None:
    """End the workers, and wait for those on this machine to be gone."""
    for seat in seats:
        ray.kill(seat.actor)
    here = ray.get_runtime_context().get_node_id()
    deadline = time.monotonic() + SECONDS_TO_END
    for seat in seats:
        while seat.node == here and is_alive(seat.pid) and time.monotonic() < deadline:
            time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
