"""The same function over many jobs, in one process or over the cores, with bounded queues."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import TypeAlias, TypeVar

from n2n.errors import InvalidValue, JobFailed

__all__ = ["Progress", "default_workers", "run_all"]

Job = TypeVar("Job")
Result = TypeVar("Result")

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as progress(what is being done, steps done, steps in all)."""

QUEUED = 4  # jobs submitted ahead for each worker


def default_workers() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_all(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    workers: int,
    label: str,
    progress: Progress | None = None,
) -> Iterator[Result]:
    """Yield function(job) in the order of the jobs; in processes of their own if there are several
    workers and jobs.

    The function's exceptions come out here. Raises JobFailed when a worker process dies.
    """
    if workers < 1:
        raise InvalidValue(f"workers must be 1 or more; found {workers}")
    workers = min(workers, len(jobs))
    results = _spread(function, jobs, workers) if workers > 1 else map(function, jobs)
    for done, result in enumerate(results, start=1):
        if progress is not None:
            progress(label, done, len(jobs))
        yield result


def _spread(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int
) -> Iterator[Result]:
    # spawn: a fork of a process with threads (torch's, Arrow's) may hang
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)
    waiting: deque[Future[Result]] = deque()
    try:
        for job in jobs:
            if len(waiting) >= QUEUED * workers:
                yield waiting.popleft().result()
            with _interrupts_held():  # the first submission starts the workers
                waiting.append(pool.submit(function, job))
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise JobFailed(
            "a worker process died, perhaps for lack of memory; run the same command again, "
            "with fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes that are started here inherit a blocked Ctrl-C: it is the parent's to handle."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    """End with the parent even when it was killed with -9."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
