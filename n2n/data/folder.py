"""A folder that appears whole or not at all: built under a hidden name beside it, then renamed."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from n2n.errors import PairSetError

__all__ = ["building", "require_free", "require_outside"]

SPLITS = ("train", "val")


def require_free(out: Path, *, overwrite: bool) -> None:
    """Raise PairSetError unless a pair set may be written at `out`.

    A folder that holds anything beside a pair set is refused also with `overwrite`.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir():
        raise PairSetError(f"{out}: expected a folder to write to, found a file")
    entries = sorted(entry.name for entry in out.iterdir())
    if not entries:
        return
    if not overwrite:
        raise PairSetError(
            f"{out}: expected a new or empty folder, found {_some(entries)}; choose another place "
            "or pass --overwrite"
        )
    others = [entry for entry in entries if entry not in SPLITS]
    for split in set(entries) & set(SPLITS):
        inside = list((out / split).iterdir()) if (out / split).is_dir() else [out / split]
        others += [f"{split}/{p.name}" for p in inside if not p.match("part-*.parquet")]
    if others:
        raise PairSetError(
            f"{out}: expected a pair set to overwrite, found also {_some(others)}; "
            "choose another place"
        )


def require_outside(out: Path, sources: Iterable[Path]) -> None:
    """Raise PairSetError if `out` is one of the folders that it is made from, or lies in one."""
    for source in sources:
        if out.resolve().is_relative_to(source.resolve()):
            raise PairSetError(
                f"{out}: expected a folder outside of the input folder {source}; choose another"
            )


@contextmanager
def building(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield an empty hidden folder beside `out`; it becomes `out` when the block ends well.

    When the block raises, the hidden folder is removed. What a killed run left is removed by the
    next run for the same `out`.
    """
    out = out.absolute()
    require_free(out, overwrite=overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    _tidy(out)
    hidden = Path(tempfile.mkdtemp(prefix=_prefix(out), dir=out.parent))
    try:
        with _locked(hidden):
            yield hidden
            require_free(out, overwrite=overwrite)
            hidden.chmod(0o777 & ~_umask())
            _put_in_place(hidden, out)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise


def _put_in_place(hidden: Path, out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        old = _old(out)
        out.rename(old)
        hidden.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    else:
        hidden.rename(out)  # over an empty folder too


def _tidy(out: Path) -> None:
    """Remove what killed runs left; put back a set that was just being exchanged."""
    old = _old(out)
    if old.exists():
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(out)
    for left in out.parent.glob(f"{_escape(_prefix(out))}*"):
        with suppress(OSError), _locked(left, wait=False):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _locked(hidden: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the folder's lock, which the system frees when this process ends, however it ends."""
    descriptor = os.open(hidden, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def _prefix(out: Path) -> str:
    return f".{out.name}.building-"


def _old(out: Path) -> Path:
    return out.with_name(f".{out.name}.old")


def _escape(text: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
