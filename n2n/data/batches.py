"""The order of an epoch: windows of rows, each permuted, cut into batches.

Every random number is drawn from (seed, epoch, what it is for), so that an epoch can be entered
anywhere without going through what lies before.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from n2n.errors import InvalidValue

__all__ = ["Window", "group_order", "iterate", "require_batch_size"]

UInt8: TypeAlias = NDArray[np.uint8]
Pair: TypeAlias = tuple[UInt8, UInt8]

GROUPS, ROWS = 0, 1  # what a random stream is for


@dataclass(frozen=True)
class Window:
    """Rows that are in memory together: how many, and how to load input and target (N, …)."""

    rows: int
    load: Callable[[], Pair]


def require_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise InvalidValue(f"batch_size must be 1 or more; found {batch_size}")


def group_order(count: int, *, seed: int, epoch: int, shuffle: bool) -> list[int]:
    """The order in which row groups are visited."""
    if not shuffle:
        return list(range(count))
    return [int(i) for i in np.random.default_rng([seed, epoch, GROUPS]).permutation(count)]


def iterate(
    windows: Sequence[Window], *, batch_size: int, seed: int, epoch: int, start: int, shuffle: bool
) -> Iterator[Pair]:
    """Yield batches `start`, `start` + 1, …; windows before the first are not loaded."""
    skip = start * batch_size  # rows before the first batch, counted over all windows
    pieces: list[Pair] = []  # gathered rows of a batch that spans windows
    gathered = 0
    for number, window in enumerate(windows):
        if skip >= window.rows:
            skip -= window.rows
            continue
        order = np.arange(window.rows)
        if shuffle:
            order = np.random.default_rng([seed, epoch, ROWS, number]).permutation(window.rows)
        inputs, targets = window.load()
        position, skip = skip, 0
        while position < window.rows:
            chosen = order[position : position + batch_size - gathered]
            pieces.append((inputs.take(chosen, axis=0), targets.take(chosen, axis=0)))
            position += len(chosen)
            gathered += len(chosen)
            if gathered == batch_size:
                yield _join(pieces)
                pieces, gathered = [], 0
        del inputs, targets  # before the next window is loaded
    if pieces:
        yield _join(pieces)


def _join(pieces: list[Pair]) -> Pair:
    if len(pieces) == 1:
        return pieces[0]
    return (
        np.concatenate([inputs for inputs, _ in pieces]),
        np.concatenate([targets for _, targets in pieces]),
    )
