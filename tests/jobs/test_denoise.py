"""`n2n denoise`: exit codes, messages, and what lies where afterwards."""

import errno
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner, Result

from jobs import denoise as job
from jobs.display import progress
from n2n import device, models, shipped
from n2n.batch import MANIFEST, work
from n2n.checkpoint import save_model
from n2n.data import PairSet
from n2n.denoiser import denoise_pixels


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty folder that holds a model, and leave torch's threads as they were."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    save_model(Path("model.safetensors"), network(), {})
    yield tmp_path
    torch.set_num_threads(threads)


def network(**config: int) -> models.Network:
    return models.create("seed", width=2, generator=torch.Generator().manual_seed(0), **config)


def run(*arguments: str) -> Result:
    options = ["--model", "model.safetensors", "--device", "cpu", "--threads", "1"]
    return CliRunner().invoke(job.main, [*arguments, *options])


def image(name: str, size: tuple[int, int] = (9, 7)) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.linear_gradient("L").resize(size).convert("RGB").save(path)
    return path


def snapshot(folder: str) -> dict[str, tuple[bytes, int]]:
    paths = (p for p in Path(folder).rglob("*") if p.is_file() and p.name != MANIFEST)
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def test_bf16(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image("in.png", (40, 24))
    monkeypatch.setattr(device, "cpu_features", lambda: {"avx512_bf16"})
    result = run("in.png", "out.png", "--precision", "bf16")
    assert (result.exit_code, result.stderr) == (0, "device: cpu (1 threads), bf16\n")
    with PIL.Image.open("in.png") as before, PIL.Image.open("out.png") as after:
        exact = denoise_pixels(network(), np.asarray(before)).astype(int)
        assert np.abs(np.asarray(after) - exact).max() <= 3
    monkeypatch.setattr(device, "cpu_features", frozenset)
    for precision, part in (("bf16", "fast bf16"), ("fp16", "needs a GPU"), ("tf32", "a GPU")):
        result = run("in.png", "other.png", "--precision", precision)
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        assert part in line
    assert not Path("other.png").exists()


def test_a_file(folder: Path) -> None:
    image("in.png")
    result = run("in.png", "new/out.png")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "1 done"
    assert result.stderr == "device: cpu (1 threads), fp32\n"
    with PIL.Image.open("in.png") as before, PIL.Image.open("new/out.png") as after:
        expected = denoise_pixels(network(), np.asarray(before))
        np.testing.assert_array_equal(np.asarray(after), expected)


def test_a_file_into_a_folder(folder: Path) -> None:
    image("in.png")
    Path("there").mkdir()
    for output in ("there", "made/"):
        assert run("in.png", output).exit_code == 0
        assert (folder / output / "in.png").is_file()


def test_a_folder_with_bad_files(folder: Path) -> None:
    image("in/a.png")
    image("in/sub/b.JPG")
    Path("in/empty.png").touch()
    Path("in/two\nlines.jpg").write_text("no image")
    Path("in/Thumbs.db").touch()
    before = snapshot("in")
    result = run("in", "out")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0] == "2 done, 2 failed, 1 other files ignored"
    assert result.stderr.splitlines() == [
        "device: cpu (1 threads), fp32",
        "n2n: in/empty.png: an image expected, found an empty file (zero bytes)",
        "n2n: in/two\\nlines.jpg: a JPEG expected, the content is of another kind",
    ]
    assert sorted(snapshot("out")) == ["out/a.png", "out/sub/b.JPG"]
    assert snapshot("in") == before


@pytest.mark.skipif(os.name != "posix", reason="needs names that are no text")
def test_names_that_are_no_text(folder: Path) -> None:
    image("in/a.png")
    image("in/good.png").rename(os.fsdecode(b"in/\xff good.png"))
    Path(os.fsdecode(b"in/\xff bad.png")).touch()
    result = run("in", "out", "--json")
    assert result.exit_code == 1
    assert "n2n: in/\\udcff bad.png: an image expected" in result.stderr
    assert json.loads(result.stdout)["done"] == 2


