"""Trials that take over others: who, what, and what a kill in the middle leaves."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.trials.takeover import Takeovers, explore
from n2n.data import PairSet
from n2n.sweep import Choice, Integer, Space, SweepConfig, SweepDirectory
from n2n.trainer import Trainer

SPACE = {"model": "seed", "width": [2, 3], "lr": {"log": [0.1, 4]}, "batch_size": {"int": [20, 40]}}
RATES = [0.1, 0.4, 1.0, 2.0, 4.0]


class Crowd:
    """Trials that are trained for two of four epochs, the better the higher their rate."""

    def __init__(self, pairs: PairSet, path: Path) -> None:
        self.pairs, self.space = pairs, Space.of(SPACE)
        self.config = SweepConfig(max_epochs=4, scheduler="pbt", seed=3).for_set(pairs)
        self.directory = SweepDirectory(path)
        self.settings: dict[int, dict[str, Any]] = {}
        self.directory.begin(self.config, self.space, pairs)
        for number, lr in enumerate(RATES):
            sample = {"model": "seed", "width": 2, "lr": lr, "batch_size": 30}
            self.settings[number] = sample
            self.directory.add(number, "begun", settings=sample)
            self.train(number, 2)

    def trainer(self, number: int, **events: Any) -> Trainer:
        config = self.config.settings_of(self.settings[number], self.pairs)
        return Trainer(config, self.pairs, self.directory.trial_path(number), **events)

    def train(self, number: int, until: int) -> None:
        def stop(line: dict[str, Any]) -> None:
            if line["epoch"] == until:
                raise StopAsyncIteration

        trainer = self.trainer(number, on_epoch=stop)
        with pytest.raises(StopAsyncIteration):
            trainer.train()

    @property
    def takeovers(self) -> Takeovers:
        """As a driver makes it, anew after each kill."""
        return Takeovers(
            self.directory,
            self.space,
            lambda sample: self.config.settings_of(sample, self.pairs),
            metric=str(self.config.metric),
            seed=self.config.seed,
        )

    def files(self, number: int) -> dict[str, bytes]:
        path = self.directory.trial_path(number)
        found = (file for file in path.rglob("*") if file.is_file())
        return {str(file.relative_to(path)): file.read_bytes() for file in sorted(found)}


@pytest.fixture
def crowd(make_set: Callable[..., PairSet], tmp_path: Path) -> Crowd:
    return Crowd(make_set(rows=60), tmp_path / "sweep")


def test_the_worst_go_on_as_the_best(crowd: Crowd) -> None:
    before = {number: crowd.files(number) for number in crowd.settings}
    scores = [trial.score for trial in crowd.directory.trials()]
    assert scores == sorted(scores), "the higher the rate, the better"
    plan = crowd.takeovers.after(2, crowd.settings)
    assert {(one.number, one.donor) for one in plan} <= {(n, d) for n in (0, 1) for d in (3, 4)}
    assert len(plan) == 2
    for one in plan:
        # The donor's model, optimiser and history; but the settings are its own, and so is the
        # record of what its parts rested on.
        own, donor = crowd.files(one.number), before[one.donor]
        assert own.keys() == donor.keys()
        assert own["provenance.jsonl"] == before[one.number]["provenance.jsonl"]
        differ = {name for name in own if own[name] != donor[name]}
        assert differ == {"config.yaml", "provenance.jsonl"}
        assert one.settings["width"] == 2
        crowd.settings[one.number] = dict(one.settings)
        trainer = crowd.trainer(one.number)  # RunConflict for other settings
        assert trainer.position.epoch == 2
        assert asdict(trainer.config)["lr"] == one.settings["lr"]
        assert len(trainer.train()) == 4
    for number in (2, 3, 4):
        assert crowd.files(number) == before[number]
    # Every epoch's settings are on record, also of those that were replaced.
    for one in plan:
        record = crowd.directory.log()[-2 + plan.index(one)]
        assert (record["trial"], record["since"], record["donor"]) == (one.number, 2, one.donor)
        assert [line["epoch"] for line in record["replaced"]] == [1, 2]
        assert record["settings"] == one.settings


def test_the_same_again_after_any_kill(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after each of its steps: the same takeovers in the end, each on record once."""
    steps = ["add", "_copy"]
    expected: Any = None
    for killed_at in range(5):
        folder = crowd.directory.path.with_name(f"copy{killed_at}")
        import shutil

        shutil.copytree(crowd.directory.path, folder)
        left = killed_at
        copy = Crowd.__new__(Crowd)
        vars(copy).update(vars(crowd), directory=SweepDirectory(folder))

        def dying(function: Any) -> Any:
            def call(*args: Any, **settings: Any) -> Any:
                nonlocal left
                if not left:
                    raise KeyboardInterrupt
                left -= 1
                return function(*args, **settings)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(SweepDirectory, "add", dying(SweepDirectory.add))
            patch.setattr(Takeovers, steps[1], dying(Takeovers._copy))
            try:
                copy.takeovers.after(2, crowd.settings)
                assert killed_at == 4
            except KeyboardInterrupt:
                assert killed_at < 4
        plan = copy.takeovers.after(2, crowd.settings)
        files = {number: copy.files(number) for number in crowd.settings}
        assert sum("donor" in record for record in copy.directory.log()) == 2
        expected = expected or (plan, files)
        assert (plan, files) == expected
        # And those that have moved on since are left alone.
        copy.settings = {**crowd.settings, **{one.number: one.settings for one in plan}}
        copy.train(plan[0].number, 3)
        moved = copy.files(plan[0].number)
        copy.takeovers.after(2, copy.settings)
        assert copy.files(plan[0].number) == moved


def test_two_trials_and_one(crowd: Crowd) -> None:
    assert crowd.takeovers.after(2, {2: crowd.settings[2]}) == []
    [one] = crowd.takeovers.after(2, {number: crowd.settings[number] for number in (1, 2)})
    assert (one.number, one.donor) == (1, 2)


def test_explore() -> None:
    space = Space.of(
        {
            "model": ["seed", "unet"],
            "depth": {"int": [1, 3]},
            "lr": {"log": [1, 10]},
            "batch_size": {"int": [20, 100], "step": 20},
            "loss": ["mse", "l1"],
        }
    )
    sample = {"model": "unet", "depth": 2, "lr": 9.0, "batch_size": 60, "loss": "l1"}
    found = [explore(space, sample, np.random.default_rng(n)) for n in range(200)]
    assert all(one["model"] == "unet" and one["depth"] == 2 for one in found)
    rates = {round(one["lr"], 6) for one in found}
    assert {7.2, 10.0} < rates, "scaled, within the range; or drawn anew"
    assert len(rates) > 20
    assert all(1 <= rate <= 10 for rate in rates)
    assert {one["batch_size"] for one in found} == {20, 40, 60, 80, 100}
    assert {one["loss"] for one in found} == {"mse", "l1"}
    assert explore(space, sample, np.random.default_rng(5)) == found[5]


def test_what_is_there_of_domains() -> None:
    from jobs.trials.takeover import scaled

    assert scaled("l1", Choice(("mse", "l1")), 1.2) == "l1"
    assert scaled(10, Integer(1, 11, step=5), 1.2) == 11
    assert scaled(11, Integer(1, 20, step=5), 5.0) == 16
