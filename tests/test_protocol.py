"""Scores on clean images of any sizes: the noise, the scores, the intervals; and the peers."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from n2n import classical, models
from n2n.checkpoint import load_model, save_model
from n2n.classical import CLASSICAL, Classical
from n2n.data import parse_noise
from n2n.data.photographs import Photograph
from n2n.errors import ImageError, InvalidValue, ModelFileError, ShapeError
from n2n.protocol import (
    NOISY,
    Contest,
    ContestConfig,
    ImageOutcome,
    Protocol,
    Score,
    clean_images,
    look_at_model,
    require_peers,
)
from n2n.standings import mean_interval, standings, student_t


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A smooth colour image of odd sizes, a grey one in a folder below, and no image."""
    place = tmp_path / "clean"
    (place / "below").mkdir(parents=True)
    Image.fromarray(smooth(45, 61, 3)).save(place / "colour.png")
    Image.fromarray(smooth(40, 33, 1)[:, :, 0]).save(place / "below" / "grey.png")
    (place / "broken.png").write_bytes(b"no image")
    return place


def smooth(height: int, width: int, channels: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width] / 12
    waves = [128 + 100 * np.sin(x + c) * np.cos(y - c / 2) for c in range(channels)]
    return np.stack(waves, -1).round().astype(np.uint8)


def network_file(path: Path, **config: int) -> str:
    generator = torch.Generator().manual_seed(0)
    save_model(path, models.create("unet", width=2, depth=1, generator=generator, **config), {})
    return str(path)


def read(folder: Path, protocol: Protocol) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    images, _ = clean_images(folder)
    found = {}
    for image in images:
        clean = protocol.read(image)
        found[image.name] = clean, *protocol.noisy(clean, image)
    return found


def test_the_images_of_a_folder(folder: Path) -> None:
    images, skipped = clean_images(folder)
    assert [image.name for image in images] == ["below/grey.png", "colour.png"]
    assert [skip.name for skip in skipped] == ["broken.png"]
    shapes = {name: clean.shape for name, (clean, _, _) in read(folder, Protocol(None)).items()}
    assert shapes == {"below/grey.png": (40, 33, 1), "colour.png": (45, 61, 3)}
    grey = read(folder, Protocol(None, grey=True))
    assert {clean.shape[2] for clean, _, _ in grey.values()} == {1}


@pytest.mark.parametrize(
    ("noise", "variance"),
    [
        ("gaussian:60", lambda x: np.full_like(x, (60 / 255) ** 2)),
        ("poisson:20", lambda x: x / 20),
    ],
)
def test_the_noise_is_what_it_says_and_not_clipped(tmp_path: Path, noise, variance) -> None:
    clean = np.full((200, 300, 3), 12, np.uint8)
    clean[:, 150:] = (200, 220, 240)
    Image.fromarray(clean).save(tmp_path / "a.png")
    ((found, noisy, sigma),) = read(tmp_path, Protocol(parse_noise(noise))).values()
    assert (found == clean).all()
    x = clean / 255.0
    added = noisy - x
    expected = variance(x)
    count = clean.size
    assert abs(added.mean()) < 4 * math.sqrt(expected.mean() / count)
    for half in (np.s_[:, :150], np.s_[:, 150:]):
        assert added[half].var() == pytest.approx(expected[half].mean(), rel=0.03)
    assert sigma == pytest.approx(math.sqrt((added.astype(np.float64) ** 2).mean()), rel=1e-5)
    assert noisy.max() > 1
    assert noisy.dtype == np.float32
    if noise.startswith("gaussian"):
        assert noisy.min() < 0
        assert stats.kstest(added[:50].ravel() * 255 / 60, "norm").pvalue > 1e-3


def test_clipped_noise_is_of_256_levels(folder: Path) -> None:
    exact, clipped = (
        read(folder, Protocol(parse_noise("gaussian:80"), clip=clip)) for clip in (False, True)
    )
    for name, (_, noisy, sigma) in exact.items():
        levels = np.clip(np.rint(noisy.astype(np.float64) * 255), 0, 255)
        assert np.abs(clipped[name][1] * 255 - levels).max() < 1e-4
        assert clipped[name][2] == sigma  # of what was added, before it was cut


