"""One process's work: each item to its outcome, whatever its file is and whatever fails."""

import errno
import os
import pickle

import numpy as np
import PIL.Image
import pytest
import torch

from n2n.batch import Item, Worker, WorkerConfig, work
from n2n.checkpoint import load_model
from n2n.denoiser import denoise_pixels
from n2n.errors import InvalidValue, ModelFileError


@pytest.fixture
def worker(model, source, tmp_path):
    """A worker between two folders of this machine."""
    (tmp_path / "work").mkdir()
    (tmp_path / "out").mkdir()
    roots = str(source), str(tmp_path / "out")
    with Worker(WorkerConfig(str(model), *roots, str(tmp_path / "work"), threads=1)) as one:
        yield one


def item(name: str, number: int = 0, **fields) -> Item:
    return Item(number, name, name, **fields)


def test_it_is_built_of_what_can_be_sent_and_what_it_says_can_be_sent_back(worker):
    config = pickle.loads(pickle.dumps(worker.config))
    assert config == worker.config
    (outcome,) = Worker(config).run([item("b.png")])
    assert pickle.loads(pickle.dumps(outcome)) == outcome


def test_an_outcome_tells_what_was_measured(worker, source, tmp_path, model):
    (outcome,) = worker.run([item("b.png")])
    with PIL.Image.open(source / "b.png") as before, PIL.Image.open(tmp_path / "out/b.png") as now:
        pixels, result = (np.asarray(image) for image in (before, now))
    network, _ = load_model(model)
    np.testing.assert_array_equal(result, denoise_pixels(network, pixels))
    drift = (result.astype(float).mean() - pixels.astype(float).mean()) / 255
    assert outcome.drift == pytest.approx(drift, abs=1e-9)
    assert (outcome.state, outcome.pixels) == ("done", 63)
    assert outcome.output_size == (tmp_path / "out" / "b.png").stat().st_size
    assert outcome.seconds > 0


def test_a_stack_counts_all_its_pages_and_tells_the_largest_drift(worker, source, tmp_path):
    stack = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 1), np.uint8)
    stack[1] = 255
    np.save(source / "s.npy", stack)
    (outcome,) = worker.run([item("s.npy")])
    result = np.load(tmp_path / "out" / "s.npy")
    drifts = (result.astype(float) - stack).mean((1, 2, 3)) / 255
    assert outcome.pixels == 105
    assert outcome.drift == pytest.approx(drifts[np.abs(drifts).argmax()], abs=1e-9)
    assert outcome.notes == ("grey goes through the colour model as three equal channels",)


def test_floats_of_their_own_range_are_told(worker, source):
    rng = np.random.default_rng(0)
    np.save(source / "f.npy", rng.normal(0, 1000, (4, 5, 3)).astype(np.float32))
    np.save(source / "unit.npy", rng.random((4, 5, 3), np.float32))
    own, unit = worker.run([item("f.npy"), item("unit.npy")])
    assert "are the image's own extremes; --value-range sets them" in own.notes[0]
    assert unit.notes == ()


def test_a_bad_file_stops_no_other_and_leaves_nothing(worker, source, tmp_path, files):
    (source / "a.JPG").write_bytes((source / "a.JPG").read_bytes()[:300])
    (source / "empty.png").touch()
    np.save(source / "nan.npy", np.full((3, 3), np.nan, np.float32))
    names = ["a.JPG", "b.png", "empty.png", "gone.png", "nan.npy", "sub/deep/c.jpeg"]
    outcomes = list(worker.run([item(name, n) for n, name in enumerate(names)]))
    assert [one.state for one in outcomes] == ["failed", "done", *["failed"] * 3, "done"]
    reasons = {one.item.source: one.reason for one in outcomes}
    assert reasons["a.JPG"].startswith("a whole JPEG expected, found it truncated")
    assert reasons["empty.png"] == "an image expected, found an empty file (zero bytes)"
    assert reasons["gone.png"] == "cannot be read: No such file or directory"
    assert "finite" in reasons["nan.npy"]
    assert files(tmp_path / "out") == ["b.png", "sub/deep/c.jpeg"]
    assert files(tmp_path / "work") == []


