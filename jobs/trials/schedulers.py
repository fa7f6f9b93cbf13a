"""Who of a sweep's trials goes on: Ray's ASHA, or all, told of each epoch once.

A trial whose worker died, and a sweep that is resumed, report again the epochs on record. The
schedulers here hear of each epoch of a trial once, in order, and what was decided after an epoch
is not decided again.
"""

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from n2n import sweep

__all__ = ["All", "Halving", "Population"]


class All(FIFOScheduler):
    """All trials go on to the last epoch."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # ray's
        self._heard: dict[str, int] = {}  # the last epoch, by trial_id

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "score" not in result or result["epoch"] <= self._heard.get(trial.trial_id, 0):
            return str(TrialScheduler.CONTINUE)
        self._heard[trial.trial_id] = result["epoch"]
        return self.on_epoch(tune_controller, trial, result)

    def on_epoch(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """What becomes of a trial after an epoch. result: of `jobs.trials.trial.TrialRun`,
        `score` in it; `replayed` where the trial is known to have gone on."""
        return str(TrialScheduler.CONTINUE)


class Halving(All):
    """ASHA (Li et al. 2020): at grace, grace·reduction, … epochs the best 1/reduction go on.

    past: the finished trials of a sweep that is resumed, which the others are compared with.
    """

    def __init__(
        self,
        past: Iterable[sweep.Trial],
        *,
        max_epochs: int,
        grace: int,
        reduction: int,
        metric: str,
    ) -> None:
        super().__init__()
        self._asha = ASHAScheduler(
            time_attr="epoch",
            metric="score",
            mode="max",
            max_t=max_epochs,
            grace_period=grace,
            reduction_factor=reduction,
        )
        nobody: Any = None
        for trial in past:
            name: Any = SimpleNamespace(trial_id=f"past {trial.number}")
            self._asha.on_trial_add(nobody, name)
            for line in trial.lines:
                result = {"epoch": line["epoch"], "score": sweep.score(line, metric)}
                self._asha.on_trial_result(nobody, name, result)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._asha.on_trial_add(tune_controller, trial)

    def on_epoch(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = str(self._asha.on_trial_result(tune_controller, trial, result))
        return str(TrialScheduler.CONTINUE) if result["replayed"] else decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._asha.on_trial_complete(tune_controller, trial, result)


class Population(All):
    """Trials that wait for each other after every `interval` epochs, and then take over others.

    meet(epoch, numbers): does the takeovers of the trials that are left (`jobs.trials.takeover`),
    and returns what those trials are told now, by number. numbers: the trials not finished yet.
    """

    def __init__(
        self,
        meet: Callable[[int, Iterable[int]], dict[int, dict[str, Any]]],
        numbers: Iterable[int],
        *,
        interval: int,
        max_epochs: int,
    ) -> None:
        super().__init__()
        self._meet, self._interval, self._max_epochs = meet, interval, max_epochs
        self._done = dict.fromkeys(numbers, 0)  # epochs, of the trials that are left
        self._waiting: dict[int, int] = {}  # number: the epoch after which it waits
        self._trials: dict[int, Any] = {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._trials[trial.config["number"]] = trial

    def on_epoch(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        number, epoch = result["number"], result["epoch"]
        self._done[number] = epoch
        if result["replayed"] or epoch % self._interval or epoch >= self._max_epochs:
            return str(TrialScheduler.CONTINUE)
        self._waiting[number] = epoch
        tune_controller.pause_trial(trial, should_checkpoint=False)
        self._meet_if_all_are_there()
        return str(TrialScheduler.NOOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._leave(trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        if not trial.should_recover():
            self._leave(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        for status in (Trial.PENDING, Trial.PAUSED):
            for trial in tune_controller.get_trials():
                if trial.status == status and trial.config["number"] not in self._waiting:
                    return trial
        return None

    def _leave(self, trial: Any) -> None:
        self._done.pop(trial.config["number"], None)
        self._waiting.pop(trial.config["number"], None)
        self._meet_if_all_are_there()

    def _meet_if_all_are_there(self) -> None:
        if not self._waiting or not self._done:
            return
        epoch = min(self._waiting.values())
        if min(self._done.values()) < epoch:
            return
        for number, config in self._meet(epoch, self._done).items():
            self._trials[number].set_config(config)
        self._waiting = {number: waits for number, waits in self._waiting.items() if waits > epoch}
