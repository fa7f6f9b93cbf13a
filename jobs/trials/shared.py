"""A pair set that the processes of a machine share: its columns lie once in Ray's object store."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from n2n.data import PairSet, Split
from n2n.memory import available

__all__ = ["SharedSet", "columns_of", "nbytes", "serve", "too_large"]

Columns = dict[str, dict[str, NDArray[np.uint8]]]  # split: column: (N, C, H, W)

SHM = Path("/dev/shm")
PART_OF_MEMORY = 0.4  # that a shared set may take, of what is free
SPARE = 80 * 2**20  # bytes of a store for what else passes through it
PART_OF_STORE = 0.9


@dataclass(frozen=True)
class SharedSet:
    """Where a trial's process finds the set: its folder, and perhaps its columns in the store."""

    path: Path
    columns: Any = None  # a reference to Columns


def nbytes(pairs: PairSet) -> int:
    """Bytes of all columns that trials read."""
    return sum(len(names(split)) * split.nbytes // 2 for split in pairs.splits)


def columns_of(pairs: PairSet) -> Columns:
    """What trials read, from the files."""
    return {split.name: split.read(names(split)) for split in pairs.splits}


def serve(pairs: PairSet, columns: Columns) -> None:
    """Let the set read from memory; nothing is copied."""
    for split in pairs.splits:
        split.keep(columns[split.name])


def names(split: Split) -> tuple[str, ...]:
    if split.name == "val" and split.has_clean:
        return ("input", "target", "clean")
    return ("input", "target")


def too_large(size: int, *, store: float | None) -> str | None:
    """Why a set of so many bytes cannot be shared; None if it can.

    store: bytes of each machine's object store, on a cluster; None: one will be made for the set,
    in this machine's memory.
    """
    if store is not None:
        if size <= PART_OF_STORE * store - SPARE:
            return None
        return f"Ray's object store of {gigabytes(store)} has no room for it"
    memory = available()
    if size > PART_OF_MEMORY * memory:
        return f"{gigabytes(memory)} of memory are free, of which it may take {PART_OF_MEMORY:.0%}"
    if SHM.is_dir() and size + 2 * SPARE > (room := shutil.disk_usage(SHM).free):
        return f"{SHM} has room for {gigabytes(room)}; make it larger (docker run --shm-size)"
    return None


def gigabytes(size: float) -> str:
    return f"{size / 2**30:.3g} GiB"
