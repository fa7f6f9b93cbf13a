"""Rasters in files without a name: what is written is read, a full disk is an error, none stays."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from n2n import rasters
from n2n.errors import ShapeError
from n2n.rasters import Scratch, bands


@given(data=st.data(), dtype=st.sampled_from(["uint8", "uint16", ">u2", "float32", "float64"]))
def test_a_scratch_raster_is_an_array(data: st.DataObject, dtype: str) -> None:
    height, width = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20))
    shape = (height, width, data.draw(st.sampled_from([1, 3])))
    scratch, array = Scratch(shape, dtype), np.zeros(shape, dtype)
    rng = np.random.default_rng(height)
    for _ in range(4):
        part = tuple(
            slice(*sorted(data.draw(st.tuples(st.integers(0, size), st.integers(0, size)))))
            for size in shape[:2]
        )
        values = rng.integers(0, 255, array[part].shape).astype(dtype)
        scratch[part] = array[part] = values
        np.testing.assert_array_equal(scratch[part], array[part])
    np.testing.assert_array_equal(np.asarray(scratch), array)
    assert np.asarray(scratch).dtype == np.dtype(dtype)
    assert (scratch.shape, scratch.dtype) == (array.shape, array.dtype)


def test_slices_may_be_open_and_one_row_may_fill_a_part() -> None:
    scratch = Scratch((5, 4, 2), np.uint8)
    scratch[:, :] = np.full((1, 1, 2), 7, np.uint8)
    assert (scratch[-2:, :1] == 7).all()
    with pytest.raises(ShapeError, match="steps of 1"):
        scratch[::2, :]


def test_nothing_stays(tmp_path: Path) -> None:
    scratch = Scratch((50, 50, 3), np.uint8, tmp_path)
    scratch[:, :] = np.ones((50, 50, 3), np.uint8)
    assert list(tmp_path.iterdir()) == []  # not even while it is there


def test_a_full_disk_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the death of the process, as a memory map would have it."""
    scratch = Scratch((50, 50, 3), np.uint8)

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(rasters.os, "pwrite", fail)
    with pytest.raises(OSError, match="No space left"):
        scratch[:10, :10] = np.ones((10, 10, 3), np.uint8)


def test_short_reads_and_writes_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    write, read = os.pwrite, os.preadv
    monkeypatch.setattr(rasters.os, "pwrite", lambda file, b, place: write(file, b[:7], place))
    monkeypatch.setattr(rasters.os, "preadv", lambda file, b, place: read(file, [b[0][:5]], place))
    scratch = Scratch((6, 9, 3), np.uint16)
    values = np.arange(6 * 9 * 3, dtype=np.uint16).reshape(6, 9, 3)
    scratch[:, :] = values
    np.testing.assert_array_equal(scratch[:, :], values)
    scratch[1:4, 2:8] = values[:3, :6]
    np.testing.assert_array_equal(scratch[1:4, 2:8], values[:3, :6])


@pytest.mark.parametrize("shape", [(1, 1, 1), (5000, 900, 3), (3, 2_000_000, 3)])
def test_bands_are_all_rows(shape: tuple[int, int, int]) -> None:
    image = np.zeros((1, 1, 1), np.uint8)
    image = np.broadcast_to(image, shape)
    found = list(bands(image))
    assert [row for part in found for row in range(part.start, part.stop)] == list(range(shape[0]))
    assert all(
        (part.stop - part.start) * shape[1] * shape[2] <= 1 << 22 for part in found[:-1]
    ) or (len(found) == shape[0])
