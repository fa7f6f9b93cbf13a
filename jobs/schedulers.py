"""Who of a sweep's trials goes on: Ray's ASHA, or all, told of each epoch once.

A trial whose worker died, and a sweep that is resumed, report again the epochs on record. The
schedulers here hear of each epoch of a trial once, in order, and what was decided after an epoch
is not decided again.
"""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from n2n.sweep import Trial, score

__all__ = ["All", "Halving"]


class All(FIFOScheduler):  # type: ignore[misc]  # ray's classes have no types
    """All trials go on to the last epoch."""

    def __init__(self) -> None:
        super().__init__()
        self._heard: dict[str, int] = {}  # the last epoch, by Tune's name of the trial

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "score" not in result or result["epoch"] <= self._heard.get(trial.trial_id, 0):
            return str(TrialScheduler.CONTINUE)
        self._heard[trial.trial_id] = result["epoch"]
        return self.on_epoch(tune_controller, trial, result)

    def on_epoch(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """What becomes of a trial after an epoch. result: of `jobs.trial.TrialRun`, `score` in it;
        `replayed` where the trial is known to have gone on."""
        return str(TrialScheduler.CONTINUE)


class Halving(All):
    """ASHA (Li et al. 2020): at grace, grace·reduction, … epochs the best 1/reduction go on.

    past: the finished trials of a sweep that is resumed, which the others are compared with.
    """

    def __init__(
        self, past: Iterable[Trial], *, max_epochs: int, grace: int, reduction: int, metric: str
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
        for trial in past:
            name = SimpleNamespace(trial_id=f"past {trial.number}")
            self._asha.on_trial_add(None, name)
            for line in trial.lines:
                result = {"epoch": line["epoch"], "score": score(line, metric)}
                self._asha.on_trial_result(None, name, result)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._asha.on_trial_add(tune_controller, trial)

    def on_epoch(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = str(self._asha.on_trial_result(tune_controller, trial, result))
        return str(TrialScheduler.CONTINUE) if result["replayed"] else decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._asha.on_trial_complete(tune_controller, trial, result)
