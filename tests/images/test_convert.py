"""Another format on purpose: what it holds goes along, what it cannot hold is refused."""

import errno
import os
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
import tifffile
from PIL import JpegImagePlugin

from n2n.errors import ImageError, InvalidType, InvalidValue, ShapeError
from n2n.images import (
    FORMATS,
    ImageFile,
    format_of,
    open_image,
    output_suffix,
    read_pixels,
    refusal,
    save_pixels,
    write_image,
)

from .fidelity import metadata, pictures
from .samples import DPI, ICC, ORIENTATION, PHOTO, SAMPLES, XMP, npy, photo, pixels

# What the kinds of metadata are that a format holds.
HOLDS = {
    "PNG": {"EXIF", "orientation", "ICC", "XMP", "DPI"},
    "JPEG": {"EXIF", "orientation", "ICC", "XMP", "DPI"},
    "TIFF": {"EXIF", "orientation", "ICC", "XMP", "DPI"},
    "WebP": {"EXIF", "orientation", "ICC", "XMP"},
    "BMP": {"DPI"},
    "npy": set(),
}
SOURCES = ["PNG RGB", "JPEG 4:4:4", "WebP lossless", "TIFF with EXIF"]
PAIRS = [(name, target) for name in SOURCES for target in FORMATS if not name.startswith(target)]


def make(name: str, folder: Path) -> Path:
    path = folder / f"in{SAMPLES[name].suffix}"
    path.write_bytes(SAMPLES[name].make())
    return path


def convert(source: Path, format: str) -> Path:
    """With the pixels as they were read."""
    with open_image(source) as file:
        path = source.with_name("out" + output_suffix(source, format))
        write_image(path, file, [page.raster() for page in file.pages], format=format)
    return path


@pytest.mark.parametrize(("name", "target"), PAIRS)
def test_metadata_goes_along(tmp_path: Path, name: str, target: str) -> None:
    source = make(name, tmp_path)
    found = metadata(convert(source, target))
    expected = {"orientation": ORIENTATION, "ICC": ICC, "XMP": XMP}
    for kind in HOLDS[target] & SAMPLES[name].holds - {"EXIF"}:
        if kind == "DPI":
            np.testing.assert_allclose(as_dpi(found["DPI"]), DPI, rtol=1e-4)
        else:
            assert found[kind] == expected[kind], kind
    if "EXIF" in HOLDS[target] & SAMPLES[name].holds:
        with PIL.Image.open(source.with_name("out" + output_suffix(source, target))) as image:
            assert image.getexif().get_ifd(0x8769)[0x829A] == 0.008
            assert image.getexif().get_ifd(0x8769)[0x927C] == b"a maker's note"
            assert image.getexif().get_ifd(0x8825)[1] == "N"
            assert image.getexif()[0x010F] == "Maker"


def as_dpi(found: tuple[float, float]) -> tuple[float, float]:
    """tifffile tells a fraction: across alone."""
    return found if found[1] == found[0] else (found[0] / found[1],) * 2


CONVERSIONS = [
    (mode, source, target)
    for mode in ("L", "LA", "RGB", "RGBA")
    for source in ("PNG", "TIFF", "BMP", "WebP")
    for target in ("PNG", "TIFF", "BMP", "WebP", "npy")
    if source != target and not (source == "BMP" and mode.endswith("A"))  # Pillow writes none
]


@pytest.mark.parametrize(("mode", "source", "target"), CONVERSIONS)
def test_eight_bits_keep_pixels_and_alpha(
    tmp_path: Path, mode: str, source: str, target: str
) -> None:
    has_alpha = mode.endswith("A")
    path = tmp_path / ("in" + output_suffix("", source))
    options = {"lossless": True, "exact": True} if source == "WebP" else {}
    photo(mode).save(path, **options)
    with open_image(path) as file:
        if target == "npy" and has_alpha:
            assert refusal(file, target) == (
                "no transparency expected for npy, found it; choose PNG or TIFF"
            )
            return
    converted = convert(path, target)
    with open_image(converted) as file:
        page = file.pages[0]
        expected = pixels(mode.removesuffix("A")).reshape(*page.shape[:2], -1)
        np.testing.assert_array_equal(*np.broadcast_arrays(page.raster()[:, :], expected))
        alpha = page.alpha()
        assert (alpha is not None) == has_alpha
        if alpha is not None:
            np.testing.assert_array_equal(alpha, pixels("RGBA")[..., 3])


