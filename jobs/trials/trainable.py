"""A trial's process as Ray Tune sees it: an actor that trains one trial after another."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray import tune

from jobs.processes.seat import Placement
from jobs.trials.shared import Columns, serve
from jobs.trials.trial import Computer, Task, TrialRun

__all__ = ["TrialProcess", "config_of"]


def config_of(task: Task, placement: Placement) -> dict[str, Any]:
    """A task, and what it is given, in the words that Tune takes: plain values."""
    return {
        "cpu": placement.cpus,
        "gpu": placement.gpus,
        "number": task.number,
        "path": str(task.path),
        "metric": task.metric,
        "settings": asdict(task.config),
    }


def task_of(config: dict[str, Any]) -> Task:
    from n2n.config import TrainConfig

    settings = TrainConfig(**config["settings"])
    return Task(config["number"], Path(config["path"]), settings, config["metric"])


class TrialProcess(tune.Trainable):
    """Tune makes one for each place, and hands it a trial (`setup`), then others (`reset_config`).

    Tune keeps no checkpoints of a trial: its run directory has them.
    """

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([{"CPU": config["cpu"], "GPU": config["gpu"]}])

    def setup(
        self, config: dict[str, Any], *, path: str = "", columns: Columns | None = None
    ) -> None:
        from n2n.data import PairSet

        self._pairs = PairSet.open(path)
        if columns is not None:
            serve(self._pairs, columns)
        self._computer = Computer()
        self._run = TrialRun(task_of(config), self._pairs, self._computer)

    def step(self) -> dict[str, Any]:
        return self._run.step()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._run.halt()
        self._computer.tidy()
        self._run = TrialRun(task_of(new_config), self._pairs, self._computer)
        return True

    def cleanup(self) -> None:
        self._run.halt()
