"""Scores of a network on pairs: against the clean images where they are known, else estimated."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from n2n.data import Split
from n2n.data.batches import Pixels
from n2n.errors import ShapeError
from n2n.metrics import PooledEstimate, PooledPSNR, PooledTruncated, mse, psnr, ssim
from n2n.models import Network

if TYPE_CHECKING:
    from n2n.peers import Peers

__all__ = [
    "Scores",
    "Tally",
    "batches_of",
    "evaluate",
    "read_group",
    "require_fit",
    "tally_batch",
    "tally_batches",
    "tally_groups",
    "to_float",
]

BATCH = 250  # images at once, at most
PIXELS = 1 << 18  # of them together: 256 images of 32x32
MEANS = ("mse", "psnr", "ssim", "input_psnr")  # against the clean images, of each image


@dataclass(frozen=True)
class Scores:
    """Of predictions clamped to [0, 1]; None is what the pairs cannot tell.

    mse, psnr, ssim: mean over the images, against `clean`; psnr_pooled, from the mean of all
    squared errors. input_psnr: of the noisy input. loss: mean squared error against the target.
    estimated_psnr: clean PSNR, pooled, from the noisy pairs alone, and estimated_mse, which is by
    chance zero or below where the error is small; sigma: noise of one view, on the scale [0, 1].
    truncated_loss: mean of min(|error|, 0.1) against the target, where it was asked for.
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
    truncated_loss: float | None = None

    @property
    def selection(self) -> float:
        """What to choose a model by, higher is better: the squared error, negated.

        Against the clean images, else estimated, else against the target. It ranks models as the
        pooled PSNR does, and is always there: a PSNR is not for images that come out exactly.
        Where there are no clean images, and impulses or letters mislead a squared error, the
        truncated one.
        """
        for error in (self.mse, self.truncated_loss, self.estimated_mse):
            if error is not None:
                return -error
        return -self.loss

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON, which can say neither inf (the PSNR of equal images) nor nan: None.

        A truncated loss that nobody asked for is left out.
        """
        found = asdict(self)
        if self.truncated_loss is None:
            del found["truncated_loss"]
        return {
            name: value if value is not None and math.isfinite(value) else None
            for name, value in found.items()
        }


def evaluate(
    network: Network,
    split: Split,
    *,
    device: torch.device | str = "cpu",
    peers: "Peers | None" = None,
    robust: bool = False,
) -> Scores:
    """Score the network on every pair of a split, a batch at a time.

    Puts the network into inference mode and leaves it there. ShapeError if it does not fit.
    peers: share the batches out; every process calls this, and has the scores of all.
    robust: with the truncated loss.
    """
    whole, batches = Tally.of(split, robust=robust), batches_of(split)
    mine = batches if peers is None else batches[peers.rank :: peers.size]
    part = tally_batches(network, split, mine, device=device, robust=robust)
    if peers is None:
        return part.scores()
    whole.merge_numbers(peers.add_up_numbers(part.numbers))
    return whole.scores()


def tally_groups(
    network: Network, split: Split, groups: Iterable[int], *, device: torch.device | str = "cpu"
) -> "Tally":
    """The sums over some row groups, as `tally_batches`."""
    return tally_batches(network, split, batches_of(split, groups), device=device)


def tally_batches(
    network: Network,
    split: Split,
    batches: Iterable[tuple[int, int]],
    *,
    device: torch.device | str = "cpu",
    robust: bool = False,
) -> "Tally":
    """The sums over some batches, merged in their order; others merge them with those over the
    rest of the split.

    Puts the network into inference mode and leaves it there. ShapeError if it does not fit.
    """
    require_fit(network, split)
    network.eval()
    tally = Tally.of(split, robust=robust)
    for group, together in groupby(batches, key=itemgetter(0)):
        columns = read_group(split, group)
        for _, first in together:
            tally.merge(tally_batch(network, split, columns, first, device=device, robust=robust))
    return tally


def batches_of(split: Split, groups: Iterable[int] | None = None) -> list[tuple[int, int]]:
    """In what a split, or some of its row groups, is scored: of each batch the row group, and its
    first row in it."""
    numbers = range(len(split.groups)) if groups is None else groups
    step = _batch_rows(split)
    return [
        (number, first) for number in numbers for first in range(0, split.groups[number][2], step)
    ]


def read_group(split: Split, group: int) -> dict[str, NDArray[np.uint8]]:
    """The columns of a row group that its scores rest on: uint8 (n, C, H, W) each."""
    names = ("input", "target", "clean") if split.has_clean else ("input", "target")
    return split.read_groups([group], names)


def tally_batch(
    network: Network,
    split: Split,
    columns: Mapping[str, NDArray[np.uint8]],
    first: int,
    *,
    device: torch.device | str = "cpu",
    robust: bool = False,
) -> "Tally":
    """The sums over the batch from row `first` of a row group on, for a network that fits and is
    in inference mode."""
    rows = slice(first, first + _batch_rows(split))
    part = {name: to_float(column[rows], device) for name, column in columns.items()}
    tally = Tally.of(split, robust=robust)
    tally.add(network, part["input"], part["target"], part.get("clean"))
    return tally


def _batch_rows(split: Split) -> int:
    """Fewer of larger images, since their activations are in memory together."""
    return max(1, min(BATCH, PIXELS // math.prod(split.shape[1:])))


def require_fit(network: Network, split: Split) -> None:
    """ShapeError unless the network takes the split's images."""
    channels, *size = split.shape
    if channels != network.channels or any(side % network.multiple for side in size):
        raise ShapeError(
            f"the network {network.name} takes {network.channels} channels and sizes that are "
            f"multiples of {network.multiple}, the set has images of shape {split.shape}"
        )


