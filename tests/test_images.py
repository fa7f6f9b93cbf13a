"""Image files: what goes in comes out, and what cannot be used is refused in one line."""

import errno
import io
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import JpegImagePlugin, PngImagePlugin

from n2n.errors import ImageError, InvalidType, ShapeError
from n2n.images import Image, format_of, read_image, write_image

PHOTO = Path("data/photos/clock.jpg")


def photo(mode: str = "RGB", size: tuple[int, int] = (61, 45)) -> PIL.Image.Image:
    """A small photograph; its alpha, if any, is a ramp."""
    with PIL.Image.open(PHOTO) as image:
        small = image.resize(size)
    if mode.endswith("A"):
        small.putalpha(PIL.Image.linear_gradient("L").resize(size))
    return small.convert(mode)


def metadata() -> dict[str, object]:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # orientation: turned by a quarter
    exif[0x010F] = "Maker"
    return {"exif": exif.tobytes(), "icc_profile": b"a profile" * 9, "dpi": (300, 200)}


def chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_a_png_comes_out_as_it_went_in(tmp_path: Path, mode: str) -> None:
    source, destination = tmp_path / "in.png", tmp_path / "out.PNG"
    photo(mode).save(source, **metadata())
    image = read_image(source)
    write_image(destination, image)
    with PIL.Image.open(source) as before, PIL.Image.open(destination) as after:
        assert (image.mode, image.format) == (mode, "PNG")
        assert image.pixels.shape == (45, 61, 1 if mode.startswith("L") else 3)
        assert (after.mode, after.size) == (before.mode, before.size)
        np.testing.assert_array_equal(np.asarray(after), np.asarray(before))
        assert after.getexif()[0x0112] == 6
        for key in ("exif", "icc_profile", "dpi"):
            assert after.info[key] == before.info[key], key


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_keeps_its_tables_and_metadata(
    tmp_path: Path, mode: str, subsampling: int, progressive: bool
) -> None:
    source, destination = tmp_path / "in.jpg", tmp_path / "out.jpeg"
    options = {"quality": 83, "subsampling": subsampling, "progressive": progressive}
    photo(mode).save(source, **options, **metadata())
    write_image(destination, read_image(source))
    with PIL.Image.open(source) as before, PIL.Image.open(destination) as after:
        assert (after.mode, after.size) == (before.mode, before.size)
        assert after.quantization == before.quantization
        assert JpegImagePlugin.get_sampling(after) == JpegImagePlugin.get_sampling(before)
        for key in ("exif", "icc_profile", "dpi", "progressive"):
            assert after.info.get(key) == before.info.get(key), key
        difference = np.asarray(after).astype(int) - np.asarray(before)
        assert np.abs(difference).mean() < 1  # the same tables: hardly a second loss


def test_xmp_survives_in_both_formats_and_between_them(tmp_path: Path) -> None:
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>\xc3\xa9</x:xmpmeta>"
    photo().save(tmp_path / "a.jpg", xmp=xmp)
    for source, destination in [("a.jpg", "b.jpg"), ("b.jpg", "c.png"), ("c.png", "d.png")]:
        write_image(tmp_path / destination, read_image(tmp_path / source))
        assert read_image(tmp_path / destination).xmp == xmp


def test_a_png_keeps_texts_gamma_and_primaries(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "by night")
    info.add_itxt("Title", "Bücke", "de", "Titel")
    info.add(b"gAMA", (45455).to_bytes(4, "big"))
    info.add(b"cHRM", b"".join(v.to_bytes(4, "big") for v in range(30000, 30008)))
    info.add(b"sRGB", b"\1")
    photo().save(tmp_path / "in.png", pnginfo=info)
    write_image(tmp_path / "out.png", read_image(tmp_path / "in.png"))
    with PIL.Image.open(tmp_path / "in.png") as before, PIL.Image.open(tmp_path / "out.png") as out:
        assert out.info == before.info
        assert out.text == {"Comment": "by night", "Title": "Bücke"}


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(0, 250, 25))])
def test_a_palette_comes_as_colour(tmp_path: Path, transparency: int | bytes | None) -> None:
    palette = photo().quantize(10)
    palette.save(
        tmp_path / "in.png", **({} if transparency is None else {"transparency": transparency})
    )
    image = read_image(tmp_path / "in.png")
    write_image(tmp_path / "out.png", image)
    assert image.mode == "P"
    mode = "RGB" if transparency is None else "RGBA"
    with PIL.Image.open(tmp_path / "in.png") as before, PIL.Image.open(tmp_path / "out.png") as out:
        assert out.mode == mode
        np.testing.assert_array_equal(np.asarray(out), np.asarray(before.convert(mode)))


