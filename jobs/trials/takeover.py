"""Population-based training (Jaderberg et al. 2017): trials that are behind take over better ones.

After every so many epochs all trials wait for each other. The worst quarter then goes on with the
weights and the optimiser's state of trials of the best quarter, and with their settings, some of
them changed. Who takes over what follows from the scores and the sweep's seed alone, so that a
sweep that was stopped, or lost a worker, ends as it would have.

A takeover is recorded in trials.jsonl before it is done, and `config.yaml` is written last, so
that one which was cut off can be told and done again: until all are done, no trial moves on.
"""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from n2n.files import replacing
from n2n.run import RunDirectory
from n2n.sweep import Choice, Integer, Sample, Space, SweepDirectory, score

if TYPE_CHECKING:
    from n2n.config import TrainConfig

__all__ = ["CHANGES", "Takeover", "Takeovers", "explore"]

QUANTILE = 0.25
RESAMPLED = 0.25  # of the settings that may change, the others are scaled
FACTORS = (0.8, 1.2)

# What may change between epochs: nothing that the weights' shapes or the optimiser's state rest on.
CHANGES = frozenset(
    {"lr", "weight_decay", "batch_size", "loss", "flips", "turns", "swap", "decay", "clip"}
)


@dataclass(frozen=True)
class Takeover:
    """After `since` epochs trial `number` goes on as `donor`, with these settings."""

    number: int
    donor: int
    since: int
    settings: Sample


class Takeovers:
    """Plans, records and does them. make: a trial's settings to what it trains with."""

    def __init__(
        self,
        directory: SweepDirectory,
        space: Space,
        make: "Callable[[Sample], TrainConfig]",
        *,
        metric: str,
        seed: int,
    ) -> None:
        self._directory, self._space, self._make = directory, space, make
        self._metric, self._seed = metric, seed

    def after(self, epoch: int, settings: Mapping[int, Sample]) -> list[Takeover]:
        """Do what is to be done when all of these trials have done so many epochs, once.

        settings: of each trial that is left. Returns the takeovers, also those done before.
        """
        records = {
            record["trial"]: record for record in self._records() if record["since"] == epoch
        }
        if records and len(records) == next(iter(records.values()))["of"]:
            plan = [_takeover(record) for record in records.values()]
        else:
            plan = self._plan(epoch, settings, records)
        for one in plan:
            if one.number not in records:
                self._directory.add(
                    one.number,
                    "begun",
                    settings=one.settings,
                    since=epoch,
                    donor=one.donor,
                    replaced=self._lines(one.number)[:epoch],
                    of=len(plan),
                )
        self.complete()
        return plan

    def complete(self) -> None:
        """Do the last takeover of each trial, if it was recorded and not done."""
        last = {record["trial"]: record for record in self._records()}
        for record in last.values():
            self._copy(_takeover(record))

    def _plan(
        self, epoch: int, settings: Mapping[int, Sample], records: Mapping[int, dict[str, Any]]
    ) -> list[Takeover]:
        def standing(number: int) -> tuple[float, int]:
            record = records.get(number)
            lines = self._lines(number) if record is None else record["replaced"]
            return score(lines[epoch - 1], self._metric), number

        order = sorted(settings, key=standing)
        count = min(math.ceil(QUANTILE * len(order)), len(order) // 2)
        plan = []
        for number in sorted(order[:count]):
            rng = np.random.default_rng([self._seed, number, epoch])
            donor = order[len(order) - count + int(rng.integers(count))]
            found = explore(self._space, settings[donor], rng)
            plan.append(Takeover(number, donor, epoch, found))
        return plan

    def _copy(self, takeover: Takeover) -> None:
        """Make the run directory one of the donor's history, to go on with other settings."""
        own = RunDirectory(self._directory.trial_path(takeover.number))
        donor = RunDirectory(self._directory.trial_path(takeover.donor))
        wanted = {**donor.read_settings(), **asdict(self._make(takeover.settings))}
        found = own.read_settings()
        if {name: found.get(name) for name in wanted} == wanted:
            return
        with own.locked():
            for source in (donor.metrics_path, donor.model_path, donor.best_path, donor.last_path):
                target = own.path / source.relative_to(donor.path)
                with replacing(target) as temporary:
                    shutil.copyfile(source, temporary)
            with replacing(own.path / "config.yaml") as temporary:
                temporary.write_text(yaml.safe_dump(wanted, sort_keys=False), encoding="utf-8")

    def _lines(self, number: int) -> list[dict[str, Any]]:
        path = RunDirectory(self._directory.trial_path(number)).metrics_path
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def _records(self) -> list[dict[str, Any]]:
        """The takeovers on record, in order."""
        return [record for record in self._directory.log() if record.get("donor") is not None]


def explore(space: Space, sample: Sample, rng: np.random.Generator) -> Sample:
    """Settings near those of a sample: what may change is drawn anew, or scaled by 0.8 or 1.2."""

    def choose(label: str, domain: Any) -> Any:
        name = label.partition("/")[0]
        if name not in sample:  # it applies only now
            return domain.sample(rng)
        if name not in CHANGES:
            return sample[name]
        if rng.random() < RESAMPLED:
            return domain.sample(rng)
        return scaled(sample[name], domain, FACTORS[int(rng.integers(2))])

    return space.draw(choose)


def scaled(value: Any, domain: Any, factor: float) -> Any:
    """A value of the domain near factor · value; of a choice, the value itself."""
    if isinstance(domain, Choice):
        return value
    number = min(max(value * factor, domain.low), domain.high)
    if not isinstance(domain, Integer):
        return number
    steps = round((number - domain.low) / domain.step)
    last = (domain.high - domain.low) // domain.step
    return domain.low + min(steps, last) * domain.step


def _takeover(record: dict[str, Any]) -> Takeover:
    return Takeover(record["trial"], record["donor"], record["since"], record["settings"])
