"""The facade with the published project's interface."""

import gc
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import n2n
from n2n import Model
from n2n.checkpoint import load_model
from n2n.errors import Diverged, InvalidType, InvalidValue, ModelFileError, ShapeError

pytestmark = pytest.mark.usefixtures("one_thread")


def noisy_pairs(count: int = 60, size: int = 8) -> tuple[Tensor, Tensor]:
    """Two noisy uint8 views of images of one bright colour each."""
    generator = torch.Generator().manual_seed(6)
    clean = torch.randint(180, 230, (count, 3, 1, 1), generator=generator).float()
    views = [clean + 20 * torch.randn(count, 3, size, size, generator=generator) for _ in range(2)]
    x, y = (view.round().clamp(0, 255).to(torch.uint8) for view in views)
    return x, y


def images(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def test_without_arguments() -> None:
    model = Model()
    assert isinstance(model, n2n.Model)
    assert (model.model.name, model.model.config) == ("seed", {"channels": 3, "width": 48})
    assert type(model.optimizer) is n2n.SGD
    assert model.optimizer.lr == 5.0
    assert type(model.loss_function) is n2n.MSE


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"batch_size": 0}, InvalidValue),
        ({"lr": float("nan")}, InvalidValue),
        ({"lr": -1.0}, InvalidValue),
        ({"name": "resnet"}, InvalidValue),
        ({"depth": 3}, InvalidValue),
        ({"width": 0}, InvalidValue),
        ({"width": 2.5}, InvalidType),
    ],
)
def test_arguments_that_cannot_be_used(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Model(**arguments)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_training_reduces_the_loss(dtype: torch.dtype) -> None:
    x, y = (view.to(dtype) for view in noisy_pairs())
    model = Model(lr=2.0, batch_size=25, width=8)
    losses = model.train(x, y, 20)
    assert len(losses) == 20
    assert losses[0] > 0.03
    assert losses[-1] < 0.012  # the noise alone is 0.006


def test_training_equals_a_loop_in_torch() -> None:
    """All pairs in one batch: no order to know. An epoch's loss is the one before its step."""
    x, y = noisy_pairs(10)
    model = Model(lr=1.0, width=4)
    nn = torch.nn
    twin = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 4, 3, 2, 1, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 3, 3, 2, 1, 1),
        nn.Sigmoid(),
    )
    twin.load_state_dict(model.model.state_dict())
    optimizer = torch.optim.SGD(twin.parameters(), lr=1.0)
    expected = []
    for _ in range(4):
        loss = nn.functional.mse_loss(twin(x / 255), y / 255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert model.train(x, y, num_epochs=4) == pytest.approx(expected, rel=1e-4)
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(model.model.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_the_last_batch_counts_by_its_images() -> None:
    """At lr 0 the mean over batches of 4, 4 and 2 is the mean over all ten images."""
    x, y = noisy_pairs(10)
    model = Model(lr=0.0, batch_size=4, width=4)
    found = model.train(x, y, 2)
    expected = (model.model(x / 255) - y / 255).square().mean().item()
    assert found == pytest.approx([expected, expected], rel=1e-5)


def test_the_seed_decides() -> None:
    x, y = noisy_pairs(20)
    outputs = []
    for seed in (1, 1, 2):
        model = Model(seed=seed, batch_size=7, width=4)
        model.train(x, y, 2)
        outputs.append(model.model.state_dict()["0.weight"])
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_training_leaves_its_arguments_alone() -> None:
    x, y = (view.float() for view in noisy_pairs(8))
    before = x.clone(), y.clone()
    Model(width=2).train(x, y, 1)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


def test_diverged() -> None:
    x, y = noisy_pairs(20)
    model = Model("unet", lr=1e38, width=2, depth=1, batch_size=5)
    with pytest.raises(Diverged, match=r"^the loss is (nan|inf)$"):
        model.train(x, y, 3)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    name=st.sampled_from(["seed", "unet"]),
    dtype=st.sampled_from([torch.uint8, torch.float32, torch.float64, torch.float16]),
    count=st.integers(1, 3),
    height=st.integers(1, 21),
    width=st.integers(1, 21),
)
def test_predict_keeps_shape_dtype_and_range(
    name: str, dtype: torch.dtype, count: int, height: int, width: int
) -> None:
    x = images((count, 3, height, width)).to(dtype)
    before = x.clone()
    found = Model(name, width=4).predict(x)
    assert found.shape == x.shape
    assert found.dtype == dtype
    assert 0 <= found.min() <= found.max() <= 255
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", ["seed", "unet"])
def test_predict_is_the_network_in_0_to_255(name: str) -> None:
    x = images((2, 3, 16, 12))
    model = Model(name, width=4)
    expected = model.model(x / 255).clamp(0, 1) * 255
    assert expected.std() > 0.5
    torch.testing.assert_close(model.predict(x.float()), expected, rtol=0, atol=1e-3)
    # Rounded to the nearest: np.rint, where truncation would be below it half of the time.
    rounded = np.rint(expected.numpy()).astype(np.uint8)
    assert (rounded != expected.numpy().astype(np.uint8)).mean() > 0.2
    np.testing.assert_array_equal(model.predict(x).numpy(), rounded)


def test_what_predict_returns_belongs_to_the_caller() -> None:
    model = Model(width=4)
    first = model.predict(images((1, 3, 8, 8), seed=1))
    kept = first.clone()
    model.predict(images((1, 3, 8, 8), seed=2))
    assert torch.equal(first, kept)


def live_bytes() -> int:
    """Of all tensors there are."""
    gc.collect()
    tensors = [found for found in gc.get_objects() if type(found) is Tensor]
    return sum(
        {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values()
    )


def test_what_is_kept_does_not_grow_with_the_number_of_sizes() -> None:
    model = Model("unet", width=4, depth=1)
    generator = torch.Generator().manual_seed(4)
    sizes = torch.randint(1, 64, (60, 2), generator=generator).tolist()
    model.predict(images((2, 3, 64, 64)))
    kept = live_bytes()
    for height, width in sizes:
        model.predict(images((2, 3, height, width)))
    assert live_bytes() < 1.5 * kept


def test_training_keeps_nothing_but_the_parameters() -> None:
    x, y = noisy_pairs(40, 32)
    model = Model(width=16)
    before = live_bytes()
    model.train(x, y, 1)
    model.predict(x[:1])
    assert live_bytes() < before + 2 * 4 * x.numel()  # the loss keeps a batch; layers kept dozens


def test_the_device_is_checked(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Model(width=2, device="auto").device == torch.device("cpu")
    for name, message in (("cuda", "found 0 GPUs"), ("tpu", "must be auto, cpu, cuda")):
        with pytest.raises(InvalidValue, match=message):
            Model(width=2, device=name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu(tmp_path: Path) -> None:
    x, y = noisy_pairs(20)
    models = [Model(lr=1.0, width=4, device=device) for device in ("cpu", "cuda")]
    losses = [model.train(x, y, 2) for model in models]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    models[1].save(tmp_path / "model.safetensors")
    loaded = Model.load(tmp_path / "model.safetensors", device="cuda")
    assert torch.equal(loaded.predict(x), models[1].predict(x))
    assert not loaded.predict(x).is_cuda


def test_predict_after_training_uses_the_new_weights() -> None:
    x, y = noisy_pairs(20)
    model = Model(lr=1.0, width=4)
    before = model.predict(x)
    model.train(x, y, 2)
    assert not torch.equal(model.predict(x), before)
    model.train(x, y, 1)  # after predict put it into inference mode


def test_grey() -> None:
    model = Model(channels=1, width=4)
    x = images((4, 1, 8, 8))
    model.train(x, x, 1)
    assert model.predict(x).shape == x.shape


@pytest.mark.parametrize(("name", "config"), [("seed", {}), ("unet", {"depth": 1, "channels": 1})])
def test_saved_and_loaded(tmp_path: Path, name: str, config: dict[str, int]) -> None:
    model = Model(name, seed=3, width=4, **config)
    path = tmp_path / "model.safetensors"
    model.save(path, noise="real", scores={"psnr": 30.5})
    other = Model.load(str(path))
    x = images((2, config.get("channels", 3), 9, 7))
    assert torch.equal(other.predict(x), model.predict(x))
    assert (other.model.name, other.model.config) == (name, model.model.config)
    metadata = load_model(path)[1]
    assert metadata["noise"] == "real"
    assert metadata["scores"] == {"psnr": 30.5}
    assert metadata["versions"]["torch"] == torch.__version__
    fitting = images((2, config.get("channels", 3), 8, 8))
    other.train(fitting, fitting, 1)
    assert not torch.equal(other.predict(x), model.predict(x))


def test_load_refuses(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(ModelFileError, match=f"^{re.escape(str(path))}: .*nothing there"):
        Model.load(path)
    path.write_bytes(b"no model")
    with pytest.raises(ModelFileError, match=f"^{re.escape(str(path))}: "):
        Model.load(path)


def test_load_pretrained_model(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    trained, model = Model(seed=3, width=4), Model(width=4)
    trained.save(path)
    x = images((1, 3, 8, 8))
    assert not torch.equal(model.predict(x), trained.predict(x))
    model.load_pretrained_model(path)
    assert torch.equal(model.predict(x), trained.predict(x))
    before = model.model.state_dict()
    model.train(x, x, 1)  # the optimiser holds the tensors that were loaded into
    assert not torch.equal(model.model.state_dict()["6.bias"], before["6.bias"])


@pytest.mark.parametrize(
    ("name", "config"), [("seed", {"width": 8}), ("unet", {"width": 4}), ("seed", {"channels": 1})]
)
def test_load_pretrained_model_of_another_architecture(
    tmp_path: Path, name: str, config: dict[str, int]
) -> None:
    path = tmp_path / "model.safetensors"
    Model(name, **{"width": 4, **config}).save(path)
    model = Model(width=4)
    before = model.model.state_dict()
    with pytest.raises(ModelFileError, match=f"^{re.escape(str(path))}: ") as caught:
        model.load_pretrained_model(path)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in model.model.state_dict().items())


def test_load_pretrained_model_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(ModelFileError, match=f"^{re.escape(str(path))}: .*nothing there"):
        Model().load_pretrained_model(path)


def test_the_model_that_is_shipped() -> None:
    """It takes noise of standard deviation 25 from an image, by more than blurring would."""
    model = Model()
    model.load_pretrained_model()
    generator = torch.Generator().manual_seed(0)
    ramp = torch.linspace(40, 215, 64).expand(1, 3, 64, 64)
    noisy = ramp + 25 * torch.randn(ramp.shape, generator=generator)
    noisy = noisy.clamp(0, 255)
    before = (noisy - ramp).square().mean()
    after = (model.predict(noisy) - ramp).square().mean()
    assert after < before / 2


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.zeros((1, 3, 8, 8), np.uint8), InvalidType, "expected a Tensor .*, got ndarray"),
        (None, InvalidType, "expected a Tensor .*, got NoneType"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int32), InvalidType, "float or uint8 .*torch.int32"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.bool), InvalidType, "float or uint8 .*torch.bool"),
        (torch.zeros(3, 8, 8), ShapeError, r"expected images \(N, C, H, W\), got \(3, 8, 8\)"),
        (torch.zeros(0, 3, 8, 8), ShapeError, r"\(N, C, H, W\), got \(0, 3, 8, 8\)"),
        (torch.zeros(1, 3, 0, 8), ShapeError, r"\(N, C, H, W\), got \(1, 3, 0, 8\)"),
        (torch.zeros(1, 2, 8, 8), ShapeError, "3.* got"),
    ],
)
def test_images_that_cannot_be_used(images: Any, error: type[Exception], message: str) -> None:
    model = Model(width=2)
    with pytest.raises(error, match=message):
        model.predict(images)
    with pytest.raises(error, match=message):
        model.train(images, images, 1)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 3, 8, 8), (1, 3, 8, 8)), r"one shape, got \(2, 3, 8, 8\) and \(1, 3, 8, 8\)"),
        (((2, 3, 8, 8), (2, 3, 8, 4)), "one shape"),
        (((2, 3, 6, 8), (2, 3, 6, 8)), "multiples of 4"),
    ],
)
def test_pairs_that_cannot_be_trained_on(shapes: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Model(width=2).train(*(torch.zeros(shape) for shape in shapes), 1)
