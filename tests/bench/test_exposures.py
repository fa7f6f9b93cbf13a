"""Exposures of one scene each: same names in both folders, and the clean one beside them."""

from pathlib import Path

import numpy as np
from click.testing import CliRunner
from PIL import Image

from .exposures import FOLDERS, main


def test_photographs_of_one_name_stay_apart(tmp_path: Path) -> None:
    photos = {}
    for number, name in enumerate(["a.png", "a.tif", "below/a.png"]):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        photos[name] = np.full((40, 30, 3), 80 + 40 * number, np.uint8)
        Image.fromarray(photos[name]).save(path)
    out = tmp_path / "out"
    options = [str(tmp_path / "photos"), str(out), "--noise", "gaussian:10"]
    result = CliRunner().invoke(main, options, catch_exceptions=False)
    assert result.exit_code == 0
    names = [sorted(path.name for path in (out / folder).iterdir()) for folder in FOLDERS]
    assert names[0] == names[1] == names[2]
    assert len(names[0]) == 3
    first, second, clean = (
        np.stack([np.asarray(Image.open(out / folder / name), float) for name in names[0]])
        for folder in FOLDERS
    )
    assert (clean == np.stack(list(photos.values()))).all()
    for noisy in (first, second):
        assert abs((noisy - clean).std() - 10) < 0.5
    assert abs(np.corrcoef((first - clean).ravel(), (second - clean).ravel())[0, 1]) < 0.05


def test_crops_from_the_middle_of_those_as_large(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 31, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photos/large.png")
    Image.fromarray(pixels[:29]).save(tmp_path / "photos/small.png")
    out = tmp_path / "out"
    options = [str(tmp_path / "photos"), str(out), "--crop", "30"]
    assert CliRunner().invoke(main, options, catch_exceptions=False).exit_code == 0
    (clean,) = (out / "clean").iterdir()
    assert clean.name == "00000-large.png"
    assert (np.asarray(Image.open(clean)) == pixels[5:35, 0:30]).all()