def test_an_input_with_the_digest_of_the_last_run_is_skipped(worker, source):
    (done,) = worker.run([item("b.png")])
    (skipped,) = worker.run([item("b.png", digest=done.digest)])
    assert (skipped.state, skipped.digest, skipped.output_size) == (
        "skipped",
        done.digest,
        done.output_size,
    )


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (MemoryError(), "failed", "not enough memory for an image of this size"),
        (torch.OutOfMemoryError("CUDA out of memory"), "failed", "not enough memory"),
        (ZeroDivisionError("oh"), "failed", "a fault of n2n's own (ZeroDivisionError: oh)"),
        (OSError(errno.EIO, "Input/output error"), "failed", "{}/out/b.png: cannot be written"),
        (OSError(errno.ENOSPC, "No space"), "stopped", "the disk is full: {}/out/b.png; make"),
        (OSError(errno.EDQUOT, "Quota"), "stopped", "the disk is full: {}/out/b.png; make"),
    ],
)
def test_only_a_full_disk_stops_all(worker, tmp_path, files, monkeypatch, error, state, reason):
    write_image = work.write_image

    def fail(destination, *arguments, **options):
        if "-1." in destination.name:
            destination.write_bytes(b"half")
            raise error
        write_image(destination, *arguments, **options)

    monkeypatch.setattr(work, "write_image", fail)
    names = ["a.JPG", "b.png", "sub/deep/c.jpeg"]
    outcomes = list(worker.run([item(name, n) for n, name in enumerate(names)]))
    assert outcomes[1].state == state
    assert outcomes[1].reason.startswith(reason.format(tmp_path))
    left = names[:1] if state == "stopped" else [names[0], names[2]]
    assert files(tmp_path / "out") == left
    assert files(tmp_path / "work") == []


@pytest.mark.parametrize("failing", ["nothing", "together"])
def test_small_images_together_come_out_as_alone(
    worker, source, tmp_path, make_image, monkeypatch, failing
):
    names = ["a.JPG", "b.png", "broken.png", "large.png", "s.npy", *(f"{n}.png" for n in range(6))]
    for seed, name in enumerate(names[5:]):
        make_image(source / name, seed=seed)
    (source / "broken.png").touch()
    make_image(source / "large.png", size=(300, 300))
    np.save(source / "s.npy", np.zeros((2, 5, 5, 1), np.uint8))
    calls: list[int] = []
    run_many = worker._denoiser.run_many

    def count(rasters):
        calls.append(len(rasters))
        if failing == "together":
            raise RuntimeError("can't allocate memory")
        return run_many(rasters)

    monkeypatch.setattr(worker._denoiser, "run_many", count)
    items = [item(name, n) for n, name in enumerate(names)]
    alone = list(worker.run(items))
    contents = {n: (tmp_path / "out" / n).read_bytes() for n in names if n != "broken.png"}
    assert calls == []
    object.__setattr__(worker.config, "batch_size", 4)
    together = list(worker.run(items))
    assert calls == [2, 3, 3]  # of four each: without the broken, the large and the stack
    assert [one.state for one in together] == [one.state for one in alone]
    assert [one.drift for one in together] == pytest.approx([one.drift for one in alone], abs=1e-5)
    for name, content in contents.items():
        assert (tmp_path / "out" / name).read_bytes() == content


def test_models_that_cannot_be_used(model, source, tmp_path):
    config = WorkerConfig(str(model), str(source), str(tmp_path / "out"))
    for change, error, message in (
        ({"model": "no.safetensors"}, ModelFileError, "no.safetensors: expected a model file"),
        ({"device": "tpu"}, InvalidValue, "device must be auto"),
        ({"precision": "fp8"}, InvalidValue, "precision must be one of"),
        ({"threads": 0}, InvalidValue, "threads must be from 1"),
        ({"max_memory": 0}, InvalidValue, "max_memory: at least 1"),
    ):
        with pytest.raises(error, match=message):
            Worker(WorkerConfig(**{**vars(config), **change}))
    assert not (tmp_path / "out").exists()


def test_no_scratch_folder_is_left(model, source, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    with Worker(WorkerConfig(str(model), str(source), str(tmp_path / "out"))):
        (folder,) = (tmp_path / "tmp").iterdir()
        assert folder.name == f"n2n-work-{os.getuid()}"
        assert folder.stat().st_mode & 0o777 == 0o700
        (left,) = folder.iterdir()
    assert not left.exists()
