"""Denoisers side by side on clean images of any sizes, under one protocol.

To each image noise of a known kind is added, drawn from a seed and the image alone, so that it is
the same whatever the order, the other images and the number of workers. Every denoiser gets that
image, in float and not clipped; what it gives is rounded to 8 bits, and scored.

Legend: H rows, W columns, C channels.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from n2n.checkpoint import load_model
from n2n.classical import CLASSICAL
from n2n.data import NoiseModel, Subsample
from n2n.data import photographs as files
from n2n.data.photographs import Photograph, Skipped
from n2n.device import choose_device, set_threads, use_precision
from n2n.errors import ImageError, InvalidValue, ModelFileError, is_out_of_memory
from n2n.files import digest_of
from n2n.inference import denoise
from n2n.metrics import psnr, ssim
from n2n.scoring import Candidate
from n2n.shipped import locate

__all__ = [
    "NOISY",
    "Contest",
    "ContestConfig",
    "ImageOutcome",
    "Protocol",
    "Score",
    "clean_images",
    "look_at_model",
    "require_peers",
]

NOISY = "noisy"  # the name under which the noisy image itself is scored
WARM = 32  # pixels a side of what a denoiser is tried on before it is timed
Pixels = NDArray[np.uint8]
Image = NDArray[np.float32]


@dataclass(frozen=True)
class Protocol:
    """Which noise is added to which clean image, and how.

    noise: None: none. clip: cut what lies beyond [0, 1] off and round to 8 bits, as a file would.
    grey: take all images as grey; one whose channels are equal is grey anyway.
    """

    noise: NoiseModel | None
    clip: bool = False
    grey: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.noise, Subsample):
            raise InvalidValue(
                "expected a noise that keeps an image's size, such as gaussian:25; found subsample"
            )
        if not 0 <= self.seed < 2**63:
            raise InvalidValue(f"seed must be from 0 to 2^63 - 1; found {self.seed}")

    def read(self, photograph: Photograph) -> Pixels:
        """The clean image (H, W, C), C 1 or 3. ImageError if it is no longer what it was."""
        pixels = files.read_pixels(photograph, grey=self.grey)
        is_grey = (pixels == pixels[:, :, :1]).all()
        return pixels[:, :, :1] if is_grey else pixels

    def noisy(self, clean: Pixels, photograph: Photograph) -> tuple[Image, float]:
        """The noisy image on the scale [0, 1], and the σ of its noise: the root of the mean
        square of what was added, before clipping."""
        if self.noise is None:
            return _to_unit(clean), 0.0
        rng = np.random.default_rng([self.seed, int(photograph.sha256[:16], 16)])
        planes = clean.transpose(2, 0, 1)[None]  # (1, C, H, W)
        noisy = self.noise.unclipped(planes, rng)[0].astype(np.float32)
        sigma = math.sqrt(float(((noisy - planes) ** 2).mean(dtype=np.float64))) / 255
        image = _to_unit(np.ascontiguousarray(noisy[0].transpose(1, 2, 0)))
        return _rounded(image) if self.clip else image, sigma


@dataclass(frozen=True)
class Score:
    """Of one denoiser on one image. psnr: dB, inf for an exact result; seconds: to denoise it."""

    psnr: float
    ssim: float
    seconds: float


@dataclass(frozen=True)
class ImageOutcome:
    """The scores on an image by the denoisers' names, or why there are none."""

    item: Photograph
    sigma: float = 0.0
    channels: int = 0
    scores: dict[str, Score] = field(default_factory=dict)
    reason: str = ""

    @property
    def megapixels(self) -> float:
        return self.item.width * self.item.height / 1e6


@dataclass(frozen=True)
class ContestConfig:
    """All that a worker needs to know; small, and can be pickled.

    peers: of `n2n.classical`. tta: models give the mean over the eight flips and turns of an image.
    """

    models: tuple[Candidate, ...]
    peers: tuple[str, ...]
    protocol: Protocol
    device: str = "cpu"
    precision: str = "fp32"
    threads: int | None = None
    tta: bool = False

    @property
    def names(self) -> list[str]:
        """Of all that is scored, in order."""
        return [NOISY, *(model.name for model in self.models), *self.peers]


