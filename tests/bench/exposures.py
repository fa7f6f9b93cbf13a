"""Two noisy exposures of each photograph of a folder, as 8-bit PNGs.

    python tests/bench/exposures.py PHOTOS OUT --noise gaussian:25 [--count 20]

OUT/first and OUT/second differ in their noise alone; OUT/clean has the photographs themselves. To
see what `n2n train --single` and `n2n adapt` make of the first alone, and what two would give.
"""

from pathlib import Path

import click
import numpy as np
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
@click.option("--seed", default=0, help="Of the noise.")
def main(photos: Path, out: Path, noise: str, count: int | None, seed: int) -> None:
    """Write two noisy exposures of each photograph in PHOTOS to OUT."""
    model = parse_noise(noise)
    Protocol(model)  # refuses a noise that changes an image's size
    chosen, _ = clean_images(photos)
    if count is not None:
        chosen = [chosen[i * len(chosen) // count] for i in range(min(count, len(chosen)))]
    for number, photograph in enumerate(chosen):
        clean = read_pixels(photograph, grey=False)  # (H, W, C)
        rng = np.random.default_rng([seed, number])
        views = model.views(clean.transpose(2, 0, 1)[None], rng)  # (1, C, H, W) each
        images = [view[0].transpose(1, 2, 0) for view in views] + [clean]
        for folder, image in zip(FOLDERS, images, strict=True):
            path = out / folder / f"{number:05d}-{Path(photograph.name).stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(image)).save(path)
    click.echo(f"{out}: {len(chosen)} scenes, noise {model.spec}")


if __name__ == "__main__":
    main()
