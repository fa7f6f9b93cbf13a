"""Scores against scikit-image and numpy."""

import dataclasses
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from n2n import evaluation, models
from n2n.data import Split
from n2n.errors import ShapeError
from n2n.evaluation import Scores, evaluate, require_fit, tally_groups, to_float
from n2n.metrics import PooledPSNR, PooledTruncated

pytestmark = pytest.mark.usefixtures("one_thread")


def network(**config: int) -> models.Network:
    """Random weights; the unet is a residual one, so that its output resembles its input."""
    generator = torch.Generator().manual_seed(4)
    return models.create("unet", width=4, depth=1, generator=generator, **config)


def predictions(split: Split) -> dict[str, np.ndarray]:
    """Columns, and the network's outputs for both views, as float64 in [0, 1]."""
    columns = split.read(("input", "target", "clean") if split.has_clean else ("input", "target"))
    result = {name: column / 255.0 for name, column in columns.items()}
    for name, source in (("denoised", "input"), ("denoised_target", "target")):
        x = torch.from_numpy(result[source].astype(np.float32))
        result[name] = network()(x).clamp(0, 1).double().numpy()
    return result


def test_against_scikit_image(make_set) -> None:
    split = make_set(rows=5, val=12, shape=(3, 16, 20)).val
    found = evaluate(network(), split)
    of = predictions(split)
    pairs = list(zip(of["denoised"], of["clean"], strict=True))
    similarity = [
        structural_similarity(
            x,
            clean,
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for x, clean in pairs
    ]
    ratios = [peak_signal_noise_ratio(clean, x, data_range=1.0) for x, clean in pairs]
    inputs = [
        peak_signal_noise_ratio(clean, x, data_range=1.0)
        for x, clean in zip(of["input"], of["clean"], strict=True)
    ]
    error = ((of["denoised"] - of["clean"]) ** 2).mean()
    assert found.images == 12
    assert found.ssim == pytest.approx(np.mean(similarity), abs=1e-5)
    assert found.psnr == pytest.approx(np.mean(ratios), abs=1e-4)
    assert found.input_psnr == pytest.approx(np.mean(inputs), abs=1e-4)
    assert found.mse == pytest.approx(error, rel=1e-5)
    assert found.psnr_pooled == pytest.approx(10 * math.log10(1 / error), abs=1e-4)
    assert found.psnr_pooled < found.psnr  # Jensen: else one of both is the other
    assert found.loss == pytest.approx(((of["denoised"] - of["target"]) ** 2).mean(), rel=1e-5)


def test_the_estimate_against_numpy(make_set) -> None:
    split = make_set(rows=5, val=30).val
    found = evaluate(network(), split)
    of = predictions(split)
    x, y = of["input"], of["target"]
    error = (
        ((of["denoised"] - y) ** 2).mean()
        + ((of["denoised_target"] - x) ** 2).mean()
        - ((x - y) ** 2).mean()
    ) / 2
    assert found.estimated_mse == pytest.approx(error, rel=1e-4)
    assert found.estimated_psnr == pytest.approx(10 * math.log10(1 / error), abs=1e-3)
    assert found.sigma == pytest.approx(math.sqrt(((x - y) ** 2).mean() / 2), rel=1e-5)


@pytest.mark.parametrize("clean", [True, False])
def test_parts_that_are_merged_are_the_whole(make_set, clean: bool) -> None:
    split = make_set(rows=5, val=2100, clean=clean).val
    whole = evaluate(network(), split).as_dict()
    parts = [pickle.loads(pickle.dumps(tally_groups(network(), split, g))) for g in ([2], [0, 1])]
    parts[0].merge(parts[1])
    merged = parts[0].scores().as_dict()
    assert merged.keys() == whole.keys()
    for name, value in whole.items():
        assert merged[name] == (value if value is None else pytest.approx(value, rel=1e-12)), name


def test_the_estimate_is_close_to_the_truth(make_set) -> None:
    """Gaussian noise that reaches neither 0 nor 255."""
    split = make_set(rows=5, val=2000, shape=(3, 16, 16), sigma=20.0).val
    found = evaluate(network(), split)
    assert found.psnr_pooled < 35
    assert found.estimated_psnr == pytest.approx(found.psnr_pooled, abs=0.05)
    assert found.sigma == pytest.approx(20 / 255, rel=0.01)


@pytest.mark.parametrize("batch", [1, 7, 250, 4000])
def test_batches_and_row_groups_do_not_matter(make_set, monkeypatch, batch: int) -> None:
    """1100 rows lie in two row groups. Reference: all of them at once, in numpy."""
    split = make_set(rows=5, val=1100).val
    assert len(split.groups) == 2
    monkeypatch.setattr(evaluation, "BATCH", batch)
    found = evaluate(network(), split)
    of = predictions(split)
    squares = ((of["denoised"] - of["clean"]) ** 2).mean((1, 2, 3))
    assert found.images == 1100
    assert found.mse == pytest.approx(squares.mean(), rel=1e-5)
    assert found.psnr == pytest.approx(np.mean(-10 * np.log10(squares)), abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "known"),
    [
        ({}, {"clean", "estimate"}),
        ({"clean": False}, {"estimate"}),
        ({"target": "clean"}, {"clean"}),
        ({"target": "clean", "clean": False}, set()),
    ],
)
def test_what_cannot_be_known_is_none(make_set, settings: dict[str, Any], known: set[str]) -> None:
    found = evaluate(network(), make_set(**settings).val).as_dict()
    for name in ("mse", "psnr", "psnr_pooled", "ssim", "input_psnr"):
        assert (found[name] is not None) == ("clean" in known), name
    for name in ("estimated_psnr", "estimated_mse", "sigma"):
        assert (found[name] is not None) == ("estimate" in known), name
    assert found["loss"] > 0


