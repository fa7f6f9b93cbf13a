"""Folders for unfinished files, which no killed run leaves behind for good."""

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["WORK", "local_scratch", "new_name", "work_folder"]

WORK = ".n2n-work"  # in an output folder


@contextmanager
def work_folder(folder: Path) -> Iterator[None]:
    """Make a folder OUTPUT/.n2n-work/NAME, on the file system of the outputs; gone afterwards.

    What killed runs left beside it is removed first: their locks went with them. A worker of such
    a run that lives on cannot write any more, since its folder is not there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _held(folder):
            yield
    finally:
        with suppress(OSError):  # another run's folder is in it
            folder.parent.rmdir()


@contextmanager
def local_scratch() -> Iterator[Path]:
    """A new folder for local copies of remote files, in the system's folder for such; removed
    when the block ends, or by the next run of this user."""
    parent = Path(tempfile.gettempdir()) / f"n2n-work-{os.getuid()}"
    parent.mkdir(mode=0o700, exist_ok=True)
    with _held(folder := parent / new_name()):
        yield folder


def new_name() -> str:
    """A name that nothing has."""
    return secrets.token_hex(6)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Make a folder, and lock it as long as this process lives; remove unlocked ones beside it."""
    for left in folder.parent.iterdir():
        with suppress(OSError), _locked(left, wait=False):
            shutil.rmtree(left)
    folder.mkdir()
    try:
        with _locked(folder, wait=True):
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path, *, wait: bool) -> Iterator[None]:
    """Hold a folder's lock, which the system frees when this process ends, however it ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)
