"""Building sets: what is in them, to the byte the same, nothing half done."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from n2n.data import PairSet, Recipe, build_set, make, parse_noise
from n2n.data.folder import building
from n2n.errors import InvalidValue, JobFailed, PairSetError

ALL = ("input", "target", "clean")


def build(source: Path, out: Path, noise: str = "subsample", **settings):
    names = ("workers", "overwrite", "clean_targets")
    running = {key: settings.pop(key) for key in names if key in settings}
    recipe = Recipe(**{"size": 16, "pairs": 300, "val_pairs": 20, "seed": 3, **settings})
    return build_set(source, out, parse_noise(noise), recipe, **running)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def sources(out: Path, split: str) -> dict[str, str]:
    schema = pq.read_schema(out / split / "part-00000.parquet")
    return dict(json.loads(schema.metadata[b"n2n"])["sources"])


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("noise", ["subsample", "gaussian:5-50", "poisson:30", "impulse:0.2"])
@pytest.mark.parametrize("grey", [False, True])
def test_a_set_holds_what_was_asked_for(photographs, tmp_path, noise, grey):
    made = build(photographs, tmp_path / "set", noise, grey=grey)
    pairs = PairSet.open(tmp_path / "set")
    assert pairs.shape == made.shape == ((1 if grey else 3), 16, 16)
    assert pairs.noise == noise.replace("0.20", "0.2")
    assert (pairs.train.rows, pairs.val.rows) == (300, 20)
    assert (made.train_scenes, made.val_scenes) == (7, 1)
    assert pairs.train.has_clean
    rows = pairs.train.read(ALL)
    x, y, clean = (rows[name].astype(float) for name in ALL)
    assert (x != y).any((1, 2, 3)).all()
    correlation = np.corrcoef((x - clean).ravel(), (y - clean).ravel())[0, 1]
    assert abs(correlation) < (0.1 if noise.startswith("imp") else 0.03)


def test_clean_crops_come_from_the_photographs(photographs, tmp_path):
    build(photographs, tmp_path / "set", "gaussian:9", pairs=20)
    pixels = [
        np.asarray(Image.open(photographs / name)) for name in sources(tmp_path / "set", "train")
    ]
    windows = [
        np.lib.stride_tricks.sliding_window_view(image, (16, 16), (0, 1)) for image in pixels
    ]
    for clean in PairSet.open(tmp_path / "set").train.read(["clean"])["clean"]:
        assert any((window == clean).all((2, 3, 4)).any() for window in windows)


@pytest.mark.parametrize("noise", ["subsample", "gaussian:25"])
def test_clean_targets_change_nothing_but_the_targets_of_training(photographs, tmp_path, noise):
    build(photographs, tmp_path / "noisy", noise)
    build(photographs, tmp_path / "clean", noise, clean_targets=True)
    noisy, clean = (PairSet.open(tmp_path / name) for name in ("noisy", "clean"))
    expected, found = (pairs.train.read(ALL) for pairs in (noisy, clean))
    np.testing.assert_array_equal(found["input"], expected["input"])
    np.testing.assert_array_equal(found["target"], expected["clean"])
    np.testing.assert_array_equal(found["clean"], expected["clean"])
    assert (noisy.train.target, clean.train.target) == ("noisy", "clean")
    assert contents(tmp_path / "noisy/val") == contents(tmp_path / "clean/val")


def test_a_seed_gives_the_same_bytes_whatever_the_workers(photographs, tmp_path):
    for name, settings in {
        "one": {"workers": 1},
        "two": {"workers": 2},
        "other": {"workers": 1, "seed": 4},
    }.items():
        build(photographs, tmp_path / name, **settings)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert contents(tmp_path / "one") != contents(tmp_path / "other")


def test_validation_has_photographs_of_its_own(photographs, tmp_path):
    for seed in range(4):
        build(photographs, tmp_path / f"{seed}", seed=seed, pairs=30, val_pairs=5)
        train, val = (sources(tmp_path / f"{seed}", split) for split in ("train", "val"))
        assert not set(train) & set(val)
        assert not set(train.values()) & set(val.values())
        assert len(train) + len(val) == 8
    assert len({next(iter(sources(tmp_path / f"{seed}", "val"))) for seed in range(4)}) > 1


def test_copies_of_a_photograph_count_once(photographs, tmp_path):
    for i in range(20):
        (photographs / f"copy{i}.png").write_bytes((photographs / "0.png").read_bytes())
    made = build(photographs, tmp_path / "set")
    assert made.repeated == 20
    assert made.train_scenes + made.val_scenes == 8


def test_rows_of_a_photograph_are_scattered(tmp_path, draw):
    source = tmp_path / "source"
    source.mkdir()
    for i in range(5):
        flat = np.full((40, 40, 3), 50 * i, np.uint8)
        Image.fromarray(flat).save(source / f"{i}.png")
    build(source, tmp_path / "set", "gaussian:1", val_pairs=0, pairs=503)
    levels = PairSet.open(tmp_path / "set").train.read(["clean"])["clean"][:, 0, 0, 0]
    assert sorted(np.unique(levels, return_counts=True)[1]) == [100, 100, 101, 101, 101]
    assert np.mean(levels[1:] == levels[:-1]) < 0.3


def test_without_validation_pairs_no_photograph_is_held_out(photographs, tmp_path):
    made = build(photographs, tmp_path / "set", val_pairs=0)
    assert (made.train_scenes, made.val_scenes) == (8, 0)
    assert PairSet.open(tmp_path / "set").val is None


def test_unusable_files_cost_no_pairs(photographs, tmp_path):
    whole = (photographs / "more" / "6.JPG").read_bytes()
    (photographs / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (photographs / "zero.png").write_bytes(b"")
    (photographs / "note.jpeg").write_text("text")
    (photographs / "note.txt").write_text("text")
    made = build(photographs, tmp_path / "set")
    assert [skip.name for skip in made.skipped] == ["cut.jpg", "note.jpeg", "zero.png"]
    assert made.ignored == 1
    assert PairSet.open(tmp_path / "set").train.rows == 300
    assert "cut.jpg" not in sources(tmp_path / "set", "train")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size must be from 1 to 512; found 0"),
        ({"pairs": 0}, "pairs must be from 1"),
        ({"val_pairs": -1}, "val_pairs must be from 0"),
        ({"seed": -1}, "seed must be from 0"),
        ({"workers": 0}, "workers must be 1 or more; found 0"),
    ],
)
def test_bad_numbers_are_refused(photographs, tmp_path, settings, message):
    with pytest.raises(InvalidValue, match=message):
        build(photographs, tmp_path / "set", **settings)
    assert not (tmp_path / "set").exists()


def test_too_few_photographs_are_refused(photographs, tmp_path):
    with pytest.raises(PairSetError, match=r"too small: 112 × 96, needs 128.* and 7 more"):
        build(photographs, tmp_path / "set", size=64)
    for path in list(photographs.rglob("*.*"))[1:]:
        path.unlink()
    with pytest.raises(PairSetError, match=r"at least 2 different usable.* found 1"):
        build(photographs, tmp_path / "set")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PairSetError, match="found an empty folder"):
        build(tmp_path / "empty", tmp_path / "set")
    assert not (tmp_path / "set").exists()
    assert not hidden(tmp_path)


def test_a_folder_in_use_is_refused_and_overwritten_on_request(photographs, tmp_path):
    out = tmp_path / "set"
    out.mkdir()
    build(photographs, out)
    before = contents(out)
    with pytest.raises(PairSetError, match="expected a new or empty folder, found train, val"):
        build(photographs, out, seed=9)
    assert contents(out) == before
    build(photographs, out, seed=9, overwrite=True)
    assert contents(out) != before
    assert not hidden(tmp_path)


def test_overwrite_never_removes_anything_but_a_pair_set(photographs, tmp_path):
    before = contents(photographs)
    with pytest.raises(PairSetError, match="expected a folder outside of the input folder"):
        build(photographs, photographs, overwrite=True)
    with pytest.raises(PairSetError, match="expected a pair set to overwrite"):
        build(photographs, tmp_path, overwrite=True)
    assert contents(photographs) == before
    (tmp_path / "set" / "train").mkdir(parents=True)
    (tmp_path / "set" / "train" / "thesis.txt").write_text("years of work")
    with pytest.raises(PairSetError, match=r"found also train/thesis\.txt"):
        build(photographs, tmp_path / "set", overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(PairSetError, match="expected a folder to write to, found a file"):
        build(photographs, tmp_path / "file", overwrite=True)


@pytest.mark.parametrize("place", ["", "set", "sets/a"])
def test_a_set_inside_the_photographs_is_refused(photographs, place):
    before = contents(photographs)
    with pytest.raises(PairSetError, match="expected a folder outside of the input folder"):
        build(photographs, photographs / place, overwrite=True)
    assert contents(photographs) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_a_build_that_stops_leaves_nothing(photographs, tmp_path, monkeypatch, error):
    def stop(*_):
        raise error

    monkeypatch.setattr("n2n.data.writer._write_all", stop)
    with pytest.raises(type(error)):
        build(photographs, tmp_path / "set")
    assert not (tmp_path / "set").exists()
    assert not hidden(tmp_path)


def test_an_overwrite_that_fails_keeps_the_old_set(photographs, tmp_path, monkeypatch):
    build(photographs, tmp_path / "set")
    before = contents(tmp_path / "set")
    monkeypatch.setattr(make, "write_split", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build(photographs, tmp_path / "set", overwrite=True, seed=8)
    assert contents(tmp_path / "set") == before
    assert not hidden(tmp_path)


def test_a_set_that_was_being_exchanged_is_put_back(photographs, tmp_path):
    build(photographs, tmp_path / "set")
    before = contents(tmp_path / "set")
    (tmp_path / "set").rename(tmp_path / ".set.old")  # killed between the two renames
    with pytest.raises(RuntimeError), building(tmp_path / "set", overwrite=True):
        raise RuntimeError
    assert contents(tmp_path / "set") == before


KILLED = """
import sys, time
from pathlib import Path
from n2n.data import Recipe, build_set, parse_noise

