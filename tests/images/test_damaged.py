"""Damaged files of every kind: an ImageError of one line, or success; nothing hangs or grows."""

import errno
import io
import os
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

from n2n.errors import ImageError
from n2n.images import ImageFile, open_image, refusal, write_image

from .samples import PHOTO, SAMPLES, chunk, npy, pillow, pixels, png, tiff

CASES, MANY = 12, 300  # damages of each kind of image


def damage(content: bytes, rng: random.Random) -> bytes:
    """Cut it, or change bits or bytes, half of the time near the start."""
    data, way = bytearray(content), rng.random()
    at = rng.randrange(len(data) if rng.random() < 0.5 else min(len(data), 400))
    if way < 0.3:
        return bytes(data[: rng.randrange(len(data))])
    if way < 0.6:
        for _ in range(rng.choice([1, 2, 8, 40])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            data[at] ^= 1 << rng.randrange(8)
    elif way < 0.8:
        count = rng.choice([1, 2, 4, 16])
        data[at : at + count] = rng.choice([b"\xff", b"\0", b"\x7f"]) * count
    elif way < 0.9:
        other = rng.randrange(len(data))
        data[at : at + 64] = data[other : other + 64]
    else:
        data[at:at] = rng.randbytes(rng.randrange(20))
    return bytes(data)


def use(file: ImageFile, folder: Path) -> None:
    """Whatever a caller may do: read in windows and as a whole, write, convert."""
    for page in file.pages:
        page.raster(max_bytes=1000)[:1, :]
        page.alpha()
    for format in (None, "TIFF", "PNG"):
        if refusal(file, format) is None:
            suffix = {"TIFF": ".tif", "PNG": ".png"}.get(format or "", file.path.suffix)
            changed = (page.raster()[:, ::-1].copy() for page in file.pages)
            write_image(folder / f"out{suffix}", file, changed, format=format)


def check_damaged(name: str, cases: int, folder: Path) -> None:
    sample = SAMPLES[name]
    whole, path = sample.make(), folder / f"in{sample.suffix}"
    rng = random.Random(name)
    refused = 0
    for _ in range(cases):
        path.write_bytes(damage(whole, rng))
        start = time.monotonic()
        try:
            with open_image(path) as file:
                use(file, folder)
        except ImageError as error:
            refused += 1
            text = str(error)
            assert text.startswith(f"{path}: ")
            assert "\n" not in text
            assert len(text) < 600
        assert time.monotonic() - start < 20
    assert not list(folder.glob(".n2n*"))
    assert refused


@pytest.mark.parametrize("name", SAMPLES)
def test_damage_raises_nothing_but_image_error(tmp_path: Path, name: str) -> None:
    check_damaged(name, CASES, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLES)
def test_much_damage_raises_nothing_but_image_error(tmp_path: Path, name: str) -> None:
    check_damaged(name, MANY, tmp_path)


@pytest.mark.parametrize("name", ["PNG RGB", "PNG RGB 16", "JPEG progressive", "WebP lossless"])
def test_a_cut_file_is_refused_or_whole(tmp_path: Path, name: str) -> None:
    sample = SAMPLES[name]
    whole, path = sample.make(), tmp_path / f"a{sample.suffix}"
    path.write_bytes(whole)
    with open_image(path) as file:
        expected = file.pages[0].raster()[:, :]
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        try:
            with open_image(path) as file:
                found = file.pages[0].raster()[:, :]
        except ImageError:
            continue
        np.testing.assert_array_equal(found, expected)


def edited(content: bytes, old: bytes, new: bytes) -> bytes:
    assert content.count(old) == 1
    return content.replace(old, new)


def tiff_sized(height: int) -> bytes:
    """A TIFF whose header claims more rows than it has strips for."""
    before, after = struct.pack("<HHII", 257, 4, 1, 45), struct.pack("<HHII", 257, 4, 1, height)
    return edited(tiff("L"), before, after)


def npy_header(text: str) -> bytes:
    line = text.ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(line)) + line.encode() + bytes(12)


