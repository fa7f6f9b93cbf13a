"""PNG: every chunk beside the pixels is copied from the source as it is.

Kept: bit depth (1, 2, 4, 8, 16), palette, transparency in all its forms, EXIF, ICC, XMP, texts,
resolution, gamma, primaries, everything else in chunks that are safe to copy. Not kept:
interlacing, the strength of the compression, chunks that describe the compressed data.

Grey of 1, 2 or 4 bits, a palette, and a transparent colour come out as such if the result allows
it: only those greys, just those indices, transparent where it was. Otherwise as 8-bit grey, as
RGB, with alpha: denoised colours are none of the palette's. A palette image whose result is just
what was read comes out as the source's own bytes.
"""

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import PngImagePlugin

from n2n.errors import ImageError
from n2n.images.file import ImageFile, Metadata, check_size, damaged, resolution
from n2n.images.whole import Decoded, WholeFile

__all__ = ["PngFile", "encode", "open_png"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a colour type
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
OF_THE_MODE = {b"PLTE", b"tRNS", b"bKGD", b"sBIT", b"hIST"}  # mean nothing in another mode
# Chunks that are unsafe to copy by their names, but not when pixels keep their place and meaning.
KNOWN = {b"PLTE", b"tRNS", b"bKGD", b"sBIT", b"hIST", b"cHRM", b"gAMA", b"iCCP", b"sRGB", b"cICP"}
KNOWN |= {b"mDCV", b"cLLI", b"mDCv", b"cLLi", b"sPLT", b"tIME", b"sTER", b"oFFs", b"pCAL", b"sCAL"}
ANIMATION = {b"acTL", b"fcTL", b"fdAT"}
EXPANSION = 1032  # the most that deflate makes of a byte


@dataclass(frozen=True)
class Chunk:
    """content is None for a part of the image data, which is not read with the header."""

    kind: bytes
    content: bytes | None


class PngFile(WholeFile):
    """A PNG. Its header: width, height, depth in bits, colour type; and its chunks in order."""

    format = "PNG"

    def __init__(self, path: Path, chunks: list[Chunk]) -> None:
        header = chunks[0].content or b""
        self.width, self.height, self.depth, self.colour = struct.unpack(">IIBB", header[:10])
        self.chunks = chunks
        self._transparent = self.find(b"tRNS")
        self.has_alpha = self.colour in (GREY_ALPHA, RGB_ALPHA) or self._transparent is not None
        self.compares = self.colour == PALETTE
        channels = 1 if self.colour in (GREY, GREY_ALPHA) else 3
        dtype = np.uint16 if self.depth == 16 else np.uint8
        super().__init__(path, (self.height, self.width, channels), dtype)

    def find(self, kind: bytes) -> bytes | None:
        """The content of the first chunk of a kind."""
        return next((chunk.content for chunk in self.chunks if chunk.kind == kind), None)

    def metadata(self) -> Metadata:
        chunks = [c for c in self.chunks if c.content is not None and c.kind not in ANIMATION]
        with damaged(self.path, "PNG"):
            info = _open(_join([*chunks[:-1], Chunk(b"IDAT", b""), chunks[-1]])).info
        xmp = info.get("xmp")
        return Metadata(
            exif=(info.get("exif") or b"").removeprefix(b"Exif\0\0") or None,
            icc_profile=info.get("icc_profile") or None,
            xmp=xmp.encode() if isinstance(xmp, str) else xmp or None,
            dpi=resolution(info.get("dpi")),
        )

    def decode(self) -> Decoded:
        planes = self._planes()
        if self.colour == PALETTE:
            return self._through_palette(planes[..., 0])
        pixels = planes[..., : 1 if self.colour in (GREY, GREY_ALPHA) else 3]
        alpha = planes[..., -1] if self.colour in (GREY_ALPHA, RGB_ALPHA) else None
        if self._transparent is not None:
            opaque = (pixels != self._key()).any(axis=2)
            alpha = opaque * pixels.dtype.type(np.iinfo(pixels.dtype).max)
        return Decoded(pixels, alpha)

    def encode(self, pixels: NDArray[Any]) -> bytes:
        source = self.source()
        planes, depth, colour = pixels, self.depth, self.colour
        if colour == PALETTE:
            if self.is_unchanged(pixels):
                return self.path.read_bytes()
            depth, colour = 8, RGB
        elif depth < 8:
            factor = 255 // (2**depth - 1)
            few = pixels // factor
            if (few * factor == pixels).all():
                planes = few
            else:
                depth = 8
        if source.alpha is not None and not (
            depth == self.depth and self._is_key_kept(pixels, source.alpha)
        ):
            colour = GREY_ALPHA if pixels.shape[2] == 1 else RGB_ALPHA
            planes, depth = np.dstack([pixels, source.alpha]), max(depth, 8)
        return self._assemble(planes, depth, colour)

    def _assemble(self, planes: NDArray[Any], depth: int, colour: int) -> bytes:
        """The source's chunks around new image data."""
        header = struct.pack(">IIBBBBB", self.width, self.height, depth, colour, 0, 0, 0)
        left_out = OF_THE_MODE if (depth, colour) != (self.depth, self.colour) else set()
        data = encode_pixels(planes, depth)
        chunks = [Chunk(b"IHDR", header)]
        for chunk in self.chunks[1:]:
            if chunk.content is None:
                chunks += data
                data = []
            elif chunk.kind not in left_out and _is_kept(chunk.kind):
                chunks.append(chunk)
        return _join(chunks)

    def _planes(self) -> NDArray[Any]:
        """(H, W, channels in the file); greys of few bits as 8 bits, palettes as indices."""
        import imagecodecs

        with self.path.open("rb") as file:
            chunks = read_chunks(self.path, file, with_data=True)
        needed = {b"IHDR", b"IDAT", b"IEND"} | ({b"PLTE"} if self.colour == PALETTE else set())
        content = _join([chunk for chunk in chunks if chunk.kind in needed])
        if self.depth == 16:
            planes: NDArray[Any] = imagecodecs.png_decode(content)
        else:
            image = _open(content)
            image.load()
            planes = np.asarray(image)
            if planes.dtype == np.bool_:
                planes = planes * np.uint8(255)
        return planes.reshape(self.height, self.width, CHANNELS[self.colour])

    def _through_palette(self, indices: NDArray[np.uint8]) -> Decoded:
        colours = np.frombuffer(self.find(b"PLTE") or b"", np.uint8).reshape(-1, 3)
        if indices.max() >= len(colours):
            raise ValueError(f"{len(colours)} colours, and an index of {indices.max()}")
        alpha = None
        if self._transparent is not None:
            alphas = np.full(256, 255, np.uint8)
            alphas[: len(self._transparent)] = np.frombuffer(self._transparent, np.uint8)
            alpha = alphas[indices]
        return Decoded(colours[indices], alpha)

    def _is_key_kept(self, pixels: NDArray[Any], alpha: NDArray[Any]) -> bool:
        """Whether a transparent colour still stands for just the same pixels."""
        if self._transparent is None or self.colour == PALETTE:
            return False
        return bool(((pixels == self._key()).all(axis=2) == (alpha == 0)).all())

    def _key(self) -> NDArray[Any]:
        """The transparent colour, as in the pixels: (C,)."""
        values = np.frombuffer(self._transparent or b"", ">u2")
        if self.depth < 8:
            values = values * (255 // (2**self.depth - 1))
        return values.astype(self.pages[0].dtype)


def open_png(path: Path, file: BinaryIO) -> ImageFile:
    """Read the chunks but for the image data."""
    chunks = read_chunks(path, file, with_data=False)
    header = chunks[0].content or b""
    if chunks[0].kind != b"IHDR" or len(header) != 13:
        raise ValueError("no header")
    width, height, depth, colour, *_ = struct.unpack(">IIBBBBB", header)
    if depth not in DEPTHS.get(colour, ()):
        raise ValueError(f"{depth} bits with colour type {colour}")
    check_size(path, height, width)
    if any(chunk.kind in ANIMATION for chunk in chunks):
        raise ImageError(f"{path}: a still image expected, found an animation; take it apart first")
    result = PngFile(path, chunks)
    transparent = result.find(b"tRNS")
    if transparent is not None and colour != PALETTE and len(transparent) != 2 * CHANNELS[colour]:
        raise ValueError("a transparent colour of the wrong length")
    if transparent is not None and (colour in (GREY_ALPHA, RGB_ALPHA) or len(transparent) > 256):
        raise ValueError("a transparent colour beside alpha")
    rows = height * (width * depth * CHANNELS[colour] // 8 + 1)
    if rows > EXPANSION * file.seek(0, io.SEEK_END) + 4096:
        raise ImageError(
            f"{path}: a whole PNG expected, its header claims {width} × {height} pixels, more than "
            "the file can hold"
        )
    return result


def read_chunks(path: Path, file: BinaryIO, *, with_data: bool) -> list[Chunk]:
    """All chunks up to the end; ValueError for what is cut or fails its checksum."""
    end = file.seek(0, io.SEEK_END)
    file.seek(len(SIGNATURE))
    chunks: list[Chunk] = []
    while not chunks or chunks[-1].kind != b"IEND":
        start = file.read(8)
        if len(start) < 8:
            raise ValueError("it ends before its end mark")
        length, kind = int.from_bytes(start[:4], "big"), start[4:]
        if file.tell() + length + 4 > end:
            raise ValueError(f"it ends in a chunk {kind!r}")
        if kind == b"IDAT" and not with_data:
            file.seek(length + 4, io.SEEK_CUR)
            chunks.append(Chunk(kind, None))
            continue
        content = file.read(length)
        if zlib.crc32(kind + content) != int.from_bytes(file.read(4), "big"):
            raise ValueError(f"the checksum of a chunk {kind!r} does not fit")
        if not kind[0] & 32 and kind not in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            raise ValueError(f"a chunk {kind!r} that this program does not know")
        chunks.append(Chunk(kind, content))
    if not any(chunk.kind == b"IDAT" for chunk in chunks):
        raise ValueError("no image data")
    return chunks


def _is_kept(kind: bytes) -> bool:
    """By its name's fourth letter, whether a chunk still holds when the image data changed."""
    return kind in KNOWN or bool(kind[3] & 32) or kind == b"IEND"


def _join(chunks: list[Chunk]) -> bytes:
    parts = [SIGNATURE]
    for chunk in chunks:
        content = chunk.content or b""
        parts += [len(content).to_bytes(4, "big"), chunk.kind, content]
        parts.append(zlib.crc32(content, zlib.crc32(chunk.kind)).to_bytes(4, "big"))
    return b"".join(parts)


def _open(content: bytes) -> PIL.Image.Image:
    # Not by PIL.Image.open, whose limit of pixels is lower than ours, and global.
    return PngImagePlugin.PngImageFile(io.BytesIO(content))


def encode_pixels(planes: NDArray[Any], depth: int) -> list[Chunk]:
    """(H, W, channels) → the chunks of image data."""
    return [chunk for chunk in _chunks_of(_encode(planes, depth)) if chunk.kind == b"IDAT"]


def _encode(planes: NDArray[Any], depth: int) -> bytes:
    import imagecodecs

    planes = np.ascontiguousarray(planes[..., 0] if planes.shape[2] == 1 else planes)
    if depth == 16:
        return bytes(imagecodecs.png_encode(planes))
    buffer = io.BytesIO()
    image = PIL.Image.fromarray(planes)
    if depth < 8:  # Pillow packs bits for palettes alone; the rows are the same
        image = PIL.Image.frombytes("P", image.size, planes.tobytes())
        image.putpalette(bytes(3 * 2**depth))
        image.save(buffer, "PNG", bits=depth)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()


def _chunks_of(content: bytes) -> list[Chunk]:
    return read_chunks(Path(), io.BytesIO(content), with_data=True)


def encode(pixels: NDArray[Any], alpha: NDArray[Any] | None, metadata: Metadata) -> bytes:
    """A new PNG, of 8 or 16 bits."""
    planes = pixels if alpha is None else np.dstack([pixels, alpha])
    depth = 8 * planes.dtype.itemsize
    # Pillow writes the metadata, around one pixel; its image data is then replaced.
    options: dict[str, Any] = {"icc_profile": metadata.icc_profile, "exif": metadata.exif or b""}
    if metadata.xmp:
        options["pnginfo"] = PngImagePlugin.PngInfo()
        text = metadata.xmp.decode(errors="replace")
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", text)
    if metadata.dpi:
        options["dpi"] = metadata.dpi
    buffer = io.BytesIO()
    PIL.Image.new("L", (1, 1)).save(buffer, "PNG", **options)
    colour = {1: GREY, 2: GREY_ALPHA, 3: RGB, 4: RGB_ALPHA}[planes.shape[2]]
    size = planes.shape[1], planes.shape[0]
    result = [Chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))]
    for chunk in _chunks_of(buffer.getvalue())[1:]:
        result += encode_pixels(planes, depth) if chunk.kind == b"IDAT" else [chunk]
    return _join(result)
