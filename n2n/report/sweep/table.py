"""All trials of a sweep: a table to be filtered and sorted, and each trial by itself."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from n2n.report import Options
from n2n.report.blocks import Cell, Facts
from n2n.report.page import Block
from n2n.report.sweep.account import Account, text_of
from n2n.sweep import Trial

__all__ = ["TrialDetails", "TrialTable", "details", "trial_table"]

WIDTH, HEIGHT = 240, 48  # of a small curve


@dataclass(frozen=True)
class TrialTable(Block):
    """Rows to be filtered by text and state, and sorted by column.

    rows: the trial's number, its state, and the cells: what is shown, and what it is sorted by.
    """

    columns: Sequence[str]
    rows: Sequence[tuple[int, str, Sequence[tuple[str, Cell]]]]
    states: Sequence[str]
    template: ClassVar[str] = "trials.html.jinja"
    styles: ClassVar[tuple[str, ...]] = ("controls.css", "trials.css")
    scripts: ClassVar[tuple[str, ...]] = ("trials.js",)


@dataclass(frozen=True)
class Detail:
    """A trial by itself. curve: points of a small SVG; link: to its own report, from the page."""

    number: int
    summary: str
    reason: str | None
    curve: str
    curve_says: str
    facts: Facts
    link: str | None
    command: str


@dataclass(frozen=True)
class TrialDetails(Block):
    """Each trial by itself, closed until it is asked for."""

    details: Sequence[Detail]
    template: ClassVar[str] = "details.html.jinja"
    styles: ClassVar[tuple[str, ...]] = ("trials.css",)
    scripts: ClassVar[tuple[str, ...]] = ("trials.js",)

    def inner(self) -> Iterator[Block]:
        yield from (one.facts for one in self.details)


def state_of(trial: Trial, options: Options) -> str:
    """For a reader."""
    if trial.state == "begun":
        return "running" if options.live else "unfinished"
    return trial.state


def trial_table(account: Account, options: Options) -> TrialTable:
    """Of all trials, by number."""
    names = account.varying
    rows = []
    for trial in account.trials:
        state = state_of(trial, options)
        seconds = account.seconds(trial)
        cells: list[tuple[str, Cell]] = [
            (str(trial.number), trial.number),
            (state, state),
            (account.number(trial.score), account.shown(trial.score)),
            (f"{trial.epochs}", trial.epochs),
            (f"{seconds:.1f}", seconds),
        ]
        for name in names:
            value = trial.settings.get(name)
            cells.append((text_of(value), value))
        rows.append((trial.number, state, cells))
    columns = ["trial", "state", account.metric_name, "epochs", "seconds", *names]
    return TrialTable(columns, rows, sorted({state for _, state, _ in rows}))


def details(account: Account, options: Options) -> TrialDetails:
    """Of all trials, by number."""
    folder = options.folder or account.path / "report"
    return TrialDetails([_detail(account, trial, folder, options) for trial in account.trials])


def _detail(account: Account, trial: Trial, folder: Path, options: Options) -> Detail:
    run = account.run(trial)
    settings = {**run.read_settings(), **trial.settings}
    settings = {**settings, **settings.pop("model_config", {})}
    points = [(epoch, value) for epoch, value in account.curve(trial) if value is not None]
    values = [value for _, value in points]
    page = run.path / "report" / "index.html"
    score = account.number(trial.score)
    return Detail(
        trial.number,
        f"Trial {trial.number}: {state_of(trial, options)}"
        + (f", {score} after {trial.best_epoch} of {trial.epochs} epochs" if values else ""),
        trial.reason,
        _polyline(points),
        f"{account.metric_name} over {len(values)} epochs, from {min(values):.2f} to "
        f"{max(values):.2f}"
        if values
        else "",
        Facts([(name, text_of(value)) for name, value in settings.items() if value is not None]),
        quote(os.fsencode(os.path.relpath(page, folder))) if page.exists() else None,
        f"n2n report {run.path}",
    )


def _polyline(points: Sequence[tuple[int, float]]) -> str:
    """The points of a curve in a picture of WIDTH by HEIGHT."""
    if len(points) < 2:
        return ""
    first, last = points[0][0], points[-1][0]
    low, high = min(value for _, value in points), max(value for _, value in points)
    span = high - low or 1.0
    return " ".join(
        f"{2 + (WIDTH - 4) * (epoch - first) / (last - first):.1f},"
        f"{HEIGHT - 4 - (HEIGHT - 8) * (value - low) / span:.1f}"
        for epoch, value in points
    )
