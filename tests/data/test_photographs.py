"""Reading photographs: depth, alpha, orientation, and everything that is not a photograph."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from n2n.data.photographs import Photograph, Skipped, decode, find, inspect, read_pixels
from n2n.errors import ImageError, PairSetError


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_names_are_sorted_recursive_and_by_extension(tmp_path, photographs):
    (photographs / "notes.txt").write_text("no photograph")
    (photographs / "Thumbs.db").write_bytes(b"\0")
    found = find(photographs)
    assert found.names == ("0.png", "1.png", "2.png", "3.png", "4.png", "5.png",
                           "more/6.JPG", "more/7.webp")  # fmt: skip
    assert found.ignored == 2
    assert not found.skipped


def test_links_out_of_the_folder_are_named_not_followed(tmp_path, photographs, draw):
    outside = tmp_path / "outside"
    outside.mkdir()
    Image.fromarray(draw(9)).save(outside / "private.png")
    (photographs / "link.png").symlink_to(outside / "private.png")
    (photographs / "folder").symlink_to(outside)
    (photographs / "inside.png").symlink_to(photographs / "0.png")
    found = find(photographs)
    assert [skip.name for skip in found.skipped] == ["folder", "link.png"]
    assert "inside.png" in found.names
    assert not any("private" in name or name == "link.png" for name in found.names)


def test_a_missing_folder_and_a_file_are_refused(tmp_path):
    with pytest.raises(PairSetError, match="expected a folder of photographs; there is nothing"):
        find(tmp_path / "none")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PairSetError, match="found a file"):
        find(tmp_path / "file")


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight(kind, rng):
    wide = rng.integers(0, 65536, (20, 30), dtype=np.uint16)
    wide[0, :3] = 0, 65535, 257
    content = saved(Image.fromarray(wide), kind)
    expected = np.rint(wide * (255 / 65535))
    np.testing.assert_array_equal(decode(content, grey=True)[:, :, 0], expected)
    colour = decode(content, grey=False)
    assert colour.shape == (20, 30, 3)
    np.testing.assert_array_equal(colour[:, :, 2], expected)


def test_floating_point_is_refused(tmp_path):
    path = tmp_path / "float.tif"
    Image.fromarray(np.ones((70, 70), np.float32)).save(path)
    result = inspect(str(path), "float.tif", 32)
    assert isinstance(result, Skipped)
    assert "no fixed range" in result.reason


def test_alpha_is_dropped_not_blended(draw):
    pixels = draw(0)
    with_alpha = np.dstack([pixels, np.zeros(pixels.shape[:2], np.uint8)])
    np.testing.assert_array_equal(
        decode(saved(Image.fromarray(with_alpha), "PNG"), grey=False), pixels
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_gives_three_channels_or_one(mode, draw):
    content = saved(Image.fromarray(draw(0)).convert(mode), "PNG")
    assert decode(content, grey=False).shape == (96, 112, 3)
    assert decode(content, grey=True).shape == (96, 112, 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(kind, orientation, tmp_path, draw):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    pixels = draw(2)
    content = saved(Image.fromarray(pixels), kind, exif=exif, **options)
    plain = decode(saved(Image.fromarray(pixels), kind, **options), grey=False)
    turn = {  # as the EXIF standard draws them
        1: plain,
        2: plain[:, ::-1],
        3: plain[::-1, ::-1],
        4: plain[::-1],
        5: plain.swapaxes(0, 1),
        6: plain[::-1].swapaxes(0, 1),
        7: plain[::-1, ::-1].swapaxes(0, 1),
        8: plain[:, ::-1].swapaxes(0, 1),
    }
    np.testing.assert_array_equal(decode(content, grey=False), turn[orientation])
    path = tmp_path / "image"
    path.write_bytes(content)
    photograph = inspect(str(path), "image", 1)
    assert (photograph.height, photograph.width) == turn[orientation].shape[:2]


def bomb() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0"))


def test_what_cannot_be_used_is_named_with_its_reason(tmp_path, draw):
    jpeg = saved(Image.fromarray(draw(0, 300, 300)), "JPEG", quality=95)
    png = saved(Image.fromarray(draw(0, 300, 300)), "PNG")
    cases = {
        "cut.jpg": (jpeg[: len(jpeg) * 9 // 10], "truncated"),
        "cut.png": (png[: len(png) // 2], "truncated"),
        "zero.jpg": (b"", "an empty file"),
        "text.png": (b"hello\n" * 100, "not an image that can be read"),
        "script.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image that can be read"),
        "small.png": (saved(Image.fromarray(draw(0, 40, 31)), "PNG"), "too small: 31 × 40"),
        "bomb.png": (bomb(), "far too many pixels"),
    }
    for name, (content, reason) in cases.items():
        (tmp_path / name).write_bytes(content)
        result = inspect(str(tmp_path / name), name, 32)
        assert isinstance(result, Skipped), name
        assert reason in result.reason
        assert "\n" not in result.reason
    (tmp_path / "whole.jpg").write_bytes(jpeg)
    assert isinstance(inspect(str(tmp_path / "whole.jpg"), "whole.jpg", 32), Photograph)


def test_a_photograph_that_changed_is_an_error(photographs, draw):
    photograph = inspect(str(photographs / "0.png"), "0.png", 32)
    assert read_pixels(photograph, grey=False).shape == (96, 112, 3)
    Image.fromarray(draw(33)).save(photographs / "0.png")
    with pytest.raises(ImageError, match=r"0\.png: changed while it was being used"):
        read_pixels(photograph, grey=False)
