"""What a sweep says of itself while it runs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from n2n.sweep import Sample

__all__ = ["Event"]


@dataclass(frozen=True)
class Event:
    """News of a sweep. kind says what happened to the trial `number`:

    begun: its first epoch begins; settings.
    progress: epoch (those done) and progress (of the next one, 0 to 1).
    epoch: one is done; epoch, line (as in metrics.jsonl), score (higher is better). Also of the
        epochs on record, when a trial goes on.
    lost: its process died, reason; it goes on from its checkpoint.
    takeover: it goes on with the weights of trial `donor`, and with new settings.
    done, stopped (by the scheduler), failed (reason): its end.
    note: reason says something of the sweep; number is -1.
    """

    number: int
    kind: str
    settings: "Sample | None" = None
    epoch: int = 0
    progress: float = 0.0
    line: dict[str, Any] | None = None
    score: float | None = None
    donor: int | None = None
    reason: str = ""
