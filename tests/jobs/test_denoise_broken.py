"""A folder with every kind of broken file that a user may have: each is named, the others done."""

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
import torch

from n2n import models
from n2n.batch import MANIFEST
from n2n.checkpoint import save_model

GOOD = {
    "plain.png",
    "with space.png",
    "quotes '\" `$HOME`.png",
    "two\nlines.png",
    "--help.png",
    os.fsdecode(b"no text \xff\xfe.png"),
    "日本語.png",
    "UPPER.PNG",
    "a link inside.png",
    "sub/deep.png",
}


def png(width: int, height: int, content: bytes = b"") -> bytes:
    """A PNG whose header claims that size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    image = chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + image


def flip(content: bytes, at: float) -> bytes:
    """With 64 bytes in the middle exchanged."""
    start = int(len(content) * at)
    return (
        content[:start]
        + bytes(255 - b for b in content[start : start + 64])
        + content[start + 64 :]
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(
        tmp_path / "model.safetensors",
        models.create("seed", width=2, generator=torch.Generator().manual_seed(0)),
        {},
    )
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    for name in GOOD - {"a link inside.png"}:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pixels).save(path, "PNG")
    (tmp_path / "in" / "a link inside.png").symlink_to("plain.png")
    return tmp_path


def break_all(folder: Path) -> dict[str, str]:
    """Broken files by name, and a part of the reason that each should be given."""
    source = folder / "in"
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    whole: dict[str, bytes] = {}
    for suffix in ("png", "jpg", "tif", "webp", "bmp"):
        path = folder / f"whole.{suffix}"
        PIL.Image.fromarray(pixels).save(path)
        whole[suffix] = path.read_bytes()
    np.save(folder / "whole.npy", pixels)
    whole["npy"] = (folder / "whole.npy").read_bytes()
    outside = folder / "outside.png"
    outside.write_bytes(whole["png"])
    broken: dict[str, tuple[bytes, str]] = {
        f"truncated.{suffix}": (content[: len(content) // 2], "")
        for suffix, content in whole.items()
    }
    broken |= {
        "zero bytes.png": (b"", "an empty file (zero bytes)"),
        "a jpeg.png": (whole["jpg"], "a PNG expected by its name, found a JPEG; rename it"),
        "text.jpg": (b"not an image at all\n" * 9, "the content is none of them"),
        "page.tif": (b"<html>404 Not Found</html>", "the content is none of them"),
        "bomb.png": (png(60_000, 60_000, bytes(1000)), "pixels expected"),
        "huge header.bmp": (whole["bmp"][:18] + b"\xff\xff\xff\x7f" * 2 + whole["bmp"][26:], ""),
        "no pixels.png": (png(40, 30), ""),
        "zero wide.png": (png(0, 30), ""),
        "damaged.png": (flip(whole["png"], 0.5), ""),
        "nonsense after the start.tif": (whole["tif"][:8] + os.urandom(500), ""),
        "random.npy": (b"\x93NUMPY\x01\x00" + os.urandom(200), ""),
        "only a signature.webp": (whole["webp"][:12], ""),
    }
    for name, (content, _) in broken.items():
        (source / name).write_bytes(content)
    objects = np.array([{"code": "here"}], dtype=object)
    np.save(source / "pickle.npy", objects, allow_pickle=True)
    np.save(source / "complex.npy", np.zeros((4, 4), np.complex64))
    np.save(source / "nan.npy", np.full((4, 4), np.nan, np.float32))
    tifffile.imwrite(source / "int64.tif", np.zeros((4, 4), np.int64))
    os.mkfifo(source / "pipe.png")
    os.mknod(
        source / "zeros.png", 0o666 | 0o020000, os.makedev(1, 5)
    ) if os.geteuid() == 0 else None
    (source / "secret.png").write_bytes(whole["png"])
    (source / "secret.png").chmod(0)
    (source / "link out.png").symlink_to(outside)
    (source / "link to a folder out").symlink_to("/etc")
    (source / "loop a.png").symlink_to("loop b.png")
    (source / "loop b.png").symlink_to("loop a.png")
    (source / "dangling.png").symlink_to("nothing.png")
    (source / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (source / "sub" / "circle").symlink_to("..")
    expected = {name: reason for name, (_, reason) in broken.items()}
    link = "a link that leads out of the input folder is not followed"
    circle = "a link to an image expected, found one to nothing, or in a circle"
    expected |= {
        "pickle.npy": "",
        "complex.npy": "found complex64",
        "nan.npy": "finite",
        "int64.tif": "",
        "pipe.png": "a regular file expected, found a device, pipe or socket",
        "link out.png": link,
        "link to a folder out": link,
        "loop a.png": circle,
        "loop b.png": circle,
        "dangling.png": circle,
    }
    if (source / "zeros.png").exists():
        expected["zeros.png"] = "a regular file expected, found a device, pipe or socket"
    if not os.access(source / "secret.png", os.R_OK):
        expected["secret.png"] = "cannot be read: Permission denied"
    else:  # of root, who may read all
        (source / "secret.png").unlink()
    return expected


def test_each_broken_file_is_named_and_all_others_are_done(folder: Path) -> None:
    expected = break_all(folder)
    assert len(expected) >= 25
    command = [sys.executable, "-m", "jobs.denoise", "in", "out", "--model", "model.safetensors"]
    result = subprocess.run(
        [*command, "--device", "cpu", "--threads", "1", "--json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.getcwd(), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        timeout=120,
        check=False,
    )
    errors = result.stderr.decode()
    assert result.returncode == 1, errors
    found = json.loads(result.stdout)
    reasons = {one["input"]: one["reason"] for one in found["failures"]}
    assert set(reasons) == set(expected)
    for name, part in expected.items():
        assert part in reasons[name], name
        assert "\n" not in reasons[name]
        assert "fault of n2n's own" not in reasons[name], (name, reasons[name])
        assert name not in reasons[name]
        assert f"n2n: in/{name}: {reasons[name]}" in errors.splitlines()
    assert (found["done"], found["failed"]) == (len(GOOD), len(expected))
    outputs = {str(path.relative_to(folder / "out")) for path in (folder / "out").rglob("*")}
    assert outputs == GOOD | {"sub", MANIFEST}
    for name in GOOD:
        with PIL.Image.open(folder / "out" / name) as image:
            assert image.size == (40, 30)
            image.load()


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="needs root, to become somebody who may not read, and setpriv",
)
def test_what_may_not_be_read_is_named(folder: Path) -> None:
    """As a user without rights; the test above is often run by root."""
    (folder / "in" / "secret.png").write_bytes((folder / "in" / "plain.png").read_bytes())
    (folder / "in" / "secret.png").chmod(0)
    (folder / "in" / "closed").mkdir(mode=0o700)
    command = [sys.executable, "-m", "jobs.denoise", "in", "out", "--model", "model.safetensors"]
    with tempfile.TemporaryDirectory() as place:  # pytest's own are for one user
        shutil.copytree(folder, place, dirs_exist_ok=True, symlinks=True)
        (Path(place) / "out").mkdir()
        for path, mode in ((".", 0o755), ("in/closed", 0o700), ("out", 0o777)):
            (Path(place) / path).chmod(mode)
        result = subprocess.run(
            ["setpriv", "--reuid", "65534", "--clear-groups", *command, "--device", "cpu"],
            cwd=place,
            env={**os.environ, "PYTHONPATH": os.getcwd(), "HOME": f"{place}/out"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert result.returncode == 1, result.stderr
    lines = result.stderr.splitlines()
    assert "n2n: in/secret.png: cannot be read: Permission denied" in lines
    assert "n2n: in/closed: the folder cannot be read: Permission denied" in lines
