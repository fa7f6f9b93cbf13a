"""`n2n evaluate`: text, JSON, what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from jobs.evaluate import main
from n2n import device, models
from n2n.checkpoint import load_model, save_model
from n2n.evaluation import evaluate


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """Work in an empty folder that holds a model, and leave torch's threads as they were."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(4)
    network = models.create("unet", width=4, depth=1, generator=generator)
    save_model(Path("model.safetensors"), network, {})
    yield tmp_path
    torch.set_num_threads(threads)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--device", "cpu", "--threads", "1"])


def assert_refused(result: Result, *parts: str) -> None:
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("n2n: ")
    for part in parts:
        assert part in line


@pytest.mark.parametrize("split", ["val", "train"])
def test_json(make_set, split: str) -> None:
    pairs = make_set()
    result = run("model.safetensors", "set", "--json", "--split", split)
    assert (result.exit_code, result.stderr) == (0, "")
    chosen = pairs.val if split == "val" else pairs.train
    expected = evaluate(load_model("model.safetensors")[0], chosen).as_dict()
    assert json.loads(result.stdout) == {"split": split, **expected}


def test_bf16(make_set, monkeypatch) -> None:
    """Near to fp32 and not equal to it; refused where it would be slow."""
    make_set()
    monkeypatch.setattr(device, "cpu_features", lambda: {"avx512_bf16"})
    exact, rounded = (
        json.loads(run("model.safetensors", "set", "--json", *options).stdout)
        for options in ([], ["--precision", "bf16"])
    )
    assert rounded["mse"] != exact["mse"]
    assert rounded["mse"] == pytest.approx(exact["mse"], rel=0.02)
    monkeypatch.setattr(device, "cpu_features", frozenset)
    result = run("model.safetensors", "set", "--precision", "bf16")
    assert_refused(result, "precision bf16 needs a processor")
    assert_refused(run("model.safetensors", "set", "--precision", "fp16"), "needs a GPU")
    assert_refused(run("model.safetensors", "set", "--precision", "fp"), "got 'fp'")


def test_val_is_the_default_where_there_is_one(make_set) -> None:
    make_set()
    make_set("bare", val=0)
    for name, split, images in (("set", "val", 20), ("bare", "train", 90)):
        found = json.loads(run("model.safetensors", name, "--json").stdout)
        assert (found["split"], found["images"]) == (split, images)


def test_text(make_set) -> None:
    """Every line's number, against numpy where it is quickly computed."""
    pairs = make_set()
    result = run("model.safetensors", "set")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.rsplit("  ", 1) for line in result.stdout.splitlines()]
    found = {label.strip(): value.strip() for label, value in lines}
    columns = pairs.val.read(("input", "clean"))
    x, clean = (column / 255.0 for column in columns.values())
    psnr = np.mean(-10 * np.log10(((x - clean) ** 2).mean((1, 2, 3))))
    assert found["images"] == "20"
    assert found["PSNR of the noisy input"] == f"{psnr:.2f} dB"
    denoised = load_model("model.safetensors")[0](torch.from_numpy(x).float()).clamp(0, 1).numpy()
    errors = ((denoised - clean) ** 2).mean((1, 2, 3))
    assert found["PSNR, mean over images"] == f"{np.mean(-10 * np.log10(errors)):.2f} dB"
    assert found["PSNR, pooled"] == f"{-10 * np.log10(errors.mean()):.2f} dB"
    assert found["mean squared error"] == f"{errors.mean():.6f}"
    assert found.pop("split") == "val"
    assert len(found) == 9


def test_text_names_only_what_is_known(make_set) -> None:
    make_set(clean=False)
    output = run("model.safetensors", "set").stdout
    assert "PSNR estimated from noisy pairs, pooled" in output
    assert "PSNR, mean" not in output
    assert "SSIM" not in output
    make_set("clean", target="clean")
    output = run("model.safetensors", "clean").stdout
    assert "PSNR, mean" in output
    assert "estimated" not in output


def test_images_without_noise(make_set) -> None:
    """A network of zeros returns its input, of infinite PSNR: JSON has no such number."""
    make_set(sigma=0.0)
    network = models.create("unet", width=1, depth=1, generator=torch.Generator())
    for value, _ in network.param():
        value.zero_()
    save_model(Path("same.safetensors"), network, {})
    found = json.loads(run("same.safetensors", "set", "--json").stdout)
    assert found["psnr"] is found["psnr_pooled"] is None
    assert found["mse"] == 0
    assert run("same.safetensors", "set").exit_code == 0


def test_what_cannot_be_evaluated(make_set) -> None:
    make_set()
    make_set("bare", val=0)
    make_set("grey", shape=(1, 8, 8))
    Path("garbage.safetensors").write_bytes(b"garbage")
    assert_refused(run("none.safetensors", "set"), "none.safetensors", "nothing there")
    assert_refused(run("set", "set"), "set: expected a model file, found a folder")
    assert_refused(run("garbage.safetensors", "set"), "garbage.safetensors", "complete")
    assert_refused(run("model.safetensors", "none"), "none: expected the folder of a pair set")
    assert_refused(run("model.safetensors", "model.safetensors"), "found a file")
    assert_refused(run("model.safetensors", "bare", "--split", "val"), "expected a val split")
    assert_refused(run("model.safetensors", "grey"), "takes 3 channels", "(1, 8, 8)")
    assert_refused(run("model.safetensors", "set", "--split", "test"), "--split")
    assert_refused(run("model.safetensors"), "SET")
    for options, part in ((["--device", "tpu"], "'tpu'"), (["--threads", "0"], "got 0")):
        result = CliRunner().invoke(main, ["model.safetensors", "set", *options])
        assert_refused(result, part)