@pytest.mark.parametrize("name", ["PNG RGB 16", "PNG grey+alpha 16", "TIFF RGB 16"])
def test_sixteen_bits_stay_sixteen(tmp_path: Path, name: str) -> None:
    source = make(name, tmp_path)
    target = "TIFF" if name.startswith("PNG") else "PNG"
    converted = convert(source, target)
    with open_image(source) as before, open_image(converted) as after:
        np.testing.assert_array_equal(after.pages[0].raster()[:, :], before.pages[0].raster()[:, :])
        np.testing.assert_equal(after.pages[0].alpha(), before.pages[0].alpha())
    read = cv2.imread(str(converted), cv2.IMREAD_UNCHANGED)
    if read is not None and read.ndim == 3 and read.shape[2] == 3:
        np.testing.assert_array_equal(read[..., ::-1], read_pixels(source))


def test_stacks_go_between_tiff_and_npy(tmp_path: Path) -> None:
    stack = np.stack([pixels("L", "float32") + n for n in range(3)])[..., None]
    (tmp_path / "in.npy").write_bytes(npy(stack))
    tiff = convert(tmp_path / "in.npy", "TIFF")
    np.testing.assert_array_equal(tifffile.imread(tiff), stack[..., 0])
    back = convert(tiff, "npy")
    np.testing.assert_array_equal(np.load(back), stack)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("target", ["BMP", "npy"])
def test_pixels_are_turned_where_there_is_no_orientation(
    tmp_path: Path, orientation: int, target: str
) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    photo().save(tmp_path / "in.png", exif=exif)
    converted = convert(tmp_path / "in.png", target)
    expected = cv2.imread(str(tmp_path / "in.png"), cv2.IMREAD_COLOR)  # which turns it
    found = pictures(converted)[0]
    np.testing.assert_array_equal(found if target == "BMP" else found[..., ::-1], expected)


def test_a_palette_becomes_colour(tmp_path: Path) -> None:
    source = make("PNG palette, alpha", tmp_path)
    with PIL.Image.open(source) as image:
        expected = np.asarray(image.convert("RGBA"))
    found = np.asarray(PIL.Image.open(convert(source, "WebP")))
    np.testing.assert_array_equal(found, expected)


def test_a_new_jpeg_has_quality_95_and_fine_colours(tmp_path: Path) -> None:
    photo().save(tmp_path / "in.png")
    with PIL.Image.open(convert(tmp_path / "in.png", "JPEG")) as image:
        photo().save(tmp_path / "expected.jpg", quality=95, subsampling=0)
        with PIL.Image.open(tmp_path / "expected.jpg") as expected:
            assert image.quantization == expected.quantization
        assert JpegImagePlugin.get_sampling(image) == 0


def test_lossless_goes_to_lossless_webp(tmp_path: Path) -> None:
    for name, coding in (("PNG RGB", b"VP8L"), ("JPEG 4:4:4", b"VP8 ")):
        assert coding in convert(make(name, tmp_path), "WebP").read_bytes()


REFUSED = {
    ("PNG RGB 16", "JPEG"): "uint8 expected for JPEG, found uint16; choose TIFF",
    ("PNG RGBA", "JPEG"): "no transparency expected for JPEG, found it; choose PNG or TIFF",
    ("PNG palette, alpha", "JPEG"): "no transparency expected for JPEG",
    ("TIFF pages", "PNG"): "a single page expected for PNG, found 3; choose TIFF",
    ("TIFF RGB float", "PNG"): "uint8 or uint16 expected for PNG, found float32; choose TIFF",
    ("OME-TIFF pyramid", "npy"): "pages of one size and kind expected for npy",
}


@pytest.mark.parametrize(("name", "target"), REFUSED)
def test_what_a_format_cannot_hold_is_refused(tmp_path: Path, name: str, target: str) -> None:
    source = make(name, tmp_path)
    destination = tmp_path / ("out" + output_suffix(source, target))
    with open_image(source) as file:
        reason = refusal(file, target)
        assert reason is not None
        assert REFUSED[name, target] in reason
        with pytest.raises(ImageError, match="expected for") as caught:
            write_image(destination, file, never(), format=target)
    assert str(caught.value) == f"{source}: {reason}"
    assert not destination.exists()


def never():
    raise AssertionError("refused by the header alone")
    yield


def test_wide_images_are_refused_where_sides_are_limited(tmp_path: Path) -> None:
    (tmp_path / "in.npy").write_bytes(npy(np.zeros((1, 16384), np.uint8)))
    with open_image(tmp_path / "in.npy") as file:
        assert refusal(file, "WebP") == "at most 16383 pixels a side expected for WebP, found 16384"
        assert refusal(file, "JPEG") is None


