"""A sweep's trials on Ray Tune: where they run, who goes on, and what becomes of them.

The truth is in the sweep's directory: a run directory for each trial, and what became of it. Tune
is told of it anew each time, and what Tune writes itself (pickles) lies in a temporary folder. So
a trial whose process died, or its machine, goes on from its run directory, and so does a sweep
whose driver died.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from n2n.errors import Interrupted, InvalidValue, JobFailed

if TYPE_CHECKING:
    from n2n.data import PairSet
    from n2n.sweep import Sample, Space, SweepConfig, SweepDirectory

__all__ = ["Event", "run_sweep"]

DEATHS = 3  # of a trial's process, after which the trial has failed
PATIENCE = 25.0  # seconds for a first trial to find a place


@dataclass(frozen=True)
class Event:
    """News of a sweep. kind says what happened to the trial `number`:

    begun: its first epoch begins; settings. Also with new settings, after `takeover`.
    progress: epoch (those done) and progress (of the next one, 0 to 1).
    epoch: one is done; epoch, line (as in metrics.jsonl), score (higher is better). Also of the
        epochs on record, when a trial goes on.
    lost: its process died, reason; it goes on from its checkpoint.
    takeover: it goes on with the weights of `donor` and new settings.
    done, stopped (by the scheduler), failed (reason): its end.
    note: text for the user, of the sweep; number is -1.
    """

    number: int
    kind: str
    settings: "Sample | None" = None
    epoch: int = 0
    progress: float = 0.0
    line: dict[str, Any] | None = None
    score: float | None = None
    donor: int | None = None
    reason: str = ""


def run_sweep(
    config: "SweepConfig",
    space: "Space",
    pairs: "PairSet",
    directory: "SweepDirectory",
    *,
    address: str | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    patience: float = PATIENCE,
) -> None:
    """Run the trials of a sweep that has begun in `directory`, or those that are left.

    config: with its metric. On return every trial is done, stopped or failed, which the directory
    says; or the time budget is spent, and what is left can be resumed. Trials are saved also at
    Interrupted (Ctrl-C, SIGTERM, SIGHUP; a second one ends at once).

    address: see `jobs.session.joined`; `pairs` and `directory` must be there on all machines,
    under the same path. InvalidValue if a trial finds no place within `patience` seconds, or for a
    GPU that is not there. JobFailed for what no trial could go on with, such as a full disk.
    """
    from jobs.sweeping import Sweep

    Sweep(config, space, pairs, directory, on_event).run(address, patience)
