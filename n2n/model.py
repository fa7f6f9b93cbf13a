"""`Model`: a denoiser in three lines, with the interface of the published project."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from n2n import models
from n2n.checkpoint import load_model, save_model
from n2n.denoiser import denoise
from n2n.device import choose_device
from n2n.errors import InvalidType, InvalidValue, ModelFileError, ShapeError
from n2n.models import Network
from n2n.nn import SGD, Loss, MSELoss, Optimizer
from n2n.provenance import versions
from n2n.shipped import locate
from n2n.step import train_step

__all__ = ["Model"]

PRETRAINED = "seed32"


class Model:
    """A network, its optimiser and its loss.

    Without arguments: the published network, SGD with learning rate 5 and mean squared error.
    `config` goes to `n2n.models.create`; `seed` draws the weights and the order of the batches;
    `device` is where it computes (auto, cpu, cuda or cuda:INDEX; not yet run on a GPU).

    Images are tensors (N, C, H, W), float or uint8, in 0 to 255, on any device.

    >>> model = Model()
    >>> model.train(noisy, noisy_again, num_epochs=10)
    >>> clean = model.predict(noisy)
    """

    def __init__(
        self,
        name: str = "seed",
        *,
        lr: float = 5.0,
        batch_size: int = 100,
        seed: int = 0,
        device: str = "cpu",
        **config: int,
    ) -> None:
        self.device = choose_device(device)
        if batch_size < 1:
            raise InvalidValue(f"batch_size must be at least 1, got {batch_size}")
        self.generator = torch.Generator().manual_seed(seed)
        network = models.create(name, generator=self.generator, **config)
        self.model: Network = network.to(self.device)  # before the optimiser holds its tensors
        self.optimizer: Optimizer = SGD(self.model.param(), lr=lr)
        self.loss_function: Loss = MSELoss()
        self.batch_size = batch_size

    def train(self, train_input: Tensor, train_target: Tensor, num_epochs: int) -> list[float]:
        """Train on pairs of noisy images, shuffled anew each epoch; returns each epoch's loss.

        Both tensors have one shape, whose H and W are multiples of `model.multiple`. Raises
        ShapeError or InvalidType for what cannot be trained on, Diverged for a loss that is not
        finite.
        """
        inputs, targets = _to_unit(train_input), _to_unit(train_target)
        if inputs.shape != targets.shape:
            raise ShapeError(
                f"expected input and target of one shape, got {tuple(inputs.shape)} "
                f"and {tuple(targets.shape)}"
            )
        self.model.train()
        try:
            return [self._train_epoch(inputs, targets) for _ in range(num_epochs)]
        finally:
            self.model.release()  # what the steps kept of batches of this size

    def _train_epoch(self, inputs: Tensor, targets: Tensor) -> float:
        total = 0.0
        order = torch.randperm(len(inputs), generator=self.generator).to(inputs.device)
        for rows in order.split(self.batch_size):
            x, y = (images[rows].to(self.device) for images in (inputs, targets))
            total += len(rows) * train_step(self.model, self.loss_function, self.optimizer, x, y)
        return total / len(inputs)

    def predict(self, test_input: Tensor) -> Tensor:
        """Denoise images of any H and W; the result has their shape, dtype and range.

        uint8 is rounded to the nearest; floats stay floats.
        """
        self.model.eval()
        result = denoise(self.model, _to_unit(test_input), device=self.device).mul_(255)
        return (
            result.round_().to(torch.uint8)
            if test_input.dtype == torch.uint8
            else result.to(test_input.dtype)
        )

    def save(self, path: str | Path, **metadata: Any) -> None:
        """Write a model file, `metadata` (JSON values) beside the network."""
        save_model(Path(path), self.model, {"versions": versions(), **metadata})

    @classmethod
    def load(cls, model: str | Path | None = None, device: str = "cpu") -> "Model":
        """A new Model from a model file, with a new optimiser: `Model.load("model.safetensors")`.

        model: a file, a run's directory, or the name of a shipped model (`n2n.shipped`). None: the
        default one. ModelFileError if it is none.
        """
        network, _ = load_model(locate(model))
        loaded = cls(network.name, device=device, **network.config)
        loaded.model.load_state_dict(network.state_dict())
        return loaded

    def load_pretrained_model(self, path: str | Path | None = None) -> None:
        """Take the weights of a model of the same architecture, or of the shipped seed32.

        ModelFileError if it is none, or of another architecture.
        """
        path = PRETRAINED if path is None else path
        network, _ = load_model(locate(path))
        if (network.name, network.config) != (self.model.name, self.model.config):
            raise ModelFileError(
                f"{path}: expected a model of the architecture {_describe(self.model)}, found "
                f"{_describe(network)}; use Model.load for it"
            )
        self.model.load_state_dict(network.state_dict())


def _describe(network: Network) -> str:
    return f"{network.name} {network.config}"


def _to_unit(images: Tensor) -> Tensor:
    """(N, C, H, W) in 0 to 255 to float in [0, 1]."""
    if not isinstance(images, Tensor):
        raise InvalidType(f"expected a Tensor (N, C, H, W), got {type(images).__name__}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise InvalidType(f"expected float or uint8 images in 0 to 255, got {images.dtype}")
    if images.dim() != 4 or not images.numel():
        raise ShapeError(f"expected images (N, C, H, W), got {tuple(images.shape)}")
    return images.to(torch.float32) / 255
