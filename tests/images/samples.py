"""One small image of every kind that n2n reads, with metadata, made without n2n."""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import tifffile
from numpy.typing import NDArray
from PIL import ImageCms, PngImagePlugin

PHOTO = Path(__file__).parents[2] / "data/photos/clock.jpg"
SIZE = (61, 45)  # W, H: neither a multiple of a tile, nor of eight
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>\xc3\xa9</x:xmpmeta>"
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ICC_GREY = ICC[:16] + b"GRAY" + ICC[20:]
DPI = (300.0, 300.0)
ORIENTATION = 6  # turned by a quarter

Array = NDArray[Any]


def photo(mode: str = "RGB") -> PIL.Image.Image:
    """A small photograph; its alpha, if any, is a ramp from transparent to opaque."""
    with PIL.Image.open(PHOTO) as image:
        small = image.resize(SIZE)
    if mode.endswith("A"):
        small.putalpha(PIL.Image.linear_gradient("L").resize(SIZE))
    return small.convert(mode)


def pixels(mode: str = "RGB", dtype: str = "uint8") -> Array:
    """The same as an array (H, W) or (H, W, C); more than 8 bits use their low bits."""
    array = np.asarray(photo(mode))
    if dtype == "uint16":
        noise = np.random.default_rng(1).integers(0, 256, array.shape, np.uint16)
        return array.astype(np.uint16) << 8 | noise
    if dtype.startswith("float"):
        return (array / np.float32(255) * 1.5 - 0.25).astype(dtype)
    return array


def exif() -> PIL.Image.Exif:
    """Camera, orientation, exposure, place."""
    result = PIL.Image.Exif()
    result[0x0112] = ORIENTATION
    result[0x010F] = "Maker"
    result.get_ifd(0x8769)[0x829A] = 0.008
    result.get_ifd(0x8769)[0x927C] = b"a maker's note"
    result.get_ifd(0x8825)[1] = "N"
    return result


EXIF = exif().tobytes()


def chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *before: bytes) -> bytes:
    """A PNG of rows that each begin with a zero for the filter."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = [chunk(b"IHDR", header), *before, chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*body, chunk(b"IEND", b"")])


def icc(mode: str) -> bytes:
    """A profile that a reader accepts beside pixels of that mode."""
    return ICC_GREY if mode in ("L", "LA", "1") else ICC


def png_chunks(mode: str = "RGB") -> list[bytes]:
    """EXIF, ICC, XMP, resolution, a text, as Pillow writes them."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "by night")
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    info.add(b"tIME", struct.pack(">HBBBBB", 2024, 2, 29, 12, 0, 0))
    buffer = io.BytesIO()
    PIL.Image.new("L", (1, 1)).save(
        buffer, "PNG", pnginfo=info, exif=EXIF, icc_profile=icc(mode), dpi=DPI
    )
    data, at, found = buffer.getvalue(), 8, []
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in (b"IHDR", b"IDAT", b"IEND"):
            found.append(data[at : at + 12 + length])
        at += 12 + length
    return found


def few_bits(depth: int) -> bytes:
    """A grey PNG of 1, 2 or 4 bits."""
    grey = pixels("L") >> (8 - depth)
    bits = (grey[..., None] >> np.arange(depth - 1, -1, -1, dtype=np.uint8)) & 1
    packed = np.packbits(bits.reshape(len(grey), -1), axis=1)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    return png(*SIZE, depth, 0, rows, *png_chunks("L"))


def deep(mode: str, *before: bytes) -> bytes:
    """A PNG of 16 bits."""
    array = pixels(mode, "uint16")
    colour = {"L": 0, "RGB": 2, "LA": 4, "RGBA": 6}[mode]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    return png(*SIZE, 16, colour, rows, *png_chunks(mode), *before)


def keyed() -> bytes:
    """An RGB PNG with a transparent colour."""
    array = pixels()
    key = struct.pack(">HHH", *array[3, 5])
    rows = b"".join(b"\0" + row.tobytes() for row in array)
    return png(*SIZE, 8, 2, rows, *png_chunks(), chunk(b"tRNS", key))


