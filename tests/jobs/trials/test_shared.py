"""A set that processes share: what they read, and where there is no room for it."""

import shutil
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from jobs.trials import shared
from n2n.data import PairSet


@pytest.mark.parametrize("clean", [True, False])
def test_the_same_pairs_without_files(make_set: Callable[..., PairSet], clean: bool) -> None:
    pairs = make_set(rows=30, val=10, clean=clean)
    columns = shared.columns_of(pairs)
    held = sum(array.nbytes for split in columns.values() for array in split.values())
    assert held == shared.nbytes(pairs) == 3 * 64 * (2 * 30 + (3 if clean else 2) * 10)
    expected = pairs.train.read(), list(pairs.train.batches(batch_size=7, seed=1, epoch=0))
    again = PairSet.open(pairs.path)
    shutil.rmtree(pairs.path)
    shared.serve(again, columns)
    for name, array in again.train.read().items():
        assert np.array_equal(array, expected[0][name])
        assert np.shares_memory(array, columns["train"][name])
    for found, wanted in zip(
        again.train.batches(batch_size=7, seed=1, epoch=0), expected[1], strict=True
    ):
        assert all(np.array_equal(*pair) for pair in zip(found, wanted, strict=True))
    assert again.val is not None
    assert len(again.val.read(shared.names(again.val))["target"]) == 10


def test_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 2**30
    monkeypatch.setattr(shared, "available", lambda: 10 * gib)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2 * gib))
    assert shared.too_large(gib, store=None) is None
    assert "/dev/shm has room for 2 GiB; make it larger" in str(
        shared.too_large(3 * gib, store=None)
    )
    assert "10 GiB of memory are free, of which it may take 40%" in str(
        shared.too_large(5 * gib, store=None)
    )
    assert shared.too_large(gib, store=2 * gib) is None
    assert "object store of 2 GiB has no room" in str(shared.too_large(2 * gib, store=2 * gib))
