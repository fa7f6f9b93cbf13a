"""How to denoise: what changes the result, and so belongs to what a manifest compares."""

from dataclasses import asdict, dataclass
from math import inf, isfinite
from typing import Any

from n2n.errors import InvalidType, InvalidValue

__all__ = ["Options"]


@dataclass(frozen=True)
class Options:
    """How to denoise. Every one of them changes the result.

    strength: from 0, which gives the input back exactly, to 1, the network's result: a blend.
    clip_residual: no number changes by more than so many times the σ of the image's noise, as far
    as that can be estimated (`n2n.noise_level`), so that fine detail of an image that is nearly
    clean stays. For white noise alone. None: whatever the network says.
    tta: the mean over the eight flips and turns of the image; eight times the work.
    keep_mean: shift each channel so that its mean stays what it was.
    value_range: black and white, on the image's own scale. None: the full range of integers;
    [0, 1] for floats that lie in it, else their own extremes. What lies beyond is kept: it is cut
    off before the network and put back after it.
    """

    strength: float = 1.0
    tta: bool = False
    keep_mean: bool = False
    value_range: tuple[float, float] | None = None
    clip_residual: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """What is recorded and compared; without clip_residual where it is None, since manifests
        are older than that."""
        told = asdict(self)
        if self.clip_residual is None:
            del told["clip_residual"]
        return told

    def __post_init__(self) -> None:
        for name in ("tta", "keep_mean"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidType(f"{name}: True or False expected, got {getattr(self, name)!r}")
        if isinstance(self.strength, bool) or not isinstance(self.strength, int | float):
            raise InvalidType(f"strength: a number expected, got {self.strength!r}")
        if not 0 <= self.strength <= 1:
            raise InvalidValue(f"strength: from 0 to 1 expected, got {self.strength}")
        clip = self.clip_residual
        if clip is not None and (isinstance(clip, bool) or not isinstance(clip, int | float)):
            raise InvalidType(f"clip_residual: a number or None expected, got {clip!r}")
        if clip is not None and not 0 < clip < inf:
            raise InvalidValue(f"clip_residual: above 0 expected, got {clip}")
        if self.value_range is not None:
            object.__setattr__(self, "value_range", _black_and_white(self.value_range))


def _black_and_white(values: object) -> tuple[float, float]:
    if (
        not isinstance(values, tuple | list)
        or len(values) != 2
        or not all(isinstance(value, int | float) for value in values)
    ):
        raise InvalidType(f"value_range: two numbers expected, got {values!r}")
    black, white = map(float, values)
    if not (isfinite(black) and isfinite(white) and black < white):
        raise InvalidValue(f"value_range: black below white expected, got {black} and {white}")
    return black, white
