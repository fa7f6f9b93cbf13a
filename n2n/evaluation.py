"""Scores of a network on pairs: against the clean images where they are known, else estimated."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import isfinite

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from n2n.data import Split
from n2n.errors import ShapeError
from n2n.metrics import PooledEstimate, PooledPSNR, mse, psnr, ssim
from n2n.models import Network
from n2n.peers import Peers

__all__ = ["Scores", "Tally", "evaluate", "require_fit", "tally_groups", "to_float"]

BATCH = 250
MEANS = ("mse", "psnr", "ssim", "input_psnr")  # against the clean images, of each image


@dataclass(frozen=True)
class Scores:
    """Of predictions clamped to [0, 1]; None is what the pairs cannot tell.

    mse, psnr, ssim: mean over the images, against `clean`; psnr_pooled, from the mean of all
    squared errors. input_psnr: of the noisy input. loss: mean squared error against the target.
    estimated_psnr: clean PSNR, pooled, from the noisy pairs alone, and estimated_mse, which is by
    chance zero or below where the error is small; sigma: noise of one view, on the scale [0, 1].
    """

    images: int
    loss: float
    mse: float | None = None
    psnr: float | None = None
    psnr_pooled: float | None = None
    ssim: float | None = None
    input_psnr: float | None = None
    estimated_psnr: float | None = None
    estimated_mse: float | None = None
    sigma: float | None = None

    @property
    def selection(self) -> float:
        """What to choose a model by, higher is better: the squared error, negated.

        Against the clean images, else estimated, else against the target. It ranks models as the
        pooled PSNR does, and is always there: a PSNR is not for images that come out exactly.
        """
        for error in (self.mse, self.estimated_mse):
            if error is not None:
                return -error
        return -self.loss

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON, which can say neither inf (the PSNR of equal images) nor nan: None."""
        return {
            name: value if value is not None and isfinite(value) else None
            for name, value in asdict(self).items()
        }


def evaluate(
    network: Network,
    split: Split,
    *,
    device: torch.device | str = "cpu",
    peers: Peers | None = None,
) -> Scores:
    """Score the network on every pair of a split, some row groups at a time.

    Puts the network into inference mode and leaves it there. ShapeError if it does not fit.
    peers: share the row groups out; every process calls this, and has the scores of all.
    """
    groups = range(len(split.groups))
    if peers is None:
        return tally_groups(network, split, groups, device=device).scores()
    part = tally_groups(network, split, groups[peers.rank :: peers.size], device=device)
    whole = Tally(noisy=split.target == "noisy", clean=split.has_clean)
    whole.merge_numbers(peers.add_up_numbers(part.numbers))
    return whole.scores()


def tally_groups(
    network: Network, split: Split, groups: Iterable[int], *, device: torch.device | str = "cpu"
) -> "Tally":
    """The sums over some row groups, which others merge with those over the rest of the split.

    Puts the network into inference mode and leaves it there. ShapeError if it does not fit.
    """
    require_fit(network, split)
    network.eval()
    tally = Tally(noisy=split.target == "noisy", clean=split.has_clean)
    columns = ("input", "target", "clean") if split.has_clean else ("input", "target")
    for group in groups:
        arrays = split.read_groups([group], columns)
        for first in range(0, len(arrays["input"]), BATCH):
            part = {
                name: to_float(array[first : first + BATCH], device)
                for name, array in arrays.items()
            }
            tally.add(network, part["input"], part["target"], part.get("clean"))
    return tally


def require_fit(network: Network, split: Split) -> None:
    """ShapeError unless the network takes the split's images."""
    channels, *size = split.shape
    if channels != network.channels or any(side % network.multiple for side in size):
        raise ShapeError(
            f"the network {network.name} takes {network.channels} channels and sizes that are "
            f"multiples of {network.multiple}, the set has images of shape {split.shape}"
        )


def to_float(pixels: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """uint8 (N, C, H, W) to float32 in [0, 1] on the device."""
    pixels = pixels if pixels.flags.writeable else pixels.copy()
    return torch.from_numpy(pixels).to(device).to(torch.float32).div_(255)


class Tally:
    """Sums over the batches of a split, or of a part of it. It travels between processes."""

    def __init__(self, *, noisy: bool, clean: bool) -> None:
        self.estimate = PooledEstimate() if noisy else None
        self.pooled = PooledPSNR() if clean else None
        self.loss = PooledPSNR()
        self.sums: dict[str, float] = {}
        self.images = 0

    def add(self, network: Network, x: Tensor, y: Tensor, clean: Tensor | None) -> None:
        denoised = network(x).clamp(0, 1)
        self.images += len(x)
        self.loss.add(denoised, y)
        if self.estimate is not None:
            self.estimate.add(denoised, x, y, network(y).clamp(0, 1))
        if clean is not None and self.pooled is not None:
            self.pooled.add(denoised, clean)
            self._sum("mse", mse(denoised, clean))
            self._sum("psnr", psnr(denoised, clean))
            self._sum("ssim", ssim(denoised, clean))
            self._sum("input_psnr", psnr(x, clean))

    def merge(self, other: "Tally") -> None:
        """Add another part's sums."""
        self.images += other.images
        self.loss.merge(other.loss)
        if self.estimate is not None and other.estimate is not None:
            self.estimate.merge(other.estimate)
        if self.pooled is not None and other.pooled is not None:
            self.pooled.merge(other.pooled)
        for name, total in other.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + total

    @property
    def numbers(self) -> list[float]:
        """All sums, as many for every part of a split: to be added up elsewhere."""
        pooled = (self.loss, self.estimate, self.pooled)
        sums = [number for part in pooled if part is not None for number in part.sums]
        return [self.images, *sums, *(self.sums.get(name, 0.0) for name in MEANS)]

    def merge_numbers(self, numbers: Sequence[float]) -> None:
        """Add the `numbers` of other parts, added up, to a tally of the same split."""
        images, *rest = numbers
        self.images += int(images)
        for part in (self.loss, self.estimate, self.pooled):
            if part is not None:
                count = len(part.sums)
                part.merge_sums(rest[:count])
                rest = rest[count:]
        if self.pooled is not None:
            for name, total in zip(MEANS, rest, strict=True):
                self.sums[name] = self.sums.get(name, 0.0) + total

    def _sum(self, name: str, values: Tensor) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + float(values.sum())

    def scores(self) -> Scores:
        means = {name: total / self.images for name, total in self.sums.items()}
        estimate = self.estimate.estimate() if self.estimate is not None else None
        return Scores(
            images=self.images,
            loss=self.loss.mse,
            psnr_pooled=self.pooled.psnr if self.pooled is not None else None,
            estimated_psnr=estimate.psnr if estimate is not None else None,
            estimated_mse=estimate.mse if estimate is not None else None,
            sigma=estimate.sigma if estimate is not None else None,
            **means,
        )
