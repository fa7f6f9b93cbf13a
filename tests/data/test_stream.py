"""Pairs drawn anew in every epoch."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from n2n.data import Gaussian, Impulse, Poisson, Subsample
from n2n.data import photographs as files
from n2n.data.batches import WHOLE, Share
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


def epoch_of(
    stream: Stream,
    epoch: int = 0,
    seed: int = 1,
    start: int = 0,
    limit: int = 1 << 30,
    share: Share = WHOLE,
):
    return list(
        stream.batches(
            batch_size=32, seed=seed, epoch=epoch, start=start, memory_limit=limit, share=share
        )
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
        Stream(flat, Gaussian(2, 2), (3, 8, 8), 500, clipped=True).digest,
        Stream(flat, Gaussian(2, 2), (3, 8, 8), 500, grey_share=0.5).digest,
        Stream(flat, Gaussian(2, 2), (3, 8, 8), 500, clipped_inputs=0.5).digest,
        Stream(flat, Gaussian(2, 2), (3, 8, 8), 500, exposures=2).digest,
    }
    assert len(digests) == 8
    assert make(flat).digest in digests


@pytest.mark.parametrize("limit", [1, 100_000, 1 << 30])
def test_shares_make_up_the_batches(flat, limit: int) -> None:
    """333 rows: the last batch has 13, which are 4, 4 and 5."""
    stream = make(flat, 333)
    whole = epoch_of(stream, 2, limit=limit)
    parts = [epoch_of(stream, 2, limit=limit, share=Share(rank, 3)) for rank in range(3)]
    for view in (0, 1):
        for batch, shares in zip(whole, zip(*parts, strict=True), strict=True):
            np.testing.assert_array_equal(
                batch[view], np.concatenate([share[view] for share in shares])
            )
    assert [len(part[-1][0]) for part in parts] == [4, 4, 5]


@pytest.mark.parametrize("limit", [1, 3 * 20 * 30 * 2 + 2 * 192 * 4 * 4, 1 << 30])
def test_photographs_stay_decoded_as_far_as_memory_goes(flat, monkeypatch, limit: int) -> None:
    """None of them, some, all: each kept one is read once, whatever the number of epochs."""
    read: list[str] = []
    decode = files.read_pixels
    monkeypatch.setattr(
        files,
        "read_pixels",
        lambda photograph, **more: (read.append(photograph.name), decode(photograph, **more))[1],
    )
    stream = make(flat, 400)
    for epoch in range(3):
        epoch_of(stream, epoch, limit=limit)
    kept = sum(pixels.nbytes for pixels in stream._decoded.values())
    assert kept <= limit
    again = Counter(read)
    assert sum(count == 1 for count in again.values()) == len(stream._decoded)
    assert len(stream._decoded) == {1: 0, 1 << 30: 5}.get(limit, len(stream._decoded))


def test_noise_is_not_clipped_unless_asked_for(flat) -> None:
    """Black under clipped noise is brighter than black: its mean is σ/√(2π)."""
    black = (flat[0],)  # of level 10
    means = {}
    for clipped in (False, True):
        stream = Stream(black, Gaussian(40, 40), (3, 8, 8), 2000, clipped)
        x, y = (np.concatenate(views) for views in zip(*epoch_of(stream), strict=True))
        assert x.dtype == y.dtype == (np.uint8 if clipped else np.float32)
        means[clipped] = (float(x.mean()), float(y.mean()))
    assert means[False] == pytest.approx((10, 10), abs=0.3)
    assert min(means[True]) > 18
    masks = Stream(flat, Impulse(0.5), (3, 8, 8), 10)
    assert all(view.dtype == np.uint8 for pair in epoch_of(masks) for view in pair)


def test_a_share_is_grey_with_one_noise_in_all_channels(photographs: Path) -> None:
    found = files.inspect(str(photographs / "0.png"), "0.png", 8)
    assert isinstance(found, Photograph)
    stream = Stream((found,), Gaussian(9, 9), (3, 8, 8), 4000, grey_share=0.25)
    x, y = (np.concatenate(views) for views in zip(*epoch_of(stream), strict=True))
    grey = (x == x[:, :1]).all((1, 2, 3))
    assert grey.mean() == pytest.approx(0.25, abs=0.08)  # 250 draws of 16 crops
    np.testing.assert_array_equal(grey, (y == y[:, :1]).all((1, 2, 3)))
    assert (x - y)[grey].std() == pytest.approx(9 * 2**0.5, rel=0.05)
    with Image.open(photographs / "0.png") as image:
        luma = np.asarray(image.convert("L"), float)
    assert x[grey].mean() == pytest.approx(luma.mean(), abs=3)
    colour = Stream((found,), Gaussian(9, 9), (3, 8, 8), 4000)
    assert not any((a == a[:, :1]).all((1, 2, 3)).any() for a, _ in epoch_of(colour))


def test_a_share_of_inputs_is_as_files_have_it(flat) -> None:
    """Rounded and clipped, the others and all targets to the bit what they are without it."""
    plain, mixed = (
        Stream(flat, Gaussian(5, 60), (3, 8, 8), 4000, clipped_inputs=share) for share in (0, 0.25)
    )
    (x, y), (clipped, same) = (
        [np.concatenate(views) for views in zip(*epoch_of(stream), strict=True)]
        for stream in (plain, mixed)
    )
    np.testing.assert_array_equal(y, same)
    assert clipped.dtype == np.float32
    changed = (x != clipped).any((1, 2, 3))
    assert changed.mean() == pytest.approx(0.25, abs=0.03)
    np.testing.assert_array_equal(clipped[changed], np.clip(np.rint(x[changed]), 0, 255))


@pytest.mark.parametrize("clipped", [False, True])
def test_a_target_is_the_mean_of_its_exposures(flat, clipped: bool) -> None:
    """None of which is the input; each pair has one σ for all: 1/16 of its variance is left."""
    grey = (flat[1],)  # of level 110, far from black and white
    stream = Stream(grey, Gaussian(2, 30), (3, 8, 8), 4000, clipped, exposures=16)
    x, y = (np.concatenate(views) - 110.0 for views in zip(*epoch_of(stream), strict=True))
    assert x.mean() == pytest.approx(0, abs=0.2)
    assert y.mean() == pytest.approx(0, abs=0.1)
    noise, left = ((view**2).mean((1, 2, 3)) for view in (x, y))
    assert left.sum() / noise.sum() == pytest.approx(1 / 16, rel=0.02)
    assert np.corrcoef(noise, left)[0, 1] > 0.95
    assert (x * y).mean() / noise.mean() == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("noise", [Subsample(), Poisson(20), Impulse(0.2)])
def test_exposures_of_every_noise_have_its_mean(photographs: Path, noise) -> None:
    """Against one exposure: the same input, a target of the same mean and less noise."""
    found = files.inspect(str(photographs / "0.png"), "0.png", 16)
    assert isinstance(found, Photograph)
    (x, y), (same, mean) = (
        [np.concatenate(views).astype(float) for views in zip(*epoch_of(stream), strict=True)]
        for stream in (
            Stream((found,), noise, (3, 8, 8), 2000, exposures=count) for count in (1, 9)
        )
    )
    assert same.mean() == pytest.approx(x.mean(), rel=0.02)
    assert mean.mean() == pytest.approx(y.mean(), rel=0.02)
    assert mean.std() < y.std()


def test_a_set_and_a_stream_have_the_same_noise(flat) -> None:
    """Without clipping, rounded and clipped afterwards, it is what clipping gives."""
    streams = [Stream(flat, Gaussian(5, 60), (3, 8, 8), 100, clipped) for clipped in (False, True)]
    for beyond, within in zip(*map(epoch_of, streams), strict=True):
        for found, expected in zip(beyond, within, strict=True):
            np.testing.assert_array_equal(np.clip(np.rint(found), 0, 255), expected)


@pytest.mark.parametrize("noise", [Subsample(), Gaussian(5, 5), Poisson(20), Impulse(0.2)])
def test_a_draw_is_a_sample_without_the_clean_image(photographs: Path, noise) -> None:
    """The same moments: subsample draws its places in another order than for a set."""
    pixels = files.decode((photographs / "0.png").read_bytes(), grey=False)
    drawn = noise.draw(pixels, 400, 8, np.random.default_rng(1), clipped=True)
    first, second, _ = noise.sample((pixels,), 400, 8, np.random.default_rng(2))
    for view, expected in zip(drawn, (first, second), strict=True):
        assert view.dtype == np.uint8
        assert view.shape == expected.shape
        assert view.mean() == pytest.approx(expected.mean(), abs=6)
        assert view.std() == pytest.approx(expected.std(), rel=0.1)


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
    for count in (0, -1, 65):
        with pytest.raises(InvalidValue, match=f"must be from 1 to 64; found {count}"):
            Stream(flat, Gaussian(2, 2), (3, 8, 8), 10, exposures=count)
    with pytest.raises(InvalidValue, match=r"10\.png: at least 24 pixels a side .*30 × 20"):
        Stream(flat, Subsample(), (3, 12, 12), 10)
    for share, channels in ((1.5, 3), (-0.1, 3), (float("nan"), 3), (0.5, 1)):
        with pytest.raises(InvalidValue, match="share of grey pairs must be from 0 to 1"):
            Stream(flat, Gaussian(2, 2), (channels, 8, 8), 10, grey_share=share)
    shape = (3, 8, 8)
    for share in (1.5, -0.1, float("nan")):
        with pytest.raises(InvalidValue, match="share of clipped inputs must be from 0 to 1"):
            Stream(flat, Gaussian(2, 2), shape, 10, clipped_inputs=share)
    for noise, clipped in ((Impulse(0.5), False), (Gaussian(2, 2), True)):
        with pytest.raises(InvalidValue, match=f"0 where no noise goes beyond .* {noise.spec}"):
            Stream(flat, noise, shape, 10, clipped, clipped_inputs=0.5)
