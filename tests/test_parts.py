"""Parts of pair sets: what is denoised, what stays, the scores, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from n2n import models
from n2n.data import PairSet, check_set
from n2n.data.format import read_info
from n2n.denoiser import Denoiser, Options
from n2n.errors import PairSetError
from n2n.evaluation import evaluate
from n2n.models import Network
from n2n.parts import denoise_part


@pytest.fixture
def network() -> Network:
    return models.create("unet", width=4, generator=torch.Generator().manual_seed(3))


def denoise_set(denoiser: Denoiser, source: Path, target: Path) -> list:
    results = []
    for path in sorted(source.rglob("*.parquet")):
        made = target / path.relative_to(source)
        made.parent.mkdir(parents=True, exist_ok=True)
        results.append(denoise_part(denoiser, path, made, model="abc"))
    return results


def column(path: Path, name: str) -> np.ndarray:
    """By plain pyarrow, as anybody would: (N, C·H·W)."""
    values = pq.read_table(path, columns=[name]).column(0).to_pylist()
    return np.stack([np.frombuffer(value, np.uint8) for value in values])


@pytest.mark.parametrize("clean", [True, False])
def test_a_set_gets_a_column_and_stays_a_set(
    make_set, network: Network, tmp_path: Path, clean: bool
) -> None:
    """More than a row group, images of odd sizes; every row as it would come out alone."""
    pairs = make_set(rows=1010, val=7, shape=(3, 9, 6), clean=clean)
    options = Options(strength=0.5)
    denoiser = Denoiser(network, options=options)
    results = denoise_set(denoiser, pairs.path, tmp_path / "out")
    assert [result.rows for result in results] == [1010, 7]
    assert [result.pixels for result in results] == [1010 * 54, 7 * 54]
    names = ("input", "target", "clean", "output") if clean else ("input", "target", "output")
    out = PairSet.open(tmp_path / "out")
    assert out.shape == (3, 9, 6)
    for before, after in zip(pairs.splits, out.splits, strict=True):
        old, new = before.parts[0][0], after.parts[0][0]
        assert tuple(pq.read_schema(new).names) == names
        for name in names[:-1]:
            np.testing.assert_array_equal(column(new, name), column(old, name))
        images = before.read(["input"])["input"]
        found = after.read(["output"])["output"]
        np.testing.assert_array_equal(column(new, "output").reshape(found.shape), found)
        for image, result in list(zip(images, found, strict=True))[::101]:
            alone = np.asarray(denoiser.run(image.transpose(1, 2, 0)).pixels).transpose(2, 0, 1)
            assert np.abs(alone.astype(int) - result).max() <= 1  # rounding may flip
            assert np.mean(alone != result) < 0.02
        told = json.loads(pq.read_metadata(new).metadata[b"n2n"])
        assert told["denoised"]["model"] == "abc"
        assert told["denoised"]["options"]["strength"] == 0.5
        same = {"noise", "seed", "made_by", "sources", "split", "parts", "rows", "shape", "target"}
        was = json.loads(pq.read_metadata(old).metadata[b"n2n"])
        assert {key: told[key] for key in same} == {key: was[key] for key in same}
        assert after.compute_digest() == read_info(new).rows_sha256
    assert not [found for found in check_set(tmp_path / "out").findings if found.kind == "damaged"]


def test_scores_are_those_of_scikit_image(make_set, network: Network, tmp_path: Path) -> None:
    pairs = make_set(rows=20, val=0, shape=(3, 16, 20))
    (result,) = denoise_set(Denoiser(network), pairs.path, tmp_path / "out")
    arrays = PairSet.open(tmp_path / "out").train.read(["input", "clean", "output"])
    rows = list(zip(arrays["input"], arrays["clean"], arrays["output"], strict=True))
    expected = [peak_signal_noise_ratio(clean, output) for _, clean, output in rows]
    assert result.psnr == pytest.approx(np.mean(expected), rel=1e-5)
    expected = [peak_signal_noise_ratio(clean, noisy) for noisy, clean, _ in rows]
    assert result.input_psnr == pytest.approx(np.mean(expected), rel=1e-5)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = [
        structural_similarity(clean, output, channel_axis=0, data_range=255, **settings)
        for _, clean, output in rows
    ]
    assert result.ssim == pytest.approx(np.mean(expected), abs=1e-4)
    drift = arrays["output"].astype(float).mean() - arrays["input"].astype(float).mean()
    assert result.drift == pytest.approx(drift)
    assert result.psnr == pytest.approx(evaluate(network, pairs.train).psnr, abs=0.05)


def test_without_clean_images_there_are_no_scores(
    make_set, network: Network, tmp_path: Path
) -> None:
    pairs = make_set(rows=5, val=0, clean=False)
    (result,) = denoise_set(Denoiser(network), pairs.path, tmp_path / "out")
    assert (result.psnr, result.ssim, result.input_psnr) == (None, None, None)
    made = make_set("equal", rows=5, val=0, sigma=0.0)
    denoiser = Denoiser(network, options=Options(strength=0.0))
    (result,) = denoise_set(denoiser, made.path, tmp_path / "out2")
    assert result.as_dict()["psnr"] is None  # inf
    assert result.ssim == pytest.approx(1)
    assert result.drift == 0


def test_the_same_twice_gives_the_same_bytes(make_set, network: Network, tmp_path: Path) -> None:
    """Also out of what was denoised before, whose old output is replaced."""
    pairs = make_set(rows=30, val=0)
    other = Denoiser(network, options=Options(strength=0.3))
    denoise_set(other, pairs.path, tmp_path / "first")
    denoise_set(Denoiser(network), pairs.path, tmp_path / "a")
    denoise_set(Denoiser(network), tmp_path / "first", tmp_path / "b")
    name = "train/part-00000.parquet"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "first" / name).read_bytes() != (tmp_path / "b" / name).read_bytes()
    assert [path.name for path in (tmp_path / "a/train").iterdir()] == ["part-00000.parquet"]


def test_grey_and_colour_through_each_other(make_set, tmp_path: Path) -> None:
    grey = models.create("seed", width=4, channels=1)
    pairs = make_set(rows=5, val=0)
    denoise_set(Denoiser(grey), pairs.path, tmp_path / "out")
    assert PairSet.open(tmp_path / "out").shape == (3, 8, 8)


def test_what_cannot_be_done_names_the_file(make_set, tmp_path: Path) -> None:
    pairs = make_set(rows=5, val=0)
    path = pairs.train.parts[0][0]
    two = models.create("seed", width=4, channels=2)
    with pytest.raises(PairSetError, match="1 or 2 channels expected by the network") as caught:
        denoise_part(Denoiser(two), path, tmp_path / "out.parquet", model="")
    assert str(caught.value).startswith(f"{path}: ")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(PairSetError, match="expected a whole Parquet file") as caught:
        denoise_part(Denoiser(two), path, tmp_path / "out.parquet", model="")
    assert str(caught.value).startswith(f"{path}: ")
    assert not (tmp_path / "out.parquet").exists()


def test_an_output_without_its_model_is_refused(make_set, network, tmp_path: Path) -> None:
    pairs = make_set(rows=5, val=0)
    denoise_set(Denoiser(network), pairs.path, tmp_path / "out")
    path = tmp_path / "out/train/part-00000.parquet"
    table = pq.read_table(path)
    told = json.loads(pq.read_metadata(path).metadata[b"n2n"])
    del told["denoised"]
    metadata = {b"n2n": json.dumps(told).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(PairSetError, match="denoised by None"):
        PairSet.open(tmp_path / "out")
