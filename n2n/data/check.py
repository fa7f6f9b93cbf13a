"""What is in a pair set, and what is wrong with it for Noise2Noise.

Noise2Noise needs two views of the same thing whose noise is independent and has the same mean.
A finding needs two things: too unlikely by chance (a z-score), and large enough to matter.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from n2n.data.measure import Rows, measure, whole_parts
from n2n.data.pairs import PairSet
from n2n.data.parallel import Progress
from n2n.data.split import Split

__all__ = ["Checked", "Finding", "SplitFigures", "check_set", "findings_of", "repeats"]

NAMED = 5  # rows named in a finding
Z_POOLED = 6.0
Z_SHIFT = 6.0  # of 48 shifts of each of some 100,000 rows
Z_OFFSET, LEAST_OFFSET = 8.0, 1.0  # of a row, 8-bit units
POOLED_OFFSET = 0.5
Z_SHARED, Z_SHARED_ALONE, LEAST_SHARED = 5.0, 7.0, 0.005
WHITE, WHITE_ROWS, WHITE_SHARED = 0.15, 16, 0.2
CONSTANT_SHARE = 0.005  # black sky under photon noise is constant, and harmless
NOISE_FREE_SHARE = 0.05


@dataclass(frozen=True)
class SplitFigures:
    """What a split holds. σ in 8-bit units; PSNR in dB, None where no clean image is known.

    `input_psnr` is the mean over images (those equal to their clean image left out),
    `input_psnr_pooled` that of the mean squared error over all of them.
    """

    name: str
    pairs: int
    target: str
    has_clean: bool
    sigma: float
    input_psnr: float | None
    input_psnr_pooled: float | None
    constant: int


@dataclass(frozen=True)
class Finding:
    """A warning: its kind, where, in how many rows, the first of them, and what it means."""

    kind: str
    split: str
    rows: int
    first_rows: tuple[int, ...]
    message: str


@dataclass(frozen=True)
class Checked:
    """The result of `check_set`."""

    path: Path
    shape: tuple[int, int, int]
    noise: str | None
    digest: str
    splits: tuple[SplitFigures, ...]
    findings: tuple[Finding, ...]


def check_set(path: str | Path, *, workers: int = 1, progress: Progress | None = None) -> Checked:
    """Measure every row of the set at `path`. Raises PairSetError where it cannot be read."""
    pairs = PairSet.open(path)
    figures: list[SplitFigures] = []
    findings: list[Finding] = []
    measured: dict[str, Rows] = {}
    for split in pairs.splits:
        findings += _damage(split, whole_parts(split, workers=workers, progress=progress))
        rows = measure(split, workers=workers, progress=progress)
        measured[split.name] = rows
        figures.append(_figures(split, rows))
        findings += findings_of(split.name, split.target, split.has_clean, rows)
    if "val" in measured:
        findings += _leaks(measured["train"], measured["val"])
    return Checked(
        Path(path), pairs.shape, pairs.noise, pairs.digest, tuple(figures), tuple(findings)
    )


def findings_of(split: str, target: str, has_clean: bool, rows: Rows) -> Iterator[Finding]:
    """What is wrong within one split.

    Where the target is the clean image, noise that has a bias (clipping, impulses) differs in
    mean from it, and there is no second noise: neither exposure nor correlation is judged.
    """
    misaligned = _misaligned(split, rows)
    if misaligned:
        yield misaligned
    if target == "noisy":
        yield from _exposure(split, rows, aligned=misaligned is None)
        yield from _correlated(split, rows) if has_clean else _correlated_unseen(split, rows)
    yield from _identical(split, rows)
    yield from _repeated(split, target, rows)
    if rows.constant.mean() > CONSTANT_SHARE:
        yield _finding("constant", split, rows.constant, "images of one colour teach nothing")


def repeats(keys: NDArray[np.uint64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows that hold a key which an earlier row holds too, ascending.   keys, rows: (M,)."""
    order = np.lexsort((rows, keys))
    keys, rows = keys[order], rows[order]
    again = (keys[1:] == keys[:-1]) & (rows[1:] != rows[:-1])
    return np.unique(rows[1:][again])


def _figures(split: Split, rows: Rows) -> SplitFigures:
    values = rows.difference.sum(0) / (split.rows * np.prod(split.shape))
    variance = max(values[1] - values[0] ** 2, 0.0)
    views = 2 if split.target == "noisy" else 1  # how many of the two are noisy
    psnr = pooled = None
    if split.has_clean:
        noisy = rows.error[rows.error > 0]
        if len(noisy):
            psnr = float(np.mean(10 * np.log10(255**2 / noisy)))
            pooled = float(10 * np.log10(255**2 / rows.error.mean()))
    return SplitFigures(
        name=split.name,
        pairs=split.rows,
        target=split.target,
        has_clean=split.has_clean,
        sigma=float(np.sqrt(variance / views)),
        input_psnr=psnr,
        input_psnr_pooled=pooled,
        constant=int(rows.constant.sum()),
    )


