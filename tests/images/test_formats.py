"""What each format keeps beyond the table, and what comes out when a result does not fit."""

import struct
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
from PIL import PngImagePlugin

from n2n.images import open_image, read_pixels, write_image

from .fidelity import complement, metadata, rewrite
from .samples import PHOTO, SAMPLES, chunk, photo, pixels, png


def make(name: str, folder: Path) -> Path:
    path = folder / f"in{SAMPLES[name].suffix}"
    path.write_bytes(SAMPLES[name].make())
    return path


def kinds(path: Path) -> list[bytes]:
    """The chunks of a PNG, in order."""
    data, at, found = path.read_bytes(), 8, []
    while at < len(data):
        found.append(data[at + 4 : at + 8])
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return found


# PNG


def test_a_png_keeps_all_chunks_that_are_safe_to_copy(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "by night")
    info.add_text("Zipped", "long " * 99, zip=True)
    info.add_itxt("Title", "Bücke", "de", "Titel")
    info.add(b"gAMA", (45455).to_bytes(4, "big"))
    info.add(b"cHRM", b"".join(v.to_bytes(4, "big") for v in range(30000, 30008)))
    info.add(b"prVt", b"safe", after_idat=True)
    info.add(b"prVT", b"depends on the pixels", after_idat=True)
    photo().save(tmp_path / "in.png", pnginfo=info)
    rewrite(tmp_path / "in.png", tmp_path / "out.png", complement)
    with PIL.Image.open(tmp_path / "in.png") as before, PIL.Image.open(tmp_path / "out.png") as out:
        before.load()
        out.load()
        assert out.text == before.text
        assert out.text["Title"] == "Bücke"
        assert out.info["chromaticity"] == before.info["chromaticity"]
    expected = [kind for kind in kinds(tmp_path / "in.png") if kind != b"prVT"]
    assert kinds(tmp_path / "out.png") == expected


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_grey_of_few_bits_spans_the_range_and_keeps_its_bits(tmp_path: Path, depth: int) -> None:
    source = make(f"PNG grey {depth}", tmp_path)
    levels = 2**depth
    with open_image(source) as file:
        result = file.pages[0].raster()[:, :]
        assert set(np.unique(result)) <= set(range(0, 256, 255 // (levels - 1)))
        write_image(tmp_path / "few.png", file, [255 - result])
        write_image(tmp_path / "many.png", file, [result // 2 + 40])
    assert (tmp_path / "few.png").read_bytes()[24] == depth
    assert (tmp_path / "many.png").read_bytes()[24] == 8
    read = cv2.imread(str(tmp_path / "many.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(read, result[..., 0] // 2 + 40)
    assert metadata(tmp_path / "many.png") == metadata(source)


def test_a_palette_becomes_colour_when_the_result_is_new(tmp_path: Path) -> None:
    for name, mode in (("PNG palette", "RGB"), ("PNG palette, alpha", "RGBA")):
        source = make(name, tmp_path)
        rewrite(source, tmp_path / "out.png", complement)
        with PIL.Image.open(source) as before, PIL.Image.open(tmp_path / "out.png") as after:
            assert after.mode == mode
            expected = np.asarray(before.convert(mode)).copy()
            expected[..., :3] = 255 - expected[..., :3]
            np.testing.assert_array_equal(np.asarray(after), expected)
        assert metadata(tmp_path / "out.png") == metadata(source)
        assert b"PLTE" not in kinds(tmp_path / "out.png")


def test_a_transparent_colour_stays_one_as_long_as_it_fits(tmp_path: Path) -> None:
    source = make("PNG transparent colour", tmp_path)
    with open_image(source) as file:
        same = file.pages[0].raster()[:, :]
        alpha = file.pages[0].alpha()
        assert alpha is not None
        assert alpha[3, 5] == 0
        write_image(tmp_path / "same.png", file, [same])
        write_image(tmp_path / "new.png", file, [255 - same])
    assert b"tRNS" in kinds(tmp_path / "same.png")
    assert b"tRNS" not in kinds(tmp_path / "new.png")
    found = np.asarray(PIL.Image.open(tmp_path / "new.png"))
    np.testing.assert_array_equal(found, np.dstack([255 - same, alpha]))


def test_backgrounds_go_with_the_mode_that_they_are_for(tmp_path: Path) -> None:
    extra = [chunk(b"PLTE", bytes(range(6))), chunk(b"bKGD", b"\1")]
    (tmp_path / "in.png").write_bytes(png(2, 1, 8, 3, b"\0\0\1", *extra))
    rewrite(tmp_path / "in.png", tmp_path / "same.png", np.copy)
    rewrite(tmp_path / "in.png", tmp_path / "new.png", complement)
    assert kinds(tmp_path / "same.png") == [b"IHDR", b"PLTE", b"bKGD", b"IDAT", b"IEND"]
    assert kinds(tmp_path / "new.png") == [b"IHDR", b"IDAT", b"IEND"]


def test_an_interlaced_png_is_read(tmp_path: Path) -> None:
    """Made by hand of the seven passes: 0 is the first, 1 column 4, … of a row of eight."""
    order = [[0], [4], [2, 6], [1, 3, 5, 7]]  # passes that a picture of one row has
    rows = b"".join(b"\0" + bytes(10 * x for x in part) for part in order)
    data = png(8, 1, 8, 0, rows)
    header = struct.pack(">IIBBBBB", 8, 1, 8, 0, 0, 0, 1)
    (tmp_path / "in.png").write_bytes(data.replace(data[8:33], chunk(b"IHDR", header)))
    assert read_pixels(tmp_path / "in.png").ravel().tolist() == [0, 10, 20, 30, 40, 50, 60, 70]


# JPEG


def test_a_jpeg_keeps_every_segment(tmp_path: Path) -> None:
    """The long form of XMP, Photoshop's block, a comment, and a profile in several parts."""
    photo().save(tmp_path / "a.jpg", icc_profile=bytes(150_000), comment=b"by night")
    content = (tmp_path / "a.jpg").read_bytes()
    extra = b""
    for marker, text in ((0xE1, b"http://ns.adobe.com/xmp/extension/\0more"), (0xED, b"Photoshop")):
        extra += bytes([0xFF, marker]) + struct.pack(">H", len(text) + 2) + text
    (tmp_path / "in.jpg").write_bytes(content[:2] + content[2:20] + extra + content[20:])
    rewrite(tmp_path / "in.jpg", tmp_path / "out.jpg", complement)
    before, after = ((tmp_path / name).read_bytes() for name in ("in.jpg", "out.jpg"))
    assert after[: before.index(b"\xff\xdb")] == before[: before.index(b"\xff\xdb")]
    with PIL.Image.open(tmp_path / "out.jpg") as image:
        assert image.info["icc_profile"] == bytes(150_000)
        assert image.info["comment"] == b"by night"


@pytest.mark.parametrize("name", [name for name in SAMPLES if name.startswith("JPEG")])
def test_a_second_coding_with_the_same_tables_loses_hardly_anything(
    tmp_path: Path, name: str
) -> None:
    source = make(name, tmp_path)
    with open_image(source) as file:
        result = file.pages[0].raster()[:, :].copy()
        result[0, 0] ^= 1  # else it would be the same file
        write_image(tmp_path / "out.jpg", file, [result])
    difference = np.abs(read_pixels(tmp_path / "out.jpg").astype(int) - result)
    assert difference.mean() < 1
    assert (tmp_path / "out.jpg").read_bytes() != source.read_bytes()


def test_a_camera_file_with_several_pictures_gives_the_first(tmp_path: Path) -> None:
    others = [photo("L").convert("RGB")]
    photo().save(tmp_path / "in.jpg", "MPO", save_all=True, append_images=others)
    rewrite(tmp_path / "in.jpg", tmp_path / "same.jpg", np.copy)
    rewrite(tmp_path / "in.jpg", tmp_path / "new.jpg", complement)
    assert (tmp_path / "same.jpg").read_bytes() == (tmp_path / "in.jpg").read_bytes()
    with PIL.Image.open(tmp_path / "in.jpg") as before, PIL.Image.open(tmp_path / "new.jpg") as out:
        assert (before.format, out.format) == ("MPO", "JPEG")
        difference = np.asarray(out).astype(int) - (255 - np.asarray(before).astype(int))
        assert np.abs(difference).mean() < 8


def test_what_was_read_may_be_overwritten(tmp_path: Path) -> None:
    """A result made in the array that was handed out is new all the same."""
    for name in ("JPEG 4:4:4", "PNG palette", "WebP lossy", "BMP palette"):
        source = make(name, tmp_path)
        with open_image(source) as file:
            pixels_read = file.pages[0].raster()
            assert isinstance(pixels_read, np.ndarray)
            pixels_read //= 2
            expected = pixels_read.copy()
            write_image(tmp_path / f"out{source.suffix}", file, [pixels_read])
        found = read_pixels(tmp_path / f"out{source.suffix}").astype(int)
        assert np.abs(found - expected).mean() < 6


# BMP, WebP


def test_rare_kinds_of_bmp_come_out_as_they_are_or_in_a_common_one(tmp_path: Path) -> None:
    """16 bits a pixel: 5 for each colour."""
    values = np.arange(12, dtype="<u2") * 2500
    info = struct.pack("<IiiHHIIiiII", 40, 4, 3, 1, 16, 0, 24, 0, 0, 0, 0)
    content = struct.pack("<2sIHHI", b"BM", 78, 0, 0, 54) + info + values.tobytes()
    (tmp_path / "in.bmp").write_bytes(content)
    rewrite(tmp_path / "in.bmp", tmp_path / "same.bmp", np.copy)
    rewrite(tmp_path / "in.bmp", tmp_path / "new.bmp", complement)
    assert (tmp_path / "same.bmp").read_bytes() == content
    expected = cv2.imread(str(tmp_path / "in.bmp"))
    np.testing.assert_allclose(read_pixels(tmp_path / "in.bmp")[..., ::-1], expected, atol=7)
    found = cv2.imread(str(tmp_path / "new.bmp"))
    np.testing.assert_array_equal(found, 255 - read_pixels(tmp_path / "in.bmp")[..., ::-1])


def test_a_bmp_of_few_greys(tmp_path: Path) -> None:
    """A grey palette of 100 entries: a result beyond them gets a palette of 256."""
    palette = b"".join(bytes([grey, grey, grey, 0]) for grey in range(100))
    info = struct.pack("<IiiHHIIiiII", 40, 4, 1, 1, 8, 0, 4, 0, 0, 100, 0)
    start = struct.pack("<2sIHHI", b"BM", 458, 0, 0, 454)
    (tmp_path / "in.bmp").write_bytes(start + info + palette + bytes([0, 50, 98, 99]))
    assert read_pixels(tmp_path / "in.bmp").ravel().tolist() == [0, 50, 98, 99]
    rewrite(tmp_path / "in.bmp", tmp_path / "few.bmp", lambda x: 99 - x)
    rewrite(tmp_path / "in.bmp", tmp_path / "many.bmp", complement)
    assert (tmp_path / "few.bmp").stat().st_size == 458
    assert read_pixels(tmp_path / "few.bmp").ravel().tolist() == [99, 49, 1, 0]
    assert cv2.imread(str(tmp_path / "many.bmp"), 0).ravel().tolist() == [255, 205, 157, 156]


def test_colours_under_transparent_pixels_of_a_webp_stay(tmp_path: Path) -> None:
    source = make("WebP lossless, alpha", tmp_path)
    rewrite(source, tmp_path / "out.webp", complement)
    found = np.asarray(PIL.Image.open(tmp_path / "out.webp"))
    np.testing.assert_array_equal(found[..., :3], 255 - pixels())
    np.testing.assert_array_equal(found[..., 3], pixels("RGBA")[..., 3])


def test_the_photograph_of_the_project_passes(tmp_path: Path) -> None:
    rewrite(PHOTO, tmp_path / "out.jpg", np.copy)
    assert (tmp_path / "out.jpg").read_bytes() == PHOTO.read_bytes()
