"""Two noisy exposures of each photograph of a folder, as 8-bit PNGs.

    python tests/bench/exposures.py PHOTOS OUT --noise gaussian:25 [--count 20] [--crop 256]

OUT/first and OUT/second differ in their noise alone; OUT/clean has the photographs themselves. To
see what `n2n train --single` and `n2n adapt` make of the first alone, and what two would give; and
with `n2n evaluate MODEL OUT/clean`, what denoisers make of crops small enough for slow ones.
"""

from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from n2n.data import parse_noise
from n2n.data.photographs import read_pixels
from n2n.protocol import Protocol, clean_images

FOLDERS = ("first", "second", "clean")


@click.command()
@click.argument("photos", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--noise", default="gaussian:25", help="As of n2n data build, but not subsample.")
@click.option("--count", type=int, help="So many photographs alone, spread over the folder.")
@click.option("--crop", type=int, help="So many pixels a side from the middle, of those as large.")
@click.option("--seed", default=0, help="Of the noise.")
def main(
    photos: Path, out: Path, noise: str, count: int | None, crop: int | None, seed: int
) -> None:
    """Write two noisy exposures of each photograph in PHOTOS to OUT."""
    model = parse_noise(noise)
    Protocol(model)  # refuses a noise that changes an image's size
    chosen, _ = clean_images(photos)
    if crop is not None:
        chosen = [one for one in chosen if min(one.width, one.height) >= crop]
    if count is not None:
        chosen = [chosen[i * len(chosen) // count] for i in range(min(count, len(chosen)))]
    for number, photograph in enumerate(chosen):
        clean = _middle(read_pixels(photograph, grey=False), crop)  # (H, W, C)
        rng = np.random.default_rng([seed, number])
        views = model.views(clean.transpose(2, 0, 1)[None], rng)  # (1, C, H, W) each
        images = [view[0].transpose(1, 2, 0) for view in views] + [clean]
        for folder, image in zip(FOLDERS, images, strict=True):
            path = out / folder / f"{number:05d}-{Path(photograph.name).stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(image)).save(path)
    click.echo(f"{out}: {len(chosen)} scenes, noise {model.spec}")


def _middle(pixels: NDArray[np.uint8], side: int | None) -> NDArray[np.uint8]:
    """(H, W, C) or the (side, side, C) in its middle."""
    if side is None:
        return pixels
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


if __name__ == "__main__":
    main()