def test_the_prediction_is_clamped(make_set) -> None:
    """A unet that adds 2 to everything gives white, no more."""
    white = network()
    for value, _ in white.param():
        value.zero_()
    white.named_parameters()["residual.inner.leave.bias"].value.fill_(2.0)
    split = make_set().val
    clean = split.read(("clean",))["clean"] / 255.0
    assert evaluate(white, split).mse == pytest.approx(((1 - clean) ** 2).mean(), rel=1e-5)


@pytest.mark.parametrize("settings", [{}, {"clean": False}, {"clean": False, "target": "clean"}])
def test_numbers_of_parts_add_up_to_the_scores(make_set, settings: dict[str, Any]) -> None:
    """As other processes send them: one has no part, one has both row groups."""
    split = make_set(val=1200, **settings).val
    mine = network()
    parts = [tally_groups(mine, split, groups).numbers for groups in ([], [1], [0], [])]
    whole = tally_groups(mine, split, [])
    whole.merge_numbers([sum(column) for column in zip(*parts, strict=True)])
    found, expected = whole.scores().as_dict(), evaluate(mine, split).as_dict()
    assert found["images"] == 1200
    known = {name: value for name, value in expected.items() if value is not None}
    assert {name: found[name] for name in known} == pytest.approx(known, rel=1e-12)
    assert {name for name, value in found.items() if value is None} == expected.keys() - known


def test_inference_mode(make_set) -> None:
    mine = network().train()
    evaluate(mine, make_set().val)
    assert not any(module.training for module in mine.modules())


def test_perfect_images_are_none_in_json(make_set) -> None:
    """A unet of zeros returns its input: exact where there is no noise."""
    same = network()
    for value, _ in same.param():
        value.zero_()
    found = evaluate(same, make_set(sigma=0.0).val)
    assert found.psnr == math.inf
    assert found.mse == 0
    values = found.as_dict()
    assert values["psnr"] is values["psnr_pooled"] is values["estimated_psnr"] is None
    assert values["ssim"] == pytest.approx(1)


def test_scores_that_are_nan_are_none_in_json(make_set) -> None:
    broken = network()
    for value, _ in broken.param():
        value.fill_(math.nan)
    values = evaluate(broken, make_set().val).as_dict()
    assert values["loss"] is values["psnr"] is values["mse"] is None
    assert values["images"] == 20


def test_selection() -> None:
    """Higher is better, by what is known best."""
    by_clean = Scores(1, loss=0.5, mse=0.01, psnr=20.0, estimated_mse=0.3)
    assert by_clean.selection > Scores(1, loss=0.1, mse=0.02, estimated_mse=0.1).selection
    by_estimate = Scores(1, loss=0.5, estimated_mse=-0.01)
    assert by_estimate.selection > Scores(1, loss=0.1, estimated_mse=0.0).selection
    assert Scores(1, loss=0.1).selection > Scores(1, loss=0.2).selection
    by_most = Scores(1, loss=0.5, estimated_mse=0.3, truncated_loss=0.01)
    worse = Scores(1, loss=0.1, estimated_mse=0.1, truncated_loss=0.02)
    assert by_most.selection > worse.selection
    assert Scores(1, loss=0.1, mse=0.02, truncated_loss=0.9).selection == -0.02


def test_the_truncated_loss(make_set) -> None:
    """Reference: all pairs at once, in numpy. It is there where it is asked for."""
    split = make_set(val=300, sigma=40.0).val
    of = predictions(split)
    distances = np.minimum(np.abs(of["denoised"] - of["target"]), 0.1)
    assert 0.3 < (distances == 0.1).mean() < 0.9
    found = evaluate(network(), split, robust=True)
    assert found.truncated_loss == pytest.approx(distances.mean(), rel=1e-5)
    plain = evaluate(network(), split)
    assert plain.truncated_loss is None
    assert dataclasses.replace(found, truncated_loss=None) == plain


def test_impulses_mislead_the_squared_error_but_not_the_truncated() -> None:
    """Of a grey set, half of its targets white: the mean of targets against what is there."""
    grey, targets = torch.full((40, 1, 8, 8), 0.25), torch.full((40, 1, 8, 8), 0.25)
    targets[:, :, ::2] = 1.0
    targets[:, :, 1::4, ::2] = 0.25 + 0.02
    found = []
    for predicted in (grey, torch.full_like(grey, float(targets.mean()))):
        truncated, squares = PooledTruncated(), PooledPSNR()
        truncated.add(predicted, targets)
        squares.add(predicted, targets)
        found.append((truncated.mean, squares.mse))
    (robust, squared), (robust_of_mean, squared_of_mean) = found
    assert robust < robust_of_mean
    assert squared > squared_of_mean


@pytest.mark.parametrize(
    ("shape", "config"), [((1, 8, 8), {}), ((3, 8, 8), {"channels": 1}), ((3, 7, 8), {})]
)
def test_what_does_not_fit(make_set, shape: tuple[int, int, int], config: dict[str, int]) -> None:
    split = make_set(shape=shape).val
    for check in (evaluate, require_fit):
        with pytest.raises(ShapeError) as caught:
            check(network(**config), split)
        message = str(caught.value)
        assert f"{config.get('channels', 3)} channels and sizes that are multiples of 2" in message
        assert str(shape) in message


def test_to_float() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    expected = (np.arange(256) / 255).astype(np.float32)
    found = to_float(pixels)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy().ravel(), expected)
    pixels.flags.writeable = False
    np.testing.assert_array_equal(to_float(pixels).numpy().ravel(), expected)
    assert pixels.ravel()[255] == 255
