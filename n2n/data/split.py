"""One split of a pair set: whole columns, some row groups, shuffled batches.

Axes: N rows, C H W an image.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate, groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from n2n.data.batches import (
    WHOLE,
    Pair,
    Rows,
    Share,
    Window,
    group_order,
    iterate,
    require_batch_size,
)
from n2n.data.format import ROWS_PER_GROUP, PartInfo
from n2n.data.part import PartFile
from n2n.errors import InvalidValue, ShapeError

__all__ = ["MEMORY_LIMIT", "Split"]

MEMORY_LIMIT = 2 << 30  # bytes; a larger split streams
PAIR = ("input", "target")


class Split:
    """The train or the val part of a pair set.

    `parts` are the files and their metadata, in order; nothing but footers has been read.
    """

    def __init__(self, parts: Sequence[tuple[Path, PartInfo]]) -> None:
        self.parts = tuple(parts)
        self.name = parts[0][1].split
        self.shape = parts[0][1].shape
        self.rows = sum(info.rows for _, info in parts)
        self.target = parts[0][1].provenance.target
        self.noise = parts[0][1].provenance.noise
        self.has_clean = "clean" in parts[0][1].columns
        self.sources = parts[0][1].provenance.sources  # names and sha256 digests
        self._kept: dict[str, NDArray[np.uint8]] = {}

    def __repr__(self) -> str:
        return f"Split({self.name}: {self.rows} pairs of {self.shape})"

    @property
    def nbytes(self) -> int:
        """Bytes of the columns input and target together."""
        return 2 * self.rows * math.prod(self.shape)

    @cached_property
    def groups(self) -> tuple[tuple[int, int, int], ...]:
        """Of each row group, by its index over all parts: part, group in the part, rows."""
        return tuple(
            (part, group, min(ROWS_PER_GROUP, info.rows - group * ROWS_PER_GROUP))
            for part, (_, info) in enumerate(self.parts)
            for group in range(math.ceil(info.rows / ROWS_PER_GROUP))
        )

    def keep(self, columns: Mapping[str, NDArray[np.uint8]]) -> None:
        """Serve these columns from memory from now on, where reading would copy the files.

        columns: what `read` gave for this split, in this process or another; they may be
        read-only and shared, and are never written to. ShapeError for others.
        """
        for name, array in columns.items():
            if array.shape != (self.rows, *self.shape) or array.dtype != np.uint8:
                raise ShapeError(
                    f"{name}: uint8 of shape {(self.rows, *self.shape)} expected, got "
                    f"{array.dtype} of {array.shape}; give what read() of the same split gave"
                )
            view = array.view()
            view.flags.writeable = False
            self._kept[name] = view

    def read(self, columns: Sequence[str] = PAIR) -> dict[str, NDArray[np.uint8]]:
        """All rows of some columns.   → uint8 (N, C, H, W) each."""
        return self.read_groups(range(len(self.groups)), columns)

    def read_groups(
        self, indices: Iterable[int], columns: Sequence[str] = PAIR
    ) -> dict[str, NDArray[np.uint8]]:
        """Some row groups, by index over all parts, one after another.   → uint8 (N, C, H, W).

        One row group comes as a view of Arrow's buffer; several are copied into one array, with
        one row group in memory at a time. Of columns that are kept, a run of row groups is a
        view. Raises PairSetError for a damaged file and InvalidValue for a column or an index
        that is not there.
        """
        chosen = list(indices)
        self._require(chosen, columns)
        if self._kept.keys() >= set(columns):
            return {name: self._gather(self._kept[name], chosen) for name in columns}
        if len(chosen) == 1:
            part, group, _ = self.groups[chosen[0]]
            with PartFile(*self.parts[part]) as file:
                return file.views(group, columns)
        rows = sum(self.groups[index][2] for index in chosen)
        return self._copy(chosen, columns, np.arange(rows))

    def read_rows(
        self, indices: Iterable[int], rows: Rows, columns: Sequence[str] = PAIR
    ) -> dict[str, NDArray[np.uint8]]:
        """Some rows of some row groups, with one row group in memory.   → uint8 (N, C, H, W).

        rows: their numbers, ascending, counted over these row groups one after another.
        """
        chosen = list(indices)
        self._require(chosen, columns)
        if self._kept.keys() >= set(columns):
            return {name: self._gather(self._kept[name], chosen)[rows] for name in columns}
        return self._copy(chosen, columns, rows)

    def _copy(
        self, groups: list[int], columns: Sequence[str], rows: Rows
    ) -> dict[str, NDArray[np.uint8]]:
        """Rows, ascending over the row groups, from the files."""
        result = {name: np.empty((len(rows), *self.shape), np.uint8) for name in columns}
        first, done = 0, 0  # rows passed, and rows copied
        for part, together in groupby(groups, key=lambda index: self.groups[index][0]):
            with PartFile(*self.parts[part]) as file:
                for _, group, count in (self.groups[index] for index in together):
                    end = int(np.searchsorted(rows, first + count))
                    if end > done:
                        own = rows[done:end] - first
                        for name, view in file.views(group, columns).items():
                            np.take(view, own, axis=0, out=result[name][done:end], mode="clip")
                    first, done = first + count, end
        return result

    def _gather(self, column: NDArray[np.uint8], groups: list[int]) -> NDArray[np.uint8]:
        """Row groups of a kept column: a view if they lie in one run."""
        firsts = list(accumulate((rows for _, _, rows in self.groups), initial=0))
        if groups and groups == list(range(groups[0], groups[0] + len(groups))):
            return column[firsts[groups[0]] : firsts[groups[-1] + 1]]
        slices = [column[firsts[group] : firsts[group + 1]] for group in groups]
        return np.concatenate(slices) if slices else column[:0]

    def compute_digest(self) -> str:
        """sha256 of the rows of a split of one part, to compare with its metadata's."""
        ((path, info),) = self.parts
        sha256 = hashlib.sha256()
        with PartFile(path, info) as file:
            for name in info.columns:
                for _, group, _ in self.groups:
                    sha256.update(file.views(group, [name])[name].data)
        return sha256.hexdigest()

    def num_batches(self, batch_size: int) -> int:
        """How many batches an epoch has; the last may be smaller."""
        require_batch_size(batch_size)
        return math.ceil(self.rows / batch_size)

    def batches(
        self,
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        start: int = 0,
        shuffle: bool = True,
        memory_limit: int = MEMORY_LIMIT,
        share: Share = WHOLE,
    ) -> Iterator[Pair]:
        """One epoch's batches from number `start` on: input and target, uint8 (n, C, H, W) each.

        The last batch is smaller if `batch_size` does not divide the rows. The order follows from
        (seed, epoch), `batch_size`, `memory_limit` and the set alone, and batch k is the same
        whatever `start` was. Up to `memory_limit` bytes both columns are read once, kept, and
        each epoch is a permutation of all rows. A larger split streams: row groups in random
        order, as many as `memory_limit` holds at a time, their rows permuted.

        share: a part of every batch alone, for one of several processes. It reads all row groups
        and holds its own rows of them, unless both columns are kept (`keep`) already.
        """
        require_batch_size(batch_size)
        if start < 0:
            raise InvalidValue(f"start must be 0 or more; found {start}")
        is_kept = self._kept.keys() >= set(PAIR)
        if self.nbytes > memory_limit:
            windows = self._windows(seed, epoch, shuffle, memory_limit)
        elif share.size > 1 and not is_kept:
            windows = [self._window(list(range(len(self.groups))))]
        else:
            if not is_kept:
                self.keep(self.read(PAIR))
            kept = self._kept
            windows = [Window(self.rows, lambda: (kept["input"], kept["target"]))]
        return iterate(
            windows,
            batch_size=batch_size,
            seed=seed,
            epoch=epoch,
            start=start,
            shuffle=shuffle,
            share=share,
        )

    def _windows(self, seed: int, epoch: int, shuffle: bool, memory_limit: int) -> list[Window]:
        order = group_order(len(self.groups), seed=seed, epoch=epoch, shuffle=shuffle)
        at_once = max(1, memory_limit // (2 * ROWS_PER_GROUP * math.prod(self.shape)))
        return [self._window(order[i : i + at_once]) for i in range(0, len(order), at_once)]

    def _window(self, indices: list[int]) -> Window:
        def load() -> Pair:
            columns = self.read_groups(indices, PAIR)
            return columns["input"], columns["target"]

        def load_rows(rows: Rows) -> Pair:
            columns = self.read_rows(indices, rows, PAIR)
            return columns["input"], columns["target"]

        return Window(sum(self.groups[index][2] for index in indices), load, load_rows)

    def _require(self, indices: list[int], columns: Sequence[str]) -> None:
        known = self.parts[0][1].columns
        for name in columns:
            if name not in known:
                raise InvalidValue(f"column {name!r}: {self.name} has {', '.join(known)}")
        for index in indices:
            if not 0 <= index < len(self.groups):
                raise InvalidValue(
                    f"row group {index}: {self.name} has row groups 0 to {len(self.groups) - 1}"
                )
