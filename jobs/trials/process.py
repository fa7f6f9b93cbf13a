"""A trial's process: an actor on Ray that trains one trial after another.

It imports nothing of Ray Tune, which would take another 60 MB in each process.
"""

import os
from typing import Any

import ray

from jobs.trials.shared import SharedSet, serve
from jobs.trials.trial import Computer, Task, TrialRun

__all__ = ["Actor"]


class TrialProcess:
    """Holds the set, and one trial at a time, of which the driver asks for step after step."""

    def __init__(self, shared: SharedSet) -> None:
        from n2n.data import PairSet

        self._pairs = PairSet.open(shared.path)
        if shared.columns is not None:
            serve(self._pairs, ray.get(shared.columns))
        self._computer = Computer()
        self._run: TrialRun | None = None

    def place(self) -> tuple[str, int]:
        """The node's id and the process's: this process is there."""
        return ray.get_runtime_context().get_node_id(), os.getpid()

    def begin(self, task: Task) -> dict[str, Any]:
        """Leave the trial before; returns the first result of this one (see `TrialRun`)."""
        self.halt()
        self._computer.tidy()
        self._run = TrialRun(task, self._pairs, self._computer)
        return self.step()

    def step(self) -> dict[str, Any]:
        assert self._run is not None
        return self._run.step()

    def halt(self) -> None:
        """Stop, with a checkpoint."""
        if self._run is not None:
            self._run.halt()


Actor: Any = ray.remote(max_restarts=0)(TrialProcess)
