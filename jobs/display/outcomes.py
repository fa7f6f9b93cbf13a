"""What `n2n denoise` tells its user: the plan, progress, each failure, a summary."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from jobs.display.progress import Progress, clock

if TYPE_CHECKING:
    from n2n.batch import Batch, Outcome, Plan

__all__ = ["Display", "as_dict", "one_line", "print_plan", "summary"]

BAR = "{desc} |{bar}| {percentage:3.0f}%, {remaining} left"


class Display:
    """Files, megapixels a second, time left and failures so far; failures and notes at once."""

    def __init__(self) -> None:
        self._progress = Progress(lines="timed", bar_format=BAR)
        self._batch: Batch | None = None
        self._started = time.perf_counter()
        self._done = self._left = 0  # bytes
        self.notes: Counter[str] = Counter()

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the bar."""
        self._progress.close()

    def say(self, text: str) -> None:
        """A line for the user."""
        self._progress.say(one_line(f"n2n: {text}"))

    def look(self, files: int) -> None:
        """So many files were found so far."""
        self._progress(f"looking: {files} files", 0, 1)

    def begin(self, batch: "Batch") -> None:
        """The work begins."""
        self._progress.close()
        self._batch = batch
        self._left = batch.plan.size
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the work began."""
        return time.perf_counter() - self._started

    def settle(self, outcome: "Outcome") -> None:
        """One input has ended."""
        assert self._batch is not None
        if outcome.state == "failed":
            shown = self._batch.plan.inputs.shown(outcome.item.source)
            self.say(f"{shown}: {outcome.reason}")
        for note in outcome.notes:
            self.notes[note] += 1
            if self.notes[note] == 1:
                self.say(f"note: {note}")
        self._left -= outcome.item.size
        self._done += outcome.item.size if outcome.state == "done" else 0
        self._progress(self._label(), self._done, self._done + max(self._left, 0) or 1)

    def _label(self) -> str:
        assert self._batch is not None
        report, plan = self._batch.report, self._batch.plan
        parts = [f"{report.total} of {len(plan)} files"]
        parts.append(f"{report.pixels / 1e6 / max(self.seconds, 1e-9):.2f} MP/s")
        if self._done:
            parts.append(f"{clock(self._left / self._done * self.seconds)} left")
        return ", ".join([*parts, f"{report.failed} failed"])


def one_line(text: str) -> str:
    """Names may hold line breaks, and bytes that are no text."""
    text = text.encode(errors="backslashreplace").decode()
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def summary(batch: "Batch", seconds: float) -> str:
    """How many ended in which state; what was measured of those done."""
    report, plan = batch.report, batch.plan
    parts = [f"{report.done} done"]
    if report.skipped:
        parts.append(f"{report.skipped} skipped (done before)")
    if report.failed:
        parts.append(f"{report.failed} failed")
    if plan.ignored:
        parts.append(f"{plan.ignored} other files ignored")
    if plan.excluded:
        parts.append(f"{plan.excluded} excluded")
    lines = [", ".join(parts)]
    if report.done:
        lines.append(_measured(batch, seconds))
    if report.scores:
        lines.append(
            "{psnr:.2f} dB PSNR, {ssim:.4f} SSIM against the clean images; the inputs "
            "{input_psnr:.2f} dB".format(**report.scores)
        )
    return "\n".join(lines)


def _measured(batch: "Batch", seconds: float) -> str:
    report = batch.report
    pixels = report.pixels / 1e6
    line = f"{pixels:.2f} megapixels in {seconds:.1f} s, {pixels / max(seconds, 1e-9):.2f} a second"
    worst = report.largest_drift
    if worst is not None and worst.drift is not None:
        line += f"; largest drift of a mean {100 * worst.drift:+.3f} % of the range"
        if not batch.plan.single:
            line += f", {one_line(worst.item.source)}"
    if report.sigmas:
        line += f"\n{_noise(report.sigmas)}"
    return line


def _noise(sigmas: Sequence[float]) -> str:
    least, most = (f"{255 * sigma:.1f}" for sigma in sigmas)
    found = least if least == most else f"{least} to {most}"
    return f"estimated noise of the inputs: standard deviation {found} (of 255)"


def as_dict(batch: "Batch", place: str, seconds: float) -> dict[str, Any]:
    """The result for programs."""
    report, plan = batch.report, batch.plan
    worst = report.largest_drift
    drift = None if worst is None else {"input": worst.item.source, "of_range": worst.drift}
    return {
        "input": plan.inputs.root,
        "output": plan.outputs.root,
        "device": place,
        "settings": batch.settings,
        "done": report.done,
        "skipped": report.skipped,
        "failed": report.failed,
        "failures": [{"input": one.item.source, "reason": one.reason} for one in report.failures],
        "ignored": plan.ignored,
        "excluded": plan.excluded,
        "megapixels": round(report.pixels / 1e6, 6),
        "largest_drift": drift,
        "sigma": report.sigmas or None,
        "scores": report.scores or None,
        "seconds": round(seconds, 3),
    }


PLANNED = {"done": "do", "skipped": "skip", "failed": "fail"}


def print_plan(plan: "Plan", outcomes: "Iterable[Outcome]", *, as_json: bool) -> int:
    """What would be done, a line for each input; nothing is written. 1 if something would fail."""
    counts = Counter(dict.fromkeys(PLANNED.values(), 0))
    notes: Counter[str] = Counter()
    if as_json:
        click.echo('{"files": [')
    for number, outcome in enumerate(outcomes):
        counts[PLANNED[outcome.state]] += 1
        notes.update(outcome.notes)
        if as_json:
            click.echo(("," if number else "") + json.dumps(_planned(outcome)))
        else:
            click.echo(_planned_line(plan, outcome))
    if as_json:
        totals = {**counts, "ignored": plan.ignored, "excluded": plan.excluded, "notes": notes}
        click.echo(f"], {json.dumps(totals)[1:]}")
    else:
        for note, count in notes.items():
            click.echo(f"note: {note} ({count} files)")
        click.echo(
            f"{counts['do']} to do, {counts['skip']} done before, {counts['fail']} would fail, "
            f"{plan.ignored} other files ignored, {plan.excluded} excluded; nothing was written"
        )
    return 1 if counts["fail"] else 0


def _planned(outcome: "Outcome") -> dict[str, Any]:
    item = outcome.item
    entry = {"input": item.source, "output": item.destination, "plan": PLANNED[outcome.state]}
    return entry | ({"reason": outcome.reason} if outcome.reason else {})


def _planned_line(plan: "Plan", outcome: "Outcome") -> str:
    source = plan.inputs.shown(outcome.item.source)
    line = f"{PLANNED[outcome.state]:4s}  {source} → {plan.outputs.shown(outcome.item.destination)}"
    return one_line(f"{line}: {outcome.reason}" if outcome.reason else line)
