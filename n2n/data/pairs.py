"""Opening a pair set: its parts, whether they belong together, its digest."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from n2n.data.format import part_name, read_info
from n2n.data.split import Split
from n2n.errors import PairSetError

__all__ = ["PairSet"]


@dataclass(frozen=True)
class PairSet:
    """A pair set on disk. Open it with `PairSet.open`."""

    path: Path
    train: Split
    val: Split | None

    @classmethod
    def open(cls, path: str | Path) -> "PairSet":
        """Open a set's folder; every part's footer is read and checked.

        Raises PairSetError, naming the file, what was expected and what was found.
        """
        path = Path(path)
        if not path.is_dir():
            found = "found a file" if path.exists() else "there is nothing"
            raise PairSetError(f"{path}: expected the folder of a pair set; {found}")
        train = _open_split(path, "train")
        if train is None:
            raise PairSetError(
                f"{path}: expected a pair set with train/{part_name(0)}, found "
                f"{_listing(path)}; make one with 'n2n data build'"
            )
        val = _open_split(path, "val")
        if val is not None and val.shape != train.shape:
            raise PairSetError(
                f"{val.parts[0][0]}: expected images of shape {train.shape} as in train, "
                f"found {val.shape}"
            )
        return cls(path, train, val)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.train.shape

    @property
    def noise(self) -> str | None:
        """The training pairs' noise model as text, None where the noise is real or unknown."""
        return self.train.noise

    @property
    def splits(self) -> tuple[Split, ...]:
        """train and, where there is one, val."""
        return (self.train,) if self.val is None else (self.train, self.val)

    @cached_property
    def digest(self) -> str:
        """Hex sha256 that identifies the content: the parts' names and their rows' digests."""
        sha256 = hashlib.sha256()
        for split in self.splits:
            for path, info in split.parts:
                sha256.update(f"{split.name}/{path.name} {info.rows_sha256}\n".encode())
        return sha256.hexdigest()


def _open_split(path: Path, name: str) -> Split | None:
    folder = path / name
    if not folder.is_dir():
        return None
    found = sorted(entry.name for entry in folder.glob("part-*.parquet"))
    if not found:
        if name == "val":
            return None
        raise PairSetError(f"{folder}: expected {part_name(0)}, found {_listing(folder)}")
    parts = [(folder / entry, read_info(folder / entry)) for entry in found]
    first = parts[0][1]
    expected_names = [part_name(number) for number in range(first.parts)]
    if found != expected_names:
        odd = sorted(set(expected_names) ^ set(found))[0]
        word = "is missing" if odd in expected_names else "does not belong there"
        raise PairSetError(f"{folder}: expected {first.parts} parts, but {odd} {word}")
    for number, (file, info) in enumerate(parts):
        _require_same(file, "split", name, info.split)
        _require_same(file, "part number", number, info.part)
        _require_same(file, "number of parts", first.parts, info.parts)
        _require_same(file, "images of shape", first.shape, info.shape)
        _require_same(file, "columns", first.columns, info.columns)
        _require_same(file, "target", first.provenance.target, info.provenance.target)
        _require_same(file, "noise", first.provenance.noise, info.provenance.noise)
    return Split(parts)


def _require_same(file: Path, what: str, expected: object, found: object) -> None:
    if expected != found:
        raise PairSetError(f"{file}: expected {what} {expected}, found {found}")


def _listing(path: Path) -> str:
    names = sorted(entry.name for entry in path.iterdir())
    if not names:
        return "an empty folder"
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
