"""The network beside its input and classical denoisers, on the same images by one protocol."""

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from n2n.classical import CLASSICAL, Classical
from n2n.data import Split
from n2n.evaluation import to_float
from n2n.inference import denoise
from n2n.metrics import mse, ssim
from n2n.models import Network
from n2n.report.blocks import Absent, Cell, Column, Table, Text
from n2n.report.page import Block, Section
from n2n.report.run.examination import reference_of
from n2n.report.run.reading import Pixels, Run, rows_of

__all__ = ["PEERS", "Interval", "interval", "section"]

Floats: TypeAlias = NDArray[np.float64]
Method: TypeAlias = Callable[[Pixels], Tensor]  # uint8 (N, C, H, W) to floats in [0, 1]
PEERS = ("nlm", "tv", "bayes")
MOST_IMAGES, MOST_PIXELS = 100, 1 << 20
RESAMPLES, CONFIDENCE = 2000, 95


@dataclass(frozen=True)
class Interval:
    """A number over images, and where it lies in 95 of 100 sets of as many images."""

    value: float
    low: float
    high: float

    def text(self, form: str) -> str:
        value, low, high = (form.format(number) for number in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


def interval(values: Floats, of_mean: Callable[[Floats], Floats] = lambda mean: mean) -> Interval:
    """Of a function of the mean of values (N,), by bootstrap over them, the same each time."""
    chosen = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    means = of_mean(values[chosen].mean(1))
    tail = (100 - CONFIDENCE) / 2
    low, high = np.nanpercentile(means, [tail, 100 - tail])
    return Interval(float(of_mean(values.mean(keepdims=True))[0]), float(low), float(high))


@dataclass(frozen=True)
class Trial:
    """What a method did to the images: its name, seconds, each image's errors and, where the clean
    images are known, SSIM."""

    name: str
    seconds: float | None
    errors: Floats
    ssim: Floats | None


def section(run: Run, *, peers: bool, threads: int) -> Section:
    """The table, the protocol, and what was left out."""
    lead = "The same images, the same measure, for the input, the network and classical denoisers."
    split = run.split
    if run.network is None or split is None:
        absent = Absent("No scores:", f"{run.missing()}; --set names another place of it.")
        return Section("scores", "How good it is", [absent], lead)
    pixels = split.shape[1] * split.shape[2]
    count = min(split.rows, MOST_IMAGES, max(1, MOST_PIXELS // pixels))
    rows = np.linspace(0, split.rows - 1, count).astype(int).tolist()
    columns = rows_of(split, rows)
    chosen, absent_peers = _peers(split.shape[0], wanted=peers)
    methods = [("noisy input", None), ("this network", _network(run.network))]
    methods += [(peer.title, _classical(peer)) for peer in chosen]
    trials = [_try(name, method, columns, split) for name, method in methods]
    blocks: list[Block] = [
        _table(trials, count * pixels / 1e6),
        Text(_protocol(split, count, threads)),
    ]
    return Section("scores", "How good it is", [*blocks, *absent_peers, *_own(run)], lead)


def _own(run: Run) -> Iterator[Block]:
    """What the run itself recorded of its best epoch, over all validation pairs."""
    names = {
        "psnr": "PSNR, mean over images [dB]",
        "psnr_pooled": "PSNR, pooled [dB]",
        "estimated_psnr": "PSNR, pooled, estimated from noisy pairs [dB]",
        "ssim": "SSIM",
        "input_psnr": "PSNR of the input [dB]",
        "images": "images",
    }
    scores = run.model.get("scores") or {}
    rows = [(text, scores[name]) for name, text in names.items() if scores.get(name) is not None]
    if rows:
        caption = f"Recorded by the run at epoch {run.best_epoch}, over all validation pairs"
        yield Table(caption, ["score", Column("value", "{:.4f}")], [_whole(row) for row in rows])


def _whole(row: tuple[str, float]) -> tuple[str, Cell]:
    name, value = row
    return name, f"{value:,}" if isinstance(value, int) else value


def _peers(channels: int, *, wanted: bool) -> tuple[list[Classical], list[Block]]:
    """The classical denoisers that can be used, and a word on those that cannot."""
    if not wanted:
        return [], [Absent("No classical denoisers:", "left out by --no-peers.")]
    if channels not in (1, 3):
        why = f"they take 1 or 3 channels, the images have {channels}."
        return [], [Absent("No classical denoisers:", why)]
    peers = [CLASSICAL[name] for name in PEERS]
    # All of them: σ is estimated with wavelets.
    if all(peer.is_available for peer in peers):
        return peers, []
    names = ", ".join(peer.title for peer in peers)
    return [], [Absent("Left out:", f"{names}. To compare with them: pip install 'n2n[peers]'.")]


def _network(network: Network) -> Method:
    device = network.param()[0][0].device
    return lambda pixels: denoise(network, to_float(pixels), device=device).clamp(0, 1)


def _classical(peer: Classical) -> Method:
    """One image after the other, each with the σ estimated from it alone."""
    from skimage.restoration import estimate_sigma

    def run(pixels: Pixels) -> Tensor:
        results = []
        for image in pixels.transpose(0, 2, 3, 1).astype(np.float32) / 255:
            with warnings.catch_warnings():  # of images so small that they look like channels
                warnings.simplefilter("ignore", UserWarning)
                sigma = float(estimate_sigma(image, channel_axis=-1, average_sigmas=True))
            results.append(peer(image, sigma) if sigma > 0 else image)
        stacked = np.stack(results).transpose(0, 3, 1, 2)
        return torch.from_numpy(np.ascontiguousarray(stacked)).clamp(0, 1)

    return run


def _try(name: str, method: Method | None, columns: dict[str, Pixels], split: Split) -> Trial:
    """What a method does to the images; None: they stay as they are."""
    x, y = columns["input"], columns["target"]
    reference = reference_of(split)
    run = method or to_float
    run(x[:1])  # what is loaded at first is not counted
    before = time.perf_counter()
    denoised = run(x)
    seconds = time.perf_counter() - before if method is not None else None
    if reference:
        clean = to_float(columns[reference])
        return Trial(name, seconds, mse(denoised, clean).numpy(), ssim(denoised, clean).numpy())
    there, back = to_float(x), to_float(y)
    errors = (mse(denoised, back) + mse(run(y), there) - mse(there, back)) / 2
    return Trial(name, seconds, errors.numpy(), None)


def _table(trials: list[Trial], megapixels: float) -> Table:
    known = trials[0].ssim is not None
    columns: list[Column | str] = ["method"]
    columns += (
        ["PSNR, mean over images [dB]", "gain over the input [dB]", "SSIM"]
        if known
        else ["PSNR, pooled, estimated [dB]"]
    )
    rows = [
        (
            trial.name,
            *(_known(trial, trials[0]) if known else [interval(trial.errors, _db).text("{:.2f}")]),
            None if trial.seconds is None else trial.seconds / megapixels,
        )
        for trial in trials
    ]
    columns.append(Column("seconds a megapixel", "{:.2f}"))
    return Table("Scores, with 95 % confidence intervals", columns, rows)


def _known(trial: Trial, base: Trial) -> Iterator[str | None]:
    """PSNR, gain and SSIM; images that come out exactly have no PSNR and are left out of it."""
    psnr, before = _db(trial.errors), _db(base.errors)
    finite = np.isfinite(psnr) & np.isfinite(before)
    if finite.any():
        yield interval(psnr[finite]).text("{:.2f}")
        yield interval((psnr - before)[finite]).text("{:+.2f}") if trial is not base else None
    else:
        yield from ("∞", None)
    yield interval(trial.ssim).text("{:.4f}") if trial.ssim is not None else None


def _db(errors: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return -10 * np.log10(errors)


def _protocol(split: Split, count: int, threads: int) -> str:
    known = reference_of(split) is not None
    measure = (
        "PSNR is that of each image over all its pixels and channels, peak 1, against the clean "
        "image, then the mean over images; SSIM as in Wang et al. 2004."
        if known
        else "No clean image is known: the PSNR is the pooled estimate from both noisy views, "
        "the same for all methods."
    )
    return (
        f"Protocol: {count:,} images of the {split.name} pairs, evenly spread, of "
        f"{split.shape[1]} × {split.shape[2]} pixels, 8 bits. Results are clamped to [0, 1] and "
        "not rounded. Nothing but the noisy image is given: classical denoisers take the σ that "
        "scikit-image's estimate_sigma finds in it, and strengths that are fixed multiples of it, "
        f"chosen on other photographs. {measure} Intervals: {CONFIDENCE} %, by bootstrap over "
        f"images, {RESAMPLES:,} resamples. Seconds: on this report's machine, by the clock, "
        f"{threads} thread{'s' if threads > 1 else ''} for the network; the network takes the "
        "images in batches, the others one by one."
    )
