"""The models that come with the package, and what may stand where a model is asked for.

A shipped model is a model file in the package's folder `pretrained` with a card beside it, in
Markdown: NAME.safetensors and NAME.md. What is not there is not listed.
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from n2n.errors import ModelFileError

__all__ = ["DEFAULT", "Shipped", "locate", "shipped"]

PLACE = Path(__file__).with_name("pretrained")
DEFAULT = "photo"  # for images of which nothing is known
RUNS_MODEL = "model.safetensors"  # in the directory of a run


@dataclass(frozen=True)
class Shipped:
    """A model of the package, by what its file and its card say; reading them loads no torch."""

    name: str
    path: Path

    @property
    def card(self) -> str:
        """The model card, Markdown."""
        return self.path.with_suffix(".md").read_text(encoding="utf-8")

    @property
    def purpose(self) -> str:
        """What it is for: the card's first paragraph, as one line."""
        _, *paragraphs = self.card.split("\n\n")
        return " ".join(paragraphs[0].split())

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size

    @property
    def parameters(self) -> int:
        """How many numbers it has learned."""
        return self._header[0]

    @property
    def metadata(self) -> dict[str, Any]:
        """What the model file says of its training."""
        return self._header[1]

    @cached_property
    def _header(self) -> tuple[int, dict[str, Any]]:
        import json

        from safetensors import safe_open

        with safe_open(self.path, framework="numpy") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
            metadata = json.loads(file.metadata()["n2n"])
        return sum(map(prod, shapes)), metadata

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        known = {key: self.metadata.get(key) for key in ("architecture", "noise", "scores")}
        return {
            "name": self.name,
            "purpose": self.purpose,
            "parameters": self.parameters,
            "bytes": self.bytes,
            **known,
            "file": str(self.path),
            "card": str(self.path.with_suffix(".md")),
        }


def shipped() -> dict[str, Shipped]:
    """The models that are there, by name; the default first."""
    found = sorted(PLACE.glob("*.safetensors"), key=lambda path: (path.stem != DEFAULT, path.stem))
    return {path.stem: Shipped(path.stem, path) for path in found}


def locate(model: str | Path | None = None) -> Path:
    """The file of a model: a shipped one's name, a model file, or the directory of a run.

    None: the default. A name without / is that of a shipped model, if there is one; "./photo" is
    a file or a folder. ModelFileError where nothing is there.
    """
    models = shipped()
    if model is None:
        if DEFAULT not in models:
            raise ModelFileError(
                f"expected the name of a model: no default model ({DEFAULT}) is part of this "
                f"version, only {_listed(models)}; name a model file, a run of n2n train, or one "
                "of these"
            )
        return models[DEFAULT].path
    if str(model) in models and not isinstance(model, Path):
        return models[str(model)].path
    path = Path(model)
    if path.is_dir():
        if not (path / RUNS_MODEL).is_file():
            raise ModelFileError(
                f"{path}: expected a model file, found a folder without {RUNS_MODEL}; give the "
                "directory of a run whose first epoch is done, or a file"
            )
        return path / RUNS_MODEL
    if not path.is_file():
        raise ModelFileError(
            f"{path}: expected a model file, a run or a shipped model ({_listed(models)}), found "
            "nothing there; check the name"
        )
    return path


def _listed(models: dict[str, Shipped]) -> str:
    return ", ".join(models) or "none"
