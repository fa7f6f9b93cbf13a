"""Parts of a pair set that were denoised: some of their rows, and their scores."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from pyarrow import ArrowException

from n2n.batch.account import Entry
from n2n.data.format import OUTPUT, read_info
from n2n.errors import PairSetError
from n2n.report.blocks import Absent, Column, Table
from n2n.report.page import Block, Section
from n2n.report.pictures import PictureRow, PictureTable, embed

__all__ = ["part_section"]

SHOWN = 3  # parts
ROWS = 4  # of each
SCORES = ("rows", "input_psnr", "psnr", "ssim")
FORMS = (("input, PSNR [dB]", "{:.2f}"), ("output, PSNR [dB]", "{:.2f}"), ("its SSIM", "{:.4f}"))
COLUMNS = {"input": "input", OUTPUT: "output", "clean": "clean"}


def part_section(path: Path, parts: Sequence[Entry]) -> Section:
    """Of the parts that lie in the folder at `path`."""
    scores = [[one.output, *(one.scores.get(name) for name in SCORES)] for one in parts]
    names = [Column("part"), Column("rows"), *(Column(name, form) for name, form in FORMS)]
    blocks: list[Block] = [Table("Means over the rows, against the clean images", names, scores)]
    blocks += [_rows(path, part) for part in parts[:SHOWN]]
    return Section("parts", "Parts of a pair set", blocks)


def _rows(path: Path, part: Entry) -> Block:
    """The first rows of a part, as pictures."""
    file = path / part.output
    try:
        info = read_info(file)
        names = [name for name in COLUMNS if name in info.columns]
        batch = next(pq.ParquetFile(file).iter_batches(ROWS, columns=names))
    except (OSError, PairSetError, ArrowException, StopIteration) as error:
        return Absent(part.output, f"cannot be shown: {error or 'it has no rows'}")
    rows = [
        PictureRow(
            f"row {number + 1}",
            [
                embed(
                    np.frombuffer(batch.column(name)[number].as_py(), np.uint8)
                    .reshape(info.shape)
                    .transpose(1, 2, 0),
                    f"{COLUMNS[name]} of row {number + 1}",
                )
                for name in names
            ],
        )
        for number in range(batch.num_rows)
    ]
    return PictureTable(f"The first rows of {part.output}", [COLUMNS[name] for name in names], rows)
