"""`n2n demo`, small: what it leaves, what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from jobs import demo

SMALL = {"model": "unet", "model_config": {"width": 2, "depth": 1}, "epochs": 1, "batch_size": 20}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six smooth photographs, one smaller than the strip of pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(5)
    for number in range(6):
        side = 40 if number == 5 else 300
        small = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(small).resize((side, side)).save(folder / f"p{number}.png")
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PAIRS", 60)
    monkeypatch.setattr(demo, "TRAINING", {**SMALL, "optimizer": "adamw", "lr": 0.003})


def run(photos: Path, out: Path, *options: str) -> Result:
    arguments = ["--photos", str(photos), "--out", str(out), "--threads", "1", *options]
    return CliRunner().invoke(demo.main, arguments)


def test_it_leaves_a_model_and_pictures(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(photos, out, "--json")
    assert result.exit_code == 0, result.stderr
    scores = json.loads(result.stdout)
    assert [score["name"] for score in scores["photographs"]] == ["p3.png", "p4.png", "p5.png"]
    for score in scores["photographs"]:
        name = score["name"]
        clean = np.asarray(Image.open(photos / name), float)
        noisy = np.asarray(Image.open(out / "noisy" / name), float)
        psnr = 10 * np.log10(255**2 / np.mean((noisy - clean) ** 2))
        assert score["input_psnr"] == pytest.approx(psnr)
        assert np.asarray(Image.open(out / "denoised" / name)).shape == clean.shape
    with Image.open(out / "before-after.png") as strip:
        assert strip.size == (3 * 256, 3 * 256)
    assert (out / "model.safetensors").is_file()
    page = Path(scores["report"]).read_text()
    assert all(f"{number}.png" in page for number in ("p3", "p4", "p5"))
    assert sorted(p.name for p in (out / "photographs").iterdir()) == ["p0.png", "p1.png", "p2.png"]


def test_pairs_of_other_photographs_are_not_used_again(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(photos, out).exit_code == 0
    assert run(photos, out).exit_code == 0
    (photos / "p9.png").write_bytes((photos / "p4.png").read_bytes())
    result = run(photos, out)
    assert result.exit_code == 2
    assert "found pairs of others" in result.stderr.splitlines()[-1]


def test_too_few_or_damaged_photographs(photos: Path, tmp_path: Path) -> None:
    (photos / "p5.png").write_bytes(b"")
    damaged = run(photos, tmp_path / "out")
    for name in ("p0.png", "p1.png", "p2.png"):
        (photos / name).unlink()
    few = run(photos, tmp_path / "out")
    assert damaged.exit_code == few.exit_code == 2
    assert "p5.png" in damaged.stderr
    assert "expected at least 5 photographs" in few.stderr
    assert not (tmp_path / "out").exists()