def to_float(pixels: Pixels, device: torch.device | str = "cpu") -> Tensor:
    """(N, C, H, W), uint8 or float32 in 0 to 255, to float32 in [0, 1] on the device."""
    pixels = pixels if pixels.flags.writeable else pixels.copy()
    found = torch.from_numpy(pixels).to(device)
    return found.div(255) if found.is_floating_point() else found.to(torch.float32).div_(255)


class Tally:
    """Sums over the batches of a split, or of a part of it. It travels between processes."""

    @classmethod
    def of(cls, split: Split, *, robust: bool = False) -> "Tally":
        """Of nothing yet, for what the split can tell."""
        return cls(noisy=split.target == "noisy", clean=split.has_clean, robust=robust)

    def __init__(self, *, noisy: bool, clean: bool, robust: bool = False) -> None:
        self.estimate = PooledEstimate() if noisy else None
        self.pooled = PooledPSNR() if clean else None
        self.truncated = PooledTruncated() if robust else None
        self.loss = PooledPSNR()
        self.sums: dict[str, float] = {}
        self.images = 0

    def add(self, network: Network, x: Tensor, y: Tensor, clean: Tensor | None) -> None:
        denoised = network(x).clamp(0, 1)
        self.images += len(x)
        self.loss.add(denoised, y)
        if self.truncated is not None:
            self.truncated.add(denoised, y)
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
        self.merge_numbers(other.numbers)

    @property
    def numbers(self) -> list[float]:
        """All sums, as many for every part of a split: to be added up elsewhere."""
        sums = [number for part in self._pooled for number in part.sums]
        return [self.images, *sums, *(self.sums.get(name, 0.0) for name in MEANS)]

    def merge_numbers(self, numbers: Sequence[float]) -> None:
        """Add the `numbers` of other parts, added up, to a tally of the same split."""
        images, *rest = numbers
        self.images += int(images)
        for part in self._pooled:
            count = len(part.sums)
            part.merge_sums(rest[:count])
            rest = rest[count:]
        if self.pooled is not None:
            for name, total in zip(MEANS, rest, strict=True):
                self.sums[name] = self.sums.get(name, 0.0) + total

    @property
    def _pooled(self) -> "list[PooledPSNR | PooledEstimate | PooledTruncated]":
        pooled = (self.loss, self.truncated, self.estimate, self.pooled)
        return [part for part in pooled if part is not None]

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
            truncated_loss=self.truncated.mean if self.truncated is not None else None,
            **means,
        )
