"""Learning rate as a function of the number of steps done before."""

from math import cos, pi

from n2n.errors import InvalidValue
from n2n.nn.arguments import require_at_least, require_finite, require_not_negative

__all__ = ["ConstantSchedule", "CosineSchedule", "StepSchedule"]


class ConstantSchedule:
    """lr at every step."""

    def __init__(self, lr: float) -> None:
        self.lr = require_not_negative(lr, name="lr")

    def __call__(self, step: int) -> float:
        return self.lr


class StepSchedule:
    """lr · gamma^(step // step_size)."""

    def __init__(self, lr: float, step_size: int, gamma: float = 0.1) -> None:
        self.lr = require_not_negative(lr, name="lr")
        self.step_size = require_at_least(step_size, 1, name="step_size")
        if require_finite(gamma, name="gamma") <= 0:
            raise InvalidValue(f"gamma must be above 0, got {gamma}")
        self.gamma = gamma

    def __call__(self, step: int) -> float:
        return self.lr * self.gamma ** (step // self.step_size)


class CosineSchedule:
    """Linear warm-up to lr, then half a cosine down to final · lr at the last step.

    Steps are counted from 0; the warm-up reaches lr at step warmup_steps - 1. From total_steps on
    the rate stays at final · lr. Loshchilov & Hutter 2017, equation 5, without restarts.
    """

    def __init__(
        self, lr: float, total_steps: int, warmup_steps: int = 0, final: float = 0.0
    ) -> None:
        self.lr = require_not_negative(lr, name="lr")
        self.total_steps = require_at_least(total_steps, 1, name="total_steps")
        self.warmup_steps = require_at_least(warmup_steps, 0, name="warmup_steps")
        if self.warmup_steps >= total_steps:
            raise InvalidValue(
                f"warmup_steps must be below total_steps, got {warmup_steps} of {total_steps}"
            )
        if not 0 <= require_finite(final, name="final") <= 1:
            raise InvalidValue(f"final must be in [0, 1], got {final}")
        self.final = final

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        last = self.total_steps - 1 - self.warmup_steps
        done = min(1.0, (step - self.warmup_steps) / last) if last else 1.0
        return self.lr * (self.final + (1 - self.final) * (1 + cos(pi * done)) / 2)
