"""Model files and checkpoints: safetensors with one JSON value in the metadata, never pickle.

A model file holds a network's tensors in torch's names and layout; under the metadata key `n2n`
stand its architecture and whatever is known of its training. A checkpoint is such a file with the
optimiser's tensors beside the network's, so that it can be used as a model, too. Where the model
is a running average, the weights that go on being trained stand beside it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from n2n import models
from n2n.errors import ModelFileError, N2NError
from n2n.files import replacing
from n2n.models import Network
from n2n.nn import Optimizer, WeightAverage

__all__ = ["Learner", "load_model", "read_tensors", "save_model", "weights_of", "write_tensors"]

KEY = "n2n"
FORMAT = 1
OPTIMIZER = "optimizer."  # prefix of an optimiser's tensors in a checkpoint
TRAINED = "trained."  # prefix of the weights themselves, where the model is their average


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors and a JSON value; an existing file is replaced only by a complete one."""
    with replacing(path) as temporary:
        # Not save_file: its error on a full disk is no OSError.
        temporary.write_bytes(encode(tensors, metadata))


def encode(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> bytes:
    """The content of such a file."""
    text = json.dumps({"format": FORMAT, **metadata}, allow_nan=False)
    contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    return save(contiguous, metadata={KEY: text})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_tensors` wrote. ModelFileError for anything else."""
    if not path.is_file():
        raise ModelFileError(f"{path}: expected a model file, found {_what(path)}")
    try:
        # In one go: the file may be replaced by a newer one at any time.
        content = path.read_bytes()
    except OSError as error:
        raise _incomplete(path, error) from error
    return decode(content, path)


def decode(content: bytes, path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `encode` made; path: where it comes from, for ModelFileError."""
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = header.get("__metadata__") or {}
    except SafetensorError as error:
        raise _incomplete(path, error) from error
    try:
        value = json.loads(metadata[KEY])
        version = value["format"]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{path}: expected the metadata of an n2n model under the key '{KEY}', found none; "
            "use a file that n2n wrote"
        ) from error
    if version != FORMAT:
        raise ModelFileError(
            f"{path}: expected format {FORMAT}, found {version}; use the n2n that wrote it"
        )
    return tensors, value


def save_model(path: Path, network: Network, metadata: dict[str, Any]) -> None:
    """Write a network, its architecture and `metadata` (a JSON mapping) as one model file."""
    write_tensors(path, network.state_dict(), {**describe(network), **metadata})


@dataclass(frozen=True)
class Learner:
    """What a training goes on from: the network, its optimiser, a running average of its weights.

    average: None where there is none; it takes in the weights after every step of the optimiser.
    """

    network: Network
    optimizer: Optimizer
    average: WeightAverage | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Of a checkpoint: the model, and what it takes to go on to the bit."""
        tensors = self.network.state_dict()
        if self.average is not None:
            trained = {TRAINED + name: tensor for name, tensor in tensors.items()}
            tensors = {**self.average.state_dict(), **trained}
        for name, tensor in self.optimizer.state_dict().items():
            tensors[OPTIMIZER + name] = tensor
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `tensors` gave; InvalidValue if it does not fit."""
        model = _of_model(tensors)
        trained = _under(TRAINED, tensors)
        self.network.load_state_dict(model if self.average is None else trained)
        self.optimizer.load_state_dict(_under(OPTIMIZER, tensors))
        if self.average is not None:
            self.average.load_state_dict(model, self.optimizer.steps)

    def begin_with(self, model: dict[str, Tensor]) -> None:
        """Begin with these weights in place of random ones; InvalidValue if they do not fit."""
        model = self.network.completed(model)
        self.network.load_state_dict(model)
        if self.average is not None:
            self.average.load_state_dict(model, steps=0)


def weights_of(path: Path) -> dict[str, Tensor]:
    """The tensors of the model in a model file or checkpoint. ModelFileError if it is none."""
    return _of_model(read_tensors(path)[0])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _of_model(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith((OPTIMIZER, TRAINED))
    }


def describe(network: Network) -> dict[str, Any]:
    """What a model file says of a network beside its tensors."""
    return {
        "architecture": {"name": network.name, "config": network.config},
        "normalisation": {"range": [0.0, 1.0]},
    }


def load_model(path: str | Path) -> tuple[Network, dict[str, Any]]:
    """The network of a model file or checkpoint, in inference mode, and the file's metadata.

    ModelFileError for a file that is missing, truncated, of another kind, or whose tensors do not
    fit its architecture.
    """
    path = Path(path)
    tensors, metadata = read_tensors(path)
    try:
        architecture = metadata["architecture"]
        generator = torch.Generator()  # the values are replaced: leave torch's own generator alone
        name = architecture["name"]
        config = models.with_earlier(name, architecture["config"])
        network = models.create(name, generator=generator, **config)
        network.load_state_dict(_of_model(tensors))
    # RuntimeError: torch has no memory for an architecture that no file could hold.
    except (KeyError, TypeError, RuntimeError, N2NError) as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(
            f"{path}: expected the tensors of a known architecture, found others ({reason})"
        ) from error
    network.eval()
    return network, metadata


def _incomplete(path: Path | str, error: Exception) -> ModelFileError:
    return ModelFileError(
        f"{path}: expected a complete .safetensors file, found none ({error}); "
        "copy or train it again"
    )


def _what(path: Path) -> str:
    return "a folder" if path.is_dir() else "nothing there"
