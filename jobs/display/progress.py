"""How far a command is: one display for all, a bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any, Literal

import click

__all__ = ["Progress", "clock"]

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_BARS = 0.1


class Progress:
    """Steps of a stage, whose name may change: called as progress(label, done, total).

    On a terminal a bar, which goes when the stage ends. Elsewhere lines on standard error: at the
    "end" of a stage, at the "start" of each step, "timed" every ten seconds, or "none".
    """

    def __init__(
        self,
        *,
        lines: Literal["end", "start", "timed", "none"] = "end",
        unit: str = "it",
        bar_format: str | None = None,
    ) -> None:
        self._lines = lines
        self._style: dict[str, Any] = {"unit": unit, "bar_format": bar_format}
        self._bar: Any = None
        self._shown = 0.0  # when the bar was drawn last
        self._last = time.monotonic()  # the last line

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __call__(self, label: str, done: float, total: float, *, since: float = 0) -> None:
        """since: what was done when the stage began, which is no part of its speed."""
        if sys.stderr.isatty():
            self._show(label, done, total, since)
        elif self._is_due(done, total):
            click.echo(self._line(label, done, total), err=True)

    def say(self, text: str) -> None:
        """A line on standard error, above the bar if there is one."""
        if self._bar is None:
            click.echo(text, err=True)
        else:
            with self._bar.external_write_mode(file=sys.stderr):
                click.echo(text, err=True)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
            self._shown = 0.0

    def _show(self, label: str, done: float, total: float, since: float) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, initial=since, leave=False, file=sys.stderr, **self._style
            )
        self._bar.total = total
        self._bar.n = done
        self._bar.set_description(label, refresh=False)
        now = time.monotonic()
        if now - self._shown > SECONDS_BETWEEN_BARS:
            self._bar.refresh()
            self._shown = now
        if done >= total:
            self.close()

    def _is_due(self, done: float, total: float) -> bool:
        if self._lines == "timed":
            due = time.monotonic() - self._last > SECONDS_BETWEEN_LINES
            self._last = time.monotonic() if due else self._last
            return due
        return self._lines != "none" and (done >= total) == (self._lines == "end")

    def _line(self, label: str, done: float, total: float) -> str:
        if self._lines == "start":
            return f"{label} ({done + 1} of {total})"
        return label if self._lines == "timed" else f"{label}: {done} of {total}"


def clock(seconds: float) -> str:
    """A duration for a reader."""
    return time.strftime("%H:%M:%S", time.gmtime(seconds)) if seconds < 86400 else "over a day"
