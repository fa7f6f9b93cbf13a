"""When a sweep ends before its trials do: at a signal, when its time is spent, at a fault."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from n2n.errors import Interrupted, N2NError

__all__ = ["Ending"]


class Ending:
    """Is asked after every event, and several times a second, whether to stop all trials.

    fault: asked for what no trial can go on with.
    """

    def __init__(self, time_budget: float | None) -> None:
        self.stopped = False
        self.fault: Callable[[], N2NError | None] = lambda: None
        self._deadline = None if time_budget is None else time.monotonic() + time_budget

    def is_there(self) -> bool:
        return self.stopped or self.out_of_time or self.fault() is not None

    @property
    def out_of_time(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline

    def settle(self) -> None:
        """Raise what ended the sweep, but for the time."""
        fault = self.fault()
        if fault is not None:
            raise fault
        if self.stopped:
            raise Interrupted("stopped; the trials are saved, run the same command again to go on")

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Let Ctrl-C, SIGTERM, a closed terminal stop the trials; a second one ends at once."""

        def stop(number: int, frame: Any) -> None:
            if self.stopped:
                raise KeyboardInterrupt
            self.stopped = True

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
