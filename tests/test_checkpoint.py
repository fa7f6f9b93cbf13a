"""Model files: what goes in comes out, and everything else is refused by name."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from n2n import models
from n2n.checkpoint import Learner, load_model, read_tensors, save_model, write_tensors
from n2n.errors import ModelFileError, N2NError
from n2n.nn import SGD
from n2n.run import RunDirectory

ARCHITECTURE = {"name": "seed", "config": {"channels": 3, "width": 2}}


def network(name: str = "seed", seed: int = 0, **config: int) -> models.Network:
    config.setdefault("width", 2)
    return models.create(name, generator=torch.Generator().manual_seed(seed), **config)


def write_raw(path: Path, value: Any, tensors: dict[str, Tensor] | None = None) -> None:
    """A safetensors file with any metadata under n2n's key."""
    text = value if isinstance(value, str) else json.dumps(value)
    save_file(network().state_dict() if tensors is None else tensors, path, metadata={"n2n": text})


def assert_refused(path: Path, *parts: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        load_model(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: expected ")
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("seed", {}),
        ("seed", {"channels": 1, "width": 5}),
        ("unet", {"depth": 1}),
        ("unet", {"channels": 1, "width": 3, "depth": 2}),
    ],
)
def test_round_trip(tmp_path: Path, name: str, config: dict[str, int]) -> None:
    before = network(name, **config)
    path = tmp_path / "model.safetensors"
    save_model(path, before, {"noise": "gaussian:25", "scores": None})
    state = torch.random.get_rng_state()
    after, metadata = load_model(str(path))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (after.name, after.config) == (name, before.config)
    assert not after.training
    expected, found = before.state_dict(), after.state_dict()
    assert list(expected) == list(found)
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert metadata == {
        "format": 1,
        "architecture": {"name": name, "config": before.config},
        "normalisation": {"range": [0.0, 1.0]},
        "noise": "gaussian:25",
        "scores": None,
    }


def test_a_network_of_an_earlier_version_has_no_leak(tmp_path: Path) -> None:
    """Its file says nothing of one, and its hidden channels stand behind a ReLU."""
    before = network("n2n", width=4, hidden=8, blocks=1, leak=0)
    path = tmp_path / "model.safetensors"
    later = ("leak", "overlap")
    config = {name: value for name, value in before.config.items() if name not in later}
    save_model(path, before, {"architecture": {"name": "n2n", "config": config}})
    after, _ = load_model(path)
    assert after.config == before.config
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(after(x), before.eval()(x))
    assert not torch.equal(after(x), network("n2n", width=4, hidden=8, blocks=1).eval()(x))


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    """Another program reads the tensors by torch's names, and the JSON under the key n2n."""
    path = tmp_path / "model.safetensors"
    save_model(path, network(), {})
    tensors = load_file(path)
    twin = torch.nn.Sequential(
        torch.nn.Conv2d(3, 2, 3, 2, 1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(2, 2, 3, 2, 1),
        torch.nn.ReLU(),
        torch.nn.ConvTranspose2d(2, 2, 3, 2, 1, 1),
        torch.nn.ReLU(),
        torch.nn.ConvTranspose2d(2, 3, 3, 2, 1, 1),
        torch.nn.Sigmoid(),
    )
    twin.load_state_dict(tensors, strict=True)
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(load_model(path)[0](x), twin(x), rtol=1e-4, atol=1e-6)
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["n2n"])["architecture"] == ARCHITECTURE


def test_a_checkpoint_is_a_model_file_too(tmp_path: Path) -> None:
    before = network()
    optimizer = SGD(before.param(), 0.1, momentum=0.9)
    optimizer.step()
    path = tmp_path / "last.safetensors"
    RunDirectory(tmp_path).save(path, Learner(before, optimizer), {})
    after, _ = load_model(path)
    assert all(torch.equal(v, after.state_dict()[k]) for k, v in before.state_dict().items())