def bmp_sized(width: int) -> bytes:
    content = pillow("RGB", "BMP")
    return content[:18] + struct.pack("<i", width) + content[22:]


BROKEN: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "empty": ("a.png", lambda: b"", r"found an empty file \(zero bytes\)"),
    "text": ("a.png", lambda: b"Dear diary,\n" * 9, "a PNG expected, the content is of another"),
    "another format": ("a.jpg", lambda: pillow("RGB", "GIF"), "the content is of another kind"),
    "wrong name": ("a.png", lambda: pillow("RGB", "JPEG"), "a PNG .* found a JPEG; rename it"),
    "wrong name 2": ("a.tif", lambda: npy(pixels()), "a TIFF .* found a npy; rename it"),
    "signature only": ("a.png", lambda: png(1, 1, 8, 0, b"")[:8], "it ends before its end mark"),
    "cut PNG": ("a.png", lambda: pillow("RGB", "PNG")[:4000], "it ends in a chunk b'IDAT'"),
    "cut JPEG": ("a.jpg", lambda: pillow("RGB", "JPEG")[:1500], "a whole JPEG expected"),
    "cut TIFF": ("a.tif", lambda: tiff()[:4000], "a whole TIFF expected"),
    "cut WebP": ("a.webp", lambda: pillow("RGB", "WEBP")[:900], r"\d+ bytes stated, 900 found"),
    "cut BMP": ("a.bmp", lambda: pillow("RGB", "BMP")[:900], "more than the file holds"),
    "cut npy": ("a.npy", lambda: npy(pixels())[:-1], "8363 bytes expected by its header"),
    "checksum": (
        "a.png",
        lambda: png(1, 1, 8, 0, b"\0\0", chunk(b"tEXt", b"a\0b")[:-1] + b"?"),
        "the checksum of a chunk b'tEXt' does not fit",
    ),
    "unknown chunk": (
        "a.png",
        lambda: png(1, 1, 8, 0, b"\0\0", chunk(b"CgBI", b"")),
        "a chunk b'CgBI' that this program does not know",
    ),
    "bomb": ("a.png", lambda: png(40000, 40000, 8, 0, b""), "at most 1,073,741,824 pixels"),
    "small bomb": ("a.png", lambda: png(20000, 20000, 8, 0, b""), "more than the file can hold"),
    "bomb TIFF": ("a.tif", lambda: tiff_sized(3_000_000_000), "at most 68,719,476,736 pixels"),
    "huge TIFF": ("a.tif", lambda: tiff_sized(400_000), "8889 strips or tiles expected"),
    "bomb BMP": ("a.bmp", lambda: bmp_sized(2**30), "at most 1,073,741,824 pixels expected"),
    "huge BMP": ("a.bmp", lambda: bmp_sized(20_000), "more than the file holds"),
    "bomb npy": (
        "a.npy",
        lambda: npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000000)}"),
        "at most 68,719,476,736 pixels expected",
    ),
    "pickle": (
        "a.npy",
        lambda: npy_header("{'descr': '|O', 'fortran_order': False, 'shape': (2, 3)}"),
        "uint8, uint16, float16 or float32 expected, found object",
    ),
    "float64": ("a.npy", lambda: npy(np.zeros((2, 3))), "found float64; convert it with"),
    "one axis": ("a.npy", lambda: npy(np.zeros(3, np.uint8)), r"found \(3,\); reshape it"),
    "four channels": ("a.npy", lambda: npy(np.zeros((2, 3, 4), np.uint8)), "leave alpha out"),
    "no pixel": ("a.npy", lambda: npy(np.zeros((0, 3), np.uint8)), "at least one pixel expected"),
    "CMYK": ("a.jpg", lambda: pillow_cmyk(), "grey or RGB expected, found mode CMYK"),
    "CMYK TIFF": (
        "a.tif",
        lambda: tiff("RGBA", photometric="SEPARATED", extrasamples=[]),
        "found 4 samples of kind SEPARATED",
    ),
    "int32 TIFF": ("a.tif", lambda: plain_tiff(np.int32), "found 32 bits of kind int32"),
    "float64 TIFF": ("a.tif", lambda: plain_tiff(np.float64), "found 64 bits of kind float64"),
    "int16 TIFF": ("a.tif", lambda: plain_tiff(np.int16), "found 16 bits of kind int16"),
    "animated PNG": ("a.png", lambda: animation("PNG"), "found an animation; take it apart"),
    "animated WebP": ("a.webp", lambda: animation("WEBP"), "found an animation; take it apart"),
}