def test_the_noise_follows_from_the_seed_and_the_content_alone(folder: Path) -> None:
    protocol = Protocol(parse_noise("gaussian:25"))
    before = read(folder, protocol)
    (folder / "colour.png").rename(folder / "below" / "another.png")
    Image.fromarray(smooth(20, 20, 3)).save(folder / "aaa.png")
    after = read(folder, protocol)
    assert (before["colour.png"][1] == after["below/another.png"][1]).all()
    other = read(folder, Protocol(parse_noise("gaussian:25"), seed=1))
    assert (other["below/grey.png"][1] != after["below/grey.png"][1]).any()
    different = after["aaa.png"][1] - smooth(20, 20, 3) / 255.0
    same_place = after["below/another.png"][1][:20, :20] - smooth(45, 61, 3)[:20, :20] / 255.0
    assert not np.allclose(different, same_place, atol=1e-3)


def test_scores_are_those_of_scikit_image(folder: Path, tmp_path: Path) -> None:
    model = look_at_model(network_file(tmp_path / "model.safetensors"))
    protocol = Protocol(parse_noise("gaussian:25"))
    config = ContestConfig((model,), ("nlm",), protocol, threads=torch.get_num_threads())
    outcomes = list(Contest(config).run(clean_images(folder)[0]))
    for outcome, (clean, noisy, _) in zip(outcomes, read(folder, protocol).values(), strict=True):
        results = {NOISY: noisy, "nlm": CLASSICAL["nlm"](noisy, outcome.sigma)}
        for name, result in results.items():
            pixels = np.clip(np.rint(result * 255), 0, 255).astype(np.uint8)
            score = outcome.scores[name]
            assert score.psnr == pytest.approx(peak_signal_noise_ratio(clean, pixels), abs=1e-4)
            expected = structural_similarity(
                clean / 255.0,
                pixels / 255.0,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                data_range=1,
                channel_axis=-1,
            )
            assert score.ssim == pytest.approx(expected, abs=1e-4)
        assert list(outcome.scores) == [NOISY, model.name, "nlm"]


def test_the_mean_over_flips_and_turns(tmp_path: Path) -> None:
    model = look_at_model(network_file(tmp_path / "model.safetensors"))
    (tmp_path / "clean").mkdir()
    Image.fromarray(smooth(24, 36, 3)).save(tmp_path / "clean/image.png")
    protocol = Protocol(parse_noise("gaussian:25"))
    config = ContestConfig((model,), (), protocol, threads=torch.get_num_threads(), tta=True)
    (outcome,) = Contest(config).run(clean_images(tmp_path / "clean")[0])
    clean, noisy, _ = read(tmp_path / "clean", protocol)["image.png"]
    network = load_model(Path(model.path))[0].eval()
    results = []
    for turns in range(4):
        for flip in (1, -1):
            image = np.ascontiguousarray(np.rot90(noisy, turns)[:, ::flip].transpose(2, 0, 1))
            result = network(torch.from_numpy(image)[None])[0].numpy()
            results.append(np.rot90(result.transpose(1, 2, 0)[:, ::flip], -turns))
    pixels = np.clip(np.rint(np.mean(results, 0) * 255), 0, 255).astype(np.uint8)
    expected = peak_signal_noise_ratio(clean, pixels)
    assert outcome.scores[model.name].psnr == pytest.approx(expected, abs=1e-3)


def test_without_noise_the_input_is_exact(folder: Path, tmp_path: Path) -> None:
    model = look_at_model(network_file(tmp_path / "model.safetensors"))
    config = ContestConfig((model,), (), Protocol(None), threads=torch.get_num_threads())
    outcomes = list(Contest(config).run(clean_images(folder)[0]))
    assert all(outcome.scores[NOISY].psnr == math.inf for outcome in outcomes)
    (noisy, _) = standings(outcomes, config.names, first=model.name)
    assert noisy.as_dict()["psnr"] == {"mean": None, "low": None, "high": None}


