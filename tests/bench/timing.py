"""Times of several sides that take turns, so that all of them meet the same machine."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

__all__ = ["Call", "Timing", "alternate", "ratio", "warm_up"]

Call = Callable[[], object]

WARM_UP = 3  # calls: kept buffers, primitives and the allocator have settled
BURST = 3  # calls of a side in its turn


@dataclass(frozen=True)
class Timing:
    """Seconds of a call."""

    median: float
    fastest: float
    calls: int

    @classmethod
    def of(cls, seconds: list[float]) -> "Timing":
        return cls(statistics.median(seconds), min(seconds), len(seconds))

    def as_dict(self) -> dict[str, float | int]:
        return {
            "median_ms": round(1e3 * self.median, 4),
            "min_ms": round(1e3 * self.fastest, 4),
            "calls": self.calls,
        }


def warm_up(calls: Mapping[str, Call], optional: str = "") -> dict[str, str]:
    """Call each side until it is warm; the reason, in a line, for an optional one that cannot."""
    reasons = {}
    for name, call in calls.items():
        try:
            for _ in range(WARM_UP):
                call()
        except Exception as error:
            if name != optional:
                raise
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reasons[name] = f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
    return reasons


def alternate(
    calls: Mapping[str, Call],
    *,
    rounds: int,
    device: torch.device | str = "cpu",
    burst: int = BURST,
) -> dict[str, Timing]:
    """Time warm sides in turns: a short burst of each a round, another one first each time.

    On a GPU a call's time ends when its work has ended.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            for _ in range(burst):
                seconds[name].append(_seconds(calls[name], torch.device(device)))
    return {name: Timing.of(taken) for name, taken in seconds.items()}


def ratio(own: float, others: Mapping[str, float]) -> tuple[str, float]:
    """(name of the least of the others, ours over it)."""
    name = min(others, key=lambda key: others[key])
    return name, own / others[name]


def _seconds(call: Call, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