def progress(label, done, total):
    if label == "drawing train pairs" and done == 2:
        print("drawing", flush=True)
        time.sleep(60)

if __name__ == "__main__":
    recipe = Recipe(size=16, pairs=300, val_pairs=20, seed=3)
    build_set(Path(sys.argv[1]), Path(sys.argv[2]), parse_noise("subsample"), recipe,
              workers=2, progress=progress)
"""


def test_a_killed_build_leaves_no_half_set_and_the_next_one_tidies_up(photographs, tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), str(photographs), str(tmp_path / "set")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"drawing\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        workers = children.read_text().split() if children.exists() else []
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "set").exists()
    assert len(hidden(tmp_path)) == 1
    build(photographs, tmp_path / "set")
    assert not hidden(tmp_path)
    build(photographs, tmp_path / "straight")
    assert contents(tmp_path / "set") == contents(tmp_path / "straight")
    deadline = time.monotonic() + 20  # workers end with their parent
    while any(alive(int(pid)) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(int(pid)) for pid in workers)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_folder_that_another_build_works_in_is_left_alone(photographs, tmp_path):
    with building(tmp_path / "set", overwrite=False) as working:
        (working / "train").mkdir()
        with building(tmp_path / "set", overwrite=False) as second:
            assert working.exists()
            assert second != working


class Fatal:
    """A sampler whose worker process dies."""

    columns = ALL
    spec = "subsample"
    parameters: dict = {}  # noqa: RUF012  # read only

    def least_side(self, size: int) -> int:
        return size

    def sample(self, *_):
        os._exit(9)


def test_a_worker_that_dies_is_one_clear_line(photographs, tmp_path):
    recipe = Recipe(size=16, pairs=300, val_pairs=20)
    with pytest.raises(JobFailed, match=r"a worker process died.*fewer --workers"):
        build_set(photographs, tmp_path / "set", Fatal(), recipe, workers=2)
    assert not (tmp_path / "set").exists()
    assert not hidden(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_leaves_nothing(photographs, tmp_path, workers):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        with pytest.raises(OSError, match="No space left") as caught:
            build(photographs, disk / "set", pairs=3000, workers=workers)
        assert caught.value.errno == errno.ENOSPC
        assert not list(disk.iterdir())
        build(photographs, disk / "set", pairs=20, val_pairs=4)
        assert PairSet.open(disk / "set").train.rows == 20
    finally:
        subprocess.run(["umount", str(disk)], check=True)
