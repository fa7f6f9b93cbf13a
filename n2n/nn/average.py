"""A running average of a network's weights: it scores better than those of any one step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor

from n2n.errors import InvalidValue, ShapeError
from n2n.nn.arguments import require_finite

if TYPE_CHECKING:
    from n2n.nn.module import Module

__all__ = ["WeightAverage"]


class WeightAverage:
    """average ← d · average + (1 - d) · value, for each parameter, after every step.

    d = min(decay, (1 + t) / (10 + t)) at the step t = 1, 2, …: an average over the last tenth of
    few steps, and over about 1 / (1 - decay) of many. Polyak & Juditsky 1992; the warm-up is that
    of TensorFlow's ExponentialMovingAverage. decay: in [0, 1); 0 is the value itself.
    """

    def __init__(self, network: Module, decay: float) -> None:
        if not 0 <= require_finite(decay, name="decay") < 1:
            raise InvalidValue(f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.steps = 0
        self._parameters = network.named_parameters()
        self._averages = {name: item.value.clone() for name, item in self._parameters.items()}

    def update(self) -> None:
        """Take in the values after a step."""
        self.steps += 1
        new = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, average in self._averages.items():
            average.lerp_(self._parameters[name].value, new)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside of the block the network has the average as its values; after it, its own."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the averages, by the names of the parameters."""
        return {name: average.clone() for name, average in self._averages.items()}

    def load_state_dict(self, state: dict[str, Tensor], steps: int) -> None:
        """Restore what `state_dict` gave after so many steps; InvalidValue if it does not fit."""
        if state.keys() != self._averages.keys():
            raise InvalidValue(
                f"expected the averages of {_listed(self._averages)}, got {_listed(state)}"
            )
        for name, average in self._averages.items():
            if state[name].shape != average.shape:
                raise ShapeError(
                    f"expected the average of {name} of shape {tuple(average.shape)}, got "
                    f"{tuple(state[name].shape)}"
                )
        for name, average in self._averages.items():
            average.copy_(state[name])
        self.steps = steps

    def _exchange(self) -> None:
        for name, average in self._averages.items():
            value = self._parameters[name].value
            kept = value.clone()
            value.copy_(average)
            average.copy_(kept)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
