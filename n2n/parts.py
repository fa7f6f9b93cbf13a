"""Pair sets through a network, part by part: the column `input` denoised becomes `output`."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from n2n.data.format import OUTPUT, ROWS_PER_GROUP, PartInfo, read_info, write_part
from n2n.data.split import Split
from n2n.denoiser import Denoiser
from n2n.errors import PairSetError, ShapeError
from n2n.evaluation import to_float
from n2n.metrics import psnr, ssim
from n2n.rasters import Scratch

__all__ = ["PartResult", "denoise_part"]

CHUNK_BYTES = 1 << 24  # of rows that are denoised and scored together
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class PartResult:
    """What became of a part.

    psnr, ssim, input_psnr: means over its rows against `clean`, in dB but for ssim, of the 8-bit
    output and input; None where there is no `clean`. drift: mean of the output less mean of the
    input, in levels.
    """

    rows: int
    pixels: int  # H·W of all rows
    drift: float
    psnr: float | None = None
    ssim: float | None = None
    input_psnr: float | None = None

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON, which cannot say inf, the PSNR of equal images: None."""
        return {
            name: value if value is not None and isfinite(value) else None
            for name, value in asdict(self).items()
        }


def denoise_part(
    denoiser: Denoiser, source: Path | str, destination: Path | str, *, model: str
) -> PartResult:
    """Write to `destination` the part of a pair set at `source` with a column `output` more.

    One that is there already is replaced. All else of a part stays as it was, and its metadata
    also tells the `model` (its digest) and the options; so a set of all parts in the same places
    can be opened. Whole or not at all; a row group in memory at a time, and the output in a
    scratch file. PairSetError, which names the file, for what is no part or does not fit the
    network; OSError, as of a full disk, passes.
    """
    source, destination = Path(source), Path(destination)
    info = read_info(source)
    split = Split([(source, info)])
    kept = tuple(name for name in info.columns if name != OUTPUT)
    output = _Output(info, denoiser.scratch)
    tally = _Tally(info)
    read = [name for name in ("input", "clean") if name in kept]
    try:
        for start, rows in _chunks(split, read):
            output[start] = result = _denoise(denoiser, rows["input"])
            tally.add(rows["input"], result, rows.get("clean"))
    except ShapeError as error:
        raise PairSetError(f"{source}: {error}") from None
    columns: dict[str, Any] = {name: _Column(split, name) for name in kept}
    told = {"model": model, "options": denoiser.options.as_dict()}
    made = replace(info, columns=(*kept, OUTPUT), denoised=told)
    write_part(destination, {**columns, OUTPUT: output}, made)
    return tally.result()


def _chunks(split: Split, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Pixels]]]:
    """Number of the first row, and some rows of those columns, (n, C, H, W)."""
    step = max(1, CHUNK_BYTES // int(np.prod(split.shape)))
    for group, (_, _, count) in enumerate(split.groups):
        arrays = split.read_groups([group], columns)
        for first in range(0, count, step):
            part = {name: array[first : first + step] for name, array in arrays.items()}
            yield group * ROWS_PER_GROUP + first, part


def _denoise(denoiser: Denoiser, rows: Pixels) -> Pixels:
    """(n, C, H, W) → the same."""
    results = denoiser.run_many(list(rows.transpose(0, 2, 3, 1)))
    pixels = [np.asarray(result.pixels, np.uint8) for result in results]
    return np.ascontiguousarray(np.stack(pixels).transpose(0, 3, 1, 2))


class _Column:
    """A column of a part, read a row group at a time."""

    dtype = np.dtype(np.uint8)

    def __init__(self, split: Split, name: str) -> None:
        self._split, self._name = split, name
        self.shape = (split.rows, int(np.prod(split.shape)))

    def __getitem__(self, rows: slice, /) -> Pixels:
        """A whole row group, which is what a part is written by."""
        group = rows.start // ROWS_PER_GROUP
        array = self._split.read_groups([group], [self._name])[self._name]
        return array.reshape(len(array), -1)


class _Output:
    """The column that is made, in a file without a name."""

    dtype = np.dtype(np.uint8)

    def __init__(self, info: PartInfo, folder: Path | str | None) -> None:
        self.shape = (info.rows, int(np.prod(info.shape)))
        self._file = Scratch((*self.shape, 1), np.uint8, folder)

    def __setitem__(self, start: int, images: Pixels) -> None:
        """Rows from `start` on: (n, C, H, W)."""
        self._file[start : start + len(images), :] = images.reshape(len(images), -1, 1)

    def __getitem__(self, rows: slice, /) -> Pixels:
        return self._file[rows, :][..., 0]


class _Tally:
    """Sums over the rows of a part."""

    def __init__(self, info: PartInfo) -> None:
        self._info = info
        self._sums: dict[str, float] = {}
        self._levels = 0  # of the output less those of the input

    def add(self, rows: Pixels, result: Pixels, clean: Pixels | None) -> None:
        self._levels += int(result.sum(dtype=np.int64)) - int(rows.sum(dtype=np.int64))
        if clean is None:
            return
        x, y, wanted = to_float(rows), to_float(result), to_float(clean)
        for name, values in (
            ("psnr", psnr(y, wanted)),
            ("ssim", ssim(y, wanted)),
            ("input_psnr", psnr(x, wanted)),
        ):
            self._sums[name] = self._sums.get(name, 0.0) + float(values.sum())

    def result(self) -> PartResult:
        rows, (channels, height, width) = self._info.rows, self._info.shape
        pixels = rows * height * width
        means = {name: total / rows for name, total in self._sums.items()}
        return PartResult(rows, pixels, self._levels / (pixels * channels), **means)
