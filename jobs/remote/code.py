"""What is sent to a cluster: the sources of n2n, and small inputs. Never data, runs or .git.

A package is a zip that is the same, bit for bit, for the same files, so a cluster that has it is
not sent it again. Its name, from its digest, is Ray's.
"""

import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from n2n.errors import InvalidValue

__all__ = ["Upload", "contents", "pack"]

PACKAGES = ("n2n", "jobs")
LEFT_OUT = ("__pycache__", ".git")
LARGEST = 100 * 2**20  # bytes: Ray takes no more
NAMED = 3  # of the largest files, when it is too much
BEGINNING = (1980, 1, 1, 0, 0, 0)  # of time, as zip has it


@dataclass(frozen=True)
class Upload:
    """A file or folder of this machine that goes along. inside: its path in the package."""

    path: Path
    inside: str


def pack(file: Path, uploads: list[Upload], *, code: bool) -> None:
    """Write the package. Raises InvalidValue, before anything is written, if it is too large."""
    found = dict(_files(uploads, code=code))
    sizes = {inside: source.stat().st_size for inside, source in found.items()}
    total = sum(sizes.values())
    if total > LARGEST:
        largest = sorted(sizes, key=lambda inside: -sizes[inside])[:NAMED]
        named = ", ".join(f"{found[name]} ({_mebibytes(sizes[name])})" for name in largest)
        raise InvalidValue(
            f"at most {_mebibytes(LARGEST)} to send expected, found {_mebibytes(total)}, the "
            f"largest: {named}; use a shared folder or s3:// instead of --upload"
        )
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as package:
        for inside in sorted(found):
            entry = zipfile.ZipInfo(inside, BEGINNING)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            package.writestr(entry, found[inside].read_bytes())


def contents(uploads: list[Upload]) -> str:
    """A digest of names and bytes."""
    digest = sha256()
    for inside, source in sorted(_files(uploads, code=False)):
        digest.update(f"{inside}\0{source.stat().st_size}\0".encode())
        with source.open("rb") as opened:
            while block := opened.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _files(uploads: list[Upload], *, code: bool) -> Iterator[tuple[str, Path]]:
    for name in PACKAGES if code else ():
        spec = find_spec(name)
        assert spec is not None
        for root in spec.submodule_search_locations or []:
            yield from _below(Path(root), name)
    for upload in uploads:
        if upload.path.is_dir():
            yield from _below(upload.path, upload.inside)
        else:
            yield upload.inside, upload.path


def _below(root: Path, inside: str) -> Iterator[tuple[str, Path]]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT)
        for name in sorted(names):
            source = Path(folder, name)
            if source.is_file() and source.suffix != ".pyc":
                yield f"{inside}/{source.relative_to(root).as_posix()}", source


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