def test_missing_and_folder(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none.safetensors", "nothing there")
    assert_refused(tmp_path, "a folder")


@pytest.mark.parametrize("content", [b"", b"\x08", b"garbage" * 50, b"\xff" * 64, b"PK\x03\x04"])
def test_garbage(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert_refused(path, "complete .safetensors file")


def test_truncated_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, network(), {})
    content = path.read_bytes()
    for length in [*range(0, 16), *range(16, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:length])
        assert_refused(path)


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tmp_path / "model.safetensors"
    torch.save({"0.weight": Code()}, path)
    assert_refused(path, "complete .safetensors file")
    assert not (tmp_path / "ran").exists()


def test_another_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    assert_refused(path, "metadata of an n2n model")
    save_file({"a": torch.zeros(2)}, path, metadata={"format": "pt"})
    assert_refused(path, "metadata of an n2n model")


@pytest.mark.parametrize("value", ["{", "", "null", "[]", "3", '"text"', "{}"])
def test_metadata_that_is_none(tmp_path: Path, value: str) -> None:
    path = tmp_path / "model.safetensors"
    write_raw(path, value)
    assert_refused(path, "metadata of an n2n model")


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format(tmp_path: Path, version: Any) -> None:
    path = tmp_path / "model.safetensors"
    write_raw(path, {"format": version, "architecture": ARCHITECTURE})
    assert_refused(path, "format 1", f"found {version}")


@pytest.mark.parametrize(
    ("architecture", "part"),
    [
        ({"name": "resnet", "config": {}}, "'resnet'"),
        ({"name": "seed", "config": {"depth": 1}}, "'depth'"),
        ({"name": "seed", "config": {"width": 0}}, "width"),
        ({"name": "seed", "config": {"width": "2"}}, "width"),
        ({"name": "seed", "config": {"width": 2.5}}, "width"),
        ({"name": "seed", "config": None}, ""),
        ({"name": "seed", "config": {"generator": 1}}, ""),
        ({"name": ["seed"], "config": {}}, ""),
        ({"name": "seed"}, ""),
        ({"config": {}}, ""),
        ("seed", ""),
        (None, ""),
        ({"name": "seed", "config": {"width": 3}}, "0.weight"),
        ({"name": "seed", "config": {"width": 2, "channels": 1}}, "0.weight"),
        ({"name": "unet", "config": {"width": 2}}, "missing"),
    ],
)
def test_another_architecture(tmp_path: Path, architecture: Any, part: str) -> None:
    path = tmp_path / "model.safetensors"
    write_raw(path, {"format": 1, "architecture": architecture})
    assert_refused(path, part)


def test_a_network_too_large_for_any_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    large = {"name": "seed", "config": {"channels": 3, "width": 10**13}}
    write_raw(path, {"format": 1, "architecture": large})
    assert_refused(path)


def test_other_tensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    good = network().state_dict()
    value = {"format": 1, "architecture": ARCHITECTURE}
    missing = {name: tensor for name, tensor in good.items() if name != "2.bias"}
    for tensors, part in (
        (missing, "2.bias"),
        ({**good, "9.weight": torch.zeros(1)}, "9.weight"),
        ({**good, "2.bias": torch.zeros(3)}, "2.bias"),
        ({**good, "2.bias": torch.zeros(2, 1)}, "2.bias"),
        ({}, "missing"),
    ):
        write_raw(path, value, tensors)
        assert_refused(path, part)


def test_a_save_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, network(), {})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        save_model(path, network(seed=1), {"score": float("nan")})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OSError, match="full"):
            save_model(path, network(seed=1), {})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.safetensors"]
    save_model(path, network(seed=1), {})
    assert path.read_bytes() != before


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_mode_follows_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        save_model(tmp_path / "model.safetensors", network(), {})
    finally:
        os.umask(before)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask


def test_any_layout_of_tensors(tmp_path: Path) -> None:
    path = tmp_path / "tensors.safetensors"
    tensors = {
        "transposed": torch.arange(6.0).view(2, 3).t(),
        "scalar": torch.tensor(3),
        "half": torch.ones(2, dtype=torch.float16),
        "empty": torch.zeros(0, 3),
    }
    write_tensors(path, tensors, {"a": [1, None]})
    found, metadata = read_tensors(path)
    assert metadata == {"format": 1, "a": [1, None]}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype


def test_the_error_is_one_of_ours() -> None:
    assert issubclass(ModelFileError, N2NError)
    assert ModelFileError.exit_code == 2


def test_a_file_may_be_replaced_while_it_is_read(tmp_path: Path) -> None:
    """A run writes its checkpoints while another process looks at them."""
    path = tmp_path / "model.safetensors"
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for size in (1, 500):
                write_tensors(path, {"a": torch.full((size,), float(size))}, {"size": size})

    write_tensors(path, {"a": torch.ones(1)}, {"size": 1})
    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(500):
            tensors, metadata = read_tensors(path)
            size = metadata["size"]
            assert torch.equal(tensors["a"], torch.full((size,), float(size)))
    finally:
        stop.set()
        writer.join()
