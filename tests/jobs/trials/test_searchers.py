"""The next trial: numbered ones in order, optuna's within the space, each once."""

import builtins
import sys
from collections.abc import Callable
from typing import Any

import pytest
from ray.tune.search import Searcher

from jobs.trials.searchers import Numbered, Proposed
from n2n.errors import InvalidValue
from n2n.sweep import Sample, Space, Trial

SPACE = Space.of(
    {
        "model": ["seed", "unet"],
        "width": {"int": [2, 16], "log": True},
        "depth": {"int": [1, 3]},
        "optimizer": ["sgd", "adamw"],
        "batch_size": {"int": [10, 35], "step": 10},
        "lr": [
            {"log": [1, 5], "when": {"optimizer": "sgd"}},
            {"log": [0.001, 0.01], "when": {"optimizer": "adamw"}},
        ],
    }
)


def make(number: int, sample: Sample) -> dict[str, Any]:
    return {"number": number, "sample": sample}


def test_numbered() -> None:
    searcher = Numbered(make, iter([(4, {"lr": 1.0}), (7, {"lr": 2.0})]))
    assert searcher.suggest("a") == {"number": 4, "sample": {"lr": 1.0}}
    assert searcher.suggest("b") == {"number": 7, "sample": {"lr": 2.0}}
    assert searcher.suggest("c") == Searcher.FINISHED


def begin(known: list[Trial], *, count: int = 60, seed: int = 0) -> Proposed:
    return Proposed(make, SPACE, known, count=count, at_once=2, seed=seed)


def sweep(searcher: Proposed, score: Callable[[Sample], float]) -> list[Trial]:
    """Run all of its trials, two at a time."""
    trials: list[Trial] = []
    running: list[tuple[str, dict[str, Any]]] = []
    for step in range(1000):
        told = searcher.suggest(str(step))
        if told == Searcher.FINISHED:
            break
        if told is not None:
            running.append((str(step), told))
            continue
        assert len(running) == 2, "it waits for scores"
        name, config = running.pop(0)
        value = score(config["sample"])
        searcher.on_trial_complete(name, {"score": value})
        trials.append(Trial(config["number"], "done", config["sample"], score=value))
    return [*trials, *(Trial(c["number"], "begun", c["sample"]) for _, c in running)]


def test_proposals_lie_in_the_space_and_improve() -> None:
    trials = sweep(begin([]), lambda sample: -abs(sample["lr"] - 3))
    assert sorted(trial.number for trial in trials) == list(range(60))
    for trial in trials:
        sample = trial.settings
        assert ("depth" in sample) == (sample["model"] == "unet")
        low, high = (1, 5) if sample["optimizer"] == "sgd" else (0.001, 0.01)
        assert low <= sample["lr"] <= high
        assert 2 <= sample["width"] <= 16
        assert sample["batch_size"] in (10, 20, 30)
    of_sgd = [trial.settings["optimizer"] == "sgd" for trial in trials]
    assert sum(of_sgd[30:]) > sum(of_sgd[:20])
    assert sum(of_sgd[30:]) > 20


def test_a_resumed_search_goes_on() -> None:
    """Those not finished first, with the settings they had; and none is proposed again."""
    before = sweep(begin([], count=20), lambda sample: sample["width"])
    assert {trial.state for trial in before} == {"done", "begun"}
    open_ones = [trial for trial in before if not trial.finished]
    searcher = begin(sorted(before, key=lambda trial: trial.number), count=40)
    for trial in open_ones:
        told = searcher.suggest(f"again {trial.number}")
        assert told == {"number": trial.number, "sample": trial.settings}
        searcher.on_trial_complete(f"again {trial.number}", {"score": 1.0})
    after = sweep(searcher, lambda sample: sample["width"])
    assert sorted(trial.number for trial in after) == list(range(20, 40))
    rates = [trial.settings["lr"] for trial in before + after]
    assert len(set(rates)) == 40
    # It knows what went well.
    widths = [trial.settings["width"] for trial in after]
    assert sum(widths) / len(widths) > 9


def test_trials_that_fail() -> None:
    searcher = begin([Trial(0, "failed", {**SPACE_SAMPLE}, reason="it diverged")])
    first, second = searcher.suggest("a"), searcher.suggest("b")
    assert [first["number"], second["number"]] == [1, 2]
    assert searcher.suggest("c") is None
    searcher.on_trial_complete("a", error=True)
    searcher.on_trial_complete("b", {"reason": "it diverged"})
    searcher.on_trial_complete("b", {"score": 3.0})  # told twice
    assert searcher.suggest("c")["number"] == 3


SPACE_SAMPLE = {"model": "seed", "width": 4, "optimizer": "sgd", "batch_size": 10, "lr": 2.0}


def test_the_same_seed_proposes_the_same() -> None:
    def few(seed: int) -> list[Sample]:
        return [trial.settings for trial in sweep(begin([], count=6, seed=seed), lambda _: 1.0)]

    assert few(1) == few(1) != few(2)


def test_without_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **settings: Any) -> Any:
        if name.partition(".")[0] == "optuna":
            raise ImportError(name)
        return real(name, *arguments, **settings)

    for name in [name for name in sys.modules if name.partition(".")[0] == "optuna"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InvalidValue, match=r"pip install 'n2n\[optuna\]', or use --search random"):
        begin([])
