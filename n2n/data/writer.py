"""Writing a split whose rows come in any order: scratch files first, then parts.

The scratch files lie in the set's hidden folder, one a column, so memory does not grow with the
set. They are written by seeking, not through a memory map: on a full disk a write fails with an
OSError, where a store into a map would kill the process.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from n2n.data.format import ROWS_PER_PART, PartInfo, Provenance, part_name, write_part
from n2n.data.parallel import Progress, run_all

__all__ = ["PartJob", "Scratch", "write_arrays", "write_split"]


@dataclass(frozen=True)
class Scratch:
    """The rows of a split before they are Parquet: one file a column, rows of C·H·W bytes."""

    folder: Path
    columns: tuple[str, ...]
    shape: tuple[int, int, int]  # (C, H, W)
    rows: int

    @property
    def width(self) -> int:
        return math.prod(self.shape)

    def create(self) -> None:
        """Make the files, empty; a row never written reads as zeros."""
        self.folder.mkdir(parents=True)
        for name in self.columns:
            with open(self._path(name), "wb") as file:
                file.truncate(self.rows * self.width)

    def write(self, rows: NDArray[np.int64], arrays: Sequence[NDArray[np.uint8]]) -> None:
        """Put arrays[k][i], (C, H, W), at rows[i] of column k. Safe from several processes."""
        for name, array in zip(self.columns, arrays, strict=True):
            with open(self._path(name), "r+b", buffering=0) as file:
                for row, image in zip(rows, np.ascontiguousarray(array), strict=True):
                    file.seek(int(row) * self.width)
                    _write_all(file, memoryview(image).cast("B"))

    def read(self) -> dict[str, NDArray[np.uint8]]:
        """Views (N, C·H·W) of the files."""
        shape = (self.rows, self.width)
        return {
            name: np.memmap(self._path(name), np.uint8, "r", shape=shape) for name in self.columns
        }

    def remove(self) -> None:
        for name in self.columns:
            self._path(name).unlink()
        self.folder.rmdir()

    def _path(self, column: str) -> Path:
        return self.folder / f"{column}.rows"


@dataclass(frozen=True)
class PartJob:
    """One part to write: rows start … start + info.rows of the scratch files."""

    path: Path
    scratch: Scratch
    start: int
    info: PartInfo


def write_split(
    folder: Path,
    scratch: Scratch,
    provenance: Provenance,
    *,
    workers: int,
    progress: Progress | None = None,
) -> None:
    """Write `folder`/{train or val}'s parts from scratch files, then remove these."""
    infos = _infos(folder.name, scratch.columns, scratch.shape, scratch.rows, provenance)
    folder.mkdir()
    jobs = [
        PartJob(folder / part_name(info.part), scratch, info.part * ROWS_PER_PART, info)
        for info in infos
    ]
    label = f"writing {folder.name}"
    for _ in run_all(_write, jobs, workers=workers, label=label, progress=progress):
        pass
    scratch.remove()


def write_arrays(
    folder: Path,
    columns: dict[str, NDArray[np.uint8]],
    provenance: Provenance,
    *,
    progress: Progress | None = None,
) -> None:
    """Write `folder`/{train or val}'s parts from arrays in memory, each uint8 (N, C, H, W)."""
    rows, *shape = next(iter(columns.values())).shape
    infos = _infos(folder.name, tuple(columns), (shape[0], shape[1], shape[2]), rows, provenance)
    folder.mkdir()
    for info in infos:
        start = info.part * ROWS_PER_PART
        part = {
            name: array[start : start + info.rows].reshape(info.rows, -1)
            for name, array in columns.items()
        }
        write_part(folder / part_name(info.part), part, info)
        if progress is not None:
            progress(f"writing {folder.name}", info.part + 1, len(infos))


def _infos(
    split: str,
    columns: tuple[str, ...],
    shape: tuple[int, int, int],
    rows: int,
    provenance: Provenance,
) -> list[PartInfo]:
    parts = math.ceil(rows / ROWS_PER_PART)
    return [
        PartInfo(
            shape=shape,
            split=split,
            part=part,
            parts=parts,
            rows=min(ROWS_PER_PART, rows - part * ROWS_PER_PART),
            rows_sha256="",
            columns=columns,
            provenance=provenance,
        )
        for part in range(parts)
    ]


def _write(job: PartJob) -> None:
    stop = job.start + job.info.rows
    columns = {name: rows[job.start : stop] for name, rows in job.scratch.read().items()}
    write_part(job.path, columns, job.info)


def _write_all(file: io.FileIO, content: memoryview) -> None:
    while content:
        content = content[file.write(content) :]
