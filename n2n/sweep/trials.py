"""What is known of the trials of a sweep: from the log, and from their run directories."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from n2n.sweep.settings import score, selection
from n2n.sweep.space import Sample

__all__ = ["STATES", "Event", "Trial", "read_log", "read_metrics"]

STATES = ("begun", "done", "stopped", "failed")


@dataclass(frozen=True)
class Event:
    """News of a sweep, for those who watch it.

    kind: of STATES; "epoch", with the line of its metrics; "lost", of a trial whose process died
    and which goes on from its checkpoint; "note", of the sweep as a whole (trial is None), for a
    reader; or "progress", with the part of the next epoch that is done, from 0 to 1. settings:
    with "begun". reason: with "failed" and "lost"; the text of a note.
    """

    kind: str
    trial: int | None = None
    settings: Sample | None = None
    line: dict[str, Any] | None = None
    reason: str | None = None
    progress: float = 0.0


@dataclass(frozen=True)
class Trial:
    """What is known of a trial.

    state: of STATES, "begun" for all that is not finished. settings: the parameters' values, the
    last where they changed. lines: metrics, of the epochs that its model comes from. score,
    best_epoch: of the epoch whose weights model.safetensors holds (a run chooses it by the squared
    error); None before the first one is done. inherits: whether it took over another's weights.
    """

    number: int
    state: str
    settings: Sample
    reason: str | None = None
    lines: list[dict[str, Any]] = field(default_factory=list)
    score: float | None = None
    best_epoch: int | None = None
    inherits: bool = False

    @property
    def epochs(self) -> int:
        """How many are done."""
        return len(self.lines)

    @property
    def finished(self) -> bool:
        """Whether nothing of it is left to do."""
        return self.state != "begun"

    @classmethod
    def of(
        cls,
        number: int,
        records: list[dict[str, Any]],
        lines: list[dict[str, Any]],
        metric: str | None,
    ) -> "Trial":
        """From its lines in the log and in metrics.jsonl."""
        settings = [record["settings"] for record in records if "settings" in record]
        best = max(lines, key=selection, default=None)  # of equal ones the first, as in a run
        return cls(
            number,
            records[-1]["state"],
            settings[-1] if settings else {},
            records[-1].get("reason"),
            lines,
            score(best, metric) if best and metric else None,
            best["epoch"] if best else None,
            any("donor" in record for record in records),
        )


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of trials.jsonl; nothing where there is none. Torn lines are passed over."""
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("trial"), int) and "state" in record:
            found.append(record)
    return found


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; nothing where there is none."""
    path = run / "metrics.jsonl"
    try:
        return [json.loads(line) for line in path.read_bytes().splitlines()]
    except FileNotFoundError:
        return []
