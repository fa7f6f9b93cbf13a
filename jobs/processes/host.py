"""What runs in a worker process on Ray: one worker, and what it has to say to the driver."""

import ctypes
import os
import pickle
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import ray

from n2n.errors import JobFailed

__all__ = ["Actor", "Raised"]

SECONDS_TO_GATHER = 0.05
PR_SET_PDEATHSIG = 1  # of prctl(2)


@dataclass(frozen=True)
class Raised:
    """An exception on its way out of a worker."""

    error: Exception
    trace: str

    @classmethod
    def during(cls, error: Exception) -> "Raised":
        """The exception itself where it can travel, else its text."""
        trace = "".join(traceback.format_exception(error))
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            error = JobFailed(f"{type(error).__name__}: {error}")
        return cls(error, trace)

    def throw(self) -> None:
        self.error.add_note(f"In a worker:\n{self.trace}")
        raise self.error


class Host:
    """The actor: a process that holds one worker, in a thread of its own.

    Meanwhile what the worker has done is sent off as it comes, or gathered where that is faster
    than it is worth a message: each costs the driver as much as a small image does.
    """

    def __init__(self) -> None:
        # Not make() itself: Ray would lose the type of an exception raised here.
        self._thread = ThreadPoolExecutor(1)
        self._worker: Any = None

    def place(self) -> tuple[str, int]:
        """The node's id and the process's: this process is there."""
        return ray.get_runtime_context().get_node_id(), os.getpid()

    def start(self, make: Callable[[], Any]) -> Raised | None:
        end_with_parent()
        try:
            self._worker = self._thread.submit(make).result()
        except Exception as error:
            return Raised.during(error)
        return None

    @ray.method(num_returns="streaming")
    def run(self, items: Sequence[Any]) -> Iterator[list[tuple[int, Any]] | Raised]:
        """Outcomes, each with the position of its item."""
        done: deque[tuple[int, Any]] = deque()
        work = self._thread.submit(self._work, items, done.append)
        running = True
        while running:
            running = bool(wait([work], SECONDS_TO_GATHER).not_done)
            news = [done.popleft() for _ in range(len(done))]
            if news:
                yield news
        try:
            work.result()
        except Exception as error:
            yield Raised.during(error)

    def _work(self, items: Sequence[Any], tell: Callable[[tuple[int, Any]], None]) -> None:
        positions = {item: position for position, item in enumerate(items)}
        for outcome in self._worker.run(items):
            tell((positions[outcome.item], outcome))


def end_with_parent() -> None:
    """Die with Ray's process on this machine, at once: nobody would hear of what is done later.

    Ray itself takes two seconds, in which the next run may have begun.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


Actor: Any = ray.remote(max_restarts=0)(Host)