def pillow(mode: str, format: str, **options: Any) -> bytes:
    """Written by Pillow with metadata."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    metadata: dict[str, Any] = {"exif": EXIF, "icc_profile": icc(mode), "dpi": DPI}
    metadata |= {"pnginfo": info} if format == "PNG" else {"xmp": XMP}
    image = photo("RGB").quantize(200) if mode == "P" else photo(mode)
    buffer = io.BytesIO()
    image.save(buffer, format, **((metadata if format != "BMP" else {"dpi": DPI}) | options))
    return buffer.getvalue()


def tiff(mode: str = "RGB", dtype: str = "uint8", *, pages: int = 1, **options: Any) -> bytes:
    """Written by tifffile, with the tags of the metadata on each page."""
    array = pixels(mode, dtype)
    big = options.pop("bigtiff", False)
    order = options.pop("byteorder", "<")
    if options.get("planarconfig") == "SEPARATE":
        array = np.moveaxis(array, -1, 0)
    options.setdefault("photometric", "RGB" if mode.startswith("RGB") else "MINISBLACK")
    if mode.endswith("A"):
        options.setdefault("extrasamples", ["UNASSALPHA"])
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, bigtiff=big, byteorder=order) as file:
        for number in range(pages):
            file.write(
                array[..., ::-1].copy() if number == 1 and array.ndim == 2 else array,
                metadata=None,
                description=f"page {number}",
                resolution=DPI,
                iccprofile=icc(mode),
                extratags=[
                    (274, 3, 1, ORIENTATION, True),
                    (700, 1, len(XMP), XMP, True),
                    (65123, 2, 0, "a private tag", True),
                ],
                **options,
            )
    return buffer.getvalue()


def tiff_with_exif(**options: Any) -> bytes:
    """Written by libtiff through Pillow, which knows EXIF in a TIFF."""
    tags = exif()
    for code in () if options else (0x8769, 0x8825):  # libtiff's compressions exclude them
        tags[code] = tags.get_ifd(code)
    tags[700] = XMP
    buffer = io.BytesIO()
    photo().save(buffer, "TIFF", exif=tags, icc_profile=ICC, dpi=DPI, **options)
    return buffer.getvalue()


def imagej(**options: Any) -> bytes:
    """A stack with ImageJ's metadata."""
    stack = np.stack([pixels("L", "uint16") // (1 + n) for n in range(4)])
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        stack,
        imagej=True,
        resolution=(2.5, 2.5),
        metadata={"axes": "ZYX", "spacing": 3.5, "unit": "um", "Labels": ["a", "b", "c", "d"]},
        **options,
    )
    return buffer.getvalue()


def imagej_lut() -> bytes:
    """Intensities that ImageJ shows in colours."""
    ramp = np.arange(256, dtype=np.uint16) * 257
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        pixels("L"),
        imagej=False,
        photometric="PALETTE",
        colormap=np.stack([ramp, ramp // 2, ramp * 0]),
        metadata=None,
        description="ImageJ=1.54f\nmin=0.0\nmax=255.0\n",
    )
    return buffer.getvalue()


def ome(**options: Any) -> bytes:
    """OME-TIFF of two channels and three depths, with a pyramid."""
    stack = np.stack(
        [np.stack([pixels("L", "uint16") // (1 + z + c) for z in range(3)]) for c in (0, 1)]
    )
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, ome=True) as file:
        metadata = {"axes": "CZYX", "PhysicalSizeX": 0.25, "Channel": {"Name": ["one", "two"]}}
        file.write(
            stack, subifds=1, metadata=metadata, tile=(32, 32), compression="zlib", **options
        )
        file.write(stack[..., ::2, ::2], subfiletype=1, tile=(16, 16), compression="zlib")
    return buffer.getvalue()


def npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def bmp_of(image: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "BMP", dpi=DPI)
    return buffer.getvalue()


def bmp_v5() -> bytes:
    """32 bits with alpha and an ICC profile, rows from the top."""
    bgra = np.ascontiguousarray(np.asarray(photo("RGBA"))[..., [2, 1, 0, 3]])
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack(
        "<IiiHHIIiiII", 124, SIZE[0], -SIZE[1], 1, 32, 3, bgra.nbytes, 11811, 11811, 0, 0
    )
    info += struct.pack("<IIII", *masks) + b"DEBM" + bytes(36 + 12)
    info += struct.pack("<IIII", 4, 124 + bgra.nbytes, len(ICC), 0)
    start = struct.pack("<2sIHHI", b"BM", 138 + bgra.nbytes + len(ICC), 0, 0, 138)
    return start + info + bgra.tobytes() + ICC


@dataclass(frozen=True)
class Sample:
    """One kind of image. holds: what the file carries; loses: whether its coding is lossy."""

    suffix: str
    make: Callable[[], bytes]
    holds: frozenset[str] = field(default_factory=frozenset)
    loses: bool = False
    palette: bool = False  # results that differ come out in colour


ALL = frozenset({"EXIF", "orientation", "ICC", "XMP", "DPI"})
TAGS = frozenset({"orientation", "ICC", "XMP", "DPI"})
BMP = frozenset({"DPI"})


def _png(make: Callable[[], bytes], **options: Any) -> Sample:
    return Sample(".png", make, ALL, **options)


def _tiff(mode: str = "RGB", dtype: str = "uint8", loses: bool = False, **options: Any) -> Sample:
    return Sample(".tif", lambda: tiff(mode, dtype, **options), TAGS, loses)


LUT = np.random.default_rng(2).integers(0, 65536, (3, 256)).astype(np.uint16) // 257 * 257
PREDICT: dict[str, Any] = {"predictor": True, "rowsperstrip": 16}

SAMPLES: dict[str, Sample] = {
    "PNG grey": _png(lambda: pillow("L", "PNG")),
    "PNG grey+alpha": _png(lambda: pillow("LA", "PNG")),
    "PNG RGB": _png(lambda: pillow("RGB", "PNG")),
    "PNG RGBA": _png(lambda: pillow("RGBA", "PNG")),
    "PNG grey 16": _png(lambda: deep("L")),
    "PNG grey+alpha 16": _png(lambda: deep("LA")),
    "PNG RGB 16": _png(lambda: deep("RGB")),
    "PNG RGBA 16": _png(lambda: deep("RGBA")),
    "PNG grey 1": _png(lambda: few_bits(1), palette=True),
    "PNG grey 2": _png(lambda: few_bits(2), palette=True),
    "PNG grey 4": _png(lambda: few_bits(4), palette=True),
    "PNG palette": _png(lambda: pillow("P", "PNG"), palette=True),
    "PNG palette 4": _png(lambda: pillow("P", "PNG", bits=4), palette=True),
    "PNG palette, alpha": _png(
        lambda: pillow("P", "PNG", transparency=bytes(range(0, 200))), palette=True
    ),
    "PNG transparent colour": _png(keyed, palette=True),
    "PNG transparent grey 16": _png(
        lambda: deep("L", chunk(b"tRNS", pixels("L", "uint16")[3, 5].astype(">u2").tobytes())),
        palette=True,
    ),
    "JPEG grey": Sample(".jpg", lambda: pillow("L", "JPEG", quality=83), ALL, True),
    "JPEG 4:4:4": Sample(".jpg", lambda: pillow("RGB", "JPEG", subsampling=0), ALL, True),
    "JPEG 4:2:0": Sample(".jpeg", lambda: pillow("RGB", "JPEG", subsampling=2), ALL, True),
    "JPEG progressive": Sample(".jpg", lambda: pillow("RGB", "JPEG", progressive=True), ALL, True),
    "JPEG RGB inside": Sample(
        ".jpg", lambda: pillow("RGB", "JPEG", keep_rgb=True, dpi=(0, 0)), ALL, True
    ),
    "WebP lossless": Sample(".webp", lambda: pillow("RGB", "WEBP", lossless=True), ALL - {"DPI"}),
    "WebP lossless, alpha": Sample(
        ".webp", lambda: pillow("RGBA", "WEBP", lossless=True, exact=True), ALL - {"DPI"}
    ),
    "WebP lossy": Sample(".webp", lambda: pillow("RGB", "WEBP", quality=80), ALL - {"DPI"}, True),
    "WebP lossy, alpha": Sample(
        ".webp", lambda: pillow("RGBA", "WEBP", quality=80), ALL - {"DPI"}, True
    ),
    "BMP RGB": Sample(".bmp", lambda: pillow("RGB", "BMP"), BMP),
    "BMP grey": Sample(".bmp", lambda: pillow("L", "BMP"), BMP),
    "BMP palette": Sample(".bmp", lambda: pillow("P", "BMP"), BMP, palette=True),
    "BMP 1 bit": Sample(".bmp", lambda: bmp_of(photo("1")), BMP, palette=True),
    "BMP RGBA, ICC": Sample(".bmp", bmp_v5, BMP | {"ICC"}),
    "TIFF grey": _tiff("L"),
    "TIFF RGB": _tiff(),
    "TIFF RGBA": _tiff("RGBA", compression="zlib"),
    "TIFF grey 16": _tiff("L", "uint16", compression="lzw", **PREDICT),
    "TIFF RGB 16": _tiff("RGB", "uint16", compression="zlib", **PREDICT),
    "TIFF grey float": _tiff("L", "float32", compression="zlib", predictor=3, rowsperstrip=8),
    "TIFF RGB float": _tiff("RGB", "float32", compression="zlib", **PREDICT),
    "TIFF float16": _tiff("RGB", "float16", compression="zstd", rowsperstrip=8),
    "TIFF 0 is white": _tiff("L", photometric="MINISWHITE"),
    "TIFF big-endian": _tiff("RGB", "uint16", byteorder=">", compression="lzw", **PREDICT),
    "TIFF big-endian float": _tiff("L", "float32", byteorder=">", rowsperstrip=7),
    "TIFF planes": _tiff("RGB", planarconfig="SEPARATE", compression="zlib", rowsperstrip=8),
    "TIFF planes, alpha": _tiff("RGBA", "uint16", planarconfig="SEPARATE", tile=(16, 32)),
    "TIFF tiles": _tiff("RGB", tile=(16, 16)),
    "TIFF RGBA tiles": _tiff("RGBA", "uint16", tile=(32, 16), compression="zlib", predictor=2),
    "TIFF packbits": _tiff("L", compression="packbits", rowsperstrip=8),
    "TIFF LZMA": _tiff("L", compression="lzma"),
    "TIFF JPEG": _tiff(loses=True, compression="jpeg", rowsperstrip=16),
    "TIFF JPEG tiles grey": _tiff("L", loses=True, compression="jpeg", tile=(16, 16)),
    "TIFF palette": Sample(
        ".tif", lambda: tiff("L", photometric="PALETTE", colormap=LUT), TAGS, palette=True
    ),
    "TIFF pages": _tiff("L", "uint16", pages=3, compression="zlib"),
    "BigTIFF pages": _tiff("RGB", pages=2, bigtiff=True, compression="lzw"),
    "TIFF with EXIF": Sample(".tiff", tiff_with_exif, ALL),
    "TIFF LZW of libtiff": Sample(".tiff", lambda: tiff_with_exif(compression="tiff_lzw"), TAGS),
    "ImageJ stack": Sample(".tif", imagej, frozenset({"DPI"})),
    "ImageJ, one directory": Sample(".tif", lambda: imagej(truncate=True), frozenset({"DPI"})),
    "ImageJ colours": Sample(".tif", imagej_lut),
    "OME-TIFF pyramid": Sample(".tif", ome),
    "npy (H, W)": Sample(".npy", lambda: npy(pixels("L", "uint16"))),
    "npy (H, W, 3)": Sample(".npy", lambda: npy(pixels())),
    "npy (N, H, W, 1)": Sample(
        ".npy", lambda: npy(np.stack([pixels("L", "float32")[..., None]] * 3))
    ),
    "npy float16": Sample(".npy", lambda: npy(pixels("RGB", "float16"))),
    "npy big-endian": Sample(".npy", lambda: npy(pixels("L", "uint16").astype(">u2"))),
    "npy Fortran": Sample(
        ".npy", lambda: npy(np.asfortranarray(np.stack([pixels("RGB", "float32")] * 2)))
    ),
}
