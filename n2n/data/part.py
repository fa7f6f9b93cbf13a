"""Reading one file of a pair set, a row group at a time, as views of Arrow's buffers.

Axes: n rows of a row group, C H W an image.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from n2n.data.format import PartInfo
from n2n.errors import PairSetError

__all__ = ["PartFile"]


class PartFile:
    """An open part: a file of a pair set, of which single row groups are read."""

    def __init__(self, path: Path, info: PartInfo) -> None:
        self.path, self.info = path, info
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
        except (pa.ArrowException, FileNotFoundError) as error:
            raise self._damaged(error) from error

    def __enter__(self) -> "PartFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def views(self, group: int, columns: Sequence[str]) -> dict[str, NDArray[np.uint8]]:
        """A row group's columns as views (n, C, H, W) of Arrow's buffers."""
        try:
            table = self._file.read_row_group(group, columns=list(columns))
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from error
        return {name: self._view(table.column(name)) for name in columns}

    def _view(self, column: Any) -> NDArray[np.uint8]:
        if column.null_count:
            raise self._damaged(ValueError(f"{column.null_count} rows without a value"))
        chunk = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
        width = math.prod(self.info.shape)
        values = np.frombuffer(
            chunk.buffers()[1], np.uint8, count=len(chunk) * width, offset=chunk.offset * width
        )
        return values.reshape(len(chunk), *self.info.shape)

    def _damaged(self, error: Exception) -> PairSetError:
        reason = " ".join(str(error).split())[:120]
        return PairSetError(f"{self.path}: cannot be read ({reason}); copy or build the set again")
