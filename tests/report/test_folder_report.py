"""The report of a denoised folder, against its manifest, its inputs and its outputs."""

import json
import re
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
import torch

from n2n import models
from n2n.batch import MANIFEST, Batch, Report, Worker, WorkerConfig, make_plan, settings_of
from n2n.batch.account import read_account
from n2n.checkpoint import save_model
from n2n.report import Options, report
from n2n.report.batch.crops import Job, look


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, models.create("seed", width=2, generator=torch.Generator().manual_seed(0)), {})
    return path


def denoise(source: Path, output: Path, model: Path) -> Report:
    plan = make_plan(str(source), str(output))
    config = WorkerConfig(str(model), plan.inputs.root, plan.outputs.root, threads=1)
    batch = Batch(plan, config, settings_of(config))
    with batch, Worker(batch.config) as worker:
        return batch.run(worker.execute)


def draw(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    PIL.Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path, model: Path) -> Path:
    """Three images and two that failed."""
    for seed, name in enumerate(("a.png", "sub/b.png", "sub/c.png")):
        draw(tmp_path / "in" / name, seed)
    (tmp_path / "in" / "bad.png").write_bytes(b"nothing")
    (tmp_path / "in" / "none.jpg").write_bytes(b"")
    assert denoise(tmp_path / "in", tmp_path / "out", model).failed == 2
    return tmp_path / "out"


def text_of(page: Path) -> str:
    html = re.sub(r"<(script|style)[^>]*>.*?</\1>", " ", page.read_text(), flags=re.S)
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] != "report"
    }


def test_a_folder_with_failures(folder: Path) -> None:
    before = files(folder)
    page = report(folder)
    assert page == folder / "report" / "index.html"
    assert files(folder) == before
    text, html = text_of(page), page.read_text()
    assert "files done 3 failed 2" in text
    assert "none.jpg an image expected, found an empty file (zero bytes)" in text
    assert html.count('data-slider style="aspect-ratio: 40 / 30') == 3
    links = re.findall(r'<a href="(\.\./[^"]*)">', html)
    assert [(page.parent / link).resolve() for link in links] == [
        folder / name for name in ("a.png", "sub/b.png", "sub/c.png")
    ]
    drifts = [entry.drift for entry in read_account(folder / MANIFEST).entries if entry.drift]
    assert f"largest drift of a mean {100 * max(drifts, key=abs):+.2f} %" in text


def test_a_report_disturbs_no_later_run(folder: Path, model: Path, tmp_path: Path) -> None:
    """Nor is it taken for an input when its folder is denoised in turn."""
    report(folder)
    again = denoise(tmp_path / "in", folder, model)
    assert (again.done, again.skipped, again.failed) == (0, 3, 2)
    assert (folder / "report" / "index.html").exists()
    assert denoise(folder, tmp_path / "twice", model).total == 3


def test_inputs_that_are_gone_or_changed(folder: Path, tmp_path: Path) -> None:
    draw(tmp_path / "in" / "a.png", 9)
    (tmp_path / "in" / "sub" / "b.png").unlink()
    changed = tmp_path / "in" / "sub" / "c.png"
    changed.touch()  # the same content
    html = report(folder).read_text()
    assert html.count("data-slider style") == 1
    assert "the input was changed since" in html
    assert "the input is no longer there" in html
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    text = text_of(report(folder))
    assert f"The inputs in {tmp_path / 'in'} are not there" in text
    (folder / "a.png").unlink()
    assert "the output is no longer there" in text_of(report(folder))


def test_inputs_in_an_object_store(folder: Path, tmp_path: Path) -> None:
    path = folder / MANIFEST
    path.write_text(path.read_text().replace(str(tmp_path / "in"), "s3://bucket/in"))
    text = text_of(report(folder))
    assert "The inputs in s3://bucket/in are not fetched from there" in text


def test_what_is_not_finished(folder: Path) -> None:
    with (folder / MANIFEST).open("a") as file:
        file.write(json.dumps({"run": {"input": "in", "settings": {}}}) + "\n")
        file.write(json.dumps({"state": "begun", "input": "a.png", "output": "a.png"}) + "\n")
        file.write('{"state": "do')
    text = text_of(report(folder))
    assert "begun, not finished 1" in text
    assert "The last run was stopped, or still goes on" in text


