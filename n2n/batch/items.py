"""What a batch is made of: an input and its output, what became of it, and the sum of all."""

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Item", "Outcome", "Report"]

SCORES = ("psnr", "ssim", "input_psnr")
KEPT_FAILURES = 10_000  # in a report; all of them are in the manifest


@dataclass(frozen=True, slots=True)
class Item:
    """One input and its output, by their names below the roots of the batch, with /.

    `digest`: the sha256 that the manifest records of the input of an output that is there; if
    the input's is still the same, there is nothing to do.
    """

    number: int  # in the order of the plan
    source: str
    destination: str
    size: int = 0  # bytes of the input
    mtime_ns: int | None = None  # when it was changed
    kind: Literal["image", "part"] = "image"
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an item. Each ends as done, skipped or failed; "stopped" ends the whole job
    with the item still to be done."""

    item: Item
    state: Literal["done", "skipped", "failed", "stopped"]
    reason: str | None = None  # of a failure or stop; one line, without the name of the source
    seconds: float = 0.0
    pixels: int = 0  # H·W, over all pages or rows
    drift: float | None = None  # of the mean, in parts of the range of values; the largest page's
    sigma: float | None = (
        None  # of the noise, estimated, in parts of the range; the noisiest page's
    )
    digest: str | None = None  # sha256 of the input
    output_size: int | None = None  # bytes
    notes: tuple[str, ...] = ()  # what a user may want to know, such as the range of floats
    scores: dict[str, Any] | None = None  # of a part of a pair set


@dataclass
class Report:
    """Counts of what was done, and what was not, each with its reason."""

    done: int = 0
    skipped: int = 0
    failed: int = 0
    pixels: int = 0
    failures: list[Outcome] = field(default_factory=list)  # the first ones
    largest_drift: Outcome | None = None
    sigmas: list[float] = field(default_factory=list)  # least and most, in parts of the range
    rows: int = 0  # of parts of pair sets with clean images, and the sums of their scores
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        if outcome.state == "failed":
            self.failed += 1
            if len(self.failures) < KEPT_FAILURES:
                self.failures.append(outcome)
        elif outcome.state == "skipped":
            self.skipped += 1
        elif outcome.state == "done":
            self.done += 1
            self.pixels += outcome.pixels
            self._compare(outcome)
            if outcome.sigma is not None:
                found = [*self.sigmas, outcome.sigma]
                self.sigmas = [min(found), max(found)]
            self._score(outcome.scores or {})

    @property
    def scores(self) -> dict[str, float]:
        """Means over all rows that were scored: psnr, ssim, input_psnr."""
        return {name: total / self.rows for name, total in self.sums.items()}

    def _score(self, scores: dict[str, Any]) -> None:
        found = {name: scores.get(name) for name in SCORES}
        if all(value is not None for value in found.values()):
            self.rows += scores["rows"]
            for name, value in found.items():
                self.sums[name] = self.sums.get(name, 0.0) + scores["rows"] * value

    def _compare(self, outcome: Outcome) -> None:
        if outcome.drift is not None:
            before = self.largest_drift
            if before is None or abs(outcome.drift) > abs(before.drift or 0.0):
                self.largest_drift = outcome

    @property
    def total(self) -> int:
        """Inputs that ended in a state."""
        return self.done + self.skipped + self.failed

    @property
    def exit_code(self) -> int:
        """0 if all went well, 1 if some inputs failed."""
        return 1 if self.failed else 0
