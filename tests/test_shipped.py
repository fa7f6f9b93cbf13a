"""The models of the package, and what may stand where a model is asked for."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from skimage.restoration import denoise_nl_means

from jobs import denoise
from jobs.models import main
from n2n import Model, models, shipped
from n2n.batch import Worker, WorkerConfig
from n2n.checkpoint import load_model, save_model
from n2n.errors import ModelFileError

MOST_BYTES = 8_000_000  # of all of them
PHOTO = Path(__file__).parents[1] / "data/photos/wine.jpg"


@pytest.fixture
def package(tmp_path: Path, monkeypatch) -> Path:
    """A package of its own, with the model seed32."""
    place = tmp_path / "pretrained"
    shutil.copytree(shipped.PLACE, place)
    for path in place.glob("*"):
        if path.stem != "seed32":
            path.unlink()
    monkeypatch.setattr(shipped, "PLACE", place)
    monkeypatch.chdir(tmp_path)
    return place


def save(path: Path, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    network = models.create("unet", width=2, depth=1, generator=generator)
    save_model(path, network, {"noise": "gaussian:0-50", "scores": None})


def test_all_that_is_shipped_can_be_used_and_has_a_card() -> None:
    found = shipped.shipped()
    assert "seed32" in found
    files = [path for path in shipped.PLACE.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    assert {path.suffix for path in files} == {".safetensors", ".md"}  # nothing pickled
    assert {path.stem for path in files} == set(found)
    for name, model in found.items():
        network, metadata = load_model(shipped.locate(name))
        assert model.parameters == sum(value.numel() for value, _ in network.param())
        assert model.metadata == metadata
        assert model.card.startswith(f"# {name}\n")
        assert len(model.purpose) < 160
        for part in ("## Data and terms", "## Scores", "## Limits"):
            assert part in model.card
        assert f"{model.parameters:,} parameters" in model.card


def test_a_name_a_file_a_run(package: Path) -> None:
    assert shipped.locate("seed32") == package / "seed32.safetensors"
    save(Path("seed32"))
    assert shipped.locate("seed32") == package / "seed32.safetensors"
    assert shipped.locate("./seed32") == Path("seed32")
    assert shipped.locate(Path("seed32")) == Path("seed32")
    Path("run").mkdir()
    with pytest.raises(ModelFileError, match=r"run: .*a folder without model\.safetensors"):
        shipped.locate("run")
    save(Path("run/model.safetensors"))
    assert shipped.locate("run") == Path("run/model.safetensors")
    with pytest.raises(ModelFileError, match=r"sed32: .*shipped model \(seed32\), found nothing"):
        shipped.locate("sed32")


def test_the_default_is_photo_once_it_is_there(package: Path) -> None:
    with pytest.raises(ModelFileError, match=r"no default model \(photo\).* only seed32; name a"):
        shipped.locate()
    with pytest.raises(ModelFileError, match="no default model"):
        Worker(WorkerConfig(None, ".", "out"))
    save(package / "photo.safetensors", 3)
    (package / "photo.md").write_text("# photo\n\nFor\nphotographs.\n\n## Data and terms\n")
    assert list(shipped.shipped()) == ["photo", "seed32"]
    assert shipped.shipped()["photo"].purpose == "For photographs."
    assert shipped.locate() == package / "photo.safetensors"
    loaded = Model.load()
    expected = load_model(package / "photo.safetensors")[0].state_dict()
    for name, value in Model.load("photo").model.state_dict().items():
        assert value.equal(expected[name])
        assert loaded.model.state_dict()[name].equal(value)


def test_the_command_lists_them(package: Path) -> None:
    result = CliRunner().invoke(main, [])
    assert (result.exit_code, result.stderr) == (0, "")
    assert "seed32    The published task" in result.stdout
    assert "noise subsample, 44,211 parameters, 178,604 bytes" in result.stdout
    assert "PSNR 25.27 dB" in result.stdout
    (told,) = json.loads(CliRunner().invoke(main, ["--json"]).stdout)
    assert (told["name"], told["bytes"], told["noise"]) == ("seed32", 178604, "subsample")
    card = CliRunner().invoke(main, ["seed32"]).stdout
    assert card.startswith("# seed32\n")
    assert "## Limits" in card


def test_an_unknown_name_is_refused(package: Path) -> None:
    result = CliRunner().invoke(main, ["photo"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "n2n: expected a shipped model (seed32), got 'photo'\n"


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("sigma", [0, 10, 25, 50])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_default_cleans_photographs(tmp_path: Path, mode: str, sigma: int) -> None:
    """Better than non-local means that know the noise; clean ones stay as they are."""
    with Image.open(PHOTO) as image:
        clean = np.asarray(image.convert(mode).crop((300, 300, 428, 428)), np.float64)
    noise = sigma * np.random.default_rng(sigma).standard_normal(clean.shape)
    noisy = np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(tmp_path / "noisy.png")
    arguments = ["noisy.png", "clean.png", "--device", "cpu", "--threads", "1"]
    with contextlib.chdir(tmp_path):
        result = CliRunner().invoke(denoise.main, arguments)
    assert result.exit_code == 0, result.stderr
    with Image.open(tmp_path / "clean.png") as image:
        found = peak_signal_noise_ratio(clean, np.asarray(image, np.float64), data_range=255)
    if sigma == 0:
        assert found >= 45
        return
    means = denoise_nl_means(
        noisy / 255.0,
        h=0.8 * sigma / 255,
        sigma=sigma / 255,
        fast_mode=True,
        patch_size=5,
        patch_distance=6,
        channel_axis=2 if mode == "RGB" else None,
    )
    rival = peak_signal_noise_ratio(clean, 255 * means, data_range=255)
    assert rival > peak_signal_noise_ratio(clean, noisy.astype(float), data_range=255) + 2
    assert found > rival + 0.5


def test_the_default_gives_black_and_white_back_from_clipped_noise() -> None:
    """Noise of σ = 25 in 8 bits makes black 10 levels brighter on average, and white darker."""
    clean = np.zeros((3, 96, 96), np.float32)
    clean[..., 48:] = 255
    noise = 25 * np.random.default_rng(0).standard_normal(clean.shape)
    noisy = torch.from_numpy(np.clip(np.rint(clean + noise), 0, 255)).float() / 255
    network, _ = load_model(shipped.locate("photo"))
    found = 255 * network(noisy[None])[0].clamp(0, 1)
    assert found[..., :40].mean() < 5
    assert found[..., 56:].mean() > 255 - 8
