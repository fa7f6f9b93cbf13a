"""The record of a batch: a line of JSON for each step, readable while it is written.

OUTPUT/n2n-manifest.jsonl, or on an object store OUTPUT/n2n-manifest/00001-RUN.jsonl, … Lines:

{"run": …}                   a run begins: its version, settings and plan
{"state": "begun", …}        an input is taken up; what then lies at its output is ours
{"state": "done", …}         its output is in place
{"state": "failed", …}       with its reason
{"end": …}                   the run's counts; missing where it was stopped

Of several lines for one output the last holds. A line that a killed process left torn is passed
over. Names that are no UTF-8 have their bytes as \\udc80 to \\udcff, as Python writes them.
"""

import fcntl
import json
import os
import secrets
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from n2n.errors import RunConflict, StorageError
from n2n.storage import LocalFolder, ObjectStore, Storage

__all__ = ["MANIFEST", "History", "Manifest", "open_history", "open_manifest", "parse_line"]

MANIFEST = "n2n-manifest.jsonl"
OBJECTS = "n2n-manifest"  # the folder of an object store
OBJECT_BYTES = 1 << 18  # then another one is begun
FLUSH_SECONDS = 5.0  # between writes to an object store
SYNC_SECONDS = 1.0  # between waits for the disk


class Manifest(Protocol):
    """Where lines go."""

    def write(self, *lines: dict[str, Any]) -> None:
        """Append lines; soon they are there for all to see."""
        ...

    def flush(self) -> None:
        """Return when they are, whatever happens to this process then."""
        ...


@contextmanager
def open_manifest(outputs: Storage, scratch: Path) -> Iterator[tuple["History", Manifest]]:
    """What earlier runs recorded, and where this one records; the folder is made.

    scratch: a local folder for copies. RunConflict if another process works on the folder, which
    cannot be told on an object store: there both do the work, and each output is still whole.
    """
    if isinstance(outputs, LocalFolder):
        new = not outputs.path.exists()
        outputs.path.mkdir(parents=True, exist_ok=True)
        path = outputs.path / MANIFEST
        try:
            with _LocalManifest(path) as manifest, History(path) as history:
                yield history, manifest
        finally:
            if new:
                with suppress(OSError):  # something was done
                    outputs.path.rmdir()
    elif isinstance(outputs, ObjectStore):
        copy = scratch / MANIFEST
        number = _copy_objects(outputs, copy)
        remote = _ObjectManifest(outputs, number + 1)
        with History(copy) as history:
            try:
                yield history, remote
            except StorageError:  # it would be waited for once more
                raise
            except BaseException:
                with suppress(OSError, StorageError):
                    remote.flush()
                raise
            remote.flush()


@contextmanager
def open_history(outputs: Storage, scratch: Path) -> Iterator["History | None"]:
    """What earlier runs recorded, for a look at it; None where there is no manifest."""
    path = scratch / MANIFEST
    if isinstance(outputs, LocalFolder):
        path = outputs.path / MANIFEST
    elif isinstance(outputs, ObjectStore):
        _copy_objects(outputs, path)
    if not path.is_file():
        yield None
    else:
        with History(path) as history:
            yield history


class History:
    """The last line of each output, looked up in a file of lines.

    16 bytes a line are held in memory: a hash of the output's name and the line's place.
    """

    def __init__(self, path: Path) -> None:
        self.unfinished_overwrite: int | None = None  # place of the run that was to do all again
        self._file: IO[bytes] = path.open("rb")
        hashes, places, place = array("Q"), array("q"), 0
        for line in self._file:
            record = parse_line(line)
            if record.get("state") in ("begun", "done"):
                hashes.append(_hash(record["output"]))
                places.append(place)
            elif "run" in record:
                self._begin(record["run"], place)
            elif "end" in record:
                self.unfinished_overwrite = None
            place += len(line)
        found = np.frombuffer(hashes, np.uint64) if hashes else np.empty(0, np.uint64)
        order = np.argsort(found, kind="stable")
        self._hashes: NDArray[np.uint64] = found[order]
        self._places = np.array(places, np.int64)[order]

    def __enter__(self) -> "History":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def find(self, output: str) -> tuple[dict[str, Any], int] | None:
        """The last line that says begun or done of an output, and its place."""
        wanted = np.uint64(_hash(output))
        first = int(np.searchsorted(self._hashes, wanted, "left"))
        last = int(np.searchsorted(self._hashes, wanted, "right"))
        for place in reversed(self._places[first:last].tolist()):
            self._file.seek(place)
            record = parse_line(self._file.readline())
            if record.get("output") == output:
                return record, place
        return None

    def _begin(self, run: Any, place: int) -> None:
        if not (isinstance(run, dict) and run.get("overwrite")):
            self.unfinished_overwrite = None
        elif self.unfinished_overwrite is None:
            self.unfinished_overwrite = place


class _LocalManifest:
    """A file that grows, locked against a second process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise RunConflict(
                f"{path.parent}: another n2n denoise works here; wait for it, or choose another "
                "output folder"
            ) from error
        self._synced = time.monotonic()
        if _is_torn(path):
            self._file.write(b"\n")

    def __enter__(self) -> "_LocalManifest":
        return self

    def __exit__(self, *error: object) -> None:
        """An empty one goes: nothing was done."""
        if os.fstat(self._file.fileno()).st_size == 0:
            self._path.unlink(missing_ok=True)
        self._file.close()

    def write(self, *lines: dict[str, Any]) -> None:
        self._file.write(_encode(lines))
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self.flush()

    def flush(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()


class _ObjectManifest:
    """Objects that are written again with every few lines more, until they are large."""

    def __init__(self, store: ObjectStore, number: int) -> None:
        self._store = store
        self._number = number
        self._run = secrets.token_hex(4)
        self._content = bytearray()
        self._written = 0  # bytes of the content that are there
        self._flushed = time.monotonic()

    def write(self, *lines: dict[str, Any]) -> None:
        self._content += _encode(lines)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        self._flushed = time.monotonic()
        if len(self._content) == self._written:
            return
        name = f"{OBJECTS}/{self._number:06d}-{self._run}.jsonl"
        self._store.write(name, bytes(self._content))
        self._written = len(self._content)
        if self._written > OBJECT_BYTES:
            self._content.clear()
            self._written = 0
            self._number += 1


def _copy_objects(store: ObjectStore, copy: Path) -> int:
    """All lines of a store into one local file; returns the last object's number."""
    names = sorted(entry.name for entry in store.list(OBJECTS) if entry.name.endswith(".jsonl"))
    with copy.open("wb") as file:
        for name in names:
            file.write(store.read(f"{OBJECTS}/{name}"))
    numbers = [int(name[:6]) for name in names if name[:6].isdecimal()]
    return max(numbers, default=0)


def _encode(lines: tuple[dict[str, Any], ...]) -> bytes:
    """ASCII, whatever bytes a name has."""
    return b"".join(json.dumps(line, allow_nan=False).encode() + b"\n" for line in lines)


def parse_line(line: bytes) -> dict[str, Any]:
    """A line's content; nothing of a torn one, or of one that is none of ours."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    if not isinstance(found, dict) or (
        "state" in found and not isinstance(found.get("output"), str)
    ):
        return {}
    return found


def _hash(name: str) -> int:
    content = name.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "big")


def _is_torn(path: Path) -> bool:
    """Whether the last line lacks its end."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"
