"""Many files: each ends in one state, a bad one stops no other, nothing lands elsewhere."""

import errno
import os
from pathlib import Path

import PIL.Image
import pytest
import torch

from n2n import batch, models
from n2n.batch import Outcome, Plan, Report, denoise_files, plan_file, plan_folder
from n2n.errors import InvalidValue

NETWORK = models.create("seed", width=2, generator=torch.Generator().manual_seed(0))


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.linear_gradient("L").resize((9, 7)).convert("RGB").save(path)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three images in a tree, and two files of other kinds."""
    folder = tmp_path / "in"
    for name in ("b.png", "a.JPG", "sub/deep/c.jpeg"):
        image(folder / name)
    (folder / "Thumbs.db").write_bytes(b"")
    (folder / "sub" / "notes.txt").write_text("")
    return folder


def states(plan: Plan, **options: bool) -> dict[str, str]:
    found = denoise_files(NETWORK, plan, **options)
    return {str(one.source.relative_to(plan.source)): one.state for one in found}


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_tree_is_mirrored(source: Path, tmp_path: Path) -> None:
    plan = plan_folder(source, tmp_path / "new" / "out")
    assert [str(one.relative_to(source)) for one, _ in plan.files] == [
        "a.JPG",
        "b.png",
        "sub/deep/c.jpeg",
    ]
    assert plan.ignored == 2
    assert set(states(plan).values()) == {"done"}
    assert files(tmp_path / "new" / "out") == ["a.JPG", "b.png", "sub/deep/c.jpeg"]


def test_what_exists_is_skipped_unless_overwritten(source: Path, tmp_path: Path) -> None:
    plan = plan_folder(source, tmp_path / "out")
    states(plan)
    (tmp_path / "out" / "b.png").unlink()
    kept = tmp_path / "out" / "a.JPG"
    kept.write_bytes(b"precious")
    assert states(plan) == {"a.JPG": "skipped", "b.png": "done", "sub/deep/c.jpeg": "skipped"}
    assert kept.read_bytes() == b"precious"
    assert set(states(plan, overwrite=True).values()) == {"done"}
    assert kept.read_bytes() != b"precious"


def test_a_bad_file_stops_no_other(source: Path, tmp_path: Path) -> None:
    (source / "a.JPG").write_bytes((source / "a.JPG").read_bytes()[:300])
    (source / "empty.png").touch()
    report = Report()
    for outcome in denoise_files(NETWORK, plan_folder(source, tmp_path / "out")):
        report.add(outcome)
    assert (report.done, report.skipped, len(report.failed), report.return_code) == (2, 0, 2, 1)
    reasons = {one.source.name: str(one.reason) for one in report.failed}
    assert reasons["a.JPG"].startswith("a whole JPEG expected, found it truncated")
    assert reasons["empty.png"] == "an image expected, found an empty file (zero bytes)"
    assert files(tmp_path / "out") == ["b.png", "sub/deep/c.jpeg"]


def test_links_never_lead_out(source: Path, tmp_path: Path) -> None:
    outside = image(tmp_path / "elsewhere" / "x.png")
    (source / "out.png").symlink_to(outside)
    (source / "text").symlink_to(tmp_path / "nothing")
    (source / "folder").symlink_to(outside.parent)
    (source / "inside").symlink_to(source / "sub")
    (source / "again.png").symlink_to(source / "b.png")
    (source / "loop.png").symlink_to(source / "loop.png")
    (source / "sub" / "up").symlink_to(source)
    plan = plan_folder(source, tmp_path / "out")
    assert plan.ignored == 2 + 3
    found = {one.source.name: one for one in denoise_files(NETWORK, plan)}
    assert found["out.png"].reason == "a link that leads out of the input folder is not followed"
    assert found["folder"].reason == found["out.png"].reason
    assert "found none" in str(found["loop.png"].reason)
    assert {name for name, one in found.items() if one.state == "done"} == {
        "a.JPG",
        "b.png",
        "c.jpeg",
        "again.png",
    }


def test_outputs_stay_in_the_output_folder(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere")
    found = states(plan_folder(source, tmp_path / "out"))
    assert found == {"a.JPG": "done", "b.png": "done", "sub/deep/c.jpeg": "failed"}
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_inputs_below_the_outputs_are_never_written(tmp_path: Path) -> None:
    source = tmp_path / "out" / "in"
    for name in ("a.png", "in/a.png"):  # the second one's output is the first one
        image(source / name)
    before = (source / "a.png").read_bytes()
    found = states(plan_folder(source, tmp_path / "out"), overwrite=True)
    assert found == {"a.png": "done", "in/a.png": "failed"}
    assert (source / "a.png").read_bytes() == before


def test_unreadable_folders_are_named(source: Path, tmp_path: Path, monkeypatch) -> None:
    scandir = os.scandir

    def deny(path: str) -> object:
        if str(path).endswith("deep"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    plan = plan_folder(source, tmp_path / "out")
    (failed,) = plan.refused
    assert failed == Outcome(
        source / "sub" / "deep",
        tmp_path / "out" / "sub" / "deep",
        "failed",
        "the folder cannot be read: Permission denied",
    )


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("in", "a folder outside of the input folder"),
        ("in/sub/out", "a folder outside of the input folder"),
        ("link/out", "a folder outside of the input folder"),
        ("file", "a folder expected for the folder"),
    ],
)
def test_folders_that_cannot_be_meant(
    source: Path, tmp_path: Path, output: str, message: str
) -> None:
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "file").touch()
    with pytest.raises(InvalidValue, match=message):
        plan_folder(source, tmp_path / output)


def test_a_folder_beside_of_nearly_the_same_name_is_fine(source: Path, tmp_path: Path) -> None:
    assert len(plan_folder(source, tmp_path / "in-out").files) == 3


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InvalidValue, match=r"a folder with images \(.png, .jpg, .jpeg\) expected"):
        plan_folder(tmp_path, tmp_path.parent / "out")


def test_single_files(source: Path, tmp_path: Path) -> None:
    one = source / "b.png"
    assert plan_file(one, tmp_path / "x.jpg").files == ((one, tmp_path / "x.jpg"),)
    (tmp_path / "out").mkdir()
    assert plan_file(one, tmp_path / "out").files == ((one, tmp_path / "out" / "b.png"),)
    (tmp_path / "hard.png").hardlink_to(one)
    for same in (one, source, tmp_path / "hard.png"):
        with pytest.raises(InvalidValue, match="is the input itself"):
            plan_file(one, same)
    with pytest.raises(InvalidValue, match="an output that ends in"):
        plan_file(one, tmp_path / "x.tif")
    with pytest.raises(InvalidValue, match="a file that ends in"):
        plan_file(source / "Thumbs.db", tmp_path / "x.png")


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_an_image_too_large_for_the_memory_stops_no_other(
    source: Path, tmp_path: Path, monkeypatch, error: Exception
) -> None:
    denoise_file = batch.denoise_file

    def fail(network, one: Path, *args, **options) -> None:
        if one.name == "b.png":
            raise error
        denoise_file(network, one, *args, **options)

    monkeypatch.setattr(batch, "denoise_file", fail)
    found = list(denoise_files(NETWORK, plan_folder(source, tmp_path / "out")))
    assert [one.state for one in found] == ["done", "failed", "done"]
    assert found[1].reason == "not enough memory for an image of this size"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_only_a_full_disk_stops_all(source: Path, tmp_path: Path, monkeypatch, number: int) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    outcomes = denoise_files(NETWORK, plan_folder(source, tmp_path / "out"))
    if number == errno.EIO:
        assert {one.state for one in outcomes} == {"failed"}
    else:
        with pytest.raises(OSError, match=os.strerror(number)):
            list(outcomes)
    assert files(tmp_path / "out") == []
