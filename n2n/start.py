"""How a run begins: with the weights of a model file, or with what it was when it stopped."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from n2n.checkpoint import load_model
from n2n.config import TrainConfig
from n2n.errors import InvalidValue
from n2n.files import digest_of
from n2n.models import GROWING

__all__ = ["Start", "resumed"]


@dataclass(frozen=True)
class Start:
    """A model file to begin with: its path, sha256, architecture and the settings of that."""

    path: Path
    digest: str
    model: str
    model_config: Mapping[str, int]

    @classmethod
    def read(cls, path: Path) -> "Start":
        """ModelFileError for a file that is no model, or whose tensors do not fit."""
        network, _ = load_model(path)
        return cls(path, digest_of(path), network.name, dict(network.config))

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings given, with those of the file; for `n2n.config.configure`.

        InvalidValue where these contradict the architecture of the file, unless the network is to
        grow (`n2n.models.GROWING`).
        """
        wanted = {"model": given.get("model", self.model), **given.get("model_config", {})}
        found = {"model": self.model, **self.model_config}
        grown = {}
        for name, value in wanted.items():
            if name == GROWING.get(self.model) and value > found.get(name, value):
                grown[name] = value
                continue
            if found.get(name) != value:
                raise InvalidValue(
                    f"{self.path}: holds a model with {name} {found.get(name, 'not known')}, asked "
                    f"for {value}; leave {name} out, or begin with random weights"
                )
        return {
            **given,
            "model": self.model,
            "model_config": {**self.model_config, **grown},
            "start": self.digest,
        }


def resumed(
    begun: Mapping[str, Any], given: Mapping[str, Any], preset: str | None = None
) -> dict[str, Any]:
    """The settings given, with those that a run has begun with for all others.

    So it goes on as it was, whatever its preset says by now. preset: one that is asked for; if it
    is not the run's own, only what came from the model file at its beginning is kept.
    """
    defaults = asdict(TrainConfig())
    names = set(defaults)
    if preset not in (None, begun.get("preset")):
        names = {"model", "model_config", "start"} if begun.get("start") else set()
    kept = {
        name: begun[name]
        for name in names & begun.keys()
        if isinstance(begun[name], type(defaults[name]))  # a file may have been written to
    }
    if "model_config" in given and given.get("model", kept.get("model")) == kept.get("model"):
        given = {**given, "model_config": {**kept.get("model_config", {}), **given["model_config"]}}
    return {**kept, **given}
