"""The trials of a sweep as they run: a live table on a terminal, a line for each news elsewhere."""

import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from jobs.display.progress import clock

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from n2n.sweep import Event, Sample, Trial

__all__ = ["Board", "score_text", "settings_text"]

REFRESHES = 4  # a second
AROUND = 6  # lines of the terminal that are not a trial's
HEADS = {"psnr": "PSNR", "estimated-psnr": "estimated PSNR", "loss": "loss"}
FOREMOST = ("model", "width", "depth", "hidden", "blocks", "optimizer", "lr", "momentum")
WORDS = {"begun": "running", "lost": "lost, goes on"}
STYLES = {"running": "cyan", "failed": "red", "stopped": "dim", "lost, goes on": "yellow"}


@dataclass
class Row:
    """What is shown of a trial."""

    settings: str = ""
    state: str = "waiting"
    epoch: int = 0
    progress: float = 0.0
    score: float | None = None  # of the best epoch, higher is better
    reason: str = ""


class Board:
    """Hears of a sweep's news (`board.hear`), and shows them on standard error.

    head: a line that is said with the first news. trials: those that the sweep has already.
    varying: the parameters to show; the others have the same value in all trials.
    """

    def __init__(
        self,
        head: str,
        *,
        count: int,
        epochs: int,
        metric: str,
        varying: Iterable[str],
        trials: "Iterable[Trial]" = (),
        console: "Console | None" = None,
    ) -> None:
        self._head, self._begun = head, False
        self._count, self._epochs, self._metric = count, epochs, metric
        self._varying = tuple(varying)
        self._rows: dict[int, Row] = {}
        self._notes: list[str] = []
        self._began = time.monotonic()
        self._lock = threading.Lock()  # rich draws in a thread of its own
        self._console = console
        self._live: Any = None
        for trial in trials:
            state = trial.state if trial.finished else "waiting"
            text = settings_text(trial.settings, self._varying)
            reason = trial.reason or ""
            self._rows[trial.number] = Row(
                text, state, trial.epochs, score=trial.score, reason=reason
            )

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune pickles whoever listens, for a file that nobody reads; a terminal
        cannot be pickled."""
        return {}

    def __enter__(self) -> "Board":
        return self

    def _begin(self) -> None:
        """With the first news: until then, the sweep may still be refused."""
        self._begun = True
        click.echo(self._head, err=True)
        if self._console is not None or sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            console = self._console or Console(stderr=True)
            self._live = Live(
                get_renderable=self.draw,
                console=console,
                refresh_per_second=REFRESHES,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()  # the table stays, as it was at the end

    def hear(self, event: "Event") -> None:
        """Take in what happened."""
        if not self._begun:
            self._begin()
        with self._lock:
            line = self._take(event)
        if line and self._live is None:
            click.echo(line, err=True)

    def _take(self, event: "Event") -> str | None:
        """Change the rows; returns a line for a reader where there is no table."""
        if event.trial is None:
            self._notes.append(event.reason or "")
            return event.reason
        row = self._rows.setdefault(event.trial, Row())
        name = f"trial {event.trial}"
        if event.kind == "progress":
            row.progress = event.progress
            return None
        if event.kind == "epoch" and event.line is not None:
            return f"{name}  {self._epoch(row, event.line)}"
        row.state = WORDS.get(event.kind, event.kind)
        row.reason, row.progress = event.reason or "", 0.0
        if event.kind == "begun":
            row.settings = settings_text(event.settings or {}, self._varying)
            return f"{name}  {row.settings}"
        words = [event.kind, *([f"after epoch {row.epoch}"] if row.epoch else [])]
        if row.score is not None:
            words.append(f"with {score_text(row.score, self._metric)}")
        return f"{name}  {' '.join(words)}{f': {row.reason}' if row.reason else ''}"

    def _epoch(self, row: Row, line: dict[str, Any]) -> str:
        from n2n.sweep import score

        found = score(line, self._metric)
        row.score = found if row.score is None else max(found, row.score)
        row.state, row.epoch, row.progress = "running", line["epoch"], 0.0
        return f"epoch {row.epoch}/{self._epochs}  {score_text(found, self._metric)}"

    def draw(self) -> "Table":
        """The table: those that run, then the best, as many as the terminal has lines for."""
        from rich.table import Table
        from rich.text import Text

        with self._lock:
            rows, notes = sorted(self._rows.items(), key=_rank), self._notes[-1:]
        room = max(3, self._console_height() - AROUND)
        hidden = len(rows) - room
        caption = [self._summary(), *notes]
        if hidden > 0:
            caption.insert(0, f"{hidden} more trials, not shown")
        table = Table(caption=Text("\n".join(caption)), caption_justify="left", expand=False)
        head = HEADS[self._metric]
        for title, side in (("trial", "right"), ("settings", "left"), ("epoch", "right")):
            table.add_column(title, justify=side)  # type: ignore[arg-type]  # one of its words
        table.add_column(head, justify="right")
        table.add_column("state")
        for number, row in rows[:room]:
            state = f"{row.state}: {row.reason}" if row.reason else row.state
            part = f" +{row.progress:.0%}" if row.progress else ""
            cells = [str(number), row.settings, f"{row.epoch}/{self._epochs}{part}"]
            cells += [_figure(row.score, self._metric), state]
            texts = (Text(cell, no_wrap=True, overflow="ellipsis") for cell in cells)  # one line
            table.add_row(*texts, style=STYLES.get(row.state, ""))
        return table

    def _console_height(self) -> int:
        return int(self._live.console.height) if self._live is not None else 24

    def _summary(self) -> str:
        states = [row.state for row in self._rows.values()]
        ended = sum(state in ("done", "stopped", "failed") for state in states)
        parts = [f"{ended} of {self._count} trials ended"]
        parts += [f"{count} {word}" for word in ("running",) if (count := states.count(word))]
        scored = {number: row.score for number, row in self._rows.items() if row.score is not None}
        if scored:
            best = max(scored, key=lambda number: scored[number])
            parts.append(f"best: trial {best}, {score_text(scored[best], self._metric)}")
        return f"{', '.join(parts)}; {clock(time.monotonic() - self._began)}"


def settings_text(sample: "Sample", varying: Iterable[str] | None = None) -> str:
    """Settings for a reader, those of some parameters only: "lr 5  width 48  no flips"."""
    names = sample if varying is None else [name for name in varying if name in sample]
    return "  ".join(_setting(name, sample[name]) for name in sorted(names, key=_place))


def _place(name: str) -> tuple[int, str]:
    """What matters most comes first, the rest by the alphabet."""
    return FOREMOST.index(name) if name in FOREMOST else len(FOREMOST), name


def _setting(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"no {name}"
    if isinstance(value, float):
        return f"{name} {value:.3g}"
    return value if name in ("model", "optimizer", "schedule", "loss") else f"{name} {value}"


def score_text(score: float, metric: str) -> str:
    """A score (higher is better) for a reader, with its name."""
    return f"{HEADS[metric]} {_figure(score, metric)}{'' if metric == 'loss' else ' dB'}"


def _figure(score: float | None, metric: str) -> str:
    if score is None:
        return ""
    return f"{-score:.6f}" if metric == "loss" else f"{score:.2f}"


def _rank(item: tuple[int, Row]) -> tuple[bool, float, int]:
    """Those at work first, then by score."""
    number, row = item
    working = row.state in WORDS.values()
    score = float("-inf") if row.score is None else row.score
    return not working, -score if not working else 0.0, number
