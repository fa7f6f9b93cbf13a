"""Where inputs are read and outputs put: folders of this machine, and object stores by URI.

A `Storage` is a tree of names below a root; names use / and are relative to the root. Reading is
by a local file, which for an object store is a copy in a scratch folder; writing takes a finished
local file and puts it in its place at once, so that nobody ever meets half of one.

Object stores are those of pyarrow's file systems (s3://, gs://, abfs://, hdfs://), with the
credentials that these find by themselves (for S3: AWS_ACCESS_KEY_ID, ~/.aws, a role; a server of
one's own by AWS_ENDPOINT_URL). What fails for want of an answer is tried again for a minute.
"""

import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, cast
from urllib.parse import quote, unquote, urlsplit

from n2n.errors import InvalidValue, StorageError

__all__ = ["Entry", "LocalFolder", "ObjectStore", "Storage", "is_uri", "open_storage"]

WAITS = (0.5, 1, 2, 4, 8, 15)  # seconds between tries; pyarrow's own take about six more each
CHUNK = 1 << 20  # bytes

# In what pyarrow says of a store that is away, busy or broken for a moment, over its own tries.
PASSING = re.compile(
    r"NETWORK_CONNECTION|curlCode|timed? ?out|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|"
    r"REQUEST_TIMEOUT|THROTTLING|connection (refused|reset|closed)|HTTP status (500|502|503|504)|"
    r"HTTP Status Code: (500|502|503|504)|could ?n.t connect",
    re.IGNORECASE,
)

Answer = TypeVar("Answer")
Kind: TypeAlias = Literal["file", "folder", "other", "missing"]


@dataclass(frozen=True, slots=True)
class Entry:
    """What a folder holds under a name. `link`: it is a symbolic one, to what `kind` says."""

    name: str  # the last part of it
    kind: Kind
    size: int = 0  # bytes
    mtime_ns: int | None = None
    link: bool = False


class Storage(Protocol):
    """A tree of files below a root."""

    root: str  # as the user named it

    def list(self, folder: str) -> Iterator[Entry]:
        """What lies directly in a folder ("" is the root), in no order.

        OSError if it cannot be read; an entry that vanishes meanwhile is left out.
        """
        ...

    def find(self, name: str) -> Entry | None:
        """What lies under a name; None for nothing."""
        ...

    def fetch(self, name: str, scratch: Path) -> Any:
        """Context manager: the path of a local file with the content; not to be changed."""
        ...

    def put(self, local: Path, name: str) -> None:
        """Move a finished local file to its place, at once; what was there is replaced."""
        ...

    def shown(self, name: str) -> str:
        """A file's full name for a reader."""
        ...

    def real(self, name: str) -> str:
        """Where a name leads in the end; equal for equal places, with / between its parts."""
        ...


def is_uri(text: str) -> bool:
    """Whether that names a place by a scheme: s3://…"""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def open_storage(root: str) -> "LocalFolder | ObjectStore":
    """The folder or store that a path or URI names; it need not exist.

    InvalidValue for a URI that pyarrow does not know.
    """
    if not is_uri(root):
        return LocalFolder(root)
    parts = urlsplit(root)
    if parts.scheme.lower() == "file":
        if parts.netloc not in ("", "localhost"):
            raise InvalidValue(f"{root}: a file of this machine expected, as file:///folder")
        return LocalFolder(unquote(parts.path) or "/")
    return ObjectStore(root)