@pytest.mark.parametrize(("mode", "colour"), [("L", 128), ("RGB", (1, 2, 3))])
def test_a_transparent_colour_becomes_alpha(tmp_path: Path, mode: str, colour: object) -> None:
    source = PIL.Image.new(mode, (4, 3), colour)
    source.putpixel((0, 0), 0)
    source.save(tmp_path / "in.png", transparency=colour)
    alpha = read_image(tmp_path / "in.png").alpha
    assert alpha is not None
    assert alpha[0, 0] == 255
    assert alpha.sum() == 255


def test_grey_of_few_bits_spans_the_whole_range(tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(png(4, 1, 2, 0, b"\0\x1b"))  # 0 1 2 3 of two bits
    assert read_image(tmp_path / "in.png").pixels.ravel().tolist() == [0, 85, 170, 255]


def test_a_camera_file_with_several_pictures_gives_the_first(tmp_path: Path) -> None:
    photo().save(
        tmp_path / "in.jpg", "MPO", save_all=True, append_images=[photo("L").convert("RGB")]
    )
    image = read_image(tmp_path / "in.jpg")
    with PIL.Image.open(tmp_path / "in.jpg") as before:
        assert before.format == "MPO"
        np.testing.assert_array_equal(image.pixels, np.asarray(before))
    write_image(tmp_path / "out.jpg", image)
    with PIL.Image.open(tmp_path / "out.jpg") as after:
        assert after.format == "JPEG"


def test_a_jpeg_becomes_a_png_by_its_name(tmp_path: Path) -> None:
    image = read_image(PHOTO)
    write_image(tmp_path / "out.png", image)
    np.testing.assert_array_equal(read_image(tmp_path / "out.png").pixels, image.pixels)


def test_a_png_becomes_a_jpeg_of_quality_95(tmp_path: Path) -> None:
    photo().save(tmp_path / "in.png")
    write_image(tmp_path / "out.jpg", read_image(tmp_path / "in.png"))
    photo().save(tmp_path / "expected.jpg", quality=95)
    assert (tmp_path / "out.jpg").read_bytes() == (tmp_path / "expected.jpg").read_bytes()


def encoded(format: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    photo(mode).save(buffer, format, **options)
    return buffer.getvalue()


WHOLE_PNG, WHOLE_JPEG = encoded("PNG"), encoded("JPEG", quality=90)
BROKEN = {
    "empty": ("a.png", b"", r"found an empty file \(zero bytes\)"),
    "text": ("a.png", b"Dear diary,\n" * 9, "a PNG or JPEG expected, the content is neither"),
    "another format": ("a.jpg", encoded("GIF"), "the content is neither"),
    "wrong name": ("a.png", WHOLE_JPEG, "a PNG expected by its name, found a JPEG; rename it"),
    "truncated PNG": (
        "a.png",
        WHOLE_PNG[: len(WHOLE_PNG) // 2],
        "a whole PNG expected, found it truncated",
    ),
    "truncated JPEG": (
        "a.jpg",
        WHOLE_JPEG[: len(WHOLE_JPEG) // 2],
        "a whole JPEG expected, found it truncated",
    ),
    "header only": ("a.jpg", WHOLE_JPEG[:4], "a whole JPEG expected, found it truncated"),
    "signature only": ("a.png", WHOLE_PNG[:8], "a whole PNG expected, found it truncated"),
    "16-bit colour": ("a.png", png(1, 1, 16, 2, bytes(7)), "8 bits .* found 16: not supported yet"),
    "16-bit grey": ("a.png", png(1, 1, 16, 0, bytes(3)), "8 bits .* found 16: not supported yet"),
    "16-bit alpha": ("a.png", png(1, 1, 16, 6, bytes(9)), "8 bits .* found 16: not supported yet"),
    "one bit": ("a.png", png(8, 1, 1, 0, bytes(2)), "grey, RGB or palette expected, found mode 1"),
    "CMYK": ("a.jpg", encoded("JPEG", "CMYK"), "grey, RGB or palette expected, found mode CMYK"),
    "bomb": ("a.png", png(20000, 20000, 8, 0, b""), "at most 178956970 pixels expected"),
    "animation": (
        "a.png",
        encoded("PNG", save_all=True, append_images=[photo("L").convert("RGB")]),
        "a still image expected, found an animation",
    ),
}


@pytest.mark.parametrize(("name", "content", "message"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_used_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "progressive"]), st.data())
def test_a_cut_file_is_refused_or_whole(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    whole = WHOLE_PNG if kind == "PNG" else encoded("JPEG", progressive=kind == "progressive")
    path = tmp_path / ("a.png" if kind == "PNG" else "a.jpg")
    path.write_bytes(whole)
    expected = read_image(path).pixels
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    try:
        pixels = read_image(path).pixels
    except ImageError:
        return
    np.testing.assert_array_equal(pixels, expected)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(["a.png", "a.jpg"]), st.lists(st.tuples(st.floats(0, 1), st.binary())))
@example("a.png", [(0.0, b"")])
def test_a_damaged_file_raises_nothing_but_image_error(
    tmp_path: Path, name: str, damages: list[tuple[float, bytes]]
) -> None:
    content = WHOLE_PNG if name == "a.png" else WHOLE_JPEG
    for place, patch in damages:
        at = int(place * len(content))
        content = content[:at] + patch + content[at + len(patch) :]
    (tmp_path / name).write_bytes(content)
    with suppress(ImageError):
        read_image(tmp_path / name)


def test_what_is_no_file_is_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "missing.png", tmp_path, tmp_path / "pipe.png", "/dev/zero"):
        with pytest.raises(ImageError, match="an image file expected, found none"):
            read_image(path)


def test_a_file_without_permission_is_named(tmp_path: Path, monkeypatch) -> None:
    def deny(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "read_bytes", deny)
    with pytest.raises(ImageError, match=r"clock.jpg: cannot be read: Permission denied"):
        read_image(PHOTO)


def test_writing_refuses_other_names_and_alpha_in_jpeg(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    with pytest.raises(ImageError, match=r"ends in .png, .jpg, .jpeg expected"):
        write_image(tmp_path / "a.tif", Image(pixels))
    with pytest.raises(ImageError, match="a JPEG holds no transparency"):
        write_image(tmp_path / "a.jpg", Image(pixels, alpha=pixels[..., 0]))
    with pytest.raises(ImageError, match="cannot be written as JPEG: EXIF data is too long"):
        write_image(tmp_path / "a.jpg", Image(pixels, exif=bytes(70000)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch, step: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), full)
    with pytest.raises(OSError, match="No space left"):
        write_image(path, Image(np.zeros((2, 2, 3), np.uint8)))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"old")
    (tmp_path / "a.png").symlink_to(tmp_path / "elsewhere")
    write_image(tmp_path / "a.png", Image(np.zeros((2, 2, 1), np.uint8)))
    assert (tmp_path / "elsewhere").read_bytes() == b"old"
    assert not (tmp_path / "a.png").is_symlink()


def test_arrays_are_checked() -> None:
    pixels = np.zeros((2, 3, 3), np.uint8)
    with pytest.raises(ShapeError, match=r"pixels: shape \(H, W, 1\) or \(H, W, 3\) expected"):
        Image(pixels[..., 0])
    with pytest.raises(ShapeError, match=r"alpha: shape \(2, 3\) expected, got \(3, 2\)"):
        Image(pixels, alpha=pixels[..., 0].T)
    with pytest.raises(InvalidType, match="pixels: uint8 expected, got float64"):
        Image(pixels / 255)


def test_formats_go_by_the_end_of_the_name() -> None:
    names = ["a.png", "b.JPG", "c.jpeg", "d.tar.Png", "e.tif", "png", ".png"]
    found = [format_of(Path(name)) for name in names]
    assert found == ["PNG", "JPEG", "JPEG", "PNG", None, None, None]
