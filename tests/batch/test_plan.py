"""What becomes which file, and what is refused before anything is done."""

import errno
import os
import resource
import socket
from pathlib import Path

import pytest

from n2n.batch import Choice, Item, Outcome, Plan, make_plan
from n2n.errors import InvalidValue


def planned(plan: Plan) -> dict[str, str]:
    """Outputs by inputs, of what is to be done."""
    return {one.source: one.destination for one in plan if isinstance(one, Item)}


def refused(plan: Plan) -> dict[str, str]:
    return {one.item.source: str(one.reason) for one in plan if isinstance(one, Outcome)}


def plan_of(source: Path, *arguments, **choice) -> Plan:
    output = arguments[0] if arguments else source.parent / "out"
    return make_plan(str(source), str(output), Choice(**choice))


def test_a_tree_is_mirrored_in_order(source, tmp_path):
    plan = plan_of(source)
    assert list(planned(plan).items()) == [
        (name, name) for name in ("a.JPG", "b.png", "sub/deep/c.jpeg")
    ]
    assert list(planned(plan)) == list(planned(plan))  # again and again
    sizes = [(source / name).stat().st_size for name in planned(plan)]
    assert (plan.files, plan.refused, plan.ignored, plan.size) == (3, 0, 2, sum(sizes))
    assert not (tmp_path / "out").exists()


def test_an_item_holds_what_its_file_is(source):
    status = (source / "b.png").stat()
    (_, item, _) = plan_of(source)
    assert item == Item(1, "b.png", "b.png", status.st_size, status.st_mtime_ns)


def test_suffix_and_format(source, make_image):
    make_image(source / "d.jpeg")
    assert planned(plan_of(source, suffix="_clean", format="JPEG")) == {
        "a.JPG": "a_clean.JPG",
        "b.png": "b_clean.jpg",
        "d.jpeg": "d_clean.jpeg",
        "sub/deep/c.jpeg": "sub/deep/c_clean.jpeg",
    }


def test_two_inputs_for_one_output_are_refused(source, make_image):
    make_image(source / "a.png")
    make_image(source / "sub" / "b.jpg")  # in another folder: no clash
    assert len(planned(plan_of(source))) == 5
    with pytest.raises(InvalidValue) as caught:
        plan_of(source, format="PNG")
    assert str(caught.value) == (
        f"{source}: an output of its own for each input expected, found a.JPG and a.png → a.png; "
        "rename them, or leave some out by --exclude"
    )
    assert set(planned(plan_of(source, format="PNG", exclude=("a.JPG",)))) == {
        "a.png",
        "b.png",
        "sub/b.jpg",
        "sub/deep/c.jpeg",
    }


def test_many_clashes_are_counted_and_a_folder_can_be_in_the_way(tmp_path, make_image):
    for name in "abcde":
        make_image(tmp_path / "in" / f"{name}.png")
        make_image(tmp_path / "in" / f"{name}.jpg")
    with pytest.raises(InvalidValue, match=r"c\.jpg and c\.png → c\.png; and 2 more; rename"):
        plan_of(tmp_path / "in", format="PNG")
    make_image(tmp_path / "one" / "x.png" / "y.png")
    make_image(tmp_path / "one" / "x.jpg")
    with pytest.raises(InvalidValue, match=r"found a folder and x\.jpg → x\.png"):
        plan_of(tmp_path / "one", format="PNG")


