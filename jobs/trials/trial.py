"""One trial of a sweep in its process: trained an epoch at a time, each asked for by the driver.

The driver asks for `step` after `step`. One returns with a finished epoch, or after a
second with how far the epoch is, so that a trial can be stopped at any time. An epoch begins when
it is asked for: what the scheduler stops has not begun another one, and between epochs nothing
is held or written. All computing is done by one thread, the same for all trials of the process, so
that torch keeps its threads.
"""

import ctypes
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from n2n.errors import Diverged, Interrupted, N2NError, RunConflict, is_out_of_memory

if TYPE_CHECKING:
    from n2n.config import TrainConfig
    from n2n.data import PairSet
    from n2n.trainer import Trainer

__all__ = ["Computer", "Task", "TrialRun"]

SECONDS_TO_REPORT = 1.0
SECONDS_TO_LEAVE = 60.0  # for a process that had the trial before, and its machine


@dataclass(frozen=True)
class Task:
    """What a trial trains: `number` is the sweep's, `path` its run directory. It travels."""

    number: int
    path: Path
    config: "TrainConfig"
    metric: str


class _EpochDone(Interrupted):
    """Leaves `Trainer.train` after an epoch that is not the last, when all of it is saved."""


class Computer:
    """The one thread that computes in this process."""

    def __init__(self) -> None:
        from n2n.device import keep_freed_memory

        keep_freed_memory()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="trial")

    def submit(self, function: Any) -> "Future[Any]":
        return self._pool.submit(function)

    def tidy(self) -> None:
        """Give back the memory that one trial left, before the next one."""
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            self._pool.submit(trim, 0).result()


class TrialRun:
    """Trains one trial, from wherever its run directory stands.

    `step` returns one of three kinds of results, each a dict with the trial's `number`:

    epoch, line, score, replayed: an epoch is done, and what metrics.jsonl says of it; `replayed`
        of those that had been done before, but for the last of them. `done`, `outcome`: "done"
        with the last one.
    progress: the part of the epoch that is done, from 0 to 1, and `epoch`, those before it.
    outcome "failed", done, reason: the trial cannot go on. `fatal`: nor could others.
    """

    def __init__(self, task: Task, pairs: "PairSet", computer: Computer) -> None:
        self._task, self._pairs, self._computer = task, pairs, computer
        self._trainer: Trainer | None = None
        self._working: Future[list[dict[str, Any]]] | None = None
        self._ready: deque[dict[str, Any]] = deque()
        self._halted = False

    def step(self, patience: float = SECONDS_TO_REPORT) -> dict[str, Any]:
        """The next result; within `patience` seconds."""
        if not self._ready:
            if self._working is None:
                self._working = self._computer.submit(self._work)
            try:
                self._ready.extend(self._working.result(timeout=patience))
            except TimeoutError:
                return {"number": self._task.number, **self._progress()}
            self._working = None
        return {"number": self._task.number, **self._ready.popleft()}

    def halt(self) -> None:
        """Stop, in the middle of an epoch too, with a checkpoint; returns when nothing goes on."""
        self._halted = True
        if self._trainer is not None:
            self._trainer.stop = True
        if self._working is not None:
            self._working.exception()
        self._trainer = self._working = None

    def _progress(self) -> dict[str, Any]:
        trainer = self._trainer
        if trainer is None:
            return {"epoch": 0, "progress": 0.0}
        position = trainer.position
        return {"epoch": position.epoch, "progress": position.images / self._pairs.train.rows}

    def _work(self) -> list[dict[str, Any]]:
        """The recorded epochs at first, then one epoch: as results."""
        try:
            if self._trainer is None:
                self._trainer = self._begin()
                if self._trainer is None:
                    return []
                recorded = self._trainer.run.metrics
                if recorded:
                    *before, last = recorded
                    return [
                        *(self._epoch(line, replayed=True) for line in before),
                        self._epoch(last),
                    ]
            return [self._epoch(self._train())]
        except Interrupted:
            return []
        except Diverged as error:
            return [failed(str(error))]
        except OSError as error:
            return [{**failed(f"{error.strerror or error}: {error.filename}"), "fatal": True}]
        except Exception as error:
            if is_out_of_memory(error):
                return [failed("out of memory; try a smaller model or batch, or fewer at a time")]
            known = isinstance(error, N2NError)
            return [failed(str(error) if known else f"{type(error).__name__}: {error}")]

    def _begin(self) -> "Trainer | None":
        """The trainer, where its run directory stands; waits for a process that is still there."""
        from n2n.device import set_threads
        from n2n.run import RunDirectory
        from n2n.trainer import Trainer

        set_threads(self._task.config.threads)
        deadline = time.monotonic() + SECONDS_TO_LEAVE
        while not self._halted:
            try:
                with RunDirectory(self._task.path).locked():
                    pass
                break
            except RunConflict:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        if self._halted:
            return None
        return Trainer(self._task.config, self._pairs, self._task.path, on_epoch=self._pause)

    def _train(self) -> dict[str, Any]:
        """Train to the end of the epoch; returns its metrics."""
        trainer = self._trainer
        assert trainer is not None
        if self._halted:
            raise Interrupted("halted")
        with suppress(_EpochDone):
            trainer.train()
        return trainer.run.metrics[-1]

    def _pause(self, line: dict[str, Any]) -> None:
        if line["epoch"] < self._task.config.epochs:
            raise _EpochDone("waiting for the word to go on")

    def _epoch(self, line: dict[str, Any], *, replayed: bool = False) -> dict[str, Any]:
        from n2n.sweep import score

        result = {
            "epoch": line["epoch"],
            "line": line,
            "score": score(line, self._task.metric),
            "replayed": replayed,
        }
        if line["epoch"] >= self._task.config.epochs:
            result |= {"outcome": "done", "done": True}
        return result


def failed(reason: str) -> dict[str, Any]:
    return {"outcome": "failed", "reason": reason, "done": True}
