"""`n2n evaluate MODEL… FOLDER --noise`: text, JSON, Parquet, what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from jobs.evaluate import main
from n2n import classical, models
from n2n.checkpoint import save_model
from n2n.classical import CLASSICAL, Classical
from n2n.files import digest_of

NOISE = ("--noise", "gaussian:25")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """Work in a folder that holds two models and three images; leave torch's threads."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a", "b")):
        generator = torch.Generator().manual_seed(seed)
        network = models.create("unet", width=2, depth=1, generator=generator)
        save_model(Path(f"{name}.safetensors"), network, {})
    Path("clean").mkdir()
    rng = np.random.default_rng(0)
    for number, shape in enumerate([(16, 20, 3), (13, 17, 3), (12, 12)]):
        pixels = rng.integers(0, 256, shape).astype(np.uint8)
        Image.fromarray(pixels).save(f"clean/{number}.png")
    yield tmp_path
    torch.set_num_threads(threads)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--device", "cpu", "--threads", "1"])


def test_a_table_of_models_and_peers() -> None:
    result = run("a.safetensors", "b.safetensors", "clean", *NOISE, "--peer", "nlm")
    assert (result.exit_code, result.stderr) == (0, "")
    heading, titles, *rows = result.stdout.splitlines()
    assert heading.startswith("3 images, 1 of them grey; noise gaussian:25; means")
    assert titles.split()[0] == "denoiser"
    assert [row.split()[0] for row in rows] == ["noisy", "a.safetensors", "b.safetensors", "nlm"]
    assert rows[0].rstrip().endswith("-")
    assert " ± " in rows[1]


def test_json_and_parquet_agree() -> None:
    result = run("a.safetensors", "clean", *NOISE, "--json", "--parquet", "scores.parquet")
    assert (result.exit_code, result.stderr) == (0, "")
    told = json.loads(result.stdout)
    expected = {"noise": "gaussian:25", "clip": False, "images": 3, "grey": 1}
    assert {name: told[name] for name in expected} == expected
    assert "Student's t" in told["interval"]
    noisy, model = told["denoisers"]
    assert (noisy["name"], noisy["digest"]) == ("noisy", None)
    assert (model["name"], model["digest"]) == ("a.safetensors", digest_of(Path("a.safetensors")))
    assert model["gain"] is None
    table = pq.read_table("scores.parquet")
    assert json.loads(table.schema.metadata[b"n2n"])["noise"] == "gaussian:25"
    rows = table.to_pylist()
    assert [row["image"] for row in rows[::2]] == ["0.png", "1.png", "2.png"]
    psnr = [row["psnr"] for row in rows if row["denoiser"] == "a.safetensors"]
    assert model["psnr"]["mean"] == pytest.approx(np.mean(psnr))
    assert model["psnr"]["low"] < np.mean(psnr) < model["psnr"]["high"]
    gain = np.mean([row["psnr"] for row in rows if row["denoiser"] == "noisy"]) - np.mean(psnr)
    assert noisy["gain"]["mean"] == pytest.approx(gain)


def test_clip_seed_grey_and_tta_change_the_scores() -> None:
    scores = [
        json.loads(run("a.safetensors", "clean", *NOISE, "--json", *options).stdout)
        for options in ([], ["--clip"], ["--seed", "1"], ["--grey"], ["--tta"])
    ]
    means = {told["denoisers"][1]["psnr"]["mean"] for told in scores}
    assert len(means) == 5
    assert [told["grey"] for told in scores] == [1, 1, 1, 3, 1]
    assert [told["tta"] for told in scores] == [False] * 4 + [True]


def test_peers_that_are_not_installed_are_left_out(monkeypatch) -> None:
    absent = Classical("absent", "absent peer", {"no_such_module": "absent"}, lambda x, _: x)
    monkeypatch.setattr(classical, "CLASSICAL", {"tv": CLASSICAL["tv"], "absent": absent})
    result = run("clean", *NOISE, "--peers")
    assert result.exit_code == 0
    assert "tv" in result.stdout
    assert result.stderr == "left out: absent peer; to install it: pip install absent\n"
    told = json.loads(run("clean", *NOISE, "--peers", "--json").stdout)
    assert told["left_out"] == [{"name": "absent", "install": "pip install absent"}]


def test_an_image_that_is_none_is_skipped(folder: Path) -> None:
    Path("clean/none.png").write_bytes(b"none")
    result = run("a.safetensors", "clean", *NOISE)
    assert result.exit_code == 0
    assert result.stderr == "skipped: none.png: not an image that can be read\n"
    assert result.stdout.startswith("3 images")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["a.safetensors", "none", *NOISE], "none: expected a folder"),
        (["a.safetensors", "clean", "--noise", "gaussian"], "expected the noise"),
        (["a.safetensors", "clean", "--noise", "subsample"], "keeps an image's size"),
        (["clean", *NOISE], "expected a MODEL or more, or --peers"),
        (["c.safetensors", "clean", *NOISE], "c.safetensors: expected a model file"),
        (["a.safetensors", "clean", *NOISE, "--split", "val"], "--split is of pair sets"),
        (["a.safetensors", "clean", "--clip"], "--clip needs --noise"),
        (["a.safetensors", "clean", "--tta"], "--tta needs --noise"),
        (["a.safetensors", "clean", "--peer", "tv"], "--peer needs --noise"),
        (["a.safetensors", "clean", *NOISE, "--peer", "dncnn"], "'dncnn'"),
        (["a.safetensors", "clean", "--noise", "none", "--peers"], "standard deviation"),
        (["a.safetensors", "clean", *NOISE, "--parquet", "a.safetensors"], "expected a new file"),
    ],
)
def test_what_is_refused(arguments: list[str], part: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("n2n: ")
    assert part in line