def test_an_image_that_changed_is_told_and_the_rest_goes_on(folder: Path) -> None:
    images, _ = clean_images(folder)
    Image.fromarray(smooth(20, 20, 3)).save(folder / "colour.png")
    config = ContestConfig((), ("tv",), Protocol(parse_noise("gaussian:25")))
    good, bad = Contest(config).run(images)
    assert (good.reason, set(good.scores)) == ("", {NOISY, "tv"})
    assert "changed while it was being used" in bad.reason
    assert bad.scores == {}
    with pytest.raises(ImageError):
        config.protocol.read(images[1])


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="keeps an image's size"):
        Protocol(parse_noise("subsample"))
    with pytest.raises(InvalidValue, match="seed"):
        Protocol(None, seed=-1)
    with pytest.raises(InvalidValue, match="expected clean images"):
        clean_images(tmp_path)
    with pytest.raises(ModelFileError, match=r"grey .* or colour .* found 2"):
        look_at_model(network_file(tmp_path / "two.safetensors", channels=2))
    with pytest.raises(InvalidValue, match=r"peer among nlm, .*got 'dncnn'"):
        require_peers(["dncnn"])


# Means and how sure they are


@pytest.mark.parametrize("degrees", [1, 2, 3, 10, 99, 5000])
def test_student_t_is_scipys(degrees: int) -> None:
    assert student_t(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-5)


def test_an_interval_holds_the_mean_95_times_of_100() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(1000):
        interval = mean_interval(rng.normal(30, 2, 5))
        held += interval.low < 30 < interval.high
    assert 930 <= held <= 970
    assert mean_interval(np.array([3.0])).low is None


def test_gains_are_of_the_same_images() -> None:
    """Two denoisers a constant apart differ for sure, however different the images are."""
    outcomes = []
    for number, level in enumerate([20.0, 28.0, 41.0]):
        photograph = Photograph("", str(number), "", 1000, 500)
        scores = {"a": Score(level, 0.9, 1.0), "b": Score(level + 0.5, 0.8, 2.0)}
        outcomes.append(ImageOutcome(photograph, scores=scores))
    a, b = standings(outcomes, ["a", "b"], first="a")
    assert a.gain is None
    assert b.gain.mean == pytest.approx(0.5)
    assert b.gain.high - b.gain.low == pytest.approx(0, abs=1e-9)
    assert b.psnr.high - b.psnr.low > 10
    assert (a.seconds_per_megapixel, b.seconds_per_megapixel) == (2.0, 4.0)


# The peers


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [name for name in CLASSICAL if name != "bm3d"])
def test_peers_denoise(name: str, channels: int) -> None:
    clean = smooth(48, 40, channels) / np.float32(255)
    noise = np.random.default_rng(0).standard_normal(clean.shape, dtype=np.float32)
    noisy = clean + 25 / 255 * noise
    copy = noisy.copy()
    result = CLASSICAL[name](noisy, 25 / 255)
    assert (result.shape, result.dtype) == (clean.shape, np.float32)
    assert (noisy == copy).all()
    before, after = (((image - clean) ** 2).mean() for image in (noisy, result))
    assert after < before / 2


def test_bm3d_denoises() -> None:
    pytest.importorskip("bm3d", reason="needs the package bm3d, for non-commercial use")
    clean = smooth(24, 24, 1) / np.float32(255)
    noisy = clean + 25 / 255 * np.random.default_rng(0).standard_normal(clean.shape, np.float32)
    assert ((CLASSICAL["bm3d"](noisy, 25 / 255) - clean) ** 2).mean() < 0.003


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch) -> None:
    absent = Classical("absent", "absent", {"no_such_module": "no-such-package"}, lambda x, _: x)
    monkeypatch.setattr(classical, "CLASSICAL", {**CLASSICAL, "absent": absent})
    assert not absent.is_available
    assert absent.install == "pip install no-such-package"
    assert absent in classical.missing()
    assert absent not in classical.available()
    for name in ("nlm", "opencv"):
        assert CLASSICAL[name] in classical.available()


def test_peers_refuse_what_is_no_image() -> None:
    with pytest.raises(ShapeError, match=r"\(H, W, 1 or 3\)"):
        CLASSICAL["tv"](np.zeros((4, 4), np.float32), 0.1)
    with pytest.raises(InvalidValue, match="sigma"):
        CLASSICAL["tv"](np.zeros((4, 4, 1), np.float32), 0)