class LocalFolder:
    """A folder of this machine. Errors are OSErrors."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.path = Path(root)

    def list(self, folder: str) -> Iterator[Entry]:
        with os.scandir(self.path / folder) as entries:
            for entry in entries:
                found = _describe(entry)
                if found is not None:
                    yield found

    def find(self, name: str) -> Entry | None:
        try:
            status = os.stat(self._full(name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Entry(name, _kind(status.st_mode), status.st_size, status.st_mtime_ns)

    @contextmanager
    def fetch(self, name: str, scratch: Path) -> Iterator[Path]:
        yield self.path / name

    def put(self, local: Path, name: str) -> None:
        os.replace(local, self._full(name))

    def shown(self, name: str) -> str:
        return str(self.path / name)

    def real(self, name: str) -> str:
        return os.path.realpath(self._full(name))

    def _full(self, name: str) -> str:
        return os.path.join(self.root, name) if name else self.root


def _describe(entry: "os.DirEntry[str]") -> Entry | None:
    """Without a look at what needs none: a folder of 100,000 files is listed for each plan."""
    link = entry.is_symlink()
    if not link and entry.is_dir():
        return Entry(entry.name, "folder")
    try:
        status = entry.stat()
    except FileNotFoundError:  # a link to nothing, or gone since it was listed
        return Entry(entry.name, "missing", link=True) if link else None
    except OSError:  # a link in a loop, or to where one may not look
        return Entry(entry.name, "missing", link=link)
    return Entry(entry.name, _kind(status.st_mode), status.st_size, status.st_mtime_ns, link)


def _kind(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return "file"
    return "folder" if stat.S_ISDIR(mode) else "other"


class ObjectStore:
    """The objects below a URI of pyarrow's file systems.

    OSError for what concerns one object; StorageError for a store that does not answer.
    """

    def __init__(self, root: str) -> None:
        from pyarrow import ArrowException, fs

        self.root = root
        try:
            self._system, path = fs.FileSystem.from_uri(quote(root, safe=":/?&=%+@~,;"))
        except (ArrowException, OSError, ValueError) as error:
            raise InvalidValue(
                f"{root}: a folder, or a URI such as s3://bucket/folder expected; {_line(error)}"
            ) from error
        self._path = path.rstrip("/")
        if not self._path:
            raise InvalidValue(f"{root}: a bucket expected, as in s3://bucket/folder")

    def list(self, folder: str) -> Iterator[Entry]:
        from pyarrow import fs

        base = self._full(folder)
        selector = fs.FileSelector(base, allow_not_found=True)
        for info in self._try(lambda: self._system.get_file_info(selector)):
            yield _from_info(info, info.path[len(base) + 1 :])  # may be empty, as in a//b

    def find(self, name: str) -> Entry | None:
        info = self._try(lambda: self._system.get_file_info(self._full(name)))
        found = _from_info(info, info.base_name)
        return None if found.kind == "missing" else found

    @contextmanager
    def fetch(self, name: str, scratch: Path) -> Iterator[Path]:
        local = scratch / f"{secrets.token_hex(4)}{os.path.splitext(name)[1]}"

        def copy() -> None:
            stream = self._system.open_input_stream(self._full(name))
            with stream as source, local.open("wb") as target:
                while chunk := source.read(CHUNK):
                    target.write(chunk)

        self._try(copy)
        try:
            yield local
        finally:
            local.unlink(missing_ok=True)

    def put(self, local: Path, name: str) -> None:
        """The store shows an object when all of it has come."""

        # A thread of its own: Ctrl-C between two chunks would complete half an object.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(self._try, lambda: self._upload(local, name)).result()
        local.unlink()

    def _upload(self, local: Path, name: str) -> None:
        with local.open("rb") as source, self._system.open_output_stream(self._full(name)) as to:
            while chunk := source.read(CHUNK):
                to.write(chunk)

    def read(self, name: str) -> bytes:
        """A small object's content."""

        def load() -> bytes:
            with self._system.open_input_stream(self._full(name)) as source:
                return cast(bytes, source.read())

        return self._try(load)

    def write(self, name: str, content: bytes) -> None:
        """A small object, at once."""

        def store() -> None:
            with self._system.open_output_stream(self._full(name)) as target:
                target.write(content)

        self._try(store)

    def shown(self, name: str) -> str:
        base, mark, query = self.root.partition("?")
        return f"{base.rstrip('/')}/{name}{mark}{query}" if name else self.root

    def real(self, name: str) -> str:
        return f"{self._system.type_name}://{self._full(name)}"

    def _full(self, name: str) -> str:
        return f"{self._path}/{name}" if name else self._path

    def _try(self, action: Callable[[], Answer]) -> Answer:
        for wait in (*WAITS, None):
            try:
                return action()
            except OSError as error:
                if not PASSING.search(str(error)):
                    raise
                if wait is None:
                    raise StorageError(
                        f"{self.root}: the store does not answer ({_line(error)}); run the same "
                        "command again when it does"
                    ) from error
                time.sleep(wait)
        raise AssertionError  # the last try returns or raises


def _from_info(info: Any, name: str) -> Entry:
    from pyarrow import fs

    kinds: dict[Any, Kind] = {
        fs.FileType.File: "file",
        fs.FileType.Directory: "folder",
        fs.FileType.NotFound: "missing",
    }
    return Entry(name, kinds.get(info.type, "other"), info.size or 0, info.mtime_ns)


def _line(error: BaseException) -> str:
    return " ".join(re.sub(r"\(Request ID: [^)]*\)", "", str(error)).split())
