"""`n2n data` through click's runner: exit codes, messages, results for programs."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from jobs.data import main
from n2n.data import PairSet

PHOTOS = Path(__file__).parents[2] / "data" / "photos"
SMALL = ["--size", "16", "--pairs", "40", "--val-pairs", "8", "--workers", "1"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(result: Result, code: int = 2) -> str:
    """The one line on standard error."""
    assert result.exit_code == code, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("n2n: ")]
    assert "Traceback" not in result.output
    return line


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(coarse).resize((90, 70)).save(folder / f"{i}.png")
    return folder


def test_build_then_check(photographs, tmp_path):
    result = run("build", photographs, tmp_path / "set", *SMALL, "--noise", "gaussian:25")
    assert result.exit_code == 0
    expected = f"{tmp_path / 'set'}: 40 pairs from 3 photographs, 8 for validation from 1 others"
    assert expected in result.stdout
    assert "drawing train pairs: 3 of 3" in result.stderr
    result = run("check", tmp_path / "set", "--workers", "1")
    assert result.exit_code == 0
    assert "noise: gaussian:25" in result.stdout
    assert "train: 40 pairs, sigma 2" in result.stdout
    assert result.stdout.endswith("no warnings\n")


def test_json_is_all_there_is_on_standard_output(photographs, tmp_path):
    made = json.loads(run("build", photographs, tmp_path / "set", *SMALL, "--json").stdout)
    assert made["train"] == {"pairs": 40, "photographs": 3}
    assert made["val"] == {"pairs": 8, "photographs": 1}
    assert made["shape"] == [3, 16, 16]
    checked = json.loads(run("check", tmp_path / "set", "--json", "--workers", "1").stdout)
    assert checked["ok"] is True
    assert [split["name"] for split in checked["splits"]] == ["train", "val"]
    assert checked["digest"] == PairSet.open(tmp_path / "set").digest


def test_the_sample_photographs_make_a_set(tmp_path):
    result = run("build", PHOTOS, tmp_path / "set", *SMALL)
    assert result.exit_code == 0
    assert "13 photographs" in result.stdout or "from 1 others" in result.stdout
    assert "1 files of other kinds ignored" in result.stdout


def test_skipped_files_are_named_and_the_exit_code_is_1(photographs, tmp_path):
    (photographs / "zero.jpg").write_bytes(b"")
    (photographs / "new\nline.png").write_text("text")
    result = run("build", photographs, tmp_path / "set", *SMALL, "--json")
    assert result.exit_code == 1
    assert "skipped zero.jpg: an empty file\n" in result.stderr
    assert "skipped 'new\\nline.png': not an image that can be read\n" in result.stderr
    assert json.loads(result.stdout)["skipped"] == [
        {"name": "new\nline.png", "reason": "not an image that can be read"},
        {"name": "zero.jpg", "reason": "an empty file"},
    ]
    assert PairSet.open(tmp_path / "set").train.rows == 40


def test_wrong_use_is_one_line_and_exit_code_2(photographs, tmp_path):
    out = tmp_path / "set"
    assert "there is nothing" in refused(run("build", tmp_path / "none", out))
    assert "found 'blur'" in refused(run("build", photographs, out, "--noise", "blur"))
    assert "found nan" in refused(run("build", photographs, out, "--noise", "gaussian:nan"))
    assert "size must be" in refused(run("build", photographs, out, "--size", "0"))
    assert "see 'data build --help'" in refused(run("build", photographs, out, "--size", "x"))
    assert "needs 400 pixels" in refused(run("build", photographs, out, "--size", "200"))
    assert "expected the folder of a pair set" in refused(run("check", out))
    assert not out.exists()
    run("build", photographs, out, *SMALL)
    assert "pass --overwrite" in refused(run("build", photographs, out, *SMALL))
    assert run("build", photographs, out, *SMALL, "--overwrite").exit_code == 0


def test_a_full_disk_is_exit_code_3(photographs, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("n2n.data.writer._write_all", full)
    line = refused(run("build", photographs, tmp_path / "set", *SMALL), code=3)
    assert "the disk is full" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photographs"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_is_exit_code_2(photographs, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert "no permission" in refused(run("build", photographs, locked / "set", *SMALL))


def test_import(tmp_path):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 20, 3, 8, 8), dtype=torch.uint8, generator=generator)
    torch.save((images[0], images[1]), tmp_path / "train.pkl")
    torch.save((images[2, :5], images[3, :5]), tmp_path / "val.pkl")
    train, val, out = tmp_path / "train.pkl", tmp_path / "val.pkl", tmp_path / "set"
    result = run("import", train, val, "--out", out, "--json")
    assert result.exit_code == 0
    made = json.loads(result.stdout)
    assert (made["train"]["pairs"], made["val"]["pairs"]) == (20, 5)
    assert PairSet.open(out).val.target == "clean"
    assert "Missing option '--out'" in refused(run("import", train))
    train.write_bytes(b"not saved by torch")
    assert "expected a file by torch.save" in refused(run("import", train, "--out", out / "new"))


def test_pair(photographs, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    rng = np.random.default_rng(1)
    for path in photographs.iterdir():
        noise = rng.normal(0, 9, (70, 90, 3))
        pixels = np.clip(np.asarray(Image.open(path)) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(other / path.name)
    assert run("pair", photographs, other, tmp_path / "set", *SMALL).exit_code == 0
    (other / "0.png").unlink()
    result = run("pair", photographs, other, tmp_path / "set", *SMALL, "--overwrite")
    assert result.exit_code == 1
    assert f"skipped {photographs / '0.png'}: no one file of this name in {other}" in result.stderr
    assert "40 pairs from 2 scenes" in result.stdout


def test_check_names_what_is_wrong(tmp_path):
    rng = np.random.default_rng(2)
    smooth = rng.integers(0, 256, (60, 4, 4, 3), np.uint8)
    images = [np.asarray(Image.fromarray(i).resize((32, 32))).transpose(2, 0, 1) for i in smooth]
    x, y = (
        np.clip(np.stack(images) + rng.normal(0, 5, (60, 3, 32, 32)), 0, 255).astype(np.uint8)
        for _ in range(2)
    )
    y[:20] = np.roll(y[:20], 2, 2)
    torch.save((torch.from_numpy(x), torch.from_numpy(y)), tmp_path / "train.pkl")
    run("import", tmp_path / "train.pkl", "--out", tmp_path / "set")
    result = run("check", tmp_path / "set", "--workers", "1")
    assert result.exit_code == 1
    assert "warning: train: misaligned, 20 rows (0, 1, 2, 3, 4, …): the views" in result.stdout
    assert "by 2 pixels down and 0 right" in result.stdout
    report = json.loads(run("check", tmp_path / "set", "--json", "--workers", "1").stdout)
    assert report["ok"] is False
    assert report["findings"][0]["first_rows"] == [0, 1, 2, 3, 4]


def test_help_imports_neither_torch_nor_pyarrow():
    code = (
        "import sys; from jobs.data import main; main(['build', '--help'], standalone_mode=False)"
    )
    script = f"import atexit, sys\natexit.register(lambda: print(sorted(sys.modules)))\n{code}"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout
    assert "--val-pairs" in output
    assert not {"torch", "pyarrow", "numpy", "PIL"} & set(eval(output.splitlines()[-1]))


def test_workers_of_a_build_do_without_torch():
    code = "import sys, n2n.data.make, n2n.data; print('torch' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert output == "False\n"
