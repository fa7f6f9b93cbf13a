"""Pairs drawn anew in every epoch."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from n2n.data import Gaussian, Subsample
from n2n.data import photographs as files
from n2n.data.photographs import Photograph
from n2n.data.stream import Stream
from n2n.errors import ImageError, InvalidValue, PairSetError

LEVELS = (10, 60, 110, 160, 210)


@pytest.fixture(scope="module")
def flat(tmp_path_factory) -> tuple[Photograph, ...]:
    """Photographs of one level each, so that a crop tells which one it is of."""
    folder = tmp_path_factory.mktemp("flat")
    for level in LEVELS:
        Image.fromarray(np.full((20, 30, 3), level, np.uint8)).save(folder / f"{level}.png")
    found = [files.inspect(str(path), path.name, 8) for path in sorted(folder.iterdir())]
    return tuple(photograph for photograph in found if isinstance(photograph, Photograph))


def make(photographs: tuple[Photograph, ...], rows: int = 500, sigma: float = 2.0) -> Stream:
    return Stream(photographs, Gaussian(sigma, sigma), (3, 8, 8), rows)


def epoch_of(stream: Stream, epoch: int = 0, seed: int = 1, start: int = 0, limit: int = 1 << 30):
    return list(
        stream.batches(batch_size=32, seed=seed, epoch=epoch, start=start, memory_limit=limit)
    )


@given(st.integers(1, 400), st.sampled_from([1, 100_000, 1 << 30]))
def test_an_epoch_has_its_rows_shared_evenly(flat, rows: int, limit: int) -> None:
    stream = make(flat, rows)
    batches = epoch_of(stream, limit=limit)
    assert [len(x) for x, _ in batches] == [32] * (rows // 32) + [rows % 32] * (rows % 32 > 0)
    assert len(batches) == stream.num_batches(32)
    inputs = np.concatenate([x for x, _ in batches])
    assert inputs.shape == (rows, 3, 8, 8)
    nearest = np.abs(inputs.mean((1, 2, 3))[:, None] - LEVELS).argmin(1)
    counts = Counter(nearest.tolist())
    assert max(counts.values()) - min(counts[i] for i in range(5)) <= 1


def test_crops_and_noise_are_new_in_every_epoch_and_repeat_for_a_seed(flat) -> None:
    stream = make(flat)
    first, again, other, seeded = (
        np.concatenate([x for x, _ in epoch_of(stream, epoch, seed)])
        for epoch, seed in ((0, 1), (0, 1), (1, 1), (0, 2))
    )
    np.testing.assert_array_equal(first, again)
    rows = {row.tobytes() for row in first}
    assert len(rows) == len(first)
    assert not rows & {row.tobytes() for row in other}
    assert not rows & {row.tobytes() for row in seeded}


@pytest.mark.parametrize("limit", [1, 100_000, 1 << 30])
def test_an_epoch_can_be_entered_anywhere(flat, limit: int) -> None:
    stream = make(flat, 300)
    whole = epoch_of(stream, 3, limit=limit)
    for start in range(len(whole) + 1):
        rest = epoch_of(stream, 3, start=start, limit=limit)
        assert len(rest) == len(whole) - start
        for mine, expected in zip(rest, whole[start:], strict=True):
            np.testing.assert_array_equal(mine, expected)


def test_both_views_are_of_the_same_crop_with_independent_noise(photographs: Path) -> None:
    names = sorted(path.name for path in photographs.glob("*.png"))
    usable = tuple(files.inspect(str(photographs / name), name, 16) for name in names)
    stream = Stream(usable, Gaussian(10, 10), (3, 16, 16), 2000)  # type: ignore[arg-type]  # all usable
    x, y = (np.concatenate(views).astype(float) for views in zip(*epoch_of(stream), strict=True))
    assert np.sqrt(((x - y) ** 2).mean() / 2) == pytest.approx(10, rel=0.05)


def test_neighbours_in_an_epoch_are_of_different_photographs(flat) -> None:
    stream = make(flat, 2000)
    inputs = np.concatenate([x for x, _ in epoch_of(stream)])
    nearest = np.abs(inputs.mean((1, 2, 3))[:, None] - LEVELS).argmin(1)
    assert (np.diff(nearest) == 0).mean() == pytest.approx(0.2, abs=0.05)


def test_the_digest_follows_what_is_drawn(flat) -> None:
    digests = {
        make(flat).digest,
        make(flat, 501).digest,
        make(flat, sigma=3.0).digest,
        make(flat[1:]).digest,
    }
    assert len(digests) == 4
    assert make(flat).digest in digests


def test_a_photograph_that_changed_is_named(flat, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(path)
    found = files.inspect(str(path), "a.png", 8)
    assert isinstance(found, Photograph)
    stream = make((found,))
    Image.fromarray(np.ones((9, 9, 3), np.uint8)).save(path)
    with pytest.raises(ImageError, match=r"a\.png: .*changed"):
        epoch_of(stream)


def test_what_cannot_be_drawn_is_refused(flat) -> None:
    with pytest.raises(PairSetError, match="expected photographs"):
        make(())
    with pytest.raises(InvalidValue, match="rows must be 1 or more; found 0"):
        make(flat, 0)
    with pytest.raises(InvalidValue, match=r"10\.png: at least 24 pixels a side .*30 × 20"):
        Stream(flat, Subsample(), (3, 12, 12), 10)
