"""Writing files so that a reader never meets half of one, and telling them apart."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["TEMPORARY", "digest_of", "replacing"]

TEMPORARY = ".n2n-*.tmp"  # what a killed process may leave


def digest_of(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal; OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, to be written to; it takes its place when the block ends.

    If the block raises, or the disk is full, the temporary file goes and `path` stays as it was.
    A symbolic link is replaced, not followed.
    """
    temporary = path.with_name(TEMPORARY.replace("*", secrets.token_hex(8)))
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.chmod(mode)  # some writers make a file of their own, for its owner alone
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
