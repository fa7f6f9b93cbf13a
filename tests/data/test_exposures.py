"""Pair sets from two folders of exposures."""

import numpy as np
import pytest
from PIL import Image

from n2n.data import PairSet, Recipe, pair_set
from n2n.errors import PairSetError

RECIPE = Recipe(size=16, pairs=60, val_pairs=10, seed=2)


@pytest.fixture
def exposures(tmp_path, draw):
    """Two folders of five scenes; b = 255 - a, so that crops at the same place can be told."""
    folders = tmp_path / "a", tmp_path / "b"
    for folder, extension in zip(folders, ("png", "TIFF"), strict=True):
        (folder / "more").mkdir(parents=True)
        for i in range(5):
            pixels = draw(i) if folder.name == "a" else 255 - draw(i)
            name = f"{'more/' if i == 4 else ''}{i}.{extension}"
            Image.fromarray(pixels).save(folder / name)
    return folders


def test_crops_come_from_the_same_place(exposures, tmp_path):
    made = pair_set(*exposures, tmp_path / "set", RECIPE)
    assert (made.train_scenes, made.val_scenes, made.skipped) == (4, 1, ())
    pairs = PairSet.open(tmp_path / "set")
    assert pairs.noise is None
    assert not pairs.train.has_clean
    for split, rows in ((pairs.train, 60), (pairs.val, 10)):
        values = split.read()
        assert len(values["input"]) == rows
        np.testing.assert_array_equal(values["input"], 255 - values["target"])


def test_workers_do_not_change_the_set(exposures, tmp_path):
    for workers in (1, 2):
        pair_set(*exposures, tmp_path / str(workers), RECIPE, workers=workers)
    one, two = (PairSet.open(tmp_path / str(workers)).digest for workers in (1, 2))
    assert one == two


def test_what_does_not_match_is_named_and_skipped(exposures, tmp_path, draw):
    a, b = exposures
    Image.fromarray(draw(20)).save(a / "alone.png")
    Image.fromarray(draw(21)).save(b / "other.png")
    Image.fromarray(draw(0, 50, 60)).save(b / "0.TIFF")
    (b / "1.TIFF").write_bytes((a / "1.png").read_bytes())
    (b / "2.TIFF").write_bytes(b"")
    Image.fromarray(draw(3)).save(b / "3.jpg")
    made = pair_set(a, b, tmp_path / "set", Recipe(size=16, pairs=9, val_pairs=0))
    reasons = {skip.name.removeprefix(f"{tmp_path}/"): skip.reason for skip in made.skipped}
    assert reasons == {
        "a/alone.png": f"no one file of this name in {b}",
        "b/other.png": f"no one file of this name in {a}",
        "a/0.png": "another size than its partner: 112 × 96 against 60 × 50",
        "a/1.png": "its partner is a copy of it, with the same noise",
        "b/2.TIFF": "an empty file",
        "a/2.png": "its partner cannot be used",
        "b/3.TIFF": "another file has the same name but for the extension",
        "b/3.jpg": "another file has the same name but for the extension",
        "a/3.png": f"no one file of this name in {b}",
    }
    assert made.train_scenes == 1


def test_folders_without_a_pair_are_refused(exposures, tmp_path):
    a, b = exposures
    with pytest.raises(PairSetError, match="expected another folder than the first"):
        pair_set(a, a, tmp_path / "set", RECIPE)
    with pytest.raises(PairSetError, match="expected a folder outside of the input folder"):
        pair_set(a, b, b, RECIPE, overwrite=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PairSetError, match="found no pair that can be used"):
        pair_set(a, tmp_path / "empty", tmp_path / "set", RECIPE)
    with pytest.raises(PairSetError, match="there is nothing"):
        pair_set(a, tmp_path / "none", tmp_path / "set", RECIPE)
    assert not (tmp_path / "set").exists()
