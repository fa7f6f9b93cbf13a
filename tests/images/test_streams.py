"""TIFF and npy: windows, strips and tiles, what lies where, and memory that stays bounded."""

import io
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from n2n.errors import ImageError
from n2n.images import open_image, refusal, write_image

from .fidelity import complement, pictures, rewrite
from .samples import SAMPLES, npy, pixels, tiff

LAZY = [name for name in SAMPLES if "TIFF" in name or "npy" in name or "ImageJ" in name]


def make(name: str, folder: Path) -> Path:
    path = folder / f"in{SAMPLES[name].suffix}"
    path.write_bytes(SAMPLES[name].make())
    return path


@pytest.fixture(scope="module")
def lazy_files(tmp_path_factory) -> dict[str, Path]:
    return {name: make(name, tmp_path_factory.mktemp("lazy")) for name in LAZY}


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(LAZY),
    top=st.integers(0, 44),
    left=st.integers(0, 60),
    height=st.integers(1, 45),
    width=st.integers(1, 61),
    max_bytes=st.sampled_from([1, 700, 2000]),
)
def test_a_window_is_what_the_whole_has_there(
    lazy_files, name: str, top: int, left: int, height: int, width: int, max_bytes: int
) -> None:
    with open_image(lazy_files[name]) as file:
        for page in file.pages:
            raster, whole = page.raster(max_bytes=max_bytes), page.raster()
            assert (raster.shape, raster.dtype) == (page.shape, page.dtype)
            part = slice(top, top + height), slice(left, left + width)
            np.testing.assert_array_equal(raster[part], whole[part])


@pytest.mark.parametrize("name", LAZY)
def test_results_on_disk_are_written_as_those_in_memory(tmp_path: Path, name: str) -> None:
    """Rasters that decode what they are asked for serve as results, too."""
    source = make(name, tmp_path)
    out, expected = tmp_path / f"out{source.suffix}", tmp_path / f"expected{source.suffix}"
    rewrite(source, expected, complement)
    with open_image(expected) as results, open_image(source) as file:
        write_image(out, file, (page.raster(max_bytes=1) for page in results.pages))
    if SAMPLES[name].palette or "JPEG" in name:
        return
    assert out.read_bytes() == expected.read_bytes()


def test_an_unchanged_tiff_without_compression_is_the_same_file(tmp_path: Path) -> None:
    for name in ("TIFF RGB", "TIFF big-endian float", "ImageJ stack", "TIFF with EXIF"):
        source = make(name, tmp_path)
        rewrite(source, tmp_path / "out.tif", np.copy)
        assert (tmp_path / "out.tif").read_bytes() == source.read_bytes(), name


def test_a_smooth_result_makes_the_file_no_longer(tmp_path: Path) -> None:
    """New strips go where the old ones were, so that nothing is left over."""
    for name in ("TIFF RGB 16", "TIFF RGBA tiles", "TIFF grey float"):
        source = make(name, tmp_path)
        rewrite(source, tmp_path / "out.tif", np.zeros_like)
        size = (tmp_path / "out.tif").stat().st_size
        assert size <= source.stat().st_size, name
        if name == "TIFF grey float":  # its pixels lie at its end
            assert size < source.stat().st_size / 3


