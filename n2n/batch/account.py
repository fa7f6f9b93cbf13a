"""What a manifest says in the end: the runs, and the last word on each output."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from n2n.batch.manifest import parse_line

__all__ = ["Account", "Entry", "Run", "read_account"]


@dataclass
class Run:
    """One `n2n denoise` into the folder: its header, and the counts at its end (none: stopped)."""

    header: dict[str, Any]
    end: dict[str, Any] | None = None

    @property
    def input(self) -> str:
        """The root of the inputs' names, as the user gave it."""
        return str(self.header.get("input", ""))


@dataclass(frozen=True, slots=True)
class Entry:
    """What the manifest says last of an output: the fields are those of its line.

    state: "begun" of one that was not finished. run: the place in `Account.runs` of the run that
    said it.
    """

    state: Literal["begun", "done", "failed"]
    input: str
    output: str
    run: int
    reason: str | None = None
    size: int | None = None
    mtime_ns: int | None = None
    digest: str | None = None
    output_size: int | None = None
    pixels: int = 0
    drift: float | None = None
    seconds: float = 0.0
    scores: dict[str, Any] = field(default_factory=dict)


@dataclass
class Account:
    """The runs, in order, and an entry for each output, in the order of the plan."""

    runs: list[Run]
    entries: list[Entry]


NAMES = frozenset(Entry.__slots__) - {"run"}


def read_account(path: Path) -> Account:
    """Of a manifest's file; memory grows with the number of outputs. OSError passes."""
    runs: list[Run] = []
    entries: dict[str, Entry] = {}
    with path.open("rb") as file:
        for line in file:
            record = parse_line(line)
            if record.get("state") in ("begun", "done", "failed") and "input" in record:
                known = {name: value for name, value in record.items() if name in NAMES}
                entries[record["output"]] = Entry(run=max(0, len(runs) - 1), **known)
            elif isinstance(record.get("run"), dict):
                runs.append(Run(record["run"]))
            elif isinstance(record.get("end"), dict) and runs:
                runs[-1].end = record["end"]
    return Account(runs, list(entries.values()))
