"""Who goes on: by hand for ASHA, and each epoch counted once."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.trials.schedulers import All, Halving, Population
from n2n.sweep import Trial

CONTINUE, STOP, NOOP = "CONTINUE", "STOP", "NOOP"


class Told:
    """A scheduler, told of epochs as Tune would."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler, self.paused = scheduler, list[int]()
        self.trials: dict[int, Any] = {}

    def add(self, number: int) -> Any:
        """A trial, or its new process."""
        if number not in self.trials:
            config = {"number": number}
            trial = self.trials[number] = SimpleNamespace(
                trial_id=f"t{number}", config=config, status="RUNNING", recovers=True
            )
            trial.should_recover = lambda: trial.recovers
            trial.set_config = lambda config: setattr(trial, "config", config)
        self.scheduler.on_trial_add(self, self.trials[number])
        return self.trials[number]

    def epoch(self, number: int, epoch: int, score: float, *, replayed: bool = False) -> str:
        result = {"number": number, "epoch": epoch, "score": score, "replayed": replayed}
        return str(self.scheduler.on_trial_result(self, self.trials[number], result))

    def progress(self, number: int) -> str:
        result = {"number": number, "epoch": 1, "progress": 0.5}
        return str(self.scheduler.on_trial_result(self, self.trials[number], result))

    def pause_trial(self, trial: Any, should_checkpoint: bool) -> None:
        assert not should_checkpoint
        self.paused.append(trial.config["number"])
        trial.status = "PAUSED"

    def get_trials(self) -> list[Any]:
        return list(self.trials.values())

    @property
    def next(self) -> int | None:
        trial = self.scheduler.choose_trial_to_run(self)
        return None if trial is None else int(trial.config["number"])


def halving(past: Iterable[Trial] = ()) -> Told:
    return Told(Halving(past, max_epochs=9, grace=1, reduction=3, metric="loss"))


def test_all_go_on() -> None:
    told = Told(All())
    told.add(0)
    assert told.epoch(0, 1, 3.0) == CONTINUE
    assert told.progress(0) == CONTINUE


def test_the_best_third_goes_on() -> None:
    """After epochs 1 and 3, those below the upper third of all that got there are stopped."""
    told = halving()
    for number in range(4):
        told.add(number)
    assert told.epoch(0, 1, 10.0) == CONTINUE, "the first"
    assert told.epoch(1, 1, 11.0) == CONTINUE
    assert told.progress(1) == CONTINUE
    assert told.epoch(2, 1, 9.0) == STOP
    assert told.epoch(0, 2, 1.0) == CONTINUE, "no epoch to decide at"
    assert told.epoch(0, 3, 20.0) == CONTINUE
    assert told.epoch(1, 2, 12.0) == CONTINUE
    assert told.epoch(1, 3, 19.0) == STOP
    assert told.epoch(3, 1, 10.9) == CONTINUE


def test_what_is_reported_again_changes_nothing() -> None:
    told = halving()
    for number in range(2):
        told.add(number)
    assert told.epoch(0, 1, 10.0) == CONTINUE
    assert told.epoch(1, 1, 11.0) == CONTINUE
    told.add(0)  # its process died
    assert told.epoch(0, 1, 10.0) == CONTINUE, "it would be stopped now"


def past(number: int, *scores: float) -> Trial:
    lines = [{"epoch": n, "val": {"loss": -score}} for n, score in enumerate(scores, start=1)]
    return Trial(number, "stopped", {}, lines=lines)


def test_a_resumed_sweep_remembers_its_past() -> None:
    told = halving([past(0, 5.0), past(1, 9.0, 9.5, 9.7), past(2, 2.0)])
    for number in (3, 4, 5):
        told.add(number)
    assert told.epoch(3, 1, 6.0) == STOP
    assert told.epoch(4, 1, 9.1) == CONTINUE
    # It had been let go on, whatever is known by now.
    assert told.epoch(5, 1, 1.0, replayed=True) == CONTINUE
    assert told.epoch(5, 2, 1.1) == CONTINUE
    assert told.epoch(5, 3, 1.2) == STOP


class Crowd(Told):
    """Three trials that meet after every second of six epochs."""

    def __init__(self) -> None:
        self.met: list[tuple[int, list[int]]] = []
        super().__init__(Population(self.meet, range(3), interval=2, max_epochs=6))
        for number in range(3):
            self.add(number)

    def meet(self, epoch: int, numbers: Iterable[int]) -> dict[int, dict[str, Any]]:
        self.met.append((epoch, sorted(numbers)))
        return {0: {"number": 0, "since": epoch}}


def test_trials_wait_for_each_other() -> None:
    crowd = Crowd()
    assert crowd.epoch(0, 1, 1.0) == CONTINUE
    assert crowd.epoch(0, 2, 1.0) == NOOP
    assert crowd.epoch(1, 1, 1.0) == CONTINUE
    assert crowd.epoch(1, 2, 1.0) == NOOP
    assert (crowd.paused, crowd.next, crowd.met) == ([0, 1], None, [])
    assert crowd.epoch(2, 1, 1.0) == CONTINUE
    assert crowd.epoch(2, 2, 1.0) == NOOP
    assert crowd.met == [(2, [0, 1, 2])]
    assert crowd.trials[0].config == {"number": 0, "since": 2}
    assert crowd.next == 0
    for number in range(3):
        assert crowd.epoch(number, 6, 1.0) == CONTINUE, "the last epoch is no one's to wait at"


@pytest.mark.parametrize("how", ["done", "error"])
def test_nobody_waits_for_one_that_is_gone(how: str) -> None:
    crowd = Crowd()
    crowd.epoch(0, 2, 1.0)
    crowd.epoch(1, 2, 1.0)
    crowd.scheduler.on_trial_error(crowd, crowd.trials[2])  # it comes back
    assert crowd.met == []
    if how == "error":
        crowd.trials[2].recovers = False
        crowd.scheduler.on_trial_error(crowd, crowd.trials[2])
    else:
        crowd.scheduler.on_trial_complete(crowd, crowd.trials[2], {})
    assert crowd.met == [(2, [0, 1])]


def test_a_resumed_crowd() -> None:
    """Some were beyond the meeting already: the others do not wait for them."""
    crowd = Crowd()
    crowd.epoch(1, 1, 1.0, replayed=True)
    crowd.epoch(1, 2, 1.0, replayed=True)
    assert crowd.epoch(1, 3, 1.0) == CONTINUE
    assert crowd.epoch(0, 2, 1.0) == NOOP
    assert crowd.epoch(1, 4, 1.0) == NOOP
    assert crowd.epoch(2, 2, 1.0) == NOOP
    assert crowd.met == [(2, [0, 1, 2])]
    assert crowd.next == 0
    for number in (0, 2):
        crowd.epoch(number, 4, 1.0)
    assert crowd.met == [(2, [0, 1, 2]), (4, [0, 1, 2])]