class Contest:
    """Built once in each process: loads the models, then takes any number of images.

    ModelFileError and InvalidValue for a model, device or precision that cannot be used here.
    """

    def __init__(self, config: ContestConfig) -> None:
        self.protocol = config.protocol
        set_threads(config.threads)
        self._device = choose_device(config.device)
        self._dtype = use_precision(config.precision, self._device)
        self._tta = config.tta
        self._denoisers: dict[str, Callable[[Image, float], Image]] = {NOISY: _nothing}
        for model in config.models:
            self._denoisers[model.name] = self._open(model)
        self._denoisers |= {name: CLASSICAL[name] for name in config.peers}
        self._tried: set[tuple[str, int]] = set()

    def run(self, items: Sequence[Photograph]) -> Iterator[ImageOutcome]:
        """Each image's outcome, in their order."""
        for item in items:
            try:
                yield self._score(item)
            except ImageError as error:
                yield ImageOutcome(item, reason=str(error))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                yield ImageOutcome(item, reason="not enough memory; use fewer workers")

    def execute(self, bunches: Iterable[Sequence[Photograph]]) -> Iterator[ImageOutcome]:
        """All bunches, one after the other."""
        for bunch in bunches:
            yield from self.run(bunch)

    def _score(self, photograph: Photograph) -> ImageOutcome:
        clean = self.protocol.read(photograph)
        noisy, sigma = self.protocol.noisy(clean, photograph)
        reference = _planes(_to_unit(clean))
        scores = {}
        for name, denoiser in self._denoisers.items():
            self._try(name, denoiser, noisy, sigma)
            started = time.perf_counter()
            result = denoiser(noisy, sigma)
            seconds = time.perf_counter() - started
            rounded = _planes(_rounded(result))
            quality = float(psnr(rounded, reference)), float(ssim(rounded, reference))
            scores[name] = Score(*quality, seconds)
        return ImageOutcome(photograph, sigma, clean.shape[2], scores)

    def _try(
        self, name: str, denoiser: Callable[[Image, float], Image], noisy: Image, sigma: float
    ) -> None:
        """Once for grey and for colour, on a corner: imports and plans are not in the times."""
        kind = name, noisy.shape[2]
        if kind not in self._tried:
            self._tried.add(kind)
            denoiser(np.ascontiguousarray(noisy[:WARM, :WARM]), sigma)

    def _open(self, model: Candidate) -> Callable[[Image, float], Image]:
        path = locate(model.path)
        network, _ = load_model(path)
        if digest_of(path) != model.digest:
            raise ModelFileError(
                f"{model.name}: another model took its place meanwhile; run the same command again"
            )
        network.to(self._device).compute_in(self._dtype)

        def through(noisy: Image, sigma: float) -> Image:
            result = denoise(network, _planes(noisy), device=self._device, tta=self._tta)
            return np.asarray(result[0].permute(1, 2, 0).numpy())

        return through


def look_at_model(name: str) -> Candidate:
    """Find a model that takes grey or colour images. ModelFileError if it cannot be used."""
    path = locate(name)
    network, _ = load_model(path)
    if network.channels not in (1, 3):
        raise ModelFileError(
            f"{name}: a model for grey (1 channel) or colour (3) expected, found {network.channels}"
        )
    return Candidate.of(name, path)


def clean_images(folder: Path) -> tuple[list[Photograph], list[Skipped]]:
    """The images in a folder and below, in the order of their names, and what cannot be used.

    InvalidValue where there is none.
    """
    found = files.find(folder)
    root = folder.resolve()  # workers elsewhere have another current folder
    looked = [files.inspect(str(root / name), name, 1) for name in found.names]
    usable = [image for image in looked if isinstance(image, Photograph)]
    skipped = [*found.skipped, *(image for image in looked if isinstance(image, Skipped))]
    if not usable:
        why = f"; {skipped[0].name}: {skipped[0].reason}" if skipped else ""
        kinds = ", ".join(sorted(files.EXTENSIONS))
        raise InvalidValue(f"{folder}: expected clean images ({kinds}), found none{why}")
    return usable, skipped


def require_peers(names: Iterable[str]) -> None:
    """InvalidValue for a classical denoiser that there is not, or whose package is missing."""
    for name in names:
        if name not in CLASSICAL:
            raise InvalidValue(f"expected a peer among {', '.join(CLASSICAL)}, got {name!r}")
        if not CLASSICAL[name].is_available:
            raise InvalidValue(f"{name}: its package is not installed: {CLASSICAL[name].install}")


def _nothing(noisy: Image, sigma: float) -> Image:
    return noisy


def _to_unit(pixels: NDArray[Any]) -> Image:
    """0 to 255 → 0 to 1."""
    return pixels.astype(np.float32) / np.float32(255)


def _rounded(image: Image) -> Image:
    """To the nearest of the 256 levels from 0 to 1."""
    return _to_unit(np.clip(np.rint(image * 255), 0, 255))


def _planes(image: Image) -> Tensor:
    """(H, W, C) → (1, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
