"""How a sweep goes: how many trials, how long, chosen how, judged by what, each with what."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from math import isfinite
from typing import Any

import numpy as np

from n2n.config import TrainConfig, configure
from n2n.data import PairSet
from n2n.device import PRECISIONS
from n2n.errors import InvalidValue, N2NError, PairSetError
from n2n.sweep.names import train_settings
from n2n.sweep.space import Sample, Space

__all__ = ["METRICS", "SCHEDULERS", "SEARCHES", "SweepConfig", "metrics_of", "score", "selection"]

SCHEDULERS = ("asha", "pbt", "none")
SEARCHES = ("random", "grid", "optuna")
METRICS = ("psnr", "estimated-psnr", "loss")
DEFAULT_TRIALS = 16
LARGEST_GRID = 10_000
LOOKED_AT = 1000  # samples that a space is tried with, where not all are known before
FLAWLESS = 1000.0  # for a PSNR that is no number: images that come out exactly


@dataclass(frozen=True)
class SweepConfig:
    """Every setting of a sweep beside its space. InvalidValue names the one that cannot be used.

    trials: how many; None: 16, or the whole grid. max_epochs: of a trial. scheduler: asha stops
    trials that are behind others (Li et al. 2020), after `grace` epochs at the earliest, keeping
    one of `reduction`; pbt lets them take over weights and settings of better ones (Jaderberg et
    al. 2017); none lets all go on to the end. search: where a trial's settings come from. metric:
    see `score`; None: the first of METRICS that the set can give (`for_set` puts it in place).
    cpus_per_trial, gpus_per_trial: what Ray keeps for each, whole numbers or fractions; a trial
    has as many threads as whole CPUs, at least one. time_budget: seconds. seed: of the samples,
    and of each trial that does not draw its own. device: cpu or cuda. memory_limit,
    checkpoint_seconds: of each trial, as in TrainConfig.
    """

    trials: int | None = None
    max_epochs: int = 10
    scheduler: str = "asha"
    search: str = "random"
    metric: str | None = None
    cpus_per_trial: float = 1.0
    gpus_per_trial: float = 0.0
    time_budget: float | None = None
    seed: int = 0
    grace: int = 1
    reduction: int = 3
    device: str = "cpu"
    precision: str = "fp32"
    memory_limit: int = TrainConfig.memory_limit
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        _require_among("scheduler", self.scheduler, SCHEDULERS)
        _require_among("search", self.search, SEARCHES)
        _require_among("device", self.device, ("cpu", "cuda"))
        _require_among("precision", self.precision, PRECISIONS)
        if self.metric is not None:
            _require_among("metric", self.metric, METRICS)
        for name, least in (("trials", 1), ("max_epochs", 1), ("grace", 1), ("reduction", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InvalidValue(f"{name} must be at least {least}, got {value}")
        if self.grace > self.max_epochs:
            raise InvalidValue(
                f"grace must be at most max_epochs, {self.max_epochs}, got {self.grace}"
            )
        for name, value in (("cpus", self.cpus_per_trial), ("gpus", self.gpus_per_trial)):
            if not 0 <= value < float("inf") or (value > 1 and value != int(value)):
                raise InvalidValue(
                    f"{name}_per_trial must be a whole number, or a fraction from 0 to 1, got "
                    f"{value:g}"
                )
        if not self.cpus_per_trial:
            raise InvalidValue("cpus_per_trial must be above 0, such as 0.5, got 0")
        if self.time_budget is not None and not 0 < self.time_budget < float("inf"):
            raise InvalidValue(f"time_budget must be above 0 seconds, got {self.time_budget:g}")
        if self.search == "grid" and self.trials is not None:
            raise InvalidValue(
                f"a grid has its own number of trials; leave out trials {self.trials}"
            )
        if self.scheduler == "pbt" and self.search != "random":
            raise InvalidValue(f"pbt has a search of its own, got {self.search}; use random")
        # What is a trial's is looked at there.
        TrainConfig(seed=self.seed, memory_limit=self.memory_limit)

    @property
    def may_change(self) -> frozenset[str]:
        """The settings that may differ when a sweep is resumed."""
        names = ("trials", "time_budget", "cpus_per_trial", "gpus_per_trial", "device")
        return frozenset((*names, "checkpoint_seconds"))

    @property
    def threads(self) -> int:
        """Of a trial."""
        return max(1, int(self.cpus_per_trial))

    def for_set(self, pairs: PairSet) -> "SweepConfig":
        """With a metric that the set gives. PairSetError, InvalidValue where it cannot."""
        known = metrics_of(pairs)
        if self.metric is not None and self.metric not in known:
            reason = {
                "psnr": "no clean images",
                "estimated-psnr": f"{pairs.train.target} targets, not a second noisy view",
            }[self.metric]
            raise InvalidValue(
                f"metric {self.metric}: the set {pairs.path} has {reason}; use {' or '.join(known)}"
            )
        return replace(self, metric=self.metric or known[0])

    def count(self, space: Space) -> int:
        """How many trials there are. InvalidValue for a grid that has no end, or hardly one."""
        if self.search == "grid":
            return len(self._grid(space))
        return DEFAULT_TRIALS if self.trials is None else self.trials

    def samples(self, space: Space) -> Iterator[Sample]:
        """The settings of trial 0, 1, …: the same each time. Of optuna: the random ones instead.

        Trial k is drawn from a stream of random numbers of its own, so that more trials change
        none of those before. A grid comes in an order drawn from `seed`: a scheduler compares
        trials with those before them, which should not all be alike.
        """
        if self.search == "grid":
            grid = self._grid(space)
            order = np.random.default_rng(self.seed).permutation(len(grid))
            yield from (grid[index] for index in order)
            return
        for number in range(self.count(space)):
            yield space.sample(np.random.default_rng([self.seed, number]))

    def _grid(self, space: Space) -> list[Sample]:
        grid = list(islice(space.grid(), LARGEST_GRID + 1))
        if len(grid) > LARGEST_GRID:
            raise InvalidValue(
                f"a grid of at most {LARGEST_GRID} trials expected, found more; name fewer values, "
                "or use --search random"
            )
        return grid

    def settings_of(self, sample: Sample, pairs: PairSet) -> TrainConfig:
        """What a trial trains with. InvalidValue, ShapeError for what the set does not allow.

        A preset's augmentation that the set does not allow is left out.
        """
        settings = train_settings(sample)
        preset = settings.pop("preset", None)
        own = {
            "epochs": self.max_epochs,
            "seed": self.seed,
            "precision": self.precision,
            "device": self.device,
            "threads": self.threads,
            "memory_limit": self.memory_limit,
            "checkpoint_seconds": self.checkpoint_seconds,
        }
        config, _ = configure(pairs, preset, **{**own, **settings})
        config.require_suited(pairs)
        return config

    def require_usable(self, space: Space, pairs: PairSet) -> None:
        """InvalidValue, naming the settings, for a trial of the space that cannot be trained.

        All trials are looked at, or a thousand where they are not known before.
        """
        search = (
            replace(self, search="random", trials=LOOKED_AT) if self.search == "optuna" else self
        )
        for sample in islice(search.samples(space), LOOKED_AT):
            try:
                self.settings_of(sample, pairs)
            except N2NError as error:
                shown = ", ".join(f"{name} {value}" for name, value in sample.items())
                raise type(error)(f"{error} (in a trial with {shown})") from error

    def as_dict(self) -> dict[str, Any]:
        """For YAML."""
        return asdict(self)


def metrics_of(pairs: PairSet) -> tuple[str, ...]:
    """What trials on a set can be judged by, the best first. PairSetError without a val split."""
    if pairs.val is None:
        raise PairSetError(
            f"{pairs.path}: expected validation pairs, which trials are compared by, found none; "
            "build the set with some"
        )
    given = {
        "psnr": pairs.val.has_clean,
        "estimated-psnr": pairs.val.target == "noisy",
        "loss": True,
    }
    return tuple(name for name in METRICS if given[name])


def score(line: dict[str, Any], metric: str) -> float:
    """An epoch's score, of its line in metrics.jsonl: higher is better, always finite.

    psnr: dB against the clean images, mean over the images, or pooled where an image came out
    exactly, which has none; estimated-psnr: the clean PSNR in dB, estimated from noisy pairs,
    pooled; loss: the mean squared error against the target, negated.
    """
    scores = line["val"]
    if metric == "loss":
        return -float(scores["loss"])
    names = ("psnr", "psnr_pooled") if metric == "psnr" else ("estimated_psnr",)
    numbers = [float(scores[name]) for name in names if scores.get(name) is not None]
    return next(filter(isfinite, numbers), FLAWLESS)


def selection(line: dict[str, Any]) -> float:
    """What a run chooses its best epoch by, as `Scores.selection`, of a line of metrics.jsonl."""
    scores = line["val"]
    for name in ("mse", "truncated_loss", "estimated_mse"):
        if scores.get(name) is not None:
            return -float(scores[name])
    return -float(scores["loss"])


def _require_among(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidValue(f"{name} must be one of {', '.join(known)}, got {value!r}")
