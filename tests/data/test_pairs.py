"""Pair sets on disk: the format, what is refused, the order of batches."""

import hashlib
import json
import shutil
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from n2n.data import PairSet
from n2n.data.batches import Share, Window, iterate
from n2n.data.format import Provenance
from n2n.data.writer import write_arrays
from n2n.errors import InvalidValue, PairSetError, ShapeError

SHAPE = (2, 3, 4)
PROVENANCE = Provenance("a test", "gaussian:25", {"low": 25, "high": 25}, 3, "noisy", (("a", "b"),))


def numbered(rows: int) -> dict[str, np.ndarray]:
    """Columns whose first four bytes are the row's number."""
    rng = np.random.default_rng(rows)
    columns = {
        name: rng.integers(0, 256, (rows, *SHAPE), np.uint8)
        for name in ("input", "target", "clean")
    }
    numbers = np.arange(rows, dtype="<u4").view(np.uint8).reshape(rows, 4)
    for column in columns.values():
        column.reshape(rows, -1)[:, :4] = numbers
    return columns


def numbers_of(batch: np.ndarray) -> list[int]:
    first = np.ascontiguousarray(batch.reshape(len(batch), -1)[:, :4])
    return first.view("<u4")[:, 0].tolist()


def write(folder: Path, split: str, rows: int, **changes) -> dict[str, np.ndarray]:
    folder.mkdir(exist_ok=True)
    columns = numbered(rows)
    write_arrays(folder / split, columns, PROVENANCE)
    return columns


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    """12,345 training pairs: two parts, thirteen row groups; 7 for validation."""
    folder = tmp_path_factory.mktemp("sets") / "large"
    columns = write(folder, "train", 12_345)
    write(folder, "val", 7)
    return folder, columns


@pytest.fixture
def small(tmp_path) -> Path:
    write(tmp_path / "small", "train", 10_010)
    write(tmp_path / "small", "val", 5)
    return tmp_path / "small"


def test_the_format_is_as_designed(large):
    folder, columns = large
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))
    assert files == [
        "train/part-00000.parquet",
        "train/part-00001.parquet",
        "val/part-00000.parquet",
    ]
    file = pq.ParquetFile(folder / "train/part-00001.parquet")
    groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert groups == [1000, 1000, 345]
    assert [(f.name, f.type) for f in file.schema_arrow] == [
        (name, pa.binary(24)) for name in ("input", "target", "clean")
    ]
    table = file.read()
    for name, column in columns.items():
        assert table.column(name).to_pylist() == [row.tobytes() for row in column[10_000:]]
    metadata = json.loads(file.schema_arrow.metadata[b"n2n"])
    rows_digest = hashlib.sha256(b"".join(c[10_000:].tobytes() for c in columns.values()))
    assert metadata == {
        "format": 1,
        "dtype": "uint8",
        "shape": list(SHAPE),
        "columns": ["input", "target", "clean"],
        "split": "train",
        "part": 1,
        "parts": 2,
        "rows": 2345,
        "rows_sha256": rows_digest.hexdigest(),
        "made_by": "a test",
        "noise": "gaussian:25",
        "noise_parameters": {"low": 25, "high": 25},
        "seed": 3,
        "target": "noisy",
        "sources": [["a", "b"]],
    }


def test_what_was_written_is_read(large):
    folder, columns = large
    pairs = PairSet.open(folder)
    assert pairs.shape == SHAPE
    assert pairs.noise == "gaussian:25"
    assert pairs.path == folder
    assert pairs.train.rows == 12_345
    assert pairs.train.nbytes == 12_345 * 24 * 2
    assert pairs.train.has_clean
    assert pairs.train.target == "noisy"
    assert pairs.val.rows == 7
    for name, values in pairs.train.read(("input", "target", "clean")).items():
        np.testing.assert_array_equal(values, columns[name])
        assert values.dtype == np.uint8
    chosen = pairs.train.read_groups([12, 0, 9, 10], ["target"])["target"]
    parts = [columns["target"][a:b] for a, b in
             ((12_000, 12_345), (0, 1000), (9000, 10_000), (10_000, 11_000))]  # fmt: skip
    np.testing.assert_array_equal(chosen, np.concatenate(parts))