def test_a_manifest_of_nothing(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("")
    assert "No image was denoised yet." in text_of(report(tmp_path))


def test_parts_of_a_pair_set(make_set: Callable, model: Path, tmp_path: Path) -> None:
    pairs = make_set(rows=20, val=6)
    denoise(pairs.path, tmp_path / "out", model)
    page = report(tmp_path / "out", options=Options())
    text = text_of(page)
    assert "train/part-00000.parquet 20" in text
    assert "The first rows of val/part-00000.parquet" in text
    assert page.read_text().count("<img") == 2 * 4 * 3


# ---- one image -----------------------------------------------------------------------------------


def seen(path: Path, before: Path | None = None, side: int = 64, most: int = 10**6, **more):
    stat = before.stat() if before else None
    size, time = (stat.st_size, stat.st_mtime_ns) if stat else (None, None)
    return look(Job(path, before, size, time, None, side, most, **more))


def decoded(content: bytes | None) -> np.ndarray:
    assert content is not None
    return np.asarray(PIL.Image.open(BytesIO(content)).convert("RGB")).astype(float)


def test_the_middle_before_and_after(tmp_path: Path) -> None:
    base = np.linspace(0, 255, 200)[None, :, None].repeat(150, 0).repeat(3, 2)
    rng = np.random.default_rng(0)
    for name, sigma in (("in", 20), ("out", 0)):
        noisy = (base + sigma * rng.standard_normal(base.shape)).round().clip(0, 255)
        PIL.Image.fromarray(noisy.astype(np.uint8)).save(tmp_path / f"{name}.png")
    found = seen(tmp_path / "out.png", tmp_path / "in.png")
    assert found.crop == (64, 64)
    assert found.shape == (150, 200, 3)
    assert found.removed == pytest.approx(20, rel=0.05)
    middle = base[43:107, 68:132]
    assert np.abs(decoded(found.after) - middle).mean() < 3
    assert decoded(found.before).std() > decoded(found.after).std()
    assert max(found.small) == 72
    small = seen(tmp_path / "out.png", tmp_path / "in.png", most=1500)
    assert sum(len(one) for one in (small.before, small.after, small.whole) if one) <= 1500


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_turned_image_is_shown_upright(tmp_path: Path, orientation: int) -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:10, :15] = 250  # in the corner that comes first
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    found = seen(tmp_path / "a.png", side=16)
    with PIL.Image.open(tmp_path / "a.png") as image:
        wanted = np.asarray(PIL.ImageOps.exif_transpose(image)).astype(float)
    height, width = wanted.shape[:2]
    assert found.shape[:2] == (height, width)
    top, left = (height - 16) // 2, (width - 16) // 2
    assert np.abs(decoded(found.after) - wanted[top : top + 16, left : left + 16]).mean() < 12


def test_depths_pages_and_alpha(tmp_path: Path) -> None:
    ramp = np.linspace(1000, 5000, 64 * 48).reshape(48, 64)
    tifffile.imwrite(tmp_path / "deep.tif", np.stack([ramp, ramp]).astype(np.uint16),
                     photometric="minisblack")  # fmt: skip
    found = seen(tmp_path / "deep.tif")
    assert found.notes == ("16 bits, shown from 1,003 to 4,996", "grey", "page 1 of 2")
    shown = decoded(found.after)
    assert shown.min() < 12
    assert shown.max() > 243
    np.save(tmp_path / "floats.npy", (ramp / 1e4).astype(np.float32))
    assert seen(tmp_path / "floats.npy").notes[0].startswith("floats, shown from 0.1")
    clear = PIL.Image.new("RGBA", (9, 9), (200, 10, 10, 0))
    clear.save(tmp_path / "clear.png")
    found = seen(tmp_path / "clear.png")
    assert "transparent" in found.notes
    with PIL.Image.open(BytesIO(found.after or b"")) as image:
        assert np.asarray(image)[..., 3].max() == 0
    np.save(tmp_path / "bad.npy", np.full((4, 4), np.nan, np.float32))
    assert "finite numbers expected" in (seen(tmp_path / "bad.npy").problem or "")


def test_another_size_than_the_input(tmp_path: Path) -> None:
    draw(tmp_path / "in.png", 0)
    draw(tmp_path / "out.png", 0, (20, 20))
    found = seen(tmp_path / "out.png", tmp_path / "in.png")
    assert found.before is None
    assert found.problem == "the input has another size than the output"