def test_the_second_run_does_what_is_missing(folder: Path) -> None:
    image("in/a.png")
    image("in/b.png")
    run("in", "out")
    Path("out/b.png").unlink()
    kept = snapshot("out")
    result = run("in", "out")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "1 done, 1 skipped (done before)"
    assert snapshot("out").items() > kept.items()
    assert run("in", "out", "--overwrite").stdout.splitlines()[0] == "2 done"


def test_json(folder: Path) -> None:
    image("in/a.png")
    Path("in/bad.jpg").touch()
    Path("in/notes.txt").touch()
    result = run("in", "out", "--json", "--keep-mean")
    found = json.loads(result.stdout)
    assert "1 done, 1 failed" in result.stderr
    assert found.pop("seconds") >= 0
    assert len(found["settings"].pop("model")) == 64
    drift = found.pop("largest_drift")
    assert drift["input"] == "a.png"
    assert abs(drift["of_range"]) < 0.5 / 255
    assert found == {
        "input": "in",
        "output": "out",
        "device": "cpu (1 threads)",
        "settings": {
            "precision": "fp32",
            "strength": 1.0,
            "tta": False,
            "keep_mean": True,
            "value_range": None,
        },
        "done": 1,
        "skipped": 0,
        "failed": 1,
        "failures": [
            {"input": "bad.jpg", "reason": "an image expected, found an empty file (zero bytes)"}
        ],
        "ignored": 1,
        "excluded": 0,
        "megapixels": 63 / 1e6,
        "scores": None,
        "sigma": None,
    }


def test_a_dry_run_says_all_and_writes_nothing(folder: Path) -> None:
    for name in ("in/a.png", "in/b.jpg", "in/c.png", "in/sub/d.tif", "in/x.png"):
        image(name)
    Path("in/link.png").symlink_to("/etc/hostname")
    Path("in/broken.png").touch()
    PIL.Image.linear_gradient("L").save("in/grey.png")
    run("in", "out", "--include", "a.png")
    Path("out/c.png").write_bytes(b"other")
    before = snapshot(".")
    result = run("in", "out", "--dry-run", "--exclude", "x.*")
    assert result.exit_code == 1
    reason = "its output out/c.png exists and is not n2n's own; move it, or pass --overwrite"
    assert result.stdout.splitlines() == [
        "skip  in/a.png → out/a.png",
        "do    in/b.jpg → out/b.jpg",
        "fail  in/broken.png → out/broken.png: an image expected, found an empty file (zero bytes)",
        f"fail  in/c.png → out/c.png: {reason}",
        "do    in/grey.png → out/grey.png",
        "fail  in/link.png → out/link.png: a link that leads out of the input folder is not "
        "followed",
        "do    in/sub/d.tif → out/sub/d.tif",
        "note: grey goes through the colour model as three equal channels (1 files)",
        "3 to do, 1 done before, 3 would fail, 0 other files ignored, 1 excluded; nothing was "
        "written",
    ]
    assert snapshot(".") == before
    found = json.loads(run("in", "out", "--dry-run", "--json", "--exclude", "x.*").stdout)
    assert {key: found[key] for key in ("do", "skip", "fail")} == {"do": 3, "skip": 1, "fail": 3}
    assert found["files"][3] == {
        "input": "c.png",
        "output": "c.png",
        "plan": "fail",
        "reason": reason,
    }


def test_a_dry_run_tells_what_a_format_cannot_hold(folder: Path) -> None:
    PIL.Image.new("RGBA", (9, 7)).save(image("in/a.png"))
    image("in/b.png")
    result = run("in", "out", "--dry-run", "--format", "jpg")
    assert result.exit_code == 1
    reason = "no transparency expected for JPEG, found it; choose PNG or TIFF"
    assert result.stdout.splitlines()[:2] == [
        f"fail  in/a.png → out/a.jpg: {reason}",
        "do    in/b.png → out/b.jpg",
    ]
    found = run("in", "out", "--format", "jpg")
    assert (found.exit_code, sorted(snapshot("out"))) == (1, ["out/b.jpg"])
    assert f"n2n: in/a.png: {reason}" in found.stderr.splitlines()