def pillow_cmyk() -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("CMYK", (4, 4)).save(buffer, "JPEG")
    return buffer.getvalue()


def plain_tiff(dtype: type) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((5, 6), dtype))
    return buffer.getvalue()


def animation(format: str) -> bytes:
    buffer = io.BytesIO()
    frames = [PIL.Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(buffer, format, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def read(path: Path) -> None:
    """The pixels of a JPEG alone show that it is cut; all others are refused by their header."""
    with open_image(path) as file:
        assert file.format == "JPEG"
        file.pages[0].raster()


@pytest.mark.parametrize(("name", "make", "message"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_used_is_refused_by_its_header(
    tmp_path: Path, name: str, make: Callable[[], bytes], message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(make())
    with pytest.raises(ImageError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "dangling.png").symlink_to("nothing.png")
    for path in ("missing.png", ".", "pipe.png", "loop.png", "dangling.png", "/dev/zero"):
        with pytest.raises(ImageError, match="an image file expected, found none"):
            open_image(tmp_path / path)
    with pytest.raises(ImageError, match="cannot be read: File name too long"):
        open_image(tmp_path / ("a" * 300 + ".png"))


@pytest.mark.parametrize("name", [b"a b.jpg", b"a'\"b.jpg", b"a\nb.jpg", b"a\xff\xfe.jpg"])
def test_any_name_will_do(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(PHOTO.read_bytes())
    with open_image(path) as file:
        write_image(path.with_suffix(".tif"), file, [file.pages[0].raster()], format="TIFF")


def test_a_file_without_permission_is_named(tmp_path: Path, monkeypatch) -> None:
    def deny(path: Path, mode: str = "r") -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(ImageError, match=r"clock.jpg: cannot be read: Permission denied"):
        open_image(PHOTO)


def test_a_directory_that_leads_to_itself_ends(tmp_path: Path) -> None:
    content = bytearray(tiff("L"))
    first = int.from_bytes(content[4:8], "little")
    count = int.from_bytes(content[first : first + 2], "little")
    after = first + 2 + 12 * count
    content[after : after + 4] = struct.pack("<I", first)
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    with open_image(path) as file:
        assert len(file.pages) == 1


def test_many_empty_scans_of_a_jpeg_are_refused(tmp_path: Path) -> None:
    content = pillow("RGB", "JPEG", progressive=True)
    scan = content.index(b"\xff\xda")
    (tmp_path / "a.jpg").write_bytes(content[:scan] + content[scan : scan + 14] * 2000)
    with (
        open_image(tmp_path / "a.jpg") as file,
        pytest.raises(ImageError, match="more than a thousand scans"),
    ):
        file.pages[0].raster()


def test_a_png_is_checked_beyond_what_its_library_checks(tmp_path: Path) -> None:
    """An index that the palette does not have."""
    palette = chunk(b"PLTE", bytes(6))
    (tmp_path / "a.png").write_bytes(png(2, 1, 8, 3, b"\0\1\2", palette))
    with open_image(tmp_path / "a.png") as file, pytest.raises(ImageError, match="an index of 2"):
        file.pages[0].raster()
