"""Files that are replaced whole or not at all."""

import os
from pathlib import Path

import pytest

from n2n.files import replacing


class Stopped(BaseException):
    """As KeyboardInterrupt, no Exception."""


def write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


def test_new_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    for text in ("one", "two, longer", ""):
        write(path, text)
        assert path.read_text() == text
        assert os.listdir(tmp_path) == ["file.txt"]


def fail(path: Path, error: type[BaseException]) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt, Stopped])
@pytest.mark.parametrize("before", [None, "kept"])
def test_a_block_that_raises_changes_nothing(
    tmp_path: Path, error: type[BaseException], before: str | None
) -> None:
    path = tmp_path / "file.txt"
    if before is not None:
        path.write_text(before)
    files = os.listdir(tmp_path)
    with pytest.raises(error):
        fail(path, error)
    assert os.listdir(tmp_path) == files
    if before is not None:
        assert path.read_text() == before


def test_the_file_is_whole_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent  # else it could not be renamed
        temporary.write_text("whole")
    assert path.read_text() == "whole"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_mode_follows_the_umask(tmp_path: Path, umask: int) -> None:
    """Also where the writer makes a file for its owner alone, as safetensors does."""
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "file") as temporary:
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


def test_it_is_on_the_disk_before_it_takes_the_place(tmp_path: Path, monkeypatch) -> None:
    """Renamed first, a power cut could leave an empty file."""
    order: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("sync"), sync(fd)))
    monkeypatch.setattr(
        Path, "replace", lambda self, target: (order.append("replace"), replace(self, target))
    )
    write(tmp_path / "file", "text")
    assert order == ["sync", "replace"]


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "none" / "file", "text")
    assert os.listdir(tmp_path) == []
