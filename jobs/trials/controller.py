"""Trials at work on Ray: processes that train one after another, and who tells them what.

It stands where Ray Tune's own controller would, and asks the same schedulers and searchers the
same questions. Tune's makes every trial's process import Tune, pandas and what else they bring,
60 MB a process; here they stay in the driver.
"""

import time
from collections.abc import Callable
from itertools import count
from typing import Any

import ray
from ray.tune.experiment import Trial as Status
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from jobs.processes.pool import require_ray
from jobs.processes.seat import Died, Placement, capacity, dismiss, fetch
from jobs.trials.process import Actor
from jobs.trials.recorder import Recorder
from jobs.trials.shared import SharedSet
from jobs.trials.trial import Task
from n2n.errors import JobFailed

__all__ = ["Controller"]

DEATHS = 3  # of a trial's process, after which the trial has failed; of each seat's at its start
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_TO_WAIT = 0.1  # for news, before the next look at signals and the time
SECONDS_TO_HALT = 60.0  # for a batch and a checkpoint


class Trial:
    """One trial as schedulers of Ray Tune see it. config: the fields of its `Task`."""

    def __init__(self, trial_id: str, config: dict[str, Any]) -> None:
        self.trial_id, self.config = trial_id, config
        self.status = Status.PENDING
        self.deaths = 0

    @property
    def number(self) -> int:
        return int(self.config["number"])

    def set_config(self, config: dict[str, Any]) -> None:
        self.config = config

    def should_recover(self) -> bool:
        return self.deaths < DEATHS


class Seat:
    """A place for trials: first looked for, then one trial after another is trained there."""

    def __init__(self, placement: Placement, shared: SharedSet) -> None:
        self.actor = Actor.options(
            num_cpus=placement.cpus, num_gpus=placement.gpus, scheduling_strategy="SPREAD"
        ).remote(shared)
        self.node: str | None = None
        self.pid = 0
        self.trial: Trial | None = None
        self._there = self.actor.place.remote()
        self.awaited = self._there  # None while nothing is asked of it

    @property
    def free(self) -> bool:
        return self.node is not None and self.trial is None

    def begin(self, trial: Trial) -> None:
        trial.status, self.trial = Status.RUNNING, trial
        self._there = self.actor.place.remote()
        self.awaited = self.actor.begin.remote(Task(**trial.config))

    def go_on(self) -> None:
        self.awaited = self.actor.step.remote()

    def took_up(self) -> bool:
        """Whether its process, which is dead, was there when the trial was given to it."""
        try:
            fetch(self._there)
        except Died:
            return False
        return True


