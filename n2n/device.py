"""Where the work runs: the device, the number of CPU threads, the memory allocator."""

import ctypes
import os

import torch

from n2n.errors import InvalidValue

__all__ = ["choose_device", "keep_freed_memory", "set_threads"]

MOST_THREADS = 1024
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h


def choose_device(name: str) -> torch.device:
    """`auto` (the first GPU, else the CPU), `cpu`, `cuda` or `cuda:INDEX`.

    InvalidValue for another name, or a GPU that is not there: never a silent run on the CPU.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    kind, colon, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and (kind == "cpu" or not index.isdecimal())):
        raise InvalidValue(f"device must be auto, cpu, cuda or cuda:INDEX, got {name!r}")
    if kind == "cpu":
        return torch.device("cpu")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index or 0) >= found:
        raise InvalidValue(f"expected the GPU {name}, found {found} GPUs; use --device cpu")
    return torch.device("cuda", int(index or 0))


def set_threads(threads: int | None) -> int:
    """Use so many CPU threads, or one for each core that this process may use if None."""
    if threads is None:
        threads = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
    if not 1 <= threads <= MOST_THREADS:
        raise InvalidValue(f"threads must be from 1 to {MOST_THREADS}, got {threads}")
    torch.set_num_threads(threads)
    return threads


def keep_freed_memory() -> None:
    """Let this process keep what it frees, up to a GiB, for the next step of training.

    By default glibc hands large blocks back to the system, and every step pays for their pages
    anew. Does nothing where the C library has no `mallopt`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the most that glibc takes
        mallopt(M_TRIM_THRESHOLD, 2**30)