@pytest.mark.parametrize(
    ("patterns", "expected", "excluded"),
    [
        ({"include": ("*.png",)}, {"b.png"}, 2),
        ({"include": ("sub",)}, {"sub/deep/c.jpeg"}, 2),
        ({"include": ("sub/*",)}, {"sub/deep/c.jpeg"}, 2),
        ({"include": ("deep/*",)}, set(), 3),
        ({"include": ("*.png", "[ax].*")}, {"a.JPG", "b.png"}, 1),
        ({"exclude": ("*.JPG",)}, {"b.png", "sub/deep/c.jpeg"}, 1),
        ({"exclude": ("deep",)}, {"a.JPG", "b.png"}, 0),
        ({"exclude": ("sub/deep",)}, {"a.JPG", "b.png"}, 0),
        ({"exclude": ("sub/*.jpeg",)}, {"a.JPG", "b.png"}, 1),
        ({"include": ("*.jp*", "*.JP*"), "exclude": ("a*",)}, {"sub/deep/c.jpeg"}, 2),
    ],
)
def test_patterns(source, patterns, expected, excluded):
    if not expected:
        with pytest.raises(InvalidValue, match=f"found none; {excluded} are excluded by patterns"):
            plan_of(source, **patterns)
        return
    plan = plan_of(source, **patterns)
    assert (set(planned(plan)), plan.excluded) == (expected, excluded)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"suffix": "a/b"}, "suffix: a part of a name expected, got 'a/b'"),
        ({"format": "GIF"}, "a format of PNG, JPEG, .* expected, got 'GIF'"),
    ],
)
def test_choices_that_cannot_be_meant(settings, message):
    with pytest.raises(InvalidValue, match=message):
        Choice(**settings)


def test_links_never_lead_out(source, tmp_path, make_image):
    outside = make_image(tmp_path / "elsewhere" / "x.png")
    (source / "out.png").symlink_to(outside)
    (source / "text").symlink_to(tmp_path / "nothing")
    (source / "folder").symlink_to(outside.parent)
    (source / "inside").symlink_to(source / "sub")
    (source / "again.png").symlink_to(source / "b.png")
    (source / "loop.png").symlink_to(source / "loop.png")
    (source / "gone.png").symlink_to(source / "no.png")
    (source / "sub" / "up").symlink_to(source)
    plan = plan_of(source)
    assert set(planned(plan)) == {"a.JPG", "again.png", "b.png", "sub/deep/c.jpeg"}
    out, nowhere = (
        "a link that leads out of the input folder is not followed",
        "a link to an image expected, found one to nothing, or in a circle",
    )
    assert refused(plan) == {
        "out.png": out,
        "folder": out,
        "loop.png": nowhere,
        "gone.png": nowhere,
    }
    assert plan.ignored == 2 + 3


def test_an_excluded_link_is_not_even_refused(source, tmp_path):
    (source / "folder").symlink_to(tmp_path)
    assert refused(plan_of(source, exclude=("folder",))) == {}


def test_what_is_no_regular_file_is_refused(source, tmp_path):
    os.mkfifo(source / "pipe.png")
    with socket.socket(socket.AF_UNIX) as bound:
        here = Path.cwd()
        os.chdir(source)  # names of sockets are short
        try:
            bound.bind("socket.png")
        finally:
            os.chdir(here)
    plan = plan_of(source)
    reason = "a regular file expected, found a device, pipe or socket"
    assert refused(plan) == {"pipe.png": reason, "socket.png": reason}
    with pytest.raises(InvalidValue, match="found a device or pipe"):
        plan_of(source / "pipe.png")


def test_unreadable_folders_are_named(source, monkeypatch):
    scandir = os.scandir

    def deny(path):
        if str(path).endswith("deep"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    plan = plan_of(source)
    assert refused(plan) == {"sub/deep": "the folder cannot be read: Permission denied"}
    assert set(planned(plan)) == {"a.JPG", "b.png"}


def test_what_n2n_is_writing_is_no_input(source, make_image):
    make_image(source / ".n2n-work" / "x" / "half.png")
    assert set(planned(plan_of(source))) == {"a.JPG", "b.png", "sub/deep/c.jpeg"}


def test_names_of_all_kinds_come_through_unchanged(tmp_path, make_image):
    names = [
        "with space.png",
        "quotes '\".png",
        "two\nlines.png",
        "-n.png",
        "*.png",
        "日本.png",
        os.fsdecode(b"\xff\xfe.png"),
    ]
    for name in names:
        make_image(tmp_path / "in" / name)
    assert planned(plan_of(tmp_path / "in")) == {name: name for name in names}


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("in", "a folder outside of the input folder"),
        ("in/sub/out", "a folder outside of the input folder"),
        ("link/out", "a folder outside of the input folder"),
        ("file", "a folder expected for the folder"),
    ],
)
def test_folders_that_cannot_be_meant(source, tmp_path, output, message):
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "file").touch()
    with pytest.raises(InvalidValue, match=message):
        plan_of(source, tmp_path / output)


