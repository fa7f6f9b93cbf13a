"""What to measure, and what the results are held against."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from n2n.config import TrainConfig

from .contestants import VARIANTS

__all__ = ["PUBLISHED", "Plan", "Report", "bound_of", "judged"]

# report(what is being done, how much of it is done, of how much)
Report = Callable[[str, int, int], None]

# The published project's own statement: one step of its layers over one of torch's.
PUBLISHED = 2.3

# (part, network or "" for each, precision or "" for each): the most that a ratio may be.
BOUNDS = {
    ("step", "seed", "fp32"): 0.85,
    ("step", "seed", "bf16"): 0.75,
    ("step", "n2n", "fp32"): 1.0,
    ("step", "n2n", "bf16"): 1.0,
    ("step", "unet", "fp32"): 1.2,
    ("inference", "seed", "fp32"): 0.85,
    ("inference", "seed", "bf16"): 0.80,
    ("inference", "n2n", "fp32"): 1.0,
    ("inference", "n2n", "bf16"): 1.0,
    ("memory", "", ""): 1.0,
    ("epoch", "", ""): 1.05,
    ("batch", "", ""): 1.15,
}
SHARE_OF_FLOOR = {("seed", "fp32"): 0.65}  # at least


@dataclass(frozen=True)
class Plan:
    """Which networks, at which precisions, how thoroughly.

    batch_size: None for that of each network's preset. size: height and width of the images in
    all parts but `shapes`. pairs: the set of the part `epoch`, None for one drawn at random.
    quick: tiny batches, no torch.compile, a set of some hundred pairs; figures that mean nothing.
    """

    networks: tuple[str, ...]
    shape_networks: tuple[str, ...]
    precisions: tuple[str, ...]
    rounds: int = 20
    batch_size: int | None = None
    size: int = 32
    device: str = "cpu"
    threads: int = 1
    pairs: Path | None = None
    quick: bool = False

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(name for name in VARIANTS if name != "compile" or not self.quick)

    def config(self, network: str, precision: str = "fp32") -> TrainConfig:
        """The preset of a network: its batch size, optimiser and learning rate.

        AdamW in place of Muon, which torch computes in bf16: layers are compared here.
        """
        config = TrainConfig.of(model=network)
        if config.optimizer == "muon":
            config = replace(config, optimizer="adamw")
        batch = self.batch_size or (8 if self.quick else config.batch_size)
        return replace(
            config,
            batch_size=batch,
            precision=precision,
            device=self.device,
            threads=self.threads,
        )


def bound_of(part: str, network: str, precision: str) -> float | None:
    """The most that this ratio may be, None where nothing was promised."""
    return BOUNDS.get((part, network, precision), BOUNDS.get((part, "", "")))


def judged(ratio: float, bound: float | None) -> dict[str, Any]:
    """A ratio beside its bound."""
    met = None if bound is None else ratio <= bound
    return {"ratio": round(ratio, 4), "bound": bound, "met": met}
