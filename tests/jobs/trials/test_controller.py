"""Who trains what, and what a death costs: with processes that are only played."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.search import Searcher

from jobs.processes.seat import Died, Placement
from jobs.trials import controller
from jobs.trials.controller import Controller
from jobs.trials.recorder import Recorder
from jobs.trials.schedulers import All, Population
from jobs.trials.searchers import Numbered
from jobs.trials.shared import SharedSet
from jobs.trials.trial import Task
from n2n.errors import JobFailed
from n2n.sweep import Event

EPOCHS = 4


class Process:
    """Answers as `jobs.trials.process.Actor` does; what it says is known when it is asked."""

    def __init__(self, stage: "Stage") -> None:
        self.stage, self.task, self.dead, self.halted = stage, None, stage.all_die, False
        for name in ("place", "begin", "step", "halt"):
            setattr(self, name, SimpleNamespace(remote=self._asked(getattr(self, f"_{name}"))))

    def _asked(self, answer: Callable[..., Any]) -> Callable[..., Any]:
        def remote(*arguments: Any) -> Callable[[], Any]:
            said = None if self.dead else answer(*arguments)

            def fetch() -> Any:
                if said is None:
                    raise Died from RuntimeError("the node was running low on memory")
                return said

            return fetch

        return remote

    def _place(self) -> tuple[str, int]:
        return "node", 1

    def _begin(self, task: Task) -> dict[str, Any] | None:
        self.task = task
        self.stage.told[task.number].append(task.config)
        return self._step()

    def _step(self) -> dict[str, Any] | None:
        assert self.task is not None
        number = self.task.number
        if number in self.stage.deadly:
            self.dead = True
            return None
        self.stage.epochs[number] += 1
        self.stage.at_work.append(len([one for one in self.stage.processes if one.busy]))
        epoch = self.stage.epochs[number]
        result = {"number": number, "epoch": epoch, "score": 1.0, "line": {}, "replayed": False}
        return result | ({"outcome": "done", "done": True} if epoch == EPOCHS else {})

    def _halt(self) -> bool:
        self.halted = True
        return True

    @property
    def busy(self) -> bool:
        return not self.dead and self.task is not None


class Stage:
    """Trials, their processes, and what is told of them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.processes: list[Process] = []
        self.epochs: Counter[int] = Counter()
        self.at_work: list[int] = []
        self.told: dict[int, list[Any]] = defaultdict(list)  # of each trial, by each process
        self.deadly: set[int] = set()  # trials that kill their process
        self.all_die = False  # at their start
        self.events: list[Event] = []
        self.listen: Callable[[Event], None] = self.events.append
        self.gone = 0
        actor = SimpleNamespace(options=lambda **share: SimpleNamespace(remote=self._hire))
        patch.setattr(controller, "Actor", actor)
        patch.setattr(controller, "ray", SimpleNamespace(wait=self._wait))
        patch.setattr(controller, "fetch", lambda reference: reference())
        patch.setattr(controller, "require_ray", lambda: None)
        patch.setattr(controller, "capacity", lambda placement: 1)
        patch.setattr(controller, "dismiss", self._dismiss)
        patch.setattr(controller, "SECONDS_BETWEEN_LOOKS", 0.0)

    def _hire(self, shared: SharedSet) -> Process:
        self.processes.append(Process(self))
        return self.processes[-1]

    def _wait(self, references: list[Any], **settings: Any) -> tuple[list[Any], list[Any]]:
        return references[:1], references[1:]

    def _dismiss(self, seats: Iterable[Any]) -> None:
        self.gone += len(list(seats))

    def run(
        self,
        trials: int,
        scheduler: Any = None,
        searcher: Any = None,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        directory: Any = SimpleNamespace(add=lambda *what, **more: None)
        settings = {number: {} for number in range(trials)}
        recorder = Recorder(directory, settings, set(), lambda event: self.listen(event))
        Controller(
            scheduler or All(),
            searcher or Numbered(told, iter(settings.items())),
            recorder,
            placement=Placement(1, 1.0, 0.0),
            shared=SharedSet(Path("set")),
            left=trials,
        ).run(is_over)
        assert self.gone == len(self.processes), "none is left"

    def ends(self) -> dict[int | None, str]:
        final = ("done", "failed", "stopped")
        return {event.trial: event.kind for event in self.events if event.kind in final}


def told(number: int, sample: Any) -> dict[str, Any]:
    return {"number": number, "path": Path(str(number)), "config": sample, "metric": "psnr"}


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    return Stage(monkeypatch)


def test_as_many_as_fit_and_one_in_case_a_machine_joins(stage: Stage) -> None:
    stage.run(5)
    assert stage.epochs == dict.fromkeys(range(5), EPOCHS)
    assert stage.ends() == dict.fromkeys(range(5), "done")
    assert len(stage.processes) == max(stage.at_work) == 2, "each has several trials"


def test_a_trial_is_given_up_at_the_third_death(stage: Stage) -> None:
    stage.deadly = {1}
    stage.run(3)
    assert stage.ends() == {0: "done", 1: "failed", 2: "done"}
    told_of = [event for event in stage.events if event.trial == 1]
    assert [event.kind for event in told_of] == ["begun", "lost", "lost", "failed"]
    assert told_of[1].reason == "its process was ended for lack of memory"
    assert told_of[3].reason == "its process was ended for lack of memory 3 times"


def test_nobody_is_blamed_for_a_process_that_died_idle(stage: Stage) -> None:
    """Trial 1 waits for trial 0, and its process is gone when both go on."""
    met: list[int] = []

    def meet(epoch: int, numbers: Iterable[int]) -> dict[int, dict[str, Any]]:
        met.append(epoch)
        for process in stage.processes:
            process.dead = True
        return {}

    stage.run(2, Population(meet, range(2), interval=2, max_epochs=EPOCHS))
    assert met == [2]
    assert stage.ends() == {0: "done", 1: "done"}
    assert "lost" not in {event.kind for event in stage.events}


def test_processes_that_all_die_at_their_start(stage: Stage) -> None:
    stage.all_die = True
    with pytest.raises(JobFailed, match=r"processes of trials died at their start.*run fewer"):
        stage.run(2)
    assert len(stage.processes) < 12


def test_trials_that_wait_for_each_other_share_their_places(stage: Stage) -> None:
    """Five trials at two places, which meet twice; one takes over another's settings."""
    met: list[tuple[int, dict[int, int]]] = []

    def meet(epoch: int, numbers: Iterable[int]) -> dict[int, dict[str, Any]]:
        met.append((epoch, {number: stage.epochs[number] for number in numbers}))
        return {3: told(3, "new")}

    stage.run(5, Population(meet, range(5), interval=1, max_epochs=EPOCHS))
    assert met == [(epoch, dict.fromkeys(range(5), epoch)) for epoch in (1, 2, 3)]
    assert stage.ends() == dict.fromkeys(range(5), "done")
    assert stage.told == {**{number: [{}] * 4 for number in range(5)}, 3: [{}, *["new"] * 3]}


class OneByOne(Searcher):
    """Proposes no trial before the one before has a score."""

    def __init__(self) -> None:
        super().__init__(metric="score", mode="max")
        self.proposed, self.heard = 0, list[tuple[str, Any, bool]]()

    def suggest(self, trial_id: str) -> Any:
        if self.proposed == 3:
            return Searcher.FINISHED
        if self.proposed > len(self.heard):
            return None
        self.proposed += 1
        return told(self.proposed - 1, {})

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self.heard.append((trial_id, result and result["score"], error))


def test_a_search_that_waits_for_scores(stage: Stage) -> None:
    searcher = OneByOne()
    stage.deadly = {1}
    stage.run(3, searcher=searcher)
    assert stage.ends() == {0: "done", 1: "failed", 2: "done"}
    assert [heard[1:] for heard in searcher.heard] == [(1.0, False), (None, True), (1.0, False)]


def test_those_at_work_are_saved_when_it_is_over(stage: Stage) -> None:
    stage.run(5, is_over=lambda: stage.epochs.total() >= 3)
    assert stage.ends() == {}
    assert [process.halted for process in stage.processes] == [True, True]