def test_options_reach_the_denoiser(folder: Path) -> None:
    image("in/a.png", (40, 24))
    for options in ([], ["--tta"], ["--strength", "0.5"], ["--value-range", "10", "200"]):
        assert run("in", f"out{len(options)}{options[-1:]}", *options).exit_code == 0
    assert run("in", "zero", "--strength", "0").exit_code == 0
    contents = [path.read_bytes() for path in Path().glob("out*/a.png")]
    assert len(set(contents)) == 4
    with PIL.Image.open("in/a.png") as before, PIL.Image.open("zero/a.png") as after:
        np.testing.assert_array_equal(np.asarray(before), np.asarray(after))


def test_a_pair_set(make_set, folder: Path) -> None:
    pairs = make_set(rows=60, val=20)
    result = run("set", "out", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    made = PairSet.open("out")
    pooled = {"psnr": [], "input_psnr": []}
    for before, after in zip(pairs.splits, made.splits, strict=True):
        rows = after.read(["input", "clean", "output"])
        np.testing.assert_array_equal(before.read(["input"])["input"], rows["input"])
        for name, column in (("psnr", "output"), ("input_psnr", "input")):
            error = (rows[column].astype(float) - rows["clean"]) ** 2
            pooled[name] += list(10 * np.log10(255**2 / error.mean((1, 2, 3))))
    for name, values in pooled.items():
        assert found["scores"][name] == pytest.approx(np.mean(values), abs=1e-3)
    assert (found["done"], found["megapixels"]) == (2, 80 * 64 / 1e6)
    again = run("set", "out")
    assert again.stdout == "0 done, 2 skipped (done before)\n"
    Path("out/val/part-00000.parquet").unlink()
    lines = run("set", "out").stdout.splitlines()
    assert lines[0] == "1 done, 1 skipped (done before)"
    assert lines[2].startswith(f"{np.mean(pooled['psnr'][60:]):.2f} dB PSNR, 0.")
    part = "set/val/part-00000.parquet"
    assert run(part, "one/").exit_code == 0
    assert Path("one/part-00000.parquet").read_bytes() == Path(f"out{part[3:]}").read_bytes()


def test_names_and_formats(folder: Path) -> None:
    image("in/a.png")
    image("in/b.jpg")
    assert run("in", "out", "--format", "tiff", "--suffix", "_clean").exit_code == 0
    assert sorted(snapshot("out")) == ["out/a_clean.tif", "out/b_clean.tif"]
    with PIL.Image.open("out/a_clean.tif") as converted:
        assert (converted.format, converted.size) == ("TIFF", (9, 7))


def test_notes_are_said_once(folder: Path) -> None:
    for name in "abc":
        PIL.Image.linear_gradient("L").save(folder / f"{name}.png")
    lines = run(".", str(folder.parent / "out"), "--exclude", "model*").stderr.splitlines()
    note = "n2n: note: grey goes through the colour model as three equal channels"
    assert lines == ["device: cpu (1 threads), fp32", note]


REFUSED = {
    "missing input": (["nothing", "out"], "nothing: an image, a folder or a pair set expected"),
    "no images": (["empty", "out"], "empty: a folder with images"),
    "other input": (["notes.txt", "out.png"], "notes.txt: a file that ends in .png, .jpg,"),
    "other output": (["in/a.png", "out.gif"], "out.gif: an output that ends in .png, .jpg,"),
    "output is input": (["in/a.png", "in/a.png"], "in/a.png: is the input itself"),
    "output is its folder": (["in/a.png", "in"], "in/a.png: is the input itself"),
    "folder into itself": (["in", "in"], "in: a folder outside of the input folder in expected"),
    "output in input": (["in", "in/out"], "in/out: a folder outside of the input folder in"),
    "folder into a file": (["in", "notes.txt"], "notes.txt: a folder expected for the folder in"),
    "no model": (["in", "out", "--model", "no.safetensors"], "no.safetensors: expected a model"),
    "no such device": (["in", "out", "--device", "tpu"], "device must be auto, cpu, cuda"),
    "no such GPU": (["in", "out", "--device", "cuda:99"], "expected the GPU cuda:99, found"),
    "threads": (["in", "out", "--threads", "0"], "threads must be from 1 to 1024"),
    "format": (["in", "out", "--format", "gif"], "a format of PNG, JPEG, TIFF, WebP, BMP, npy"),
    "strength": (["in", "out", "--strength", "2"], "strength: from 0 to 1 expected, got 2"),
    "range": (["in", "out", "--value-range", "1", "0"], "value_range: black below white"),
    "memory": (["in", "out", "--max-memory", "0"], "Invalid value for --max-memory: expected GiB"),
    "batch size": (["in", "out", "--batch-size", "0"], "batch_size: at least 1 expected"),
    "workers": (["in", "out", "--workers", "0"], "workers must be at least 1, got 0"),
    "GPUs of no workers": (["in", "out", "--gpus-per-worker", "1"], "--gpus-per-worker needs"),
    "a GPU for each": (
        ["in", "out", "--workers", "2", "--device", "cuda:1"],
        "device cuda:1: cuda",
    ),
    "scheme": (["zz://a/b", "out"], "zz://a/b: a folder, or a URI such as s3://"),
    "no output": (["in"], "Missing argument 'OUTPUT'"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_meant_does_nothing(
    folder: Path, arguments: list[str], message: str
) -> None:
    image("in/a.png")
    Path("empty").mkdir()
    Path("notes.txt").touch()
    before = snapshot(".")
    options = ["--model", "model.safetensors", "--device", "cpu", "--threads", "1"]
    result = CliRunner().invoke(job.main, [*options, *arguments])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"n2n: {message}")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert snapshot(".") == before


@pytest.mark.parametrize(("channels", "code"), [(1, 0), (2, 2), (3, 0), (4, 2)])
def test_models_for_other_channels(folder: Path, channels: int, code: int) -> None:
    image("in.png")
    save_model(Path("model.safetensors"), network(channels=channels), {})
    result = run("in.png", "out.png")
    assert result.exit_code == code
    if code:
        assert f"a model for grey (1 channel) or colour (3) expected, found {channels}" in (
            result.stderr
        )
    assert Path("out.png").exists() == (code == 0)


def test_a_broken_model(folder: Path) -> None:
    image("in.png")
    content = Path("model.safetensors").read_bytes()
    Path("model.safetensors").write_bytes(content[: len(content) // 2])
    result = run("in.png", "out.png")
    assert result.exit_code == 2
    assert result.stderr.startswith("n2n: model.safetensors: expected a complete")


def test_a_full_disk_stops_clearly(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        image(f"in/{name}.png")
    write_image, calls = work.write_image, []

    def fill(*arguments, **options) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_image(*arguments, **options)

    monkeypatch.setattr(work, "write_image", fill)
    result = run("in", "out")
    assert result.exit_code == 3
    assert result.stdout.splitlines()[0] == "1 done"
    assert result.stderr.splitlines()[-1] == (
        "n2n: the disk is full: out/b.png; make space, then run the same command again"
    )
    assert list(snapshot("out")) == ["out/a.png"]
    assert run("in", "out").stdout.splitlines()[0] == "2 done, 1 skipped (done before)"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_keeps_what_was_finished(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    for name in ("a", "b"):
        image(f"in/{name}.png")
    open_image = work.open_image

    def stop(source: Path) -> object:
        if source.name == "b.png":
            os.kill(os.getpid(), number)
        return open_image(source)

    handlers = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)]
    with monkeypatch.context() as patch:
        patch.setattr(work, "open_image", stop)
        result = run("in", "out")
    assert (result.exit_code, result.stdout.splitlines()[0]) == (3, "1 done")
    assert result.stderr.splitlines()[-1].startswith("n2n: stopped; run the same command again")
    assert list(snapshot("out")) == ["out/a.png"]
    assert not Path("out/.n2n-work").exists()
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)] == handlers
    assert run("in", "out").stdout.splitlines()[0] == "1 done, 1 skipped (done before)"


def test_lines_show_progress_where_there_is_no_terminal(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1)
    image("in/a.png")
    Path("in/b.png").touch()
    lines = run("in", "out").stderr.splitlines()
    assert lines[0] == "looking: 2 files"
    assert lines[2].startswith("1 of 2 files, 0.0")
    assert lines[2].endswith(" MP/s, 00:00:00 left, 0 failed")
    assert lines[4].endswith(", 1 failed")


def test_an_image_of_several_tiles(folder: Path) -> None:
    """More than one tile, of an odd size."""
    image("in.png", (701, 399))
    assert run("in.png", "out.png").exit_code == 0
    with PIL.Image.open("in.png") as before, PIL.Image.open("out.png") as after:
        whole = denoise_pixels(network(), np.asarray(before), max_pixels=1 << 30).astype(int)
        assert np.abs(np.asarray(after) - whole).max() <= 1


def test_the_noise_is_estimated_told_and_recorded(folder: Path) -> None:
    rng = np.random.default_rng(0)
    Path("in").mkdir()
    for sigma in (10, 30):
        pixels = np.clip(np.rint(128 + sigma * rng.standard_normal((90, 100, 3))), 0, 255)
        PIL.Image.fromarray(pixels.astype(np.uint8)).save(f"in/{sigma}.png")
    image("in/small.png")
    result = run("in", "out")
    assert result.exit_code == 0
    (line,) = [line for line in result.stdout.splitlines() if "estimated noise" in line]
    least, most = (float(word) for word in line.split() if word.replace(".", "").isdigit())
    assert (least, most) == (pytest.approx(10, rel=0.1), pytest.approx(30, rel=0.1))
    lines = map(json.loads, (Path("out") / MANIFEST).read_text().splitlines())
    sigmas = {line["input"]: line["sigma"] for line in lines if line.get("state") == "done"}
    assert sigmas["small.png"] is None
    assert 255 * sigmas["30.png"] == pytest.approx(30, rel=0.1)
    told = json.loads(run("in", "other", "--json").stdout)
    assert [255 * sigma for sigma in told["sigma"]] == pytest.approx([least, most], abs=0.06)


def test_clip_residual_is_the_models_by_default(folder: Path) -> None:
    """And part of the settings; without it they are those of manifests that are older."""
    save_model(Path("gaussian.safetensors"), network(), {"noise": "gaussian:0-50"})
    pixels = np.random.default_rng(0).integers(100, 110, (90, 100, 3), np.uint8)
    PIL.Image.fromarray(pixels).save("in.png")

    def settings(model: str, *options: str) -> dict:
        arguments = ["in.png", f"{len(list(Path().iterdir()))}.png", "--model", model, "--json"]
        return json.loads(CliRunner().invoke(job.main, [*arguments, *options]).stdout)["settings"]

    assert settings("gaussian.safetensors")["clip_residual"] == 3
    assert settings("gaussian.safetensors", "--clip-residual", "2.5")["clip_residual"] == 2.5
    assert "clip_residual" not in settings("gaussian.safetensors", "--clip-residual", "off")
    assert set(settings("model.safetensors")) == {
        *("model", "precision", "strength", "tta", "keep_mean", "value_range")
    }
    for value, part in (("some", "a number or off"), ("0", "above 0"), ("nan", "above 0")):
        result = run("in.png", "out.png", "--clip-residual", value)
        assert result.exit_code == 2
        assert part in result.stderr
        assert not Path("out.png").exists()


def test_without_a_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped default; where there is none, what there is and what to do."""
    place = folder / "pretrained"
    shutil.copytree(shipped.PLACE, place, ignore=shutil.ignore_patterns("photo.*"))
    monkeypatch.setattr(shipped, "PLACE", place)
    image("in.png")
    result = CliRunner().invoke(job.main, ["in.png", "out.png"])
    assert result.exit_code == 2
    assert "no default model (photo)" in result.stderr
    assert "seed32" in result.stderr
    save_model(place / "photo.safetensors", network(), {})
    arguments = ["in.png", "out.png", "--device", "cpu", "--threads", "1"]
    assert CliRunner().invoke(job.main, arguments).exit_code == 0
    with PIL.Image.open("in.png") as before, PIL.Image.open("out.png") as after:
        expected = denoise_pixels(network(), np.asarray(before))
        np.testing.assert_array_equal(np.asarray(after), expected)
    by_name = ["in.png", "named.png", "--model", "seed32", "--device", "cpu", "--threads", "1"]
    assert CliRunner().invoke(job.main, by_name).exit_code == 0