class Controller:
    """Runs trials until all have ended. left: how many, also of those not suggested yet."""

    def __init__(
        self,
        scheduler: Any,  # its methods say that they want Tune's own controller
        searcher: Searcher,
        recorder: Recorder,
        *,
        placement: Placement,
        shared: SharedSet,
        left: int,
    ) -> None:
        self._scheduler, self._searcher, self._recorder = scheduler, searcher, recorder
        self._placement, self._shared, self._left = placement, shared, left
        self._trials: list[Trial] = []
        self._names = map(str, count())
        self._seats: list[Seat] = []
        self._deaths_at_start = 0
        self._look_at = 0.0  # when to look next for machines that came or went

    def run(self, is_over: Callable[[], bool]) -> None:
        """Until no trial is left, or `is_over()`; those at work are saved then."""
        try:
            while self._left and not is_over():
                self._look_around()
                self._hand_out()
                seat = self._wait()
                if seat is not None:
                    self._hear(seat)
            self._halt()
        finally:
            dismiss(self._seats)

    # What schedulers ask for

    def get_trials(self) -> list[Trial]:
        return self._trials

    def pause_trial(self, trial: Trial, should_checkpoint: bool) -> None:
        """After an epoch, when its run directory has all of it."""
        trial.status = Status.PAUSED

    # Seats

    def _look_around(self) -> None:
        """Have seats for the trials that are left: as many as fit, and one in case a machine joins.

        What is asked for and not there is also what a cluster grows by.
        """
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + SECONDS_BETWEEN_LOOKS
        require_ray()
        wanted = min(self._left, capacity(self._placement) + 1)
        self._seats += [
            Seat(self._placement, self._shared) for _ in range(wanted - len(self._seats))
        ]
        idle = [seat for seat in self._seats if seat.trial is None]
        for seat in idle[: max(0, len(self._seats) - self._left)]:
            self._leave(seat)

    def _leave(self, seat: Seat) -> None:
        self._seats.remove(seat)
        dismiss([seat])

    def _wait(self) -> Seat | None:
        """A seat with news, in turn; None when there was none for a moment."""
        waiting = {seat.awaited: seat for seat in self._seats if seat.awaited is not None}
        ready, _ = ray.wait(list(waiting), timeout=SECONDS_TO_WAIT, fetch_local=False)
        if not ready:
            return None
        seat = waiting[ready[0]]
        self._seats.remove(seat)
        self._seats.append(seat)
        return seat

    def _hear(self, seat: Seat) -> None:
        try:
            news = fetch(seat.awaited)
        except Died as death:
            self._leave(seat)
            self._bury(seat, str(death.__cause__))
            return
        seat.awaited = None
        if seat.trial is None:
            seat.node, seat.pid = news
            self._deaths_at_start = 0
        else:
            self._take(seat, seat.trial, news)

    def _halt(self) -> None:
        """Let the trials at work stop with a checkpoint."""
        halts = [seat.actor.halt.remote() for seat in self._seats if seat.trial is not None]
        if halts:
            ray.wait(halts, num_returns=len(halts), timeout=SECONDS_TO_HALT, fetch_local=False)

    # Trials

    def _hand_out(self) -> None:
        """Give the free seats trials, as long as there are some."""
        for seat in self._seats:
            trial = self._next() if seat.free else None
            if trial is not None:
                self._recorder.begun(trial.number)
                seat.begin(trial)

    def _next(self) -> Trial | None:
        known: Trial | None = self._scheduler.choose_trial_to_run(self)
        if known is not None:
            return known
        name = next(self._names)
        config = self._searcher.suggest(name)
        if not isinstance(config, dict):  # FINISHED, or None: later
            return None
        trial = Trial(name, config)
        self._trials.append(trial)
        self._scheduler.on_trial_add(self, trial)
        return trial

    def _take(self, seat: Seat, trial: Trial, result: dict[str, Any]) -> None:
        """Do what is to be done after a result of the trial at this seat."""
        decision = TrialScheduler.STOP
        if not result.get("done"):
            decision = self._scheduler.on_trial_result(self, trial, result)
        self._recorder.heard(result)
        if decision == TrialScheduler.CONTINUE:
            seat.go_on()
            return
        seat.trial = None
        if decision == TrialScheduler.STOP:
            trial.status = Status.TERMINATED
            self._left -= 1
            self._scheduler.on_trial_complete(self, trial, result)
            self._searcher.on_trial_complete(trial.trial_id, result)
            self._recorder.stopped(trial.number)

    def _bury(self, seat: Seat, death: str) -> None:
        """Let the trial of a process that died go on elsewhere, unless it has died too often."""
        self._look_at = 0.0
        trial = seat.trial
        if trial is None:
            self._deaths_at_start += 1
            if self._deaths_at_start > DEATHS * (1 + len(self._seats)):
                raise JobFailed(
                    f"{self._deaths_at_start} processes of trials died at their start, one after "
                    "the other, perhaps for lack of memory; run fewer trials at a time"
                )
            return
        if not seat.took_up():
            trial.status = Status.PENDING
            return
        trial.deaths += 1
        trial.status = Status.PENDING if trial.should_recover() else Status.ERROR
        self._scheduler.on_trial_error(self, trial)
        if trial.should_recover():
            self._recorder.lost(trial.number, death)
            return
        self._left -= 1
        self._searcher.on_trial_complete(trial.trial_id, error=True)
        self._recorder.died(trial.number, death, DEATHS)
