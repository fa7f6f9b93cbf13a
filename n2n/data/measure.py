"""Numbers for each row of a pair set, a row group at a time, over the cores.

Memory grows by some dozens of bytes a row. Axes: N rows, C H W an image.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from n2n.data import faults
from n2n.data.parallel import Progress, run_all
from n2n.data.split import Split

__all__ = ["Rows", "measure", "measure_group", "whole_parts"]

UInt8: TypeAlias = NDArray[np.uint8]
UInt64: TypeAlias = NDArray[np.uint64]
Float64: TypeAlias = NDArray[np.float64]
Bool: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """Measurements of some rows; `join` puts those of several row groups one after another.

    All are (N,) or (N, k) but for `gain_sums`, which sums over the rows.
    """

    difference: Float64  # (N, 2): Σ(x - y) and Σ(x - y)² over an image
    error: Float64  # mean (x - c)²; NaN without clean
    hashes: UInt64  # (N, 3): of input, target, clean; 0 without clean
    constant: Bool  # input or target has one colour
    plain: Bool  # constant, or clean so nearly that two crops may look the same
    identical: Bool  # input equals target
    noise_free: Bool  # and both equal clean
    offset: Float64  # mean of x - y, of the channel where it is surest
    offset_z: Float64
    shift: NDArray[np.int64]  # (N, 2): by which y lies displaced, and how sure
    shift_z: Float64
    gain_sums: Float64  # (3, K): rows, Σ and Σ² of the gain by each shift
    shared: Float64  # (N, 3): with clean: Σt, √Σt², energy of `faults.clean_correlation`
    white: Float64  # (N, 4): without: `faults.whiteness`

    @staticmethod
    def join(groups: Sequence["Rows"]) -> "Rows":
        values: dict[str, Any] = {}
        for field in fields(Rows):
            arrays = [getattr(group, field.name) for group in groups]
            summed = field.name == "gain_sums"
            values[field.name] = np.sum(arrays, axis=0) if summed else np.concatenate(arrays)
        return Rows(**values)


def measure(split: Split, *, workers: int, progress: Progress | None) -> Rows:
    """Measure every row of a split."""
    jobs = [(_alone(split, part), group) for part, group, _ in split.groups]
    label = f"checking {split.name}"
    return Rows.join(list(run_all(_measure, jobs, workers=workers, label=label, progress=progress)))


def whole_parts(split: Split, *, workers: int, progress: Progress | None) -> list[bool]:
    """Of each part: are its rows the ones that its metadata's digest was made of?"""
    jobs = [_alone(split, part) for part in range(len(split.parts))]
    label = f"digesting {split.name}"
    return list(run_all(_is_whole, jobs, workers=workers, label=label, progress=progress))


def measure_group(x: UInt8, y: UInt8, clean: UInt8 | None) -> Rows:
    """Measure some rows.   x, y, clean: uint8 (N, C, H, W)."""
    difference = x.astype(np.float32) - y
    per_channel, z = faults.mean_offsets(difference)
    surest = np.abs(z).argmax(1)[:, None]
    x_flat, y_flat = faults.is_constant(x), faults.is_constant(y)
    identical = (x == y).all((1, 2, 3))
    none = np.zeros(len(x), np.uint64)
    fields_of_clean: dict[str, Any] = {
        "error": np.full(len(x), np.nan),
        "noise_free": np.zeros(len(x), bool),
        "plain": x_flat | y_flat,
    }
    if clean is not None:
        noise = x.astype(np.float32) - clean
        error = np.einsum("nchw,nchw->n", noise, noise, dtype=np.float64) / noise[0].size
        levels = clean.reshape(*clean.shape[:2], -1)
        fields_of_clean = {
            "error": error,
            "noise_free": identical & (error == 0),
            "plain": x_flat | y_flat | (np.ptp(levels, axis=2) <= 2).all(1),
        }
    return Rows(
        difference=np.stack(
            [
                difference.sum((1, 2, 3), dtype=np.float64),
                np.einsum("nchw,nchw->n", difference, difference, dtype=np.float64),
            ],
            axis=1,
        ),
        hashes=np.stack([_hash(x), _hash(y), none if clean is None else _hash(clean)], axis=1),
        constant=x_flat | y_flat,
        identical=identical,
        offset=np.take_along_axis(per_channel, surest, 1)[:, 0],
        offset_z=np.take_along_axis(z, surest, 1)[:, 0],
        **fields_of_clean,
        **_patterns(x, y, clean),
    )


def _patterns(x: UInt8, y: UInt8, clean: UInt8 | None) -> dict[str, Any]:
    """What needs neighbours: shifts and correlation; nothing for very small images."""
    count = len(x)
    values: dict[str, Any] = {
        "shift": np.zeros((count, 2), np.int64),
        "shift_z": np.zeros(count),
        "gain_sums": np.zeros((3, 1)),
        "shared": np.zeros((count, 3)),
        "white": np.zeros((count, 4)),
    }
    if min(x.shape[2:]) < faults.LEAST_SIDE:
        return values
    grey_x, grey_y = faults.grey(x), faults.grey(y)
    moved = faults.shifts(grey_x, grey_y)
    gain = np.clip(moved.gain, -10, 1)
    rows = np.full(gain.shape[1], float(count))
    values["shift"], values["shift_z"] = moved.best, moved.z
    values["gain_sums"] = np.stack([rows, gain.sum(0), (gain**2).sum(0)])
    if clean is None:
        values["white"] = np.stack(faults.whiteness(grey_x, grey_y), axis=1)
    else:
        noise_x, noise_y = faults.noise_without_bias(x, y, clean)
        values["shared"] = np.stack(faults.clean_correlation(noise_x, noise_y), axis=1)
    return values


def _measure(job: tuple[Split, int]) -> Rows:
    split, group = job
    columns = ("input", "target", "clean") if split.has_clean else ("input", "target")
    values = split.read_groups([group], columns)
    return measure_group(values["input"], values["target"], values.get("clean"))


def _is_whole(part: Split) -> bool:
    return part.compute_digest() == part.parts[0][1].rows_sha256


def _alone(split: Split, part: int) -> Split:
    """One part as a split of its own, without the list of sources: small to send to a worker."""
    path, info = split.parts[part]
    return Split([(path, replace(info, provenance=replace(info.provenance, sources=())))])


def _hash(images: UInt8) -> UInt64:
    digests = b"".join(hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in images)
    return np.frombuffer(digests, np.uint64)
