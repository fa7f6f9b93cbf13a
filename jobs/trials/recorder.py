"""What becomes of a sweep's trials on Ray Tune: recorded in its directory, told to who listens."""

from collections.abc import Callable, Mapping
from typing import Any

from ray.tune import Callback

from jobs.trials.local import Local
from n2n.errors import JobFailed
from n2n.sweep import Event, Sample, SweepDirectory

__all__ = ["Recorder"]

LOW_MEMORY = ("low on memory", "memory pressure")  # what Ray says when it has ended a process


class Recorder(Local, Callback):
    """Tune calls it in the driver. `fault`: what no trial can go on with, once it is known.

    settings: of each trial that has been proposed, by number.
    """

    def __init__(
        self,
        directory: SweepDirectory,
        settings: Mapping[int, Sample],
        begun: set[int],
        on_event: Callable[[Event], None],
        deaths: int,
    ) -> None:
        self._directory, self._settings = directory, settings
        self._begun, self._ended = begun, set[int]()
        self._told = dict[int, int]()  # the last epoch told of each trial
        self._on_event, self._deaths = on_event, deaths
        self._news: list[Event] = []  # of takeovers, which come of an epoch that is told after them
        self.fault: JobFailed | None = None

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        if number not in self._begun:
            self._begun.add(number)
            self._directory.add(number, "begun", settings=self._settings[number])
        if number not in self._told:
            self._told[number] = 0
            self._on_event(Event("begun", number, settings=self._settings[number]))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        number = result["number"]
        if "line" in result and result["epoch"] > self._told.get(number, 0):
            self._told[number] = result["epoch"]
            self._on_event(Event("epoch", number, line=result["line"]))
        self._tell_news()
        if result.get("fatal"):
            self.fault = JobFailed(f"trial {number}: {result['reason']}")
        elif "outcome" in result:
            self._end(number, result["outcome"], result.get("reason"))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        self._on_event(Event("lost", number, reason=self._reason(trial)))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        self._end(number, "failed", f"{self._reason(trial)} {self._deaths} times")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if self.fault is None:
            self._end(trial.config["number"], "stopped", None)

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

    def _reason(self, trial: Any) -> str:
        path = trial.error_file
        text = ""
        if path:
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read().lower()
        if any(words in text.rpartition("failure #")[2] for words in LOW_MEMORY):
            return "its process was ended for lack of memory"
        return "its process died, perhaps for lack of memory,"
