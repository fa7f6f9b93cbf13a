"""The pair set's files: what a part is, its metadata, writing one part.

A set is a folder with `train/part-00000.parquet …` and, where there is validation, `val/…`.
Columns `input`, `target` and, where known, `clean`: fixed_size_binary(C·H·W), uint8 in C order
(C, H, W); a denoised set has `output` after them. Row groups of 1000 rows, parts of 10,000, so
that a row group is a unit of work and a part a unit of writing. Neither compressed nor
dictionary-coded: noise does not shrink, and plain pages read at the speed of memory. A part's
metadata is one JSON value under the key `n2n`.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from n2n.errors import PairSetError

__all__ = [
    "COLUMNS",
    "OUTPUT",
    "ROWS_PER_GROUP",
    "ROWS_PER_PART",
    "PartInfo",
    "Provenance",
    "Rows",
    "part_name",
    "read_info",
    "write_part",
]

FORMAT = 1
KEY = b"n2n"
COLUMNS = ("input", "target", "clean")
OUTPUT = "output"
SPLITS = ("train", "val")
TARGETS = ("noisy", "clean", "neighbour")
ROWS_PER_GROUP = 1000
ROWS_PER_PART = 10_000


@dataclass(frozen=True)
class Provenance:
    """Where a split's pairs come from.

    `noise` is the noise model's text or None where the noise is real; `sources` are the names and
    sha256 digests of the files that the rows were made of.
    """

    made_by: str
    noise: str | None
    noise_parameters: Mapping[str, float]
    seed: int | None
    target: str  # "noisy": another noisy view; "clean": the clean image; "neighbour": a sub-sample
    sources: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise PairSetError(f"target must be one of {TARGETS}; found {self.target!r}")


class Rows(Protocol):
    """A column, uint8 (N, C·H·W): an array, or what reads slices of rows as they are asked for."""

    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __getitem__(self, rows: slice, /) -> NDArray[np.uint8]: ...


@dataclass(frozen=True)
class PartInfo:
    """A part's metadata. denoised: what made the column `output`, in JSON values."""

    shape: tuple[int, int, int]  # (C, H, W)
    split: str
    part: int  # its number, from 0
    parts: int  # how many the split has
    rows: int
    rows_sha256: str
    columns: tuple[str, ...]
    provenance: Provenance
    denoised: Mapping[str, Any] | None = None

    def to_json(self) -> bytes:
        value = {"format": FORMAT, "dtype": "uint8", **asdict(self)}
        value.update(value.pop("provenance"))
        if self.denoised is None:
            del value["denoised"]
        return json.dumps(value, allow_nan=False, sort_keys=True).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "PartInfo":
        """Raises PairSetError (without the file's name) for what is not this format."""
        try:
            value = json.loads(text)
            version = value["format"]
        except (ValueError, TypeError, KeyError) as error:
            raise PairSetError("expected n2n's metadata, found something else") from error
        if version != FORMAT:
            raise PairSetError(f"expected format version {FORMAT}, found {version!r}")
        try:
            info = _info_from(value)
        except (ValueError, TypeError, KeyError) as error:
            raise PairSetError(
                f"expected complete metadata of format {FORMAT}: {error!r}"
            ) from None
        return info