def test_premultiplied_colours_stay_in_a_tiff(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "in.tif", pixels("RGBA"), photometric="RGB", extrasamples=["ASSOCALPHA"]
    )
    with open_image(tmp_path / "in.tif") as file:
        assert "not premultiplied expected" in str(refusal(file, "PNG"))
        assert refusal(file) is None


def test_exif_that_is_too_long_for_a_jpeg(tmp_path: Path) -> None:
    photo().save(tmp_path / "in.png", exif=b"Exif\0\0" + bytes(70000))
    with pytest.raises(ImageError, match="cannot be written as JPEG: EXIF data is too long"):
        convert(tmp_path / "in.png", "JPEG")


# Names and results


def test_names_and_formats() -> None:
    names = ["a.png", "b.JPG", "c.jpeg", "d.tar.Tif", "e.tiff", "f.WebP", "g.bmp", "h.npy"]
    found = [format_of(Path(name)) for name in names]
    assert found == ["PNG", "JPEG", "JPEG", "TIFF", "TIFF", "WebP", "BMP", "npy"]
    assert [format_of(name) for name in ("i.gif", "png", ".png")] == [None, None, None]
    assert output_suffix("b.JPG") == output_suffix(Path("b.JPG"), "jpeg") == ".JPG"
    assert [output_suffix("a.x", name) for name in FORMATS] == [
        ".png", ".jpg", ".tif", ".webp", ".bmp", ".npy",
    ]  # fmt: skip
    with pytest.raises(InvalidValue, match=r"a format of PNG, JPEG, .* expected, got gif"):
        output_suffix("a.png", "gif")


def test_a_destination_of_another_name_is_refused(tmp_path: Path) -> None:
    with open_image(PHOTO) as file:
        for name, format in (("a.png", None), ("a.jpg", "PNG"), ("a", "PNG")):
            with pytest.raises(ImageError, match=f"{name}: a name that ends in"):
                write_image(tmp_path / name, file, never(), format=format)


def write(path: Path, file: ImageFile, results: list[np.ndarray]) -> None:
    write_image(path, file, results)


@pytest.mark.parametrize("name", ["TIFF pages", "npy (N, H, W, 1)"])
def test_results_must_fit_their_pages(tmp_path: Path, name: str) -> None:
    source = make(name, tmp_path)
    out = tmp_path / ("out" + source.suffix)
    with open_image(source) as file:
        good = [page.raster()[:, :] for page in file.pages]
        for wrong, kind, message in (
            (good[:2], ShapeError, "result 3 of 3: one result for each page expected"),
            ([*good, good[0]], ShapeError, "3 results expected, one for each page, got more"),
            ([good[0][1:], *good[1:]], ShapeError, r"shape \(45, 61, 1\) expected, got \(44"),
            ([good[0].astype(np.uint8), *good[1:]], InvalidType, "expected, got uint8"),
        ):
            with pytest.raises(kind, match=message):
                write(out, file, wrong)
            assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("name", ["PNG RGB", "TIFF RGB 16", "npy (H, W)", "BMP RGB"])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch, name: str, step: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source = make(name, tmp_path)
    out = tmp_path / ("out" + source.suffix)
    out.write_bytes(b"old")
    with open_image(source) as file:
        results = [file.pages[0].raster()[:, :]]
        monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), full)
        with pytest.raises(OSError, match="No space left"):
            write(out, file, results)
    assert out.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == [source, out]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"old")
    (tmp_path / "a.png").symlink_to(tmp_path / "elsewhere")
    save_pixels(tmp_path / "a.png", np.zeros((2, 2, 1), np.uint8))
    assert (tmp_path / "elsewhere").read_bytes() == b"old"
    assert not (tmp_path / "a.png").is_symlink()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".bmp", ".npy"])
def test_plain_arrays(tmp_path: Path, suffix: str) -> None:
    save_pixels(tmp_path / f"a{suffix}", pixels())
    np.testing.assert_array_equal(read_pixels(tmp_path / f"a{suffix}"), pixels())
    with pytest.raises(ShapeError, match=r"shape \(H, W, 1\) or \(H, W, 3\) expected"):
        save_pixels(tmp_path / f"b{suffix}", pixels("L"))
    with pytest.raises(ImageError, match="a name that ends in"):
        save_pixels(tmp_path / "b.gif", pixels())
    if suffix in (".png", ".bmp", ".webp"):
        with pytest.raises(ImageError, match="found float32; choose TIFF"):
            save_pixels(tmp_path / f"b{suffix}", pixels("RGB", "float32"))


def test_a_stack_is_no_plain_array(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="a single page expected, found 3"):
        read_pixels(make("TIFF pages", tmp_path))
