"""A sweep's trials on Ray: where they run, who goes on, and what becomes of them.

The truth is in the sweep's directory: a run directory for each trial, and what became of it.
Schedulers and searchers, Ray Tune's and in its words, are told of it anew each time. So a trial
whose process died, or its machine, goes on from its run directory, and so does a sweep whose
driver died.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from jobs.processes.seat import Placement, capacity, count, resources
from jobs.processes.session import joined
from jobs.trials.controller import Controller
from jobs.trials.ending import Ending
from jobs.trials.recorder import Recorder
from jobs.trials.schedulers import All, Halving, Population
from jobs.trials.searchers import Numbered, Proposed
from jobs.trials.shared import SPARE, SharedSet, columns_of, gigabytes, nbytes, too_large
from jobs.trials.takeover import Takeovers
from n2n.config import TrainConfig
from n2n.data import PairSet
from n2n.device import choose_device
from n2n.errors import InvalidValue
from n2n.memory import available
from n2n.run import RunDirectory
from n2n.sweep import Event, Sample, Space, SweepConfig, SweepDirectory

__all__ = ["run_sweep"]

PATIENCE = 25.0  # seconds for a first trial to find a place
STREAMED = 0.5  # part of the free memory that trials may hold of a set which they do not share
LEAST = 64 * 2**20  # bytes of a streamed set in memory, for each trial


def run_sweep(
    config: SweepConfig,
    space: Space,
    pairs: PairSet,
    directory: SweepDirectory,
    *,
    address: str | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    patience: float = PATIENCE,
) -> None:
    """Run the trials of a sweep that has begun in `directory`, or those that are left.

    config: with its metric. On return every trial is done, stopped or failed, which the directory
    says; or the time budget is spent, and what is left can be resumed. The trials are saved, too,
    before Interrupted is raised (Ctrl-C, SIGTERM, SIGHUP; a second one ends at once).

    address: see `jobs.processes.session.joined`; the set and the directory must be there on all
    machines, under the same path. InvalidValue if a trial finds no place within `patience`
    seconds, or for a GPU that is not there. JobFailed for what no trial could go on with, such
    as a full disk.
    """
    sweep = _Sweep(config, space, pairs, directory, on_event)
    if not sweep.left:
        return
    if address is None:
        choose_device(config.device)  # a GPU that is not there is an error now
    size = nbytes(pairs)
    reason = too_large(size, store=None)
    ending = Ending(config.time_budget)
    with ExitStack() as stack:
        stack.enter_context(ending.listening())
        store = SPARE if reason else SPARE + int(1.05 * size)
        own = stack.enter_context(joined(address, object_store=store))
        require_place(sweep.placement, patience, waiting=not own)
        if not own:
            reason = too_large(size, store=smallest_store())
        sweep.run(ending, reason)
    ending.settle()


class _Sweep:
    """What is left of a sweep: what its trials are told, and who decides about them."""

    def __init__(
        self,
        config: SweepConfig,
        space: Space,
        pairs: PairSet,
        directory: SweepDirectory,
        on_event: Callable[[Event], None],
    ) -> None:
        self._config, self._space, self._on_event = config, space, on_event
        self._pairs = PairSet.open(pairs.path.resolve())
        self._directory = SweepDirectory(directory.path.resolve())
        self._known = self._directory.trials()
        self._settings = {trial.number: trial.settings for trial in self._known}
        self._metric = str(config.metric)
        self._memory = config.memory_limit
        self.placement = Placement(1, config.cpus_per_trial, config.gpus_per_trial)

    @property
    def left(self) -> int:
        """How many trials have not ended."""
        finished = sum(trial.finished for trial in self._known)
        return max(0, self._config.count(self._space) - finished)

    def run(self, ending: Ending, reason: str | None) -> None:
        """Run the trials until they or the sweep end. reason: why the set cannot be shared."""
        at_once = max(1, capacity(self.placement))
        shared = SharedSet(self._pairs.path)
        if reason is None:
            shared = SharedSet(self._pairs.path, ray.put(columns_of(self._pairs)))
        else:
            self._memory = min(self._memory, max(LEAST, int(STREAMED * available() / at_once)))
            self._on_event(
                Event(
                    "note",
                    reason=f"each trial reads the set of {gigabytes(nbytes(self._pairs))} from its "
                    f"files, holding {gigabytes(self._memory)} at a time: {reason}",
                )
            )
        recorder = Recorder(self._directory, self._settings, set(self._settings), self._on_event)
        ending.fault = lambda: recorder.fault
        controller = Controller(
            self._scheduler(recorder),
            self._searcher(at_once),
            recorder,
            placement=self.placement,
            shared=shared,
            left=self.left,
        )
        controller.run(ending.is_there)

    def _make(self, number: int, sample: Sample) -> dict[str, Any]:
        """What the process of a trial is told: the fields of a `Task`."""
        self._settings[number] = sample
        path = self._directory.trial_path(number)
        settings = self._train_config(sample)
        before = RunDirectory(path).read_settings()
        memory = before.get("memory_limit", min(settings.memory_limit, self._memory))
        settings = replace(settings, memory_limit=memory)
        return {"number": number, "path": path, "config": settings, "metric": self._metric}

    def _train_config(self, sample: Sample) -> TrainConfig:
        return self._config.settings_of(sample, self._pairs)

    def _searcher(self, at_once: int) -> Numbered | Proposed:
        config = self._config
        if config.search == "optuna":
            return Proposed(
                self._make,
                self._space,
                self._known,
                count=config.count(self._space),
                at_once=at_once,
                seed=config.seed,
            )
        begun = [(t.number, t.settings) for t in self._known if not t.finished]
        known = {trial.number for trial in self._known}
        fresh = [
            (number, sample)
            for number, sample in enumerate(config.samples(self._space))
            if number not in known
        ]
        return Numbered(self._make, iter(begun + fresh))

    def _scheduler(self, recorder: Recorder) -> All:
        config = self._config
        finished = [trial for trial in self._known if trial.finished]
        if config.scheduler == "asha":
            return Halving(
                finished,
                max_epochs=config.max_epochs,
                grace=config.grace,
                reduction=config.reduction,
                metric=self._metric,
            )
        if config.scheduler == "none":
            return All()
        takeovers = Takeovers(
            self._directory,
            self._space,
            self._train_config,
            metric=self._metric,
            seed=config.seed,
        )
        takeovers.complete()

        def meet(epoch: int, numbers: Any) -> dict[int, dict[str, Any]]:
            told = {}
            left = {number: self._settings[number] for number in numbers}
            for one in takeovers.after(epoch, left):
                if one.number in left:
                    told[one.number] = self._make(one.number, one.settings)
                    recorder.take_over(one.number, one.settings)
            return told

        numbers = set(range(config.count(self._space))) - {trial.number for trial in finished}
        return Population(meet, numbers, interval=config.grace, max_epochs=config.max_epochs)


def require_place(placement: Placement, patience: float, *, waiting: bool) -> None:
    """InvalidValue unless a trial finds a place. waiting: perhaps not at once, on a cluster."""
    place = f"{count(placement.cpus, 'CPU')} and {count(placement.gpus, 'GPU')}"
    if capacity(placement) == 0 and not waiting:
        raise InvalidValue(
            f"a trial with {place} expected to fit this machine, found {resources()}; use less "
            "for each"
        )
    bundle = {"CPU": placement.cpus, "GPU": placement.gpus}
    probe = placement_group([{name: share for name, share in bundle.items() if share}])
    try:
        if not probe.wait(timeout_seconds=patience):
            raise InvalidValue(
                f"a trial with {place} expected a place within {patience:g} s, found "
                f"{resources()}; use less for each, or wait for others"
            )
    finally:
        remove_placement_group(probe)


def smallest_store() -> float:
    """Bytes of the smallest object store of this Ray's machines."""
    return min(
        float(node["Resources"].get("object_store_memory", 0))
        for node in ray.nodes()
        if node["Alive"]
    )
