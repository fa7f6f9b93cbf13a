"""What becomes of a sweep's trials: recorded in its directory, told to who listens."""

from collections.abc import Callable, Mapping
from typing import Any

from n2n.errors import JobFailed
from n2n.sweep import Event, Sample, SweepDirectory

__all__ = ["Recorder"]

LOW_MEMORY = ("low on memory", "memory pressure")  # what Ray says when it has ended a process


class Recorder:
    """Hears of every trial, in the driver. `fault`: what no trial can go on with, once known.

    settings: of each trial that has been proposed, by number. begun: those of an earlier driver.
    """

    def __init__(
        self,
        directory: SweepDirectory,
        settings: Mapping[int, Sample],
        begun: set[int],
        on_event: Callable[[Event], None],
    ) -> None:
        self._directory, self._settings = directory, settings
        self._begun, self._ended = begun, set[int]()
        self._told = dict[int, int]()  # the last epoch told of each trial
        self._on_event = on_event
        self._news: list[Event] = []  # of takeovers, which come of an epoch that is told after them
        self.fault: JobFailed | None = None

    def begun(self, number: int) -> None:
        """A process takes the trial up, perhaps again."""
        if number not in self._begun:
            self._begun.add(number)
            self._directory.add(number, "begun", settings=self._settings[number])
        if number not in self._told:
            self._told[number] = 0
            self._on_event(Event("begun", number, settings=self._settings[number]))

    def heard(self, result: Mapping[str, Any]) -> None:
        """A result of `jobs.trials.trial.TrialRun`."""
        number = result["number"]
        if "progress" in result:
            self._on_event(Event("progress", number, progress=result["progress"]))
        if "line" in result and result["epoch"] > self._told.get(number, 0):
            self._told[number] = result["epoch"]
            self._on_event(Event("epoch", number, line=result["line"]))
        self._tell_news()
        if result.get("fatal"):
            self.fault = JobFailed(f"trial {number}: {result['reason']}")
        elif "outcome" in result:
            self._end(number, result["outcome"], result.get("reason"))

    def lost(self, number: int, death: str) -> None:
        """Its process died, and it goes on. death: Ray's words."""
        self._on_event(Event("lost", number, reason=reason_of(death)))

    def died(self, number: int, death: str, times: int) -> None:
        """Its process died so often that it is given up."""
        self._end(number, "failed", f"{reason_of(death)} {times} times")

    def stopped(self, number: int) -> None:
        """The scheduler has let it go no further, unless it had ended by itself."""
        if self.fault is None:
            self._end(number, "stopped", None)

    def take_over(self, number: int, settings: Sample) -> None:
        """Tell, in its turn, that a trial goes on with other settings."""
        self._news.append(Event("begun", number, settings=settings))

    def _tell_news(self) -> None:
        for event in self._news:
            self._on_event(event)
        self._news.clear()

    def _end(self, number: int, state: str, reason: str | None) -> None:
        if number in self._ended:
            return
        self._ended.add(number)
        self._directory.add(number, state, reason=reason)
        self._on_event(Event(state, number, reason=reason))
        self._tell_news()


def reason_of(death: str) -> str:
    if any(words in death.lower() for words in LOW_MEMORY):
        return "its process was ended for lack of memory"
    return "its process died, perhaps for lack of memory,"
