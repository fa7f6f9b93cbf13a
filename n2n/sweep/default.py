"""The space that `n2n sweep` takes where nobody gives one: around the published recipe."""

from typing import Any

import yaml

from n2n import models
from n2n.config import unusable
from n2n.data import PairSet
from n2n.sweep.domains import Choice
from n2n.sweep.space import Space

__all__ = ["DEFAULT", "default_space"]

# The published recipe: seed, width 48, sgd, lr 5, batches of 100, mse, constant, no augmentation.
DEFAULT = """
model: [seed, n2n, unet]
width:
  - {int: [24, 96], step: 8, when: {model: seed}}
  - {int: [32, 96], step: 16, when: {model: n2n}}
  - {int: [8, 24], step: 8, when: {model: unet}}
depth: [1, 2, 3]
blocks: {int: [4, 8], step: 2}
optimizer: [sgd, adamw, muon]
lr:
  - {log: [1, 20], when: {optimizer: sgd, model: seed}}
  - {log: [0.05, 2], when: {optimizer: sgd}}
  - {log: [5.0e-4, 1.0e-2], when: {optimizer: adamw}}
  - {log: [1.0e-3, 1.0e-2], when: {optimizer: muon}}
momentum: [0.0, 0.5]
weight_decay: {value: 0.0, when: {optimizer: sgd}}
batch_size: [32, 64, 100, 200]
loss: [mse, l1]
schedule: [constant, cosine]
flips: [true, false]
swap: [true, false]
"""


def default_space(pairs: PairSet) -> Space:
    """The default, without what the set does not allow: swaps with clean targets, networks that
    need images of other sizes. ShapeError, as in training, if it allows no network."""
    content: dict[str, Any] = yaml.safe_load(DEFAULT)
    for name in unusable(pairs):
        content.pop(name, None)
    height, width = pairs.shape[1:]

    def fits(model: str, **config: int) -> bool:
        multiple = models.size_multiple(model, **config)
        return height % multiple == 0 and width % multiple == 0

    content["depth"] = [depth for depth in (1, 2, 3) if fits("unet", depth=depth)] or [1]
    least = {"unet": {"depth": 1}}
    models_that_fit = [name for name in content["model"] if fits(name, **least.get(name, {}))]
    return Space.of(content).narrowed({"model": Choice(tuple(models_that_fit or content["model"]))})