def _misaligned(split: str, rows: Rows) -> Finding | None:
    moved = rows.shift_z > Z_SHIFT
    if moved.any():
        (down, right), often = Counter(map(tuple, rows.shift[moved].tolist())).most_common(1)[0]
        message = (
            f"the views are misaligned, mostly ({often}) the target by {down} pixels down and "
            f"{right} right; align the exposures"
        )
        return _finding("misaligned", split, moved, message)
    count, total, squares = rows.gain_sums
    mean = total / np.maximum(count, 1)
    spread = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0) / np.maximum(count, 1))
    z = np.divide(mean, spread, out=np.zeros_like(mean), where=spread > 0)
    if z.max() <= Z_POOLED:
        return None
    side = round(len(z) ** 0.5)
    down, right = (int(i) - side // 2 for i in divmod(int(z.argmax()), side))
    message = (
        f"taken together, the views fit better with the target moved: it lies {down} pixels down "
        f"and {right} right; align the exposures"
    )
    return _finding("misaligned", split, np.ones(len(rows.shift_z), bool), message)


def _exposure(split: str, rows: Rows, *, aligned: bool) -> Iterator[Finding]:
    """In single rows only where the views are aligned: a moved slope looks brighter."""
    count = len(rows.offset)
    mean, spread = rows.offset.mean(), rows.offset.std() / count**0.5
    different = (np.abs(rows.offset_z) > Z_OFFSET) & (np.abs(rows.offset) > LEAST_OFFSET)
    if abs(mean) > POOLED_OFFSET and abs(mean) > Z_POOLED * spread and count > 1:
        where = different if different.any() else np.ones(count, bool)
        word = "brighter" if mean > 0 else "darker"
        message = (
            f"the inputs are {abs(mean):.2f} levels {word} than the targets on average; "
            "use the same exposure or match them first"
        )
        yield _finding("exposure", split, where, message)
    elif aligned and different.any():
        largest = np.abs(rows.offset[different]).max()
        message = (
            f"input and target differ in brightness or colour, by up to {largest:.1f} levels; "
            "use the same exposure or match them first"
        )
        yield _finding("exposure", split, different, message)


def _correlated(split: str, rows: Rows) -> Iterator[Finding]:
    valid = ~rows.identical & (rows.shared[:, 2] > 0)
    if valid.sum() < 2:
        return
    shared, deviation, energy = rows.shared[valid].T
    correlation = shared.sum() / energy.sum()
    pooled_z = shared.sum() / max(np.sqrt(((shared - shared.mean()) ** 2).sum()), 1e-12)
    row_z = np.divide(shared, deviation, out=np.zeros_like(shared), where=deviation > 0)
    suspicious = np.zeros(len(valid), bool)
    pooled = abs(pooled_z) > Z_POOLED and abs(correlation) > LEAST_SHARED
    suspicious[valid] = np.abs(row_z) > (Z_SHARED if pooled else Z_SHARED_ALONE)
    if pooled or suspicious.any():
        where = suspicious if suspicious.any() else valid
        yield _finding("correlated", split, where, _shared_noise(float(correlation)))


def _correlated_unseen(split: str, rows: Rows) -> Iterator[Finding]:
    """Without clean images: in rows whose detail is white, so noise, the flattest of these."""
    coarse, fine, shared, error = rows.white.T
    white = np.flatnonzero(~rows.identical & (fine > 0.25) & (coarse < WHITE * fine))
    if len(white) < WHITE_ROWS:
        return
    keep = max(WHITE_ROWS, len(white) // 10)
    flattest = np.sort(white[np.argsort(coarse[white], kind="stable")[:keep]])
    each = shared[flattest] / fine[flattest]
    correlation = float(np.median(each))
    z = shared[flattest].sum() / max(np.sqrt((error[flattest] ** 2).sum()), 1e-12)
    if abs(correlation) > WHITE_SHARED and abs(z) > Z_POOLED:
        where = np.zeros(len(coarse), bool)
        where[flattest[np.abs(each) > WHITE_SHARED / 2]] = True
        yield _finding("correlated", split, where, _shared_noise(correlation))


def _identical(split: str, rows: Rows) -> Iterator[Finding]:
    same = rows.identical & ~rows.constant
    noisy = same & ~rows.noise_free
    if noisy.any():
        message = "input and target are identical, noise and all: the network learns to keep it"
        yield _finding("identical", split, noisy, message)
    if (same & rows.noise_free).mean() > NOISE_FREE_SHARE:
        message = "input and target are identical and without noise"
        yield _finding("identical", split, same & rows.noise_free, message)


def _repeated(split: str, target: str, rows: Rows) -> Iterator[Finding]:
    numbers, keys = _view_keys(target, rows)
    again = np.zeros(len(rows.plain), bool)
    again[repeats(keys, numbers)] = True
    if again.any():
        message = "a noisy view that an earlier row holds too; keep one of them"
        yield _finding("duplicate", split, again, message)


def _leaks(train: Rows, val: Rows) -> Iterator[Finding]:
    known = train.hashes[~train.plain].ravel()
    seen = np.isin(val.hashes, known[known != 0]).any(1) & ~val.plain
    if seen.any():
        message = "images of training; validation must have photographs of its own"
        yield _finding("duplicate", "val", seen, message)


def _view_keys(target: str, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Row numbers and hashes of the noisy views that have something in them."""
    usable = np.flatnonzero(~rows.plain)
    if target == "clean":
        return usable, rows.hashes[usable, 0]
    return np.concatenate([usable, usable]), rows.hashes[usable, :2].T.ravel()


def _damage(split: Split, whole: list[bool]) -> Iterator[Finding]:
    for (path, info), good in zip(split.parts, whole, strict=True):
        if not good:
            message = f"{path.name} does not hold the rows it was written with; build it again"
            start = sum(other.rows for _, other in split.parts[: info.part])
            yield Finding("damaged", split.name, info.rows, (start,), message)


def _shared_noise(correlation: float) -> str:
    return (
        f"the noise of the two views is correlated ({correlation:+.3f}): what they share cannot "
        "be learned away; use independent exposures"
    )


def _finding(kind: str, split: str, where: NDArray[np.bool_], message: str) -> Finding:
    rows = np.flatnonzero(where)
    return Finding(kind, split, len(rows), tuple(rows[:NAMED].tolist()), message)
