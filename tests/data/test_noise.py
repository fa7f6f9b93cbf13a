"""Noise models: text, statistics against independent computations, independence of the views."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n2n.data import Gaussian, Impulse, Poisson, Subsample, Text, parse_noise
from n2n.data.crops import block_means
from n2n.errors import InvalidValue


def test_specs_are_read():
    assert parse_noise("subsample") == Subsample()
    assert parse_noise("gaussian:25") == Gaussian(25, 25)
    assert parse_noise(" Gaussian:5-50 ") == Gaussian(5, 50)
    assert parse_noise("gaussian:0-50") == Gaussian(0, 50)
    assert parse_noise("gaussian:1e-1-2.5") == Gaussian(0.1, 2.5)
    assert parse_noise("poisson:30") == Poisson(30)
    assert parse_noise("impulse:.5") == Impulse(0.5)
    assert parse_noise("text:0.25") == Text(0.25)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "''"),
        ("speckle:1", "'speckle:1'"),
        ("subsample:2", "'subsample:2'"),
        ("gaussian", "'gaussian'"),
        ("gaussian:", "'gaussian:'"),
        ("gaussian:a", "'gaussian:a'"),
        ("gaussian:5-", "'gaussian:5-'"),
        ("gaussian:1-2-3", "'gaussian:1-2-3'"),
        ("poisson:1-2", "'poisson:1-2'"),
        ("gaussian:nan", "nan"),
        ("gaussian:inf", "inf"),
        ("gaussian:5-inf", "inf"),
        ("gaussian:-5", "-5"),
        ("gaussian:0", "0"),
        ("gaussian:256", "256"),
        ("gaussian:50-5", "50-5"),
        ("gaussian:5-5", "5-5"),
        ("poisson:0", "0"),
        ("poisson:nan", "nan"),
        ("poisson:1e12", "1e+12"),
        ("impulse:0", "0"),
        ("impulse:1.01", "1.01"),
        ("impulse:-inf", "-inf"),
        ("text:0", "0"),
        ("text:0.95", "0.95"),
        ("text:0.1-0.2", "0.1-0.2"),
    ],
)
def test_bad_specs_are_refused_with_what_was_found(text, found):
    with pytest.raises(InvalidValue) as caught:
        parse_noise(text)
    message = str(caught.value)
    assert found in message
    assert "\n" not in message


numbers = st.floats(0.001, 255)


@given(
    st.one_of(
        st.just(Subsample()),
        st.tuples(numbers, numbers).map(lambda ends: Gaussian(min(ends), max(ends))),
        st.floats(1e-9, 1e6).map(Poisson),
        st.floats(1e-9, 1).map(Impulse),
        st.floats(1e-9, 0.9).map(Text),
    )
)
def test_a_spec_reads_back_as_the_same_model(model):
    assert parse_noise(model.spec) == model


def test_subsample_by_hand(draw, rng):
    """Every pixel of a view is a pixel of its block; clean is the block's mean."""
    photograph, size = draw(0, 80, 100), 16
    views = Subsample().sample((photograph,), 12, size, np.random.default_rng(3))
    replay = np.random.default_rng(3)
    for first, second, clean in zip(*views, strict=True):
        scale = int(replay.integers(80 // size // 2 + 1, 80 // size + 1))
        assert 3 <= scale <= 5
        top = int(replay.integers(80 - scale * size + 1))
        left = int(replay.integers(100 - scale * size + 1))
        replay.integers(0, scale * scale, (2, size, size))
        for i, j in rng.integers(0, size, (20, 2)):
            block = photograph[top + i * scale :, left + j * scale :][:scale, :scale]
            colours = {tuple(colour) for colour in block.reshape(-1, 3).tolist()}
            assert tuple(first[:, i, j].tolist()) in colours
            assert tuple(second[:, i, j].tolist()) in colours
            mean = block.reshape(-1, 3).mean(0)
            assert np.abs(clean[:, i, j] - mean).max() <= 0.5


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_block_means_are_exact(size, scale, channels, seed):
    shape = (size * scale, size * scale, channels)
    square = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    sums = square.astype(object).reshape(size, scale, size, scale, channels).sum((1, 3))
    expected = np.floor(sums.astype(float) / scale**2 + 0.5)
    np.testing.assert_array_equal(block_means(square, size, scale), expected)


def test_block_means_of_large_white_blocks_do_not_overflow():
    assert (block_means(np.full((600, 600, 1), 255, np.uint8), 2, 300) == 255).all()
    assert (block_means(np.full((257, 257, 1), 255, np.uint8), 1, 257) == 255).all()


def test_subsample_refuses_a_small_photograph(draw, rng):
    with pytest.raises(InvalidValue, match=r"at least 64 pixels a side.*found 100 × 63"):
        Subsample().sample((draw(0, 63, 100),), 1, 32, rng)


def noise_of(model, level, rng, channels=3):
    clean = np.full((40, channels, 32, 32), level, np.uint8)
    first, second = model.views(clean, rng)
    assert first.dtype == second.dtype == np.uint8
    return first - np.float64(level), second - np.float64(level)


def test_gaussian_has_its_sigma_and_independent_views(rng):
    first, second = noise_of(Gaussian(20, 20), 128, rng)
    assert first.std() == pytest.approx(np.sqrt(400 + 1 / 12), rel=0.01)
    assert second.std() == pytest.approx(np.sqrt(400 + 1 / 12), rel=0.01)
    assert abs(first.mean()) < 0.3
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.015


def test_a_range_draws_one_sigma_for_both_views_of_a_pair(rng):
    first, second = noise_of(Gaussian(5, 40), 128, rng)
    sigmas = first.std((1, 2, 3)), second.std((1, 2, 3))
    np.testing.assert_allclose(sigmas[0], sigmas[1], rtol=0.08)
    assert sigmas[0].min() < 12
    assert sigmas[0].max() > 33


def test_poisson_has_its_variance_and_independent_views(rng):
    first, second = noise_of(Poisson(20), 100, rng)
    assert first.var() == pytest.approx(100 * 255 / 20, rel=0.03)
    assert abs(first.mean()) < 0.5
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.015
    assert not noise_of(Poisson(20), 0, rng)[0].any()


def test_impulses_strike_whole_pixels_with_their_probability(rng):
    first, second = noise_of(Impulse(0.3), 255, rng)
    struck = [(view != 0).any(1) for view in (first, second)]
    for hit in struck:
        assert hit.mean() == pytest.approx(0.3, abs=0.01)
    assert (struck[0] & struck[1]).mean() == pytest.approx(0.09, abs=0.01)
    colours = first.transpose(0, 2, 3, 1)[struck[0]]
    np.testing.assert_allclose(colours.mean(0), -127.5, atol=4)
    assert abs(np.corrcoef(colours.T)[0, 1]) < 0.05


def test_text_covers_its_share_in_few_colours_and_leaves_the_rest(rng):
    first, second = noise_of(Text(0.25), 255, rng)
    written = [(view != 0).any(1) for view in (first, second)]
    for pixels in written:
        shares = pixels.mean((1, 2))
        assert shares.min() >= 0.24  # a letter may be white
        assert 0.25 <= shares.mean() < 0.4
    both = (written[0] & written[1]).mean()
    assert both == pytest.approx(written[0].mean() * written[1].mean(), rel=0.2)
    for image, pixels in zip(first, written[0], strict=True):
        assert 1 <= len(np.unique(image[:, pixels].T, axis=0)) < 25


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.sampled_from([1, 3]), st.floats(0.01, 0.9), st.integers(0, 99))
def test_text_fits_images_of_any_size(side, channels, share, seed):
    clean = np.zeros((1, channels, side, side), np.uint8)
    for view in Text(share).views(clean, np.random.default_rng(seed)):
        assert view.shape == clean.shape
    assert not clean.any()


def test_noise_is_clipped_not_wrapped(rng):
    first, _ = noise_of(Gaussian(100, 100), 255, rng)
    assert (first == 0).mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("spec", ["subsample", "gaussian:9", "poisson:9", "impulse:.2", "text:.2"])
@pytest.mark.parametrize("channels", [1, 3])
def test_samples_have_their_shape_and_repeat_for_a_seed(spec, channels, draw):
    photograph = draw(1)[:, :, :channels]
    once, again = (
        parse_noise(spec).sample((photograph,), 5, 16, np.random.default_rng(1)) for _ in range(2)
    )
    assert [view.shape for view in once] == [(5, channels, 16, 16)] * 3
    assert all((a == b).all() for a, b in zip(once, again, strict=True))
    assert all(view.flags.c_contiguous for view in once)