def part_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def write_part(path: Path, columns: Mapping[str, Rows], info: PartInfo) -> None:
    """Write columns, each uint8 (N, C·H·W), under a temporary name and rename.

    They are gone through twice, a row group at a time. `info.rows_sha256` is computed here: of
    the columns' bytes in the order of `info.columns`.
    Raises OSError, for example on a full disk; then nothing is left.
    """
    width = math.prod(info.shape)
    sha256 = hashlib.sha256()
    for name in info.columns:
        if columns[name].shape != (info.rows, width) or columns[name].dtype != np.uint8:
            raise PairSetError(
                f"column {name}: expected uint8 of shape {(info.rows, width)}, found "
                f"{columns[name].dtype} of shape {columns[name].shape}"
            )
        for start in range(0, info.rows, ROWS_PER_GROUP):
            sha256.update(columns[name][start : start + ROWS_PER_GROUP].tobytes())
    info = PartInfo(**{**vars(info), "rows_sha256": sha256.hexdigest()})
    schema = pa.schema([pa.field(name, pa.binary(width), nullable=False) for name in info.columns])
    temporary = path.with_name(f".{path.name}.writing")
    try:
        with pq.ParquetWriter(
            temporary,
            schema,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
            store_schema=False,
        ) as writer:
            writer.add_key_value_metadata({KEY: info.to_json()})
            for start in range(0, info.rows, ROWS_PER_GROUP):
                rows = [columns[name][start : start + ROWS_PER_GROUP] for name in info.columns]
                writer.write_batch(pa.record_batch([_binary(r) for r in rows], schema=schema))
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_info(path: Path) -> PartInfo:
    """Read a part's footer and refuse what is not a part: PairSetError names the file.

    The columns are judged by the Parquet schema alone, so that no Arrow extension type is built.
    """
    try:
        footer = pq.read_metadata(path)
    except FileNotFoundError:
        raise PairSetError(f"{path}: expected a part of a pair set; there is nothing") from None
    except (pa.ArrowInvalid, pa.ArrowException, ValueError) as error:
        raise PairSetError(
            f"{path}: expected a whole Parquet file, found a truncated or foreign one "
            f"({_one_line(error)}); copy or build the set again"
        ) from error
    metadata = footer.metadata or {}
    if KEY not in metadata:
        raise PairSetError(f"{path}: expected a Parquet file with n2n's metadata, found none")
    try:
        info = PartInfo.from_json(metadata[KEY])
    except PairSetError as error:
        raise PairSetError(f"{path}: {error}") from None
    _require_schema(path, footer, info)
    return info


def _require_schema(path: Path, footer: Any, info: PartInfo) -> None:
    width = math.prod(info.shape)
    columns = [footer.schema.column(i) for i in range(len(footer.schema))]
    found = [f"{c.name} {c.physical_type}({c.length})" for c in columns]
    expected = [f"{name} FIXED_LEN_BYTE_ARRAY({width})" for name in info.columns]
    if found != expected:
        raise PairSetError(
            f"{path}: expected the columns {', '.join(expected)}; found {', '.join(found)}"
        )
    groups = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
    if sum(groups) != info.rows or any(rows != ROWS_PER_GROUP for rows in groups[:-1]):
        raise PairSetError(
            f"{path}: expected {info.rows} rows in row groups of {ROWS_PER_GROUP}; "
            f"found {footer.num_rows} rows in {len(groups)} row groups"
        )


def _info_from(value: dict[str, Any]) -> PartInfo:
    shape = tuple(value["shape"])
    if len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(f"shape {shape}")
    columns = tuple(value["columns"])
    plain = columns[:-1] if columns[-1:] == (OUTPUT,) else columns
    if plain not in (COLUMNS, COLUMNS[:2]) or value["dtype"] != "uint8":
        raise ValueError(f"columns {columns} of {value['dtype']}")
    if value["split"] not in SPLITS:
        raise ValueError(f"split {value['split']!r}")
    numbers = {key: int(value[key]) for key in ("part", "parts", "rows")}
    if numbers["rows"] < 1:
        raise ValueError("no rows")
    provenance = Provenance(
        made_by=str(value["made_by"]),
        noise=value["noise"],
        noise_parameters=dict(value["noise_parameters"]),
        seed=value["seed"],
        target=value["target"],
        sources=tuple((str(name), str(digest)) for name, digest in value["sources"]),
    )
    denoised = value.get("denoised")
    if (denoised is not None) is not (OUTPUT in columns):
        raise ValueError(f"columns {columns}, denoised by {denoised}")
    return PartInfo(
        shape,
        value["split"],
        **numbers,
        rows_sha256=str(value["rows_sha256"]),
        columns=columns,
        provenance=provenance,
        denoised=None if denoised is None else dict(denoised),
    )


def _binary(rows: NDArray[np.uint8]) -> Any:
    """View rows (n, width) as an Arrow array without a copy."""
    rows = np.ascontiguousarray(rows)
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(rows.shape[1]), len(rows), [None, pa.py_buffer(rows)]
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
