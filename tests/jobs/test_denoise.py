"""`n2n denoise`: exit codes, messages, and what lies where afterwards."""

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner, Result

from jobs import denoise as job
from n2n import batch, device, models
from n2n.checkpoint import save_model
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
    paths = (path for path in Path(folder).rglob("*") if path.is_file())
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
    assert (result.exit_code, result.stdout) == (0, "1 done\n")
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
    assert result.stdout == "2 done, 2 failed, 1 other files ignored\n"
    assert result.stderr.splitlines() == [
        "device: cpu (1 threads), fp32",
        "n2n: in/empty.png: an image expected, found an empty file (zero bytes)",
        "n2n: in/two\\nlines.jpg: a PNG or JPEG expected, the content is neither",
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
    assert (result.exit_code, result.stdout) == (0, "1 done, 1 skipped (their output exists)\n")
    assert snapshot("out").items() > kept.items()
    assert run("in", "out", "--overwrite").stdout == "2 done\n"


def test_json(folder: Path) -> None:
    image("in/a.png")
    Path("in/bad.jpg").touch()
    Path("in/notes.txt").touch()
    found = json.loads(run("in", "out", "--json").stdout)
    assert found.pop("seconds") >= 0
    assert found == {
        "input": "in",
        "output": "out",
        "device": "cpu",
        "done": 1,
        "skipped": 0,
        "failed": [
            {
                "input": "in/bad.jpg",
                "reason": "an image expected, found an empty file (zero bytes)",
            }
        ],
        "ignored": 1,
    }


REFUSED = {
    "missing input": (["nothing", "out"], "nothing: an image or a folder expected"),
    "no images": (["empty", "out"], "empty: a folder with images"),
    "other input": (["notes.txt", "out.png"], "notes.txt: a file that ends in .png, .jpg, .jpeg"),
    "other output": (["in/a.png", "out.gif"], "out.gif: an output that ends in .png, .jpg, .jpeg"),
    "output is input": (["in/a.png", "in/a.png"], "in/a.png: is the input itself"),
    "output is its folder": (["in/a.png", "in"], "in/a.png: is the input itself"),
    "folder into itself": (["in", "in"], "in: a folder outside of the input folder in expected"),
    "output in input": (["in", "in/out"], "in/out: a folder outside of the input folder in"),
    "folder into a file": (["in", "notes.txt"], "notes.txt: a folder expected for the folder in"),
    "no model": (["in", "out", "--model", "no.safetensors"], "no.safetensors: expected a model"),
    "no such device": (["in", "out", "--device", "tpu"], "device must be auto, cpu, cuda"),
    "no such GPU": (["in", "out", "--device", "cuda:99"], "expected the GPU cuda:99, found"),
    "threads": (["in", "out", "--threads", "0"], "threads must be from 1 to 1024"),
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
    fsync, calls = os.fsync, []

    def fill(number: int) -> None:
        calls.append(number)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(number)

    monkeypatch.setattr(os, "fsync", fill)
    result = run("in", "out")
    assert result.exit_code == 3
    assert result.stdout == "1 done\n"
    assert result.stderr.endswith("the disk is full; make space, then run the same command again\n")
    assert list(snapshot("out")) == ["out/a.png"]
    assert run("in", "out").stdout == "2 done, 1 skipped (their output exists)\n"


def test_a_stop_keeps_what_was_finished(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        image(f"in/{name}.png")
    denoise_file = batch.denoise_file

    def stop(network: models.Network, source: Path, *args, **options) -> None:
        if source.name == "b.png":
            raise KeyboardInterrupt
        denoise_file(network, source, *args, **options)

    monkeypatch.setattr(batch, "denoise_file", stop)
    result = run("in", "out")
    assert (result.exit_code, result.stdout) == (3, "1 done\n")
    assert result.stderr.splitlines()[-1].startswith("n2n: stopped; run the same command again")
    assert list(snapshot("out")) == ["out/a.png"]


def test_lines_show_progress_where_there_is_no_terminal(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "SECONDS_BETWEEN_LINES", -1)
    image("in/a.png")
    Path("in/b.png").touch()
    lines = run("in", "out").stderr.splitlines()
    assert lines[1] == "1 of 2 images, 0 failed"
    assert lines[3] == "2 of 2 images, 1 failed"


def test_an_image_of_several_tiles(folder: Path) -> None:
    """More than one tile, of an odd size."""
    image("in.png", (701, 399))
    assert run("in.png", "out.png").exit_code == 0
    with PIL.Image.open("in.png") as before, PIL.Image.open("out.png") as after:
        whole = denoise_pixels(network(), np.asarray(before), max_pixels=1 << 30).astype(int)
        assert np.abs(np.asarray(after) - whole).max() <= 1