def test_a_folder_beside_of_nearly_the_same_name_is_fine(source, tmp_path):
    assert plan_of(source, tmp_path / "in-out").files == 3


def test_a_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InvalidValue, match=r"a folder with images \(.png, .*\) expected, found"):
        plan_of(tmp_path, tmp_path.parent / "out")


def test_single_files(source, tmp_path):
    one = source / "b.png"
    assert planned(plan_of(one, tmp_path / "x.jpg")) == {"b.png": "x.jpg"}
    assert planned(plan_of(one, f"{tmp_path}/new/")) == {"b.png": "b.png"}
    (tmp_path / "out").mkdir()
    plan = plan_of(one, tmp_path / "out", suffix="_2", format="JPEG")
    assert (plan.single, planned(plan)) == (True, {"b.png": "b_2.jpg"})
    assert plan.outputs.shown("b_2.jpg") == str(tmp_path / "out" / "b_2.jpg")
    (tmp_path / "hard.png").hardlink_to(one)
    for same in (one, source, tmp_path / "hard.png"):
        with pytest.raises(InvalidValue, match="is the input itself"):
            plan_of(one, same)


@pytest.mark.parametrize(
    ("name", "output", "choice", "message"),
    [
        ("b.png", "x.gif", {}, "x.gif: an output that ends in"),
        ("b.png", "x.png", {"format": "JPEG"}, "its name says PNG, --format says JPEG"),
        ("b.png", "x.png", {"suffix": "_"}, "a folder expected with --suffix"),
        ("b.png", "there.png/", {}, None),
        ("Thumbs.db", "x.png", {}, "a file that ends in .png"),
        ("no.png", "x.png", {}, "found nothing; check the name"),
        ("set.parquet", "x.png", {}, "an output that ends in .parquet expected"),
    ],
)
def test_single_files_that_cannot_be_meant(source, tmp_path, name, output, choice, message):
    (source / "set.parquet").touch()
    if message is None:
        assert planned(plan_of(source / name, f"{tmp_path}/{output}", **choice))
        return
    with pytest.raises(InvalidValue, match=message):
        plan_of(source / name, tmp_path / output, **choice)


def test_parts_of_a_pair_set_are_found_by_their_names(source, tmp_path):
    for name in ("train/part-00000.parquet", "val/part-00001.parquet", "other.parquet"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).touch()
    plan = plan_of(source, include=("*.parquet",))
    kinds = {one.source: one.kind for one in plan if isinstance(one, Item)}
    assert kinds == {"train/part-00000.parquet": "part", "val/part-00001.parquet": "part"}
    for choice in ({"suffix": "_"}, {"format": "PNG"}):
        with pytest.raises(InvalidValue, match="keep names and format; leave out --suffix"):
            plan_of(source, **choice)


@pytest.mark.slow
def test_a_hundred_thousand_files_take_little_memory(tmp_path):
    """Of planning; `tests/bench/batch.py` measures the time, and the manifest."""
    for folder in range(100):
        (tmp_path / "in" / f"{folder:02d}").mkdir(parents=True)
        for name in range(1000):
            (tmp_path / "in" / f"{folder:02d}" / f"{name:04d}.png").touch()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(1 for _ in plan_of(tmp_path / "in")) == 100_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 << 10  # KiB