def test_one_row_group_is_a_view_of_arrows_buffer(large):
    values = PairSet.open(large[0]).train.read_groups([3])["input"]
    assert not values.flags.owndata
    assert values.flags.c_contiguous


def test_kept_columns_are_served_from_memory_and_not_from_the_files(large, tmp_path):
    folder, columns = large
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    streamed = list(PairSet.open(folder).train.batches(
        batch_size=1000, seed=1, epoch=2, memory_limit=100_000))  # fmt: skip
    pairs = PairSet.open(copy)
    read_only = {name: column.copy() for name, column in columns.items()}
    for column in read_only.values():
        column.flags.writeable = False
    pairs.train.keep(read_only)
    for file in copy.rglob("*.parquet"):
        file.unlink()
    for groups in ([3], [9, 10, 11], [12, 0, 9, 10]):
        found = pairs.train.read_groups(groups, ["target", "clean"])
        for name, values in found.items():
            parts = [columns[name][group * 1000 : group * 1000 + 1000] for group in groups]
            np.testing.assert_array_equal(values, np.concatenate(parts))
    view = pairs.train.read_groups([9, 10])["input"]
    assert np.shares_memory(view, read_only["input"])
    assert not view.flags.writeable
    again = pairs.train.batches(batch_size=1000, seed=1, epoch=2, memory_limit=100_000)
    for kept, read in zip(again, streamed, strict=True):
        np.testing.assert_array_equal(kept, read)


def test_columns_of_another_split_are_not_kept(large):
    train = PairSet.open(large[0]).train
    with pytest.raises(ShapeError, match=r"input: uint8 of shape \(12345, 2, 3, 4\) expected"):
        train.keep({"input": np.zeros((12_344, *SHAPE), np.uint8)})
    with pytest.raises(ShapeError, match="got float32"):
        train.keep({"input": np.zeros((12_345, *SHAPE), np.float32)})


def test_unknown_columns_and_row_groups_are_refused(large):
    train = PairSet.open(large[0]).train
    with pytest.raises(InvalidValue, match="column 'mask': train has input, target, clean"):
        train.read(["mask"])
    with pytest.raises(InvalidValue, match="row group 13: train has row groups 0 to 12"):
        train.read_groups([13])


def test_the_digest_follows_the_content(large, tmp_path):
    digest = PairSet.open(large[0]).digest
    shutil.copytree(large[0], tmp_path / "copy")
    assert PairSet.open(tmp_path / "copy").digest == digest
    shutil.rmtree(tmp_path / "copy" / "val")
    without = PairSet.open(tmp_path / "copy")
    assert without.val is None
    assert without.digest != digest


