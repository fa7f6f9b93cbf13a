"""What is kept up beside the work of `n2n train` and `n2n sweep`: report, TensorBoard's files."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Listener", "Onlookers"]

SHARE = 0.02  # of the time, that the report may take while the work goes on


class Listener(Protocol):
    """What hears of news: an epoch's line of metrics, or an event of a sweep."""

    def hear(self, news: Any, /) -> None: ...
    def close(self) -> None: ...


class Onlookers:
    """Hear of news (`hear`). What goes wrong with them is said once, and never ends the work.

    path: of the run or sweep, to which the report belongs; None: no report. It is written anew
    with the first news, and later so seldom that it takes at most SHARE of the time; when the
    block ends, once more: as a whole, or what is quickly done where the work was stopped.
    events: makes what keeps the event files, when the first news come; say: tells the user.
    """

    def __init__(
        self,
        path: Path | None,
        events: Callable[[], Listener] | None,
        say: Callable[[str], None],
        *,
        threads: int = 1,
    ) -> None:
        self._path, self._make, self._say, self._threads = path, events, say, threads
        self._events: Listener | None = None
        self._due = 0.0
        self._said: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune pickles whoever listens, for a file that nobody reads."""
        return {}

    def __enter__(self) -> "Onlookers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._events is not None:
            with self._safely("event files"):
                self._events.close()
        if self._path is not None and self._path.is_dir():
            self._report(self._path, live=False, quick=kind is not None)

    def hear(self, news: Any, *, worth_a_page: bool = True) -> None:
        """Take in what happened. worth_a_page: whether the report would change."""
        if self._make is not None:
            with self._safely("event files"):
                self._events = self._events or self._make()
                self._events.hear(news)
        if self._path is not None and worth_a_page and time.monotonic() >= self._due:
            began = time.monotonic()
            self._report(self._path, live=True, quick=True)
            ended = time.monotonic()
            self._due = ended + (ended - began) / SHARE

    def _report(self, path: Path, *, live: bool, quick: bool) -> None:
        with self._safely("report"):
            from n2n.report import Options, report

            report(path, options=Options(threads=self._threads, live=live, quick=quick))

    @contextmanager
    def _safely(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if what not in self._said:
                self._said.add(what)
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                self._say(f"n2n: warning: no {what} ({reason}); the work goes on")
