"""Full photographs, before and after: with the noise that the run learned, or as they are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from n2n.data import parse_noise
from n2n.data.noise import NoiseModel, Subsample
from n2n.data.photographs import decode
from n2n.denoiser import denoise_pixels
from n2n.errors import InvalidValue, N2NError
from n2n.files import digest_of
from n2n.models import Network
from n2n.report.blocks import Absent, Columns
from n2n.report.page import Block, Section
from n2n.report.pictures import Slider, embed, shrink
from n2n.report.run.reading import Pixels, Run

__all__ = ["PHOTOS", "section"]

PHOTOS = Path("data/photos")  # of a clone, where no folder is named
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}
MOST = 4
LONGEST = 1024  # pixels a side
SMALLER = 4  # how much so what is made by picking pixels: the noise is larger, the wider it picks


@dataclass(frozen=True)
class Tried:
    """A photograph, noisy and denoised; gain: its PSNR before and after, where it can be known."""

    name: str
    noisy: Pixels
    denoised: Pixels
    gain: tuple[float, float] | None
    is_seen: bool


def section(run: Run, folder: Path | None) -> Section:
    """A slider for each of some photographs. InvalidValue for a named folder that is none."""
    if folder is not None and not folder.is_dir():
        raise InvalidValue(f"{folder}: expected a folder of photographs; there is none")
    noise = _noise(run)
    lead = (
        f"Left of the line with the noise that it was trained on ({noise.spec}), right of it "
        "denoised. Drag the line, or use the arrow keys."
        if noise is not None
        else "Left of the line as the file is, right of it denoised. Drag the line, or use the "
        "arrow keys."
    )
    place = folder or PHOTOS
    blocks: list[Block] = []
    if run.network is None:
        blocks.append(Absent("No photographs:", run.reasons["network"]))
    elif not place.is_dir():
        blocks.append(Absent("No photographs:", "name a folder of them by --photos."))
    else:
        blocks += _sliders(run, run.network, place, noise)
    return Section("photographs", "Before and after", blocks, lead)


def _noise(run: Run) -> NoiseModel | None:
    """What the model file says of it; None for noise that is real or unknown."""
    try:
        return parse_noise(str(run.model["noise"])) if run.model.get("noise") else None
    except InvalidValue:
        return None


def _sliders(run: Run, network: Network, folder: Path, noise: NoiseModel | None) -> list[Block]:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        return [Absent("No photographs:", f"{folder} holds none.")]
    seen = _seen(run, found)
    chosen = sorted(found, key=lambda path: (path in seen, path))[:MOST]
    blocks: list[Block] = []
    sliders: list[Block] = []
    for number, path in enumerate(chosen):
        try:
            pixels = decode(path.read_bytes(), grey=network.channels == 1)
            tried = _try(network, path, pixels, noise, number, is_seen=path in seen)
        except (N2NError, OSError, ValueError, SyntaxError) as error:
            blocks.append(Absent(f"{path.name} is not shown:", " ".join(str(error).split())))
        else:
            sliders.append(_slider(tried))
    return [*([Columns(sliders)] if sliders else []), *blocks]


def _seen(run: Run, paths: Sequence[Path]) -> set[Path]:
    """Those that the training pairs were made of."""
    drawn = run.stream["photographs"] if run.stream is not None else []
    made = run.pairs.train.sources if run.pairs is not None else ()
    digests = {digest for _, digest in (*drawn, *made)}
    return {path for path in paths if digest_of(path) in digests}


def _try(
    network: Network,
    path: Path,
    pixels: Pixels,
    noise: NoiseModel | None,
    number: int,
    *,
    is_seen: bool,
) -> Tried:
    random = np.random.default_rng([0, number])
    if isinstance(noise, Subsample):  # which makes a photograph smaller
        side = min(*pixels.shape[:2], SMALLER * LONGEST) // SMALLER
        noisy, clean = (
            image[0].transpose(1, 2, 0) for image in _subsample(noise, pixels, side, random)
        )
    else:
        clean = shrink(pixels, LONGEST)
        noisy = clean
        if noise is not None:
            noisy = noise.views(clean.transpose(2, 0, 1)[None], random)[0][0].transpose(1, 2, 0)
    noisy = np.ascontiguousarray(noisy)
    denoised = denoise_pixels(network, noisy)
    gain = None if noise is None else (_psnr(noisy, clean), _psnr(denoised, clean))
    return Tried(path.name, noisy, denoised, gain, is_seen)


def _subsample(
    noise: Subsample, pixels: Pixels, side: int, random: np.random.Generator
) -> tuple[Pixels, Pixels]:
    first, _, clean = noise.sample((pixels,), 1, side, random)
    return first, clean


def _slider(tried: Tried) -> Slider:
    notes = []
    if tried.gain is not None:
        notes.append("{:.2f} dB before, {:.2f} dB after.".format(*tried.gain))
    notes.append("It was seen in training." if tried.is_seen else "")
    before = embed(tried.noisy, f"{tried.name}, noisy", lossless=False)
    after = embed(tried.denoised, f"{tried.name}, denoised", lossless=False)
    names = ("noisy", "denoised") if tried.gain is not None else ("as it is", "denoised")
    return Slider(tried.name, before, after, names, " ".join(filter(None, notes)))


def _psnr(pixels: Pixels, clean: Pixels) -> float:
    error = float(np.mean((pixels.astype(np.float64) - clean) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf
