"""The order of an epoch: windows of rows, each permuted, cut into batches."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from n2n.data.seeding import Purpose, generator
from n2n.errors import InvalidValue

__all__ = [
    "WHOLE",
    "Pair",
    "Pixels",
    "Share",
    "Window",
    "group_order",
    "iterate",
    "require_batch_size",
]

Pixels: TypeAlias = NDArray[np.uint8] | NDArray[np.float32]  # in 0 to 255
Pair: TypeAlias = tuple[Pixels, Pixels]
Rows: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """Part `rank` of `size` parts of every batch, for one of several processes that share it."""

    rank: int
    size: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise InvalidValue(
                f"rank must be from 0 to below the {self.size} parts, got {self.rank}"
            )

    def of(self, rows: int) -> range:
        """Which of a batch's rows: parts in order, their sizes equal or one row apart."""
        return range(self.rank * rows // self.size, (self.rank + 1) * rows // self.size)


WHOLE = Share(0, 1)


@dataclass(frozen=True)
class Window:
    """Rows that are in memory together: how many, and how to load input and target (N, …).

    load_rows: the same for some of the rows alone, ascending; None where all are there anyway.
    """

    rows: int
    load: Callable[[], Pair]
    load_rows: Callable[[Rows], Pair] | None = None


def require_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise InvalidValue(f"batch_size must be 1 or more; found {batch_size}")


def group_order(count: int, *, seed: int, epoch: int, shuffle: bool) -> list[int]:
    """The order in which row groups are visited."""
    if not shuffle:
        return list(range(count))
    return [int(i) for i in generator(seed, Purpose.GROUPS, epoch).permutation(count)]


def iterate(
    windows: Sequence[Window],
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    start: int,
    shuffle: bool,
    share: Share = WHOLE,
) -> Iterator[Pair]:
    """Yield a share of the batches `start`, `start` + 1, …; windows before are not loaded.

    The batches are the same for every share; one with fewer rows than shares has empty ones.
    """
    total = sum(window.rows for window in windows)
    pieces: list[Pair] = []  # gathered rows of a batch that spans windows
    first = 0  # the number, in the epoch, of the window's first row
    for number, window in enumerate(windows):
        last = first + window.rows
        if last <= max(first, start * batch_size):
            first = last
            continue
        order = np.arange(window.rows)
        if shuffle:
            order = generator(seed, Purpose.ROWS, epoch, number).permutation(window.rows)
        batches = range(max(start, first // batch_size), math.ceil(last / batch_size))
        chosen = []
        for low in (batch * batch_size for batch in batches):
            mine = share.of(min(batch_size, total - low))
            begin, end = max(low + mine.start, first), min(low + mine.stop, last)
            chosen.append(order[begin - first : max(begin, end) - first])
        (inputs, targets), chosen = _load(window, chosen, share)
        for batch, rows in zip(batches, chosen, strict=True):
            pieces.append((inputs.take(rows, axis=0), targets.take(rows, axis=0)))
            if last >= min((batch + 1) * batch_size, total):
                yield _join(pieces)
                pieces = []
        del inputs, targets  # before the next window is loaded
        first = last


def _load(window: Window, chosen: list[Rows], share: Share) -> tuple[Pair, list[Rows]]:
    """Input and target of the chosen rows at least, and where in these the rows are."""
    if window.load_rows is None or share.size == 1:
        return window.load(), chosen
    wanted = np.sort(np.concatenate(chosen))
    return window.load_rows(wanted), [np.searchsorted(wanted, rows) for rows in chosen]


def _join(pieces: list[Pair]) -> Pair:
    """One after another; there is at least one."""
    pieces = [pair for pair in pieces if len(pair[0])] or pieces[:1]
    if len(pieces) == 1:
        return pieces[0]
    return (
        np.concatenate([inputs for inputs, _ in pieces]),
        np.concatenate([targets for _, targets in pieces]),
    )