def test_strips_that_grow_go_behind_the_end(tmp_path: Path) -> None:
    """Also where the table of places holds 16 bits, which the new places exceed."""
    flat = np.zeros((300, 400), np.uint8)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, flat, compression="lzw", rowsperstrip=20, metadata=None)
    (tmp_path / "in.tif").write_bytes(buffer.getvalue())
    with tifffile.TiffFile(tmp_path / "in.tif", mode="r+") as file:
        for code in (273, 279):
            tag = file.pages[0].tags[code]
            tag.overwrite(tag.value, dtype="H")
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 1), np.uint8)
    with open_image(tmp_path / "in.tif") as file:
        write_image(tmp_path / "out.tif", file, [noise])
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), noise[..., 0])
    found = cv2.imread(str(tmp_path / "out.tif"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(found, noise[..., 0])


def test_pages_that_share_their_pixels_come_apart(tmp_path: Path) -> None:
    """Two directories, one strip: each result needs room of its own."""
    content = bytearray(tiff("L", pages=2))
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        first, second = (page.tags[273] for page in file.pages)
    content[second.valueoffset : second.valueoffset + 4] = struct.pack("<I", first.value[0])
    (tmp_path / "in.tif").write_bytes(content)
    results = [pixels("L")[..., None], 255 - pixels("L")[..., None]]
    with open_image(tmp_path / "in.tif") as file:
        write_image(tmp_path / "out.tif", file, results)
    for found, expected in zip(pictures(tmp_path / "out.tif"), results, strict=True):
        np.testing.assert_array_equal(found, expected[..., 0])


def test_several_greys_are_a_page_each(tmp_path: Path) -> None:
    stack = np.stack([pixels("L", "uint16") // n for n in range(1, 6)], axis=-1)
    for planes in ("CONTIG", "SEPARATE"):
        array = stack if planes == "CONTIG" else np.moveaxis(stack, -1, 0)
        tifffile.imwrite(tmp_path / "in.tif", array, photometric="MINISBLACK", planarconfig=planes)
        with open_image(tmp_path / "in.tif") as file:
            assert [page.shape for page in file.pages] == [(45, 61, 1)] * 5
            results = [complement(page.raster()[:, :]) for page in file.pages]
            write_image(tmp_path / "out.tif", file, results)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), complement(array))


def test_one_further_sample_of_a_colour_stays(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "in.tif", pixels("RGBA"), photometric="RGB", extrasamples=["UNSPECIFIED"]
    )
    rewrite(tmp_path / "in.tif", tmp_path / "out.tif", complement)
    found = tifffile.imread(tmp_path / "out.tif")
    np.testing.assert_array_equal(found[..., 3], pixels("RGBA")[..., 3])
    np.testing.assert_array_equal(found[..., :3], 255 - pixels("RGBA")[..., :3])
    with open_image(tmp_path / "in.tif") as file:
        assert "no more samples than colours and alpha" in str(refusal(file, "PNG"))


def test_a_palette_becomes_rgb_in_place(tmp_path: Path) -> None:
    source = make("TIFF palette", tmp_path)
    rewrite(source, tmp_path / "out.tif", complement)
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        page = file.pages[0]
        assert (page.photometric.name, page.samplesperpixel, page.bitspersample) == ("RGB", 3, 8)
        assert page.colormap is None
        assert page.tags[65123].value == "a private tag"
    np.testing.assert_array_equal(pictures(tmp_path / "out.tif")[0], 255 - pictures(source)[0])


def test_imagej_intensities_keep_their_colouring(tmp_path: Path) -> None:
    source = make("ImageJ colours", tmp_path)
    with open_image(source) as file:
        assert file.pages[0].shape == (45, 61, 1)
    rewrite(source, tmp_path / "out.tif", complement)
    with tifffile.TiffFile(source) as before, tifffile.TiffFile(tmp_path / "out.tif") as after:
        np.testing.assert_array_equal(after.pages[0].colormap, before.pages[0].colormap)
        np.testing.assert_array_equal(after.asarray(), 255 - before.asarray())


def test_white_is_zero_is_turned_over(tmp_path: Path) -> None:
    source = make("TIFF 0 is white", tmp_path)
    with open_image(source) as file:
        np.testing.assert_array_equal(file.pages[0].raster()[:, :][..., 0], 255 - pixels("L"))


def test_jpeg_strips_that_did_not_change_stay_as_they_are(tmp_path: Path) -> None:
    source = make("TIFF JPEG", tmp_path)
    with open_image(source) as file:
        result = file.pages[0].raster()[:, :].copy()
        result[20:, :] //= 2
        write_image(tmp_path / "out.tif", file, [result])
    before, after = pictures(source)[0], pictures(tmp_path / "out.tif")[0]
    np.testing.assert_array_equal(after[:16], before[:16])
    assert np.abs(after[20:].astype(int) - result[20:]).mean() < 6
    np.testing.assert_allclose(tifffile.imread(tmp_path / "out.tif"), after, atol=2)


def test_compressions_of_unknown_loss_are_converted_only(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "in.tif", pixels(), compression="jpeg2000", photometric="RGB")
    with open_image(tmp_path / "in.tif") as file:
        assert "found JPEG2000" in str(refusal(file)).replace("JPEG_2000", "JPEG2000")
        assert refusal(file, "PNG") is None
        with pytest.raises(ImageError, match="convert it to another format"):
            write_image(tmp_path / "out.tif", file, [file.pages[0].raster()])


def test_libtiff_reads_what_was_written(tmp_path: Path) -> None:
    """A second reader, of every kind of layout that it knows."""
    for name in LAZY:
        if "npy" in name or "float16" in name or "ImageJ" in name or "palette" in name:
            continue
        source = make(name, tmp_path)
        rewrite(source, tmp_path / "out.tif", complement)
        found = pictures(tmp_path / "out.tif")[0]
        with tifffile.TiffFile(tmp_path / "out.tif") as file:
            expected = file.pages[0].asarray()
            if file.pages[0].planarconfig == 2:
                expected = np.moveaxis(expected, 0, -1)
        tolerance = 2 if "JPEG" in name else 0
        np.testing.assert_allclose(found, expected, atol=tolerance, err_msg=name)


def test_ten_thousand_pages_open_by_their_headers(tmp_path: Path) -> None:
    stack = np.zeros((10_000, 8, 8), np.uint8)
    tifffile.imwrite(tmp_path / "in.tif", stack, metadata=None, photometric="MINISBLACK")
    with open_image(tmp_path / "in.tif") as file:
        assert len(file.pages) == 10_000
        assert file.pages[9_999].raster().shape == (8, 8, 1)


def test_a_file_that_was_cut_after_it_was_opened(tmp_path: Path) -> None:
    for name in ("TIFF RGB", "TIFF RGB 16", "npy (H, W)"):
        source = make(name, tmp_path)
        with open_image(source) as file:
            source.write_bytes(source.read_bytes()[:1000])
            with pytest.raises(ImageError, match=r"truncated or damaged"):
                file.pages[0].raster()


MEASURE = """
import sys
from pathlib import Path
from n2n.images import open_image, write_image

def resident():
    return int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])

source, out = map(Path, sys.argv[1:])
with open_image(source) as file:
    write_image(out, file, [file.pages[0].raster(max_bytes=1 << 20)])
base = resident()
big = source.with_name('big' + source.suffix)
with open_image(big) as file:
    raster = file.pages[0].raster(max_bytes=8 << 20)
    for top in range(0, raster.shape[0], 256):
        for left in range(0, raster.shape[1], 256):
            raster[top:top + 256, left:left + 256]
    write_image(out, file, [raster])
print((resident() - base) / 1024)
"""


@pytest.mark.parametrize("kind", ["raw", "strips", "tiles", "npy", "Fortran"])
def test_memory_is_bounded_whatever_the_size(tmp_path: Path, kind: str) -> None:
    """64 MB of pixels are read and written in less than 32 MB beyond those of a small image."""
    generator = np.random.default_rng(0)
    block = generator.integers(0, 50, (512, 4096), np.uint16)
    array = np.tile(block, (16, 1))  # (8192, 4096), 64 MB
    suffix = ".npy" if kind in ("npy", "Fortran") else ".tif"
    options = {
        "raw": {},
        "strips": {"compression": "zlib", "rowsperstrip": 16},
        "tiles": {"compression": "lzw", "tile": (256, 256)},
    }.get(kind, {})
    for name, part in (("small", array[:512, :512]), ("big", array)):
        path = tmp_path / (name + suffix)
        if suffix == ".npy":
            np.save(path, np.asfortranarray(part) if kind == "Fortran" else part)
        else:
            tifffile.imwrite(path, part, metadata=None, **options)
    out = tmp_path / f"out{suffix}"
    command = [sys.executable, "-c", MEASURE, tmp_path / f"small{suffix}", out]
    grown = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown < 32
    again = np.load(out) if suffix == ".npy" else tifffile.imread(out)
    np.testing.assert_array_equal(again, array)


def test_npy_files_keep_their_header_to_the_byte(tmp_path: Path) -> None:
    for array in (np.asfortranarray(pixels()), pixels("L", "uint16").astype(">u2")):
        content = npy(array)
        (tmp_path / "in.npy").write_bytes(content)
        rewrite(tmp_path / "in.npy", tmp_path / "out.npy", np.copy)
        assert (tmp_path / "out.npy").read_bytes() == content


def test_floats_beyond_sixteen_bits_become_the_largest(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.zeros((1, 2), np.float16))
    with open_image(tmp_path / "in.npy") as file:
        result = np.array([[[1e6], [-1e6]]], np.float32)
        write_image(tmp_path / "out.npy", file, [result])
    assert np.load(tmp_path / "out.npy").tolist() == [[65504, -65504]]
