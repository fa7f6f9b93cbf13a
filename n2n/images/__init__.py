"""Image files ↔ arrays, with all that must come out as it went in.

PNG, JPEG, TIFF, WebP, BMP and NumPy's `.npy`; each format's module says what it keeps, what it
does not, and what it refuses. In common: bit depth (8, 16, float), alpha, palette, EXIF and the
orientation in it (pixels are not turned), ICC profile, XMP, resolution.

    with open_image("in.tif") as file:
        write_image("out.tif", file, (denoise(page.raster()) for page in file.pages))

file        ImageFile, Page, Raster: what every format offers; whole: what is decoded at once
opening     format_of, open_image, output_suffix
convert     refusal, write_image; read_pixels and save_pixels for plain arrays
png, jpeg, webp, bmp, npy, tiff, with tiff_layout, tiff_segments, tiff_coding, tiff_exchange,
            tiff_entries, tiff_metadata, tiff_create
"""

from n2n.images.convert import read_pixels, refusal, save_pixels, write_image
from n2n.images.file import EAGER_BYTES, ImageFile, Metadata, Page, Raster
from n2n.images.opening import FORMATS, SUFFIXES, format_of, open_image, output_suffix

__all__ = [
    "EAGER_BYTES",
    "FORMATS",
    "SUFFIXES",
    "ImageFile",
    "Metadata",
    "Page",
    "Raster",
    "format_of",
    "open_image",
    "output_suffix",
    "read_pixels",
    "refusal",
    "save_pixels",
    "write_image",
]