def refused(folder: Path) -> str:
    with pytest.raises(PairSetError) as caught:
        PairSet.open(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_folders_that_hold_no_set_are_refused(tmp_path, small):
    assert f"{tmp_path / 'none'}: expected the folder of a pair set" in refused(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "an empty folder" in refused(tmp_path / "empty")
    (tmp_path / "file").write_text("")
    assert "found a file" in refused(tmp_path / "file")
    shutil.rmtree(small / "train")
    assert "expected a pair set with train/part-00000.parquet, found val" in refused(small)
    (small / "train").mkdir()
    assert "train: expected part-00000.parquet, found an empty folder" in refused(small)


@pytest.mark.parametrize("keep", [0, 3, 1000, -1])
def test_a_truncated_part_is_refused(small, keep):
    path = small / "train" / "part-00001.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    assert f"{path}: expected a whole Parquet file" in refused(small)


def test_a_missing_part_is_noticed(small):
    (small / "train" / "part-00001.parquet").unlink()
    assert "expected 2 parts, but part-00001.parquet is missing" in refused(small)


def rewrite(path: Path, *, table: pa.Table | None = None, **changes) -> None:
    """Write a part again with other rows or other metadata."""
    file = pq.ParquetFile(path)
    metadata = {**json.loads(file.schema_arrow.metadata[b"n2n"]), **changes}
    table = file.read() if table is None else table
    table = table.replace_schema_metadata({b"n2n": json.dumps(metadata).encode()})
    pq.write_table(table, path, row_group_size=1000)


def test_other_contents_are_refused(small):
    path = small / "train" / "part-00001.parquet"
    good = path.read_bytes()
    rewrite(path)
    assert PairSet.open(small).train.rows == 10_010
    cases: list[tuple[dict, str]] = [
        ({"format": 2}, "expected format version 1, found 2"),
        ({"shape": [2, 4, 3]}, "expected images of shape (2, 3, 4), found (2, 4, 3)"),
        ({"shape": [2, 3, 5]}, "expected the columns input FIXED_LEN_BYTE_ARRAY(30)"),
        ({"shape": [24]}, "expected complete metadata of format 1"),
        ({"split": "val"}, "expected split train, found val"),
        ({"part": 0}, "expected part number 1, found 0"),
        ({"rows": 9}, "expected 9 rows in row groups of 1000; found 10 rows"),
        ({"target": "clean"}, "expected target noisy, found clean"),
        ({"target": "blue"}, "target must be one of"),
        ({"noise": "poisson:1"}, "expected noise gaussian:25, found poisson:1"),
        ({"columns": ["input"]}, "expected complete metadata of format 1"),
        ({"columns": ["input", "target"]}, "found input FIXED_LEN_BYTE_ARRAY(24), target"),
    ]
    for changes, message in cases:
        path.write_bytes(good)
        rewrite(path, **changes)
        assert message in refused(small)
        assert str(path) in refused(small)


def test_other_columns_are_refused(small):
    path = small / "train" / "part-00001.parquet"
    images = [b"\0" * 24] * 10
    wrong = pa.table({name: pa.array(images, pa.binary()) for name in ("input", "target", "clean")})
    rewrite(path, table=wrong)
    assert "found input BYTE_ARRAY" in refused(small)
    pq.write_table(pa.table({"a": [1]}), path)
    assert "expected a Parquet file with n2n's metadata, found none" in refused(small)


def test_val_of_another_shape_is_refused(small):
    shutil.rmtree(small / "val")
    columns = {name: np.zeros((5, 1, 3, 4), np.uint8) for name in ("input", "target")}
    write_arrays(small / "val", columns, PROVENANCE)
    assert "expected images of shape (2, 3, 4) as in train, found (1, 3, 4)" in refused(small)


def test_missing_values_and_damaged_pages_are_refused(small):
    path = small / "train" / "part-00001.parquet"
    table = pq.ParquetFile(path).read()
    with_null = pa.array([None] + [b"\0" * 24] * 9, pa.binary(24))
    rewrite(path, table=table.set_column(0, "input", with_null))
    with pytest.raises(PairSetError, match=r"part-00001\.parquet: cannot be read .1 rows without"):
        PairSet.open(small).train.read()


@pytest.mark.parametrize("memory_limit", [1 << 30, 200_000, 1])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_holds_every_row_once_and_pairs_stay_together(large, memory_limit, shuffle):
    folder, columns = large
    train = PairSet.open(folder).train
    seen: list[int] = []
    sizes = []
    for inputs, targets in train.batches(
        batch_size=100, seed=1, epoch=2, shuffle=shuffle, memory_limit=memory_limit
    ):
        rows = numbers_of(inputs)
        np.testing.assert_array_equal(inputs, columns["input"][rows])
        np.testing.assert_array_equal(targets, columns["target"][rows])
        seen += rows
        sizes.append(len(rows))
    assert sizes == [100] * 123 + [45]
    assert len(sizes) == train.num_batches(100)
    assert sorted(seen) == list(range(12_345))
    assert (seen == list(range(12_345))) == (not shuffle)
    if shuffle:  # neighbours of the file are no neighbours of the epoch
        assert np.mean(np.abs(np.diff(seen)) < 5) < 0.02


def order(split, **settings) -> list[list[int]]:
    return [numbers_of(inputs) for inputs, _ in split.batches(**settings)]


@pytest.mark.parametrize("memory_limit", [1 << 30, 200_000])
def test_the_order_follows_from_seed_and_epoch(large, memory_limit):
    def epoch(seed: int, number: int) -> list[list[int]]:
        train = PairSet.open(large[0]).train
        return order(train, batch_size=64, seed=seed, epoch=number, memory_limit=memory_limit)

    assert epoch(0, 0) == epoch(0, 0)
    assert epoch(0, 0) != epoch(0, 1)
    assert epoch(0, 0) != epoch(1, 0)


@pytest.mark.parametrize("memory_limit", [1 << 30, 200_000])
@pytest.mark.parametrize("batch_size", [7, 999, 1000, 5000, 20_000])
def test_a_start_in_mid_epoch_gives_what_an_uninterrupted_epoch_would(
    large, memory_limit, batch_size
):
    train = PairSet.open(large[0]).train
    settings = {"batch_size": batch_size, "seed": 5, "epoch": 1, "memory_limit": memory_limit}
    whole = order(train, **settings)
    for start in {0, 1, len(whole) // 2, len(whole) - 1, len(whole), len(whole) + 3}:
        assert order(train, start=start, **settings) == whole[start:]


def test_a_streamed_epoch_reads_bounded_windows_and_none_before_its_start(large, monkeypatch):
    train = PairSet.open(large[0]).train
    reads: list[int] = []
    read_groups = train.read_groups

    def watched(indices, columns):
        reads.append(len(indices))
        return read_groups(indices, columns)

    monkeypatch.setattr(train, "read_groups", watched)
    limit = 4 * 1000 * 24 * 2  # four row groups
    for _ in train.batches(batch_size=100, seed=0, epoch=0, memory_limit=limit):
        pass
    assert reads == [4, 4, 4, 1]
    reads.clear()
    next(train.batches(batch_size=100, seed=0, epoch=0, start=115, memory_limit=limit))
    assert sum(reads) <= 5


def test_a_split_in_memory_is_read_once(large, monkeypatch):
    train = PairSet.open(large[0]).train
    next(train.batches(batch_size=10, seed=0, epoch=0))
    monkeypatch.setattr(train, "read_groups", None)
    next(train.batches(batch_size=10, seed=0, epoch=1))


def test_batches_are_the_callers_own(large):
    train = PairSet.open(large[0]).train
    first, _ = next(train.batches(batch_size=10, seed=0, epoch=0))
    first[:] = 0
    again, _ = next(train.batches(batch_size=10, seed=0, epoch=0))
    assert again.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be 1 or more; found 0"),
        ({"start": -1}, "start must be 0 or more; found -1"),
    ],
)
def test_bad_settings_are_refused_at_once(large, settings, message):
    train = PairSet.open(large[0]).train
    with pytest.raises(InvalidValue, match=message):
        train.batches(**{"batch_size": 5, "seed": 0, "epoch": 0, **settings})


@pytest.mark.parametrize("memory_limit", [1 << 30, 4 * 1000 * 24 * 2, 1])
def test_shares_of_an_epoch(large, memory_limit):
    """Side by side they are the epoch's batches, from any start, kept or read again."""
    settings = {"batch_size": 950, "seed": 3, "epoch": 1, "memory_limit": memory_limit}
    for size, start in ((2, 0), (3, 5)):
        whole = order(PairSet.open(large[0]).train, start=start, **settings)
        assert len(whole) == 13 - start
        for keep in (False, True):
            parts = []
            for rank in range(size):
                train = PairSet.open(large[0]).train
                if keep:
                    train.keep(train.read())
                parts.append(order(train, start=start, share=Share(rank, size), **settings))
            assert [list(chain(*batch)) for batch in zip(*parts, strict=True)] == whole
            sizes = [len(batch) for part in parts for batch in part[:-1]]
            assert max(sizes) - min(sizes) <= 1


def test_a_share_holds_its_own_rows_alone(large, monkeypatch):
    """Of two row groups at a time it copies a quarter."""
    train = PairSet.open(large[0]).train
    rows = []
    read_rows = train.read_rows

    def watched(indices, wanted, columns):
        found = read_rows(indices, wanted, columns)
        rows.append((len(indices), len(wanted), len(found["input"])))
        return found

    monkeypatch.setattr(train, "read_rows", watched)
    monkeypatch.setattr(train, "read_groups", None)
    for share in (Share(0, 4), Share(3, 4)):
        limit = 2 * 1000 * 24 * 2
        list(train.batches(batch_size=100, seed=0, epoch=0, memory_limit=limit, share=share))
    assert len(rows) == 14
    assert all(groups <= 2 and copied == wanted <= 500 for groups, wanted, copied in rows)
    rows.clear()
    list(train.batches(batch_size=100, seed=0, epoch=0, share=Share(1, 4)))
    ((groups, wanted, copied),) = rows
    assert groups == 13
    assert copied == wanted == 123 * 25 + 11


@pytest.mark.parametrize("keep", [False, True])
def test_some_rows_of_some_row_groups(large, keep):
    folder, columns = large
    train = PairSet.open(folder).train
    if keep:
        train.keep(train.read(("input", "target", "clean")))
    rows = np.array([0, 1, 999, 1000, 1344, 1345, 2344])
    found = train.read_rows([3, 12, 0], rows, ("target", "clean"))
    expected = np.r_[3000, 3001, 3999, 12_000, 12_344, 0, 999]
    for name, column in found.items():
        np.testing.assert_array_equal(column, columns[name][expected])
    assert train.read_rows([3, 12], rows[:0])["input"].shape == (0, *train.shape)


@given(
    rows=st.integers(1, 500),
    batch_size=st.integers(1, 200),
    size=st.integers(2, 9),
    seed=st.integers(0, 2**31),
    start=st.integers(0, 3),
)
def test_shares_of_any_size(rows, batch_size, size, seed, start):
    """Over the windows' arithmetic alone, with windows that load all and those that load some."""
    cuts = sorted(np.random.default_rng(seed).integers(0, rows + 1, 3).tolist())
    loaded = 0

    def window(low: int, high: int) -> Window:
        column = np.arange(low, high)

        def load_rows(chosen):
            nonlocal loaded
            assert (np.diff(chosen) > 0).all()
            loaded += len(chosen)
            return column[chosen], column[chosen]

        return Window(high - low, lambda: (column, column), load_rows)

    windows = [window(a, b) for a, b in pairwise([0, *cuts, rows])]
    settings = {"batch_size": batch_size, "seed": seed, "epoch": 2, "shuffle": True}
    whole = [x.tolist() for x, _ in iterate(windows, start=start, **settings)]
    parts = [
        [x.tolist() for x, _ in iterate(windows, start=start, share=Share(rank, size), **settings)]
        for rank in range(size)
    ]
    assert [list(chain(*batch)) for batch in zip(*parts, strict=True)] == whole
    assert loaded == sum(map(len, whole))


@given(st.integers(1, 2500), st.integers(1, 400), st.integers(0, 2**31), st.booleans())
def test_batches_of_any_size(large, rows, batch_size, seed, shuffle):
    """Over the windows' arithmetic alone, without files."""
    cuts = sorted(np.random.default_rng(seed).integers(0, rows + 1, 3).tolist())
    bounds = [0, *cuts, rows]

    def window(low: int, high: int) -> Window:
        return Window(high - low, lambda: (np.arange(low, high), np.arange(low, high)))

    windows = [window(a, b) for a, b in pairwise(bounds)]

    def epoch(start: int) -> list[list[int]]:
        settings = {"batch_size": batch_size, "seed": seed, "epoch": 0, "shuffle": shuffle}
        return [x.tolist() for x, _ in iterate(windows, start=start, **settings)]

    whole = epoch(0)
    assert [len(batch) for batch in whole[:-1]] == [batch_size] * (len(whole) - 1)
    assert sorted(chain.from_iterable(whole)) == list(range(rows))
    middle = len(whole) // 2
    assert epoch(middle) == whole[middle:]
